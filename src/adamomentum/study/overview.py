"""What a study has done, chosen and left, and what runs: as plain data, which ``--json`` prints and tables show."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

from adamomentum.study.engine import Folder
from adamomentum.study.estimate import Left, left
from adamomentum.study.numbers import number
from adamomentum.study.stages import ROLES, Plan, Planned
from adamomentum.study.standing import Standing, standings
from adamomentum.study.studyfile import Study
from adamomentum.study.trial import TrialResult

Results = Mapping[str, TrialResult]


def of_plan(study: Study, plan: Plan, results: Results, workers: int) -> dict[str, Any]:
    """Return what ``study plan --json`` prints."""
    return {**_about(study, plan, results), "left": _left(left(study, plan, results), workers)}


def of_ids(open_now: Mapping[str, Planned], later: int) -> dict[str, Any]:
    """Return what ``study plan --ids --json`` prints: the trials that can be run now, and how many more at most."""
    return {"trials": [_trial(t) for t in open_now.values()], "later": later}


def of_status(folder: Folder, plan: Plan, results: Results) -> dict[str, Any]:
    """Return what ``study status --json`` prints."""
    study, rest = folder.study, left(folder.study, plan, results)
    diverged = Counter((t.task, t.optimizer) for t in plan.by_id.values() if _status(t, results) == "diverged")
    return {
        **_about(study, plan, results),
        "folder": str(folder.root),
        "complete": not rest.trials,
        "choices": [
            {
                "task": task,
                "optimizer": name,
                "setting": None if choice.setting is None else dict(choice.setting),
                "score": number(choice.score),
                "edges": list(choice.edges),
            }
            for (task, name), choice in plan.choices.items()
        ],
        "running": running(folder, plan, results),
        "diverged": [{"task": task, "optimizer": name, "trials": n} for (task, name), n in diverged.items()],
        "failed": [
            {"id": spec.trial_id, "optimizer": spec.optimizer.name, "error": result.last_line}
            for spec, result in folder.store.failures()
        ],
        "left": _left(rest, 1),
    }


def counts(study: Study, plan: Plan, results: Results) -> list[dict[str, Any]]:
    """Return for each task how many trials each role has, how many trials are done, and how many are left.

    One that serves several roles is counted in each of them, and once as done or left.
    """
    rows = []
    for entry in study.tasks:
        ids = {t.spec.trial_id for t in plan.trials if t.task == entry.name}
        roles = Counter(t.role for t in plan.trials if t.task == entry.name)
        done = len(ids & results.keys())
        rows.append(
            {"task": entry.name, "roles": {role: roles[role] for role in ROLES}, "done": done, "left": len(ids) - done}
        )
    return rows


def not_planned_yet(plan: Plan) -> dict[str, int]:
    """Return how many trials of each role there will be, at most, once what they depend on is finished."""
    waiting = Counter[str]()
    for (role, _, _), count in plan.open.items():
        waiting[role] += count
    return {role: waiting[role] for role in ROLES}


def running(folder: Folder, plan: Plan, results: Results) -> list[dict[str, Any]]:
    """Return where the trials of the plan that are under way stand, those of other plans left out."""
    usual = _usual_steps(plan, results)
    return [
        _running(folder.study, plan.by_id[key], standing, usual.get(plan.by_id[key].task))
        for key, standing in standings(folder.running).items()
        if key in plan.by_id and key not in results
    ]


def _running(study: Study, t: Planned, standing: Standing, usual: int | None) -> dict[str, Any]:
    family = study.task(t.task).reported
    # The metric of the verdict may be measured at the end alone, as BLEU is.
    measured = [key for key in (family.primary.key, family.curve) if f"val_{key}" in standing.curve]
    metric = next(iter(measured), family.primary.key)
    losses = [standing.loss, *standing.curve.get("train_loss", [])[-1:]]
    return {
        **_trial(t),
        "step": standing.step,
        "steps": standing.steps or usual,
        "loss": next((loss for loss in losses if loss is not None), None),
        "metric": metric,
        "validation": next(iter(standing.curve.get(f"val_{metric}", [])[-1:]), None),
        "seconds_left": standing.seconds_left(usual),
        "seconds_silent": standing.silent,
        "machine": standing.machine,
        "process": standing.process,
    }


def _usual_steps(plan: Plan, results: Results) -> dict[str, int]:
    """Return how many steps finished trials of a training function of the user's own made, by task."""
    steps: dict[str, list[float]] = {}
    for key, t in plan.by_id.items():
        counted = results[key].final.get("steps") if key in results else None
        if counted is not None:
            steps.setdefault(t.task, []).append(counted)
    return {task: round(statistics.median(each)) for task, each in steps.items()}


def _about(study: Study, plan: Plan, results: Results) -> dict[str, Any]:
    return {
        "study": study.name,
        "hash": study.hash,
        "title": study.title,
        "tasks": counts(study, plan, results),
        "not_planned_yet": not_planned_yet(plan),
    }


def _trial(t: Planned) -> dict[str, Any]:
    return {
        "id": t.spec.trial_id,
        "task": t.task,
        "role": t.role,
        "optimizer": t.optimizer,
        "lr": t.spec.optimizer.lr,
    }


def _left(rest: Left, workers: int) -> dict[str, Any]:
    return {
        "trials": rest.trials,
        "workers": workers,
        "seconds": rest.seconds / workers,
        "unknown": dict(rest.unknown),
    }


def _status(t: Planned, results: Results) -> str:
    result = results.get(t.spec.trial_id)
    return "" if result is None else result.status
