"""AdaMomentum's two moments in closed form, beside Adam's: their size, the step they make, the floor they leave.

Symbols: beta1, beta2 are the decay rates of the first and second moment, m and v; a = (1 - beta1) / (1 + beta1) is
the share of a white noise's power that m lets through; gamma = beta1 / sqrt(beta2). Adam is the usual one, whose v
averages the square of the gradient. Sources: this library, where nothing else is said.

What concerns the start and single gradients is in :mod:`adamomentum.theory.transients`, whose functions are here too.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from adamomentum.theory.common import Array, check_beta, check_betas, check_number, check_steps
from adamomentum.theory.transients import (
    max_update,
    max_update_at,
    outlier_displacement,
    startup_profile,
    warmup_peak,
)

__all__ = [
    "Kind",
    "adam_equivalent_lr",
    "ar1_momentum_ratio",
    "crossover_gradient",
    "denominator_floor",
    "ema_gain",
    "max_update",
    "max_update_at",
    "noise_attenuation",
    "noise_floor",
    "outlier_displacement",
    "restoration_factor",
    "snr_step",
    "stable_lr",
    "startup_profile",
    "v_sandwich",
    "warmup_peak",
]

Kind = Literal["adam", "adamomentum", "adabelief"]
"""Which optimizer a formula is about."""


def ema_gain(omega: ArrayLike, beta1: float = 0.9) -> Array:
    """Return |H(omega)|, by which m shrinks a gradient that oscillates.

    For g_t = G cos(omega t + phase), m_t tends to an oscillation of amplitude |H| G, with
    |H(omega)| = (1 - beta1) / sqrt(1 - 2 beta1 cos(omega) + beta1^2).

    Args:
        omega: angular frequency in radians a step, any shape; pi is a gradient that changes sign at every step.
        beta1: decay rate of m.

    Returns:
        |H|, in [a, 1], of ``omega``'s shape.

    Raises:
        ValueError: if ``beta1`` is out of range.
    """
    beta1 = check_beta("beta1", beta1)
    return np.asarray((1 - beta1) / np.abs(1 - beta1 * np.exp(-1j * np.asarray(omega, np.float64))))


def restoration_factor(omega: ArrayLike, beta1: float = 0.9) -> Array:
    """Return by how much AdaMomentum's update exceeds Adam's when the gradient oscillates: 1 / :func:`ema_gain`.

    The RMS of AdaMomentum's update is lr at every frequency, since v holds the same |H|^2 as m^2; that of Adam's is
    |H(omega)| lr. Assumes v steady: (1 - beta2) small beside omega and beside 1 - beta1 (exact for every beta2 at
    omega = 0 and pi, where m^2 is constant), many more than 1 / (1 - beta2) steps taken, eps negligible.

    Args:
        omega: angular frequency in radians a step, any shape.
        beta1: decay rate of m.

    Returns:
        The factor, from 1 at omega = 0 to 1 / a at pi, of ``omega``'s shape.

    Raises:
        ValueError: if ``beta1`` is out of range.
    """
    return 1 / ema_gain(omega, beta1)


def noise_attenuation(beta1: float = 0.9) -> float:
    """Return E m^2 / E g^2 for gradients that are uncorrelated and have mean 0: a = (1 - beta1) / (1 + beta1).

    Raises:
        ValueError: if ``beta1`` is out of range.
    """
    beta1 = check_beta("beta1", beta1)
    return (1 - beta1) / (1 + beta1)


def ar1_momentum_ratio(phi: ArrayLike, beta1: float = 0.9) -> Array:
    """Return E m^2 / E g^2 for a stationary noise g whose correlation over k steps is phi^k.

    a (1 + beta1 phi) / (1 - beta1 phi), below 1 for every phi: as for any stationary noise, since the norm of an
    average is at most the average of the norms.

    Args:
        phi: correlation of neighbours, in (-1, 1), any shape.
        beta1: decay rate of m.

    Returns:
        The ratio, of ``phi``'s shape.

    Raises:
        ValueError: if an argument is out of range.
    """
    phi = np.asarray(phi, np.float64)
    if not (np.abs(phi) < 1).all():
        raise ValueError(f"phi must be in (-1, 1), got {phi}; it is the correlation of neighbouring gradients")
    return np.asarray(noise_attenuation(beta1) * (1 + beta1 * phi) / (1 - beta1 * phi))


def _second_moment(rho_squared: Array | float, beta1: float, kind: str) -> Array:
    """Return V / sigma^2 for a gradient of mean mu and variance sigma^2, rho = mu / sigma."""
    if kind == "adam":
        return np.asarray(1 + rho_squared)
    if kind == "adamomentum":
        return np.asarray(noise_attenuation(beta1) + rho_squared)
    if kind == "adabelief":
        # g_t - m_t = beta1 (g_t - m_(t - 1)), the difference of two independent numbers of equal mean.
        return np.asarray(np.zeros_like(rho_squared) + 2 * check_beta("beta1", beta1) ** 2 / (1 + beta1))
    raise ValueError(f"kind must be 'adamomentum', 'adam' or 'adabelief', got {kind!r}")


def snr_step(rho: ArrayLike, beta1: float = 0.9, kind: Kind = "adamomentum") -> tuple[Array, Array]:
    """Return the mean and the RMS of the update in one coordinate, for gradients of a mean in uncorrelated noise.

    g_t has mean mu and standard deviation sigma and is uncorrelated in time, rho = mu / sigma. With V the second
    moment over sigma^2, that is 1 + rho^2 for Adam, a + rho^2 for AdaMomentum and 2 beta1^2 / (1 + beta1) for
    AdaBelief (the square of g - m), the mean is rho / sqrt(V) and the RMS sqrt((a + rho^2) / V). AdaMomentum's RMS is 1
    whatever the noise; Adam's falls to sqrt(a).

    Assumes v steady at its mean, which is the limit beta2 -> 1, many more than 1 / (1 - beta2) steps taken, and eps
    negligible. Only the first two moments of the gradient enter, so it holds for sparse gradients too: g = c with
    probability p, else 0, has rho = sqrt(p / (1 - p)).

    Args:
        rho: signal to noise ratio mu / sigma of the coordinate, any shape.
        beta1: decay rate of m.
        kind: ``adamomentum``, ``adam`` or ``adabelief``.

    Returns:
        Mean and RMS of the update, in lr, of ``rho``'s shape.

    Raises:
        ValueError: if an argument is out of range.
    """
    rho = np.asarray(rho, np.float64)
    root = np.sqrt(_second_moment(rho**2, beta1, kind))
    if not root.all():
        raise ValueError("beta1 must be > 0 for kind='adabelief', got 0: g - m is then always 0")
    return np.asarray(rho / root), np.asarray(np.sqrt(noise_attenuation(beta1) + rho**2) / root)


def adam_equivalent_lr(lr: float, beta1: float = 0.9, rho: float = 0.0) -> float:
    """Return the lr with which Adam moves as AdaMomentum does with ``lr``.

    lr sqrt((1 + rho^2) / (a + rho^2)): the same factor for the mean and for the RMS of :func:`snr_step`, under its
    assumptions. Without signal it is sqrt((1 + beta1) / (1 - beta1)), 4.36 for 0.9; without noise 1.

    Args:
        lr: AdaMomentum's learning rate.
        beta1: decay rate of m, of both.
        rho: signal to noise ratio of the gradient in a coordinate; may be infinite.

    Returns:
        Adam's learning rate.

    Raises:
        ValueError: if an argument is out of range.
    """
    lr = check_number("lr", lr, "the learning rate", positive=False)
    if math.isnan(rho):
        raise ValueError("rho must be a number, got nan; it is the signal to noise ratio, 0 for pure noise")
    return lr / math.sqrt(1 - (1 - noise_attenuation(beta1)) / (1 + rho**2))


def v_sandwich(betas: tuple[float, float] = (0.9, 0.999), steps: int | None = None) -> tuple[float, float]:
    """Return the limits of the ratio of the two roots, for the same gradients: sqrt(v of Adam / v of AdaMomentum).

    (1 - gamma) / (1 - beta1) <= ratio <= (1 + gamma) / (1 - beta1) for *every* sequence of gradients and at every
    step with a v > 0; no smaller interval will do. As both optimizers have the same m, it is also the ratio of
    AdaMomentum's update to Adam's at equal lr. It holds as well if the same number is added to both v. Assumes constant
    betas, both moments starting at 0, no eps but a common one in v. For gamma >= 1 the lower limit is 0.

    Within t steps the lower limit is a little higher, (1 - gamma) / ((1 - beta1) (1 - gamma^t)).

    The proof is in docs/theory/sandwich.md.

    Args:
        betas: decay rates (beta1, beta2), beta2 > 0.
        steps: at most so many steps have been taken since the start; None for any number.

    Returns:
        The lower and the upper limit.

    Raises:
        ValueError: if an argument is out of range.
    """
    beta1, beta2 = check_betas(betas)
    if beta2 == 0:
        raise ValueError("beta2 must be > 0, got 0; without memory in v the ratio has no limits")
    gamma = beta1 / math.sqrt(beta2)
    if steps is None:
        return max(0.0, (1 - gamma) / (1 - beta1)), (1 + gamma) / (1 - beta1)
    steps = check_steps("steps", steps, "how many were taken, None for any number")
    # 1 + gamma + ... + gamma^(steps - 1)
    total = steps if gamma == 1 else (1 - gamma**steps) / (1 - gamma)
    return 1 / ((1 - beta1) * total), (1 + gamma) / (1 - beta1)


def denominator_floor(eps: float = 1e-16, beta2: float = 0.999) -> float:
    """Return the smallest denominator, sqrt(eps / (1 - beta2)), in units of the gradient.

    eps is added to v at every step and accumulates to eps (1 - beta2^t) / (1 - beta2); the bias correction makes that
    eps / (1 - beta2) at every step. Assumes constant eps and beta2.

    Args:
        eps: as the optimizer's.
        beta2: decay rate of v.

    Raises:
        ValueError: if an argument is out of range.
    """
    eps = check_number("eps", eps, "what is added to the second moment at every step", positive=False)
    return math.sqrt(eps / (1 - check_beta("beta2", beta2)))


def crossover_gradient(eps: float, betas: tuple[float, float] = (0.9, 0.999), omega: float = math.pi) -> float:
    """Return the RMS gradient at which an oscillating coordinate's update has fallen to lr / sqrt(2) because of eps.

    There the m^2 that enters v equals the floor: :func:`denominator_floor` / |H(omega)|. Below it the update tends to
    lr m / floor, a step of SGD. For a gradient that keeps its sign it is the floor itself, for one that alternates
    floor / a, and white noise has it at a standard deviation of floor / sqrt(a). Same assumptions as
    :func:`restoration_factor`.

    Args:
        eps: as the optimizer's.
        betas: decay rates.
        omega: angular frequency of the gradient in radians a step.

    Returns:
        RMS of the gradient, in its units; the amplitude for omega = 0 and pi.

    Raises:
        ValueError: if an argument is out of range.
    """
    beta1, beta2 = check_betas(betas)
    return denominator_floor(eps, beta2) / float(ema_gain(omega, beta1))


def stable_lr(curvature: float, eps: float, betas: tuple[float, float] = (0.9, 0.999)) -> float:
    """Return the lr below which a minimum is stable, without noise and at constant lr.

    Near a minimum of the quadratic curvature x^2 / 2 all gradients vanish, v falls to its floor, and what is left is
    gradient descent with momentum at lr / floor: stable if and only if
    lr * curvature < (2 + 2 beta1) / (1 - beta1) * sqrt(eps / (1 - beta2)) (Jury's criterion for
    z^2 - (1 + beta1 - (1 - beta1) lr curvature / floor) z + beta1). Above it x cannot tend to the minimum. In several
    dimensions, with a curvature in each coordinate, the largest decides; for a Hessian H that is not diagonal, and one
    eps, its largest eigenvalue.

    Args:
        curvature: largest eigenvalue of the Hessian at the minimum, loss / parameter^2.
        eps: as the optimizer's.
        betas: decay rates.

    Returns:
        The limit, exclusive.

    Raises:
        ValueError: if an argument is out of range.
    """
    beta1, beta2 = check_betas(betas)
    curvature = check_number("curvature", curvature, "the largest eigenvalue of the Hessian at the minimum")
    return 2 * (1 + beta1) / (1 - beta1) * denominator_floor(eps, beta2) / curvature


def noise_floor(
    lr: float, sigma: float = 1.0, curvature: float = 1.0, beta1: float = 0.9, kind: Kind = "adamomentum"
) -> float:
    """Return E x^2 that is left on the quadratic curvature x^2 / 2, at constant lr, with noise in the gradient.

    lr sigma / (2 curvature) / sqrt(V), V as in :func:`snr_step` without signal: for Adam 1 whatever beta1, for
    AdaMomentum a, so that its floor is that of Adam times sqrt((1 + beta1) / (1 - beta1)).

    To first order in lr: gradient descent with momentum at the step size s = lr / (sigma sqrt(V)) leaves
    s sigma^2 / (2 curvature) / (1 - (1 - beta1) s curvature / (2 + 2 beta1)). Further assumes white noise, against
    which the gradient of the quadratic is negligible in v, which needs s curvature << 1, and v steady as in
    :func:`snr_step`.

    Args:
        lr: learning rate.
        sigma: standard deviation of the gradient's noise, in units of the gradient.
        curvature: second derivative of the loss.
        beta1: decay rate of m.
        kind: ``adamomentum``, ``adam`` or ``adabelief``.

    Returns:
        E x^2, in units of the parameter squared.

    Raises:
        ValueError: if an argument is out of range.
    """
    lr = check_number("lr", lr, "the learning rate", positive=False)
    sigma = check_number("sigma", sigma, "the standard deviation of the gradient's noise")
    curvature = check_number("curvature", curvature, "the second derivative of the loss")
    root = math.sqrt(float(_second_moment(0.0, beta1, kind)))
    if root == 0:
        raise ValueError("beta1 must be > 0 for kind='adabelief', got 0: g - m is then always 0")
    return lr * sigma / (2 * curvature * root)
