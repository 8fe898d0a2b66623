"""The report folder: CSV tables, figures, and one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from adamomentum.files import write_atomic
from adamomentum.page.templates import template
from adamomentum.study import registry
from adamomentum.study.compare import Outcome
from adamomentum.study.data.images import small_test_split
from adamomentum.study.report import figures, tables
from adamomentum.study.report.tables import Tables, label

PAGE = "report.html"


@dataclass(frozen=True)
class Cells:
    """One optimizer's row of the summary as text, for the terminal and the page alike."""

    name: str
    optimizer: str
    lr: str
    accuracy: str
    loss: str
    steps: str
    ms: str
    note: str


def write(
    outcome: Outcome,
    data_name: str,
    data_line: str,
    declared_target: float | None,
    folder: Path,
    command: str,
    test_images: int,
) -> Tables:
    """Writes the report on ``outcome`` into ``folder`` and returns its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    t = tables.build(outcome, declared_target)
    for name in ("trials", "curves", "learning_rates", "summary", "differences"):
        write_atomic(folder / f"{name}.csv", getattr(t, name).to_csv(index=False).encode())
    inline = figures.draw(t, folder)
    trials = outcome.tuning + outcome.final
    comparison = outcome.comparison
    steps = [s for _, r in outcome.final for s in r.curve.get("step", [])[-1:]]
    page = template(Path(__file__).parent, "template.html.j2").render(
        command=command,
        name=data_name,
        data=data_line,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        comparison=comparison,
        steps=max((int(s) for s in steps if s), default=None),
        grid_points=sorted({len(g) for g in comparison.grids.values() if len(g) > 1}),
        decay_matched={"adamomentum", "adamw"} <= comparison.grids.keys()
        and all(grid == registry.get(name).lr_grid() for name, grid in comparison.grids.items()),
        target=t.target,
        small_test_split=small_test_split(test_images),
        rows=summary_cells(t, comparison.seeds),
        differences=difference_rows(t),
        reference=label(t.reference),
        figures=inline,
        rates=t.learning_rates.assign(label=[label(n) for n in t.learning_rates["optimizer"]]).to_dict("records"),
        optimizers=[
            {
                "label": label(name),
                "decay": registry.get(name).decay,
                "grid": ", ".join(f"{lr:g}" for lr in grid),
                "hyperparameters": json.dumps(dict(registry.get(name).hyperparameters)),
            }
            for name, grid in comparison.grids.items()
        ],
        provenance=sorted({tuple(sorted(r.provenance.items())) for _, r in trials if r.provenance}),
        failed=[
            {
                "id": s.trial_id,
                "optimizer": label(s.optimizer.name),
                "lr": s.optimizer.lr,
                "error": last_line(r.error),
            }
            for s, r in outcome.failed
        ],
        budget=trials[-1][0].budget if trials else None,
        schedule=trials[-1][0].schedule if trials else None,
        threads=trials[-1][0].num_threads if trials else None,
    )
    write_atomic(folder / PAGE, page.encode())
    return t


def last_line(text: str) -> str:
    """Returns the last line of a traceback: what went wrong."""
    return (text.strip().splitlines() or ["unknown error"])[-1]


def summary_cells(t: Tables, seeds: int) -> list[Cells]:
    """Returns the summary as text, one row an optimizer."""
    cells = []
    for row in t.summary.to_dict("records"):
        notes = []
        if row["lr"] is None or math.isnan(row["lr"]):
            notes.append("no learning rate could be trained")
        elif not row["lr_tuned"]:
            notes.append("lr as given, not tuned")
        if row["lr_at_edge"]:
            notes.append("lr at the edge of its grid")
        if row["diverged"]:
            notes.append(f"{row['diverged']} of {row['seeds']} diverged")
        if row["seeds"] < seeds:
            notes.append(f"{row['seeds']} of {seeds} seeds")
        steps = row["steps_to_target"]
        reached = f"{row['reached_target']}/{row['seeds']}"
        if steps is None or math.isnan(steps):
            text = "-"
        elif math.isinf(steps):
            text = f"not reached ({reached})"
        else:
            text = f"{steps:g} ({reached})"
        cells.append(
            Cells(
                name=str(row["optimizer"]),
                optimizer=label(str(row["optimizer"])),
                lr="-" if row["lr"] is None or math.isnan(row["lr"]) else f"{row['lr']:g}",
                accuracy=plus_minus(row, "test_accuracy", 100, 2),
                loss=plus_minus(row, "test_loss", 1, 3),
                steps=text,
                ms="-" if row["ms_per_step"] is None or math.isnan(row["ms_per_step"]) else f"{row['ms_per_step']:.1f}",
                note="; ".join(notes),
            )
        )
    return cells


def plus_minus(row: Mapping[Any, Any], key: str, scale: float, digits: int) -> str:
    """Returns ``mean ± half width`` of the interval ``key`` of a summary row."""
    mean, low, high = scale * row[key], scale * row[f"{key}_low"], scale * row[f"{key}_high"]
    if not math.isfinite(mean):
        return "-" if math.isnan(mean) else "not finite"
    text = f"{mean:.{digits}f}"
    return text if math.isnan(low) else f"{text} ± {(high - low) / 2:.{digits}f}"


def difference_rows(t: Tables) -> list[dict[str, str]]:
    """Returns the paired differences as text: accuracy in percentage points, loss in nats."""
    rows = []
    for row in t.differences.to_dict("records"):
        accuracy = row["metric"] == "test_accuracy"
        scale, digits = (100, 2) if accuracy else (1, 3)
        interval = (
            "-" if math.isnan(row["low"]) else f"{scale * row['low']:+.{digits}f} to {scale * row['high']:+.{digits}f}"
        )
        rows.append(
            {
                "metric": "test accuracy, points" if accuracy else "test loss",
                "baseline": label(str(row["baseline"])),
                "difference": f"{scale * row['difference']:+.{digits}f}",
                "interval": interval,
                "pairs": str(row["pairs"]),
                "left_out": str(row["left_out"]),
                "verdict": _reading(str(row["verdict"]), accuracy),
            }
        )
    return rows


def _reading(verdict: str, higher_is_better: bool) -> str:
    if verdict not in ("higher", "lower"):
        return verdict
    return f"{verdict} ({'better' if (verdict == 'higher') == higher_is_better else 'worse'})"
