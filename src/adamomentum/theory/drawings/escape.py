"""Figures of basins and landscapes: who leaves, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from adamomentum.page.figures import COLOURS, THIN
from adamomentum.theory.panel import Panel
from adamomentum.theory.steppers import LABELS


def frozen(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the exponent of the exit time, measured and claimed."""
    alpha = np.asarray(data["alpha"])
    slopes = np.array([data["slopes"].get(a, data["slopes"].get(str(a))) for a in alpha.tolist()])
    fine = np.linspace(1.1, 1.9, 50)
    ax.plot(fine, -fine, color=COLOURS["adamomentum"], linewidth=1, label="-alpha")
    ax.plot(fine, -1 / fine, label="as printed: -1 / alpha", **THIN)
    ax.plot(alpha, slopes, "o", color=COLOURS["adamomentum"], label="frozen preconditioner")
    ax.plot([1.5], list(data["adam"].values()), "s", color=COLOURS["adam"], label="Adam itself")
    ax.set_xlabel("alpha of the noise")
    ax.set_ylabel("exponent of lr in the exit steps")
    ax.set_title("How exit steps depend on lr")
    ax.legend(loc="lower left")


def exits(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the mean exit steps of the four runs."""
    means = np.asarray(data["means"])
    alphas, basins, runs = data["alpha"], data["basins"], data["runs"]
    colours = {"Adam": COLOURS["adam"], "AdaMomentum": COLOURS["adamomentum"]}
    places = np.arange(len(alphas) * len(basins))
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        name = run.split(",")[0]
        heights, fill = means[:, :, i].ravel(), colours[name] if run == name else "none"
        ax.bar(places + (i - 1.5) * width, heights, 0.9 * width, label=run, facecolor=fill, edgecolor=colours[name])
    ax.set_yscale("log")
    ax.set_xticks(places, [f"alpha {a:g}\n{b}" for a in alphas for b in basins])
    ax.set_ylabel("mean steps in the basin")
    ax.set_title("Steps in the basin")
    ax.legend(loc="upper right", fontsize="small")


def selectivity(ax: Axes, data: Mapping[str, Any]) -> None:
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


def trapping(ax: Axes, data: Mapping[str, Any]) -> None:
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


PANELS = (
    Panel("frozen-exit", "frozen-exit", "How exit steps depend on lr, measured (dots) and claimed (lines).", frozen),
    Panel(
        "exits",
        "proposition-1",
        "Quadratic basins of equal height in alpha-stable noise, lr 0.05; 2 is Gaussian, lr 0.15.",
        exits,
    ),
    Panel(
        "selectivity",
        "selectivity",
        "The learning rates are such that all leave the flat basin alike. Right of 1, sharp basins are left first. "
        "Hollow: the optimizer is unstable in the sharp basin and leaves it without noise too.",
        selectivity,
    ),
    Panel("trapping", "trapping", "Share of runs that reach the global minimum, by learning rate.", trapping),
)
