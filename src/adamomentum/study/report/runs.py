"""Numbers of single runs, picked out of a study's results."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from adamomentum.study import stats, tasks
from adamomentum.study.results import StudyResults
from adamomentum.study.stats import Interval
from adamomentum.study.tasks import Family, Metric

# Of a step's time over trials: the low one is what it takes when little else runs.
LOW, HIGH = 0.1, 0.9
TRAIN_LOSS = Metric("train_loss", "training loss at the end", "lower", digits=4)
STEPS = Metric("steps", "steps to the target", "lower", digits=0)
COST_BASE = "adamw"
"""The registry's optimizer to whose step and whose scores the others' are put in proportion, where a study has it."""


def family_of(results: StudyResults, task: str) -> Family:
    """Returns the family of a task of the study."""
    return tasks.family(results.study.task(task).family)


def column_of(metric: Metric) -> str:
    """Returns the name of a metric among a trial's final numbers: the test split's, but for the training loss."""
    return metric.key if metric is TRAIN_LOSS else f"test_{metric.key}"


def time_metric(results: StudyResults, task: str) -> Metric:
    """Returns by which validation metric time is measured: that of the target, if it is declared, or of the curves."""
    family = family_of(results, task)
    declared = results.study.task(task).target is not None
    return family.primary if declared else next(m for m in family.metrics if m.key == family.curve)


def selected_column(metric: Metric) -> str:
    """Returns the name of a metric on the test split at the point of the curve that is best by validation."""
    return f"selected_test_{metric.key}"


def runs(results: StudyResults, role: str, task: str, optimizer: str) -> pd.DataFrame:
    """Returns the finished trials of an optimizer, or control, on a task in a stage."""
    return results.runs.get((role, task, optimizer), results.trials.iloc[:0])


def values(results: StudyResults, role: str, task: str, optimizer: str, column: str) -> pd.Series:
    """Returns a number of each run, by replicate; NaN where it diverged or has no such number."""
    mine = runs(results, role, task, optimizer)
    index = mine["replicate"].astype(int)
    if column not in mine:
        return pd.Series(np.nan, index=index, dtype=float)
    found = mine[column].astype(float).where(mine["status"] == "ok")
    return pd.Series(found.to_numpy(), index=index).sort_index()


def interval(numbers: pd.Series) -> Interval:
    """Returns mean and t interval of the finite ones of ``numbers``; NaN if there are none."""
    finite = [float(v) for v in numbers if math.isfinite(v)]
    return stats.t_interval(finite) if finite else Interval(math.nan, math.nan, math.nan, 0)


def timed(results: StudyResults, task: str, optimizer: str) -> pd.DataFrame:
    """Returns ``ms_per_step``, ``started`` and ``seconds`` of every trial of an optimizer on a task, each once."""
    return results.times.get(
        (task, optimizer), pd.DataFrame(columns=["ms_per_step", "started", "seconds"], dtype=float)
    )


def side_by_side(results: StudyResults, task: str, optimizer: str, other: str) -> bool | None:
    """Says whether two optimizers were timed under the same load; None if when they ran was not recorded.

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
    """Returns the baselines whose runs are those of an earlier one, to the last bit, and which that is.

    Adam and AdamW without decay are one optimizer: their numbers are no two pieces of evidence.
    """
    family = family_of(results, task)
    columns = ["lr", "status", TRAIN_LOSS.key, f"val_{family.select}", column_of(family.primary)]
    seen: dict[str, str] = {}
    found: dict[str, str] = {}
    for name in results.study.baselines:
        mine = runs(results, role, task, name).set_index("replicate").sort_index().reindex(columns=columns)
        if not (mine["status"] == "ok").any():
            continue  # divergences are all alike
        found |= {name: seen[text]} if (text := mine.to_json(double_precision=15)) in seen else {}
        seen.setdefault(text, name)
    return found


def untrained(results: StudyResults, task: str, optimizer: str) -> bool:
    """Says whether tuning is complete and found no setting at which the optimizer trains.

    Where a trial failed that cannot be said.
    """
    choice = results.choices.get((task, optimizer))
    return choice is not None and choice.setting is None and not choice.failed


def most(count: int, planned: int) -> bool:
    """Says whether ``count`` runs stand for those planned: one that fails must not hide the others."""
    return count > planned / 2


def final_curves(results: StudyResults, task: str) -> pd.DataFrame:
    """Return the learning curves of all optimizers' final runs on a task."""
    c = results.curves
    return c[(c["role"] == "final") & (c["task"] == task)]


def steps_to(results: StudyResults, task: str, optimizer: str, target: float) -> pd.Series:
    """Returns for each final run, by replicate, the first evaluated step at which the curve is as good as ``target``.

    Infinite for a run that never is, and for one that diverged, whatever it had reached before.
    """
    metric = time_metric(results, task)
    column, reached = f"val_{metric.key}", stats.steps_to_at_most if metric.better == "lower" else stats.steps_to_target
    found = {}
    for row in runs(results, "final", task, optimizer).to_dict("records"):
        replicate = int(row["replicate"])
        curve = results.final_curves.get((task, optimizer, replicate), results.curves.iloc[:0]).sort_values("step")
        if row["status"] != "ok" or column not in curve:
            found[replicate] = math.inf
        else:
            found[replicate] = reached(curve["step"].tolist(), curve[column].tolist(), target)
    return pd.Series(found, dtype=float).sort_index()


def sensitivity_curve(results: StudyResults, task: str, optimizer: str) -> pd.DataFrame:
    """Returns the sweep's mean validation metric, infinite if a run diverged: columns ``lr``, ``value``."""
    column = f"val_{family_of(results, task).select}"
    rows = []
    for lr, group in runs(results, "sensitivity", task, optimizer).groupby("lr"):
        good = bool((group["status"] == "ok").all()) and column in group
        rows.append({"lr": lr, "value": float(group[column].mean()) if good else math.inf})
    return pd.DataFrame(rows, columns=["lr", "value"]).astype(float).sort_values("lr")
