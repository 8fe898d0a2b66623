"""Intervals, paired comparisons and their correction: against scipy and statsmodels, and by their properties."""

from __future__ import annotations

import itertools
import math
import warnings
from unittest.mock import patch

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from adamomentum.study.statistics.paired import compare_paired, holm, t_interval

# Thousandths, as accuracies and printed perplexities are: ties and zeros come up.
VALUES = st.integers(-3000, 3000).map(lambda k: k / 1000)
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=9)
RUNS = st.one_of(VALUES, st.sampled_from([None, math.nan, math.inf]))
PAIRS_WITH_LOSSES = st.lists(st.tuples(RUNS, RUNS), min_size=1, max_size=9)
PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_intervals_agree_with_scipy_and_statsmodels(n) -> None:
    rng = np.random.default_rng(n)
    a = rng.normal(3, 2, n)
    mine = t_interval(a.tolist())
    assert (mine.low, mine.high) == pytest.approx(DescrStatsW(a).tconfint_mean(alpha=0.05))
    theirs = scipy.stats.ttest_1samp(a, 0).confidence_interval(0.95)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high))
    assert mine.mean == pytest.approx(a.mean())


def test_one_value_has_a_mean_and_no_interval() -> None:
    interval = t_interval([2.0])
    assert interval.mean == 2
    assert math.isnan(interval.low)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf]])
def test_nothing_that_is_not_finite_enters_a_mean(bad) -> None:
    with pytest.raises(ValueError, match="finite"):
        t_interval(bad)


def split(pairs):
    return [x for x, _ in pairs], [y for _, y in pairs]


@pytest.mark.parametrize("n", [3, 5, 10, 25])
def test_tests_and_effect_agree_with_scipy(n) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(3.0, 1, n), rng.normal(3.5, 2, n)
    paired = compare_paired(a.tolist(), b.tolist())
    assert (paired.n, paired.lost_a, paired.lost_b) == (n, 0, 0)
    assert paired.t_p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    assert paired.t_p_less == pytest.approx(scipy.stats.ttest_rel(a, b, alternative="less").pvalue)
    assert paired.welch_p == pytest.approx(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert paired.wilcoxon_p == pytest.approx(scipy.stats.wilcoxon(a, b, method="exact").pvalue)
    assert paired.wilcoxon_floor == 2 / 2**n
    assert paired.correlation == pytest.approx(scipy.stats.pearsonr(a, b).statistic)
    theirs = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (paired.difference.low, paired.difference.high) == pytest.approx((theirs.low, theirs.high))
    assert paired.d_z == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    # Hedges' exact factor is a ratio of gamma functions; the usual formula is within 2 % of it from 3 pairs on.
    m = n - 1
    exact = math.exp(math.lgamma(m / 2) - math.lgamma((m - 1) / 2)) / math.sqrt(m / 2)
    assert paired.effect == pytest.approx(paired.d_z * exact, rel=0.02)


def test_the_bootstrap_interval_is_scipys_and_the_same_every_time() -> None:
    a, b = [1.0, 2.0, 4.0, 8.0, 9.0, 16.0], [0.5] * 6
    paired = compare_paired(a, b)
    theirs = scipy.stats.bootstrap(
        (np.subtract(a, b),), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(7)
    ).confidence_interval
    assert paired.bca == pytest.approx((theirs.low, theirs.high), rel=0.05)
    assert paired == compare_paired(a, b)
    # Skewed to the right: unlike the t interval it reaches further up than down.
    assert paired.bca[1] - paired.difference.mean > paired.difference.mean - paired.bca[0]


@pytest.mark.parametrize("a", [[1.0], [1.5, 2.5, 3.5], [0.1 + 0.2, 0.7, 0.3]])
def test_without_spread_there_is_no_test_of_the_mean(a) -> None:
    b = {1: [0.5], 3: [0.5, 1.5, 2.5] if a[0] == 1.5 else [0.3, 0.7, 0.1 + 0.2]}[len(a)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paired = compare_paired(a, b)
    assert (paired.t_p, paired.t_p_less, paired.welch_p, paired.bca) == (None,) * 4
    assert (paired.effect, paired.d_z, paired.correlation) == (None,) * 3


def test_two_pairs_have_a_t_test_but_no_bootstrap() -> None:
    paired = compare_paired([1.0, 3.0], [0.5, 1.0])
    assert paired.t_p == pytest.approx(scipy.stats.ttest_rel([1, 3], [0.5, 1]).pvalue)
    assert (paired.bca, paired.effect) == (None, None)
    assert paired.d_z is not None


def test_rounding_is_no_difference() -> None:
    paired = compare_paired([0.1 + 0.2, 0.5, 0.75], [0.3, 0.25, 1.0])
    assert paired.wilcoxon_floor == 0.5  # two pairs differ, by the same amount
    assert (paired.wilcoxon_p, paired.rank_effect) == (1, 0)
    ties = compare_paired([0.3, 0.7], [0.2, 0.8])  # 0.09999999999999998 up, 0.10000000000000009 down
    assert ties.rank_effect == 0
    nothing = compare_paired([0.1 + 0.2] * 6, [0.3] * 6)
    assert (nothing.wilcoxon_p, nothing.rank_effect, nothing.wilcoxon_floor) == (None, None, 1)


def signs(d):
    """The exact two-sided signed-rank p-value by going through all signs."""
    ranks = scipy.stats.rankdata(np.abs(d))
    sums = np.array([np.dot(s, ranks) for s in itertools.product((0, 1), repeat=len(d))])
    observed = ranks[np.asarray(d) > 0].sum()
    return min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean()))


@given(PAIRS)
def test_wilcoxon_is_exact_with_ties_and_zeros(pairs) -> None:
    a, b = split(pairs)
    d = [round(1000 * x) - round(1000 * y) for x, y in pairs]
    d = [v for v in d if v]
    paired = compare_paired(a, b)
    if not d:
        assert paired.wilcoxon_p is None
    else:
        assert paired.wilcoxon_p == pytest.approx(signs(d))
        assert paired.wilcoxon_p >= paired.wilcoxon_floor * (1 - 1e-12)
        same_sign = all(v > 0 for v in d) or all(v < 0 for v in d)
        assert (paired.wilcoxon_p == pytest.approx(paired.wilcoxon_floor)) == (same_sign or len(d) == 1)


@settings(max_examples=50)
@given(PAIRS_WITH_LOSSES, st.sampled_from(["lower", "higher"]))
def test_exchanging_the_two_mirrors_everything(pairs, better) -> None:
    a, b = split(pairs)
    one, other = compare_paired(a, b, better), compare_paired(b, a, better)
    assert (one.n, one.lost_a, one.lost_b) == (other.n, other.lost_b, other.lost_a)
    assert (one.wilcoxon_p, one.wilcoxon_floor) == (other.wilcoxon_p, other.wilcoxon_floor)
    assert (one.rank_effect is None) == (other.rank_effect is None)
    if one.rank_effect is not None:
        assert one.rank_effect == pytest.approx(-other.rank_effect)
    if one.n:
        assert one.difference.mean == pytest.approx(-other.difference.mean)
    if one.t_p is not None:
        assert one.t_p == pytest.approx(other.t_p)
        assert one.t_p_less == pytest.approx(1 - other.t_p_less)
        assert one.d_z == pytest.approx(-other.d_z)


@settings(max_examples=50)
@given(PAIRS_WITH_LOSSES, st.sampled_from([0.01, 8.0, 1000.0]))
def test_the_unit_does_not_matter(pairs, factor) -> None:
    a, b = split(pairs)
    scaled = [[None if v is None else v * factor for v in values] for values in (a, b)]
    one, other = compare_paired(a, b), compare_paired(*scaled)
    for name in ("effect", "d_z", "t_p", "t_p_less", "wilcoxon_p", "wilcoxon_floor", "rank_effect", "welch_p"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-9), name
    if one.n:
        assert other.difference.mean == pytest.approx(factor * one.difference.mean, abs=1e-9 * factor)


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_a_divergence_is_the_worst_that_can_happen_to_its_side(better) -> None:
    sign = 1 if better == "lower" else -1
    a, b = [sign * v for v in (1.0, 2.0, 3.0, 4.0)], [sign * v for v in (1.5, 2.6, 3.7, 4.8)]
    whole = compare_paired(a, b, better)
    assert sign * whole.rank_effect == -1  # a is better in every pair
    for lost in (None, math.nan, math.inf, -math.inf):
        one_lost = compare_paired([lost, *a[1:]], b, better)
        assert (one_lost.n, one_lost.lost_a, one_lost.lost_b) == (3, 1, 0)
        assert sign * one_lost.rank_effect == pytest.approx((4 - 1 - 2 - 3) / 10)
        assert one_lost.wilcoxon_floor == whole.wilcoxon_floor
        assert one_lost.difference.mean == pytest.approx(np.subtract(a, b)[1:].mean())
        both_lost = compare_paired([lost, *a[1:]], [lost, *b[1:]], better)
        assert (both_lost.lost_a, both_lost.lost_b, both_lost.wilcoxon_floor) == (0, 0, 0.25)


def test_all_runs_of_one_side_lost() -> None:
    paired = compare_paired([None] * 8, [0.5] * 8, "higher")
    assert (paired.n, paired.lost_a, paired.rank_effect, paired.t_p) == (0, 8, -1, None)
    assert paired.wilcoxon_p == pytest.approx(2 / 2**8)
    assert math.isnan(paired.difference.mean)
    nothing = compare_paired([None], [None])
    assert (nothing.n, nothing.lost_a, nothing.lost_b, nothing.wilcoxon_p) == (0, 0, 0, None)


def test_what_does_not_pair_up_is_an_error() -> None:
    with pytest.raises(ValueError, match="pair up, got 2 and 1"):
        compare_paired([1, 2], [1])
    with pytest.raises(ValueError, match="pair up, got 0 and 0"):
        compare_paired([], [])
    with pytest.raises(ValueError, match="better must be lower or higher, got 'less'"):
        compare_paired([1], [1], "less")


@given(PROBABILITIES)
def test_holm_is_statsmodels(p_values) -> None:
    with patch("gc.collect"):  # statsmodels calls it each time, which takes a hundred times as long as the rest
        expected = multipletests(p_values, method="holm")[1].tolist()
    assert holm(p_values) == pytest.approx(expected)


@given(PROBABILITIES)
def test_holm_keeps_the_order_and_lowers_nothing(p_values) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values)
    assert all(adjusted[i] <= adjusted[j] for i, j in itertools.pairwise(order))
    assert min(adjusted) == pytest.approx(min(1, len(p_values) * min(p_values)))  # for the smallest it is Bonferroni's


def test_holm_counts_only_what_was_tested() -> None:
    assert holm([None, 0.02, None, 0.04]) == [None, 0.04, None, 0.04]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"p_values must lie in \[0, 1\], got \[1.5\]"):
        holm([0.5, 1.5])
    with pytest.raises(ValueError, match="nan"):
        holm([math.nan])


def test_rank_effect_is_the_signed_share_of_ranks() -> None:
    assert compare_paired([1, 2, 3], [2, 4, 6]).rank_effect == -1
    paired = compare_paired([1, 2, 3, None], [2, 4, 6, 5])
    assert paired.rank_effect == pytest.approx((4 - 1 - 2 - 3) / 10)
    assert compare_paired([1, 1], [1, 1]).rank_effect is None
