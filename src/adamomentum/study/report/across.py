"""All tasks of a study together: scores, ranks, performance profile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from adamomentum.study import stats
from adamomentum.study.report.runs import COST_BASE, column_of, family_of, most, untrained, values
from adamomentum.study.results import StudyResults
from adamomentum.study.stats import Interval
from adamomentum.study.tasks import Metric

TAUS = tuple(round(1 + 0.05 * k, 2) for k in range(61))
LEAST_ERROR = 1e-3


@dataclass
class Across:
    """What the tasks say together.

    Attributes:
        tasks: those on which the reference and every baseline have most of their final runs.
        partial: those of them on which some are missing.
        anchor: the optimizer whose mean scores 1 on every task.
        scores: per optimizer and task the score of each final run: how many times less cost than the anchor's mean;
            0 for a divergence. Controls are included where they are complete.
        iqm: interquartile mean of the scores of each optimizer.
        profile: per optimizer the share of tasks on which its mean cost is within a factor of the best, by ``TAUS``;
            of the reference and the baselines, as are the ranks.
        ranks: mean rank of each over tasks, by mean cost; a divergence makes the mean infinite.
        friedman_p: of Friedman's test; None with fewer than 6 tasks.
        nemenyi: by how much two mean ranks must differ for Nemenyi's test to tell them apart; None likewise.
    """

    tasks: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    anchor: str = ""
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    iqm: dict[str, Interval] = field(default_factory=dict)
    profile: dict[str, list[float]] = field(default_factory=dict)
    ranks: dict[str, float] = field(default_factory=dict)
    friedman_p: float | None = None
    nemenyi: float | None = None


def as_cost(value: float, metric: Metric) -> float:
    """Returns a positive number that is lower for better values: a share such as an accuracy becomes an error rate."""
    if not math.isfinite(value):
        return math.inf
    return value if metric.better == "lower" else max(1 - value, LEAST_ERROR)


def _costs(results: StudyResults, task: str, name: str) -> list[float] | None:
    """The cost of each final run; None if half of them or more are missing."""
    seeds = results.study.final.seeds
    if untrained(results, task, name):
        return [math.inf] * seeds
    metric = family_of(results, task).primary
    found = [as_cost(v, metric) for v in values(results, "final", task, name, column_of(metric))]
    return found if most(len(found), seeds) else None


def _mean(costs: Sequence[float]) -> float:
    return sum(costs) / len(costs)


def across(results: StudyResults) -> Across:
    """Returns what the tasks say together that are run for the most part; empty if there is none."""
    study, made = results.study, Across()
    names = [study.reference, *study.baselines]
    base = study.called(COST_BASE)
    made.anchor = base if base in names else names[-1]
    costs = {(t.name, n): _costs(results, t.name, n) for t in study.tasks for n in study.optimizers}
    for task in study.tasks:
        anchored = [c for c in costs[task.name, made.anchor] or () if math.isfinite(c)]
        if not anchored or any(costs[task.name, n] is None for n in names):
            continue
        made.tasks.append(task.name)
        if any(len(costs[task.name, n] or ()) < study.final.seeds for n in names):
            made.partial.append(task.name)
        for n in study.optimizers:
            mine = costs[task.name, n]
            if mine is not None:
                made.scores.setdefault(n, {})[task.name] = [stats.normalized(c, _mean(anchored), "lower") for c in mine]
    if not made.tasks:
        return made
    made.scores = {n: per_task for n, per_task in made.scores.items() if len(per_task) == len(made.tasks)}
    made.iqm = {n: stats.stratified_iqm(per_task) for n, per_task in made.scores.items()}
    means = {n: [_mean(costs[task, n] or [math.inf]) for task in made.tasks] for n in names}
    made.profile = stats.performance_profile(means, TAUS)
    frame = pd.DataFrame(means, index=made.tasks).T.replace(math.inf, math.nan)
    better = dict.fromkeys(made.tasks, "lower")
    made.ranks = {str(n): float(r) for n, r in stats.mean_ranks(frame, better).items()}
    made.friedman_p = stats.friedman(frame, better)
    made.nemenyi = stats.nemenyi_distance(len(names), len(made.tasks)) if made.friedman_p is not None else None
    return made
