"""The figures of a study: their panels, one style an optimizer in all of them; as files, and as SVG for its page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from adamomentum.files import write_atomic
from adamomentum.page.figures import INK, ROWS, STYLE, THIN, as_png, as_svg, on_white, panel, part_of, save, values_of
from adamomentum.study import registry, stages
from adamomentum.study.report.comparisons import TAUS
from adamomentum.study.report.tables import Part, StudyTables
from adamomentum.study.report.text import heading
from adamomentum.study.results import (
    TRAIN_LOSS,
    StudyResults,
    as_cost,
    column_of,
    family_of,
    final_curves,
    select_metric,
    sensitivity_curve,
    time_metric,
    values,
)
from adamomentum.study.studyfile import Study
from adamomentum.study.tasks import Metric

SIZE = (5.0, 3.8)
PER_TASK = ("forest", "finals", "curves", "training", "time_to_target", "tuning", "expected", "sensitivity")
ACROSS = ("scores", "profile")
SPARE = (("#17BECF", "*"), ("#E7298A", "p"), ("#9C9D22", "d"), ("#6A3D9A", "H"))
LABEL = 19
"""Letters of an optimizer's name in one line."""

FAR = 4
"""What lies so many times further out than is usual in a panel is drawn at its edge, so that the rest stays legible."""


@dataclass(frozen=True)
class Style:
    """How an optimizer is drawn.

    Attributes:
        colour: of lines and marks.
        marker: matplotlib's name of its mark.
        width: of its lines; the reference's are thicker.
        dash: matplotlib's line style; a control's lines are dashed.
        order: the reference lies on top.
    """

    colour: str
    marker: str
    width: float
    dash: Any
    order: int


def styles(results: StudyResults) -> dict[str, Style]:
    """Return each style by name: of the optimizers, which the registry's have in every report, and swept controls."""
    study, spare, styles = results.study, iter(SPARE), {}
    for name, entry in study.optimizers.items():
        known = registry.OPTIMIZERS.get(name)
        colour, marker = (known.colour, known.marker) if known else next(spare, ("#333333", "."))
        first = name == study.reference
        dash = (0, (4, 1.6)) if entry.control else "solid"
        styles[name] = Style(colour, marker, 2.6 if first else 1.3, dash, 6 if first else 3)
    for name in _swept(study):
        colour, marker = next(spare, ("#333333", "."))
        styles[name] = Style(colour, marker, 1.3, (0, (1, 1.2)), 3)
    return styles


def _swept(study: Study) -> list[str]:
    """Return the controls at another's setting whose learning rate was swept; those on other batches crowd the rest."""
    return [c.name for c in stages.swapped(study) if c.name in study.sensitivity.controls]


class Panels(Part):
    """Draw; every method returns whether there was something to draw.

    Args:
        results: what was run.
        tables: its numbers.
    """

    def __init__(self, results: StudyResults, tables: StudyTables) -> None:
        super().__init__(results, tables)
        self.styles = styles(results)

    def _line(self, ax: Axes, name: str, x: Any, y: Any, **more: Any) -> None:
        s = self.styles[name]
        look = {"color": s.colour, "linewidth": s.width, "linestyle": s.dash, "zorder": s.order}
        # Marks tell lines apart for who does not see their colours: few, and each line's at other places.
        first = 0.2 * list(self.styles).index(name) / len(self.styles)
        look |= {"marker": s.marker, "markersize": 4.5, "markevery": (first, 0.2)}
        ax.plot(x, y, **{"gid": values_of(name), **look, **more})

    def _stairs(self, ax: Axes, name: str, x: Any, y: Any, apart: float) -> None:
        """Draw shares, a little apart: lines that lie on one another stay visible. What is read off is the share."""
        self._line(ax, name, x, np.asarray(y) + apart, drawstyle="steps-post", gid=part_of(name))
        self._line(ax, name, x, y, drawstyle="steps-post", marker="", linewidth=0)

    def _mark(self, ax: Axes, name: str, x: float, y: float) -> None:
        marker = self.styles[name].marker
        self._dots(ax, name, [x], [y], 44, marker=marker, edgecolors=INK, linewidths=0.8, zorder=8)

    def _dots(self, ax: Axes, name: str, x: Any, y: Any, size: float, off: bool = False, **more: Any) -> None:
        """Draw marks at values, or of what is off the scale and has none to be read off."""
        look = {
            "color": self.styles[name].colour,
            "linewidths": 0,
            **({"marker": "x", "linewidths": 0.9} if off else {}),
        }
        ax.scatter(x, y, s=size, gid=part_of(name) if off else values_of(name), **{**look, **more})

    def _interval(
        self, ax: Axes, name: str, ends: Sequence[float], y: float, low: float = -math.inf, high: float = math.inf
    ) -> None:
        """Draw an interval as far as it lies between low and high; cut off, it has no ends to be read off."""
        shown = np.clip(ends, low, high)
        gid = values_of(name) if list(shown) == list(ends) else part_of(name)
        ax.plot(shown, [y, y], color=self.styles[name].colour, linewidth=2.2, gid=gid)

    def _rows(self, ax: Axes, names: Sequence[str]) -> None:
        """Name the rows of a panel that has one an optimizer."""
        labels = ["\n".join(textwrap.wrap(self.label(n), LABEL)) for n in names]
        ax.set_yticks(range(len(names)), labels, linespacing=0.85, fontsize=9)
        for text, name in zip(ax.get_yticklabels(), names, strict=True):
            if name == self.study.reference:
                text.set_fontweight("bold")
        ax.yaxis.set_gid(ROWS)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)

    # --- final runs of a task ---

    def forest(self, ax: Axes, task: str) -> bool:
        """Mean paired difference of the reference to each other optimizer, with its interval; right is better."""
        metric = family_of(self.results, task).primary
        comparisons = [c for c in self.tables.comparisons if c.task == task and math.isfinite(c.paired.difference.mean)]
        if not comparisons:
            return False
        lines = [
            [metric.scale * v for v in (d.mean, d.low, d.high)] for d in (c.paired.difference for c in comparisons)
        ]
        limit = FAR * float(np.median([max(abs(v) for v in line if math.isfinite(v)) for line in lines])) or 1.0
        ends = [float(np.clip(v, -limit, limit)) for line in lines for v in line if math.isfinite(v)]
        left, right = min(0.0, *ends), max(0.0, *ends)
        for y, (c, (mean, low, high)) in enumerate(zip(comparisons, lines, strict=True)):
            if math.isfinite(low):
                self._interval(ax, c.other, [low, high], y, left, right)
            if left <= mean <= right:
                self._mark(ax, c.other, mean, y)
                continue
            better = (mean > 0) == (metric.better == "higher")
            edge = right if mean > 0 else left
            self._dots(ax, c.other, [edge], [y], 44, off=True, marker=">" if better else "<", zorder=8)
            ax.annotate(f"{mean:+.{metric.digits}f}", (edge, y), xytext=(-8 if better else 8, 0), fontsize=8,
                        textcoords="offset points", ha="right" if better else "left", va="center",
                        gid=part_of(c.other))  # fmt: skip
        ax.axvline(0, color=INK, linewidth=1)
        self._rows(ax, [c.other for c in comparisons])
        # Numbers as in the tables; the axis is turned round where lower is better, so that right is always better.
        room = 0.06 * (right - left) or 1.0
        ax.set_xlim((left - room, right + room) if metric.better == "higher" else (right + room, left - room))
        ax.set_xlabel(f"difference in {heading(metric)}\nright: {self.label(self.study.reference)} is better")
        ax.set_title(task)
        return True

    def finals(self, ax: Axes, task: str) -> bool:
        """Draw the primary metric of each final run, with mean and 95 % interval."""
        metric = family_of(self.results, task).primary
        points_of = {}
        for name in self.study.optimizers:
            points = metric.scale * values(self.results, "final", task, name, column_of(metric)).dropna()
            if len(points):
                points_of[name] = points
        if not points_of:
            return False
        medians = [float(v.median()) for v in points_of.values()]
        middle = float(np.median(medians))
        apart, spread = ([abs(m - middle) for m in medians], [float(v.max() - v.min()) for v in points_of.values()])
        reach = max(FAR * float(np.median(apart)), float(np.median(spread)))
        everything = np.concatenate([v.to_numpy() for v in points_of.values()])
        low, high = everything.min(), everything.max()
        if reach > 0 and len(points_of) > 2:
            low, high = max(low, middle - 3 * reach), min(high, middle + 3 * reach)
        room = 0.04 * (high - low) or 1e-3
        for y, (name, points) in enumerate(points_of.items()):
            row = self.tables.row(task, name)
            height = y + 0.18 + np.linspace(-0.12, 0.12, len(points))
            inside = (points >= low) & (points <= high)
            self._dots(ax, name, points[inside], height[inside], 14, alpha=0.6)
            self._dots(ax, name, points[~inside].clip(low, high), height[~inside], 18, off=True)
            if row is None:
                continue
            interval = row.metrics[metric.key]
            ends = [metric.scale * interval.low, metric.scale * interval.high]
            if math.isfinite(ends[0]):
                self._interval(ax, name, ends, y - 0.16, low, high)
            if low <= metric.scale * interval.mean <= high:
                self._mark(ax, name, metric.scale * interval.mean, y - 0.16)
        self._rows(ax, list(points_of))
        ax.set_xlim(low - room, high + room)
        ax.set_xlabel(f"test {heading(metric)}\n{metric.better} is better")
        ax.set_title(f"{task}: final runs")
        return True

    def curves(self, ax: Axes, task: str) -> bool:
        """Draw the validation metric against the step, with the target; a share, such as an accuracy, as its error."""
        metric = time_metric(self.results, task)
        drawn = self._curves(ax, task, f"val_{metric.key}", "validation", metric)
        if drawn and task in self.tables.targets:
            target = self.tables.targets[task]
            error = as_cost(target.value, metric) if metric.better == "higher" else math.nan
            y = target.value if math.isnan(error) else 100 * error
            ax.axhline(y, **THIN)
            words = target.text.removeprefix("validation ")
            ax.annotate(f"target: {words}", (0, y), xycoords=("axes fraction", "data"), xytext=(4, 3),
                        textcoords="offset points", fontsize=8)  # fmt: skip
        return drawn

    def training(self, ax: Axes, task: str) -> bool:
        """Training loss against the step; a game's says nothing and is not drawn."""
        if family_of(self.results, task).curve != "loss":
            return False
        return self._curves(ax, task, "train_loss", "training")

    def _curves(self, ax: Axes, task: str, column: str, of: str, metric: Metric = TRAIN_LOSS) -> bool:
        """Median over the final runs that got so far, band from the first to the third quarter of them."""
        mine = final_curves(self.results, task)
        if mine.empty or column not in mine or mine[column].dropna().empty:
            return False
        costs = mine[column].dropna().map(lambda v: as_cost(v, metric))
        positive = not costs.isna().any()
        if positive and not (costs > 0).any():
            return False
        share = positive and metric.better == "higher"
        if share:
            mine = mine.assign(**{column: 100 * costs})
        for name in self.study.optimizers:
            rows = mine[mine["optimizer"] == name]
            if rows.empty:
                continue
            wide = rows.pivot(index="step", columns="replicate", values=column).dropna(how="all")
            self._line(ax, name, wide.index, wide.median(axis=1))
            low, high = wide.quantile(0.25, axis=1), wide.quantile(0.75, axis=1)
            colour = self.styles[name].colour
            ax.fill_between(wide.index, low, high, color=colour, alpha=0.12, linewidth=0, gid=part_of(name))
        if positive:  # else there is no zero from which a decade could be counted
            finite = mine[column].dropna()
            last = mine[mine["step"] == mine["step"].max()][column].dropna()
            top = float(finite.max())
            if len(last):
                top = min(top, FAR * float(last.median()))
            bottom = float(finite[finite > 0].min())
            ax.set_ylim(bottom * 0.97, max(top, bottom * 1.1) * 1.03)
            _log_y(ax)
        ax.set_xlim(left=0)
        ax.set_xlabel("optimizer step")
        ax.set_title(f"{task}: {of} {'error, %' if share else _name(column)}")
        return True

    def time_to_target(self, ax: Axes, task: str) -> bool:
        """Share of final runs that have reached the target by a step."""
        steps_of = {n: self.tables.steps[task, n] for n in self.study.optimizers if (task, n) in self.tables.steps}
        if not steps_of:
            return False
        end = float(final_curves(self.results, task)["step"].max())
        for k, (name, steps) in enumerate(steps_of.items()):
            reached = sorted(s for s in steps if math.isfinite(s))
            y = np.arange(len(reached) + 1) / len(steps)
            self._stairs(ax, name, [0.0, *reached, end], [*y, y[-1]], 0.004 * (k - len(steps_of) / 2))
        ax.set_ylim(-0.04, 1.04)
        ax.set_xlim(left=0)
        ax.set_xlabel(f"optimizer step (target: {self.tables.targets[task].text})")
        ax.set_title(f"{task}: share of runs at the target")
        return True

    # --- tuning of a task ---

    def tuning(self, ax: Axes, task: str) -> bool:
        """Draw the validation metric of every tuning trial against its learning rate; large marks are chosen."""
        metric = select_metric(self.results, task)
        column = f"val_{metric.key}"
        t = self.results.trials
        mine = t[(t["role"] == "tune") & (t["task"] == task)]
        if mine.empty or column not in mine:
            return False
        costs = mine[column].map(lambda v: as_cost(v, metric))
        scores = costs.where(mine["status"] == "ok")
        if costs.isna().any() or not (scores > 0).any():
            return False
        top = min(float(scores.max()), 1.5 * FAR * float(scores.min()))
        one = self.study.task(task).tune == ("lr",)
        for name in self.study.optimizers:
            rows = mine[mine["optimizer"] == name].sort_values("lr")
            heights = scores[rows.index]
            lost = ~(heights <= top)
            heights = heights.fillna(np.inf).clip(upper=top * 1.08)
            if one:
                line = heights.groupby(rows["lr"]).mean()
                self._line(ax, name, line.index, line, linewidth=0.8, alpha=0.7, marker="", gid=part_of(name))
            self._dots(ax, name, rows["lr"][~lost], heights[~lost], 14, alpha=0.8)
            self._dots(ax, name, rows["lr"][lost], heights[lost], 18, off=True)
            choice = self.results.choices.get((task, name))
            if choice is not None and choice.setting is not None:
                score = as_cost(choice.score, metric)
                self._mark(ax, name, choice.setting["lr"], score)
                if "lr" in choice.edges:
                    ax.annotate("edge", (choice.setting["lr"], score), xytext=(0, -12),
                                textcoords="offset points", ha="center", fontsize=7,
                                gid=part_of(name))  # fmt: skip
        _log_x(ax)
        _log_y(ax)
        ax.set_xlabel("peak learning rate\nx: diverged, or off the scale")
        ax.set_title(f"{task}: validation {_cost_name(metric)}")
        return True

    def expected(self, ax: Axes, task: str) -> bool:
        """Draw the expected best validation metric against the number of tuning trials."""
        drawn = False
        for name in self.study.optimizers:
            best = self.tables.evp.get((task, name))
            if best and all(math.isfinite(v) and v > 0 for v in best):
                drawn = True
                self._line(ax, name, range(1, len(best) + 1), best)
        _log_y(ax)
        ax.set_xlabel("tuning trials")
        ax.set_title(f"{task}: expected best on validation")
        return drawn

    def sensitivity(self, ax: Axes, task: str) -> bool:
        """Draw the validation metric against the learning rate, around the chosen one."""
        swept = (*self.study.sensitivity.optimizers, *_swept(self.study))
        curves = {n: c for n in swept if len(c := sensitivity_curve(self.results, task, n)) > 1}
        finite = {n: [v for v in c["value"] if math.isfinite(v) and v > 0] for n, c in curves.items()}
        if not any(finite.values()) or any(c["value"].isna().any() for c in curves.values()):
            return False
        # The worst of those that train at all can be seen, too.
        top = min(FAR * max(min(v) for v in finite.values() if v), 1.05 * max(max(v) for v in finite.values() if v))
        for name, curve in curves.items():
            factor = curve["lr"] / self._middle(task, name)
            inside = curve["value"] <= top
            # Of a line that was cut off the scale no values are read off, only of its marks.
            gid = values_of(name) if inside.all() else part_of(name)
            self._line(ax, name, factor, curve["value"].clip(upper=top), marker="", gid=gid)
            marker = self.styles[name].marker
            self._dots(ax, name, factor[inside], curve["value"][inside], 24, marker=marker, zorder=7)
            self._dots(ax, name, factor[~inside], [top] * int((~inside).sum()), 34, off=True, zorder=7)
        _log_x(ax)
        _log_y(ax)
        ax.set_xlabel("learning rate / that in the middle of the sweep\nx: diverged, or off the scale")
        ax.set_title(f"{task}: validation {_cost_name(select_metric(self.results, task))}")
        return True

    def _middle(self, task: str, name: str) -> float:
        """Return the learning rate around which a sweep lies: the chosen one, of a control the one that it is given."""
        planned = (t for t in self.results.plan.trials if (t.role, t.task, t.optimizer) == ("sensitivity", task, name))
        return next(t.spec.optimizer.lr for t in planned if t.point == 0)

    # --- all tasks ---

    def scores(self, ax: Axes) -> bool:
        """Interquartile mean of the scores, with its bootstrap interval."""
        iqm = self.tables.across.iqm
        for y, (name, q) in enumerate(iqm.items()):
            self._interval(ax, name, [q.low, q.high], y)
            self._mark(ax, name, q.mean, y)
        ax.axvline(1, color=INK, linewidth=1)
        if iqm:
            self._rows(ax, list(iqm))
            anchor = self.label(self.tables.across.anchor)
            ax.set_xlabel(f"interquartile mean of scores, {anchor} = 1\nhigher is better")
        ax.set_title("Scores over all tasks")
        return bool(iqm)

    def profile(self, ax: Axes) -> bool:
        """Share of tasks on which an optimizer is within a factor of the best."""
        profile = self.tables.across.profile
        for k, (name, shares) in enumerate(profile.items()):
            self._stairs(ax, name, TAUS, shares, 0.005 * (k - len(profile) / 2))
        ax.set_ylim(-0.05, 1.05)
        ax.set_xlabel("cost within this factor of the best")
        ax.set_title("Performance profile: share of tasks")
        return bool(profile)


def _name(column: str) -> str:
    """Return the metric of a column as text."""
    key = column.removeprefix("val_").removeprefix("train_")
    return {"fid": "Fréchet distance", "fid_last3": "Fréchet distance (last 3)"}.get(key, key)


def _cost_name(metric: Metric) -> str:
    """Return what the cost of a metric is called."""
    return _name(f"val_{metric.key}") if metric.better == "lower" else f"1 - {metric.label}"


def _log_y(ax: Axes) -> None:
    """Make an axis logarithmic, with plain numbers, also where it spans less than a decade."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(MaxNLocator(6) if high < 4 * low else LogLocator(10, (1, 2, 3, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _log_x(ax: Axes) -> None:
    """Make an axis logarithmic, with few labels, also where it spans less than a decade."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(10, (1, 3) if high < 3000 * low else (1,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


# Labels are the user's own: a $ in them is a dollar.
@matplotlib.rc_context({"text.parse_math": False})
def draw(results: StudyResults, tables: StudyTables, folder: Path) -> dict[str, list[str]]:
    """Write every panel into ``folder`` as SVG and PDF.

    Returns:
        For each kind of panel the SVG texts for a page; none where there is nothing to show.
    """
    for old in (*folder.glob("*.svg"), *folder.glob("*.pdf")):
        old.unlink()  # of an earlier version of the study
    panels, svgs = Panels(results, tables), dict[str, list[str]]()
    for kind in PER_TASK:
        drawn = [
            panel(getattr(panels, kind), f"{kind}-{task.name}", folder, task.name, size=SIZE)
            for task in results.study.tasks
        ]
        svgs[kind] = [svg for svg in drawn if svg is not None]
    drawn = [panel(getattr(panels, kind), kind, folder, size=SIZE) for kind in ACROSS]
    svgs["across"] = [svg for svg in drawn if svg is not None]
    _headline(panels, folder)
    return svgs


def _headline(panels: Panels, folder: Path) -> None:
    """Draw the differences on all tasks in one figure, for a README or a paper; the page shows them one by one."""
    shown = [t.name for t in panels.study.tasks if any(c.task == t.name for c in panels.tables.comparisons)]
    if not shown:
        return
    with matplotlib.rc_context(cast("Any", {**STYLE, "svg.hashsalt": "forest"})):
        figure = Figure(figsize=(SIZE[0] * len(shown), SIZE[1]), layout="constrained")
        for ax, task in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            panels.forest(ax, task)
        save(figure, "forest", folder)


@matplotlib.rc_context({"text.parse_math": False})
def overview(results: StudyResults, tables: StudyTables, folder: Path) -> None:
    """Write learning curves, tuning and final runs of a study's tasks, a row each, as one picture (PNG, SVG)."""
    panels, study = Panels(results, tables), results.study
    kinds = (panels.curves, panels.tuning, panels.finals)
    with matplotlib.rc_context(cast("Any", {**STYLE, "svg.hashsalt": "overview"})):
        figure = Figure(figsize=(14, 4.2 * len(study.tasks)), layout="constrained")
        for row, task in zip(figure.subplots(len(study.tasks), len(kinds), squeeze=False), study.tasks, strict=True):
            for ax, draw_in in zip(row, kinds, strict=True):
                if not draw_in(ax, task.name):
                    ax.clear()
                    ax.set_axis_off()
        handles = [
            Line2D([], [], color=s.colour, marker=s.marker, linestyle=s.dash, label=stages.label(study, name))
            for name, s in styles(results).items()
            if name in study.optimizers
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5), columnspacing=1.4)
        write_atomic(folder / "overview.png", as_png(figure))
        write_atomic(folder / "overview.svg", on_white(as_svg(figure)).encode())


def legend(results: StudyResults) -> list[tuple[str, str, str]]:
    """Return the name of each style, its label and a small drawing of its line and mark, as SVG for a page."""
    return [(name, stages.label(results.study, name), _key(name, results)) for name in styles(results)]


def _key(name: str, results: StudyResults) -> str:
    style = styles(results)[name]
    marker = MarkerStyle(style.marker)
    path = marker.get_path().transformed(marker.get_transform())
    scale = 4 / float(np.abs(np.asarray(path.vertices)).max())
    parts = []
    for polygon in path.to_polygons():
        parts.append("M" + "L".join(f"{17 + scale * x:.1f},{7 - scale * y:.1f}" for x, y in np.asarray(polygon)) + "Z")
    dashes = "" if style.dash == "solid" else ' stroke-dasharray="6 3"'
    return (
        '<svg class="key" width="34" height="14" viewBox="0 0 34 14" aria-hidden="true">'
        f'<path d="M0,7H34" stroke="{style.colour}" stroke-width="{style.width}"{dashes}/>'
        f'<path d="{"".join(parts)}" fill="{style.colour}" stroke="currentColor" stroke-width=".6"/></svg>'
    )
