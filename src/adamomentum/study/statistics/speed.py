"""Time to a target: the first step that is good enough, infinite if none is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence


def steps_to_target(steps: Sequence[float | None], values: Sequence[float | None], target: float) -> float:
    """Returns the first of ``steps`` whose value is at least ``target``; inf if there is none.

    ``steps`` may as well be seconds. A missing step or value is passed over.

    Raises:
        ValueError: if the lengths differ.
    """
    return next((s for s, v in _evaluated(steps, values) if v >= target), math.inf)


def steps_to_at_most(steps: Sequence[float | None], values: Sequence[float | None], target: float) -> float:
    """Returns the first of ``steps`` whose value is at most ``target``; otherwise as ``steps_to_target``."""
    return next((s for s, v in _evaluated(steps, values) if v <= target), math.inf)


def _evaluated(steps: Sequence[float | None], values: Sequence[float | None]) -> Iterator[tuple[float, float]]:
    if len(steps) != len(values):
        raise ValueError(f"steps and values must pair up, got {len(steps)} and {len(values)}")
    return ((s, v) for s, v in zip(steps, values, strict=True) if s is not None and v is not None)


def median(values: Sequence[float]) -> float:
    """Returns the median, where inf (a target not reached) ranks last: half of the runs or more miss it.

    A median exists where a mean does not, and needs no guess at when a run that missed would have arrived.

    Raises:
        ValueError: if there is no value.
    """
    return statistics.median(values)
