"""That what the experiments step is Algorithm 1: the statements that hold for other optimizers too rest on this one.

Tested in tests/theory/test_experiments.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adamomentum import reference
from adamomentum.theory.claims import Check, Claim, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.steppers import Stepper

COORDINATES, LR = 50, 0.01
STEPS = {"quick": 300, "full": 3000}
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"betas": (0.5, 0.9), "eps": 1e-4},
    {"amsgrad": True},
    {"full_bias_correction": True},
)
# In lr: rounding in float64 is far below, any other rule far above.
TOLERANCE = 1e-9


def run(profile: Profile, seed: int) -> list[Claim]:
    """Step both beside each other."""
    rng = np.random.default_rng([seed, 11])
    steps = STEPS[profile]
    # From small to large gradients, with signs that stay and signs that change.
    sizes, means = 10 ** rng.uniform(-3, 3, COORDINATES), rng.uniform(-2, 2, COORDINATES)
    gradients = sizes * (means + rng.normal(size=(steps, COORDINATES)))
    start = rng.normal(size=COORDINATES)

    distances: dict[str, list[float]] = {}

    def same(name: str, what: str) -> Check:
        settings = SETTINGS[: 1 if name == "adam" else None]
        distances[name] = [_apart(name, start, gradients, options) for options in settings]
        apart = max(distances[name])
        return Check(
            f"{what}: over {steps} steps on {COORDINATES} coordinates the parameters are at most {apart:.2g} lr from "
            f"those of Algorithm 1 in NumPy; must be at most {TOLERANCE:g}",
            apart <= TOLERANCE,
        )

    return [
        Claim(
            key="algorithm-1",
            title="What is stepped here is Algorithm 1 of the paper",
            source="Algorithm 1",
            printed=(same("adamomentum", f"the library's optimizer, in {len(SETTINGS)} settings"),),
            control=same("adam", "Adam"),
            relied_on=True,
            data={"settings": SETTINGS, "distances": distances},
            note="Bounds on regret and on gradients hold for whatever meets their few assumptions. That they are "
            "checked on this optimizer and no other follows from this.",
        )
    ]


def _apart(name: str, start: Array, gradients: Array, options: dict[str, Any]) -> float:
    """Return the largest distance to the reference along the run, in lr."""
    stepper = Stepper(name, start, lr=LR, **options)
    theta, state = start, reference.State.zeros(start)
    worst = 0.0
    for gradient in gradients:
        stepper.step(gradient)
        theta, state = reference.step(theta, gradient, state, lr=LR, **options)
        worst = max(worst, float(np.abs(stepper.theta - theta).max()) / LR)
    return worst
