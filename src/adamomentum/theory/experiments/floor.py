"""What eps does: the smallest denominator, where the update becomes a step of SGD, and a minimum's stability.

Tested in tests/theory/test_experiments.py.
"""

from __future__ import annotations

import math
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from adamomentum.page.figures import THIN, plain_ticks
from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.moments import crossover_gradient, denominator_floor, stable_lr
from adamomentum.theory.responses import fresh, responses
from adamomentum.theory.steppers import COLOURS, Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFAULT = (0.9, 0.999)
EPS = 1e-8
# Betas and steps of the runs without noise. v has to fall from the square of the first gradients to below that of the
# floor, which takes some 15 / (1 - beta2) steps.
RUNS: dict[Profile, list[tuple[tuple[float, float], int]]] = {"quick": [(DEFAULT, 32000), ((0.5, 0.99), 6000)]}
RUNS["full"] = [*RUNS["quick"], *(((beta1, 0.99), 10000) for beta1 in (0.0, 0.9, 0.95))]


def run(profile: Profile, seed: int) -> list[Claim]:
    """Run the optimizer with eps in charge: on tiny gradients, and without noise on quadratics."""
    return [_denominator(profile), _stability(profile, np.random.default_rng([seed, 4]))]


def _steps_of_sgd(name: str, whose: str, eps: float, betas: tuple[float, float], steps: int) -> Check:
    floor = denominator_floor(eps, betas[1])
    gradient = np.array([-1e-6, 1e-5, 1e-4]) * floor
    updates = np.array([u for (u,) in responses([fresh(name, (3,), betas=betas, eps=eps)], [gradient] * steps)])
    denominators = gradient / updates
    # What the gradient itself adds to the floor's square: 1e-8 of it.
    worst = float(np.abs(denominators / floor - 1).max())
    return Check(
        f"eps {eps:g}, betas {betas}: {whose} update to gradients far below it is the gradient over "
        f"{denominators.min():.4g} to {denominators.max():.4g} in the first {steps} steps; must be over {floor:.4g}, "
        "to 1e-6",
        worst < 1e-6,
    )


def _denominator(profile: Profile) -> Claim:
    steps = 3000 if profile == "quick" else 20000
    cases = ((1e-8, DEFAULT), (1e-16, DEFAULT), (1e-8, (0.9, 0.98)), (1e-4, (0.5, 0.99)))
    # Alternating gradients whose momentum has the size of the floor; constant ones.
    scale = np.geomspace(0.01, 100, 17)
    halfway = {omega: crossover_gradient(EPS, omega=omega) for omega in (math.pi, 0.0)}
    amplitudes = np.array([scale * g for g in halfway.values()])
    signs = (amplitudes * [[(-1.0) ** t], [1.0]] for t in range(steps))
    *_, (last,) = responses([fresh("adamomentum", amplitudes.shape, eps=EPS)], signs)
    expected = scale / np.sqrt(1 + scale**2)
    off = np.abs(np.abs(last) / expected - 1).max(axis=1)
    # What is left in v of the start is below 2 beta1 (1 - beta2) beta2^t / (1 - beta1), relative to it.
    left = 2 * DEFAULT[0] / (1 - DEFAULT[0]) * (1 - DEFAULT[1]) * DEFAULT[1] ** steps + 1e-9
    middle = scale.size // 2
    return Claim(
        key="eps-floor",
        title="The denominator's floor is sqrt(eps / (1 - beta2)), 3.2e-3 for eps = 1e-8; gradients far below it take "
        "steps of SGD",
        source="this library",
        printed=(
            *(_steps_of_sgd("adamomentum", "AdaMomentum's", eps, betas, 50) for eps, betas in cases),
            Check(
                f"eps {EPS:g}: an alternating gradient of {halfway[math.pi]:.5f} makes updates of "
                f"{abs(last[0, middle]):.5f} lr and a constant one of {halfway[0.0]:.5f} of "
                f"{abs(last[1, middle]):.5f}; must be {expected[middle]:.5f}, and follow r / sqrt(1 + r^2) at r times "
                f"that gradient, r from 0.01 to 100, to {left:.0e} (is to {off.max():.0e})",
                bool((off < left).all()),
            ),
        ),
        control=_steps_of_sgd("adam", "Adam's", EPS, DEFAULT, 50),
        relied_on=True,
        note="Adam's eps = 1e-8 is its floor; to have the same here takes eps = 1e-19.",
        data={"scale": scale, "alternating": np.abs(last[0]), "gradient": halfway[math.pi], "formula": expected},
    )


def settled(ratio: Array, betas: tuple[float, float], steps: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Run AdaMomentum without noise, at lr relative to the stability limit, on quadratics in 1 and 5 dimensions.

    Args:
        ratio: lr times the largest curvature, over its limit; shape (n,).
        betas: decay rates.
        steps: how many.
        rng: of the Hessians' eigenvectors, which are not along the axes, and of the start.

    Returns:
        The largest distance from the minimum over the last half of the steps, in one dimension, shape (n,), and in
        five, shape (n,); in units of lr.
    """
    lr, dimensions = 0.01, 5
    curvature = stable_lr(1.0, EPS, betas) * ratio / lr
    axes, _ = np.linalg.qr(rng.normal(size=(ratio.size, dimensions, dimensions)))
    spectrum = curvature[:, None] * np.geomspace(1, 1e-2, dimensions)
    hessian = np.zeros((ratio.size, dimensions + 1, dimensions + 1))
    hessian[:, 0, 0] = curvature
    hessian[:, 1:, 1:] = np.einsum("nij,nj,nkj->nik", axes, spectrum, axes)
    start = lr * 10 ** rng.uniform(-2, 1, (ratio.size, dimensions + 1))
    stepper = Stepper("adamomentum", start, lr=lr, betas=betas, eps=EPS)
    far = np.zeros((2, ratio.size))
    for t in range(steps):
        stepper.step(np.einsum("nij,nj->ni", hessian, stepper.theta))
        if t >= steps // 2:
            size = np.abs(stepper.theta) / lr
            far = np.maximum(far, [size[:, 0], size[:, 1:].max(axis=1)])
    return far[0], far[1]


def _stability(profile: Profile, rng: np.random.Generator) -> Claim:
    ratio = np.array([0.25, 0.5, 0.75, 0.9, 0.98, 1.02, 1.1, 1.25, 1.5, 2.0])
    checks, controls = [], []
    data: dict[str, Array] = {"ratio": ratio}
    stable = ratio < 1

    def rests(betas: tuple[float, float], what: str, distances: Array) -> Check:
        # Below the limit distances shrink by a factor a step, above it none is left alone: nothing lies between.
        return Check(
            f"betas {betas}: at {what} times the limit x stays within {distances.max():.1e} lr of the minimum in the "
            "second half of the steps; must be below 1e-9",
            bool(distances.max() < 1e-9),
        )

    for betas, steps in RUNS[profile]:
        one, five = settled(ratio, betas, steps, rng)
        data[f"{betas[0]}, {betas[1]}"] = one
        within, beyond = ratio[stable].max(), ratio[~stable].min()
        both = np.maximum(one, five)
        checks += [
            rests(betas, f"{ratio[0]:g} to {within:g}", both[stable]),
            Check(
                f"betas {betas}: at {beyond:g} to {ratio[-1]:g} times the limit it moves at least "
                f"{np.minimum(one, five)[~stable].min():.1e} lr away again and again; must be more than 1e-3 lr",
                bool(np.minimum(one, five)[~stable].min() > 1e-3),
            ),
        ]
        controls.append(rests(betas, f"{beyond:g}", one[ratio == beyond]))
    return Claim(
        key="stable-lr",
        relied_on=True,
        title="Without noise and at constant lr AdaMomentum settles at a minimum if and only if lr times its largest "
        "curvature is below (2 + 2 beta1) / (1 - beta1) sqrt(eps / (1 - beta2))",
        source="this library",
        printed=tuple(checks),
        control=controls[0],
        note=f"In 1 and in 5 dimensions, quadratics, eps = {EPS:g}. At the defaults the limit is "
        f"{stable_lr(1.0, EPS):.3g} for eps = 1e-8 and {stable_lr(1.0, 1e-16):.2g} for 1e-16: there, only a decaying "
        "lr settles.",
        data=data,
    )


def draw_crossover(ax: Axes, data: Data) -> None:
    """Draw the update against the size of an alternating gradient, with eps = 1e-8."""
    gradient = np.asarray(data["scale"]) * data["gradient"]
    line = np.geomspace(gradient.min(), gradient.max(), 200)
    ratio = line / data["gradient"]
    ax.plot(line, ratio / np.sqrt(1 + ratio**2), color=COLOURS["adamomentum"], linewidth=1.2)
    ax.plot(gradient, data["alternating"], "o", color=COLOURS["adamomentum"], markersize=4)
    ax.axvline(data["gradient"], **THIN)
    ax.annotate(f" {data['gradient']:.4f}", (data["gradient"], 0.02), fontsize=9)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("size of a gradient that alternates")
    ax.set_ylabel("update, lr")
    ax.set_title("Below the crossover, steps of SGD (eps = 1e-8)")


def draw_stability(ax: Axes, data: Data) -> None:
    """Draw how far from the minimum it stays, against lr over its limit."""
    shades = cycle(COLOURS.values())
    for betas, far in data.items():
        if betas != "ratio":
            # What has vanished has no place on a logarithmic axis: it is drawn at its lower edge.
            ax.plot(
                data["ratio"], np.maximum(far, 1e-12), "o-", color=next(shades), label=f"betas {betas}", markersize=4
            )
    ax.axvline(1, **THIN)
    ax.set_xscale("log")
    ax.set_yscale("log")
    plain_ticks(ax.xaxis, [0.25, 0.5, 1, 2])
    ax.set_xlabel("lr × curvature / limit")
    ax.set_ylabel("distance from the minimum, lr")
    ax.set_title("Without noise: settles below the limit, never above")
    ax.legend(loc="center left")


DRAWINGS = {
    "eps-floor": Drawing(
        draw_crossover,
        "Dots: measured; line: in closed form. Dashed: where the update has fallen to lr / √2.",
    ),
    "stable-lr": Drawing(
        draw_stability, "Largest distance over the second half of the run, 1e-12 lr or less at the bottom; eps = 1e-8."
    ),
}
