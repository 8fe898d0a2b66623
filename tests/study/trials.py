"""Trials on tiny data of any family; what every family must be able to do is what `check_task` checks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from adamomentum.study import registry, tasks
from adamomentum.study.execute.group import run_in_group
from adamomentum.study.spec import Budget, ConstantSchedule, TaskSpec, TrialSpec
from adamomentum.study.trial import TrialResult, run_trial


def spec_of(family: str, data: Any, params: dict[str, Any], optimizer="adamw", lr=3e-3, **fields: Any) -> TrialSpec:
    task = TaskSpec(
        family=family, version=tasks.family(family).version, data_fingerprint=data.fingerprint, params=params
    )
    fields = {
        "stage": "final",
        "schedule": ConstantSchedule(name="constant"),
        "budget": Budget(steps=8, batch_size=8, evaluations=2),
        "replicate": 0,
        **fields,
    }
    return TrialSpec(task=task, optimizer=registry.get(optimizer).spec(lr), **fields)


def two_processes(spec: TrialSpec, data: Any) -> TrialResult:
    result = run_in_group(spec.model_copy(update={"processes": 2}), partial(run_trial, data=data))
    assert result.status != "error", result.error
    return result


def bfloat16_stays_near(spec: TrialSpec, data: Any, rel: float) -> None:
    full, half = run_trial(spec, data), run_trial(spec.model_copy(update={"precision": "bfloat16"}), data)
    assert half.status == full.status == "ok", half.error
    assert half.final["train_loss"] != full.final["train_loss"]
    assert half.final["train_loss"] == pytest.approx(full.final["train_loss"], rel=rel)
