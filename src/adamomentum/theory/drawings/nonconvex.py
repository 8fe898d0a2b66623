"""Figure of the gradient norm beside its bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from adamomentum.page.figures import COLOURS, THIN
from adamomentum.theory.panel import Panel


def stationarity(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the mean squared gradient norm and bound against the number of steps."""
    ax.plot(data["steps"], data["mean"], color=COLOURS["adamomentum"], label="AdaMomentum")
    ax.plot(data["steps"], data["bound"], label="bound", **THIN)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("steps")
    ax.set_ylabel("mean squared gradient norm so far")
    ax.set_title("Gradient norm and bound")
    ax.legend(loc="lower left")


PANELS = (
    Panel(
        "stationarity",
        "stationarity",
        "Sum of 1 - cos in 20 dimensions with uniform noise; 1 - beta1 and lr like 1 / sqrt(t), at the theorem's "
        "limit.",
        stationarity,
    ),
)
