"""Figures of the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from adamomentum.page.figures import COLOURS
from adamomentum.theory.panel import Panel
from adamomentum.theory.steppers import LABELS


def sharpness(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the largest eigenvalue against training loss at the end, a dot a run."""
    for name in data["names"]:
        eigenvalues, losses = np.asarray(data["sharpness"][name]), np.asarray(data["loss"][name])
        ax.plot(losses, eigenvalues, "o", color=COLOURS[name], label=LABELS[name])
    ax.set_yscale("log")
    ax.set_xscale("log")
    ax.set_xlabel("training loss at the end")
    ax.set_ylabel("largest eigenvalue of the Hessian")
    ax.set_title("Sharpness of what was found")
    ax.legend(loc="best")


def updates(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the length of AdaMomentum's updates over Adam's along the training."""
    places = 100 * np.asarray(data["places"])
    ax.plot(places, data["ratio"], "o-", color=COLOURS["adamomentum"], label="measured")
    ax.plot(places, data["predicted"], "o--", color=COLOURS["adam"], label="from signal to noise alone")
    ax.set_ylim(0, None)
    ax.set_xlabel("training, %")
    ax.set_ylabel("RMS update over Adam's, same gradients")
    ax.set_title("How much farther AdaMomentum moves")
    ax.legend(loc="lower right")


PANELS = (
    Panel("updates", "network-noise", "Mean over the seeds.", updates),
    Panel("sharpness", "network-flatness", "MNIST-1D, a dot a run.", sharpness),
)
