"""Numbers as text, for the tables of the page.

Tested in tests/bench/test_page.py.
"""

from __future__ import annotations

from adamomentum.bench.timing import quartiles

__all__ = ["duration", "ratio", "significant"]


def ratio(values: list[float]) -> str:
    """Return the median and quartiles, e.g. ``0.91 [0.88, 0.93]``."""
    q = quartiles(values)
    return f"{significant(q.median)} [{significant(q.low)}, {significant(q.high)}]"


def significant(value: float) -> str:
    """Return a ratio or a count of bytes with two digits after the point, or one or none where it is large."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Return a time with three digits, in the unit that suits it."""
    if seconds >= 999.5:
        return f"{seconds:.0f} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
