"""What AdaMomentum and Adam do at the start and at one huge gradient, and how long one update can be.

All in units of lr, with eps negligible. In every formula beta1, beta2 are the decay rates of the two moments and
gamma = beta1 / sqrt(beta2). Sources: this library.

Tested in tests/theory/test_moments.py.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from adamomentum.theory.common import Array, check_betas, check_steps

__all__ = ["max_update", "max_update_at", "outlier_displacement", "startup_profile", "warmup_peak"]

Kind = Literal["adam", "adamomentum"]


def startup_profile(steps: int, betas: tuple[float, float] = (0.9, 0.999)) -> Array:
    """Return the updates of AdaMomentum's first steps against a constant gradient.

    Then m_t = (1 - beta1^t) g, so the update is sign(g) / sqrt(vhat_t / g^2), and vhat_t / g^2 is the average of
    (1 - beta1^s)^2 over s <= t with weights beta2^(t - s): the debiasing of v does not know that m itself started at 0.
    The first update is 1 / (1 - beta1) for every beta2; from there they fall, strictly for beta1 > 0, to 1. Adam's are
    all 1.

    Args:
        steps: how many.
        betas: decay rates.

    Returns:
        Lengths of the updates of steps 1, 2, ..., in lr, shape (steps,).

    Raises:
        ValueError: if an argument is out of range.
    """
    steps = check_steps("steps", steps, "the number of updates asked for")
    beta1, beta2 = check_betas(betas)
    lengths, v = np.empty(steps), 0.0
    for t in range(1, steps + 1):
        v = beta2 * v + (1 - beta2) * (1 - beta1**t) ** 2
        lengths[t - 1] = math.sqrt((1 - beta2**t) / v)
    return lengths


def warmup_peak(warmup: int, betas: tuple[float, float] = (0.9, 0.999)) -> float:
    """Return the longest update under linear warm-up and a constant gradient.

    Step t, counted from 1, is made with lr * min(1, t / warmup). As :func:`startup_profile` falls, the longest update
    is not after the warm-up's end.

    Args:
        warmup: the number of steps after which lr has its full value; 1 is no warm-up.
        betas: decay rates.

    Returns:
        Its length in units of the full lr, at least 1.

    Raises:
        ValueError: if an argument is out of range.
    """
    warmup = check_steps("warmup", warmup, "the number of steps of warm-up, 1 for none")
    return float((startup_profile(warmup, betas) * np.arange(1, warmup + 1) / warmup).max())


def max_update(betas: tuple[float, float] = (0.9, 0.999), kind: Kind = "adamomentum") -> float:
    """Return the supremum of one coordinate's update over all gradient sequences and all steps.

    AdaMomentum: v_t >= (1 - beta2) m_t^2, with equality if t is the first step with a gradient. So at step t the
    maximum is f_t / sqrt(1 - beta2), f_t = sqrt(1 - beta2^t) / (1 - beta1^t). As a function of t > 0, f_t^2 falls to 1,
    or falls below 1 and rises to it: its supremum is that of t = 1 and of t -> infinity, which gives
    max(1 / (1 - beta1), 1 / sqrt(1 - beta2)). The second is the larger one if and only if 1 - beta2 <= (1 - beta1)^2.

    Adam: by Cauchy and Schwarz, (1 - beta1) / sqrt((1 - beta2) (1 - gamma^2)), approached by gradients that grow by
    beta2 / beta1 a step; unbounded for gamma >= 1.

    Args:
        betas: decay rates.
        kind: ``adamomentum`` or ``adam``.

    Returns:
        Its length in lr.

    Raises:
        ValueError: if an argument is out of range.
    """
    beta1, beta2 = check_betas(betas)
    if _is_adam(kind):
        if beta1 == 0:  # gamma is 0 whatever beta2
            return 1 / math.sqrt(1 - beta2)
        return (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2)) if beta1**2 < beta2 else math.inf
    return max(1 / (1 - beta1), 1 / math.sqrt(1 - beta2))


def max_update_at(step: int, betas: tuple[float, float] = (0.9, 0.999)) -> float:
    """Return the longest update of AdaMomentum at one step: f_t / sqrt(1 - beta2) in :func:`max_update`'s symbols.

    Args:
        step: t, counted from 1.
        betas: decay rates.

    Returns:
        Its length in lr.

    Raises:
        ValueError: if an argument is out of range.
    """
    step = check_steps("step", step, "the number of the step, counted from 1")
    beta1, beta2 = check_betas(betas)
    return math.sqrt((1 - beta2**step) / (1 - beta2)) / (1 - beta1**step)


def outlier_displacement(
    betas: tuple[float, float] = (0.9, 0.999), kind: Kind = "adamomentum", *, step: int | None = None
) -> float:
    """Return how far one gradient, against which all others are negligible, moves a coordinate in all.

    k steps after it AdaMomentum's update is gamma^k sqrt((1 - gamma^2) / (1 - gamma^(2k + 2))) / sqrt(1 - beta2), and
    Adam's is gamma^k (1 - beta1) / sqrt(1 - beta2); both times the bias corrections' f_(t + k), see :func:`max_update`.
    Neither depends on the size of the gradient.

    Args:
        betas: decay rates.
        kind: ``adamomentum`` or ``adam``.
        step: the step t, counted from 1, of the gradient; None for late in training, where f is 1.

    Returns:
        The sum of all updates from it on, in lr; infinite for gamma >= 1.

    Raises:
        ValueError: if an argument is out of range.
    """
    beta1, beta2 = check_betas(betas)
    adam = _is_adam(kind)
    if beta1**2 >= beta2 and beta1 > 0:
        return math.inf
    gamma = beta1 / math.sqrt(beta2) if beta1 else 0.0
    # What is left out is below 1e-17 of the sum.
    k = np.arange(1 if gamma == 0 else math.ceil(math.log(1e-17 * (1 - gamma)) / math.log(gamma)) + 1)
    lengths = gamma**k / math.sqrt(1 - beta2)
    lengths *= (1 - beta1) if adam else np.sqrt((1 - gamma**2) / (1 - gamma ** (2.0 * k + 2)))
    if step is not None:
        t = check_steps("step", step, "the number of the step, counted from 1") + k
        lengths *= np.sqrt(1 - beta2**t) / (1 - beta1**t)
    return float(lengths.sum())


def _is_adam(kind: str) -> bool:
    if kind not in ("adam", "adamomentum"):
        raise ValueError(f"kind must be 'adamomentum' or 'adam', got {kind!r}")
    return kind == "adam"
