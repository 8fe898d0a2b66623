"""What the functions of this package share: the type of arrays, a bound and its conditions, checks of arguments.

Tested in tests/theory/test_moments.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DEFAULTS = {"beta1": "the first moment, usually 0.9", "beta2": "the second moment, usually 0.999"}


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


def check_beta(name: str, value: float) -> float:
    """Return a decay rate if it is in [0, 1).

    Raises:
        ValueError: if it is not.
    """
    if not 0 <= value < 1:
        raise ValueError(
            f"{name} must be in [0, 1), got {value}; it is the decay rate of {_DEFAULTS[name.removeprefix('new_')]}"
        )
    return float(value)


def check_betas(betas: tuple[float, float]) -> tuple[float, float]:
    """Return (beta1, beta2) if both are in [0, 1).

    Raises:
        ValueError: if they are not, or not two.
    """
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"betas must be a pair (beta1, beta2) such as (0.9, 0.999), got {betas}")
    return check_beta("beta1", betas[0]), check_beta("beta2", betas[1])


def check_number(name: str, value: float, what: str, *, positive: bool = True) -> float:
    """Return a finite number if it is > 0, or >= 0 where ``positive`` is False.

    Args:
        name: of the argument.
        value: its value.
        what: what it is, for the message.
        positive: whether 0 is excluded.

    Raises:
        ValueError: if it is out of range.
    """
    if not (math.isfinite(value) and (value > 0 if positive else value >= 0)):
        raise ValueError(f"{name} must be finite and {'>' if positive else '>='} 0, got {value}; it is {what}")
    return float(value)


def check_steps(name: str, value: int, what: str) -> int:
    """Return a number of steps if it is a whole number from 1 on.

    Raises:
        ValueError: if it is not.
    """
    if value != int(value) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value}; it is {what}")
    return int(value)
