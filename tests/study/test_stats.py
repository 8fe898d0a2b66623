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
    a, b = rng.normal(3, 2, n), rng.normal(2.5, 1, n)
    mine = stats.t_interval(a.tolist())
    assert (mine.low, mine.high) == pytest.approx(DescrStatsW(a).tconfint_mean(alpha=0.05))
    theirs = scipy.stats.ttest_1samp(a, 0).confidence_interval(0.95)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high))
    assert mine.mean == pytest.approx(a.mean())
    paired = stats.paired_difference(a.tolist(), b.tolist())
    theirs = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (paired.low, paired.high) == pytest.approx((theirs.low, theirs.high))


def test_one_value_has_a_mean_and_no_interval() -> None:
    interval = stats.t_interval([2.0])
    assert interval.mean == 2
    assert math.isnan(interval.low)
    assert stats.verdict(interval) == "one seed: no interval"


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf]])
def test_nothing_that_is_not_finite_enters_a_mean(bad) -> None:
    with pytest.raises(ValueError, match="finite"):
        stats.t_interval(bad)


def test_unpaired_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="pair up, got 2 and 1"):
        stats.paired_difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.3, "higher"),
        (-0.3, -0.1, "lower"),
        (-0.1, 0.3, "no evidence of difference"),
        (0.0, 0.3, "no evidence of difference"),
    ],
)
def test_verdict(low, high, words) -> None:
    assert stats.verdict(stats.Interval((low + high) / 2, low, high, 5)) == words


@pytest.mark.parametrize(("a", "b"), [([15 / 29, 18 / 29], [14 / 29, 17 / 29]), ([0.5] * 3, [0.25] * 3)])
def test_equal_differences_are_no_certainty(a, b) -> None:
    # Accuracies are multiples of 1 / n_test: a few seeds can differ by the same number of images.
    assert stats.verdict(stats.paired_difference(a, b)) == "no spread between seeds: no interval"


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
