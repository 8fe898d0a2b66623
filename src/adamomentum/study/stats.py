"""Statistics of a comparison: pure functions on plain numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

LEVEL = 0.95


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
    """Returns the mean of ``values`` and its Student t interval.

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


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Interval:
    """Returns the mean of ``a - b``, pair by pair, and its t interval.

    Raises:
        ValueError: if the lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"a and b must pair up, got {len(a)} and {len(b)} values")
    return t_interval(np.subtract(a, b).tolist(), level)


def verdict(difference: Interval) -> str:
    """Says what ``difference`` allows to be said: ``higher``, ``lower`` or no evidence."""
    if math.isnan(difference.low):
        return "one seed: no interval"
    if difference.half_width <= 1e-9 * abs(difference.mean):
        return "no spread between seeds: no interval"  # a few equal steps of 1 / n_test are not certainty
    if difference.low > 0:
        return "higher"
    if difference.high < 0:
        return "lower"
    return "no evidence of difference"


def steps_to_target(steps: Sequence[float | None], values: Sequence[float | None], target: float) -> float:
    """Returns the first of ``steps`` whose value is at least ``target``; inf if there is none."""
    for step, value in zip(steps, values, strict=True):
        if step is not None and value is not None and value >= target:
            return step
    return math.inf


def median(values: Sequence[float]) -> float:
    """Returns the median, where inf (a target not reached) ranks last."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


# --- a comparison of two optimizers on one task ---


@dataclass(frozen=True)
class Paired:
    """What paired runs of two optimizers, a and b, say about the mean of a - b.

    Attributes:
        n: pairs in which both runs have a finite value.
        lost_a: pairs in which only a has none: it diverged.
        lost_b: pairs in which only b has none.
        difference: the mean of a - b with Student's t interval, over the ``n`` pairs.
        bca: bias-corrected and accelerated bootstrap interval of the same mean; None if it does not exist.
        effect: standardized mean difference d_z with Hedges' correction for few pairs; None without spread.
        t_p: two-sided paired t test; None without spread.
        t_p_less: one-sided, against a mean below 0; an extra.
        wilcoxon_p: exact two-sided Wilcoxon signed-rank test, diverged runs ranked worst; None without pairs.
        wilcoxon_floor: the smallest value that test can give with so many pairs.
        rank_effect: rank-biserial correlation, the effect size of that test: 1 if a is higher in every pair, -1 if b
            is, on the same ranks, so a diverged run counts as worst. None without pairs that differ.
        welch_p: two-sided Welch test, which ignores the pairing.
        correlation: of the pairs; pairing gains nothing where it is not positive. None without spread.
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


def _finite(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    return np.array([math.nan if v is None or not math.isfinite(v) else v for v in values], dtype=float)


def compare_paired(
    a: Sequence[float | None], b: Sequence[float | None], better: str = "lower", level: float = LEVEL
) -> Paired:
    """Compares runs that share their seeds, pair by pair.

    A run that diverged has no value to average: means and t tests go over the pairs that have both values, and the
    lost ones are counted. In the rank test they are not left out: a pair that only one run survived counts as the
    largest difference, to the disadvantage of the other.

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
    x, y = _finite(a), _finite(b)
    both = np.isfinite(x) & np.isfinite(y)
    lost_a, lost_b = int((np.isnan(x) & ~np.isnan(y)).sum()), int((np.isnan(y) & ~np.isnan(x)).sum())
    d, n = (x - y)[both], int(both.sum())
    difference = t_interval(d.tolist(), level) if n else Interval(math.nan, math.nan, math.nan, 0)
    spread = n > 1 and d.std(ddof=1) > 1e-9 * max(abs(float(d.mean())), 1e-300)
    bca = effect = t_p = t_p_less = welch_p = correlation = None
    if spread:
        # Values that differ in their last digits alone make scipy warn; the check of the spread above has seen them.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            test = stats.ttest_rel(x[both], y[both])
            welch_p = float(stats.ttest_ind(x[both], y[both], equal_var=False).pvalue)
        t_p = float(test.pvalue)
        t_p_less = float(stats.ttest_rel(x[both], y[both], alternative="less").pvalue)
        effect = float(d.mean() / d.std(ddof=1) * (1 - 3 / (4 * (n - 1) - 1))) if n > 2 else None
        if x[both].std() > 0 and y[both].std() > 0:
            correlation = float(np.corrcoef(x[both], y[both])[0, 1])
        bca = _bca_mean(d, level)
    # Rounded: noise in the last bits would break ties that are ties.
    ranked = np.array([float(f"{v:.9g}") for v in d])
    beyond = 2 * float(np.abs(ranked).max(initial=1.0))
    worst = beyond if better == "lower" else -beyond
    ranked = np.concatenate([ranked, np.full(lost_a, worst), np.full(lost_b, -worst)])
    nonzero = ranked[ranked != 0]
    wilcoxon = rank_effect = None
    if len(nonzero):
        wilcoxon = _exact_wilcoxon(nonzero)
        ranks = stats.rankdata(np.abs(nonzero))
        rank_effect = float((np.sign(nonzero) * ranks).sum() / ranks.sum())
    return Paired(
        n=n,
        lost_a=lost_a,
        lost_b=lost_b,
        difference=difference,
        bca=bca,
        effect=effect,
        t_p=t_p,
        t_p_less=t_p_less,
        wilcoxon_p=wilcoxon,
        wilcoxon_floor=min(1.0, 2.0 ** (1 - max(len(ranked), 1))),
        rank_effect=rank_effect,
        welch_p=welch_p,
        correlation=correlation,
    )


def _bca_mean(d: npt.NDArray[np.float64], level: float) -> tuple[float, float] | None:
    from scipy import stats

    if len(d) < 3:
        return None
    found = stats.bootstrap(
        (d,), np.mean, confidence_level=level, method="BCa", n_resamples=9999, rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _exact_wilcoxon(d: npt.NDArray[np.float64]) -> float:
    """The exact two-sided p-value of the signed-rank test, ties included: over all signs of the ranks."""
    from scipy import stats

    if len(set(np.abs(d))) == len(d):
        return float(stats.wilcoxon(d, method="exact").pvalue)
    if len(d) <= 13:
        # With ties scipy's table does not hold; all 2^n signs do.
        test = stats.wilcoxon(d, method=stats.PermutationMethod(n_resamples=np.inf))
        return float(test.pvalue)
    return float(stats.wilcoxon(d, method="approx").pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values adjusted for their number by Holm's step-down method (Holm 1979); None stays None."""
    order = sorted((p, k) for k, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, k) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[k] = highest
    return adjusted


# --- across tasks ---


def interquartile_mean(values: Sequence[float]) -> float:
    """Returns the mean of the middle half of ``values`` (Agarwal et al. 2021, arXiv 2108.13264)."""
    from scipy import stats

    return float(stats.trim_mean(np.asarray(values, dtype=float), 0.25))


def stratified_iqm(scores: Mapping[str, Sequence[float]], level: float = LEVEL, resamples: int = 4999) -> Interval:
    """Returns the interquartile mean over all runs of all tasks and its percentile bootstrap interval.

    The runs of each task are resampled by themselves, so that every task keeps its weight.

    Args:
        scores: task -> one score a run, on a scale that the tasks share.
        level: of the interval.
        resamples: bootstrap samples.

    Raises:
        ValueError: if a task has no run, or a score is not finite.
    """
    samples = [np.asarray(values, dtype=float) for values in scores.values()]
    if not samples or any(not len(s) or not np.isfinite(s).all() for s in samples):
        raise ValueError("every task needs at least one finite score")
    rng = np.random.default_rng(0)
    drawn = [s[rng.integers(len(s), size=(resamples, len(s)))] for s in samples]
    from scipy import stats

    means = stats.trim_mean(np.concatenate(drawn, 1), 0.25, axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        interquartile_mean(np.concatenate(samples).tolist()), float(low), float(high), sum(map(len, samples))
    )


def normalized(value: float | None, baseline: float, better: str) -> float:
    """Returns how many times better than ``baseline`` a positive ``value`` is; 0 for a divergence."""
    if value is None or not math.isfinite(value) or value <= 0:
        return 0.0
    return value / baseline if better == "higher" else baseline / value


def performance_profile(costs: Mapping[str, Sequence[float]], taus: Sequence[float]) -> dict[str, list[float]]:
    """Returns for each optimizer the share of tasks on which its cost is within ``tau`` of the best one's.

    Dolan and More 2002. A cost of infinity (not reached, diverged) is within no factor of the best.

    Args:
        costs: optimizer -> positive cost on each task, in one order of tasks for all.
        taus: factors, at least 1.
    """
    table = np.array([list(row) for row in costs.values()], dtype=float)
    best = table.min(0)
    solved = np.isfinite(best)
    ratios = np.where(solved & np.isfinite(table), table / np.where(solved, best, 1.0), np.inf)
    return {name: [float((row <= tau).mean()) for tau in taus] for name, row in zip(costs, ratios, strict=True)}


def mean_ranks(values: pd.DataFrame, better: Mapping[str, str]) -> pd.Series:
    """Returns each optimizer's mean rank over the tasks, 1 is best; ties share their ranks, a missing value is worst.

    Args:
        values: one row an optimizer, one column a task.
        better: ``lower`` or ``higher`` for each task.
    """
    ranks = pd.DataFrame(
        {task: values[task].rank(ascending=better[str(task)] == "lower", na_option="bottom") for task in values}
    )
    return ranks.mean(axis=1)


def friedman(values: pd.DataFrame, better: Mapping[str, str]) -> float | None:
    """Returns the p-value of Friedman's test that all optimizers rank alike; None with fewer than 6 tasks.

    With fewer tasks its chi-square approximation does not hold.
    """
    from scipy import stats

    if values.shape[1] < 6 or values.shape[0] < 3 or values.isna().any().any():
        return None
    signed = pd.DataFrame({task: values[task] * (1 if better[str(task)] == "lower" else -1) for task in values})
    return float(stats.friedmanchisquare(*signed.to_numpy()).pvalue)


# --- tuning ---


def expected_best(scores: Sequence[float | None]) -> list[float]:
    """Returns the expected lowest of k scores drawn from ``scores`` without replacement, for k = 1 .. len(scores).

    Expected validation performance (Dodge et al. 2019, arXiv 1909.03004), for draws without replacement. A divergence
    counts as the highest of the finite scores, so that expectations stay finite; all None gives infinities.
    """
    finite = [s for s in scores if s is not None and math.isfinite(s)]
    if not finite:
        return [math.inf] * len(scores)
    worst = max(finite)
    ordered = sorted(s if s is not None and math.isfinite(s) else worst for s in scores)
    n = len(ordered)
    # The (i + 1)-th lowest is the lowest of k if the others come out of the n - i - 1 above it.
    return [
        math.fsum(s * math.comb(n - i - 1, k - 1) for i, s in enumerate(ordered)) / math.comb(n, k)
        for k in range(1, n + 1)
    ]


@dataclass(frozen=True)
class Width:
    """How much the learning rate may be off.

    Attributes:
        decades: length of the range of learning rates around the best whose value is within the tolerance.
        low: its lower end.
        high: its upper end.
        open_low: the range goes on below the smallest learning rate tried.
        open_high: the range goes on above the largest.
    """

    decades: float
    low: float
    high: float
    open_low: bool
    open_high: bool


def lr_width(rates: Sequence[float], losses: Sequence[float | None], tolerance: float = 0.1) -> Width | None:
    """Returns the range of learning rates around the best whose loss is at most (1 + tolerance) times the lowest.

    Between two learning rates the loss is interpolated linearly in their logarithm; a divergence is infinitely bad, and
    the range ends half-way to it.

    Args:
        rates: distinct learning rates.
        losses: positive; None for a divergence.
        tolerance: share of the lowest loss.
    """
    points = sorted(
        (math.log10(r), math.inf if v is None or not math.isfinite(v) else v)
        for r, v in zip(rates, losses, strict=True)
    )
    values = [v for _, v in points]
    if not points or not math.isfinite(min(values)):
        return None
    best, limit = values.index(min(values)), (1 + tolerance) * min(values)

    def end(direction: int) -> tuple[float, bool]:
        k = best
        while 0 <= k + direction < len(points):
            (x, v), (x_next, v_next) = points[k], points[k + direction]
            if v_next > limit:
                share = 0.5 if math.isinf(v_next) else (limit - v) / (v_next - v)
                return x + share * (x_next - x), False
            k += direction
        return points[k][0], True

    (low, open_low), (high, open_high) = end(-1), end(1)
    return Width(high - low, 10**low, 10**high, open_low, open_high)


# --- speed ---


def steps_to_at_most(steps: Sequence[float | None], values: Sequence[float | None], target: float) -> float:
    """Returns the first of ``steps`` whose value is at most ``target``; inf if there is none."""
    for step, value in zip(steps, values, strict=True):
        if step is not None and value is not None and value <= target:
            return step
    return math.inf
