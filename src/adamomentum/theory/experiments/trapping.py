"""Who gets out of local minima: at equal learning rates, and at each optimizer's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.steppers import COLOURS, LABELS, Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ours with full bias correction, whose first steps are not longer than the others.
FBC = "adamomentum-fbc"
NAMES = ("sgdm", "adam", "adamw", "adabelief", "adamomentum", FBC)
LRS = np.geomspace(1e-2, 10.0, 13)
EQUAL = int(np.abs(LRS - 0.1).argmin())
STEPS = 1000
FAR = 1e3
# Starting points of each landscape and noise, half to choose lr by, half to judge it by.
STARTS = {"quick": 300, "full": 4096}


@dataclass(frozen=True)
class Landscape:
    """A function of one variable with a global minimum and others.

    Attributes:
        label: what it is.
        slope: its derivative.
        starts: the interval of the starting points.
        best: where the global minimum is.
        within: a run that ends nearer than this to it has succeeded.
        noise: standard deviation of the noise in the gradient, where there is some.
    """

    label: str
    slope: Callable[[Array], Array]
    starts: tuple[float, float]
    best: float
    within: float
    noise: float = 1.0


LANDSCAPES = (
    # (x^2 - 1)^2 / 4 + x / 10, from the side of the higher minimum.
    Landscape("double well", lambda x: x * (x**2 - 1) + 0.1, (0.5, 1.5), -1.05, 0.3),
    # x^2 - 10 cos(2 pi x)
    Landscape("Rastrigin", lambda x: 2 * x + 20 * math.pi * np.sin(2 * math.pi * x), (-5, 5), 0.0, 0.5, noise=10.0),
    # x^2 / 20 - cos(3 x) / 2
    Landscape("wavy bowl", lambda x: 0.1 * x + 1.5 * np.sin(3 * x), (-10, 10), 0.0, 1.0),
    # x^2 / 20 with a narrow hole at 3, on the way from the starting points.
    Landscape(
        "sharp hole",
        lambda x: 0.1 * x + 0.4 * (x - 3) / 0.1**2 * np.exp(-((x - 3) ** 2) / (2 * 0.1**2)),
        (4, 6),
        0.0,
        1.0,
    ),
)
CELLS = tuple((landscape, noisy) for landscape in LANDSCAPES for noisy in (False, True))


def _labels() -> list[str]:
    return [f"{landscape.label}{', noise' if noisy else ''}" for landscape, noisy in CELLS]


def successes(name: str, lr: float, rows: int, rng: np.random.Generator) -> Array:
    """Return whether each run reaches the global minimum: shape (cells, rows). Cosine decay of lr over STEPS steps."""
    theta = np.stack([rng.uniform(*landscape.starts, rows) for landscape, _ in CELLS])
    scale = np.array([landscape.noise * noisy for landscape, noisy in CELLS])[:, None]
    options: dict[str, dict[str, Any]] = {
        "adamw": {"weight_decay": 0.01},
        "sgdm": {},
        FBC: {"eps": 1e-16, "full_bias_correction": True},
    }
    stepper = Stepper(name.removesuffix("-fbc"), theta, lr=lr, **options.get(name, {"eps": 1e-16}))
    gradient, flown = np.empty_like(theta), np.zeros(theta.shape, bool)
    for t in range(STEPS):
        stepper.set(lr=lr * 0.5 * (1 + math.cos(math.pi * t / STEPS)))
        for i, (landscape, _) in enumerate(CELLS):
            gradient[i] = landscape.slope(stepper.theta[i])
        # Whoever flies off has failed, wherever it lands; it must not overflow.
        np.clip(gradient, -1e6, 1e6, out=gradient)
        stepper.step(gradient + scale * rng.normal(size=theta.shape))
        flown |= np.abs(stepper.theta) >= FAR
        np.clip(stepper.theta, -FAR, FAR, out=stepper.theta)
    best = np.array([landscape.best for landscape, _ in CELLS])[:, None]
    within = np.array([landscape.within for landscape, _ in CELLS])[:, None]
    reached: Array = (~flown & (np.abs(stepper.theta - best) < within)).astype(np.float64)
    return reached


def run(profile: Profile, seed: int) -> list[Claim]:
    """Run all optimizers from all starting points at all learning rates."""
    rng = np.random.default_rng([seed, 10])
    rows = STARTS[profile]
    half = rows // 2
    reached = {name: np.stack([successes(name, lr, rows, rng) for lr in LRS]) for name in NAMES}
    again = np.stack([successes("adam", lr, rows, rng) for lr in LRS])

    def at_own(runs: Array) -> tuple[Array, Array]:
        """Return the success on the second half of the starts at the lr best on the first, and that lr, by cell."""
        chosen = runs[:, :, :half].mean(axis=2).argmax(axis=0)
        return runs[chosen, np.arange(len(CELLS)), half:].mean(axis=1), LRS[chosen]

    own = {name: at_own(runs) for name, runs in reached.items()}
    equal = {name: runs[EQUAL, :, half:].mean(axis=1) for name, runs in reached.items()}

    def ahead(first: Array, second: Array, how: str) -> Check:
        error = np.sqrt((first * (1 - first) + second * (1 - second)) / half + 1e-12)
        shown = ", ".join(
            f"{label} {100 * a:.0f} and {100 * b:.0f} %" for label, a, b in zip(_labels(), first, second, strict=True)
        )
        better = (first - second > 3 * error).sum()
        worse = (second - first > 3 * error).sum()
        return Check(
            f"{how}: {shown}; the first must be ahead by three standard errors in half of these cases at least and "
            f"behind in fewer (is ahead in {better}, behind in {worse})",
            bool(better > worse and better >= len(CELLS) / 2),
        )

    noisy = np.array([noisy for _, noisy in CELLS])
    gap = own["adamomentum"][0] - own["adam"][0]
    ratio = own["adam"][1] / own["adamomentum"][1]
    edges = [
        f"{LABELS[name]} on {label}"
        for name, (_, rates) in own.items()
        for label, lr in zip(_labels(), rates, strict=True)
        if lr in (LRS[0], LRS[-1])
    ]
    bare = ", ".join(
        f"{label} {100 * f:.0f} %" for label, f, noisy in zip(_labels(), equal[FBC], noisy, strict=True) if not noisy
    )
    claim = Claim(
        key="trapping",
        title="Adam is trapped in local minima where AdaMomentum is not",
        source="the paper's abstract, and its section on trapping",
        printed=(
            ahead(equal["adamomentum"], equal["adam"], "AdaMomentum and Adam that reach the best minimum, lr 0.1"),
            ahead(own["adamomentum"][0], own["adam"][0], "the same, each at its best lr on other starting points"),
        ),
        control=ahead(at_own(again)[0], own["adam"][0], "Adam beside Adam"),
        note=f"At its own lr AdaMomentum is {100 * gap[~noisy].mean():+.0f} points from Adam on average without "
        f"noise, and {100 * gap[noisy].mean():+.0f} with noise; its lr is {np.median(ratio):.1f} times smaller "
        f"(median). With full bias correction, so without the long first steps, at lr 0.1 and without noise: {bare}. "
        f"The best lr is at an end of its range for {', '.join(edges) or 'nobody'}. Functions of one "
        f"variable; AdamW has weight decay 0.01. Learning rates are a factor {LRS[1] / LRS[0]:.2f} apart.",
        data={
            "lr": LRS,
            "cells": _labels(),
            "names": list(NAMES),
            "success": {name: runs.mean(axis=2).T for name, runs in reached.items()},
            "own": {name: {"success": success, "lr": lr} for name, (success, lr) in own.items()},
        },
    )
    return [claim]


def draw(ax: Axes, data: Data) -> None:
    """Draw success against lr, averaged over the landscapes with noise."""
    cells = [i for i, cell in enumerate(data["cells"]) if "noise" in cell]
    for name in data["names"]:
        success = np.asarray(data["success"][name])[cells].mean(axis=0)
        ax.plot(data["lr"], 100 * success, color=COLOURS[name], label=LABELS[name])
    ax.set_xscale("log")
    ax.set_xlabel("lr")
    ax.set_ylabel("reach the global minimum, % (mean of 4 landscapes)")
    ax.set_title("Who gets out, by learning rate (with noise)")
    ax.legend(loc="upper left")


DRAWINGS = {"trapping": Drawing(draw, "Share of runs that reach the global minimum, by learning rate.")}
