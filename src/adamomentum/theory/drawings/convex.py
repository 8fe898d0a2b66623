"""Figures of the regret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from adamomentum.page.figures import COLOURS, DASHED
from adamomentum.theory.panel import Panel

DOTTED = (0, (1, 2))


def regret(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the regret and both bounds, with amsgrad and without."""
    rounds = np.asarray(data["rounds"])
    for key, colour, label in (("amsgrad", "adamomentum", "with amsgrad"), ("plain", "adam", "without")):
        curves = data[key]
        ax.plot(rounds, curves["regret"], color=COLOURS[colour], linewidth=2, label=f"regret {label}")
        ax.plot(rounds, curves["posteriori"], color=COLOURS[colour], linewidth=1, linestyle=DASHED)
        ax.plot(rounds, curves["priori"], color=COLOURS[colour], linewidth=1, linestyle=DOTTED)
    ax.plot([], [], color="0.4", linewidth=1, linestyle=DASHED, label="bound from the run")
    ax.plot([], [], color="0.4", linewidth=1, linestyle=DOTTED, label="bound from the gradients")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("rounds")
    ax.set_ylabel("regret")
    ax.set_title("Regret and bounds, with amsgrad and without")
    ax.legend(loc="upper left")


def counterexample(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw theta of the four runs."""
    styles = {"Adam": ("adam", "-"), "Adam, amsgrad": ("adam", DASHED)}
    styles |= {"AdaMomentum": ("adamomentum", "-"), "AdaMomentum, amsgrad": ("adamomentum", DASHED)}
    for label, theta in data["paths"].items():
        colour, line = styles[label]
        ax.plot(data["rounds"], theta, color=COLOURS[colour], linestyle=line, label=label)
    ax.set_xscale("log")
    ax.set_ylim(-1.1, 1.1)
    ax.set_xlabel("rounds")
    ax.set_ylabel("theta (the best is -1, the worst +1)")
    ax.set_title("Where the optimizers go")
    ax.legend(loc="center right")


PANELS = (
    Panel(
        "regret",
        "constant-beta1",
        "One game: the gradient is 11 every 11th round and else -1; betas (0.5, 0.9). With amsgrad the regret stays "
        "below both bounds, without it it grows in proportion to the rounds.",
        regret,
    ),
    Panel("counterexample", "counterexample", "The same stream, lr 1 / sqrt(t), from +1.", counterexample),
)
