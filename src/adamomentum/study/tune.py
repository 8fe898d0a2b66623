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
    """

    lr: float
    edge: bool


def scores(trials: Iterable[tuple[TrialSpec, TrialResult]]) -> dict[float, float]:
    """Returns the mean final validation loss of each learning rate, in rising order of the rates.

    The loss rather than the accuracy: on a small validation split many learning rates tie in accuracy.
    A diverged trial counts as an infinite loss, a trial that failed with an error counts not at all.
    """
    losses: dict[float, list[float]] = {}
    for spec, result in trials:
        if result.status == "error":
            continue
        loss = result.final["val_loss"] if result.status == "ok" else None
        losses.setdefault(spec.optimizer.lr, []).append(math.inf if loss is None else loss)
    return {lr: math.fsum(losses[lr]) / len(losses[lr]) for lr in sorted(losses)}


def select(grid: tuple[float, ...], trials: Iterable[tuple[TrialSpec, TrialResult]]) -> Choice | None:
    """Returns the learning rate of ``grid`` with the lowest score, the smaller one of equals.

    None if no learning rate has a finite score.
    """
    by_rate = scores(trials)
    if not by_rate or not math.isfinite(min(by_rate.values())):
        return None
    best = min(by_rate, key=by_rate.__getitem__)
    return Choice(lr=best, edge=best in (min(grid), max(grid)))
