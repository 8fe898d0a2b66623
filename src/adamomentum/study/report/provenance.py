"""Where a report's trials come from, which failed, which are missing. Tested in tests/study/report/test_page.py."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from adamomentum.study import stages
from adamomentum.study.engine import Folder
from adamomentum.study.report.text import span
from adamomentum.study.results import StudyResults
from adamomentum.study.spec import Budget
from adamomentum.study.studyfile import Study, TaskEntry

OWN_LOOP = "as the script has it"

TELLING = ("cpu", "cpu model", "platform", "torch", "adamomentum", "commit", "gpu")
"""What should be one and the same for trials that are compared to the last bit, or by their times."""


def machines(results: StudyResults) -> tuple[dict[str, str], list[str]]:
    """Return versions and machines of the trials, and the names of those that should be one and are several.

    Each has its number of trials behind it where that is not all of them.
    """
    keys: dict[str, Counter[str]] = {}
    for result in results.results.values():
        for key, value in result.provenance.items():
            keys.setdefault(key, Counter())[value] += 1
    shown = {
        key: ", ".join(value if n == len(results.results) else f"{value} ({n} trials)" for value, n in c.most_common())
        for key, c in keys.items()
    }
    return shown, [key for key in TELLING if len(keys.get(key, ())) > 1]


def failed(folder: Folder, results: StudyResults) -> list[dict[str, str]]:
    """Return the planned trials whose last attempt ended in an error, with the last line of the traceback."""
    planned = {t.spec.trial_id: t for t in results.plan.trials}
    rows = []
    for spec, result in folder.store.failures():
        if spec.trial_id not in planned:
            continue
        t = planned[spec.trial_id]
        rows.append(
            {
                "id": spec.trial_id,
                "task": t.task,
                "role": t.role,
                "optimizer": stages.label(results.study, t.optimizer),
                "lr": f"{t.spec.optimizer.lr:g}",
                "error": result.last_line,
            }
        )
    return rows


def missing(results: StudyResults) -> list[dict[str, str]]:
    """Return how many planned trials of each role in a task are not finished, and whose."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for (task, role, optimizer), n in results.missing.items():
        counts.setdefault((task, role), Counter())[stages.label(results.whole, optimizer)] += n
    return [
        {"task": task, "role": role, "count": str(c.total()), "whose": ", ".join(f"{k} ({n})" for k, n in c.items())}
        for (task, role), c in counts.items()
    ]


def optimizers(results: StudyResults) -> list[dict[str, str]]:
    """Return each optimizer as the study has it."""
    study, rows = results.whole, []
    for name, entry in study.optimizers.items():
        o = study.optimizer(name)
        rows.append(
            {
                "label": stages.label(study, name) + (" (control)" if entry.control else ""),
                "is": o.name,
                "kind": o.kind,
                "decay": o.decay,
                "lr": f"{o.default_lr:g}",
                "space": searched(study, name, o.space),
                "hyperparameters": values(dict(o.hyperparameters)),
            }
        )
    return rows


def searched(study: Study, name: str, names: Iterable[str]) -> str:
    """Return what is searched for an optimizer: its grid, or the ranges of ``names`` in its space."""
    if grid := study.optimizers[name].grid:
        return "lr " + ", ".join(f"{lr:g}" for lr in grid)
    space = study.optimizer(name).space
    return ", ".join(f"{key} {space[key].low:g} to {space[key].high:g}" for key in names if key in space)


def tasks(results: StudyResults) -> list[dict[str, Any]]:
    """Return each task as the study has it."""
    study, rows = results.whole, []
    for entry in study.tasks:
        rows.append(
            {
                "name": entry.name,
                "family": entry.family,
                "params": values(entry.params),
                "budget": budget_text(entry.budget),
                "schedule": values(entry.schedule.model_dump()) if entry.schedule else OWN_LOOP,
                "precision": entry.precision + (f", {entry.processes} processes" if entry.processes > 1 else ""),
                "tune": ", ".join(entry.tune),
                "trials": span(stages.tuning_points(study, entry.name, name) for name in study.optimizers),
                "set": settings_text(entry),
            }
        )
    return rows


def settings_text(entry: TaskEntry) -> str:
    """Return what a task sets for all optimizers, and for single ones."""
    parts = [values(entry.hyperparameters)] if entry.hyperparameters else []
    parts += [f"{name}: {values(given)}" for name, given in entry.optimizers.items()]
    return "; ".join(parts)


def budget_text(budget: Budget | None) -> str:
    """Return a budget in words."""
    if budget is None:
        return OWN_LOOP
    count, unit = (budget.epochs, "epoch") if budget.epochs is not None else (budget.steps, "step")
    length = f"{count:,} {unit}{'s' if count != 1 else ''}"
    return f"{length}, batch size {budget.batch_size}, {budget.evaluations} evaluations"


def values(given: Mapping[str, Any]) -> str:
    """Return names and values as text."""
    return ", ".join(f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items())
