"""The figures of a study as files, and as SVG for its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle

from adamomentum.files import write_atomic
from adamomentum.page.figures import STYLE, as_png, as_svg, on_white, panel, save
from adamomentum.study import stages
from adamomentum.study.report.panels import Panels, styles
from adamomentum.study.report.study_tables import StudyTables
from adamomentum.study.results import StudyResults

SIZE = (5.0, 3.8)
PER_TASK = ("forest", "finals", "curves", "training", "time_to_target", "tuning", "expected", "sensitivity")
ACROSS = ("scores", "profile")


def draw(results: StudyResults, made: StudyTables, folder: Path) -> dict[str, list[str]]:
    """Writes every panel into ``folder`` as SVG and PDF.

    Returns:
        For each kind of panel the SVG texts for a page; none where there is nothing to show.
    """
    for old in (*folder.glob("*.svg"), *folder.glob("*.pdf")):
        old.unlink()  # of an earlier version of the study
    panels, found = Panels(results, made), dict[str, list[str]]()
    for kind in PER_TASK:
        drawn = [
            panel(getattr(panels, kind), f"{kind}-{task.name}", folder, task.name, size=SIZE)
            for task in results.study.tasks
        ]
        found[kind] = [svg for svg in drawn if svg is not None]
    drawn = [panel(getattr(panels, kind), kind, folder, size=SIZE) for kind in ACROSS]
    found["across"] = [svg for svg in drawn if svg is not None]
    _headline(panels, folder)
    return found


def _headline(panels: Panels, folder: Path) -> None:
    """The differences on all tasks in one figure, for a README or a paper; the page shows its panels one by one."""
    shown = [t.name for t in panels.study.tasks if any(c.task == t.name for c in panels.made.comparisons)]
    if not shown:
        return
    with matplotlib.rc_context(cast("Any", {**STYLE, "svg.hashsalt": "forest"})):
        figure = Figure(figsize=(SIZE[0] * len(shown), SIZE[1]), layout="constrained")
        for ax, task in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            panels.forest(ax, task)
        save(figure, "forest", folder)


def overview(results: StudyResults, made: StudyTables, folder: Path) -> None:
    """Writes learning curves, tuning and final runs of a study's tasks, a row each, as one picture (PNG, SVG)."""
    panels, study = Panels(results, made), results.study
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
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5), columnspacing=1.4)
        write_atomic(folder / "overview.png", as_png(figure))
        write_atomic(folder / "overview.svg", on_white(as_svg(figure)).encode())


def legend(results: StudyResults) -> list[tuple[str, str]]:
    """Returns each optimizer's label and a small drawing of its line and mark, as SVG for a page."""
    return [(stages.label(results.study, name), _key(name, results)) for name in results.study.optimizers]


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
