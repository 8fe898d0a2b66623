"""Who comes first, second, last over tasks; the differences between their values play no part."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

FEWEST_TASKS = 6
"""Below, the chi-square approximation of Friedman's test is poor and nothing could come out of it."""


def _costs(values: pd.DataFrame, better: Mapping[str, str]) -> pd.DataFrame:
    """Lower is better in every column; NaN for what has no finite value."""
    unknown = {str(task): better.get(str(task)) for task in values if better.get(str(task)) not in ("lower", "higher")}
    if unknown:
        raise ValueError(f"better must say lower or higher for every task, got {unknown}")
    finite = values.astype(float).where(np.isfinite(values.astype(float)))
    return pd.DataFrame({task: finite[task] * (1 if better[str(task)] == "lower" else -1) for task in values})


def mean_ranks(values: pd.DataFrame, better: Mapping[str, str]) -> pd.Series:
    """Returns each optimizer's mean rank over the tasks, 1 is best; ties share their ranks.

    Args:
        values: one row an optimizer, one column a task; a value that is not finite (a divergence) is worst.
        better: ``lower`` or ``higher`` for each task.

    Raises:
        ValueError: if ``better`` lacks a task or is neither.
    """
    return _costs(values, better).rank(na_option="bottom").mean(axis=1)


def friedman(values: pd.DataFrame, better: Mapping[str, str]) -> float | None:
    """Returns the p-value of Friedman's test that all optimizers rank alike.

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

    ranks = _costs(values, better).rank(na_option="bottom")
    if ranks.shape[1] < FEWEST_TASKS or ranks.shape[0] < 3 or (ranks.nunique() == 1).all():
        return None
    return float(stats.friedmanchisquare(*ranks.to_numpy()).pvalue)


def nemenyi_distance(optimizers: int, tasks: int, alpha: float = 0.05) -> float | None:
    """Returns by how much two mean ranks must differ for Nemenyi's test to tell them apart.

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
