r"""AdaMomentum, Algorithm 1 of arXiv 2106.11514, in NumPy float64: the specification of this library.

Every other implementation here is tested against this one, parameters and state, step by step. It is
written to be read beside the paper; it is not fast. The lines of Algorithm 1 and the code that renders
them:

====================================================  ====================================================
Algorithm 1                                           ``step`` below
====================================================  ====================================================
m_0 = 0, v_0 = 0                                      ``State.zeros``
t <- t + 1                                            ``t = state.step + 1``
g_t = grad f_t(theta_{t-1})                           ``g``, the caller's gradient
m_t = beta1 m_{t-1} + (1 - beta1) g_t                 ``m = beta1 * state.m + (1 - beta1) * g``
v_t = beta2 v_{t-1} + (1 - beta2) m_t^2 + eps         ``v = beta2 * state.v + (1 - beta2) * m**2 + eps``
mhat_t = m_t / (1 - beta1^t)                          ``m_hat = m / (1 - beta1**t)``
vhat_t = v_t / (1 - beta2^t)                          ``v_hat = v / (1 - beta2**t)``
theta_t = theta_{t-1} - alpha mhat_t / sqrt(vhat_t)   ``theta - lr * m_hat / np.sqrt(v_hat)``
====================================================  ====================================================

Two things set it apart from Adam. The square of the *momentum*, not of the gradient, enters v. And eps is
added to v at every step, where it accumulates, instead of once to the root: the smallest possible
denominator is sqrt(eps / (1 - beta2)).

What is not in Algorithm 1 is a switch, off by default: ``amsgrad``, the three kinds of weight decay,
``rectify`` and ``maximize`` follow the paper's experiments; ``full_bias_correction``, and ``adjust_lr``,
``second_moment`` and ``nesterov``, which make a drop-in for AdamW, are this library's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["State", "momentum_floor", "rectification", "step", "white_noise_mean"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class State:
    """What Algorithm 1 carries from one step to the next, for one parameter array of shape S.

    Attributes:
        step: t, the number of steps taken.
        m: first moment m_t, float64, shape S.
        v: second moment v_t with eps accumulated in it, float64, shape S.
        v_max: running maximum of v over the steps taken with ``amsgrad``, float64, shape S.
    """

    step: int
    m: Array
    v: Array
    v_max: Array

    @classmethod
    def zeros(cls, theta: ArrayLike) -> State:
        """Return the state before the first step, for parameters of ``theta``'s shape."""
        zero = np.zeros(np.shape(theta))
        return cls(0, zero, zero, zero)


def rectification(t: int, beta2: float) -> float | None:
    """Return RAdam's variance rectification factor r_t (arXiv 1908.03265, Algorithm 2).

    Args:
        t: step number, from 1.
        beta2: decay rate of the second moment.

    Returns:
        r_t, or None while the variance is intractable: while fewer than 5 terms effectively enter the
        second moment, the threshold of the AdaMomentum experiments (RAdam's paper has 4).
    """
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho < 5:
        return None
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


def white_noise_mean(t: float, betas: tuple[float, float], *, lookahead: bool = False, passes: float = 1.0) -> float:
    """Return kappa_t, the mean of v_t (eps aside) for gradients that are white noise of variance 1.

    What v averages the square of is x_t = p m_{t-1} + q g_t: the momentum with p = beta1, q = 1 - beta1, the
    look-ahead momentum with p = beta1^2, q = 1 - beta1^2. As g_t is independent of m_{t-1}, whose variance is
    c (1 - beta1^(2(t-1))) with c = (1 - beta1) / (1 + beta1)::

        E x_t^2 = q^2 + p^2 c (1 - beta1^(2(t-1)))
        kappa_t = (1 - beta2) sum_s beta2^(t-s) E x_s^2
                = q^2 (1 - beta2^t) + p^2 c [(1 - beta2^t) - (1 - beta2) (beta2^t - a^t) / (beta2 - a)],  a = beta1^2.

    Of K micro-batches whose gradients were not kept, K times the last one's stands for the sum: its variance
    is K, so q^2 grows by (1 - beta1)^2 (K - 1).

    Args:
        t: step number, from 1.
        betas: decay rates (beta1, beta2) of the two moments.
        lookahead: whether x is the look-ahead momentum.
        passes: K, for the look-ahead momentum alone.

    Returns:
        kappa_t, to a relative error of 1e-12 also where beta2 is near beta1^2.
    """
    beta1, beta2 = betas
    p, q2 = beta1, (1 - beta1) ** 2
    if lookahead:
        p, q2 = beta1**2, (1 - beta1**2) ** 2 + (1 - beta1) ** 2 * (passes - 1)
    c = (1 - beta1) / (1 + beta1)
    correction2 = -math.expm1(t * math.log(beta2)) if beta2 else 1.0

    # (beta2^t - a^t) / (beta2 - a) = high^(t-1) (1 - (low / high)^t) / (1 - low / high), the last quotient t at 1.
    high, low = max(beta1**2, beta2), min(beta1**2, beta2)
    gap = (high - low) / high if low else 1.0
    ratio = t if gap == 0 else 1.0 if gap == 1 else -math.expm1(t * math.log1p(-gap)) / gap
    later = correction2 - (1 - beta2) * math.pow(high, t - 1) * ratio
    return q2 * correction2 + p**2 * c * later


def momentum_floor(passes: float, *, lookahead: bool) -> float:
    """Return the share of abs(m) that abs(x) counts as at least, where v averages the square of x.

    In the look-ahead momentum K times the last of K micro-batches' gradients can be as large as the momentum and of
    the other sign, as that of a whole step, which is a part of m, cannot. While v is the average of a few steps, one
    such square near 0 would move the parameter by hundreds of lr.

    With 1/2 no first step is longer than 2 sqrt((1 + beta1)^2 + K - 1) lr (:func:`white_noise_mean` divided out), and
    the mean of v in Gaussian noise grows by less than 1.5 % (beta1 from .5 to .98, K from 2 to 64), which
    :func:`white_noise_mean` leaves out.

    Args:
        passes: K; 1 where x has the whole step's gradient, which needs no floor.
        lookahead: whether x is the look-ahead momentum.
    """
    return 0.5 if lookahead and passes != 1 else 0.0


def step(
    theta: ArrayLike,
    grad: ArrayLike,
    state: State,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-16,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = True,
    fixed_decay: bool = False,
    rectify: bool = False,
    full_bias_correction: bool = False,
    maximize: bool = False,
    adjust_lr: str | None = None,
    second_moment: str | None = None,
    nesterov: bool = False,
    last_grad: ArrayLike | None = None,
    passes: int = 1,
) -> tuple[Array, State]:
    """Make one step of Algorithm 1 on one parameter array.

    Args:
        theta: parameters theta_{t-1}, real, shape S.
        grad: gradient of the objective at ``theta``, shape S.
        state: the state after t - 1 steps.
        lr: step size alpha.
        betas: decay rates (beta1, beta2) of the two moments.
        eps: added to the second moment at every step, in units of the gradient squared.
        weight_decay: strength of the decay, in units that depend on the two switches below.
        amsgrad: divide by the largest v so far, eps included, instead of the current one.
        decoupled_weight_decay: shrink theta by ``lr * weight_decay``; if False, add
            ``weight_decay * theta`` to the gradient (L2).
        fixed_decay: shrink theta by ``weight_decay`` whatever the value of lr, but not by a step of lr 0:
            such a step never moves the parameters. For decoupled decay only.
        rectify: scale the step by RAdam's factor; while the variance is intractable the step is
            ``lr * m_hat``, with no denominator, so it is as large as the gradient.
        full_bias_correction: average the square of ``m_hat`` in v instead of that of ``m``. The first step
            is then lr instead of lr / (1 - beta1).
        maximize: follow the gradient upwards.
        adjust_lr: "match_rms_adamw" divides v by its mean in white noise, :func:`white_noise_mean`, instead of
            by 1 - beta2^t: steps are as long as AdamW's at the same lr. Not with ``full_bias_correction``.
        second_moment: what v averages the square of: "momentum", or "lookahead" for beta1 m + (1 - beta1) g.
            None is "lookahead" with ``adjust_lr`` or ``nesterov``, else "momentum".
        nesterov: move by the look-ahead momentum over 1 - beta1^(t+1), the sum of its weights, instead of m_hat.
        last_grad: with gradients released as they come, the last micro-batch's, shape S; ``passes`` times this
            stands in the look-ahead momentum for ``grad``, their sum, and :func:`momentum_floor` keeps its square
            from being too small. None: ``grad`` itself.
        passes: micro-batches a step, 1 without ``last_grad``.

    Returns:
        theta_t, and the state after t steps. The arguments are not changed.
    """
    theta, g = np.asarray(theta, np.float64), np.asarray(grad, np.float64)
    beta1, beta2 = betas
    t = state.step + 1

    ahead = g if last_grad is None else passes * np.asarray(last_grad, np.float64)

    if maximize:
        g, ahead = -g, -ahead
    if not decoupled_weight_decay:
        g, ahead = g + weight_decay * theta, ahead + weight_decay * theta
    elif fixed_decay:
        theta = theta * (1 - weight_decay) if lr != 0 else theta
    else:
        theta = theta * (1 - lr * weight_decay)

    m = beta1 * state.m + (1 - beta1) * g
    n = beta1 * m + (1 - beta1) * ahead
    m_hat = n / (1 - beta1 ** (t + 1)) if nesterov else m / (1 - beta1**t)
    lookahead = second_moment == "lookahead" or (second_moment is None and bool(adjust_lr or nesterov))
    averaged = n if lookahead else m_hat if full_bias_correction else m
    square = np.maximum(averaged**2, momentum_floor(passes, lookahead=lookahead) ** 2 * m**2)
    v = beta2 * state.v + (1 - beta2) * square + eps
    v_max = np.maximum(state.v_max, v) if amsgrad else state.v_max
    correction2 = white_noise_mean(t, betas, lookahead=lookahead, passes=passes) if adjust_lr else 1 - beta2**t
    v_hat = (v_max if amsgrad else v) / correction2

    r = rectification(t, beta2) if rectify else 1.0
    direction = m_hat if r is None else r * m_hat / np.sqrt(v_hat)
    return theta - lr * direction, State(t, m, v, v_max)
