"""Markdown tables, and the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence

from adamomentum.bench.timing import quartiles

__all__ = ["duration", "markdown", "ratio", "significant"]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a left-aligned first column.

    Args:
        head: the column titles.
        rows: the cells of each row, as many as titles.
    """
    clean = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in [head, *rows]]
    lines = ["| " + " | ".join(line) + " |" for line in clean]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(head) - 1), *lines[1:]])


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
