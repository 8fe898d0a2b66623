"""The numbers of a study's report, as tables; nothing here knows of pages or figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from adamomentum.study import stages, stats, tasks
from adamomentum.study.results import StudyResults
from adamomentum.study.stats import Interval, Paired
from adamomentum.study.tasks import Family, Metric

ALPHA = 0.05
NO_EVIDENCE = "no evidence of difference"
TAUS = tuple(round(1 + 0.05 * k, 2) for k in range(61))


@dataclass(frozen=True)
class Row:
    """One optimizer on one task, in one track.

    Attributes:
        task: name of the task.
        optimizer: name in the study.
        track: ``final`` (tuned) or ``default``.
        setting: what was searched for and chosen; of the default track the published learning rate.
        edges: searched values that lie at an edge.
        runs: finished evaluation runs.
        diverged: how many of them.
        metrics: per metric the mean over runs that did not diverge, and its interval.
        train_loss: the same of the final training loss.
        steps: median steps to the target; infinite if half the runs miss it; None without a target.
        reached: how many runs reach it.
        ms: median milliseconds a step.
        eps_dominated: mean share of coordinates whose denominator is mostly eps; None where it is not defined.
    """

    task: str
    optimizer: str
    track: str
    setting: dict[str, float]
    edges: tuple[str, ...]
    runs: int
    diverged: int
    metrics: dict[str, Interval]
    train_loss: Interval
    steps: float | None
    reached: int
    ms: float | None
    eps_dominated: float | None


@dataclass(frozen=True)
class Comparison:
    """The reference against one other optimizer on one task and metric.

    Attributes:
        task: name of the task.
        metric: which.
        other: the other optimizer.
        control: the other is a control, outside the correction.
        paired: the statistics of reference - other.
        t_holm: the paired t test's p-value, corrected for the number of baselines on the task.
        wilcoxon_holm: the same of the exact Wilcoxon test.
        outcome: ``better``, ``worse``, ``no evidence of difference``, or why nothing can be said.
    """

    task: str
    metric: Metric
    other: str
    control: bool
    paired: Paired
    t_holm: float | None
    wilcoxon_holm: float | None
    outcome: str

    @property
    def corrected(self) -> bool:
        """Whether the outcome stands after correction for several baselines."""
        p = self.wilcoxon_holm if self.paired.lost_a or self.paired.lost_b else self.t_holm
        return self.outcome in ("better", "worse") and p is not None and p < ALPHA


@dataclass(frozen=True)
class Target:
    """What time is measured to on a task.

    Attributes:
        value: of the validation metric of the curves.
        baseline: whose median final value it is: the best tuned baseline's.
    """

    value: float
    baseline: str


@dataclass
class StudyTables:
    """All numbers of a report.

    Attributes:
        rows: every optimizer on every task in both tracks, as far as run.
        comparisons: on the primary metric, final track.
        default_comparisons: the same of the default track.
        loss_comparisons: on the final training loss, final track.
        targets: per task.
        steps: per (task, optimizer) the steps to the target of each final run.
        speed: per (task, other) the paired comparison of steps to the target; the reference's minus the other's.
        controls: per (task, control) the comparison of control - the optimizer that it varies.
        scores: per optimizer and task the normalized scores of the final runs.
        iqm: per optimizer.
        profile: per optimizer the share of tasks within a factor of the best, for each of ``TAUS``.
        ranks: mean rank of each optimizer over tasks.
        evp: per (task, optimizer) expected best validation metric after k trials.
        widths: per (task, optimizer) of the sensitivity sweep.
    """

    rows: list[Row] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    default_comparisons: list[Comparison] = field(default_factory=list)
    loss_comparisons: list[Comparison] = field(default_factory=list)
    targets: dict[str, Target] = field(default_factory=dict)
    steps: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    speed: dict[tuple[str, str], Paired] = field(default_factory=dict)
    controls: list[Comparison] = field(default_factory=list)
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    iqm: dict[str, Interval] = field(default_factory=dict)
    profile: dict[str, list[float]] = field(default_factory=dict)
    ranks: dict[str, float] = field(default_factory=dict)
    friedman_p: float | None = None
    evp: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    widths: dict[tuple[str, str], stats.Width] = field(default_factory=dict)

    def row(self, task: str, optimizer: str, track: str = "final") -> Row | None:
        """Returns the row of an optimizer on a task, if there is one."""
        found = (r for r in self.rows if (r.task, r.optimizer, r.track) == (task, optimizer, track))
        return next(found, None)


def family_of(results: StudyResults, task: str) -> Family:
    """Returns the family of a task of the study."""
    return tasks.family(results.study.task(task).family)


def values(results: StudyResults, role: str, task: str, optimizer: str, column: str) -> pd.Series:
    """Returns a number of each run, by replicate; NaN where it diverged or has no such number."""
    t = results.trials
    mine = t[(t["role"] == role) & (t["task"] == task) & (t["optimizer"] == optimizer)]
    if column not in mine:
        return pd.Series(np.nan, index=mine["replicate"].astype(int), dtype=float)
    found = mine[column].astype(float).where(mine["status"] == "ok")
    return pd.Series(found.to_numpy(), index=mine["replicate"].astype(int)).sort_index()


def _interval(numbers: pd.Series) -> Interval:
    finite = [float(v) for v in numbers if math.isfinite(v)]
    return stats.t_interval(finite) if finite else Interval(math.nan, math.nan, math.nan, 0)


def build(results: StudyResults) -> StudyTables:
    """Returns all numbers of the report on ``results``, complete or not."""
    made = StudyTables()
    study = results.study
    for task in study.tasks:
        _add_target(made, results, task.name)
        for track in ("final", "default"):
            for name in study.optimizers:
                _add_row(made, results, task.name, name, track)
        primary = family_of(results, task.name).primary
        made.comparisons += _compare(results, "final", task.name, primary)
        made.default_comparisons += _compare(results, "default", task.name, primary)
        made.loss_comparisons += _compare(results, "final", task.name, _TRAIN_LOSS)
        _add_speed(made, results, task.name)
        _add_controls(made, results, task.name)
        _add_tuning(made, results, task.name)
        _add_widths(made, results, task.name)
    _add_across(made, results)
    return made


_TRAIN_LOSS = Metric("train_loss", "final training loss", "lower", digits=4)


def column_of(metric: Metric) -> str:
    """Returns the name of a metric among a trial's final numbers: the test split's, but for the training loss."""
    return metric.key if metric is _TRAIN_LOSS else f"test_{metric.key}"


def _add_target(made: StudyTables, results: StudyResults, task: str) -> None:
    """The median final validation value of the best tuned baseline: fixed without the reference's runs."""
    column = f"val_{family_of(results, task).curve}"
    medians = {}
    for name in results.study.baselines:
        found = values(results, "final", task, name, column)
        if len(found) == results.study.final.seeds:
            medians[name] = stats.median([v if math.isfinite(v) else math.inf for v in found])
    if len(medians) and math.isfinite(min(medians.values())):
        best = min(medians, key=medians.__getitem__)
        made.targets[task] = Target(medians[best], best)
    if task not in made.targets:
        return
    c = results.curves
    for name in results.study.optimizers:
        runs = values(results, "final", task, name, column)
        mine = c[(c["role"] == "final") & (c["task"] == task) & (c["optimizer"] == name)]
        steps = []
        for replicate in runs.index:
            curve = mine[mine["replicate"] == replicate].sort_values("step")
            points = curve[column].tolist() if column in curve else [None] * len(curve)
            steps.append(stats.steps_to_at_most(curve["step"].tolist(), points, made.targets[task].value))
        if steps:
            made.steps[task, name] = steps


def _add_row(made: StudyTables, results: StudyResults, task: str, name: str, track: str) -> None:
    t = results.trials
    mine = t[(t["role"] == track) & (t["task"] == task) & (t["optimizer"] == name)]
    choice = results.choices.get((task, name))
    untrainable = track == "final" and choice is not None and choice.setting is None
    if mine.empty and not untrainable:
        return
    setting: dict[str, float] = {}
    if track == "final" and choice is not None and choice.setting is not None:
        setting = dict(choice.setting)
    elif not mine.empty:
        setting = {"lr": float(mine["lr"].iloc[0])}
    steps = made.steps.get((task, name), []) if track == "final" else []
    timed = t[(t["task"] == task) & (t["optimizer"] == name)]["ms_per_step"].dropna()
    shares = mine["eps_dominated"].dropna() if "eps_dominated" in mine else pd.Series(dtype=float)
    made.rows.append(
        Row(
            task=task,
            optimizer=name,
            track=track,
            setting=setting,
            edges=choice.edges if track == "final" and choice is not None else (),
            runs=len(mine),
            diverged=int((mine["status"] == "diverged").sum()),
            metrics={
                m.key: _interval(values(results, track, task, name, column_of(m)))
                for m in family_of(results, task).metrics
            },
            train_loss=_interval(values(results, track, task, name, "train_loss")),
            steps=stats.median(steps) if steps else None,
            reached=sum(map(math.isfinite, steps)),
            ms=float(timed.median()) if len(timed) else None,
            eps_dominated=float(shares.mean()) if len(shares) else None,
        )
    )


def outcome(paired: Paired, better: str) -> str:
    """Says what the reference is, in one word or few; never that something was proved.

    With divergences on either side a mean would flatter who diverged, so the rank test decides.
    """
    if paired.n + paired.lost_a + paired.lost_b < 2:
        return "too few runs"
    if paired.lost_a or paired.lost_b:
        if paired.wilcoxon_p is None or paired.wilcoxon_p >= ALPHA:
            return NO_EVIDENCE
        return "worse" if paired.lost_a > paired.lost_b else "better"
    d = paired.difference
    if paired.t_p is None:
        return "no spread between runs: nothing can be said"
    if d.low <= 0 <= d.high:
        return NO_EVIDENCE
    return "better" if (d.mean < 0) == (better == "lower") else "worse"


def _pair(results: StudyResults, roles: tuple[str, str], task: str, names: tuple[str, str], column: str,
          better: str) -> Paired | None:  # fmt: skip
    a, b = (values(results, role, task, name, column) for role, name in zip(roles, names, strict=True))
    common = a.index.intersection(b.index)
    if not len(common):
        return None
    return stats.compare_paired(a[common].tolist(), b[common].tolist(), better)


def _compare(results: StudyResults, role: str, task: str, metric: Metric) -> list[Comparison]:
    study = results.study
    found: dict[str, Paired] = {}
    for name in study.optimizers:
        if name == study.reference:
            continue
        paired = _pair(results, (role, role), task, (study.reference, name), column_of(metric), metric.better)
        if paired is not None:
            found[name] = paired
    baselines = [name for name in found if name in study.baselines]
    t_holm = dict(zip(baselines, stats.holm([found[n].t_p for n in baselines]), strict=True))
    w_holm = dict(zip(baselines, stats.holm([found[n].wilcoxon_p for n in baselines]), strict=True))
    return [
        Comparison(
            task, metric, name, name not in baselines, paired, t_holm.get(name), w_holm.get(name),
            outcome(paired, metric.better),
        )
        for name, paired in found.items()
    ]  # fmt: skip


def _add_speed(made: StudyTables, results: StudyResults, task: str) -> None:
    mine = made.steps.get((task, results.study.reference))
    for name in results.study.baselines:
        other = made.steps.get((task, name))
        if mine and other:
            n = min(len(mine), len(other))
            made.speed[task, name] = stats.compare_paired(mine[:n], other[:n], "lower")


def _add_controls(made: StudyTables, results: StudyResults, task: str) -> None:
    """Each control against the optimizer whose setting it varies, on the seeds that both ran."""
    primary = family_of(results, task).primary
    for control in results.study.controls:
        paired = _pair(
            results,
            ("control", "final"),
            task,
            (control.name, control.lr_from or control.optimizer),
            column_of(primary),
            primary.better,
        )
        if paired is not None:
            text = outcome(paired, primary.better)
            made.controls.append(Comparison(task, primary, control.name, True, paired, None, None, text))


def _add_tuning(made: StudyTables, results: StudyResults, task: str) -> None:
    column = f"val_{family_of(results, task).select}"
    t = results.trials
    first = results.study.task(task).trials or results.study.tuning.trials
    for name in results.study.optimizers:
        mine = t[(t["role"] == "tune") & (t["task"] == task) & (t["optimizer"] == name) & (t["point"] < first)]
        if len(mine):
            scores = mine[column].astype(float).where(mine["status"] == "ok").tolist() if column in mine else []
            made.evp[task, name] = stats.expected_best(scores)


def _add_widths(made: StudyTables, results: StudyResults, task: str) -> None:
    column = f"val_{family_of(results, task).select}"
    for name in results.study.sensitivity.optimizers:
        curve = sensitivity_curve(results, task, name, column)
        if len(curve) > 1:
            width = stats.lr_width(curve["lr"].tolist(), curve["value"].tolist())
            if width is not None:
                made.widths[task, name] = width


def sensitivity_curve(results: StudyResults, task: str, name: str, column: str) -> pd.DataFrame:
    """Returns the sweep's mean validation metric, infinite if a run diverged: columns ``lr``, ``value``."""
    t = results.trials
    mine = t[(t["role"] == "sensitivity") & (t["task"] == task) & (t["optimizer"] == name)]
    rows = []
    for lr, group in mine.groupby("lr"):
        good = group["status"] == "ok"
        rows.append({"lr": lr, "value": float(group[column].mean()) if good.all() and column in group else math.inf})
    return pd.DataFrame(rows, columns=["lr", "value"]).sort_values("lr")


def as_cost(value: float, metric: Metric) -> float:
    """Returns a positive number that is lower for better values: an accuracy becomes an error rate."""
    if not math.isfinite(value):
        return math.inf
    return value if metric.better == "lower" else max(1 - value, 1e-3)


def _add_across(made: StudyTables, results: StudyResults) -> None:
    """Over the tasks on which every optimizer has its final runs."""
    study = results.study
    names = list(study.optimizers)
    anchor = "adamw" if "adamw" in names else study.baselines[0] if study.baselines else study.reference
    complete = [
        task.name
        for task in study.tasks
        if all(
            (row := made.row(task.name, n)) is not None and (row.runs >= study.final.seeds or not row.setting)
            for n in names
        )
    ]
    costs: dict[str, list[float]] = {n: [] for n in names}
    for task in complete:
        metric = family_of(results, task).primary
        runs = {n: [as_cost(v, metric) for v in values(results, "final", task, n, column_of(metric))] for n in names}
        base = [v for v in runs[anchor] if math.isfinite(v)]
        if not base:
            continue
        scale = sum(base) / len(base)
        for n in names:
            # How many times less cost than the anchor's mean: a run that diverged scores 0.
            scored = [stats.normalized(v, scale, "lower") for v in runs[n]] or [0.0]
            made.scores.setdefault(n, {})[task] = scored
            finite = bool(runs[n]) and all(map(math.isfinite, runs[n]))
            costs[n].append(sum(runs[n]) / len(runs[n]) if finite else math.inf)
    if not made.scores:
        return
    made.iqm = {n: stats.stratified_iqm(per_task) for n, per_task in made.scores.items()}
    made.profile = stats.performance_profile(costs, TAUS)
    frame = pd.DataFrame(costs, index=complete).T.replace(math.inf, math.nan)
    better = dict.fromkeys(complete, "lower")
    made.ranks = {str(n): float(r) for n, r in stats.mean_ranks(frame, better).items()}
    made.friedman_p = stats.friedman(frame, better)


def tidy(rows: Sequence[Row], results: StudyResults) -> pd.DataFrame:
    """Returns rows as a table with one column a number."""
    out = []
    for row in rows:
        line: dict[str, object] = {
            "task": row.task,
            "optimizer": stages.label(results.study, row.optimizer),
            "track": {"final": "tuned", "default": "default"}[row.track],
            **{key: row.setting.get(key) for key in ("lr", "weight_decay")},
            "at edge": ", ".join(row.edges),
            "runs": row.runs,
            "diverged": row.diverged,
        }
        for key, interval in row.metrics.items():
            line |= {f"{key} mean": interval.mean, f"{key} low": interval.low, f"{key} high": interval.high}
        line |= {
            "train loss": row.train_loss.mean,
            "steps to target": row.steps,
            "reached": row.reached,
            "ms per step": row.ms,
            "eps dominated": row.eps_dominated,
        }
        out.append(line)
    return pd.DataFrame(out)


def tidy_comparisons(found: Sequence[Comparison], results: StudyResults) -> pd.DataFrame:
    """Returns comparisons as a table with one column a number."""
    rows = []
    for c in found:
        p = c.paired
        low, high = p.bca if p.bca is not None else (None, None)
        rows.append(
            {
                "task": c.task,
                "metric": c.metric.label,
                "against": stages.label(results.study, c.other),
                "pairs": p.n,
                "diverged (reference)": p.lost_a,
                "diverged (other)": p.lost_b,
                "difference": p.difference.mean,
                "t low": p.difference.low,
                "t high": p.difference.high,
                "BCa low": low,
                "BCa high": high,
                "effect size": p.effect,
                "paired t p": p.t_p,
                "paired t p, Holm": c.t_holm,
                "one-sided t p": p.t_p_less,
                "Wilcoxon p": p.wilcoxon_p,
                "Wilcoxon p, least possible": p.wilcoxon_floor,
                "Wilcoxon p, Holm": c.wilcoxon_holm,
                "Welch p": p.welch_p,
                "correlation of pairs": p.correlation,
                "reading": c.outcome,
            }
        )
    return pd.DataFrame(rows)
