"""The report of a study: one page that needs nothing else, figures, tables, and all trials as Parquet."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from adamomentum.files import write_atomic
from adamomentum.page.templates import template
from adamomentum.study import stages
from adamomentum.study.engine import Folder
from adamomentum.study.report import figures, provenance, samples
from adamomentum.study.report.claims import RULE, Judge
from adamomentum.study.report.matrix import Matrix
from adamomentum.study.report.sheets import Sheets
from adamomentum.study.report.swap import Swaps
from adamomentum.study.report.tables import StudyTables, build
from adamomentum.study.report.text import NONE, Sheet, span, write_tables
from adamomentum.study.results import COST_BASE, StudyResults, gather, notes

PAGE = "report.html"


Numbers = tuple[StudyResults, StudyTables]


def numbers(folder: Folder, device: str) -> Numbers:
    """Return what is finished of the study in ``folder``, and what a report makes of it.

    Raises:
        StudyError: if the study was never run there.
    """
    results = gather(folder, device)
    return results, build(results)


def write(folder: Folder, device: str, command: str, known: Numbers | None = None) -> Path:
    """Write the report on what is finished of the study in ``folder`` and return the page's path.

    Beside the page: ``figures/`` (SVG, PDF), ``tables/`` (CSV with the numbers, Markdown, LaTeX), ``report.parquet``
    (one row a trial and role).

    Args:
        folder: of the study.
        device: kind of device its trials ran on.
        command: what made the report, for the record.
        known: what ``numbers`` returned; None: they are computed.

    Raises:
        StudyError: if the study was never run there.
    """
    results, tables = known or numbers(folder, device)
    drawn = figures.draw(results, tables, folder.report / "figures")
    if len(results.study.tasks) == 1:
        figures.overview(results, tables, folder.report)
    sheets = Sheets(results, tables).every()
    write_tables(sheets.values(), folder.report / "tables")
    buffer = io.BytesIO()
    results.trials.to_parquet(buffer, index=False)
    write_atomic(folder.report / "report.parquet", buffer.getvalue())
    page = template(Path(__file__).parent, "report.html.j2").render(
        **_context(folder, results, tables, sheets), figures=drawn, legend=figures.legend(results),
        command=command, written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    write_atomic(folder.report / PAGE, page.encode())
    return folder.report / PAGE


def _context(folder: Folder, results: StudyResults, tables: StudyTables, sheets: dict[str, Sheet]) -> dict[str, Any]:
    """Return what the page shows, figures aside."""
    study, judge = results.study, Judge(results, tables)
    machines, mixed = provenance.machines(results)
    return {
        "study": study,
        "reference": stages.label(study, study.reference),
        "finished": len(results.results),
        "planned": len(results.plan.by_id),
        "waiting": results.plan.open.total(),
        "answer": judge.answer(),
        "claims": judge.claims(),
        "rule": RULE,
        "swaps": Swaps(results, tables).verdicts(),
        "matrix": Matrix(results, tables),
        "at_the_end": any(target.baseline for target in tables.targets.values()),
        "tasks": [_task(results, tables, task.name) for task in study.tasks],
        "sheets": sheets,
        "across": tables.across,
        "cost_base": stages.label(study, base) if (base := study.called(COST_BASE)) else "",
        "anchor": stages.label(study, tables.across.anchor) if tables.across.anchor in study.optimizers else NONE,
        "samples": samples.gather_samples(results),
        "optimizers": provenance.optimizers(results),
        "grids": [stages.label(results.whole, name) for name, entry in results.whole.optimizers.items() if entry.grid],
        "settings": provenance.tasks(results),
        "hash": folder.whole.hash,
        "json": json.dumps(results.whole.model_dump(mode="json", exclude_defaults=True), indent=1, ensure_ascii=False),
        "history": folder.history(),
        "machines": machines,
        "mixed": mixed,
        "failed": provenance.failed(folder, results),
        "missing": provenance.missing(results),
    }


def _task(results: StudyResults, tables: StudyTables, name: str) -> dict[str, Any]:
    entry = results.study.task(name)
    return {
        "name": name,
        "title": entry.title or name,
        "data": results.data[name].description,
        "budget": provenance.budget_text(entry.budget) if entry.budget else _length(results, name),
        "notes": notes(results, name),
        "target": Sheets(results, tables).target(name),
    }


def _length(results: StudyResults, task: str) -> str:
    """Return how many steps the user's own training makes, as it was counted."""
    mine = [results.results[t.spec.trial_id].final for t in results.plan.trials
            if t.task == task and t.spec.trial_id in results.results]  # fmt: skip
    steps = {round(count) for final in mine if (count := final.get("steps"))}
    return f"Trained by a function of your own: {span(steps)} steps, as counted" if steps else "Not trained yet"
