"""Finished trials as tidy tables, one row a trial and role, one row a point of a curve, and numbers out of them.

Tested in tests/study/report/test_tables.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from adamomentum.study import fairness, stages
from adamomentum.study.engine import DataInfo, Folder
from adamomentum.study.stages import Choice, Plan
from adamomentum.study.statistics.effort import steps_to_at_most, steps_to_target
from adamomentum.study.statistics.paired import Interval, t_interval
from adamomentum.study.studyfile import Study
from adamomentum.study.tasks import Family, Metric
from adamomentum.study.trial import TrialResult

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYS = [
    "task",
    "family",
    "role",
    "optimizer",
    "label",
    "point",
    "replicate",
    "lr",
    "weight_decay",
    "status",
    "trial_id",
]
CURVE_KEYS = ["task", "role", "optimizer", "replicate", "trial_id"]

# Of a step's time over trials: the low one is what it takes when little else runs.
LOW, HIGH = 0.1, 0.9
LEAST_ERROR = 1e-3
TRAIN_LOSS = Metric("train_loss", "training loss at the end", "lower", digits=4)
STEPS = Metric("steps", "steps to the target", "lower", digits=0)
COST_BASE = "adamw"
"""The registry's optimizer to whose step and whose scores the others' are put in proportion, where a study has it."""


@dataclass(frozen=True)
class StudyResults:
    """All that a report is made of.

    Attributes:
        study: what is judged: of an optimizer with several forms the one that was chosen.
        whole: the study as it is, with all forms.
        data: what is known of each task's data, by task.
        plan: what was planned, finished or not.
        trials: one row for each planned trial that is finished: ``KEYS``, every final metric, ``area`` (see
            ``area_metric``; of final trials), ``last_step``, ``ms_per_step``, ``train_seconds``, ``seconds``,
            ``started``. A trial that serves two roles has two rows.
        curves: one row a point: ``CURVE_KEYS``, ``step``, ``seconds``, ``train_loss``, ``val_*``.
        results: the trials themselves, by id.
        missing: planned trials that are not finished, counted by (task, role, optimizer).
    """

    study: Study
    whole: Study
    data: Mapping[str, DataInfo]
    plan: Plan
    trials: pd.DataFrame
    curves: pd.DataFrame
    results: Mapping[str, TrialResult]
    missing: Mapping[tuple[str, str, str], int]

    @cached_property
    def runs(self) -> Mapping[tuple[str, str, str], pd.DataFrame]:
        """The rows of ``trials`` by (role, task, optimizer). A report asks for them a thousand times."""
        return _split(self.trials, ["role", "task", "optimizer"])

    @cached_property
    def times(self) -> Mapping[tuple[str, str], pd.DataFrame]:
        """``ms_per_step``, ``started`` and ``seconds`` of trials by (task, optimizer), of each once, where known."""
        once = self.trials.drop_duplicates(["task", "optimizer", "trial_id"])
        numbers = once.reindex(columns=["ms_per_step", "started", "seconds"]).astype(float)
        known = pd.concat([once[["task", "optimizer"]], numbers], axis=1)
        known = known[known["ms_per_step"].notna()]
        return {key: frame[list(numbers)] for key, frame in _split(known, ["task", "optimizer"]).items()}

    @cached_property
    def final_curves(self) -> Mapping[tuple[str, str, int], pd.DataFrame]:
        """The rows of ``curves`` of final trials by (task, optimizer, replicate)."""
        return _split(self.curves[self.curves["role"] == "final"], ["task", "optimizer", "replicate"])

    @property
    def choices(self) -> Mapping[tuple[str, str], Choice]:
        """What tuning chose, by (task, optimizer)."""
        return self.plan.choices


def gather(folder: Folder, device: str = "cpu") -> StudyResults:
    """Return the tables of the study in ``folder``, complete or not.

    Raises:
        StudyError: if the study was never run there.
    """
    plan, results = folder.results(device)
    family_of_task = {task.name: task.reported for task in folder.study.tasks}
    rows: list[dict[str, object]] = []
    frames: dict[tuple[object, ...], pd.DataFrame] = {}
    missing: dict[tuple[str, str, str], int] = {}
    for planned in plan.trials:
        spec, result = planned.spec, results.get(planned.spec.trial_id)
        if result is None:
            where = (planned.task, planned.role, planned.optimizer)
            missing[where] = missing.get(where, 0) + 1
            continue
        rows.append(
            {
                "task": planned.task,
                "family": spec.task.family,
                "role": planned.role,
                "optimizer": planned.optimizer,
                "label": stages.label(folder.study, planned.optimizer),
                "point": planned.point,
                "replicate": spec.replicate,
                "lr": spec.optimizer.lr,
                "weight_decay": spec.optimizer.hyperparameters.get("weight_decay"),
                "status": result.status,
                "trial_id": spec.trial_id,
                **result.final,
                "area": _area(result, family_of_task[planned.task].curve) if planned.role == "final" else None,
                "last_step": max((step for step in result.curve.get("step", ()) if step is not None), default=None),
                **{key: result.timing.get(key) for key in ("ms_per_step", "train_seconds", "seconds", "started")},
            }
        )
        if planned.role in ("final", "default") and result.curve.get("step"):
            frame = pd.DataFrame(result.curve).astype(float)
            frame["seconds"] = frame["step"] * result.timing.get("ms_per_step", 0.0) / 1e3
            frames[tuple(rows[-1][key] for key in CURVE_KEYS)] = frame
    return StudyResults(
        study=plan.study,
        whole=folder.study,
        data=folder.data(),
        plan=plan,
        trials=_table(rows, KEYS),
        curves=_joined(frames),
        results=results,
        missing=missing,
    )


def _area(result: TrialResult, metric: str) -> float | None:
    """Return the mean over a run's steps of what its learning curve is of, from the first point on."""
    steps, values = result.curve.get("step", ()), result.curve.get(f"val_{metric}", ())
    if len(steps) < 2 or len(steps) != len(values) or None in values or None in steps:
        return None
    x, y = np.array(steps, dtype=float), np.array(values, dtype=float)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def _split(table: pd.DataFrame, columns: list[str]) -> dict[Any, pd.DataFrame]:
    return dict(list(table.groupby(columns, sort=False)))


def _table(rows: Sequence[dict[str, object]], first: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    for column in first:
        if column not in table:
            table[column] = pd.Series(dtype=object)
    numbers = [str(column) for column in table if column not in first]
    table[numbers] = table[numbers].astype(float)
    return table[[*first, *numbers]]


def _joined(frames: Mapping[tuple[object, ...], pd.DataFrame]) -> pd.DataFrame:
    if not frames:
        return pd.DataFrame(columns=[*CURVE_KEYS, "step", "seconds", "train_loss"])
    return pd.concat(frames, names=CURVE_KEYS).reset_index(CURVE_KEYS).reset_index(drop=True)


def notes(results: StudyResults, task: str) -> list[str]:
    """Return what a reader must know of a task: what the study says, and what its trials show."""
    entry = results.study.task(task)
    return [*entry.notes, *fairness.remarks(results.study, entry, results.plan, results.results)]


def family_of(results: StudyResults, task: str) -> Family:
    """Return the family of a task of the study, as it is reported on."""
    return results.study.task(task).reported


def column_of(metric: Metric) -> str:
    """Return the name of a metric among a trial's final numbers: the test split's, but for the training loss."""
    return metric.key if metric is TRAIN_LOSS else f"test_{metric.key}"


def time_metric(results: StudyResults, task: str) -> Metric:
    """Return by which validation metric time is measured: that of the target, if it is declared, or of the curves."""
    family = family_of(results, task)
    declared = results.study.task(task).target is not None
    return family.primary if declared else family.metric(family.curve)


def area_metric(results: StudyResults, task: str) -> Metric:
    """Return the metric whose mean over a run's steps is in the column ``area``."""
    family = family_of(results, task)
    metric = family.metric(family.curve)
    return replace(metric, label=f"{metric.label}, mean over the run")


def as_cost(value: float, metric: Metric) -> float:
    """Return a number from 0 that is lower for better values: a share such as an accuracy becomes an error rate.

    Infinite for a value that is not finite. NaN where there is no such number, as for a reward, or a loss below 0.
    """
    if not math.isfinite(value):
        return math.inf
    if metric.better == "lower":
        return value if value >= 0 else math.nan
    return max(1 - value, LEAST_ERROR) if 0 <= value <= 1 else math.nan


def select_metric(results: StudyResults, task: str) -> Metric:
    """Return the metric by which settings are chosen on a task."""
    family = family_of(results, task)
    return family.metric(family.select)


def selected_column(metric: Metric) -> str:
    """Return the name of a metric on the test split at the point of the curve that is best by validation."""
    return f"selected_test_{metric.key}"


def runs(results: StudyResults, role: str, task: str, optimizer: str) -> pd.DataFrame:
    """Return the finished trials of an optimizer, or control, on a task in a stage."""
    return results.runs.get((role, task, optimizer), results.trials.iloc[:0])


def values(results: StudyResults, role: str, task: str, optimizer: str, column: str) -> pd.Series:
    """Return a number of each run, by replicate; NaN where it diverged or has no such number."""
    mine = runs(results, role, task, optimizer)
    index = mine["replicate"].astype(int)
    if column not in mine:
        return pd.Series(np.nan, index=index, dtype=float)
    numbers = mine[column].astype(float).where(mine["status"] == "ok")
    return pd.Series(numbers.to_numpy(), index=index).sort_index()


def interval(numbers: pd.Series) -> Interval:
    """Return mean and t interval of the finite ones of ``numbers``; NaN if there are none."""
    finite = [float(v) for v in numbers if math.isfinite(v)]
    return t_interval(finite) if finite else Interval(math.nan, math.nan, math.nan, 0)


def timed(results: StudyResults, task: str, optimizer: str) -> pd.DataFrame:
    """Return ``ms_per_step``, ``started`` and ``seconds`` of every trial of an optimizer on a task, each once."""
    return results.times.get(
        (task, optimizer), pd.DataFrame(columns=["ms_per_step", "started", "seconds"], dtype=float)
    )


def side_by_side(results: StudyResults, task: str, optimizer: str, other: str) -> bool | None:
    """Say whether two optimizers were timed under the same load; None if when they ran was not recorded.

    For at least half of the trials one of the other optimizer must have begun within the time of a round, which is as
    many trials as there are optimizers: those of a stage run one of each in turn.
    """
    mine, theirs = timed(results, task, optimizer), timed(results, task, other)
    if mine["started"].isna().any() or theirs["started"].isna().any() or mine.empty or theirs.empty:
        return None
    gaps = np.abs(mine["started"].to_numpy()[:, None] - theirs["started"].to_numpy()).min(1)
    near = gaps <= len(results.study.optimizers) * mine["seconds"].to_numpy()
    return bool(near.mean() >= 0.5)


def same_runs(results: StudyResults, role: str, task: str) -> dict[str, str]:
    """Return the baselines whose runs are those of an earlier one, to the last bit, and which that is.

    Adam and AdamW without decay are one optimizer: their numbers are no two pieces of evidence.
    """
    family = family_of(results, task)
    columns = ["lr", "status", TRAIN_LOSS.key, f"val_{family.select}", column_of(family.primary)]
    seen: dict[str, str] = {}
    same: dict[str, str] = {}
    for name in results.study.baselines:
        mine = runs(results, role, task, name).set_index("replicate").sort_index().reindex(columns=columns)
        if not (mine["status"] == "ok").any():
            continue  # divergences are all alike
        same |= {name: seen[text]} if (text := mine.to_json(double_precision=15)) in seen else {}
        seen.setdefault(text, name)
    return same


def untrained(results: StudyResults, task: str, optimizer: str) -> bool:
    """Say whether tuning is complete and found no setting at which the optimizer trains.

    Where a trial failed that cannot be said.
    """
    choice = results.choices.get((task, optimizer))
    return choice is not None and choice.setting is None and not choice.failed


def most(count: int, planned: int) -> bool:
    """Say whether ``count`` runs stand for those planned: one that fails must not hide the others."""
    return count > planned / 2


def final_curves(results: StudyResults, task: str) -> pd.DataFrame:
    """Return the learning curves of all optimizers' final runs on a task."""
    c = results.curves
    return c[(c["role"] == "final") & (c["task"] == task)]


def steps_to(results: StudyResults, task: str, optimizer: str, target: float) -> pd.Series:
    """Return for each final run, by replicate, the first evaluated step at which the curve is as good as ``target``.

    Infinite for a run that never is, and for one that diverged, whatever it had reached before.
    """
    metric = time_metric(results, task)
    column, reached = f"val_{metric.key}", steps_to_at_most if metric.better == "lower" else steps_to_target
    steps = {}
    for row in runs(results, "final", task, optimizer).to_dict("records"):
        replicate = int(row["replicate"])
        curve = results.final_curves.get((task, optimizer, replicate), results.curves.iloc[:0]).sort_values("step")
        if row["status"] != "ok" or column not in curve:
            steps[replicate] = math.inf
        else:
            steps[replicate] = reached(curve["step"].tolist(), curve[column].tolist(), target)
    return pd.Series(steps, dtype=float).sort_index()


def budget_steps(results: StudyResults, task: str) -> float:
    """Return with how many steps a final run on a task ends."""
    final = results.trials[(results.trials["role"] == "final") & (results.trials["task"] == task)]
    return float(final["last_step"].max()) if len(final) else math.nan


def tuned_level(results: StudyResults, task: str, share: float) -> float | None:
    """Return what the median baseline had reached at a share of its steps, in tuning, at the setting chosen there.

    Of an even number of baselines, or of seeds, the worse of the two in the middle; what diverged is worst. None while
    tuning is not complete, or if the median baseline cannot be trained.
    """
    metric = time_metric(results, task)
    levels = []
    for name in results.study.baselines:
        choice = results.choices.get((task, name))
        if choice is None:
            return None
        costs = [
            metric.cost(level) if (level := _level(results, t.spec.trial_id, metric, share)) is not None else math.inf
            for t in results.plan.trials
            if (t.role, t.task, t.optimizer) == ("tune", task, name) and t.is_at(choice.setting)
        ]
        levels.append(_upper_median(costs) if costs else math.inf)
    level = _upper_median(levels) if levels else math.inf
    return metric.cost(level) if math.isfinite(level) else None


def _upper_median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _level(results: StudyResults, trial_id: str, metric: Metric, share: float) -> float | None:
    """Return a trial's validation metric at a share of its steps, between two points on a straight line."""
    result = results.results.get(trial_id)
    column = f"val_{metric.key}"
    if result is None or result.status != "ok" or column not in result.curve:
        return None
    steps, values = np.array(result.curve["step"], dtype=float), np.array(result.curve[column], dtype=float)
    level = float(np.interp(share * steps[-1], steps, values))
    return level if math.isfinite(level) else None


def sensitivity_curve(results: StudyResults, task: str, optimizer: str) -> pd.DataFrame:
    """Return the cost of the sweep's mean validation metric, infinite if a run diverged: columns ``lr``, ``value``."""
    metric = select_metric(results, task)
    column = f"val_{metric.key}"
    rows = []
    for lr, group in runs(results, "sensitivity", task, optimizer).groupby("lr"):
        good = bool((group["status"] == "ok").all()) and column in group
        rows.append({"lr": lr, "value": as_cost(float(group[column].mean()), metric) if good else math.inf})
    return pd.DataFrame(rows, columns=["lr", "value"]).astype(float).sort_values("lr")
