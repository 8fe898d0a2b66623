"""The paper's Assumption 5, on the size of the momentum in noise."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

from adamomentum.theory.claims import Check, Claim, Profile
from adamomentum.theory.escape import assumption5
from adamomentum.theory.experiments.responses import fresh
from adamomentum.theory.moments import ar1_momentum_ratio
from adamomentum.theory.steppers import Stepper

Array = NDArray[np.float64]


def momentum_ratios(name: str, phis: Array, rows: int, steps: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return E m^2 / E g^2 in stationary noise whose correlation over k steps is phi^k, measured.

    Args:
        name: ``adamomentum``, or ``sgdm``: the sum of past gradients, weighted by 0.9^k, instead of their average.
        phis: correlations, shape (n,).
        rows: how many sequences each.
        steps: how many, after some to forget the start.
        rng: of the noise.

    Returns:
        Ratios and their standard errors, shape (n,) each.
    """
    g = rng.normal(size=(phis.size, rows))
    stepper = fresh(name, g.shape) if name == "adamomentum" else Stepper(name, np.zeros(g.shape), lr=1.0)
    key = "exp_avg" if name == "adamomentum" else "momentum_buffer"
    ours, theirs = np.zeros((2, *g.shape))
    for t in range(steps + 200):
        g = phis[:, None] * g + np.sqrt(1 - phis[:, None] ** 2) * rng.normal(size=g.shape)
        stepper.step(g)
        if t >= 200:
            ours += stepper.state[key] ** 2
            theirs += g**2
    ratio = ours.mean(axis=1) / theirs.mean(axis=1)
    residual = ours - ratio[:, None] * theirs
    return ratio, residual.std(axis=1, ddof=1) / np.sqrt(rows) / theirs.mean(axis=1)


def assumption_5(profile: Profile, rng: np.random.Generator) -> Claim:
    """Look for a noise that meets the assumption, and compute why there is none."""
    phis = np.array([-0.5, 0.0, 0.5, 0.9, 0.99, 0.999])
    rows, steps = (200, 1500) if profile == "quick" else (1000, 10000)
    beta1 = 0.9
    required = assumption5(beta1).required
    ratio, error = momentum_ratios("adamomentum", phis, rows, steps, rng)
    heavy, _ = momentum_ratios("sgdm", phis, rows, steps // 5, rng)
    expected = ar1_momentum_ratio(phis, beta1)
    # (2 - b) / b <= (1 - b) / (1 + b) times b (1 + b) on both sides, and the difference of the sides.
    b = Polynomial([0, 1])
    missing = ((2 - b) * (1 + b) - b * (1 - b)).trim(1e-15)

    def below(what: str, found: Array) -> Check:
        return Check(
            f"{what} E m^2 / E g^2 is {', '.join(f'{r:.3f}' for r in found)} for noise with correlations "
            f"{', '.join(f'{phi:g}' for phi in phis)} of neighbours; must be at most 1 in each (no average of a "
            f"stationary noise has more), and so below the {required:.3f} that the assumption asks for",
            bool((found <= 1).all() and required > 1),
        )

    return Claim(
        key="assumption-5",
        title="The mean square of the momentum is at least (2 - beta1) / beta1 times that of the gradient's noise",
        source="Assumption 5, supplement (as its proof of Proposition 1 uses it)",
        printed=(
            Check(
                f"E m^2 / E g^2 of AdaMomentum is at most {ratio.max():.3f} in the noises tried; must reach "
                f"{required:.3f} in at least one",
                bool(ratio.max() >= required),
            ),
        ),
        against=(
            Check(
                "with the proof's own recursion, E m^2 = beta1^2 E m^2 + (1 - beta1)^2 E g^2, it says beta1 (1 - "
                f"beta1) >= (2 - beta1) (1 + beta1): the right side minus the left is {missing.coef[0]:g} for every "
                f"beta1 (coefficients of the polynomial: {', '.join(f'{c:g}' for c in missing.coef)}), must be above "
                "0 to exclude it",
                missing.degree() == 0 and bool(missing.coef[0] > 0),
            ),
            below("AdaMomentum's", ratio),
            Check(
                "measured and closed form agree to 4 standard errors: "
                + ", ".join(f"{r:.3f} ({e:.3f})" for r, e in zip(ratio, expected, strict=True)),
                bool((np.abs(ratio - expected) < 4 * error + 1e-9).all()),
            ),
        ),
        control=below("of a sum of past gradients instead of their average,", heavy),
        note="If m owed its size to a gradient with a mean, that mean would be in Adam's v as well, from which the "
        "proof leaves it out.",
        data={"phi": phis, "measured": ratio, "formula": expected, "required": required},
    )
