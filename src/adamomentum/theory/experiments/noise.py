"""Gradients of a mean in noise: the length of the step, what is left of noise on a quadratic, and Assumption 5.

Tested in tests/theory/test_experiments.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.polynomial import Polynomial

from adamomentum.page.figures import plain_ticks
from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.escape import assumption5
from adamomentum.theory.moments import adam_equivalent_lr, ar1_momentum_ratio, noise_floor, snr_step
from adamomentum.theory.responses import fresh, responses
from adamomentum.theory.steppers import COLOURS, LABELS, Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Name = Literal["adamomentum", "adam", "adabelief"]

NAMES: tuple[Name, ...] = ("adamomentum", "adam", "adabelief")
BETA2 = 0.999
# How many independent sequences, steps to forget the start, and steps to average over: of a mean in noise, on the
# quadratic, and of correlated noise.
MEANS = {"quick": (250, 2000, 1000), "full": (2000, 4000, 4000)}
QUADRATIC = {"quick": (1500, 1000, 1000), "full": (6000, 3000, 4000)}
CORRELATED = {"quick": (200, 200, 1500), "full": (1000, 200, 10000)}
BETA1S = (0.5, 0.8, 0.9, 0.95, 0.99)


def run(profile: Profile, seed: int) -> list[Claim]:
    """Run the optimizers on noise."""
    rng = np.random.default_rng([seed, 3])
    return [_signal_to_noise(profile, rng), _floor(profile, rng), _assumption_5(profile, rng)]


def spread_of_v(beta1: float) -> float:
    """Return the variance of AdaMomentum's v in white Gaussian noise over its squared mean, at beta2 = 0.999.

    The correlation of m^2 over k steps is beta1^(2k), so it is (1 - beta2) / (1 + beta2) 2 (1 + beta1^2) /
    (1 - beta1^2). The formulas take v to be steady; what they miss is of this order.
    """
    return 2 * (1 - BETA2) / (1 + BETA2) * (1 + beta1**2) / (1 - beta1**2)


def _signal_to_noise(profile: Profile, rng: np.random.Generator) -> Claim:
    rhos = np.array([0.0, 0.1, 0.23, 0.5, 1.0, 3.0])
    rows, burn, steps = MEANS[profile]
    chance = 0.01
    shape = (rhos.size + 1, rows)

    def gradients() -> Iterator[Array]:
        for _ in range(burn + steps):
            noise = rhos[:, None] + rng.normal(size=(rhos.size, rows))
            yield np.concatenate([noise, (rng.uniform(size=(1, rows)) < chance).astype(np.float64)])

    steppers = [fresh(name, shape) for name in NAMES]
    total, squares = np.zeros((2, len(NAMES), *shape))
    for t, each in enumerate(responses(steppers, gradients())):
        if t >= burn:
            updates = np.stack(each)
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
    lr, beta1s, size = 0.02, BETA1S, QUADRATIC[profile]
    both: tuple[Name, ...] = ("adamomentum", "adam")
    measured = {name: np.array([on_quadratic(name, lr, b, size, rng) for b in beta1s]) for name in both}
    factors = np.array([adam_equivalent_lr(1.0, b) for b in beta1s])
    # Adam's x^2, which has the longer memory, is correlated over 1 / lr steps: so many values count as independent,
    # and the square of a normal number has the relative variance 2. The quadratic's own gradient adds lr / 2 to Adam's
    # V of 1, which lowers its floor by lr / 4.
    adams = lr / 4 + 2 * (1 - BETA2) / (1 + BETA2) + 4 * np.sqrt(2 / (size[0] * size[2] * lr))
    allowed = np.array([spread_of_v(b) for b in beta1s]) + np.sqrt(2) * adams
    equal = adam_equivalent_lr(lr)
    equal_allowed = allowed[beta1s.index(0.9)] + equal / 4
    ratio = measured["adamomentum"] / measured["adam"]
    matched = on_quadratic("adam", equal, 0.9, size, rng)
    at_09 = measured["adamomentum"][beta1s.index(0.9)]

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
            independent("Adam's", measured["adam"]),
            Check(
                f"AdaMomentum's over Adam's, at beta1 {beta1s}: "
                + ", ".join(f"{r:.2f} ({f:.2f})" for r, f in zip(ratio, factors, strict=True))
                + "; must be what is in brackets to "
                + ", ".join(f"{100 * a:.0f} %" for a in allowed),
                bool((np.abs(ratio / factors - 1) < allowed).all()),
            ),
            Check(
                f"Adam at {equal / lr:.2f} times the lr has the floor {matched:.3e}, AdaMomentum {at_09:.3e}; "
                f"must agree to {100 * equal_allowed:.0f} %",
                bool(abs(matched / at_09 - 1) < equal_allowed),
            ),
        ),
        control=independent("AdaMomentum's", measured["adamomentum"]),
        relied_on=True,
        note="Both floors are proportional to lr: let it decay. And change lr with beta1.",
        data={
            "beta1": beta1s,
            "adamomentum": 2 * measured["adamomentum"] / lr,
            "adam": 2 * measured["adam"] / lr,
            "formula": factors,
        },
    )


def momentum_ratios(
    name: str, phis: Array, size: tuple[int, int, int], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return E m^2 / E g^2 in stationary noise whose correlation over k steps is phi^k, measured.

    Args:
        name: ``adamomentum``, or ``sgdm``: the sum of past gradients, weighted by 0.9^k, instead of their average.
        phis: correlations, shape (n,).
        size: how many sequences each, steps to forget the start, steps to average over.
        rng: of the noise.

    Returns:
        Ratios and their standard errors, shape (n,) each.
    """
    rows, burn, steps = size
    g = rng.normal(size=(phis.size, rows))
    stepper = fresh(name, g.shape) if name == "adamomentum" else Stepper(name, np.zeros(g.shape), lr=1.0)
    key = "exp_avg" if name == "adamomentum" else "momentum_buffer"
    ours, theirs = np.zeros((2, *g.shape))
    for t in range(burn + steps):
        g = phis[:, None] * g + np.sqrt(1 - phis[:, None] ** 2) * rng.normal(size=g.shape)
        stepper.step(g)
        if t >= burn:
            ours += stepper.state[key] ** 2
            theirs += g**2
    ratio = ours.mean(axis=1) / theirs.mean(axis=1)
    residual = ours - ratio[:, None] * theirs
    return ratio, residual.std(axis=1, ddof=1) / np.sqrt(rows) / theirs.mean(axis=1)


def _assumption_5(profile: Profile, rng: np.random.Generator) -> Claim:
    """Look for a noise that meets the assumption, and compute why there is none."""
    phis = np.array([-0.5, 0.0, 0.5, 0.9, 0.99, 0.999])
    rows, burn, steps = CORRELATED[profile]
    beta1 = 0.9
    required = assumption5(beta1).required
    ratio, error = momentum_ratios("adamomentum", phis, (rows, burn, steps), rng)
    heavy, _ = momentum_ratios("sgdm", phis, (rows, burn, steps // 5), rng)
    expected = ar1_momentum_ratio(phis, beta1)
    # (2 - b) / b <= (1 - b) / (1 + b) times b (1 + b) on both sides, and the difference of the sides.
    b = Polynomial([0, 1])
    missing = ((2 - b) * (1 + b) - b * (1 - b)).trim(1e-15)

    def below(what: str, ratios: Array) -> Check:
        return Check(
            f"{what} E m^2 / E g^2 is {', '.join(f'{r:.3f}' for r in ratios)} for noise with correlations "
            f"{', '.join(f'{phi:g}' for phi in phis)} of neighbours; must be at most 1 in each (no average of a "
            f"stationary noise has more), and so below the {required:.3f} that the assumption asks for",
            bool((ratios <= 1).all() and required > 1),
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


def draw_signal_to_noise(ax: Axes, data: Data) -> None:
    """Draw the RMS update against the signal to noise ratio: measured dots, closed-form lines."""
    rho, names = np.asarray(data["rho"]), list(data["names"])
    # The logarithmic axis has no 0; pure noise stands at its left end.
    left = rho[rho > 0].min() / 3
    line = np.geomspace(left, rho.max() * 1.2, 200)
    for i, name in enumerate(names):
        ax.plot(line, snr_step(line, 0.9, name)[1], color=COLOURS[name], linewidth=1.2)
        ax.plot(np.maximum(rho, left), data["rms"][i], "o", color=COLOURS[name], label=LABELS[name], markersize=5)
    ax.set_xscale("log")
    ax.set_yscale("log")
    plain_ticks(ax.xaxis, [left, 0.1, 0.3, 1, 3])
    ax.xaxis.set_major_formatter(lambda v, _: "0" if abs(v / left - 1) < 1e-6 else f"{v:g}")
    plain_ticks(ax.yaxis, [0.2, 0.5, 1, 2, 4])
    ax.set_xlabel("signal to noise ratio of the gradient")
    ax.set_ylabel("RMS update, lr")
    ax.set_title("Noise slows Adam down, not AdaMomentum")
    ax.legend(loc="upper left")


def draw_noise_floor(ax: Axes, data: Data) -> None:
    """Draw the noise floors over lr / 2, against beta1."""
    beta1 = np.asarray(data["beta1"])
    grid = np.linspace(0, 0.992, 300)
    ax.plot(grid, np.sqrt((1 + grid) / (1 - grid)), color=COLOURS["adamomentum"], linewidth=1.2)
    ax.axhline(1, color=COLOURS["adam"], linewidth=1.2)
    for name in ("adamomentum", "adam"):
        ax.plot(beta1, data[name], "o", color=COLOURS[name], label=LABELS[name])
    ax.set_yscale("log")
    plain_ticks(ax.yaxis, [1, 2, 4, 8, 14])
    ax.set_ylim(0.7, 20)
    ax.set_xlabel("beta1")
    ax.set_ylabel("noise floor E x² / (lr / 2)")
    ax.set_title("AdaMomentum's noise floor grows with beta1")
    ax.legend(loc="upper left")


DRAWINGS = {
    "signal-to-noise": Drawing(draw_signal_to_noise, "Dots: measured. Lines: in closed form. Betas (0.9, 0.999)."),
    "noise-floor": Drawing(
        draw_noise_floor,
        "What noise leaves of x on a quadratic at equal, constant lr. Dots: measured; lines: in closed form.",
    ),
}
