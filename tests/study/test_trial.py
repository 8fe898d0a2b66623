from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import pytest
import torch

from adamomentum.study.execute.local import LocalExecutor
from adamomentum.study.tasks.vision.models import small_resnet
from adamomentum.study.trial import run_trial


def test_the_network_is_the_one_described() -> None:
    assert sum(p.numel() for p in small_resnet(1, 10).parameters()) == 77_754


@pytest.mark.parametrize("name", ["adamomentum", "adamw", "adam", "sgdm"])
def test_every_optimizer_learns(name, make_spec, tiny_data) -> None:
    from adamomentum.study import registry

    result = run_trial(make_spec(name, registry.get(name).lr_centre, epochs=5), tiny_data)
    assert result.status == "ok"
    assert result.curve["train_loss"][-1] < 0.7 * math.log(3)
    expected = {"val_loss", "val_accuracy", "test_loss", "test_accuracy", "train_loss"}
    assert {name for name in result.final if not name.startswith("selected_")} - {"eps_dominated"} == expected
    assert result.curve["step"] == [10, 20]
    assert {len(values) for values in result.curve.values()} == {2}
    assert result.timing["ms_per_step"] > 0


def test_tuning_never_sees_the_test_split(make_spec, tiny_data) -> None:
    result = run_trial(make_spec(stage="tune"), tiny_data)
    assert not any("test" in key for key in result.final | result.curve)


@pytest.mark.parametrize("lr", [3e-3, 3e-2, 0.3])
def test_the_test_split_at_the_best_point_by_validation(make_spec, tiny_data, lr) -> None:
    result = run_trial(make_spec(lr=lr, epochs=3), tiny_data)
    losses = result.curve["val_loss"]
    best = losses.index(min(losses))
    assert result.final["selected_step"] == result.curve["step"][best]
    names = {name for name in result.final if name.startswith("test_")}
    assert {f"selected_{name}" for name in names} | {"selected_step"} == {
        name for name in result.final if name.startswith("selected_")
    }
    if best == len(losses) - 1:
        assert all(result.final[f"selected_{name}"] == result.final[name] for name in names)
    else:
        assert result.final["selected_test_loss"] != result.final["test_loss"]


def test_same_spec_same_bits_in_another_process(make_spec, tiny_data) -> None:
    spec = make_spec("adamomentum", 2e-3)
    here = run_trial(spec, tiny_data)
    torch.manual_seed(99)  # a trial must not depend on the global generator
    again = run_trial(spec, tiny_data)
    with LocalExecutor(tiny_data, workers=1) as executor:
        [(_, there)] = executor.run([spec])
    assert here.final == again.final == there.final
    assert here.curve == again.curve == there.curve


def test_nothing_global_is_left_changed(make_spec, tiny_data) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_trial(make_spec(), tiny_data)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("replicate", range(6))
def test_a_run_that_does_not_move_has_not_diverged(make_spec, tiny_data, replicate) -> None:
    assert run_trial(make_spec("adamw", 1e-12, replicate=replicate), tiny_data).status == "ok"


def test_a_finite_loss_far_above_the_start_has_diverged(make_spec, tiny_data) -> None:
    result = run_trial(make_spec("sgdm", 10.0, stage="tune"), tiny_data)
    assert result.final["train_loss"] is not None
    assert result.status == "diverged"


def test_replicates_differ_and_optimizers_share_their_start(make_spec, tiny_data) -> None:
    # With a vanishing learning rate all that is left is initial weights and order.
    first = run_trial(make_spec("adamw", 1e-12), tiny_data)
    other = run_trial(make_spec("sgdm", 1e-12), tiny_data)
    fresh = run_trial(make_spec("adamw", 1e-12, replicate=1), tiny_data)
    assert first.curve["train_loss"] == pytest.approx(other.curve["train_loss"], rel=1e-6)
    assert first.curve["train_loss"] != pytest.approx(fresh.curve["train_loss"], rel=1e-3)


def test_divergence_is_a_result(make_spec, tiny_data) -> None:
    spec = make_spec("sgdm", 1e30, stage="tune")
    result = run_trial(spec, tiny_data)
    assert result.status == "diverged"
    assert result.final["val_loss"] is None
    assert result.final["val_accuracy"] == pytest.approx(1 / 3)
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


def test_wrong_data_is_refused(make_spec, tiny_data) -> None:
    other = dataclasses.replace(tiny_data, y=dict(tiny_data.y, test=tiny_data.y["test"][::-1].copy()))
    with pytest.raises(ValueError, match=other.fingerprint):
        run_trial(make_spec(), other)


def test_an_unknown_task_is_refused(make_spec, tiny_data) -> None:
    spec = make_spec()
    unknown = spec.model_copy(update={"task": spec.task.model_copy(update={"version": 99})})
    with pytest.raises(ValueError, match="at version 2, the trial is of version 99"):
        run_trial(unknown, tiny_data)


def test_fewer_images_than_a_batch(make_spec, tiny_data) -> None:
    spec = make_spec()
    wide = spec.model_copy(update={"budget": spec.budget.model_copy(update={"batch_size": 1000})})
    assert run_trial(wide, tiny_data).curve["step"] == [1, 2]


def test_a_trial_says_where_and_when_it_ran(make_spec, tiny_data) -> None:
    before = time.time()
    result = run_trial(make_spec(), tiny_data)
    assert before - 1 < result.timing["started"] < time.time() + 1 - result.timing["seconds"]
    model = result.provenance.get("cpu model", "")
    if Path("/proc/cpuinfo").is_file() and "model name" in Path("/proc/cpuinfo").read_text():
        assert model
        assert model in Path("/proc/cpuinfo").read_text()
    assert "" not in result.provenance.values()
