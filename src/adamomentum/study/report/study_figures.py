"""The figures of a study: one panel a task, one colour an optimizer in all of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from adamomentum.study import stages
from adamomentum.study.report.figures import COLOURS, INK, MARKERS, STYLE, inline
from adamomentum.study.report.study_tables import (
    TAUS,
    StudyTables,
    column_of,
    family_of,
    sensitivity_curve,
    values,
)
from adamomentum.study.results import StudyResults

SIZE = (5.0, 3.6)
SPARE = (("#4D4D4D", "*"), ("#A6761D", "p"), ("#1B9E77", "d"), ("#66A61E", "H"))


class Drawing:
    """Draws the panels of one report.

    Args:
        results: what was run.
        made: its numbers.
    """

    def __init__(self, results: StudyResults, made: StudyTables) -> None:
        self.results, self.made, self.study = results, made, results.study
        self.names = list(self.study.optimizers)
        spare = iter(SPARE)
        self.styles: dict[str, tuple[str, str]] = {}
        for name in self.names:
            known = name in COLOURS
            self.styles[name] = (COLOURS[name], MARKERS[name]) if known else next(spare, ("#333333", "."))

    def label(self, name: str) -> str:
        """How an optimizer is called."""
        return stages.label(self.study, name)

    def _width(self, name: str) -> float:
        return 2.4 if name == self.study.reference else 1.3

    # --- one task ---

    def curves(self, ax: Axes, task: str) -> bool:
        """Validation metric against the step: median over the final runs, band from the first to the third quarter."""
        column = f"val_{family_of(self.results, task).curve}"
        c = self.results.curves
        mine = c[(c["role"] == "final") & (c["task"] == task)] if len(c) else c
        if not len(mine) or column not in mine:
            return False
        for name in self.names:
            rows = mine[mine["optimizer"] == name]
            if rows.empty:
                continue
            wide = rows.pivot(index="step", columns="replicate", values=column)
            colour = self.styles[name][0]
            order = 5 if name == self.study.reference else 3
            ax.plot(wide.index, wide.median(axis=1), color=colour, linewidth=self._width(name), zorder=order)
            low, high = wide.quantile(0.25, axis=1), wide.quantile(0.75, axis=1)
            ax.fill_between(wide.index, low, high, color=colour, alpha=0.12, linewidth=0)
        if task in self.made.targets:
            ax.axhline(self.made.targets[task].value, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        # What blew up must not flatten the rest.
        finite = mine[column].dropna()
        end = mine[mine["step"] == mine["step"].max()][column].dropna()
        if len(end):
            ax.set_ylim(float(finite.min()) * 0.97, min(float(finite.max()), 4 * float(end.median())) * 1.03)
        _log(ax.yaxis, ax)
        ax.set_xlabel("optimizer step")
        ax.set_title(f"{task}: validation {_name(column)}")
        return True

    def finals(self, ax: Axes, task: str) -> bool:
        """The primary metric of each final run, with mean and 95 % interval."""
        metric = family_of(self.results, task).primary
        drawn = False
        for y, name in enumerate(self.names):
            runs = metric.scale * values(self.results, "final", task, name, column_of(metric)).dropna()
            row = self.made.row(task, name)
            if not len(runs) or row is None:
                continue
            drawn = True
            colour, marker = self.styles[name]
            ax.scatter(
                runs, y - 0.16 + np.linspace(-0.12, 0.12, len(runs)), s=14, color=colour, alpha=0.6, linewidths=0
            )
            interval = row.metrics[metric.key]
            if math.isfinite(interval.low):
                ends = [metric.scale * interval.low, metric.scale * interval.high]
                ax.plot(ends, [y + 0.18] * 2, color=colour, linewidth=2.2)
            ax.scatter([metric.scale * interval.mean], [y + 0.18], s=40, color=colour, marker=marker,
                       edgecolors=INK, linewidths=0.8, zorder=5)  # fmt: skip
        self._name_rows(ax, self.names)
        ax.set_xlabel(f"test {metric.label}{', ' + metric.unit if metric.unit else ''} ({metric.better} is better)")
        ax.set_title(task)
        return drawn

    def forest(self, ax: Axes, task: str) -> bool:
        """Mean paired difference to each other optimizer in per cent of its mean; better on the right."""
        found = [c for c in self.made.comparisons if c.task == task]
        metric = family_of(self.results, task).primary
        shown: list[str] = []
        for c in found:
            row, d = self.made.row(task, c.other), c.paired.difference
            if row is None or not math.isfinite(d.mean) or not math.isfinite(d.low):
                continue
            base = row.metrics[metric.key].mean
            scale = (100 if metric.better == "higher" else -100) / base
            colour, marker = self.styles[c.other]
            y = len(shown)
            shown.append(c.other)
            ax.plot([scale * d.low, scale * d.high], [y, y], color=colour, linewidth=2.2)
            ax.scatter([scale * d.mean], [y], s=44, color=colour, marker=marker,
                       edgecolors=INK, linewidths=0.8, zorder=5)  # fmt: skip
        if not shown:
            return False
        ax.axvline(0, color=INK, linewidth=1)
        self._name_rows(ax, shown)
        ax.set_xlabel(f"difference in {metric.label}, % (right: {self.label(self.study.reference)} better)", fontsize=8)
        ax.set_title(task)
        return True

    def _name_rows(self, ax: Axes, names: Sequence[str]) -> None:
        ax.set_yticks(range(len(names)), [self.label(n) for n in names], fontsize=8)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)

    def tuning(self, ax: Axes, task: str) -> bool:
        """Validation metric of every tuning trial against its learning rate; large marks are chosen."""
        column = f"val_{family_of(self.results, task).select}"
        t = self.results.trials
        mine = t[(t["role"] == "tune") & (t["task"] == task)]
        if mine.empty or column not in mine:
            return False
        good = mine[mine["status"] == "ok"]
        if good.empty:
            return False
        top = min(float(good[column].max()), 6 * float(good[column].min()))
        flat = self.study.task(task).tune == ("lr",)
        for name in self.names:
            colour, marker = self.styles[name]
            rows = mine[mine["optimizer"] == name].sort_values("lr")
            heights = rows[column].where(rows["status"] == "ok", np.inf).fillna(np.inf).clip(upper=top * 1.1)
            lost = ~(rows[column].where(rows["status"] == "ok") <= top)
            if flat:
                ax.plot(rows["lr"], heights, color=colour, linewidth=0.8, alpha=0.7)
            ax.scatter(rows["lr"][~lost], heights[~lost], s=10, color=colour, linewidths=0, alpha=0.8)
            ax.scatter(rows["lr"][lost], heights[lost], s=18, color=colour, marker="x", linewidths=0.9)
            choice = self.results.choices.get((task, name))
            if choice is not None and choice.setting is not None:
                ax.scatter([choice.setting["lr"]], [choice.score], s=70, color=colour, marker=marker,
                           edgecolors=INK, linewidths=1, zorder=5)  # fmt: skip
        ax.set_xscale("log")
        _log(ax.yaxis, ax)
        ax.set_xlabel("peak learning rate (x: diverged, or off the scale)")
        ax.set_title(f"{task}: validation {_name(column)}")
        return True

    def expected(self, ax: Axes, task: str) -> bool:
        """Expected best validation metric against the number of tuning trials."""
        drawn = False
        for name in self.names:
            best = self.made.evp.get((task, name))
            if best and all(map(math.isfinite, best)):
                drawn = True
                ax.plot(range(1, len(best) + 1), best, color=self.styles[name][0], linewidth=self._width(name))
        _log(ax.yaxis, ax)
        ax.set_xlabel("tuning trials")
        ax.set_title(f"{task}: expected best on validation")
        return drawn

    def sensitivity(self, ax: Axes, task: str) -> bool:
        """Validation metric against the learning rate, around the chosen one."""
        column = f"val_{family_of(self.results, task).select}"
        curves = {n: sensitivity_curve(self.results, task, n, column) for n in self.study.sensitivity.optimizers}
        values_ = [v for c in curves.values() for v in c["value"] if math.isfinite(v)]
        if not values_:
            return False
        top = 4 * min(values_)
        for name, curve in curves.items():
            choice = self.results.choices.get((task, name))
            if choice is None or choice.setting is None or curve.empty:
                continue
            factor = curve["lr"] / choice.setting["lr"]
            colour, marker = self.styles[name]
            inside = curve["value"] <= top
            ax.plot(factor, curve["value"].clip(upper=top), color=colour, linewidth=self._width(name))
            ax.scatter(factor[inside], curve["value"][inside], s=22, color=colour, marker=marker)
            ax.scatter(factor[~inside], [top] * int((~inside).sum()), s=30, color=colour, marker="x")
        ax.set_xscale("log")
        _log(ax.yaxis, ax)
        ax.set_xlabel("learning rate / chosen learning rate")
        ax.set_title(f"{task}: validation {_name(column)}")
        return True

    def time_to_target(self, ax: Axes, task: str) -> bool:
        """Share of final runs that have reached the target by a step."""
        drawn = False
        for name in self.names:
            steps = self.made.steps.get((task, name))
            if not steps:
                continue
            drawn = True
            reached = sorted(s for s in steps if math.isfinite(s))
            x = [0.0, *reached]
            y = [k / len(steps) for k in range(len(reached) + 1)]
            end = float(self.results.curves[self.results.curves["task"] == task]["step"].max())
            ax.step([*x, end], [*y, y[-1]], where="post", color=self.styles[name][0], linewidth=self._width(name))
        ax.set_ylim(-0.03, 1.03)
        ax.set_xlabel("optimizer step")
        ax.set_title(f"{task}: share of runs at the target")
        return drawn

    # --- all tasks ---

    def profile(self, ax: Axes) -> bool:
        """Share of tasks on which an optimizer is within a factor of the best."""
        for name, shares in self.made.profile.items():
            ax.plot(TAUS, shares, color=self.styles[name][0], linewidth=self._width(name), drawstyle="steps-post")
        ax.set_ylim(-0.03, 1.03)
        ax.set_xlabel("within this factor of the best optimizer")
        ax.set_title("Performance profile: share of tasks")
        return bool(self.made.profile)

    def scores(self, ax: Axes) -> bool:
        """Interquartile mean of normalized scores, with its bootstrap interval."""
        for y, name in enumerate(self.made.iqm):
            interval = self.made.iqm[name]
            colour, marker = self.styles[name]
            ax.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2.2)
            ax.scatter(
                [interval.mean], [y], s=44, color=colour, marker=marker, edgecolors=INK, linewidths=0.8, zorder=5
            )
        self._name_rows(ax, list(self.made.iqm))
        ax.set_xlabel("interquartile mean of scores (higher is better)")
        ax.set_title("All tasks")
        return bool(self.made.iqm)

    def legend(self) -> str:
        """Returns the legend as one line of HTML-free (label, colour, marker) panels, drawn as SVG."""
        figure = Figure(figsize=(7.6, 0.32 * math.ceil(len(self.names) / 3) + 0.1))
        handles = [
            Line2D([], [], color=c, marker=m, markersize=6, linewidth=self._width(n), label=self.label(n))
            for n, (c, m) in self.styles.items()
        ]
        figure.legend(handles=handles, loc="center", ncols=3, frameon=False, fontsize=10)
        return self._svg(figure, "legend")

    def _svg(self, figure: Figure, name: str) -> str:
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        return inline(buffer.getvalue(), name)

    def panel(self, draw: Callable[..., bool], name: str, folder: Path, *arguments: Any) -> str | None:
        """Draws one panel, writes it as SVG and PDF, and returns SVG for a page; None if there is nothing to show."""
        with matplotlib.rc_context(cast("Any", {**STYLE, "svg.hashsalt": name, "font.size": 9})):
            figure = Figure(figsize=SIZE, layout="constrained")
            ax = figure.subplots()
            if not draw(ax, *arguments):
                return None
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
            return self._svg(figure, name)


PER_TASK = ("forest", "finals", "curves", "time_to_target", "tuning", "expected", "sensitivity")


def draw(results: StudyResults, made: StudyTables, folder: Path) -> dict[str, list[str]]:
    """Writes all figures into ``folder`` and returns SVG for the page, a list of panels for each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    drawing = Drawing(results, made)
    found: dict[str, list[str]] = {}
    for kind in PER_TASK:
        panels = [
            drawing.panel(getattr(drawing, kind), f"{kind}-{task.name}", folder, task.name)
            for task in results.study.tasks
        ]
        found[kind] = [svg for svg in panels if svg is not None]
    across = [drawing.panel(drawing.scores, "scores", folder), drawing.panel(drawing.profile, "profile", folder)]
    found["across"] = [svg for svg in across if svg is not None]
    with matplotlib.rc_context(cast("Any", {**STYLE, "svg.hashsalt": "legend"})):
        found["legend"] = [drawing.legend()]
    return found


def _name(column: str) -> str:
    """The metric of a column as text."""
    return {"loss": "loss", "fid": "Fréchet distance", "fid_last3": "Fréchet distance (last 3)"}.get(
        column.removeprefix("val_"), column.removeprefix("val_")
    )


def _log(axis: Any, ax: Axes) -> None:
    """A logarithmic axis with plain numbers, also where it spans less than a decade."""
    ax.set_yscale("log")
    axis.set_major_locator(LogLocator(10, (1, 1.5, 2, 3, 5, 7)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())
