"""Optimizers compared, in pairs on one task and over all tasks: the statistics, and what they allow to be said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from adamomentum.study import stages
from adamomentum.study.results import (
    COST_BASE,
    STEPS,
    StudyResults,
    as_cost,
    budget_steps,
    column_of,
    family_of,
    most,
    runs,
    untrained,
    values,
)
from adamomentum.study.statistics.across import (
    friedman,
    mean_ranks,
    nemenyi_distance,
    normalized,
    performance_profile,
    stratified_iqm,
)
from adamomentum.study.statistics.paired import Interval, Paired, compare_paired, holm, t_interval
from adamomentum.study.studyfile import Control, Study
from adamomentum.study.tasks import Metric

ALPHA = 0.05
NO_EVIDENCE = "no evidence of difference"
TOO_FEW = "too few runs"
NOTHING = Paired(
    0, 0, 0, Interval(math.nan, math.nan, math.nan, 0), None, None, None, None, None, 1.0, None, None, None
)
"""What pairs say of which there are none."""

TAUS = tuple(round(1 + 0.05 * k, 2) for k in range(61))


@dataclass(frozen=True)
class Comparison:
    """Two optimizers on one task and metric.

    Attributes:
        task: name of the task.
        metric: which.
        subject: the optimizer, or control, that is judged.
        other: what it is compared with.
        control: the comparison serves to explain, and is outside the correction over baselines.
        paired: the statistics of subject - other.
        t_holm: the paired t test's p-value, corrected for the number of baselines.
        wilcoxon_holm: the same of the exact Wilcoxon test.
        outcome: of the subject: ``better``, ``worse``, ``no evidence of difference``, or why nothing can be said.
        by_rank: the outcome rests on the rank test, not on the mean.
        untrained: no setting that was tried trains one of the two: it is the worse one without a test.
        same_as: the baseline whose runs those of ``other`` are, number by number; counted there.
        restricted: of steps to a target, the mean of subject - other with its t interval, a run that misses the target
            counted with all steps of its budget.
    """

    task: str
    metric: Metric
    subject: str
    other: str
    control: bool
    paired: Paired
    t_holm: float | None
    wilcoxon_holm: float | None
    outcome: str
    by_rank: bool
    untrained: bool = False
    same_as: str = ""
    restricted: Interval | None = None

    @property
    def corrected(self) -> bool:
        """Whether the outcome stands after correction for several baselines."""
        p = self.wilcoxon_holm if self.by_rank else self.t_holm
        return self.outcome in ("better", "worse") and (self.untrained or (p is not None and p < ALPHA))


def comparisons_frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return comparisons with one column a number."""
    rows = []
    for c in comparisons:
        p = c.paired
        low, high = p.bca if p.bca is not None else (None, None)
        rows.append(
            {
                "task": c.task,
                "metric": c.metric.key,
                "subject": c.subject,
                "against": c.other,
                "pairs": p.n,
                "diverged_subject": p.lost_a,
                "diverged_other": p.lost_b,
                "difference": p.difference.mean,
                "t_low": p.difference.low,
                "t_high": p.difference.high,
                "bca_low": low,
                "bca_high": high,
                "effect_size": p.effect,
                "rank_effect": p.rank_effect,
                "t_p": p.t_p,
                "t_p_holm": c.t_holm,
                "t_p_less": p.t_p_less,
                "wilcoxon_p": p.wilcoxon_p,
                "wilcoxon_least": p.wilcoxon_floor,
                "wilcoxon_p_holm": c.wilcoxon_holm,
                "welch_p": p.welch_p,
                "correlation": p.correlation,
                "by_rank": c.by_rank,
                "reading": c.outcome,
                "after_correction": c.corrected,
                **({} if (r := c.restricted) is None else {"restricted": r.mean, "r_low": r.low, "r_high": r.high}),
            }
        )
    return pd.DataFrame(rows)


def outcome(paired: Paired, better: str, by_rank: bool, pairs: int) -> str:
    """Say what the first of a pair is, in one word or few; never that something was proved.

    Args:
        paired: the statistics.
        better: ``lower`` or ``higher``.
        by_rank: judge by the rank test: a mean over the runs that are left would flatter who diverged.
        pairs: how many there are, those that both lost included.
    """
    if pairs < 2 or (paired.n < 2 and not by_rank):
        return TOO_FEW
    if by_rank:
        if paired.wilcoxon_p is None or not paired.rank_effect or paired.wilcoxon_p >= ALPHA:
            return NO_EVIDENCE
        return "better" if (paired.rank_effect < 0) == (better == "lower") else "worse"
    d = paired.difference
    if paired.t_p is None:
        return NO_EVIDENCE if d.mean == 0 else "no spread between runs: nothing can be said"
    if d.low <= 0 <= d.high:
        return NO_EVIDENCE
    return "better" if (d.mean < 0) == (better == "lower") else "worse"


@dataclass(frozen=True)
class _Pairs:
    paired: Paired
    count: int

    def by_rank(self) -> bool:
        return bool(self.paired.lost_a or self.paired.lost_b)


def _pairs(a: pd.Series, b: pd.Series, better: str) -> _Pairs | None:
    """Return the statistics over the replicates that both have; a trial that failed is in neither."""
    common = a.index.intersection(b.index)
    if not len(common):
        return None
    return _Pairs(compare_paired(a[common].tolist(), b[common].tolist(), better), len(common))


def _corrected(p_values: Mapping[str, float | None], baselines: Iterable[str]) -> dict[str, float | None]:
    """Holm's correction over all baselines; one without a test counts as 1, so that a part is judged like the whole."""
    names = list(baselines)
    given = [p_values.get(name) for name in names]
    adjusted = holm([1.0 if p is None else p for p in given])
    return {name: None if p is None else a for name, p, a in zip(names, given, adjusted, strict=True)}


def _judged(
    results: StudyResults, task: str, metric: Metric, pairs_of: Mapping[str, _Pairs], always_by_rank: bool
) -> list[Comparison]:
    study = results.study
    t_holm = _corrected({n: p.paired.t_p for n, p in pairs_of.items()}, study.baselines)
    w_holm = _corrected({n: p.paired.wilcoxon_p for n, p in pairs_of.items()}, study.baselines)
    comparisons = []
    for name, pairs in pairs_of.items():
        paired, by_rank = pairs.paired, always_by_rank or pairs.by_rank()
        text = outcome(paired, metric.better, by_rank, pairs.count)
        control = name not in study.baselines
        comparisons.append(
            Comparison(
                task, metric, study.reference, name, control, paired, t_holm.get(name), w_holm.get(name), text, by_rank
            )
        )
    return comparisons


def _decided(results: StudyResults, task: str, metric: Metric) -> dict[str, Comparison]:
    """Return the comparisons in which no setting that was tried trains one of the two."""
    study, decided = results.study, {}
    lost = {name: untrained(results, task, name) for name in study.optimizers}
    for name in study.optimizers:
        # The one that trains must have runs: what has not been run is not better.
        winner = study.reference if lost[name] else name
        if lost[name] == lost[study.reference] or runs(results, "final", task, winner).empty:
            continue
        text, control = "better" if lost[name] else "worse", name not in study.baselines
        decided[name] = Comparison(task, metric, study.reference, name, control, NOTHING, None, None, text, True, True)
    return decided


def compare(results: StudyResults, role: str, task: str, metric: Metric, column: str | None = None) -> list[Comparison]:
    """Return the reference against every other optimizer, in the study's order, as far as run.

    Args:
        results: what was run.
        role: ``final`` or ``default``.
        task: name of the task.
        metric: what is compared.
        column: where it stands in a trial's final numbers; default: the test split's after the last step.
    """
    study, column = results.study, column or column_of(metric)
    mine = values(results, role, task, study.reference, column)
    decided = _decided(results, task, metric) if role == "final" else {}
    pairs_of: dict[str, _Pairs] = {}
    for name in study.optimizers:
        if name != study.reference and name not in decided:
            pairs = _pairs(mine, values(results, role, task, name, column), metric.better)
            if pairs is not None:
                pairs_of[name] = pairs
    decided |= {c.other: c for c in _judged(results, task, metric, pairs_of, False)}
    return [decided[name] for name in study.optimizers if name in decided]


def compare_speed(results: StudyResults, task: str, steps: Mapping[str, pd.Series]) -> list[Comparison]:
    """Return the reference against every baseline in steps to the target, by ranks: many runs miss it.

    Args:
        results: what was run.
        task: name of the task.
        steps: of each optimizer's final runs by replicate, infinite where the target is missed; empty without a target.
    """
    study, pairs_of, restricted = results.study, dict[str, _Pairs](), dict[str, Interval]()
    decided = _decided(results, task, STEPS) if steps else {}
    budget = budget_steps(results, task)
    for name in study.baselines:
        if study.reference in steps and name in steps:
            pairs = _pairs(steps[study.reference], steps[name], "lower")
            if pairs is not None:
                pairs_of[name] = pairs
                differences = steps[study.reference].clip(upper=budget) - steps[name].clip(upper=budget)
                restricted[name] = t_interval(differences.dropna().tolist())
    judged = _judged(results, task, STEPS, pairs_of, True)
    decided |= {c.other: replace(c, restricted=restricted[c.other]) for c in judged}
    return [decided[name] for name in study.baselines if name in decided]


def compare_controls(results: StudyResults, task: str) -> list[Comparison]:
    """Return each control against the tuned optimizer that it is and, where it differs, that whose rate it takes.

    One at another optimizer's setting is first of all compared with that one, trained alike (:func:`stages.beside`).
    """
    study, metric, comparisons = results.study, family_of(results, task).primary, []
    for control in study.controls:
        if runs(results, "control", task, control.name).empty:
            continue
        mine = values(results, "control", task, control.name, column_of(metric))
        for other in dict.fromkeys(_counterparts(study, control)):
            role = "final" if other in study.optimizers else "control"
            pairs = _pairs(mine, values(results, role, task, other, column_of(metric)), metric.better)
            if pairs is not None:
                paired, by_rank = pairs.paired, pairs.by_rank()
                text = outcome(paired, metric.better, by_rank, pairs.count)
                c = Comparison(task, metric, control.name, other, True, paired, None, None, text, by_rank)
                comparisons.append(c)
    return comparisons


def _counterparts(study: Study, control: Control) -> Iterator[str]:
    """Yield the optimizers, or the control, that a control is to be compared with."""
    if not control.setting_from:
        yield control.lr_from or control.optimizer
        yield control.optimizer
        return
    other = stages.beside(study, control)
    if other:
        yield other
    if other == control.setting_from and control.optimizer in study.optimizers:
        yield control.optimizer  # its own tuned runs train like it, too


@dataclass
class Across:
    """What the tasks say together.

    Attributes:
        tasks: those on which the reference and every baseline have most of their final runs.
        partial: those of them on which some are missing.
        anchor: the optimizer whose mean scores 1 on every task.
        scores: per optimizer and task the score of each final run: how many times less cost than the anchor's mean;
            0 for a divergence. Controls are included where they are complete.
        iqm: interquartile mean of the scores of each optimizer.
        profile: per optimizer the share of tasks on which its mean cost is within a factor of the best, by ``TAUS``;
            of the reference and the baselines, as are the ranks.
        ranks: mean rank of each over tasks, by mean cost; a divergence makes the mean infinite.
        friedman_p: of Friedman's test; None with fewer than 6 tasks.
        nemenyi: by how much two mean ranks must differ for Nemenyi's test to tell them apart; None likewise.
    """

    tasks: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    anchor: str = ""
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    iqm: dict[str, Interval] = field(default_factory=dict)
    profile: dict[str, list[float]] = field(default_factory=dict)
    ranks: dict[str, float] = field(default_factory=dict)
    friedman_p: float | None = None
    nemenyi: float | None = None


def _costs(results: StudyResults, task: str, name: str) -> list[float] | None:
    """Return the cost of each final run; None if half of them or more are missing, or the metric has no cost."""
    seeds = results.study.final.seeds
    if untrained(results, task, name):
        return [math.inf] * seeds
    metric = family_of(results, task).primary
    costs = [as_cost(v, metric) for v in values(results, "final", task, name, column_of(metric))]
    return costs if most(len(costs), seeds) and not any(map(math.isnan, costs)) else None


def _mean(costs: Sequence[float]) -> float:
    return sum(costs) / len(costs)


def across(results: StudyResults) -> Across:
    """Return what the tasks say together that are run for the most part; empty if there is none."""
    study, whole = results.study, Across()
    names = [study.reference, *study.baselines]
    base = study.called(COST_BASE)
    whole.anchor = base if base in names else names[-1]
    costs = {(t.name, n): _costs(results, t.name, n) for t in study.tasks for n in study.optimizers}
    for task in study.tasks:
        anchored = [c for c in costs[task.name, whole.anchor] or () if math.isfinite(c)]
        if not anchored or any(costs[task.name, n] is None for n in names):
            continue
        whole.tasks.append(task.name)
        if any(len(costs[task.name, n] or ()) < study.final.seeds for n in names):
            whole.partial.append(task.name)
        for n in study.optimizers:
            mine = costs[task.name, n]
            if mine is not None:
                whole.scores.setdefault(n, {})[task.name] = [normalized(c, _mean(anchored), "lower") for c in mine]
    if not whole.tasks:
        return whole
    whole.scores = {n: per_task for n, per_task in whole.scores.items() if len(per_task) == len(whole.tasks)}
    whole.iqm = {n: stratified_iqm(per_task) for n, per_task in whole.scores.items()}
    means = {n: [_mean(costs[task, n] or [math.inf]) for task in whole.tasks] for n in names}
    whole.profile = performance_profile(means, TAUS)
    frame = pd.DataFrame(means, index=whole.tasks).T.replace(math.inf, math.nan)
    better = dict.fromkeys(whole.tasks, "lower")
    whole.ranks = {str(n): float(r) for n, r in mean_ranks(frame, better).items()}
    whole.friedman_p = friedman(frame, better)
    whole.nemenyi = nemenyi_distance(len(names), len(whole.tasks)) if whole.friedman_p is not None else None
    return whole
