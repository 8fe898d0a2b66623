"""Two optimizers on one task, whose runs share their seeds: means, intervals, tests, and several tests at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LEVEL = 0.95

NOISE = 1e-12
"""Two values that differ by less than this share of their size are equal: the rest is rounding."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; the ends are NaN where one value gives no spread."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of ``values`` and its Student t interval.

    Raises:
        ValueError: if there is no value, or one that is not finite.
    """
    from scipy.stats import t

    data = np.asarray(values, dtype=float)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"values must be finite and not empty, got {list(values)}")
    mean, n = float(data.mean()), int(data.size)
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(t.ppf((1 + level) / 2, n - 1) * data.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Paired:
    """What paired runs of two optimizers, a and b, say about the mean of a - b.

    Attributes:
        n: pairs in which both runs have a finite value.
        lost_a: pairs in which only a has none: it diverged.
        lost_b: pairs in which only b has none.
        difference: the mean of a - b with Student's t interval, over the ``n`` pairs.
        bca: bias-corrected and accelerated bootstrap interval of the same mean (Efron 1987), seed fixed; None with
            fewer than 3 pairs or without spread.
        effect: standardized mean difference d_z with Hedges' correction for few pairs, 1 - 3 / (4 n - 5) (Hedges
            1981); None with fewer than 3 pairs or without spread.
        t_p: two-sided paired t test; None without spread.
        t_p_less: one-sided, against a mean below 0; an extra.
        wilcoxon_p: exact two-sided Wilcoxon signed-rank test, diverged runs ranked worst; None if no pair differs.
            Pairs that do not differ are left out, ties share their ranks and the test stays exact; only with ties
            among more than 13 pairs is the normal approximation taken.
        wilcoxon_floor: the smallest value that test can give with as many pairs that differ, 2 / 2^n.
        rank_effect: rank-biserial correlation, the effect size of that test: 1 if a is higher in every pair, -1 if b
            is, on the same ranks, so a diverged run counts as worst. None if no pair differs.
        welch_p: two-sided Welch test, which ignores the pairing.
        correlation: of the pairs; pairing gains nothing where it is not positive. None without spread.
        d_z: mean over standard deviation of the differences (Cohen), without the correction; None without spread.
    """

    n: int
    lost_a: int
    lost_b: int
    difference: Interval
    bca: tuple[float, float] | None
    effect: float | None
    t_p: float | None
    t_p_less: float | None
    wilcoxon_p: float | None
    wilcoxon_floor: float
    rank_effect: float | None
    welch_p: float | None
    correlation: float | None
    d_z: float | None = None


def compare_paired(
    a: Sequence[float | None], b: Sequence[float | None], better: str = "lower", level: float = LEVEL
) -> Paired:
    """Compare runs that share their seeds, pair by pair.

    A run that diverged has no value to average: means and t tests go over the pairs that have both values, and the
    lost ones are counted. In the rank test they are not left out: a pair that only one run survived counts as the
    largest difference, to the disadvantage of the other. Pairs that both lost say nothing of a difference.

    Args:
        a: one value a seed; None or a value that is not finite stands for a divergence.
        b: the same seeds of the other optimizer.
        better: ``lower`` or ``higher``: which values are good; decides what a divergence counts for.
        level: of the intervals.

    Raises:
        ValueError: if the lengths differ or are 0, or ``better`` is neither.
    """
    from scipy import stats

    if len(a) != len(b) or not len(a):
        raise ValueError(f"a and b must pair up, got {len(a)} and {len(b)} values")
    if better not in ("lower", "higher"):
        raise ValueError(f"better must be lower or higher, got {better!r}")
    all_a, all_b = _finite(a), _finite(b)
    both = np.isfinite(all_a) & np.isfinite(all_b)
    lost_a = int((np.isnan(all_a) & ~np.isnan(all_b)).sum())
    lost_b = int((np.isnan(all_b) & ~np.isnan(all_a)).sum())
    x, y = all_a[both], all_b[both]
    d, n = _differences(x, y), int(both.sum())
    bca = effect = d_z = t_p = t_p_less = welch_p = correlation = None
    if n > 1 and d.std(ddof=1) > 1e-9 * np.abs(d).max():
        # Values that differ in their last digits alone make scipy warn; the check of the spread has seen them.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            t_p = float(stats.ttest_1samp(d, 0).pvalue)
            t_p_less = float(stats.ttest_1samp(d, 0, alternative="less").pvalue)
            welch_p = float(stats.ttest_ind(x, y, equal_var=False).pvalue)
            bca = _bca_mean(d, level)
        d_z = float(d.mean() / d.std(ddof=1))
        effect = d_z * (1 - 3 / (4 * n - 5)) if n > 2 else None
        if min(x.std() / np.abs(x).max(initial=1e-300), y.std() / np.abs(y).max(initial=1e-300)) > NOISE:
            correlation = float(np.corrcoef(x, y)[0, 1])
    signed = _signed(d, lost_a, lost_b, better)
    ranks = stats.rankdata(np.abs(signed))
    return Paired(
        n=n,
        lost_a=lost_a,
        lost_b=lost_b,
        difference=t_interval(d.tolist(), level) if n else Interval(math.nan, math.nan, math.nan, 0),
        bca=bca,
        effect=effect,
        t_p=t_p,
        t_p_less=t_p_less,
        wilcoxon_p=_exact_wilcoxon(signed) if len(signed) else None,
        wilcoxon_floor=min(1.0, 2.0 ** (1 - len(signed))),
        rank_effect=float((np.sign(signed) * ranks).sum() / ranks.sum()) if len(signed) else None,
        welch_p=welch_p,
        correlation=correlation,
        d_z=d_z,
    )


def _finite(values: Sequence[float | None]) -> Array:
    return np.array([math.nan if v is None or not math.isfinite(v) else v for v in values], dtype=float)


def _differences(x: Array, y: Array) -> Array:
    """Differences x - y, 0 where that is rounding: 0.1 + 0.2 and 0.3 are the same accuracy."""
    d: Array = x - y
    d[np.abs(d) <= NOISE * np.maximum(np.abs(x), np.abs(y))] = 0
    return d


def _signed(d: Array, lost_a: int, lost_b: int, better: str) -> Array:
    """Return the differences to be ranked: without zeros, a lost run beyond all others.

    Rounded, since noise in the last bits would break ties that are ties.
    """
    rounded = np.array([float(f"{v:.9g}") for v in d if v], dtype=float)
    beyond = 2 * float(np.abs(rounded).max(initial=0)) or 1.0
    worst = beyond if better == "lower" else -beyond
    return np.concatenate([rounded, np.full(lost_a, worst), np.full(lost_b, -worst)])


def _bca_mean(d: Array, level: float) -> tuple[float, float] | None:
    from scipy import stats

    if len(d) < 3:
        return None
    bounds = stats.bootstrap(
        (d,), np.mean, confidence_level=level, method="BCa", n_resamples=9999, rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = float(bounds.low), float(bounds.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _exact_wilcoxon(signed: Array) -> float:
    """Return the two-sided p-value of the signed-rank test, exact unless ties make that too many signs."""
    from scipy import stats

    if len(set(np.abs(signed))) == len(signed):
        return float(stats.wilcoxon(signed, method="exact").pvalue)
    if len(signed) <= 13:
        # With ties scipy's table does not hold; all 2^n signs do.
        return float(stats.wilcoxon(signed, method=stats.PermutationMethod(n_resamples=np.inf)).pvalue)
    return float(stats.wilcoxon(signed, method="approx").pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted by Holm's step-down method; None stays None and does not count.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none may fall below one before it or exceed 1.
    Holds the chance of any false finding at the level of the test, whatever the dependence between the tests
    (Holm 1979, Scandinavian Journal of Statistics 6).

    Raises:
        ValueError: if a value is not a probability.
    """
    wrong = [p for p in p_values if p is not None and not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"p_values must lie in [0, 1], got {wrong}")
    order = sorted((p, k) for k, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, k) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[k] = highest
    return adjusted
