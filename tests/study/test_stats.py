from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.weightstats import DescrStatsW

from adamomentum.study import stats


@pytest.mark.parametrize("n", [2, 5, 30])
def test_intervals_agree_with_scipy_and_statsmodels(n) -> None:
    rng = np.random.default_rng(n)
    a = rng.normal(3, 2, n)
    mine = stats.t_interval(a.tolist())
    assert (mine.low, mine.high) == pytest.approx(DescrStatsW(a).tconfint_mean(alpha=0.05))
    theirs = scipy.stats.ttest_1samp(a, 0).confidence_interval(0.95)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high))
    assert mine.mean == pytest.approx(a.mean())


def test_one_value_has_a_mean_and_no_interval() -> None:
    interval = stats.t_interval([2.0])
    assert interval.mean == 2
    assert math.isnan(interval.low)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf]])
def test_nothing_that_is_not_finite_enters_a_mean(bad) -> None:
    with pytest.raises(ValueError, match="finite"):
        stats.t_interval(bad)


def test_steps_to_target() -> None:
    assert stats.steps_to_target([10, 20, 30], [0.5, 0.9, 0.8], 0.9) == 20
    assert stats.steps_to_target([10, 20, 30], [0.5, None, 0.95], 0.9) == 30
    assert stats.steps_to_target([10, 20], [0.5, 0.6], 0.9) == math.inf
    with pytest.raises(ValueError):
        stats.steps_to_target([10, 20], [0.5], 0.9)


def test_a_miss_ranks_last_in_the_median() -> None:
    assert stats.median([10, math.inf, 20]) == 20
    assert stats.median([10, math.inf, math.inf]) == math.inf
    assert stats.median([10, 20]) == 15
    assert stats.median([10, math.inf]) == math.inf
