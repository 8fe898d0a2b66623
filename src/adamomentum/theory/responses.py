"""How an optimizer answers given gradients, and gradients to give it.

Tested in tests/theory/test_experiments.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from adamomentum.theory.common import Array
from adamomentum.theory.steppers import Stepper

# No part of any denominator here, and still not 0, where Algorithm 1 divides 0 by 0 before the first gradient.
NO_EPS = {"adamomentum": 1e-300, "adam": 1e-200, "adabelief": 1e-200}


def responses(steppers: list[Stepper], gradients: Iterable[Array]) -> Iterator[list[Array]]:
    """Hand each gradient to all optimizers, which must have lr 1, and yield their updates, in lr.

    An update counts as positive if it is along the gradient's sign, that is theta_(t-1) - theta_t.
    """
    for gradient in gradients:
        updates = []
        for stepper in steppers:
            stepper.theta[...] = 0  # so that the update is read off without rounding
            stepper.step(gradient)
            updates.append(-stepper.theta)
        yield updates


def fresh(name: str, shape: tuple[int, ...], **options: Any) -> Stepper:
    """Return an optimizer of lr 1, with eps negligible unless it is given."""
    return Stepper(name, np.zeros(shape), **{"lr": 1.0, "eps": NO_EPS[name], **options})


FAMILIES = (
    "Gaussian",
    "sparse",
    "Cauchy",
    "alternating",
    "correlated",
    "growing and shrinking",
    "switching",
    "rare bursts",
)


def adversarial(rng: np.random.Generator, rows: int, steps: int) -> Iterator[Array]:
    """Yield gradients of all :data:`FAMILIES`, ``rows`` sequences of each, of shape (len(FAMILIES) * rows,).

    Each sequence draws its own parameters, so that a family covers all from the tame to the extreme.
    """
    chance = 10 ** rng.uniform(-3, -0.3, rows)
    wobble = 10 ** rng.uniform(-3, 0, rows)
    phi = 1 - 10 ** rng.uniform(-4, 0, rows)
    # Within float64 for some 2,000 steps, squares included.
    growth = np.exp(rng.uniform(-0.15, 0.15, rows))
    omega = rng.uniform(0, np.pi, rows)
    flip = 10 ** rng.uniform(-2.5, 0, rows)
    walk, sign, burst = rng.normal(size=rows), np.ones(rows), np.zeros(rows)
    for t in range(steps):
        normal = rng.normal(size=(5, rows))
        uniform = rng.uniform(size=(4, rows))
        walk = phi * walk + np.sqrt(1 - phi**2) * normal[0]
        sign = np.where(uniform[0] < flip, -sign, sign)
        burst = np.where(uniform[1] < chance, normal[1] * 10 ** (6 * uniform[3]), 0.7 * burst)
        yield np.concatenate(
            [
                normal[2],
                np.where(uniform[2] < chance, normal[3], 0.0),
                rng.standard_cauchy(rows),
                (-1.0) ** t * (1 + wobble * normal[4]),
                walk,
                growth ** (t % 1500) * np.cos(omega * t + 1),
                sign * (1 + 0.1 * normal[1]),
                burst,
            ]
        )
