r"""How long an optimizer stays in a basin: heavy-tailed noise, the law for a frozen preconditioner, and a stopwatch.

A walker starts at the bottom of a basin, 0, and steps against the basin's gradient plus noise; it has left when it is
farther than ``width`` from the bottom. Symmetric alpha-stable noise has the characteristic function exp(-|u|^alpha):
alpha = 2 is Gaussian with variance 2, alpha = 1 Cauchy; below 2 its variance is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adamomentum.theory.common import Array, check_beta, check_number
from adamomentum.theory.moments import noise_attenuation
from adamomentum.theory.steppers import Stepper

__all__ = [
    "Assumption5",
    "Exits",
    "assumption5",
    "exit_times",
    "frozen_exit_steps",
    "outside",
    "sample_stable",
    "settle",
    "stable_tail_constant",
]


PATIENCE = 50


def _check_alpha(alpha: float) -> float:
    if not 0 < alpha <= 2:
        raise ValueError(f"alpha must be in (0, 2], got {alpha}; it is the index of stability, 2 for Gaussian noise")
    return float(alpha)


def stable_tail_constant(alpha: float) -> float:
    """Return C in P(X > x) ~ C x^-alpha for symmetric alpha-stable X: sin(pi alpha / 2) Gamma(alpha) / pi.

    Source: Samorodnitsky and Taqqu, Stable Non-Gaussian Random Processes, 1994, property 1.2.15.

    Args:
        alpha: index of stability, in (0, 2).

    Returns:
        C; 0 for the Gaussian alpha = 2, which has no such tail.

    Raises:
        ValueError: if alpha is out of range.
    """
    alpha = _check_alpha(alpha)
    return 0.0 if alpha == 2 else math.sin(math.pi * alpha / 2) * math.gamma(alpha) / math.pi


def sample_stable(alpha: float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw symmetric alpha-stable numbers, below 2 by the method of Chambers, Mallows and Stuck (1976).

    Args:
        alpha: index of stability, in (0, 2].
        shape: of the result.
        rng: source of randomness.

    Returns:
        Independent numbers with the characteristic function exp(-|u|^alpha).

    Raises:
        ValueError: if alpha is out of range.
    """
    alpha = _check_alpha(alpha)
    if alpha == 2:
        return rng.normal(scale=math.sqrt(2), size=shape)
    angle = rng.uniform(-math.pi / 2, math.pi / 2, shape)
    if alpha == 1:
        return np.tan(angle)
    drawn: Array = np.sin(alpha * angle) / np.cos(angle) ** (1 / alpha)
    return drawn * (np.cos((1 - alpha) * angle) / rng.exponential(size=shape)) ** ((1 - alpha) / alpha)


def frozen_exit_steps(alpha: float, width: float, lr: float, sigma: float, preconditioner: float = 1.0) -> float:
    r"""Return the mean number of steps in a basin with a frozen preconditioner R, where single jumps decide.

    .. math:: \frac{1}{2 C_\alpha} \left( \frac{R w}{\eta \sigma} \right)^\alpha

    In each step a jump of lr sigma X / R is longer than the width with probability 2 C (lr sigma / (R w))^alpha; the
    basin brings back whatever is shorter, so the shape of the basin does not matter. This is what Theorem 2 of the
    paper's supplement amounts to in one dimension. The limit of small lr: steps in between must be many and small. For
    an optimizer whose preconditioner sees the jumps it does not hold.

    Args:
        alpha: index of stability of the noise, in (0, 2).
        width: w, distance from the bottom to the edge, units of theta.
        lr: learning rate.
        sigma: scale of the noise in the gradient.
        preconditioner: R, units of sigma times lr / theta.

    Returns:
        The number of steps.

    Raises:
        ValueError: if an argument is out of range.
    """
    if not 0 < alpha < 2:
        raise ValueError(f"alpha must be in (0, 2), got {alpha}; Gaussian noise has no jumps")
    for name, value, what in (
        ("width", width, "the distance to the edge"),
        ("lr", lr, "the learning rate"),
        ("sigma", sigma, "the scale of the noise"),
        ("preconditioner", preconditioner, "what the step is divided by"),
    ):
        check_number(name, value, what)
    return math.pow(preconditioner * width / (lr * sigma), alpha) / (2 * stable_tail_constant(alpha))


class Assumption5(NamedTuple):
    """What Assumption 5 asks of the momentum in noise, and what there is.

    Attributes:
        required: E m^2 / E g^2 that it asks for at least.
        attained: the same in white noise, by the recursion of the momentum.
        possible: whether any stationary noise, however correlated, has as much.
    """

    required: float
    attained: float
    possible: bool


def assumption5(beta1: float = 0.9) -> Assumption5:
    r"""Compute Assumption 5 of the paper, as its proof of Proposition 1 uses it, and what the momentum of noise is.

    .. math::
        E\, m^2 \ge \frac{2 - \beta_1}{\beta_1} E\, g^2
        \qquad\text{but}\qquad
        E\, m^2 = \frac{1 - \beta_1}{1 + \beta_1} E\, g^2

    in white noise, from the recursion m = beta1 m' + (1 - beta1) g with m' and g independent. In correlated stationary
    noise there is more, but never more than 1: m is a weighted average of gradients of one mean square (Minkowski). The
    assumption asks for more than 1 at every beta1 < 1.

    Args:
        beta1: decay rate of the momentum, above 0.

    Returns:
        Both ratios, and whether the first is possible.

    Raises:
        ValueError: if beta1 is out of range.
    """
    beta1 = check_number("beta1", check_beta("beta1", beta1), "the decay rate of the momentum")
    required = (2 - beta1) / beta1
    return Assumption5(required, noise_attenuation(beta1), required <= 1)


@dataclass(frozen=True)
class Exits:
    """Exit times of many walkers.

    Attributes:
        times: steps of those that left.
        censored: how many were still in at the end.
        limit: the last step that was made.
    """

    times: Array
    censored: int
    limit: int

    @property
    def mean(self) -> float:
        """The mean, all steps over all exits, if exits come at a constant rate; infinite without an exit."""
        total = float(self.times.sum()) + self.censored * self.limit
        return total / self.times.size if self.times.size else math.inf

    @property
    def error(self) -> float:
        """Relative standard error of the mean."""
        return 1 / math.sqrt(self.times.size) if self.times.size else math.inf


def settle(
    stepper: Stepper,
    gradient: Callable[[Array], Array],
    width: float,
    noise: Callable[[tuple[int, ...]], Array],
    steps: int,
) -> None:
    """Let moments forget their start: whoever leaves the basin is put back to 0, its moments are kept.

    Args:
        stepper: the optimizer; positions of shape (walkers, dimensions).
        gradient: as for :func:`exit_times`.
        width: likewise.
        noise: likewise.
        steps: how many.
    """
    for _ in range(steps):
        stepper.step(gradient(stepper.theta) + noise(stepper.theta.shape))
        stepper.theta[outside(stepper.theta, width)] = 0


def outside(theta: Array, width: float) -> NDArray[np.bool_]:
    """Return which walkers are outside of a basin.

    Args:
        theta: positions, shape (walkers, dimensions).
        width: distance from 0 to the edge.
    """
    out: NDArray[np.bool_] = (theta**2).sum(axis=1) > width**2
    return out


def exit_times(
    make: Callable[[Array], Stepper],
    gradient: Callable[[Array], Array],
    width: float,
    noise: Callable[[tuple[int, ...]], Array],
    *,
    walkers: int,
    limit: int,
    enough: int = 0,
    burn: int = 0,
    dimensions: int = 1,
) -> Exits:
    """Let walkers leave a basin.

    Args:
        make: the optimizer, from where the walkers start: shape (walkers, dimensions).
        gradient: of the basin, for positions of that shape.
        width: a walker farther than this from 0 has left.
        noise: added to the gradient, by shape.
        walkers: how many.
        limit: after so many steps those still in are counted as censored.
        enough: the limit waits until so many have left, but not for more than ``PATIENCE`` (50) times as many steps.
        burn: steps of :func:`settle` before the clock starts.
        dimensions: of the basin.

    Returns:
        The times.
    """
    stepper = make(np.zeros((walkers, dimensions)))
    settle(stepper, gradient, width, noise, burn)
    times: list[Array] = []
    t, gone = 0, 0
    while t < limit or (gone < enough and t < PATIENCE * limit):
        t += 1
        stepper.step(gradient(stepper.theta) + noise(stepper.theta.shape))
        left = outside(stepper.theta, width)
        count = int(left.sum())
        if count:
            times.append(np.full(count, float(t)))
            gone += count
            if gone == walkers:
                break
            stepper.keep(~left)
    return Exits(np.concatenate(times) if times else np.zeros(0), walkers - gone, t)
