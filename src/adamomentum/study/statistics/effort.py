"""What a result costs: steps to a target, trials of tuning, and how well the learning rate must be known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


def steps_to_target(steps: Sequence[float | None], values: Sequence[float | None], target: float) -> float:
    """Return the first of ``steps`` whose value is at least ``target``; inf if there is none.

    ``steps`` may as well be seconds. A missing step or value is passed over.

    Raises:
        ValueError: if the lengths differ.
    """
    return next((s for s, v in _evaluated(steps, values) if v >= target), math.inf)


def steps_to_at_most(steps: Sequence[float | None], values: Sequence[float | None], target: float) -> float:
    """Return the first of ``steps`` whose value is at most ``target``; otherwise as ``steps_to_target``."""
    return next((s for s, v in _evaluated(steps, values) if v <= target), math.inf)


def _evaluated(steps: Sequence[float | None], values: Sequence[float | None]) -> Iterator[tuple[float, float]]:
    if len(steps) != len(values):
        raise ValueError(f"steps and values must pair up, got {len(steps)} and {len(values)}")
    return ((s, v) for s, v in zip(steps, values, strict=True) if s is not None and v is not None)


def expected_best(scores: Sequence[float | None]) -> list[float]:
    """Return the expected lowest of k scores drawn from ``scores`` without replacement, for k = 1 .. len(scores).

    Expected validation performance, exact. Dodge et al. 2019 (arXiv 1909.03004) draw with replacement; here trials are
    points of a design that nobody runs twice, so the curve ends at the best that was found. A divergence counts as the
    highest of the finite scores, which is kind to it, so that expectations stay finite; all None gives infinities.

    Args:
        scores: one a tuning trial, lower is better; None or not finite for a divergence.
    """
    finite = [s for s in scores if s is not None and math.isfinite(s)]
    if not finite:
        return [math.inf] * len(scores)
    worst = max(finite)
    ordered = sorted(s if s is not None and math.isfinite(s) else worst for s in scores)
    n = len(ordered)
    return [_expected_lowest(ordered, k) for k in range(1, n + 1)]


def _expected_lowest(ordered: Sequence[float], k: int) -> float:
    """Return the lowest of k draws, averaged over all draws; the values come in ascending order."""
    n, terms = len(ordered), []
    # The (i + 1)-th is the lowest drawn if the k - 1 others are among the n - i - 1 above it.
    chance = k / n
    for i, value in enumerate(ordered[: n - k + 1]):
        terms.append(chance * value)
        chance *= (n - i - k) / max(n - i - 1, 1)
    return math.fsum(terms)


@dataclass(frozen=True)
class Width:
    """How much the learning rate may be off.

    Attributes:
        decades: length of the range of learning rates around the best whose value is within the tolerance.
        low: its lower end.
        high: its upper end.
        open_low: the range goes on below the smallest learning rate tried, so ``decades`` is a lower bound.
        open_high: the range goes on above the largest.
    """

    decades: float
    low: float
    high: float
    open_low: bool
    open_high: bool


def lr_width(rates: Sequence[float], losses: Sequence[float | None], tolerance: float = 0.1) -> Width | None:
    """Return the range of learning rates around the best whose loss is at most (1 + tolerance) times the lowest.

    Between two learning rates the loss is interpolated linearly in their logarithm; a divergence is infinitely bad, and
    the range ends half-way to it. Only the stretch that holds the best counts: a second one beyond a hill does not.

    Args:
        rates: distinct positive learning rates, in any order.
        losses: one a rate, positive; None or not finite for a divergence.
        tolerance: share of the lowest loss.

    Returns:
        The range; None if there is no finite loss.

    Raises:
        ValueError: if the lengths differ, rates repeat or are not positive, or a loss is not positive.
    """
    if len(rates) != len(losses):
        raise ValueError(f"rates and losses must pair up, got {len(rates)} and {len(losses)}")
    points = sorted(
        (r, math.inf if v is None or not math.isfinite(v) else v) for r, v in zip(rates, losses, strict=True)
    )
    if len({r for r, _ in points}) < len(points) or any(not r > 0 for r, _ in points):
        raise ValueError(f"rates must be positive and distinct, got {list(rates)}")
    if any(v <= 0 for _, v in points):
        raise ValueError(f"losses must be positive, for a share of the lowest is tolerated, got {list(losses)}")
    values = [v for _, v in points]
    if not points or not math.isfinite(min(values)):
        return None
    best, limit = values.index(min(values)), (1 + tolerance) * min(values)

    def end(direction: int) -> tuple[float, bool]:
        k = best
        while 0 <= k + direction < len(points):
            (rate, v), (rate_next, v_next) = points[k], points[k + direction]
            if v_next > limit:
                share = 0.5 if math.isinf(v_next) else (limit - v) / (v_next - v)
                return rate * (rate_next / rate) ** share, False
            k += direction
        return points[k][0], True

    (low, open_low), (high, open_high) = end(-1), end(1)
    return Width(math.log10(high / low), low, high, open_low, open_high)
