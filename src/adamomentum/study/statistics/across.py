"""All tasks together: scores and performance profiles on a scale that they share, and ranks, which need none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from adamomentum.study.statistics.paired import LEVEL, Array, Interval

MIDDLE = 0.25  # cut off at each end

FEWEST_TASKS = 6
"""Below, the chi-square approximation of Friedman's test is poor and nothing could come out of it."""


def normalized(value: float | None, baseline: float, better: str) -> float:
    """Return how many times better than ``baseline`` a ``value`` is: 1 is as good; 0 for a divergence.

    Args:
        value: of one run; None or not finite for a divergence. Positive, or 0 where higher is better.
        baseline: mean of the baseline's runs on the same task, positive.
        better: ``lower`` or ``higher``.

    Raises:
        ValueError: if a number is not positive, so that no ratio makes sense, or ``better`` is neither.
    """
    if better not in ("lower", "higher"):
        raise ValueError(f"better must be lower or higher, got {better!r}")
    if not (math.isfinite(baseline) and baseline > 0):
        raise ValueError(f"baseline must be positive, got {baseline}: turn the metric into a positive cost first")
    if value is None or not math.isfinite(value):
        return 0.0
    if value < 0 or (value == 0 and better == "lower"):
        raise ValueError(f"value must be positive, got {value}: turn the metric into a positive cost first")
    return value / baseline if better == "higher" else baseline / value


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half of ``values`` (Agarwal et al. 2021, arXiv 2108.13264).

    A quarter of the values, rounded down, is cut off at each end: a few extreme runs do not decide.

    Raises:
        ValueError: if there is no value, or one that is not finite.
    """
    return float(_iqm(_finite(values, "values"), axis=0))


def _finite(values: Sequence[float], name: str) -> Array:
    data = np.asarray(values, dtype=float)
    if not data.size or not np.isfinite(data).all():
        raise ValueError(f"{name} must be finite and not empty, got {list(values)}")
    return data


def _iqm(*samples: Array, axis: int) -> Any:
    from scipy import stats

    return stats.trim_mean(np.concatenate(samples, axis), MIDDLE, axis=axis)


def stratified_iqm(scores: Mapping[str, Sequence[float]], level: float = LEVEL, resamples: int = 4999) -> Interval:
    """Return the interquartile mean over all runs of all tasks and its percentile bootstrap interval.

    The runs of each task are resampled by themselves, so that every task keeps its share of the runs. The interval is
    about seeds: on other tasks the mean may be another. A task with a single run tells nothing of its spread: then the
    ends are NaN.

    Args:
        scores: task -> one score a run, on a scale that the tasks share.
        level: of the interval.
        resamples: bootstrap samples; their seed is fixed.

    Raises:
        ValueError: if there is no task, a task has no run, or a score is not finite.
    """
    from scipy import stats

    samples = [_finite(values, f"scores[{task!r}]") for task, values in scores.items()]
    if not samples:
        raise ValueError("scores must hold at least one task, got none")
    mean, n = float(_iqm(*samples, axis=0)), sum(map(len, samples))
    if min(map(len, samples)) < 2:
        return Interval(mean, math.nan, math.nan, n)
    bounds = stats.bootstrap(
        samples,
        _iqm,
        vectorized=True,
        paired=False,
        confidence_level=level,
        method="percentile",
        n_resamples=resamples,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(mean, float(bounds.low), float(bounds.high), n)


def performance_profile(costs: Mapping[str, Sequence[float]], taus: Sequence[float]) -> dict[str, list[float]]:
    """Return for each optimizer the share of tasks on which its cost is within ``tau`` times the best one's.

    At tau = 1 that is the share of tasks on which it is best; far to the right, the share that it solves at all
    (Dolan and More 2002, Mathematical Programming 91). A cost of infinity (not reached, diverged) is within no factor
    of the best.

    Args:
        costs: optimizer -> positive cost on each task, in one order of tasks for all.
        taus: factors, at least 1.

    Raises:
        ValueError: if the optimizers have unequal numbers of tasks or none, a cost is not positive, or a factor is
            below 1.
    """
    lengths = {name: len(row) for name, row in costs.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"costs must hold the same tasks for every optimizer, got so many: {lengths}")
    table = np.array([list(row) for row in costs.values()], dtype=float)
    if not (table > 0).all():
        raise ValueError("costs must be positive, or inf for what diverged")
    if any(not tau >= 1 for tau in taus):
        raise ValueError(f"taus must be at least 1, got {list(taus)}")
    best = table.min(0)
    solved = np.isfinite(best)
    ratios = np.where(np.isfinite(table), table / np.where(solved, best, 1.0), np.inf)
    return {name: [float((row <= tau).mean()) for tau in taus] for name, row in zip(costs, ratios, strict=True)}


def _ranks(values: pd.DataFrame, better: Mapping[str, str]) -> pd.DataFrame:
    """Ranks within each task, 1 is best; ties share theirs, and what has no finite value is worst."""
    unknown = {str(task): better.get(str(task)) for task in values if better.get(str(task)) not in ("lower", "higher")}
    if unknown:
        raise ValueError(f"better must say lower or higher for every task, got {unknown}")
    finite = values.astype(float).where(np.isfinite(values.astype(float)))
    costs = pd.DataFrame({task: finite[task] * (1 if better[str(task)] == "lower" else -1) for task in values})
    return costs.rank(na_option="bottom")


def mean_ranks(values: pd.DataFrame, better: Mapping[str, str]) -> pd.Series:
    """Return each optimizer's mean rank over the tasks, 1 is best; ties share their ranks.

    Args:
        values: one row an optimizer, one column a task; a value that is not finite (a divergence) is worst.
        better: ``lower`` or ``higher`` for each task.

    Raises:
        ValueError: if ``better`` lacks a task or is neither.
    """
    return _ranks(values, better).mean(axis=1)


def friedman(values: pd.DataFrame, better: Mapping[str, str]) -> float | None:
    """Return the p-value of Friedman's test that all optimizers rank alike.

    The test looks at ranks alone, so what is not finite simply is worst in its column, as in ``mean_ranks``.

    Args:
        values: one row an optimizer, one column a task.
        better: ``lower`` or ``higher`` for each task.

    Returns:
        The p-value; None with fewer than ``FEWEST_TASKS`` tasks, where its approximation is poor, with fewer than 3
        optimizers (compare two in pairs), or if all tie on every task.

    Raises:
        ValueError: if ``better`` lacks a task or is neither.
    """
    from scipy import stats

    ranks = _ranks(values, better)
    if ranks.shape[1] < FEWEST_TASKS or ranks.shape[0] < 3 or (ranks.nunique() == 1).all():
        return None
    return float(stats.friedmanchisquare(*ranks.to_numpy()).pvalue)


def nemenyi_distance(optimizers: int, tasks: int, alpha: float = 0.05) -> float | None:
    """Return by how much two mean ranks must differ for Nemenyi's test to tell them apart.

    All pairs are covered at once; made for after a Friedman test that finds something (Demsar 2006, JMLR 7).

    Args:
        optimizers: how many are ranked.
        tasks: how many they are ranked on.
        alpha: level of the test.

    Returns:
        The critical difference; None under the same conditions as ``friedman``.
    """
    from scipy import stats

    if tasks < FEWEST_TASKS or optimizers < 3:
        return None
    q = float(stats.studentized_range.ppf(1 - alpha, optimizers, math.inf)) / math.sqrt(2)
    return q * math.sqrt(optimizers * (optimizers + 1) / (6 * tasks))
