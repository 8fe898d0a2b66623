"""Gradients of a mean in noise: the length of the step, and what is left of noise on a quadratic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adamomentum.theory.claims import Check, Claim, Experiment, Profile
from adamomentum.theory.experiments.assumption import assumption_5
from adamomentum.theory.experiments.responses import fresh, responses
from adamomentum.theory.moments import adam_equivalent_lr, noise_floor, snr_step
from adamomentum.theory.steppers import LABELS, Stepper

Array = NDArray[np.float64]
Name = Literal["adamomentum", "adam", "adabelief"]

NAMES: tuple[Name, ...] = ("adamomentum", "adam", "adabelief")
BETA2 = 0.999


def run(profile: Profile, seed: int) -> list[Claim]:
    """Run the optimizers on noise."""
    rng = np.random.default_rng([seed, 3])
    return [_signal_to_noise(profile, rng), _floor(profile, rng), assumption_5(profile, rng)]


def spread_of_v(beta1: float) -> float:
    """Return the variance of AdaMomentum's v in white Gaussian noise over its squared mean, at beta2 = 0.999.

    The correlation of m^2 over k steps is beta1^(2k), so it is (1 - beta2) / (1 + beta2) 2 (1 + beta1^2) /
    (1 - beta1^2). The formulas take v to be steady; what they miss is of this order.
    """
    return 2 * (1 - BETA2) / (1 + BETA2) * (1 + beta1**2) / (1 - beta1**2)


def _signal_to_noise(profile: Profile, rng: np.random.Generator) -> Claim:
    rhos = np.array([0.0, 0.1, 0.23, 0.5, 1.0, 3.0])
    rows, burn, steps = (250, 2000, 1000) if profile == "quick" else (2000, 4000, 4000)
    chance = 0.01
    shape = (rhos.size + 1, rows)

    def gradients() -> Iterator[Array]:
        for _ in range(burn + steps):
            noise = rhos[:, None] + rng.normal(size=(rhos.size, rows))
            yield np.concatenate([noise, (rng.uniform(size=(1, rows)) < chance).astype(np.float64)])

    steppers = [fresh(name, shape) for name in NAMES]
    total, squares = np.zeros((2, len(NAMES), *shape))
    for t, made in enumerate(responses(steppers, gradients())):
        if t >= burn:
            updates = np.stack(made)
            total += updates
            squares += updates**2
    drift, error = (total / steps).mean(axis=2), (total / steps).std(axis=2, ddof=1) / np.sqrt(rows)
    rms = np.sqrt((squares / steps).mean(axis=2))
    rms_error = (squares / steps).std(axis=2, ddof=1) / np.sqrt(rows) / (2 * rms)
    # The formulas take v for steady. Sparse gradients make it vary more: E g^4 is 1 / chance times the square of E g^2.
    allowed = np.append(np.full(rhos.size, 2 * spread_of_v(0.9)), (1 - BETA2) / (2 * chance))
    everywhere = np.append(rhos, np.sqrt(chance / (1 - chance)))
    expected = [snr_step(everywhere, 0.9, name) for name in NAMES]

    def agrees(measured: Name, formula: Name) -> Check:
        i, (mean, root) = NAMES.index(measured), expected[NAMES.index(formula)]
        off = np.abs(drift[i] - mean) - 4 * error[i] - allowed * mean
        off_rms = np.abs(rms[i] / root - 1) - 4 * rms_error[i] / root - allowed
        shown = ", ".join(f"{r:.3f} ({e:.3f})" for r, e in zip(rms[i, :-1], root, strict=False))
        return Check(
            f"{LABELS[measured]}'s RMS update at signal to noise {', '.join(f'{r:g}' for r in rhos)} is {shown} lr, "
            f"and in a sparse coordinate (a gradient every 100 steps) the mean update is {drift[i, -1]:.3f} "
            f"({mean[-1]:.3f}) lr; means and RMS must be {LABELS[formula]}'s (in brackets) to {100 * allowed[0]:.1f} "
            f"%, sparse {100 * allowed[-1]:.0f} %, and 4 standard errors",
            bool((off < 0).all() and (off_rms < 0).all()),
        )

    factor = rms[0] / rms[1]
    formula = np.array([adam_equivalent_lr(1.0, 0.9, rho) for rho in everywhere])
    off = np.abs(factor / formula - 1)
    return Claim(
        key="signal-to-noise",
        title="AdaMomentum's update is 1 lr whatever the noise; Adam's shrinks with it to 0.23 lr, so that in noise "
        "AdaMomentum moves like Adam at 4.36 lr",
        source="this library",
        printed=(
            agrees("adamomentum", "adamomentum"),
            agrees("adam", "adam"),
            agrees("adabelief", "adabelief"),
            Check(
                "AdaMomentum's RMS update over Adam's is "
                + ", ".join(f"{f:.3f} ({e:.3f})" for f, e in zip(factor[:-1], formula, strict=False))
                + f"; must be what is in brackets to {200 * allowed[0]:.1f} %",
                bool((off[:-1] < 2 * allowed[:-1]).all()),
            ),
        ),
        control=agrees("adam", "adamomentum"),
        relied_on=True,
        note="To move as far a step, Adam's lr has to be divided by the factor: by 4.36 in noise, by 1 without. Adam's "
        "own slowing down in noise is what AdaMomentum gives up.",
        data={"rho": rhos, "names": list(NAMES), "drift": drift[:, :-1], "rms": rms[:, :-1]},
    )


def on_quadratic(name: Name, lr: float, beta1: float, size: tuple[int, int, int], rng: np.random.Generator) -> float:
    """Return E x^2 of an optimizer on x^2 / 2 with standard normal noise in the gradient, at constant lr.

    Args:
        name: of the optimizer.
        lr: learning rate.
        beta1: decay rate of m; that of v is 0.999.
        size: how many independent coordinates, steps to forget the start, steps to average over.
        rng: of the noise.
    """
    rows, burn, steps = size
    spread = np.sqrt(noise_floor(lr, 1.0, 1.0, beta1, name))
    stepper = Stepper(name, spread * rng.normal(size=rows), lr=lr, betas=(beta1, BETA2))
    total = 0.0
    for t in range(burn + steps):
        stepper.step(stepper.theta + rng.normal(size=rows))
        if t >= burn:
            total += float((stepper.theta**2).mean())
    return total / steps


def _floor(profile: Profile, rng: np.random.Generator) -> Claim:
    lr, beta1s = 0.02, (0.5, 0.8, 0.9, 0.95, 0.99)
    size = (1500, 1000, 1000) if profile == "quick" else (6000, 3000, 4000)
    found = {name: np.array([on_quadratic(name, lr, b, size, rng) for b in beta1s]) for name in ("adamomentum", "adam")}
    factors = np.array([adam_equivalent_lr(1.0, b) for b in beta1s])
    # Adam's x^2, which has the longer memory, is correlated over 1 / lr steps: so many values count as independent,
    # and the square of a normal number has the relative variance 2. The quadratic's own gradient adds lr / 2 to Adam's
    # V of 1, which lowers its floor by lr / 4.
    adams = lr / 4 + 2 * (1 - BETA2) / (1 + BETA2) + 4 * np.sqrt(2 / (size[0] * size[2] * lr))
    allowed = np.array([spread_of_v(b) for b in beta1s]) + np.sqrt(2) * adams
    equal = adam_equivalent_lr(lr)
    equal_allowed = allowed[beta1s.index(0.9)] + equal / 4
    ratio = found["adamomentum"] / found["adam"]
    matched = on_quadratic("adam", equal, 0.9, size, rng)
    at_09 = found["adamomentum"][beta1s.index(0.9)]

    def independent(whose: str, floors: Array) -> Check:
        return Check(
            f"{whose} floor over lr / 2 at beta1 {beta1s} is {', '.join(f'{2 * f / lr:.3f}' for f in floors)}; must "
            f"be 1 to {100 * adams:.1f} %",
            bool((np.abs(2 * floors / lr - 1) < adams).all()),
        )

    return Claim(
        key="noise-floor",
        title="At constant lr AdaMomentum's noise floor is sqrt((1 + beta1) / (1 - beta1)) times Adam's; Adam's does "
        "not depend on beta1",
        source="this library",
        printed=(
            independent("Adam's", found["adam"]),
            Check(
                f"AdaMomentum's over Adam's, at beta1 {beta1s}: "
                + ", ".join(f"{r:.2f} ({f:.2f})" for r, f in zip(ratio, factors, strict=True))
                + "; must be what is in brackets to "
                + ", ".join(f"{100 * a:.0f} %" for a in allowed),
                bool((np.abs(ratio / factors - 1) < allowed).all()),
            ),
            Check(
                f"Adam at {equal / lr:.2f} times the lr has the floor {matched:.3e}, AdaMomentum "
                f"{at_09:.3e}; must agree to {100 * equal_allowed:.0f} %",
                bool(abs(matched / at_09 - 1) < equal_allowed),
            ),
        ),
        control=independent("AdaMomentum's", found["adamomentum"]),
        relied_on=True,
        note="Both floors are proportional to lr: let it decay. And change lr with beta1.",
        data={
            "beta1": beta1s,
            "adamomentum": 2 * found["adamomentum"] / lr,
            "adam": 2 * found["adam"] / lr,
            "formula": factors,
        },
    )


EXPERIMENTS = (Experiment("noise", run),)
