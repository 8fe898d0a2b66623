"""The state of a trial under way, so that a long one survives its process.

Tested in tests/study/test_engine.py.
"""

from __future__ import annotations

import statistics
import time
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from adamomentum.study.numbers import Number, number
from adamomentum.study.spec import TrialSpec

if TYPE_CHECKING:
    from adamomentum.study.group import Group
    from adamomentum.study.tasks import Metric
    from adamomentum.study.tasks.base import Run


@dataclass
class Log:
    """What a trial has seen so far.

    Attributes:
        untrained: validation metrics before the first step.
        step: updates made.
        losses: training loss of each step.
        seconds: duration of each step.
        last: validation metrics at the last point of the curve.
        curve: the learning curve.
        selected: the best point of the curve by validation, and the test metrics there; ``_train`` fills it.
        seen: losses that the curve has used up.
        started: when the trial began, on this process's clock.
    """

    untrained: dict[str, float]
    step: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)
    curve: dict[str, list[Number]] = field(default_factory=lambda: {"step": [], "train_loss": []})
    selected: dict[str, float] = field(default_factory=dict)
    seen: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add_point(self, metrics: dict[str, float]) -> None:
        """Add a point to the curve: validation ``metrics`` and the mean training loss since the last one."""
        self.last = metrics
        self.curve["step"].append(self.step)
        self.curve["train_loss"].append(number(statistics.fmean(self.losses[self.seen :])))
        self.seen = len(self.losses)
        for name, value in metrics.items():
            self.curve.setdefault(f"val_{name}", []).append(number(value))

    def is_best(self, metric: Metric) -> bool:
        """Says whether the last point of the curve is the only one so far with so good a validation ``metric``.

        Never on a process that does not evaluate: its curve has none.
        """
        *before, last = self.curve.get(f"val_{metric.key}", [None])
        return last is not None and all(value is None or metric.cost(last) < metric.cost(value) for value in before)


class Checkpoints:
    """Checkpoints of trials in ``folder``, the latest of each only; whoever stores the result discards them.

    Args:
        folder: where; several machines that take over each other's trials must share it.
        seconds: time between two checkpoints of a trial; one that is done sooner writes none.
    """

    def __init__(self, folder: Path, seconds: float = 300.0) -> None:
        self.folder = folder
        self._seconds = seconds
        self._saved = time.monotonic()

    def path(self, spec: TrialSpec) -> Path:
        """Where the checkpoint of ``spec`` lies."""
        return self.folder / f"{spec.trial_id}.pt"

    def discard(self, spec: TrialSpec) -> None:
        """Remove the checkpoint of ``spec`` if there is one."""
        self.path(spec).unlink(missing_ok=True)

    def due(self) -> bool:
        """Says whether the last checkpoint is old enough for a new one."""
        return time.monotonic() - self._saved >= self._seconds

    def save(self, spec: TrialSpec, run: Run, log: Log, group: Group) -> None:
        """Write the state of ``run`` and ``log``; the file holds either the old or the new state."""
        import torch

        noise = torch.get_rng_state() if group.device.type != "cuda" else torch.cuda.get_rng_state(group.device)
        noises = group.gather(noise)
        own = group.gather({name: part.state_dict() for name, part in run.own_parts().items()})
        self._saved = time.monotonic()
        if group.rank:
            return
        state = {
            "spec": spec.canonical(),
            "log": {**asdict(log), "started": time.perf_counter() - log.started},
            "noise": noises,
            "parts": {name: part.state_dict() for name, part in run.parts().items()},
            "own_parts": own,
        }
        path = self.path(spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
        try:
            torch.save(state, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, spec: TrialSpec, run: Run, rank: int = 0) -> Log | None:
        """Put ``run`` where its checkpoint left it and return the log, or None if there is no checkpoint."""
        import torch

        self._saved = time.monotonic()
        path = self.path(spec)
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            same_form = state["log"].keys() == {f.name for f in fields(Log)} and "own_parts" in state
            if state["spec"] != spec.canonical() or not same_form:
                raise ValueError("it is of another trial or version")
        except Exception as error:
            # torch.load raises many types for a broken file; starting over costs time, nothing else.
            warnings.warn(f"{path} is not usable ({error}); the trial starts over", stacklevel=2)
            return None
        for name, part in run.parts().items():
            part.load_state_dict(state["parts"][name])
        for name, part in run.own_parts().items():
            part.load_state_dict(state["own_parts"][rank][name])
        noise: Any = state["noise"][rank]
        if torch.cuda.is_available() and spec.device_kind == "cuda":
            torch.cuda.set_rng_state(noise)
        else:
            torch.set_rng_state(noise)
        log = Log(**state["log"])
        log.started = time.perf_counter() - log.started
        return log
