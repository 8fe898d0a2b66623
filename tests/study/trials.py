"""Trials on tiny data of any family, and what every family must be able to do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from study.language_mini import CheckpointAt

from adamomentum.study import registry, tasks
from adamomentum.study.execute.group import run_in_group
from adamomentum.study.spec import Budget, ConstantSchedule, TaskSpec, TrialSpec
from adamomentum.study.trial import TrialResult, run_trial


def spec_of(family: str, data: Any, params: dict[str, Any], optimizer="adamw", lr=3e-3, **fields: Any) -> TrialSpec:
    task = TaskSpec(name=family, version=tasks.family(family).version, data_fingerprint=data.fingerprint, params=params)
    fields = {
        "stage": "final",
        "schedule": ConstantSchedule(name="constant"),
        "budget": Budget(steps=8, batch_size=8, evaluations=2),
        "replicate": 0,
        **fields,
    }
    return TrialSpec(task=task, optimizer=registry.get(optimizer).spec(lr), **fields)


def goes_on_bit_for_bit(spec: TrialSpec, data: Any, folder: Path, at: int) -> TrialResult:
    """Stops nobody: a second run from the checkpoint of step ``at`` must end as the first, undisturbed one."""
    whole = run_trial(spec, data)
    assert whole.status != "error", whole.error
    checkpoints = CheckpointAt(folder, at)
    assert run_trial(spec, data, checkpoints).final == whole.final
    torch.manual_seed(123)
    resumed = run_trial(spec, data, checkpoints)
    assert (folder / f"rank 0 from step {at}").exists()
    assert resumed.final == whole.final
    assert resumed.curve == whole.curve
    return whole


def two_processes(spec: TrialSpec, data: Any) -> TrialResult:
    result = run_in_group(spec.model_copy(update={"processes": 2}), partial(run_trial, data=data))
    assert result.status != "error", result.error
    return result


def bfloat16_stays_near(spec: TrialSpec, data: Any, rel: float) -> None:
    full, half = run_trial(spec, data), run_trial(spec.model_copy(update={"precision": "bfloat16"}), data)
    assert half.status == full.status == "ok", half.error
    assert half.final["train_loss"] != full.final["train_loss"]
    assert half.final["train_loss"] == pytest.approx(full.final["train_loss"], rel=rel)
