"""Whether sharp basins are left sooner than flat ones of the same height, in Gaussian noise of fixed scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from adamomentum.page.figures import THIN
from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.escape import Exits, exit_times, outside, sample_stable, settle
from adamomentum.theory.steppers import COLOURS, LABELS, Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = ("adamomentum", "sgdm", "adam", "adabelief")
HEIGHT = 0.5
# Walkers; how many of them must leave; mean exit steps from the flat basin, to which each learning rate is tuned;
# sharpnesses relative to flat.
SIZES = {"quick": (150, 100, 200, (25.0,)), "full": (1500, 1000, 1000, (4.0, 25.0, 100.0))}
# Steps in noise from which the second moments are, and steps without noise in which a basin is to hold a walker.
BURN, ALONE = 1000, 100


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
        """Return the distance from the bottom to the edge."""
        return 1 / math.sqrt(sharpness)


SHAPES = (
    Shape("quadratic", lambda x, w: 2 * HEIGHT * x / w**2),
    Shape("quartic", lambda x, w: 4 * HEIGHT * x**3 / w**4),
    Shape("cosine", lambda x, w: HEIGHT * math.pi / (2 * w) * np.sin(math.pi * x / w)),
    Shape("quadratic in two dimensions", lambda x, w: 2 * HEIGHT * x / w**2, dimensions=2),
)


@dataclass(frozen=True)
class Noise:
    """Noise in the gradient.

    Attributes:
        label: what it is.
        alpha: index of stability; of variance 1 at 2 (Gaussian), of scale 1 below.
        grows: whether its scale is in proportion to the root of the sharpness, as the slopes are at equal heights.
    """

    label: str
    alpha: float = 2.0
    grows: bool = False

    def draw(self, rng: np.random.Generator, sharpness: float) -> Callable[[tuple[int, ...]], Array]:
        """Return what draws it, by shape."""
        scale = (math.sqrt(0.5) if self.alpha == 2 else 1.0) * (math.sqrt(sharpness) if self.grows else 1.0)
        return lambda shape: scale * sample_stable(self.alpha, shape, rng)


GAUSSIAN = Noise("Gaussian")
HEAVY = Noise("alpha = 1.5", alpha=1.5)
GROWING = Noise("Gaussian, scale in proportion to sqrt(h)", grows=True)


@dataclass(frozen=True)
class Cell:
    """An optimizer in a flat and in a sharp basin of the same height.

    Attributes:
        sharpness: h, curvature of the sharp basin over that of the flat one.
        flat: exits from the flat one.
        sharp: exits from the sharp one.
        thrown: share of walkers that the sharp one does not hold without noise, see :func:`thrown_out`.
    """

    sharpness: float
    flat: Exits
    sharp: Exits
    thrown: float

    @property
    def ratio(self) -> float:
        """Mean steps in the flat basin over those in the sharp one."""
        return self.flat.mean / self.sharp.mean

    @property
    def error(self) -> float:
        """Relative standard error of the ratio."""
        return math.hypot(self.flat.error, self.sharp.error)

    @property
    def held(self) -> bool:
        """Whether it takes noise to leave the sharp basin, for all but a few: else leaving it is no escape."""
        return self.thrown <= 0.05


def _stepper(name: str, theta: Array, lr: float) -> Stepper:
    return Stepper(name, theta, lr=lr, **({} if name == "sgdm" else {"eps": 1e-16}))


def leave(
    name: str,
    lr: float,
    shape: Shape,
    sharpness: float,
    noise: Noise,
    rng: np.random.Generator,
    *,
    walkers: int,
    limit: int,
    enough: int = 0,
) -> Exits:
    """Return the exit times."""
    width = shape.width(sharpness)
    return exit_times(
        lambda theta: _stepper(name, theta, lr),
        lambda theta: shape.slope(theta, width),
        width,
        noise.draw(rng, sharpness),
        walkers=walkers,
        limit=limit,
        enough=enough,
        burn=BURN,
        dimensions=shape.dimensions,
    )


def thrown_out(
    name: str, lr: float, shape: Shape, sharpness: float, noise: Noise, rng: np.random.Generator, walkers: int = 100
) -> float:
    """Return the share of walkers that leave a basin without noise.

    They are released halfway to the edge, at rest, with the second moments that the noise has made. Where the learning
    rate is too large for the curvature they swing ever farther, or over the edge at once, and noise is not what makes
    them leave.
    """
    width = shape.width(sharpness)
    stepper = _stepper(name, np.zeros((walkers, shape.dimensions)), lr)

    def slope(theta: Array) -> Array:
        return shape.slope(theta, width)

    settle(stepper, slope, width, noise.draw(rng, sharpness), BURN)
    for key in ("exp_avg", "momentum_buffer"):
        if key in stepper.state:
            stepper.state[key][:] = 0
    stepper.theta[:] = 0
    stepper.theta[:, 0] = width / 2
    out = np.zeros(walkers, bool)
    for _ in range(ALONE):
        stepper.step(slope(stepper.theta))
        out |= outside(stepper.theta, width)
        stepper.theta[out] = 0  # or they overflow
    return float(out.mean())


def tuned(name: str, shape: Shape, noise: Noise, target: int, walkers: int, rng: np.random.Generator) -> float:
    """Return the learning rate at which the flat basin is left after ``target`` steps on average, by bisection."""
    low, high = (1e-4, 10.0) if name == "sgdm" else (1e-3, 3.0)
    for _ in range(8):
        middle = math.sqrt(low * high)
        slow = leave(name, middle, shape, 1.0, noise, rng, walkers=walkers, limit=3 * target).mean > target
        low, high = (middle, high) if slow else (low, middle)
    return math.sqrt(low * high)


def left_sooner(what: str, cells: Sequence[Cell]) -> Check:
    """Return whether the sharp basins are left sooner than the flat ones, where it takes noise to leave them."""
    shown = ", ".join(
        f"{c.ratio:.2f} ± {c.ratio * c.error:.2f} (h = {c.sharpness:g}{'' if c.held else ', leaves without noise'})"
        for c in cells
    )
    held = [c for c in cells if c.held]
    return Check(
        f"{what}: steps in the flat basin over steps in the sharp one {shown}; must be above 1 by three standard "
        "errors, where it does not leave without noise",
        # 0: nobody left the sharp basin
        bool(held) and all(c.ratio > 0 and math.log(c.ratio) > 3 * c.error for c in held),
    )


def run(profile: Profile, seed: int) -> list[Claim]:
    """Let walkers leave."""
    rng = np.random.default_rng([seed, 9])
    walkers, enough, target, sharpnesses = SIZES[profile]
    shapes = SHAPES if profile == "full" else (SHAPES[0], SHAPES[3])
    cases = [(shape, GAUSSIAN) for shape in shapes]
    if profile == "full":
        cases += [(SHAPES[0], HEAVY), (SHAPES[0], GROWING)]
    by_case: dict[tuple[str, str, str], list[Cell]] = {}
    rates: dict[tuple[str, str, str], float] = {}
    for shape, noise in cases:
        for name in NAMES:
            key = shape.label, noise.label, name
            lr = rates[key] = tuned(name, shape, noise, target, min(walkers, 100), rng)
            go = partial(leave, name, lr, shape, noise=noise, rng=rng, walkers=walkers, limit=12 * target)
            flat = go(1.0, enough=enough)
            by_case[key] = [
                Cell(h, flat, go(h, enough=enough), thrown_out(name, lr, shape, h, noise, rng)) for h in sharpnesses
            ]
    every = [exits for cells in by_case.values() for cell in cells for exits in (cell.flat, cell.sharp)]
    fewest = min(exits.times.size for exits in every)
    most_left_in = max(exits.censored / walkers for exits in every)
    thrown = ", ".join(
        f"{LABELS[name]}, {shape}{'' if noise == GAUSSIAN.label else f' ({noise})'}, h = {cell.sharpness:g}"
        for (shape, noise, name), cells in by_case.items()
        for cell in cells
        if not cell.held
    )

    def selective(name: str, shape: Shape) -> Check:
        return left_sooner(f"{LABELS[name]}, {shape.label}", by_case[shape.label, GAUSSIAN.label, name])

    def ratios(shape: Shape, noise: Noise, names: Sequence[str] = NAMES) -> str:
        return "; ".join(
            f"{LABELS[name]} "
            + ", ".join(f"{c.ratio:.2f} (h = {c.sharpness:g})" for c in by_case[shape.label, noise.label, name])
            for name in names
        )

    others = ". ".join(f"In the {s.label} basin: {ratios(s, GAUSSIAN, ('adam', 'adabelief'))}" for s in shapes)
    elsewhere = "".join(
        f" In the quadratic basin in noise that is {noise.label}: {ratios(shape, noise)}."
        for shape, noise in cases
        if noise is not GAUSSIAN
    )
    claim = Claim(
        key="selectivity",
        title="In Gaussian noise of fixed scale AdaMomentum leaves sharp basins sooner than flat ones of the same "
        "height, as SGD does",
        source="this library",
        printed=(
            *(selective(name, shape) for shape in shapes for name in ("adamomentum", "sgdm")),
            Check(
                f"each number rests on at least {fewest} exits of {walkers} walkers, with at most "
                f"{100 * most_left_in:.0f} % still in at the end; must be at least {enough}",
                fewest >= enough,
            ),
        ),
        control=selective("adam", SHAPES[0]),
        relied_on=True,
        note=f"Learning rates are tuned so that each optimizer leaves the flat basin after {target} steps; h is the "
        f"curvature relative to the flat basin. {others}.{elsewhere} Leaves without noise, released halfway to the "
        f"edge: {thrown or 'nobody'}; there the learning rate is too large for the curvature, which is no escape and "
        "does not count. In a sharp basin large gradients of alternating sign raise Adam's v, and it slows down; "
        "momentum averages them away before they enter AdaMomentum's. Basins of one or two dimensions, no networks.",
        data={
            "sharpness": sharpnesses,
            "names": list(NAMES),
            "shapes": [shape.label for shape in shapes],
            "walkers": walkers,
            "cells": [
                {
                    "shape": shape,
                    "noise": noise,
                    "name": name,
                    "lr": rates[shape, noise, name],
                    "sharpness": cell.sharpness,
                    "ratio": cell.ratio,
                    "error": cell.error,
                    "held": cell.held,
                    "thrown": cell.thrown,
                    **{
                        basin: {
                            "mean": exits.mean,
                            "exits": exits.times.size,
                            "censored": exits.censored,
                            "steps": exits.limit,
                        }
                        for basin, exits in (("flat", cell.flat), ("sharp", cell.sharp))
                    },
                }
                for (shape, noise, name), cells in by_case.items()
                for cell in cells
            ],
        },
    )
    return [claim]


def draw(ax: Axes, data: Data) -> None:
    """Draw flat over sharp exit steps, by optimizer and shape, at the greatest sharpness."""
    markers = ("o", "s", "^", "D")
    for cell in data["cells"]:
        if cell["noise"] == "Gaussian" and cell["sharpness"] == data["sharpness"][-1]:
            colour, marker = COLOURS[cell["name"]], markers[data["shapes"].index(cell["shape"])]
            fill = colour if cell["held"] else "none"
            place = data["names"].index(cell["name"])
            ax.plot(cell["ratio"], place, marker, color=colour, markerfacecolor=fill)
    for marker, shape in zip(markers, data["shapes"], strict=False):
        ax.plot([], [], marker, color="0.4", label=shape)
    ax.axvline(1, **THIN)
    ax.set_xscale("log")
    ax.set_yticks(range(len(data["names"])), [LABELS[name] for name in data["names"]])
    ax.set_ylim(len(data["names"]) - 0.5, -0.5)
    ax.set_xlabel(f"steps in the flat basin over steps in the sharp one, h = {data['sharpness'][-1]:g}")
    ax.set_title("Flat basin over sharp basin")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False)


DRAWINGS = {
    "selectivity": Drawing(
        draw,
        "The learning rates are such that all leave the flat basin alike. Right of 1, sharp basins are left first. "
        "Hollow: the optimizer is unstable in the sharp basin and leaves it without noise too.",
    )
}
