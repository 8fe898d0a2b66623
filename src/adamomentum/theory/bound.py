"""A bound's value, and whether its assumptions are met."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """A bound.

    Attributes:
        value: the right-hand side, whether or not the assumptions are met.
        applicable: whether they are, so that ``value`` is proved to be a bound.
        reason: which assumption is not met and why; empty if all are.
    """

    value: float
    applicable: bool
    reason: str = ""
