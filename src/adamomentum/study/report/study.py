"""The report of a study: one page that needs nothing else, figures, tables, and all trials as Parquet."""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from adamomentum.study import stages
from adamomentum.study.engine import Folder
from adamomentum.study.files import write_atomic
from adamomentum.study.report import study_figures, study_tables
from adamomentum.study.report.claims import claims
from adamomentum.study.report.export import write_tables
from adamomentum.study.report.html import last_line, template
from adamomentum.study.report.study_tables import Comparison, Row, StudyTables, family_of
from adamomentum.study.results import StudyResults, gather
from adamomentum.study.stats import Interval
from adamomentum.study.tasks import Metric

PAGE = "report.html"
IMAGES_A_ROW = 8


def write(folder: Folder, device: str, command: str) -> Path:
    """Writes the report on what is finished of the study in ``folder`` and returns the page's path.

    Args:
        folder: of the study.
        device: kind of device its trials ran on.
        command: what made the report, for the record.

    Raises:
        StudyError: if the study was never run there.
    """
    results = gather(folder, device)
    made = study_tables.build(results)
    figures = study_figures.draw(results, made, folder.report / "figures")
    write_tables(
        {
            "results": study_tables.tidy(made.rows, results),
            "differences": study_tables.tidy_comparisons(made.comparisons, results),
            "differences-default": study_tables.tidy_comparisons(made.default_comparisons, results),
            "controls": study_tables.tidy_comparisons(made.controls, results),
        },
        folder.report / "tables",
    )
    buffer = io.BytesIO()
    results.trials.to_parquet(buffer, index=False)
    write_atomic(folder.report / "report.parquet", buffer.getvalue())
    page = template("study.html.j2").render(**context(folder, results, made, figures, command))
    write_atomic(folder.report / PAGE, page.encode())
    return folder.report / PAGE


def context(
    folder: Folder, results: StudyResults, made: StudyTables, figures: dict[str, list[str]], command: str
) -> dict[str, Any]:
    """Returns all that the page shows, as text where it is text."""
    study = results.study
    unique = {t.spec.trial_id for t in results.plan.trials}
    waiting = sum(results.plan.open.values())
    return {
        "study": study,
        "command": command,
        "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "reference": stages.label(study, study.reference),
        "finished": len(results.results),
        "planned": len(unique),
        "waiting": waiting,
        "claims": claims(results, made),
        "tasks": [_task(results, made, task.name) for task in study.tasks],
        "differences": [_difference(results, c) for c in made.comparisons],
        "controls": [{**_difference(results, c), "about": _about(results, c.other)} for c in made.controls],
        "figures": figures,
        "across": _across(results, made),
        "friedman": made.friedman_p,
        "widths": _widths(results, made),
        "samples": [s for task in study.tasks for s in _samples(results, task.name)],
        "settings": [_settings(results, name) for name in study.optimizers],
        "history": folder.history(),
        "provenance": _provenance(results),
        "failed": _failed(folder),
        "missing": _missing(results),
    }


def number(value: float, metric: Metric) -> str:
    """Returns a value of ``metric`` as text, scaled for display."""
    return f"{metric.scale * value:.{metric.digits}f}"


def mean(interval: Interval, metric: Metric) -> str:
    """Returns ``mean ± half width`` as text."""
    if not interval.n or not math.isfinite(interval.mean):
        return "-"
    text = number(interval.mean, metric)
    return text if not math.isfinite(interval.low) else f"{text} ± {number(interval.half_width, metric)}"


def p_value(p: float | None) -> str:
    """Returns a p-value as text."""
    if p is None:
        return "-"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _heading(metric: Metric) -> str:
    return metric.label + (f", {metric.unit}" if metric.unit else "")


def _task(results: StudyResults, made: StudyTables, name: str) -> dict[str, Any]:
    entry, metrics = results.study.task(name), family_of(results, name).metrics
    info = results.data[name]
    reference = made.row(name, "adamw") or made.row(name, results.study.reference)
    base = reference.ms if reference is not None else None
    baselines = [
        {"name": key, "cells": [number(v[f"test_{m.key}"], m) if f"test_{m.key}" in v else "" for m in metrics]}
        for key, v in info.baselines.items()
    ]
    tracks = []
    for track, title in (("final", "Tuned"), ("default", "Published settings")):
        rows = [row for row in made.rows if row.task == name and row.track == track]
        if rows:
            tracks.append(
                {"title": title, "track": track, "rows": [_row(results, made, r, metrics, base) for r in rows]}
            )
    return {
        "name": name,
        "title": entry.title or name,
        "data": info.description,
        "notes": entry.notes,
        "headings": [_heading(m) for m in metrics],
        "tracks": tracks,
        "baselines": baselines,
        "target": made.targets.get(name),
        "target_from": stages.label(results.study, made.targets[name].baseline) if name in made.targets else "",
        "budget": _budget(entry),
        "curve": family_of(results, name).curve,
    }


def _budget(entry: Any) -> str:
    b = entry.budget
    length = f"{b.epochs} epochs" if b.epochs is not None else f"{b.steps} steps"
    return f"{length}, batch size {b.batch_size}, {entry.schedule.name} schedule, {entry.precision}"


def _row(
    results: StudyResults, made: StudyTables, row: Row, metrics: tuple[Metric, ...], base: float | None
) -> dict[str, Any]:
    study = results.study
    notes = []
    if not row.setting:
        notes.append("nothing could be trained")
    if row.edges:
        notes.append(f"best {', '.join(row.edges)} at the edge of what was tried")
    if row.diverged:
        notes.append(f"{row.diverged} of {row.runs} diverged")
    wanted = study.final.seeds if row.track == "final" else study.default.seeds
    if row.setting and row.runs < wanted:
        notes.append(f"{row.runs} of {wanted} runs so far")
    if row.steps is None:
        steps = "-"
    else:
        steps = "not reached" if math.isinf(row.steps) else f"{row.steps:g}"
        steps += f" ({row.reached}/{row.runs})"
    return {
        "name": stages.label(study, row.optimizer),
        "reference": row.optimizer == study.reference,
        "control": study.optimizers[row.optimizer].control,
        "setting": ", ".join(f"{k} {v:g}" for k, v in row.setting.items()),
        "cells": [mean(row.metrics[m.key], m) for m in metrics],
        "steps": steps,
        "ms": "-" if row.ms is None else f"{row.ms:.1f}",
        "relative": "-" if row.ms is None or not base else f"{row.ms / base:.2f}",
        "eps": "-" if row.eps_dominated is None else f"{100 * row.eps_dominated:.1f} %",
        "note": "; ".join(notes),
    }


def _difference(results: StudyResults, c: Comparison) -> dict[str, Any]:
    p, m = c.paired, c.metric

    def signed(v: float) -> str:
        return f"{m.scale * v:+.{m.digits}f}" if math.isfinite(v) else "-"

    def between(low: float, high: float) -> str:
        return f"{signed(low)} to {signed(high)}" if math.isfinite(low) else "-"

    return {
        "task": c.task,
        "metric": _heading(m),
        "other": stages.label(results.study, c.other),
        "control": c.control,
        "pairs": p.n,
        "lost": f"{p.lost_a} / {p.lost_b}" if p.lost_a or p.lost_b else "",
        "difference": signed(p.difference.mean),
        "interval": between(p.difference.low, p.difference.high),
        "bca": "-" if p.bca is None else between(*p.bca),
        "effect": "-" if p.effect is None else f"{p.effect:+.2f}",
        "t": p_value(p.t_p),
        "t_holm": p_value(c.t_holm),
        "wilcoxon": p_value(p.wilcoxon_p),
        "floor": p_value(p.wilcoxon_floor),
        "wilcoxon_holm": p_value(c.wilcoxon_holm),
        "welch": p_value(p.welch_p),
        "correlation": "-" if p.correlation is None else f"{p.correlation:+.2f}",
        "outcome": c.outcome,
        "corrected": c.corrected,
    }


def _about(results: StudyResults, name: str) -> str:
    control = next(c for c in results.study.controls if c.name == name)
    base = stages.label(results.study, control.lr_from or control.optimizer)
    return f"{control.about} Compared with {base}."


def _across(results: StudyResults, made: StudyTables) -> list[dict[str, str]]:
    ranked = sorted(made.iqm, key=lambda n: -made.iqm[n].mean)
    return [
        {
            "name": stages.label(results.study, n),
            "iqm": f"{made.iqm[n].mean:.3f} ({made.iqm[n].low:.3f} to {made.iqm[n].high:.3f})",
            "rank": f"{made.ranks[n]:.1f}",
            "best": f"{100 * made.profile[n][0]:.0f} %",
        }
        for n in ranked
    ]


def _widths(results: StudyResults, made: StudyTables) -> list[dict[str, str]]:
    return [
        {
            "task": task,
            "name": stages.label(results.study, name),
            "decades": f"{'> ' if w.open_low or w.open_high else ''}{w.decades:.2f}",
            "range": f"{w.low:.2g} to {w.high:.2g}",
        }
        for (task, name), w in made.widths.items()
    ]


def _samples(results: StudyResults, task: str) -> list[dict[str, Any]]:
    """Outputs of each optimizer's first final run."""
    t = results.trials
    mine = t[(t["role"] == "final") & (t["task"] == task) & (t["replicate"] == 0)]
    found = []
    for line in mine.to_dict("records"):
        samples = results.results[str(line["trial_id"])].samples
        if samples:
            shown = {"task": task, "name": str(line["label"]), "image": "", "pairs": [], "text": [], "note": ""}
            if "images" in samples:
                shown["image"] = _picture(samples["images"], samples["shape"])
                shown["note"] = samples.get("metric", "")
            shown["pairs"] = samples.get("translations", [])
            shown["text"] = [f"{k}: {v}" for k, v in samples.items() if isinstance(v, str) and k != "metric"]
            found.append(shown)
    return found


def _picture(images: list[list[int]], shape: list[int]) -> str:
    """Returns small images side by side as a PNG data address."""
    import numpy as np
    from PIL import Image

    h, w, c = shape
    stack = np.array(images, dtype=np.uint8).reshape(-1, h, w, c)
    rows = len(stack) // IMAGES_A_ROW
    grid = np.pad(stack[: rows * IMAGES_A_ROW], ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=128)
    grid = grid.reshape(rows, IMAGES_A_ROW, h + 1, w + 1, c).transpose(0, 2, 1, 3, 4)
    whole = grid.reshape(rows * (h + 1), IMAGES_A_ROW * (w + 1), c)
    buffer = io.BytesIO()
    Image.fromarray(whole[..., 0] if c == 1 else whole).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _settings(results: StudyResults, name: str) -> dict[str, str]:
    optimizer = results.study.optimizer(name)
    return {
        "name": stages.label(results.study, name),
        "decay": optimizer.decay,
        "lr": f"{optimizer.default_lr:g}",
        "space": ", ".join(f"{key} {r.low:g} to {r.high:g}" for key, r in optimizer.space.items()),
        "hyperparameters": json.dumps(dict(optimizer.hyperparameters)),
    }


def _provenance(results: StudyResults) -> dict[str, Any]:
    """Versions and machines; more than one value where trials ran on different ones."""
    keys: dict[str, Counter[str]] = {}
    for result in results.results.values():
        for key, value in result.provenance.items():
            keys.setdefault(key, Counter())[value] += 1
    return {
        "values": {
            key: ", ".join(f"{v} ({n})" if len(c) > 1 else v for v, n in c.most_common()) for key, c in keys.items()
        },
        "mixed": [key for key in ("cpu", "torch", "platform", "gpu") if len(keys.get(key, ())) > 1],
    }


def _failed(folder: Folder) -> list[dict[str, str]]:
    found = []
    for path in sorted((folder.root / "store" / "failed").glob("*.json")):
        record = json.loads(path.read_text())
        spec = record["spec"]
        found.append(
            {
                "id": path.stem,
                "task": spec["task"]["name"],
                "optimizer": spec["optimizer"]["name"],
                "lr": f"{spec['optimizer']['lr']:g}",
                "error": last_line(record["result"]["error"]),
            }
        )
    return found


def _missing(results: StudyResults) -> list[dict[str, Any]]:
    counts: Counter[tuple[str, str]] = Counter()
    for (task, role, _), n in results.missing.items():
        counts[task, role] += n
    return [{"task": task, "role": role, "count": n} for (task, role), n in counts.items()]
