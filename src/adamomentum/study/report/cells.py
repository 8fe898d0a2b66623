"""Numbers as text."""

from __future__ import annotations

import math
from collections.abc import Iterable

from adamomentum.study.stats import Interval
from adamomentum.study.tasks import Metric

NONE = "–"


def number(value: float, metric: Metric) -> str:
    """Returns a value of ``metric``, scaled for display."""
    return f"{metric.scale * value:.{metric.digits}f}" if math.isfinite(value) else NONE


def difference_text(value: float, metric: Metric) -> str:
    """Returns a difference of values of ``metric``, with its sign."""
    return f"{metric.scale * value:+.{metric.digits}f}" if math.isfinite(value) else NONE


def between(low: float, high: float, metric: Metric) -> str:
    """Returns an interval of differences."""
    if not math.isfinite(low) or not math.isfinite(high):
        return NONE
    return f"{difference_text(low, metric)} to {difference_text(high, metric)}"


def mean(interval: Interval, metric: Metric) -> str:
    """Returns ``mean ± half width``, or the mean alone if there is no interval."""
    if not interval.n or not math.isfinite(interval.mean):
        return NONE
    text = number(interval.mean, metric)
    return text if not math.isfinite(interval.low) else f"{text} ± {number(interval.half_width, metric)}"


def heading(metric: Metric) -> str:
    """Returns the name of a metric with its unit."""
    return metric.label + (f", {metric.unit}" if metric.unit else "")


def span(numbers: Iterable[int]) -> str:
    """Returns the one number there is, or from where to where several go."""
    low, *more = sorted(set(numbers))
    return f"{low} to {more[-1]}" if more else str(low)


def p_value(p: float | None) -> str:
    """Returns a p-value to 3 decimals, a smaller one in powers of ten."""
    if p is None:
        return NONE
    return f"{p:.3f}" if p >= 0.0005 else f"{p:.0e}"


def plain(value: float | None, form: str = ".2f") -> str:
    """Returns a number in the given format."""
    return NONE if value is None or not math.isfinite(value) else format(value, form)


def steps_text(median: float | None, reached: int, runs: int) -> str:
    """Returns median steps to a target, and how many runs reach it."""
    if median is None or not runs:
        return NONE
    return f"{'not reached' if math.isinf(median) else format(median, 'g')} ({reached}/{runs})"


def setting_text(setting: dict[str, float]) -> str:
    """Returns chosen values, short."""
    short = {"weight_decay": "wd"}
    return ", ".join(f"{short.get(key, key)} {value:g}" for key, value in setting.items()) or NONE
