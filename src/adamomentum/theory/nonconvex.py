r"""Stationarity on smooth nonconvex objectives: Theorem 1 and Corollary 1, corrected.

Setting: f has an L-Lipschitz gradient and is bounded below by f*; the gradient g_t is unbiased given the past, its
variance E |g_t - grad f|^2 is at most sigma^2, and each of its coordinates is at most G in size. The step is

    theta_(t+1) = theta_t - a_t P_t m_t,    m_t = beta1_t m_(t-1) + (1 - beta1_t) g_t,    t = 1, 2, ...

with P_t the inverse root of the bias-corrected second moment, and a_t = lr_t / (1 - beta1_t^t) the learning rate with
the correction of the first moment in it. Nothing is used of P_t but b_l <= P_t <= b_u: the same theorem holds for Adam,
AdaBelief and others, so it cannot tell them apart. With ``adjust_lr`` only a_t is another:
:func:`adamomentum.theory.drop_in.step_sizes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adamomentum.theory.common import Array, Bound, check_beta, check_number

__all__ = ["Constants", "applicable", "gradnorm_bound", "preconditioner_bounds", "step_limit"]


@dataclass(frozen=True)
class Constants:
    """What is known of objective, noise and optimizer.

    Attributes:
        smoothness: L, Lipschitz constant of the gradient, loss / theta^2.
        variance: sigma^2, of the gradient, summed over coordinates.
        largest: G, bound on each coordinate of the gradient.
        gap: f(theta_1) - f*.
        first_gradient: squared norm of the gradient at theta_1.
        eps: the optimizer's.
        beta2: likewise.

    Raises:
        ValueError: if one is out of range.
    """

    smoothness: float
    variance: float
    largest: float
    gap: float
    first_gradient: float
    eps: float = 1e-16
    beta2: float = 0.999

    def __post_init__(self) -> None:
        check_number("smoothness", self.smoothness, "the Lipschitz constant of the gradient")
        check_number("eps", self.eps, "added to v at every step; without it P_t has no bound")
        for name in ("variance", "largest", "gap", "first_gradient"):
            check_number(name, getattr(self, name), "a property of the objective", positive=False)
        check_beta("beta2", self.beta2)


def preconditioner_bounds(c: Constants) -> tuple[float, float]:
    """Return b_l = 1 / sqrt(G^2 + eps / (1 - beta2)) and b_u = sqrt((1 - beta2) / eps), between which P_t lies.

    Args:
        c: the constants.

    Returns:
        (b_l, b_u), in 1 / gradient.
    """
    floor = c.eps / (1 - c.beta2)
    return 1 / math.sqrt(c.largest**2 + floor), 1 / math.sqrt(floor)


def step_limit(c: Constants, one_minus_beta1: float) -> float:
    """Return the largest a_t that the theorem allows where 1 - beta1_(t+1) is given.

    min((1 - beta1) sqrt(b_l / (2 L^2 b_u^3)), b_l / (2 L b_u^2)).

    Args:
        c: the constants.
        one_minus_beta1: 1 - beta1, in (0, 1].

    Returns:
        The limit of lr / (1 - beta1^t).

    Raises:
        ValueError: if ``one_minus_beta1`` is out of range.
    """
    if not 0 < one_minus_beta1 <= 1:
        raise ValueError(f"one_minus_beta1 must be in (0, 1], got {one_minus_beta1}; it is 0.1 for beta1 = 0.9")
    return float(_step_limits(c, np.asarray(one_minus_beta1)))


def _step_limits(c: Constants, one_minus_beta1: Array) -> Array:
    low, high = preconditioner_bounds(c)
    by_momentum = one_minus_beta1 * math.sqrt(low / (2 * c.smoothness**2 * high**3))
    limits: Array = np.minimum(by_momentum, low / (2 * c.smoothness * high**2))
    return limits


def applicable(c: Constants, alpha: Array, one_minus_beta1: Array) -> str:
    """Return which assumption on the schedule is not met; empty if all are.

    Args:
        c: the constants.
        alpha: a_1, ..., a_T.
        one_minus_beta1: 1 - beta1_1, ..., 1 - beta1_(T+1): one more.

    Returns:
        The reason, as a sentence without a full stop.
    """
    limit = _step_limits(c, one_minus_beta1[1:])
    over = alpha > limit * (1 + 1e-12)
    if over.any():
        t = int(over.argmax())
        return f"lr / (1 - beta1^t) must be <= {limit[t]:.2g} in step {t + 1}, got {alpha[t]:.2g}"
    return ""


def gradnorm_bound(c: Constants, alpha: Array, one_minus_beta1: Array, *, printed: bool = False) -> Bound:
    r"""Return Theorem 1's bound on the mean of E |grad f(theta_t)|^2 over t = 1, ..., T.

    .. math::
        \frac{1}{T \min_t a_t} \left[ \frac{2 (f(\theta_1) - f^*)}{b_l} + \kappa \Big( \beta_{11}^2
        |\nabla f(\theta_1)|^2 + (1 - \beta_{11})^2 \sigma^2 + \sigma^2 \sum_{t=1}^T (1 - \beta_{1,t+1})^2 \Big)
        \right], \qquad \kappa = \frac{1}{L \sqrt{2 b_u b_l}}

    for a_t that stay below :func:`step_limit`. Follows from three inequalities. With
    D_t = |m_t - grad f(theta_t)|^2: (i) f(theta_(t+1)) <= f(theta_t) + a_t b_u D_t / 2 - a_t b_l |grad f|^2 / 2 -
    a_t b_l |m_t|^2 / 4, by smoothness and a_t <= b_l / (2 L b_u^2); (ii) E D_(t+1) <= beta1 D_t + beta1^2 L^2 a_t^2
    b_u^2 |m_t|^2 / (1 - beta1) + (1 - beta1)^2 sigma^2, with beta1 = beta1_(t+1), by Young's inequality; (iii) a_t b_u
    D_t / 2 <= (b_u A / 2) (1 - beta1) D_t for a_t <= (1 - beta1) A. Sum them: the terms in |m_t|^2 cancel, those in D_t
    telescope. That a_t does not grow, as the paper has it, is not needed if the smallest stands for a_T.

    For 1 - beta1_t and a_t proportional to 1 / sqrt(t) it is of the order log T / sqrt(T) (Corollary 1). At constant
    beta1 and lr it does not vanish.

    Args:
        c: the constants.
        alpha: a_1, ..., a_T, units of theta.
        one_minus_beta1: 1 - beta1_1, ..., 1 - beta1_(T+1).
        printed: the paper's constants instead: sqrt(2 / (L b_u b_l)) sigma^2 before the sum, where L should be L^2,
            so that the bound depends on the units of theta; and a_T, which must not grow.

    Returns:
        The bound, in squared gradient.

    Raises:
        ValueError: if the schedules have other lengths, or are out of range.
    """
    alpha, one_minus_beta1 = np.asarray(alpha, np.float64), np.asarray(one_minus_beta1, np.float64)
    if alpha.ndim != 1 or not alpha.size or one_minus_beta1.shape != (alpha.size + 1,):
        raise ValueError(
            f"one_minus_beta1 must have one number more than alpha, got shapes {one_minus_beta1.shape} and "
            f"{alpha.shape}"
        )
    if not ((one_minus_beta1 > 0) & (one_minus_beta1 <= 1)).all():
        raise ValueError("one_minus_beta1 must be in (0, 1] everywhere; it is 0.1 for beta1 = 0.9")
    if not (alpha > 0).all():
        raise ValueError(f"alpha must be > 0 everywhere, got {alpha.min()}")
    low, high = preconditioner_bounds(c)
    kappa = math.sqrt(1 / (2 * c.smoothness**2 * high * low))
    spread = float((one_minus_beta1[1:] ** 2).sum())
    first = one_minus_beta1[0]
    if printed:
        total = 2 * c.gap / low + kappa * (c.variance + c.first_gradient)
        total += math.sqrt(2 / (c.smoothness * high * low)) * c.variance * spread
    else:
        start = (1 - first) ** 2 * c.first_gradient + first**2 * c.variance
        total = 2 * c.gap / low + kappa * (start + c.variance * spread)
    reason = applicable(c, alpha, one_minus_beta1)
    grew = np.diff(alpha) > 1e-12 * alpha[:-1]
    if not reason and printed and grew.any():
        reason = f"the learning rate grew in step {int(grew.argmax()) + 2}"
    if not reason and printed and c.smoothness < 0.25:
        reason = f"the printed constant is smaller than what is proved for L < 1/4, got L = {c.smoothness:g}"
    smallest = alpha[-1] if printed else alpha.min()
    return Bound(float(total / (smallest * alpha.size)), not reason, reason)
