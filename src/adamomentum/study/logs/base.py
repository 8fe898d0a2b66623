"""The seam between a run and a package that shows learning curves.

Tested in tests/study/logs/test_follow.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from adamomentum.study.stages import Planned
from adamomentum.study.trial import TrialResult


class Log(Protocol):
    """The log of one trial."""

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point of the learning curve; steps rise."""

    def end(self, result: TrialResult) -> None:
        """Add what came out, and close the log."""

    def close(self) -> None:
        """Close the log of a trial that was interrupted."""


class Writer(Protocol):
    """Logs by one package.

    Attributes:
        folder: of the study's folder, where what is logged is taken down.
    """

    folder: Path

    def open(self, trial: Planned) -> Log:
        """Begin the log of a trial, or begin it anew if it was interrupted."""


def settings(trial: Planned) -> dict[str, str | float | bool]:
    """Return what tells a trial from others, as hyper-parameters of a log."""
    spec = trial.spec
    values: dict[str, str | float | bool] = {
        "task": trial.task,
        "optimizer": trial.optimizer,
        "role": trial.role,
        "replicate": float(spec.replicate),
        "lr": spec.optimizer.lr,
    }
    for name, value in spec.optimizer.hyperparameters.items():
        if value is None or isinstance(value, tuple):
            values[name] = str(value)
        else:
            values[name] = value
    return values


def final(result: TrialResult) -> dict[str, float]:
    """Return the metrics at the end that are finite."""
    return {name: value for name, value in result.final.items() if value is not None}
