"""Figures of the moments: how long updates are, and what decides it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from adamomentum.page.figures import COLOURS, DASHED, INK, THIN
from adamomentum.theory.panel import Panel
from adamomentum.theory.steppers import LABELS


def _plain(axis: Any, ticks: list[float]) -> None:
    """Set ticks of a logarithmic axis, as plain numbers."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_locator(NullLocator())


def frequency(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the RMS update of both optimizers against the frequency of the gradient."""
    omega = np.asarray(data["omega"])
    for name in ("adamomentum", "adam"):
        ax.plot(omega, data[name], "o", color=COLOURS[name], label=LABELS[name], markersize=4)
    ax.plot(omega, data["gain"], color=COLOURS["adam"], linewidth=1, label="|H|")
    ax.axhline(1, color=COLOURS["adamomentum"], linewidth=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    _plain(ax.yaxis, [0.05, 0.1, 0.2, 0.5, 1])
    _plain(ax.xaxis, [0.05, 0.1, 0.3, 1, np.pi])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: "π" if abs(v - np.pi) < 1e-9 else f"{v:g}"))
    ax.set_xlabel("frequency of the gradient, radians a step")
    ax.set_ylabel("RMS update, lr")
    ax.set_title("What momentum damps, AdaMomentum restores")
    ax.legend(loc="lower left")


def sandwich(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the ratio of the updates at the last step of each sequence, by family, between the two limits."""
    families = list(data["families"])
    rng = np.random.default_rng(0)
    for i, ratios in enumerate(np.asarray(data["ratios"], np.float64)):
        known = ratios[np.isfinite(ratios)]
        places = i + rng.uniform(-0.25, 0.25, known.size)
        # As pixels: thousands of dots as vectors would be half of the page.
        ax.plot(known, places, ".", color=COLOURS["adamomentum"], markersize=3, alpha=0.5, rasterized=True)
    ax.plot(data["extremal"], [len(families)] * 2, "D", color=COLOURS["adamomentum"], markersize=6)
    low, high = data["limits"]
    ax.axvspan(low, high, color=COLOURS["adam"], alpha=0.12, linewidth=0)
    for limit in (low, high):
        ax.axvline(limit, **THIN)
    ax.set_xscale("log")
    _plain(ax.xaxis, [1, 2, 4.36, 10, 19])
    ax.set_xlim(low / 1.4, high * 1.4)
    ax.set_yticks(range(len(families) + 1), [*families, "extremal"])
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("AdaMomentum's update / Adam's")
    ax.set_title("Same gradients: the ratio stays between two limits")


def signal_to_noise(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the RMS update against the signal to noise ratio: measured dots, closed-form lines."""
    from adamomentum.theory.moments import snr_step

    rho, names = np.asarray(data["rho"]), list(data["names"])
    # The logarithmic axis has no 0; pure noise stands at its left end.
    left = rho[rho > 0].min() / 3
    line = np.geomspace(left, rho.max() * 1.2, 200)
    for i, name in enumerate(names):
        ax.plot(line, snr_step(line, 0.9, name)[1], color=COLOURS[name], linewidth=1.2)
        ax.plot(np.maximum(rho, left), data["rms"][i], "o", color=COLOURS[name], label=LABELS[name], markersize=5)
    ax.set_xscale("log")
    ax.set_yscale("log")
    _plain(ax.xaxis, [left, 0.1, 0.3, 1, 3])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: "0" if abs(v / left - 1) < 1e-6 else f"{v:g}"))
    _plain(ax.yaxis, [0.2, 0.5, 1, 2, 4])
    ax.set_xlabel("signal to noise ratio of the gradient")
    ax.set_ylabel("RMS update, lr")
    ax.set_title("Noise slows Adam down, not AdaMomentum")
    ax.legend(loc="upper left")


def noise_floor(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the noise floors over lr / 2, against beta1."""
    beta1 = np.asarray(data["beta1"])
    grid = np.linspace(0, 0.992, 300)
    ax.plot(grid, np.sqrt((1 + grid) / (1 - grid)), color=COLOURS["adamomentum"], linewidth=1.2)
    ax.axhline(1, color=COLOURS["adam"], linewidth=1.2)
    for name in ("adamomentum", "adam"):
        ax.plot(beta1, data[name], "o", color=COLOURS[name], label=LABELS[name])
    ax.set_yscale("log")
    _plain(ax.yaxis, [1, 2, 4, 8, 14])
    ax.set_ylim(0.7, 20)
    ax.set_xlabel("beta1")
    ax.set_ylabel("noise floor E x² / (lr / 2)")
    ax.set_title("AdaMomentum's noise floor grows with beta1")
    ax.legend(loc="upper left")


def startup(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the first updates against a constant gradient, and the longest one left by linear warm-up."""
    for name in ("adamomentum", "adam"):
        made = np.asarray(data[name])
        ax.plot(np.arange(1, made.size + 1), made, color=COLOURS[name], label=LABELS[name])
    order = np.argsort(data["warmup"])
    ax.plot(
        np.asarray(data["warmup"])[order],
        np.asarray(data["peak"])[order],
        "o:",
        color=INK,
        markersize=4,
        linewidth=1,
        label="longest step after a linear warm-up this long",
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    _plain(ax.xaxis, [1, 2, 5, 10, 20, 50, 100])
    _plain(ax.yaxis, [1, 1.5, 2, 3, 5, 10])
    ax.set_xlabel("step")
    ax.set_ylabel("update, lr")
    ax.set_title("The first steps, constant gradient")
    ax.legend(loc="upper right")


def outlier(ax: Axes, data: Mapping[str, Any]) -> None:
    """Draw the way travelled after one huge gradient."""
    for name, limit in zip(("adamomentum", "adam"), data["limits"], strict=True):
        made = np.asarray(data[name])
        ax.plot(np.arange(made.size), made, color=COLOURS[name], label=LABELS[name])
        ax.axhline(limit, color=COLOURS[name], linewidth=1, linestyle=DASHED)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("steps after the gradient")
    ax.set_ylabel("moved, lr")
    ax.set_title("What one huge gradient does")
    ax.legend(loc="center right")


def crossover(ax: Axes, data: Mapping[str, Any]) -> None:
    """Update against the size of an alternating gradient, with eps = 1e-8."""
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


def stability(ax: Axes, data: Mapping[str, Any]) -> None:
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
    _plain(ax.xaxis, [0.25, 0.5, 1, 2])
    ax.set_xlabel("lr × curvature / limit")
    ax.set_ylabel("distance from the minimum, lr")
    ax.set_title("Without noise: settles below the limit, never above")
    ax.legend(loc="center left")


PANELS = (
    Panel(
        "frequency",
        "frequency",
        "Dots: measured. The two lines are 1 and |H|, the gain of the momentum (betas 0.9, 0.999).",
        frequency,
    ),
    Panel(
        "sandwich",
        "sandwich",
        "A dot a gradient sequence: the ratio of the updates at its last step. Dashed: the limits of the theorem. "
        "Diamonds: the two extremal sequences.",
        sandwich,
    ),
    Panel(
        "signal-to-noise",
        "signal-to-noise",
        "Dots: measured. Lines: in closed form. Betas (0.9, 0.999).",
        signal_to_noise,
    ),
    Panel(
        "noise-floor",
        "noise-floor",
        "What noise leaves of x on a quadratic at equal, constant lr. Dots: measured; lines: in closed form.",
        noise_floor,
    ),
    Panel("start-up", "start-up", "Betas (0.9, 0.999), no warm-up but where the dots say so.", startup),
    Panel(
        "outlier",
        "outlier",
        "Betas (0.9, 0.999). Dashed: the way in all, late in training.",
        outlier,
    ),
    Panel(
        "eps-floor",
        "eps-floor",
        "Dots: measured; line: in closed form. Dashed: where the update has fallen to lr / √2.",
        crossover,
    ),
    Panel(
        "stable-lr",
        "stable-lr",
        "Largest distance over the second half of the run, 1e-12 lr or less at the bottom; eps = 1e-8.",
        stability,
    ),
)
