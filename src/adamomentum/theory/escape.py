r"""How long an optimizer stays in a basin: heavy-tailed noise, the law for a frozen preconditioner, and a stopwatch.

A walker starts at the bottom of a basin, 0, and steps against the basin's gradient plus noise; it has left when it is
farther than ``width`` from the bottom. Symmetric alpha-stable noise has the characteristic function exp(-|u|^alpha):
alpha = 2 is Gaussian with variance 2, alpha = 1 Cauchy; below 2 its variance is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adamomentum.theory.arguments import check_number
from adamomentum.theory.steppers import Stepper

__all__ = ["Exits", "exit_times", "frozen_exit_steps", "sample_stable", "stable_tail_constant"]

Array = NDArray[np.float64]


def _check_alpha(alpha: float) -> float:
    if not 0 < alpha <= 2:
        raise ValueError(f"alpha must be in (0, 2], got {alpha}; it is the index of stability, 2 for Gaussian noise")
    return float(alpha)


def stable_tail_constant(alpha: float) -> float:
    """C in P(X > x) ~ C x^-alpha for symmetric alpha-stable X: sin(pi alpha / 2) Gamma(alpha) / pi.

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
    """Draws symmetric alpha-stable numbers by the method of Chambers, Mallows and Stuck (1976).

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
    angle = rng.uniform(-math.pi / 2, math.pi / 2, shape)
    if alpha == 1:
        return np.tan(angle)
    drawn: Array = np.sin(alpha * angle) / np.cos(angle) ** (1 / alpha)
    return drawn * (np.cos((1 - alpha) * angle) / rng.exponential(size=shape)) ** ((1 - alpha) / alpha)


def frozen_exit_steps(alpha: float, width: float, lr: float, sigma: float, preconditioner: float = 1.0) -> float:
    r"""Mean number of steps in a basin with a frozen preconditioner R, where single jumps decide.

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


@dataclass(frozen=True)
class Exits:
    """Exit times of many walkers.

    Attributes:
        times: steps of those that left.
        censored: how many were still in at the end.
        limit: the last step that was looked at.
    """

    times: Array
    censored: int
    limit: int

    @property
    def mean(self) -> float:
        """All steps over all exits: the mean, if exits come at a constant rate; infinite without an exit."""
        total = float(self.times.sum()) + self.censored * self.limit
        return total / self.times.size if self.times.size else math.inf

    @property
    def error(self) -> float:
        """Relative standard error of the mean."""
        return 1 / math.sqrt(self.times.size) if self.times.size else math.inf


def exit_times(
    make: Callable[[Array], Stepper],
    gradient: Callable[[Array], Array],
    width: float,
    noise: Callable[[tuple[int, ...]], Array],
    *,
    walkers: int,
    limit: int,
    burn: int = 0,
    dimensions: int = 1,
) -> Exits:
    """Lets walkers leave a basin.

    Args:
        make: the optimizer, from where the walkers start: shape (walkers, dimensions).
        gradient: of the basin, for positions of that shape.
        width: a walker farther than this from 0 has left.
        noise: added to the gradient, by shape.
        walkers: how many.
        limit: after so many steps those still in are counted as censored.
        burn: steps before the clock starts, in which whoever leaves is put back to 0; moments are kept.
        dimensions: of the basin.

    Returns:
        The times.
    """
    stepper = make(np.zeros((walkers, dimensions)))
    for _ in range(burn):
        stepper.step(gradient(stepper.theta) + noise(stepper.theta.shape))
        stepper.theta[(stepper.theta**2).sum(axis=1) > width**2] = 0
    times: list[Array] = []
    for t in range(1, limit + 1):
        stepper.step(gradient(stepper.theta) + noise(stepper.theta.shape))
        left = (stepper.theta**2).sum(axis=1) > width**2
        count = int(left.sum())
        if count:
            times.append(np.full(count, float(t)))
            if count == len(left):
                return Exits(np.concatenate(times), 0, t)
            stepper.keep(~left)
    return Exits(np.concatenate(times) if times else np.zeros(0), len(stepper.theta), limit)
