from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adamomentum.study import registry
from adamomentum.study.spec import Budget, OptimizerSpec, CosineSchedule, TaskSpec, TrialSpec

scalars = st.one_of(st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8), st.none())
hyperparameters = st.dictionaries(st.text(min_size=1, max_size=8), scalars, max_size=6)


def spec(**changes) -> TrialSpec:
    fields = {
        "stage": "final",
        "task": TaskSpec(name="image-classification", version=1, data_fingerprint="0" * 16),
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


def test_golden_id() -> None:
    # Stored trials are found by this value: a change orphans every store out there.
    assert spec().trial_id == "128bd34eb52a069c"


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
        {"device_kind": "cuda"},
        {"schedule": CosineSchedule(warmup_fraction=0.2)},
        {"budget": Budget(epochs=9, evaluations=16)},
        {"task": TaskSpec(name="image-classification", version=1, data_fingerprint="1" * 16)},
        {"task": TaskSpec(name="image-classification", version=2, data_fingerprint="0" * 16)},
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
    factors = [schedule.factor(step, total) for step in range(total)]
    peak = factors.index(max(factors))
    assert max(factors) == 1
    assert min(factors) > 0
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


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
