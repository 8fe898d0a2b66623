r"""The drop-in for AdamW in closed form: how long its steps are, what its denominator sees, when it is stable.

With ``adjust_lr="match_rms_adamw"`` the second moment v is divided by kappa_t, its mean in white noise of variance 1
(:func:`adamomentum.reference.white_noise_mean`), so that v_t / kappa_t estimates what Adam's v_t / (1 - beta2^t) does.
v averages the square of the momentum m, or of the look-ahead momentum n_t = beta1 m_t + (1 - beta1) g_t; as
(1 - beta1) g_t = m_t - beta1 m_(t-1),

    n_t = (1 + beta1) m_t - beta1 m_(t-1)    and    m_t = (n_t + beta1 m_(t-1)) / (1 + beta1).

Symbols: beta1, beta2 are the decay rates; a = (1 - beta1) / (1 + beta1); kappa without t is its limit for large t, a
for m and (1 - beta1^2)^2 + beta1^4 a for n. All in units of lr, with eps negligible. What v averages the square of is
called by the option's name, ``momentum`` or ``lookahead``; ``gradient`` is Adam. Sources: this library.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from adamomentum.reference import white_noise_mean
from adamomentum.second_moment import adam_ratio
from adamomentum.theory.common import Array, check_beta, check_betas, check_number, check_steps
from adamomentum.theory.moments import ar1_momentum_ratio, ema_gain, noise_attenuation

__all__ = [
    "Averaged",
    "ar1_length",
    "denominator",
    "largest_momentum",
    "largest_weight",
    "longest_update",
    "signal_profile",
    "stable_lr",
    "step_sizes",
    "white_noise_share",
]

Averaged = Literal["gradient", "momentum", "lookahead"]
"""What v averages the square of; ``gradient`` is Adam."""


def _check(averaged: str) -> None:
    if averaged not in ("gradient", "momentum", "lookahead"):
        raise ValueError(f"averaged must be 'momentum', 'lookahead' or 'gradient', got {averaged!r}")


def white_noise_share(beta1: float = 0.9, averaged: Averaged = "lookahead") -> float:
    """Return kappa, the share of a white noise's power in what v averages the square of, late in training.

    Args:
        beta1: decay rate of m.
        averaged: what v averages the square of.

    Returns:
        1 for the gradient, and for beta1 = 0.9 1 / 19 for the momentum, 0.0706 for the look-ahead momentum.

    Raises:
        ValueError: if an argument is out of range.
    """
    _check(averaged)
    beta1 = check_beta("beta1", beta1)
    return 1.0 if averaged == "gradient" else adam_ratio(math.inf, beta1, 0.0, lookahead=averaged == "lookahead")


def denominator(omega: ArrayLike, beta1: float = 0.9, averaged: Averaged = "lookahead") -> Array:
    """Return sqrt(v_t / kappa_t) over the RMS of the gradient, for a gradient that oscillates.

    v lets through what it averages: |H(omega)| of the gradient for the momentum (:func:`~.moments.ema_gain`), and
    |H| |1 + beta1 - beta1 exp(-i omega)| for the look-ahead momentum, which is a (1 + 2 beta1) for gradients that
    alternate in sign. The update is |H| lr over this. White noise has 1 for all three by definition. Same assumptions
    as :func:`~.moments.restoration_factor`.

    Args:
        omega: angular frequency in radians a step, any shape; 0 a constant gradient, pi one that alternates in sign.
        beta1: decay rate of m.
        averaged: what v averages the square of.

    Returns:
        Of ``omega``'s shape. For beta1 = 0.9: 4.36 and 3.76 for a constant gradient, 0.229 and 0.555 for one that
        alternates (momentum, look-ahead momentum); 1 for Adam.

    Raises:
        ValueError: if an argument is out of range.
    """
    share, omega = white_noise_share(beta1, averaged), np.asarray(omega, np.float64)
    if averaged == "gradient":
        return np.ones_like(omega)
    gain = ema_gain(omega, beta1)
    if averaged == "lookahead":
        gain = gain * np.abs(1 + beta1 - beta1 * np.exp(-1j * omega))
    return np.asarray(gain / math.sqrt(share))


def stable_lr(swing: float, beta1: float = 0.9, averaged: Averaged = "lookahead") -> float:
    """Return the lr below which a swing across the valley of a quadratic dies away, and above which it grows.

    On curvature x^2 / 2 gradient descent with momentum at the step size s is stable if and only if s curvature < 2 / a
    (Jury's criterion, see :func:`~.moments.stable_lr`), and leaves that range with x alternating in sign. A swing that
    has gone on at the size |x| = swing has gradients that alternate at curvature swing, and
    :func:`denominator` (pi) times that is what lr is divided by. So s curvature = lr / (denominator swing), and the
    limit 2 denominator swing / a does not depend on the curvature.

    The other way around, lr a / (2 denominator) is the size at which swings go on for good: at beta1 = 0.9 with Adam
    0.026 lr, with the look-ahead momentum 0.047 lr and with the momentum 0.115 lr, whatever the curvature. Assumes v
    steady at first: while x changes, few steps against 1 / (1 - beta2).

    Args:
        swing: size of x, which alternates in sign, in units of the parameter.
        beta1: decay rate of m.
        averaged: what v averages the square of.

    Returns:
        The limit, in units of the parameter: for beta1 = 0.9 and a swing of 1 it is 8.7 for the momentum, 21.1 for the
        look-ahead momentum, 38 for Adam.

    Raises:
        ValueError: if an argument is out of range.
    """
    swing = check_number("swing", swing, "the size of an x that alternates in sign")
    return 2 * float(denominator(math.pi, beta1, averaged)) * swing / noise_attenuation(beta1)


def signal_profile(steps: int, betas: tuple[float, float] = (0.9, 0.999), averaged: Averaged = "lookahead") -> Array:
    """Return the updates of the drop-in's first steps against a constant gradient.

    sqrt(kappa_t) over the root of what v_t has: m_s = (1 - beta1^s) g and n_s = (1 - beta1^(s + 1)) g. The first update
    is 1; they tend to sqrt(kappa), where Adam's stay 1: what it costs to count a signal as if it were noise.

    Args:
        steps: how many.
        betas: decay rates.
        averaged: what v averages the square of.

    Returns:
        Lengths of the updates of steps 1, 2, ..., in lr, shape (steps,).

    Raises:
        ValueError: if an argument is out of range.
    """
    _check(averaged)
    steps = check_steps("steps", steps, "the number of updates asked for")
    beta1, beta2 = check_betas(betas)
    lookahead = averaged == "lookahead"
    lengths, v = np.ones(steps), 0.0
    if averaged == "gradient":
        return lengths
    for t in range(1, steps + 1):
        v = beta2 * v + (1 - beta2) * (1 - beta1 ** (t + lookahead)) ** 2
        lengths[t - 1] = math.sqrt(white_noise_mean(t, (beta1, beta2), lookahead=lookahead) / v)
    return lengths


def ar1_length(phi: ArrayLike, beta1: float = 0.9, averaged: Averaged = "lookahead") -> Array:
    """Return the RMS of the update in a stationary noise whose correlation over k steps is phi^k.

    sqrt(E m^2 / (E x^2 / kappa)), x what v averages the square of: sqrt(a) for the momentum in every stationary noise,
    :func:`~.moments.ar1_momentum_ratio`'s root for Adam. With M the latter's square and
    M' = E m_t m_(t-1) / E g^2 = beta1 M + (1 - beta1)^2 phi / (1 - beta1 phi), E n^2 / E g^2 is
    ((1 + beta1)^2 + beta1^2) M - 2 beta1 (1 + beta1) M'. Assumes v steady at its mean.

    Args:
        phi: correlation of neighbours, in (-1, 1), any shape.
        beta1: decay rate of m.
        averaged: what v averages the square of.

    Returns:
        RMS, in lr, of ``phi``'s shape: at 0 sqrt(a) for all three.

    Raises:
        ValueError: if an argument is out of range.
    """
    share, power = white_noise_share(beta1, averaged), ar1_momentum_ratio(phi, beta1)
    if averaged == "gradient":
        return np.sqrt(power)
    if averaged == "momentum":
        return np.full_like(power, math.sqrt(share))
    phi = np.asarray(phi, np.float64)
    neighbours = beta1 * power + (1 - beta1) ** 2 * phi / (1 - beta1 * phi)
    averages = ((1 + beta1) ** 2 + beta1**2) * power - 2 * beta1 * (1 + beta1) * neighbours
    return np.sqrt(power * share / averages)


def largest_momentum(betas: tuple[float, float] = (0.9, 0.999), averaged: Averaged = "lookahead") -> float:
    """Return C, the smallest number with |m_t| <= C sqrt(v_t / (1 - beta2)) for every sequence of gradients.

    1 for the momentum, whose square is one term of v. For the look-ahead momentum m_t is the sum of q^k n_(t-k) over
    1 + beta1, q = beta1 / (1 + beta1), so by Cauchy and Schwarz C^2 is the sum of (q^2 / beta2)^k over (1 + beta1)^2:
    C = 1 / sqrt((1 + beta1)^2 - beta1^2 / beta2), 0.598 at the defaults. For Adam the sum of
    ((1 - beta1) (beta1 / sqrt(beta2))^k)^2.

    Args:
        betas: decay rates.
        averaged: what v averages the square of.

    Returns:
        C; infinite where the sum is.

    Raises:
        ValueError: if an argument is out of range.
    """
    _check(averaged)
    beta1, beta2 = check_betas(betas)
    if averaged == "momentum" or beta1 == 0:
        return 1.0
    first, ratio = (1 - beta1, beta1) if averaged == "gradient" else (1 / (1 + beta1), beta1 / (1 + beta1))
    return first / math.sqrt(1 - ratio**2 / beta2) if ratio**2 < beta2 else math.inf


def largest_weight(betas: tuple[float, float] = (0.9, 0.999), averaged: Averaged = "lookahead") -> float:
    """Return K, the largest sqrt(kappa_t) / (1 - beta1^t) of all steps t.

    It is by this that lr is multiplied where |m_t| / sqrt(v_t) is what is known. kappa_t is at most kappa, so what
    comes after step t is at most sqrt(kappa) / (1 - beta1^t): the search ends where that is sqrt(kappa). For the
    momentum and 1 - beta2 <= a, which (0.9, 0.999) and (0.9, 0.95) meet, K is sqrt(kappa) = sqrt(a); the proof is in
    docs/theory/regret.md. For Adam 1 - beta2^t stands for kappa_t.

    Args:
        betas: decay rates.
        averaged: what v averages the square of.

    Returns:
        K: 0.229, 0.266 and 1 at the defaults for momentum, look-ahead momentum and Adam.

    Raises:
        ValueError: if an argument is out of range.
    """
    beta1, beta2 = check_betas(betas)
    share = white_noise_share(beta1, averaged)
    last = 1 if beta1 == 0 else math.ceil(math.log(1e-13) / math.log(beta1))
    t = np.arange(1, last + 1)
    if averaged == "gradient":
        means = 1 - beta2**t
    else:
        means = np.array([white_noise_mean(int(k), betas, lookahead=averaged == "lookahead") for k in t])
    return math.sqrt(max(share, float((means / (1 - beta1**t) ** 2).max())))


def longest_update(betas: tuple[float, float] = (0.9, 0.999), averaged: Averaged = "lookahead") -> float:
    """Return a length that no update exceeds, whatever the gradients: C K / sqrt(1 - beta2).

    C is :func:`largest_momentum`, K :func:`largest_weight`. Where K is the limit for large t, as at the defaults,
    updates come as near to it as one likes; where it is an early step's, which does not reach C, it is a bound alone.

    Args:
        betas: decay rates.
        averaged: what v averages the square of.

    Returns:
        The length, in lr: at the defaults 5.02 for the look-ahead momentum, 7.25 for the momentum and 7.27 for Adam,
        beside 31.6 for Algorithm 1 (:func:`~.transients.max_update`).

    Raises:
        ValueError: if an argument is out of range.
    """
    return largest_momentum(betas, averaged) * largest_weight(betas, averaged) / math.sqrt(1 - check_betas(betas)[1])


def step_sizes(steps: int, betas: tuple[float, float] = (0.9, 0.999), averaged: Averaged = "lookahead") -> Array:
    """Return a_1, a_2, ... of :mod:`~.nonconvex` at lr 1 and constant betas: the step with the scalars taken out.

    The update is a_t m_t / sqrt(v_t / (1 - beta2^t)) with a_t = sqrt(kappa_t / (1 - beta2^t)) / (1 - beta1^t), and with
    |n_t| <= max |g| like |m_t| the root of the look-ahead's v has the bounds of the momentum's. So a_t is all that
    changes in the bound on gradient norms; for ``gradient`` it is Adam's and Algorithm 1's 1 / (1 - beta1^t).

    Args:
        steps: how many.
        betas: decay rates.
        averaged: what v averages the square of.

    Returns:
        a_t, in lr, shape (steps,). At the defaults from 1 (1.9 for the look-ahead momentum), down to 0.220 (0.260) at
        step 41 (50), and from there up to sqrt(kappa), 0.229 (0.266).

    Raises:
        ValueError: if an argument is out of range.
    """
    _check(averaged)
    steps = check_steps("steps", steps, "how many are asked for")
    beta1, beta2 = check_betas(betas)
    ratios = np.ones(steps)
    if averaged != "gradient":
        ratios = np.array([adam_ratio(t, beta1, beta2, lookahead=averaged == "lookahead") for t in range(1, steps + 1)])
    return np.asarray(np.sqrt(ratios) / (1 - beta1 ** np.arange(1, steps + 1)))
