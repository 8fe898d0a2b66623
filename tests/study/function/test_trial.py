"""The trial that a training function is called with: optimizer, reports, steps."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from adamomentum.study import registry
from adamomentum.study.tasks.base import WholeContext
from adamomentum.study.tasks.function.trial import Ended, Relative, Trial
from adamomentum.torch import param_groups


def trial_of(lr=0.01, optimizer="adamw", **fields) -> Trial:
    spec = registry.get(optimizer).spec(lr)
    fields = {"stage": "tune", "device": torch.device("cpu"), **fields}
    decay = spec.hyperparameters.get("weight_decay", 0.0)
    return Trial(
        WholeContext(
            data=None, lr=lr, weight_decay=decay, seed=5, build_optimizer=lambda p: registry.build(spec, p), **fields
        )
    )


def params(count=1) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2)) for _ in range(count)]


def step(optimizer) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()


def test_the_optimizer_has_the_trials_settings() -> None:
    trial = trial_of(0.02)
    optimizer = trial.optimizer(nn.Linear(2, 2).parameters())
    assert type(optimizer) is torch.optim.AdamW
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.02, 0.01)]
    assert trial_of(0.02, "adamomentum").optimizer(params()).param_groups[0]["weight_decay"] == 0.0436


@pytest.mark.parametrize("name", registry.OPTIMIZERS)
def test_groups_are_relative_to_the_trial(name) -> None:
    trial = trial_of(0.02, name)
    a, b, c, d = params(4)
    optimizer = trial.optimizer(
        [
            {"params": [a]},
            {"params": [b], "lr": trial.lr * 0.1, "weight_decay": 0},
            {"params": [c], "lr": 2 * trial.lr / 4, "weight_decay_factor": 3.0},
            {"params": [d], "lr_factor": 0.25, "name": "head"},
        ]
    )
    decay = optimizer.defaults["weight_decay"]
    groups = optimizer.param_groups
    assert [g["lr"] for g in groups] == [pytest.approx(0.02 * f) for f in (1, 0.1, 0.5, 0.25)]
    assert all(type(g["lr"]) is float for g in groups)
    assert [g["weight_decay"] for g in groups] == [decay, 0, pytest.approx(3 * decay), decay]
    assert groups[3]["name"] == "head"
    assert not {"lr_factor", "weight_decay_factor"} & {key for g in groups for key in g}
    with trial:
        step(optimizer)
    assert trial.step == 1


def test_decay_by_the_librarys_groups() -> None:
    trial, model = trial_of(0.02, "adamomentum"), nn.Linear(2, 2)
    optimizer = trial.optimizer(param_groups(model, weight_decay=trial.weight_decay))
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0436, 0]
    assert {type(g["weight_decay"]) for g in optimizer.param_groups} == {float}
    with pytest.raises(ValueError, match=r"a group has weight_decay=0.1 of its own"):
        trial.optimizer(param_groups(model, weight_decay=0.1))


def test_a_group_that_is_added_later_is_seen_by_its_rate() -> None:
    with trial_of(0.02) as trial:
        optimizer = trial.optimizer(params())
        optimizer.add_param_group({"params": params(), "lr": 1e-3})
        step(optimizer)
    assert (trial.numbers["peak_lr_low"], trial.numbers["peak_lr_high"]) == (1e-3, 0.02)


def test_named_parameters_are_taken() -> None:
    optimizer = trial_of().optimizer(nn.Linear(2, 2).named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"lr": 1e-3}, r'a group has lr=0.001 of its own.*: "lr": trial.lr \* 0.1, or "lr_factor": 0.1'),
        ({"weight_decay": 0.1}, r"a group has weight_decay=0.1 of its own, which decays differently"),
        ({"eps": 1e-6}, r"a group has eps=1e-06 of its own, which differs in kind"),
        ({"lr_factor": -1}, r"lr_factor of a group must be a number from 0, got -1"),
        ({"weight_decay_factor": "2"}, r"weight_decay_factor of a group must be a number from 0, got '2'"),
    ],
)
def test_what_would_escape_the_comparison_is_refused(group, message) -> None:
    with pytest.raises(ValueError, match=message):
        trial_of().optimizer([{"params": params(), **group}])


def test_settings_of_ones_own_are_refused_with_what_to_do() -> None:
    said = r"takes parameters, or groups of them, and got {} too: leave it out.* go into --incumbent, e.g. adamw:lr="
    with pytest.raises(TypeError, match=said.format(r"lr=0.001, betas=\(0.9, 0.95\)")):
        trial_of().optimizer(params(), lr=1e-3, betas=(0.9, 0.95))
    with pytest.raises(TypeError, match=said.format("0.001")):
        trial_of().optimizer(params(), 1e-3)
    with pytest.raises(TypeError, match=r"takes parameters, got a Sequential: give it .parameters\(\) of that"):
        trial_of().optimizer(nn.Sequential(nn.Linear(2, 2)))


def test_no_parameters() -> None:
    with pytest.raises(ValueError, match=r"trial.optimizer got no parameters; give it model.parameters"):
        trial_of().optimizer([])


def test_the_rate_stays_the_trials_through_products_alone() -> None:
    rate = Relative(0.01)
    for product in (rate * 2, 2 * rate, rate / 2, rate * np.float64(0.5)):
        assert isinstance(product, Relative)
    assert rate * 2 == 0.02
    assert not isinstance(rate + 0.1, Relative)
    assert type(copy.deepcopy(rate)) is type(pickle.loads(pickle.dumps(rate))) is float
    with pytest.raises(TypeError):
        rate * None


def test_points_of_the_curve() -> None:
    with trial_of() as trial:
        optimizer = trial.optimizer(params())
        trial.report(loss=torch.tensor(3.0))
        step(optimizer)
        step(optimizer)
        trial.report(loss=np.float32(2.0))
        trial.report(accuracy=np.array([0.5]), train_loss=1)  # the same point
        step(optimizer)
        trial.report(loss=1)
    assert trial.curve == {
        "step": [0.0, 2.0, 3.0],
        "train_loss": [None, 1.0, None],
        "val_loss": [3.0, 2.0, 1.0],
        "val_accuracy": [None, 0.5, None],
    }
    assert trial.last == {"val_loss": 1.0, "val_accuracy": 0.5, "train_loss": 1.0}
    assert trial.numbers == {
        "steps": 3.0,
        "peak_lr_low": 0.01,
        "peak_lr_high": 0.01,
        "steps_of_others": 0.0,
        "changed_betas": 0.0,
        "changed_eps": 0.0,
        "changed_weight_decay": 0.0,
    }


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ({}, ValueError, r"trial.report needs a metric, e.g. trial.report\(loss=val_loss\)"),
        ({"test_loss": 1.0}, ValueError, r"trial.report\(test_loss=...\): what is reported chooses settings"),
        ({"loss": "1"}, TypeError, r"trial.report\(loss=...\) must be a number, got str: '1'"),
        ({"loss": [1.0]}, TypeError, r"trial.report\(loss=...\) must be a number, got list"),
        ({"loss": torch.ones(2)}, TypeError, r"trial.report\(loss=...\) must be a number, got Tensor"),
        ({"loss": None}, TypeError, r"must be a number, got NoneType"),
    ],
)
def test_what_cannot_be_reported(metrics, error, message) -> None:
    with pytest.raises(error, match=message):
        trial_of().report(**metrics)


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(-math.inf)])
def test_a_value_that_is_not_finite_ends_the_trial_and_nothing_stops_that(value) -> None:
    trial = trial_of()
    with pytest.raises(Ended, match=r"trial.report\(loss=-?(nan|inf)\) at step 0"):
        try:
            trial.report(loss=value, accuracy=0.5)
        except Exception:
            pytest.fail("users' code must not catch it by accident")
    assert trial.last == {"val_loss": None, "val_accuracy": 0.5}


def test_too_many_points() -> None:
    trial = trial_of()
    with pytest.raises(ValueError, match=r"trial.report was called at 10,000 steps; call it where you evaluate"):
        for k in range(20_000):
            trial.at(k)
            trial.report(loss=1.0)


def test_steps_are_counted_by_the_first_that_makes_them() -> None:
    with trial_of() as trial:
        generator, critic = trial.optimizer(params()), trial.optimizer(params())
        for _ in range(3):
            step(critic)
            step(critic)
            step(generator)
    assert trial.step == 6  # of the one that makes most
    before = trial.step
    step(generator)
    assert trial.step == before  # nothing is counted when the trial is over


def test_steps_can_be_said() -> None:
    trial = trial_of()
    trial.at(10)
    trial.report(loss=1.0)
    trial.at(20)
    assert (trial.step, trial.curve["step"]) == (20, [10.0])
    with pytest.raises(ValueError, match=r"trial.at\(5\): the trial is at step 20 already"):
        trial.at(5)


def test_the_peak_of_the_rate_is_taken_by_each_groups_factor() -> None:
    with trial_of(0.1) as trial:
        a, b = params(2)
        optimizer = trial.optimizer([{"params": [a]}, {"params": [b], "lr_factor": 0.1}])
        for scale in (0.5, 2.0, 1.0):
            for group, rate in zip(optimizer.param_groups, (0.1, 0.01), strict=True):
                group["lr"] = rate * scale
            step(optimizer)
        assert trial.numbers["peak_lr_low"] == pytest.approx(0.2)
        assert trial.numbers["peak_lr_high"] == pytest.approx(0.2)
        optimizer.param_groups[1]["lr"] = 1.0
        step(optimizer)
    assert trial.numbers["peak_lr_low"] == pytest.approx(0.2)
    assert trial.numbers["peak_lr_high"] == pytest.approx(10)


def changed_in(trial: Trial) -> dict[str, float]:
    return {name.removeprefix("changed_"): value for name, value in trial.numbers.items() if "changed_" in name}


@pytest.mark.parametrize("name", ["adamw", "adamomentum", "sgdm"])
def test_steps_at_other_settings_than_the_trials_are_counted(name) -> None:
    key = "momentum" if name == "sgdm" else "betas"
    with trial_of(optimizer=name) as trial:
        optimizer = trial.optimizer([{"params": params()}, {"params": params(), "weight_decay": 0}])
        step(optimizer)
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.param_groups[0]["betas"] = list(optimizer.param_groups[0].get("betas", ()))  # as JSON gives them back
        step(optimizer)
        assert not any(changed_in(trial).values())
        optimizer.param_groups[1][key] = 0.5 if key == "momentum" else (0.8, 0.99)
        step(optimizer)
        step(optimizer)
        optimizer.param_groups[1]["weight_decay"] = 0.1
        step(optimizer)
    eps = {} if name == "sgdm" else {"eps": 0.0}
    assert changed_in(trial) == {"betas": 3.0, "weight_decay": 1.0, **eps}


def test_a_group_with_settings_of_its_own_is_counted() -> None:
    with trial_of() as trial:
        optimizer = trial.optimizer([{"params": params(), "betas": (0.8, 0.99)}])
        step(optimizer)
    assert changed_in(trial) == {"betas": 1.0, "eps": 0.0, "weight_decay": 0.0}


def test_steps_of_other_optimizers_are_noticed() -> None:
    with trial_of() as trial:
        mine, other = trial.optimizer(params()), torch.optim.SGD(params(), 0.1)
        step(mine)
        step(other)
        step(other)
    assert (trial.step, trial.numbers["steps_of_others"]) == (1, 2.0)


def test_a_folder(tmp_path) -> None:
    with trial_of(folder=tmp_path / "files" / "id") as trial:
        (trial.folder / "model.pt").write_text("x")
    assert (tmp_path / "files" / "id" / "model.pt").exists()
    with trial_of() as trial:
        there = trial.folder
        assert there.is_dir()
    assert not there.exists()


def test_is_it_broken() -> None:
    trial = trial_of()
    [p] = params()
    trial.optimizer([p])
    assert not trial.broken()
    p.grad = torch.tensor([1.0, math.nan])
    assert trial.broken()
    p.grad = None
    p.data[0] = math.inf
    assert trial.broken()


def test_what_it_knows() -> None:
    trial = trial_of(rank=1, world=2)
    assert (trial.seed, trial.device, trial.lr, trial.rank, trial.world) == (5, torch.device("cpu"), 0.01, 1, 2)
    trial.report(loss=math.nan)  # others train with it: they would wait for ever
    trial.report(loss=math.inf)
    assert trial.lost == "trial.report(loss=nan) at step 0"
