"""Whether sharp basins are left sooner than flat ones of the same height, in Gaussian noise of fixed scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from adamomentum.theory.claims import Check, Claim, Experiment, Profile
from adamomentum.theory.escape import Exits, exit_times, sample_stable
from adamomentum.theory.steppers import LABELS, Stepper

Array = NDArray[np.float64]

NAMES = ("adamomentum", "sgdm", "adam", "adabelief")
HEIGHT = 0.5
# Walkers; mean exit steps from the flat basin, to which each learning rate is tuned; sharpnesses relative to flat.
SIZES = {"quick": (150, 200, (25.0,)), "full": (1200, 1000, (4.0, 25.0, 100.0))}


@dataclass(frozen=True)
class Shape:
    """A kind of basin of height HEIGHT at its edge; sharpness h makes it narrower by sqrt(h).

    Attributes:
        label: what it is.
        slope: the gradient at positions (walkers, dimensions), for a width.
        dimensions: of the basin.
    """

    label: str
    slope: Callable[[Array, float], Array]
    dimensions: int = 1

    def width(self, sharpness: float) -> float:
        """Distance from the bottom to the edge."""
        return 1 / math.sqrt(sharpness)


SHAPES = (
    Shape("quadratic", lambda x, w: 2 * HEIGHT * x / w**2),
    Shape("quartic", lambda x, w: 4 * HEIGHT * x**3 / w**4),
    Shape("cosine", lambda x, w: HEIGHT * math.pi / (2 * w) * np.sin(math.pi * x / w)),
    Shape("quadratic in two dimensions", lambda x, w: 2 * HEIGHT * x / w**2, dimensions=2),
)


def run(profile: Profile, seed: int) -> list[Claim]:
    """Lets walkers leave."""
    return [_selectivity(profile, np.random.default_rng([seed, 9]))]


def leave(
    name: str, lr: float, shape: Shape, sharpness: float, alpha: float, rng: np.random.Generator, size: tuple[int, int]
) -> Exits:
    """Exit times of so many walkers within so many steps; noise of variance 1 at alpha 2, of scale 1 below."""
    width = shape.width(sharpness)
    scale = math.sqrt(0.5) if alpha == 2 else 1.0
    draw = partial(sample_stable, alpha, rng=rng)
    eps = {} if name == "sgdm" else {"eps": 1e-16}
    return exit_times(
        lambda theta: Stepper(name, theta, lr=lr, **eps),
        lambda theta: shape.slope(theta, width),
        width,
        lambda shape: scale * draw(shape),
        walkers=size[0],
        limit=size[1],
        burn=1000,
        dimensions=shape.dimensions,
    )


def tuned(name: str, shape: Shape, alpha: float, target: int, walkers: int, rng: np.random.Generator) -> float:
    """The learning rate at which the flat basin is left after ``target`` steps on average, by bisection."""
    low, high = (1e-4, 10.0) if name == "sgdm" else (1e-3, 3.0)
    for _ in range(8):
        middle = math.sqrt(low * high)
        slow = leave(name, middle, shape, 1.0, alpha, rng, (walkers, 3 * target)).mean > target
        low, high = (middle, high) if slow else (low, middle)
    return math.sqrt(low * high)


def _selectivity(profile: Profile, rng: np.random.Generator) -> Claim:
    walkers, target, sharpnesses = SIZES[profile]
    limit = 12 * target
    shapes = SHAPES if profile == "full" else (SHAPES[0], SHAPES[3])
    cases = [(shape, 2.0) for shape in shapes]
    if profile == "full":
        cases.append((SHAPES[0], 1.5))
    ratios: dict[tuple[str, float, str, float], tuple[float, float]] = {}
    rates: dict[str, float] = {}
    exits = math.inf
    for shape, alpha in cases:
        for name in NAMES:
            lr = tuned(name, shape, alpha, target, min(walkers, 100), rng)
            rates[f"{shape.label}, {name}"] = lr
            flat = leave(name, lr, shape, 1.0, alpha, rng, (walkers, limit))
            for sharpness in sharpnesses:
                sharp = leave(name, lr, shape, sharpness, alpha, rng, (walkers, limit))
                error = math.hypot(flat.error, sharp.error)
                ratios[shape.label, alpha, name, sharpness] = flat.mean / sharp.mean, error
                exits = min(exits, flat.times.size, sharp.times.size)

    def selective(name: str, shape: Shape) -> Check:
        found = [ratios[shape.label, 2.0, name, h] for h in sharpnesses]
        shown = ", ".join(f"{r:.2f} ± {r * e:.2f} (h = {h:g})" for h, (r, e) in zip(sharpnesses, found, strict=True))
        return Check(
            f"{LABELS[name]}, {shape.label}: steps in the flat basin over steps in the sharp one {shown}; must be "
            "above 1 "
            "by three standard errors",
            all(r > 0 and math.log(r) > 3 * e for r, e in found),  # 0: nobody left the sharp basin
        )

    others = "; ".join(
        f"{LABELS[name]}, {shape.label}: "
        + ", ".join(f"{ratios[shape.label, 2.0, name, h][0]:.2f} (h = {h:g})" for h in sharpnesses)
        for shape in shapes
        for name in ("adam", "adabelief")
    )
    heavy = ""
    if profile == "full":
        heavy = " In noise with alpha = 1.5: " + ", ".join(
            f"{LABELS[name]} {ratios['quadratic', 1.5, name, 25.0][0]:.2f}" for name in NAMES
        )
    return Claim(
        key="selectivity",
        title="In Gaussian noise of fixed scale AdaMomentum leaves sharp basins sooner than flat ones of the same "
        "height, as "
        "SGD does",
        source="this library",
        printed=tuple(selective(name, shape) for shape in shapes for name in ("adamomentum", "sgdm")),
        control=selective("adam", SHAPES[0]),
        relied_on=True,
        note=f"Learning rates are tuned so that each optimizer leaves the flat basin after {target} steps; at least "
        f"{exits:.0f} "
        f"exits in each number; h is the curvature relative to the flat basin. {others}.{heavy} In a sharp basin large "
        "gradients of alternating sign raise Adam's v, and it slows down; momentum averages them away before they "
        "enter "
        "AdaMomentum's. Basins of one or two dimensions, no networks.",
        data={
            "sharpness": sharpnesses,
            "names": list(NAMES),
            "shapes": [shape.label for shape in shapes],
            "ratios": [[[ratios[s.label, 2.0, n, h][0] for h in sharpnesses] for n in NAMES] for s in shapes],
            "lr": rates,
        },
    )


EXPERIMENTS = (Experiment("selectivity", run),)
