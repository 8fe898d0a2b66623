"""One training run, from its specification to its result. No store, no executor, no clock but its own."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from adamomentum.study import registry
from adamomentum.study.spec import TrialSpec
from adamomentum.study.tasks.base import Context, Task

Number = float | None
"""A metric; None stands for a value that is not finite, which JSON cannot hold."""

Status = Literal["ok", "diverged", "error"]

DIVERGED = 1.5
"""A final training loss above so many times the untrained network's is a divergence."""


class TrialResult(BaseModel):
    """What came out of a trial.

    Attributes:
        status: ``diverged`` means a loss that is not finite, or a final training loss above 1.5 times that of
            the untrained network: a result like any other. ``error`` means that the trial could not be run to its end.
        final: metrics at the last step, e.g. ``val_accuracy``; ``test_*`` only in the final stage.
        curve: equally long lists: ``step``, ``train_loss`` (mean since the last point), ``val_*``.
        timing: ``ms_per_step`` (median over steps), ``train_seconds``; evaluation is off the clock.
        provenance: versions and machine.
        error: the traceback of an ``error``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status
    final: dict[str, Number] = {}
    curve: dict[str, list[Number]] = {}
    timing: dict[str, float] = {}
    provenance: dict[str, str] = {}
    error: str = ""


def task_of(spec: TrialSpec) -> Task:
    """Returns the task that ``spec`` names.

    Raises:
        ValueError: if this version of the library has no such task.
    """
    from adamomentum.study.tasks.vision import ImageClassification

    task = ImageClassification()
    if (spec.task.name, spec.task.version) != (task.name, task.version):
        raise ValueError(f"unknown task {spec.task.name!r} version {spec.task.version}")
    return task


def run_trial(spec: TrialSpec, data: Any) -> TrialResult:
    """Trains and evaluates what ``spec`` describes on ``data``.

    On CPU the same spec and data give the same numbers bit for bit, timings aside.

    Raises:
        ValueError: if ``data`` is not what ``spec`` was planned for, or the task is unknown.
    """
    import torch

    if data.fingerprint != spec.task.data_fingerprint:
        raise ValueError(f"data has fingerprint {data.fingerprint}, the trial needs {spec.task.data_fingerprint}")
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.num_threads)
    try:
        return _train(spec, data)
    finally:
        torch.set_num_threads(threads)


def _train(spec: TrialSpec, data: Any) -> TrialResult:
    import torch

    optimizers: list[torch.optim.Optimizer] = []

    def make_optimizer(params: Iterable[Any]) -> torch.optim.Optimizer:
        optimizers.append(registry.build(spec.optimizer, params))
        return optimizers[-1]

    run = task_of(spec).setup(
        Context(
            data=data,
            budget=spec.budget,
            device=torch.device(spec.device_kind),
            seed=spec.seed,
            make_optimizer=make_optimizer,
        )
    )
    untrained_loss = run.evaluate("val")["loss"]
    total = run.total_steps
    points = {math.ceil(total * (k + 1) / spec.budget.evaluations) for k in range(spec.budget.evaluations)}
    losses: list[float] = []
    seconds: list[float] = []
    curve: dict[str, list[Number]] = {"step": [], "train_loss": []}
    seen = 0
    diverged = False
    for step in range(total):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = spec.optimizer.lr * spec.schedule.factor(step, total)
        start = time.perf_counter()
        loss = run.step()
        seconds.append(time.perf_counter() - start)
        losses.append(loss)
        if not math.isfinite(loss):
            diverged = True
            break
        if step + 1 in points:
            curve["step"].append(step + 1)
            curve["train_loss"].append(statistics.fmean(losses[seen:]))
            seen = step + 1
            for name, value in run.evaluate("val").items():
                curve.setdefault(f"val_{name}", []).append(_number(value))
    # The test split is read here and nowhere else, and never by a trial that serves to choose.
    final: dict[str, Number] = {}
    for split in ("val", "test") if spec.stage == "final" else ("val",):
        final |= {f"{split}_{name}": _number(value) for name, value in run.evaluate(split).items()}
    final["train_loss"] = None if diverged else statistics.fmean(losses[-max(1, total // 10) :])
    # Against the whole validation split before the first step: the first batch's own loss is too noisy to judge by.
    diverged = diverged or final["val_loss"] is None or (final["train_loss"] or 0.0) > DIVERGED * untrained_loss
    return TrialResult(
        status="diverged" if diverged else "ok",
        final=final,
        curve=curve,
        timing={"ms_per_step": 1e3 * statistics.median(seconds), "train_seconds": sum(seconds)},
        provenance=provenance(),
    )


def provenance() -> dict[str, str]:
    """Returns versions and machine, for the record; they do not name the trial."""
    from importlib.metadata import PackageNotFoundError, version

    import numpy
    import torch

    try:
        own = version("adamomentum")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "adamomentum": own,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _number(value: float) -> Number:
    return value if math.isfinite(value) else None
