from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adamomentum.study import registry
from adamomentum.study.spec import (
    Budget,
    ConstantSchedule,
    CosineSchedule,
    InverseSqrtSchedule,
    OptimizerSpec,
    StepSchedule,
    TaskSpec,
    TrialSpec,
)

scalars = st.one_of(st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8), st.none())
hyperparameters = st.dictionaries(st.text(min_size=1, max_size=8), scalars, max_size=6)


def spec(**changes) -> TrialSpec:
    fields = {
        "stage": "final",
        "task": TaskSpec(family="image-classification", version=1, data_fingerprint="0" * 16),
        "optimizer": OptimizerSpec(name="adamw", lr=0.01, hyperparameters={"betas": (0.9, 0.999), "eps": 1e-8}),
        "budget": Budget(epochs=8, evaluations=16),
        "replicate": 0,
    }
    return TrialSpec(**(fields | changes))


def optimizer(**values) -> OptimizerSpec:
    return OptimizerSpec(name="adamw", lr=0.01, hyperparameters=values)


@given(hyperparameters)
def test_id_does_not_depend_on_the_order_of_keys(values) -> None:
    backwards = dict(reversed(values.items()))
    first = spec(optimizer=OptimizerSpec(name="x", lr=1, hyperparameters=values))
    second = spec(optimizer=OptimizerSpec(name="x", lr=1, hyperparameters=backwards))
    assert first.trial_id == second.trial_id


@given(hyperparameters)
def test_a_spec_survives_json(values) -> None:
    first = spec(optimizer=OptimizerSpec(name="x", lr=1, hyperparameters=values))
    again = TrialSpec.model_validate(json.loads(first.model_dump_json()))
    assert again == first
    assert again.trial_id == first.trial_id


def test_a_copy_has_an_id_of_its_own() -> None:
    first = spec()
    assert first.trial_id == first.model_copy().trial_id
    assert first.model_copy(update={"replicate": 7}).trial_id == spec(replicate=7).trial_id != first.trial_id


def test_golden_id() -> None:
    # Stored trials are found by this value: a change orphans every store out there.
    assert spec().trial_id == "6f140d2945d47cab"


def test_equal_numbers_give_equal_ids() -> None:
    assert spec(optimizer=optimizer(a=1)).trial_id == spec(optimizer=optimizer(a=1.0)).trial_id
    assert spec(optimizer=optimizer(a=0.0)).trial_id == spec(optimizer=optimizer(a=-0.0)).trial_id
    assert spec(optimizer=optimizer(a=True)).trial_id != spec(optimizer=optimizer(a=1)).trial_id


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "tune"},
        {"replicate": 1},
        {"num_threads": 2},
        {"processes": 2},
        {"precision": "bfloat16"},
        {"device_kind": "cuda"},
        {"schedule": CosineSchedule(warmup_fraction=0.2)},
        {"budget": Budget(epochs=9, evaluations=16)},
        {"task": TaskSpec(family="image-classification", version=1, data_fingerprint="1" * 16)},
        {"task": TaskSpec(family="image-classification", version=2, data_fingerprint="0" * 16)},
        {"optimizer": OptimizerSpec(name="adamw", lr=0.011, hyperparameters={"eps": 1e-8})},
    ],
)
def test_whatever_changes_training_changes_the_id(change) -> None:
    assert spec(**change).trial_id != spec().trial_id


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_number_that_is_not_finite(bad) -> None:
    with pytest.raises(ValidationError, match="finite"):
        optimizer(a=bad)
    with pytest.raises(ValidationError, match="finite"):
        optimizer(a=(0.9, bad))
    with pytest.raises(ValidationError):
        OptimizerSpec(name="adamw", lr=bad, hyperparameters={})


def test_a_spec_is_frozen_and_knows_its_fields() -> None:
    with pytest.raises(ValidationError):
        spec().replicate = 3
    with pytest.raises(ValidationError):
        spec(path="/tmp/x")


def test_seeds_ignore_the_optimizer_and_tell_everything_else_apart() -> None:
    other = spec(optimizer=registry.get("sgdm").spec(0.1))
    assert other.seed("init") == spec().seed("init")
    seeds = [
        spec().seed("init"),
        spec().seed("order"),
        spec(replicate=1).seed("init"),
        spec(stage="tune").seed("init"),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.integers(1, 500), st.sampled_from([0.0, 0.1, 0.5]))
def test_schedule_rises_to_one_then_falls_and_never_stops(total, warmup) -> None:
    schedule = CosineSchedule(warmup_fraction=warmup)
    factors = [schedule.rate(step, total, 1.0) for step in range(total)]
    peak = factors.index(max(factors))
    assert max(factors) == 1
    assert min(factors) > 0
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_cosine_scales_with_the_peak() -> None:
    schedule = CosineSchedule()
    assert [schedule.rate(k, 20, 0.5) for k in range(20)] == [0.5 * schedule.rate(k, 20, 1.0) for k in range(20)]


def test_cosine_may_end_above_0_and_says_nothing_of_a_floor_that_it_lacks() -> None:
    schedule = CosineSchedule(floor=0.1)
    rates = [schedule.rate(k, 1200, 0.5) for k in range(1200)]
    assert max(rates) == 0.5
    assert rates[-1] == pytest.approx(0.05, rel=1e-4)
    assert schedule.model_dump()["floor"] == 0.1
    assert "floor" not in CosineSchedule().model_dump()


def test_constant_schedule_with_and_without_warmup() -> None:
    assert {ConstantSchedule(name="constant").rate(k, 10, 0.3) for k in range(10)} == {0.3}
    rates = [ConstantSchedule(name="constant", warmup_fraction=0.4).rate(k, 10, 1.0) for k in range(10)]
    assert rates == [0.25, 0.5, 0.75] + [1.0] * 7


def test_step_schedule_drops_at_its_milestones() -> None:
    schedule = StepSchedule(name="step", milestones=(60 / 200, 120 / 200, 160 / 200), factor=0.2)
    rates = [schedule.rate(k, 200, 1.0) for k in range(200)]
    assert rates[59] == 1.0
    assert rates[60] == pytest.approx(0.2)
    assert rates[120] == pytest.approx(0.04)
    assert rates[199] == pytest.approx(0.008)


def test_inverse_sqrt_schedule_is_that_of_the_translation_runs() -> None:
    schedule = InverseSqrtSchedule(name="inverse_sqrt", warmup_steps=8000, start=1e-7, floor=1e-9)
    rate = lambda step: schedule.rate(step, 200_000, 5e-4)
    assert rate(0) == pytest.approx(1e-7 + (5e-4 - 1e-7) / 8000)
    assert rate(7999) == pytest.approx(5e-4)
    assert rate(4 * 8000 - 1) == pytest.approx(2.5e-4)
    assert schedule.rate(10**17, 10**18, 5e-4) == 1e-9
    # A short run keeps the shape.
    assert max(range(100), key=lambda k: schedule.rate(k, 100, 1.0)) == 9


def test_a_budget_has_one_length() -> None:
    assert Budget(steps=7).total_steps(100) == 7
    assert Budget(epochs=3).total_steps(100) == 300
    for wrong in ({}, {"steps": 3, "epochs": 3}):
        with pytest.raises(ValidationError, match="either epochs or steps"):
            Budget(**wrong)


def test_registry_resolves_everything_that_torch_would_default() -> None:
    # A hyper-parameter left to the installed torch would not be part of the trial's identity.
    import inspect

    import torch

    implementation_only = {"self", "params", "lr", "foreach", "fused", "capturable", "differentiable"}
    classes = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgdm": torch.optim.SGD}
    for name, cls in classes.items():
        options = set(inspect.signature(cls.__init__).parameters) - implementation_only - {"maximize"}
        options -= {"decoupled_weight_decay"} if name == "adam" else set()
        assert options == set(registry.get(name).hyperparameters), name


def test_grids_are_equally_long_half_decade_steps_on_the_declared_scales() -> None:
    for entry in registry.OPTIMIZERS.values():
        grid = entry.lr_grid()
        assert len(grid) == len(registry.GRID_HALF_DECADES)
        assert grid[len(grid) // 2] == pytest.approx(entry.lr_centre, rel=0.05)
        for low, high in itertools.pairwise(grid):
            assert math.log10(high / low) == pytest.approx(0.5, abs=0.03)


def test_decoupled_decay_is_equal_at_the_centres_of_the_grids() -> None:
    rates = [
        entry.lr_centre * entry.hyperparameters["weight_decay"] for entry in map(registry.get, ("adamomentum", "adamw"))
    ]
    assert rates[0] == pytest.approx(rates[1], rel=1e-3)


def test_the_family_is_called_name_where_a_trial_is_written() -> None:
    task = TaskSpec(family="image-classification", version=1, data_fingerprint="0" * 16)
    written = task.model_dump(mode="json")
    assert written == {"name": "image-classification", "version": 1, "data_fingerprint": "0" * 16, "params": {}}
    assert TaskSpec.model_validate(written) == task
