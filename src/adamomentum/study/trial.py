"""One training run, from its specification to its result. No store, no executor, no clock but its own."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from adamomentum.study import registry, tasks
from adamomentum.study.checkpoint import Checkpoints, Log
from adamomentum.study.diagnostics import diagnostics
from adamomentum.study.group import Group
from adamomentum.study.numbers import Number, number
from adamomentum.study.provenance import provenance
from adamomentum.study.spec import TrialSpec
from adamomentum.study.standing import Teller

if TYPE_CHECKING:
    import torch

    from adamomentum.study.tasks.base import Run, Whole

Status = Literal["ok", "diverged", "error"]


class TrialResult(BaseModel):
    """What came out of a trial.

    Attributes:
        status: ``diverged`` means a loss that is not finite, or an end that is worse than the beginning (each task
            says by how much): a result like any other. ``error`` means that the trial could not be run to its end.
        final: metrics at the last step, e.g. ``val_accuracy``; ``test_*`` only in the final stage, and there
            ``selected_step`` and ``selected_test_*`` too: the point of the curve with the best validation metric, and
            the test split at that step.
        curve: equally long lists: ``step``, ``train_loss`` (mean since the last point), ``val_*``.
        timing: ``ms_per_step`` (median over steps), ``train_seconds`` (evaluation is off the clock), ``seconds``, and
            ``started`` (since 1970), which tells which trials ran side by side.
        samples: a few outputs to look at, of the first final seed.
        provenance: versions and machine.
        error: the traceback of an ``error``; of the user's own training also why it is ``diverged``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status
    final: dict[str, Number] = {}
    curve: dict[str, list[Number]] = {}
    timing: dict[str, float] = {}
    samples: dict[str, Any] = {}
    provenance: dict[str, str] = {}
    error: str = ""

    @property
    def last_line(self) -> str:
        """What went wrong: the last line of the traceback."""
        return (self.error.strip().splitlines() or ["unknown error"])[-1]


def run_trial(
    spec: TrialSpec,
    data: Any,
    checkpoints: Checkpoints | None = None,
    files: Path | None = None,
    running: Path | None = None,
) -> TrialResult:
    """Trains and evaluates what ``spec`` describes on ``data``.

    On CPU the same spec and data give the same numbers bit for bit, timings aside, whether in one go or from a
    checkpoint.

    Args:
        spec: what to run.
        data: the data set that ``spec`` was planned for.
        checkpoints: where a long trial keeps its state; None: nowhere.
        files: where a training of the user's own has a folder for its files; None: in a temporary one.
        running: where the trial says now and then how far it is; None: nowhere.

    Raises:
        ValueError: if ``data`` is not what ``spec`` was planned for, or the task is unknown.
    """
    import torch

    from adamomentum.study.tasks.base import Whole

    if data.fingerprint != spec.task.data_fingerprint:
        raise ValueError(
            f"{data.describe()}: changed since the trial was planned (fingerprint {data.fingerprint}, the trial needs "
            f"{spec.task.data_fingerprint}); run the same command again"
        )
    family = tasks.family(spec.task.family)
    if spec.task.version != family.version:
        raise ValueError(f"{family.name} is at version {family.version}, the trial is of version {spec.task.version}")
    group = Group.of_this_process(spec)
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.num_threads)
    try:
        # Whoever calls keeps its random state; a worker does not hand one trial's on to the next.
        with (
            torch.random.fork_rng(devices=[group.device] if group.device.type == "cuda" else []),
            Teller(None if group.rank else running, spec.trial_id) as teller,
        ):
            task = tasks.task(spec.task.family)
            if isinstance(task, Whole):
                return _train_whole(task, spec, data, group, files, teller)
            return _train(spec, data, group, checkpoints, teller)
    finally:
        torch.set_num_threads(threads)


def set_up(spec: TrialSpec, data: Any, group: Group) -> tuple[Run, list[torch.optim.Optimizer]]:
    """Return the task set up for a trial, its weights drawn from the trial's seed, and the optimizers that it built."""
    import torch

    from adamomentum.study.tasks.base import Context, Task

    task = tasks.task(spec.task.family)
    assert isinstance(task, Task)
    assert spec.budget is not None
    optimizers: list[torch.optim.Optimizer] = []

    def build_optimizer(params: Iterable[Any]) -> torch.optim.Optimizer:
        optimizers.append(registry.build(spec.optimizer, params))
        return optimizers[-1]

    context = Context(
        data=data,
        params=spec.task.params,
        budget=spec.budget,
        device=group.device,
        seed=spec.seed,
        build_optimizer=build_optimizer,
        precision=spec.precision,
        rank=group.rank,
        world=group.world,
    )
    torch.manual_seed(spec.seed("init"))
    return task.setup(context), optimizers


def _train_whole(
    task: Whole, spec: TrialSpec, data: Any, group: Group, files: Path | None, teller: Teller
) -> TrialResult:
    from adamomentum.study.tasks.base import WholeContext

    optimizers: list[torch.optim.Optimizer] = []

    def build_optimizer(params: Iterable[Any]) -> torch.optim.Optimizer:
        optimizers.append(registry.build(spec.optimizer, params))
        return optimizers[-1]

    started, decay = time.time(), spec.optimizer.hyperparameters.get("weight_decay")
    outcome = task.train(
        WholeContext(
            data=data,
            lr=spec.optimizer.lr,
            weight_decay=decay if isinstance(decay, float) else 0.0,
            seed=spec.seed("init") % 2**32,
            stage=spec.stage,
            device=group.device,
            build_optimizer=build_optimizer,
            folder=None if files is None else files / spec.trial_id,
            rank=group.rank,
            world=group.world,
            teller=teller,
        )
    )
    return TrialResult(
        status="diverged" if outcome.diverged else "ok",
        final=outcome.final | diagnostics(optimizers, registry.eps_placement(spec.optimizer)),
        curve=outcome.curve,
        timing={**outcome.timing, "seconds": time.time() - started, "started": started},
        provenance=provenance(),
        error=outcome.diverged,
    )


def _train(spec: TrialSpec, data: Any, group: Group, checkpoints: Checkpoints | None, teller: Teller) -> TrialResult:
    import torch

    family = tasks.family(spec.task.family)

    def evaluate(split: str) -> dict[str, float]:
        if group.rank:
            return {}
        with torch.random.fork_rng(devices=[group.device] if group.device.type == "cuda" else []):
            torch.manual_seed(spec.seed(f"evaluate {split}"))
            return run.evaluate(split)

    assert spec.budget is not None
    assert spec.schedule is not None
    run, optimizers = set_up(spec, data, group)
    torch.manual_seed(spec.seed("noise" if group.rank == 0 else f"noise of rank {group.rank}"))
    total = run.total_steps
    points = {math.ceil(total * (k + 1) / spec.budget.evaluations) for k in range(spec.budget.evaluations)}
    kept = checkpoints.load(spec, run, group.rank) if checkpoints is not None else None
    log = kept or Log(untrained=evaluate("val"))
    broken = False
    while log.step < total and not broken:
        for optimizer in optimizers:
            for param_group in optimizer.param_groups:
                param_group["lr"] = spec.schedule.rate(log.step, total, spec.optimizer.lr)
        start = time.perf_counter()
        loss = run.step()
        log.seconds.append(time.perf_counter() - start)
        due = checkpoints is not None and checkpoints.due()
        loss, due = group.agree(loss, due)
        log.step += 1
        log.losses.append(loss)
        broken = not math.isfinite(loss)
        if log.step in points and not broken:
            log.add_point(evaluate("val"))
            if spec.stage == "final" and log.is_best(family.metric(family.curve)):
                log.selected = {"step": float(log.step)} | {f"test_{k}": v for k, v in evaluate("test").items()}
        teller.at(log.step, total, loss, lambda: log.curve)
        if due and not broken and log.step < total and checkpoints is not None:
            checkpoints.save(spec, run, log, group)
    if group.rank:
        return TrialResult(status="ok")
    # A run to the end has evaluated its last step for the curve. The test split is never read by a trial that serves to
    # choose.
    metrics = {"val": evaluate("val") if broken else dict(log.last)}
    if spec.stage == "final":
        metrics["test"] = evaluate("test")
    if not broken:
        for split in metrics:
            metrics[split] |= run.finish(split)
    final = {f"{split}_{name}": number(value) for split, values in metrics.items() for name, value in values.items()}
    final["train_loss"] = None if broken else statistics.fmean(log.losses[-max(1, total // 10) :])
    final |= {f"selected_{name}": number(value) for name, value in log.selected.items()}
    final |= diagnostics(optimizers, registry.eps_placement(spec.optimizer))
    lost = broken or any(not math.isfinite(value) for value in log.last.values())
    diverged = lost or run.diverged(log.untrained, final["train_loss"] or 0.0, metrics["val"])
    return TrialResult(
        status="diverged" if diverged else "ok",
        final=final,
        curve=log.curve,
        timing={
            "ms_per_step": 1e3 * statistics.median(log.seconds),
            "train_seconds": sum(log.seconds),
            "seconds": time.perf_counter() - log.started,
            "started": time.time() - (time.perf_counter() - log.started),
        },
        samples=run.samples() if spec.stage == "final" and spec.replicate == 0 and not broken else {},
        provenance=provenance(),
    )
