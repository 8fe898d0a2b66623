"""Several tests at once: p-values adjusted for their number."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values adjusted by Holm's step-down method; None stays None and does not count.

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
