"""The figures of a comparison; one colour an optimizer in all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from adamomentum.files import write_atomic
from adamomentum.page.figures import COLOURS, INK, MARKERS, STYLE, THIN, as_png, as_svg, inline, on_white, words_of
from adamomentum.study import stats
from adamomentum.study.report.tables import Tables, label


def _names(tables: Tables) -> list[str]:
    return [str(name) for name in tables.summary["optimizer"]]


def _percent_axis(axis: Any) -> None:
    axis.set_major_locator(LogLocator(10, (1, 2, 3, 5)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _curve(ax: Axes, tables: Tables, value: Callable[[pd.DataFrame], pd.Series]) -> None:
    for name in _names(tables):
        rows = tables.curves[tables.curves["optimizer"] == name]
        if rows.empty:
            continue
        wide = rows.assign(value=value(rows)).pivot(index="step", columns="replicate", values="value")
        ax.plot(wide.index, wide.median(axis=1), color=COLOURS[name], label=label(name))
        ax.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=COLOURS[name], alpha=0.15, linewidth=0)
    ax.set_yscale("log")
    ax.set_xlabel("optimizer step")
    ax.set_xlim(left=0)


def train_loss(ax: Axes, tables: Tables) -> None:
    """Training loss against the step: median over seeds, band from the lowest to the highest."""
    _curve(ax, tables, lambda rows: rows["train_loss"])
    ax.set_title("Training loss")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def validation_error(ax: Axes, tables: Tables) -> None:
    """Validation error against the step, the target drawn in."""
    # An error of 0 has no place on a logarithmic axis: it is drawn at 0.05 %.
    _curve(ax, tables, lambda rows: (1 - rows["val_accuracy"]).clip(lower=5e-4))
    if tables.target is not None and tables.target.accuracy < 1:
        ax.axhline(1 - tables.target.accuracy, **THIN)
        ax.annotate(
            f"target: {100 * tables.target.accuracy:.3g} % accuracy",
            (1, 1 - tables.target.accuracy),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            fontsize=9,
        )
    _percent_axis(ax.yaxis)
    ax.set_title("Validation error")


def lr_sensitivity(ax: Axes, tables: Tables) -> None:
    """Final validation loss against the learning rate: a dot a seed, a line through the means."""
    tuned = tables.trials[tables.trials["stage"] == "tune"]
    finite = tuned["val_loss"].dropna()
    top = float(finite.max()) * 1.6 if len(finite) else 1.0
    sizes = iter((150, 95, 55, 30))
    for name in _names(tables):
        rates = tables.learning_rates[tables.learning_rates["optimizer"] == name]
        if rates.empty:
            continue
        mine = tuned[(tuned["optimizer"] == name) & (tuned["status"] != "error")]
        good = mine[mine["val_loss"].notna()]
        ax.scatter(good["lr"], good["val_loss"], s=12, color=COLOURS[name], alpha=0.45, linewidths=0)
        ax.plot(rates["lr"], rates["val_loss"].replace(np.inf, np.nan), color=COLOURS[name], label=label(name))
        lost = mine[mine["val_loss"].isna()]
        ax.scatter(lost["lr"], [top] * len(lost), s=36, color=COLOURS[name], marker="x", clip_on=False)
        chosen = rates[rates["chosen"]]
        ax.scatter(
            chosen["lr"],
            chosen["val_loss"],
            # Smaller from one to the next: marks that fall together all stay visible.
            s=next(sizes, 30),
            color=COLOURS[name],
            marker=MARKERS[name],
            edgecolors=INK,
            linewidths=1.2,
            zorder=5,
        )
    if tuned.empty:
        ax.text(0.5, 0.5, "learning rates were given,\nnot tuned", transform=ax.transAxes, ha="center")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("peak learning rate (large mark: chosen)")
    ax.yaxis.set_major_locator(LogLocator(10, (1, 2, 3, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_title("Learning-rate sensitivity: validation loss")


def final_dots(ax: Axes, tables: Tables) -> None:
    """Test accuracy of each final seed, with mean and 95 % interval."""
    names = _names(tables)
    final = tables.trials[(tables.trials["stage"] == "final") & (tables.trials["status"] != "error")]
    for row, name in enumerate(names):
        values = 100 * final[final["optimizer"] == name]["test_accuracy"].to_numpy(dtype=float)
        if not len(values):
            ax.annotate("no result", (0.5, row), xycoords=("axes fraction", "data"), ha="center", va="center")
            continue
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        ax.scatter(values, row + 0.14 + spread / 2, s=26, color=COLOURS[name], alpha=0.7, linewidths=0)
        interval = stats.t_interval(values.tolist())
        if interval.n > 1:
            ax.plot([interval.low, interval.high], [row - 0.16] * 2, color=COLOURS[name], linewidth=2.5)
        ax.scatter(
            [interval.mean],
            [row - 0.16],
            s=60,
            color=COLOURS[name],
            marker=MARKERS[name],
            edgecolors=INK,
            linewidths=1,
            zorder=5,
        )
    ax.set_yticks(range(len(names)), [label(name) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("test accuracy, %")
    ax.set_title("Test accuracy: seeds, mean, 95 % interval")


def _legend(figure: Figure, tables: Tables) -> None:
    handles = [
        Line2D([], [], color=COLOURS[n], marker=MARKERS[n], markersize=5, label=label(n)) for n in _names(tables)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.4)


def _figure(panels: list[Callable[[Axes, Tables], None]], tables: Tables, size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    for ax, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        panel(ax, tables)
    if panels != [final_dots]:
        _legend(figure, tables)
    return figure


FIGURES: dict[str, tuple[list[Callable[[Axes, Tables], None]], tuple[float, float]]] = {
    "overview": ([validation_error, lr_sensitivity, final_dots], (14, 4.2)),
    "learning_curves": ([train_loss, validation_error], (9.6, 4.2)),
    "lr_sensitivity": ([lr_sensitivity], (6.4, 4.4)),
    "final_accuracy": ([final_dots], (6.4, 3.2)),
}


def draw(tables: Tables, folder: Path) -> dict[str, str]:
    """Writes each figure as PNG and SVG into ``folder`` and returns SVG text to put into a page."""
    found = {}
    for name, (panels, size) in FIGURES.items():
        # The salt makes the file reproducible.
        with matplotlib.rc_context(cast("Any", {**STYLE, "svg.hashsalt": name})):
            figure = _figure(panels, tables, size)
            png, svg = as_png(figure), as_svg(figure)
        write_atomic(folder / f"{name}.png", png)
        write_atomic(folder / f"{name}.svg", on_white(svg).encode())
        if name != "overview":  # for a README; the page shows its panels one by one
            found[name] = inline(svg, words_of(figure))
    return found
