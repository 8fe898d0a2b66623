"""How a learning rate is chosen: by validation alone, with a flag where the grid was too narrow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from adamomentum.study.spec import TrialSpec
from adamomentum.study.trial import TrialResult


@dataclass(frozen=True)
class Choice:
    """The learning rate chosen for one optimizer.

    Attributes:
        lr: the chosen peak learning rate.
        edge: it is the smallest or largest of its grid, so a better one may lie outside.
        scores: mean final validation loss by learning rate; inf where a trial diverged.
    """

    lr: float
    edge: bool
    scores: dict[float, float]


def select(grid: tuple[float, ...], trials: Iterable[tuple[TrialSpec, TrialResult]]) -> Choice | None:
    """Returns the learning rate of ``grid`` with the lowest mean final validation loss.

    The loss rather than the accuracy: on a small validation split many learning rates tie in accuracy.
    A diverged trial counts as an infinite loss, a trial that failed with an error counts not at all. Equal
    scores go to the smaller learning rate. None if no learning rate has a finite score.
    """
    losses: dict[float, list[float]] = {}
    for spec, result in trials:
        if result.status == "error":
            continue
        loss = result.final["val_loss"] if result.status == "ok" else None
        losses.setdefault(spec.optimizer.lr, []).append(math.inf if loss is None else loss)
    scores = {lr: math.fsum(losses[lr]) / len(losses[lr]) for lr in sorted(losses) if lr in grid}
    if not scores or not math.isfinite(min(scores.values())):
        return None
    best = min(scores, key=scores.__getitem__)
    return Choice(lr=best, edge=len(grid) > 1 and best in (min(grid), max(grid)), scores=scores)
