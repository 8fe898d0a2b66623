"""The numbers of a study's report; nothing here knows of pages or figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from adamomentum.study import stages
from adamomentum.study.report.comparisons import Across, Comparison, across, compare, compare_controls, compare_speed
from adamomentum.study.results import (
    COST_BASE,
    HIGH,
    LOW,
    TRAIN_LOSS,
    StudyResults,
    area_metric,
    as_cost,
    column_of,
    family_of,
    interval,
    most,
    runs,
    same_runs,
    select_metric,
    selected_column,
    sensitivity_curve,
    side_by_side,
    steps_to,
    time_metric,
    timed,
    tuned_level,
    untrained,
    values,
)
from adamomentum.study.statistics.effort import Width, expected_best, lr_width
from adamomentum.study.statistics.paired import Interval
from adamomentum.study.tasks import Metric

ROLE_WORDS = {
    "final": "tuned",
    "default": "published",
    "control": "not searched",
}  # as a reader sees them, in the column track


@dataclass(frozen=True)
class Row:
    """One optimizer on one task, in one role.

    Attributes:
        task: name of the task.
        optimizer: name in the study.
        role: ``final`` (tuned), ``default``, or ``control``: at another optimizer's setting, trained like ``final``.
        setting: what was searched for and chosen; else the learning rate.
        edges: searched values that lie at an edge of what was tried.
        runs: finished evaluation runs.
        diverged: how many of them.
        metrics: per metric the mean over runs that did not diverge, and its interval.
        train_loss: the same of the training loss at the end.
        steps: median steps to the target; infinite if half the runs miss it; None without a target.
        reached: how many runs reach it.
        ms: milliseconds a step, a low quantile over all trials of the optimizer on the task.
        ms_high: the high quantile: what other load, or another time, made of it.
        side_by_side: it was timed under the same load as AdamW; None if that is not known.
        eps_dominated: mean share of coordinates whose denominator is mostly eps; None where it is not defined.
        selected: the primary metric at the point of each run's curve that is best by validation, over the same runs.
        selected_step: median step of those points; None if no run has one.
    """

    task: str
    optimizer: str
    role: str
    setting: dict[str, float]
    edges: tuple[str, ...]
    runs: int
    diverged: int
    metrics: dict[str, Interval]
    train_loss: Interval
    steps: float | None
    reached: int
    ms: float | None
    ms_high: float | None
    side_by_side: bool | None
    eps_dominated: float | None
    selected: Interval
    selected_step: float | None


def rows_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows with one column a number."""
    out = []
    for row in rows:
        line: dict[str, object] = {
            "task": row.task,
            "optimizer": row.optimizer,
            "track": ROLE_WORDS[row.role],
            **row.setting,
            "at_edge": ", ".join(row.edges),
            "runs": row.runs,
            "diverged": row.diverged,
        }
        for key, m in {**row.metrics, TRAIN_LOSS.key: row.train_loss}.items():
            line |= {key: m.mean, f"{key}_low": m.low, f"{key}_high": m.high}
        line |= {
            "steps_to_target": row.steps,
            "reached_target": row.reached,
            "ms_per_step": row.ms,
            "eps_dominated": row.eps_dominated,
            "selected_step": row.selected_step,
            "selected": row.selected.mean,
            "selected_low": row.selected.low,
            "selected_high": row.selected.high,
        }
        out.append(line)
    return pd.DataFrame(out)


@dataclass(frozen=True)
class Target:
    """What time is measured to on a task.

    Attributes:
        metric: on the validation split.
        value: of it.
        baseline: whose median final value it is: the best tuned baseline's. More than half of its runs end there.
            Empty if the target was fixed before the final runs.
        share: of its steps at which the median baseline had reached it in tuning; None if it is no such target.
        complete: all baselines have their runs; else the target may still change.
    """

    metric: Metric
    value: float
    baseline: str = ""
    complete: bool = True
    share: float | None = None

    @property
    def text(self) -> str:
        """The target in words."""
        m = self.metric
        name = "loss" if m.key == "loss" else m.label  # which may be the unit of the loss
        return f"validation {name} {m.scale * self.value:.4g}{f' {m.unit}' if m.unit else ''}"


@dataclass
class StudyTables:
    """All numbers of a report.

    Attributes:
        rows: every optimizer on every task in both roles, as far as run, and controls at another's setting.
        comparisons: of the primary metric, in the role ``final``.
        default_comparisons: the same in the role ``default``.
        selected_comparisons: of the primary metric at the best point by validation, ``final``.
        loss_comparisons: of the training loss at the end, ``final``; not where that loss is a game's.
        targets: per task.
        steps: per (task, optimizer) the steps to the target of each final run, by replicate.
        speed: comparisons of the steps to the target.
        near: the same at the study's other targets, each with the target.
        area_comparisons: of the mean over the steps of what the learning curves are of, ``final``.
        controls: each control against the optimizers that it is made of.
        across: all tasks together.
        evp: per (task, optimizer) expected best validation metric after k tuning points.
        widths: per (task, optimizer or control) of the sensitivity sweep.
        same: per (role, task) the baselines whose runs are those of an earlier one, and which that is.
    """

    rows: list[Row] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    default_comparisons: list[Comparison] = field(default_factory=list)
    selected_comparisons: list[Comparison] = field(default_factory=list)
    loss_comparisons: list[Comparison] = field(default_factory=list)
    targets: dict[str, Target] = field(default_factory=dict)
    steps: dict[tuple[str, str], pd.Series] = field(default_factory=dict)
    speed: list[Comparison] = field(default_factory=list)
    near: list[tuple[Target, Comparison]] = field(default_factory=list)
    area_comparisons: list[Comparison] = field(default_factory=list)
    controls: list[Comparison] = field(default_factory=list)
    across: Across = field(default_factory=Across)
    evp: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    widths: dict[tuple[str, str], Width] = field(default_factory=dict)
    same: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def row(self, task: str, optimizer: str, role: str = "final") -> Row | None:
        """Return the row of an optimizer on a task, if there is one."""
        return next((r for r in self.rows if (r.task, r.optimizer, r.role) == (task, optimizer, role)), None)


class Part:
    """What a part of a report is made from: base of its tables, figures and words.

    Args:
        results: what was run.
        tables: its numbers.
    """

    def __init__(self, results: StudyResults, tables: StudyTables) -> None:
        self.results, self.tables, self.study = results, tables, results.study

    def label(self, name: str) -> str:
        """How an optimizer or control is called."""
        return stages.label(self.study, name)

    def mark(self, name: str) -> str:
        """How the row of an optimizer is marked."""
        if name == self.study.reference:
            return "chosen"
        return "" if name in self.study.baselines else "soft"


def build(results: StudyResults) -> StudyTables:
    """Return all numbers of the report on ``results``, complete or not."""
    tables, study = StudyTables(), results.study
    for task in (t.name for t in study.tasks):
        family = family_of(results, task)
        target = _target(results, task)
        if target is not None:
            tables.targets[task] = target
            for name in study.optimizers:
                steps = steps_to(results, task, name, target.value)
                if len(steps):
                    tables.steps[task, name] = steps
        tables.rows += [
            row
            for role, names in (
                ("final", list(study.optimizers)),
                ("control", [c.name for c in stages.swapped(study)]),
                ("default", list(study.optimizers)),
            )
            for name in names
            if (row := _row(tables, results, task, name, role)) is not None
        ]
        tables.comparisons += compare(results, "final", task, family.primary)
        tables.default_comparisons += compare(results, "default", task, family.primary)
        tables.selected_comparisons += compare(results, "final", task, family.primary, selected_column(family.primary))
        if family.curve == "loss":
            tables.loss_comparisons += compare(results, "final", task, TRAIN_LOSS)
        tables.speed += compare_speed(results, task, {n: s for (t, n), s in tables.steps.items() if t == task})
        for near in _near(results, task):
            steps_of = {name: steps_to(results, task, name, near.value) for name in study.optimizers}
            steps_of = {name: steps for name, steps in steps_of.items() if len(steps)}
            tables.near += [(near, c) for c in compare_speed(results, task, steps_of)]
        tables.area_comparisons += compare(results, "final", task, area_metric(results, task), "area")
        tables.same |= {(role, task): same for role in ("final", "default") if (same := same_runs(results, role, task))}
        tables.controls += compare_controls(results, task)
        for name in study.optimizers:
            scores = _tuning_scores(results, task, name)
            if scores:
                tables.evp[task, name] = expected_best(scores)
        for name in (*study.sensitivity.optimizers, *study.sensitivity.controls):
            curve = sensitivity_curve(results, task, name)
            whole = len(curve) > 1 and bool((curve["value"] > 0).all())
            width = lr_width(curve["lr"].tolist(), curve["value"].tolist()) if whole else None
            if width is not None:
                tables.widths[task, name] = width
    tables.across = across(results)
    for role, groups in (
        ("default", (tables.default_comparisons,)),
        ("final", (tables.comparisons, tables.selected_comparisons, tables.loss_comparisons, tables.speed)),
    ):
        for group in groups:
            group[:] = [replace(c, same_as=tables.same.get((role, c.task), {}).get(c.other, "")) for c in group]
    return tables


def _target(results: StudyResults, task: str) -> Target | None:
    """Return what is declared, or where the median run of the best tuned baseline ends: not the reference's runs.

    Of an even number of runs the worse of the two in the middle, so that more than half of them end at the target.
    """
    study, metric = results.study, time_metric(results, task)
    declared, column = study.task(task).target, f"val_{metric.key}"
    if declared is not None:
        return Target(metric, declared)
    if study.speed.shares:
        return _reached(results, task, study.speed.shares[0])
    medians, complete = {}, True
    for name in study.baselines:
        if untrained(results, task, name):
            continue
        finals = values(results, "final", task, name, column)
        complete = complete and len(finals) >= study.final.seeds
        if most(len(finals), study.final.seeds):
            costs = (metric.cost(v) if math.isfinite(v) else math.inf for v in finals)
            medians[name] = sorted(costs)[len(finals) // 2]
    best = min(medians, key=medians.__getitem__, default="")
    if not best or not math.isfinite(medians[best]):
        return None
    return Target(metric, metric.cost(medians[best]), best, complete)


def _reached(results: StudyResults, task: str, share: float) -> Target | None:
    level = tuned_level(results, task, share)
    return None if level is None else Target(time_metric(results, task), level, share=share)


def _near(results: StudyResults, task: str) -> list[Target]:
    """Return the targets that show how much rests on the first one."""
    shares = () if results.study.task(task).target is not None else results.study.speed.shares[1:]
    return [target for share in sorted(shares) if (target := _reached(results, task, share)) is not None]


def _row(tables: StudyTables, results: StudyResults, task: str, name: str, role: str) -> Row | None:
    mine, choice = runs(results, role, task, name), results.choices.get((task, name))
    if mine.empty and not (role == "final" and untrained(results, task, name)):
        return None
    setting: dict[str, float] = {}
    if role == "final" and choice is not None and choice.setting is not None:
        setting = dict(choice.setting)
    elif not mine.empty:
        setting = {"lr": float(mine["lr"].iloc[0])}
    steps = tables.steps.get((task, name)) if role == "final" else None
    times = timed(results, task, name)["ms_per_step"]
    shares = mine["eps_dominated"].dropna() if "eps_dominated" in mine else pd.Series(dtype=float)
    chosen = mine["selected_step"].dropna() if "selected_step" in mine else pd.Series(dtype=float)
    return Row(
        task=task,
        optimizer=name,
        role=role,
        setting=setting,
        edges=choice.edges if role == "final" and choice is not None else (),
        runs=len(mine),
        diverged=int((mine["status"] == "diverged").sum()),
        metrics={
            m.key: interval(values(results, role, task, name, column_of(m))) for m in family_of(results, task).metrics
        },
        train_loss=interval(values(results, role, task, name, TRAIN_LOSS.key)),
        steps=None if steps is None else statistics.median(steps.tolist()),
        reached=0 if steps is None else sum(map(math.isfinite, steps)),
        ms=float(times.quantile(LOW)) if len(times) else None,
        ms_high=float(times.quantile(HIGH)) if len(times) else None,
        side_by_side=side_by_side(results, task, name, results.study.called(COST_BASE)),
        eps_dominated=float(shares.mean()) if len(shares) else None,
        selected=interval(values(results, role, task, name, selected_column(family_of(results, task).primary))),
        selected_step=float(chosen.median()) if len(chosen) else None,
    )


def _tuning_scores(results: StudyResults, task: str, name: str) -> list[float | None]:
    """Return the cost of the mean validation metric of each point of the first search; None for a divergence.

    Nothing where the metric has no cost. An extension is left out: where its points lie depends on what the first
    search found.
    """
    metric, first = select_metric(results, task), stages.tuning_points(results.study, task, name)
    column = f"val_{metric.key}"
    mine = runs(results, "tune", task, name)
    scores: list[float | None] = []
    for _, group in mine[mine["point"] < first].groupby("point"):
        good = bool((group["status"] == "ok").all()) and column in group
        scores.append(as_cost(float(group[column].mean()), metric) if good else None)
    return [] if any(score is not None and math.isnan(score) for score in scores) else scores
