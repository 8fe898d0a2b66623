"""What the trials of a user's own training function show of it: what makes a comparison unfair, and what to know.

What a trial sees by itself (no optimizer, no report, a group with a learning rate of its own) ends that trial; see
``tasks/function``. Here is what only several trials show.

Tested in tests/study/function/test_fairness.py.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from adamomentum.study import stages, tasks
from adamomentum.study.stages import Plan, Planned
from adamomentum.study.studyfile import Study, TaskEntry
from adamomentum.study.tasks import Metric
from adamomentum.study.tasks.function.settings import OUTPUT
from adamomentum.study.trial import TrialResult

Results = Mapping[str, TrialResult]
Run = tuple[Planned, TrialResult]

FAR = 0.5
UNEVEN = 1.01
EDITED = "changed since the trial was planned"
CHANGED = "changed_"
OF_CODE = (NameError, AttributeError, TypeError, LookupError, ImportError, OSError, NotImplementedError)
"""Errors that no learning rate brings about."""

HEADING = "Traceback (most recent call last):"
PEAKS = ("peak_lr_low", "peak_lr_high")


def fault(study: Study, plan: Plan, results: Results, files: Path) -> str:
    """Return why it is of no use to go on with a study, and what to do; empty if nothing is wrong.

    Args:
        study: what is compared.
        plan: its trials.
        results: of those that are finished.
        files: where each trial has a folder for its files.
    """
    for task in study.tasks:
        if task.family != tasks.OWN:
            continue
        runs = _runs(task, plan, results)
        for text in (
            _edited(runs),
            _nothing_works(plan, runs, files),
            _metric_missing(task, runs),
            _rate_overwritten(runs),
        ):
            if text:
                return f"{task.name}: {text}"
    return ""


def remarks(study: Study, task: TaskEntry, plan: Plan, results: Results) -> list[str]:
    """Return what a reader must know of a task of the user's own; nothing of other tasks."""
    if task.family != tasks.OWN:
        return []
    runs = _runs(task, plan, results)
    texts = (
        _repeats(task, runs),
        _budgets(study, task),
        _far_rate(study, runs),
        _uneven_rates(study, runs),
        _uneven_settings(study, runs),
        _seeds(study, runs),
        _same_split(task, runs),
        _others(runs),
        _reasons(study, runs),
        _undefined(study, task, runs),
    )
    return [text for text in texts if text]


def _runs(task: TaskEntry, plan: Plan, results: Results) -> list[Run]:
    """Return the finished trials of a task, failed ones too; one that serves two roles twice."""
    return [(t, results[t.spec.trial_id]) for t in plan.trials if t.task == task.name and t.spec.trial_id in results]


def _edited(runs: list[Run]) -> str:
    """Tell that a file was edited while trials ran: all that are still to come would fail as the first one did."""
    lines = [result.last_line for _, result in runs if result.status == "error"]
    return next((line.removeprefix("ValueError: ") for line in lines if EDITED in line), "")


def _nothing_works(plan: Plan, runs: list[Run], files: Path) -> str:
    """Tell that all trials failed, once one has whose learning rate is not to blame: a lower one may do."""
    if not runs or any(result.status != "error" for _, result in runs):
        return ""
    for t, result in runs:
        rates = [
            other.spec.optimizer.lr for other in plan.trials if (other.task, other.optimizer) == (t.task, t.optimizer)
        ]
        if t.spec.optimizer.lr == min(rates) or not _may_be_the_rate(result):
            printed = files / t.spec.trial_id / OUTPUT
            where = f"\nWhat it printed is in {printed}" if printed.is_file() and printed.stat().st_size else ""
            return f"the function fails, in all trials so far:\n{own_part(result.error)}{where}"
    return ""


def _may_be_the_rate(result: TrialResult) -> bool:
    """Say whether an error may come of a training that got out of hand, as of the user's own check of the loss."""
    kind = getattr(builtins, result.last_line.partition(":")[0], Exception)
    return own_part(result.error) != result.last_line and not issubclass(kind, OF_CODE)


def own_part(error: str) -> str:
    """Return a traceback from the user's first line on, without the lines of the engine that follow."""
    lines = error.strip().splitlines()
    places = [k for k, line in enumerate(lines) if line.lstrip().startswith('File "')]
    ours = [k for k in places if "/adamomentum/study/" in lines[k].replace("\\", "/")]
    first = next((k for k in places if ours and k > ours[0] and k not in ours), None)
    if first is None:
        return lines[-1]
    kept, within = [], False
    for k, line in enumerate(lines[first:], first):
        within = k in ours or (within and line.startswith("    "))  # below a place: its code, and what points at it
        if not within:
            kept.append(line)
    # Of an error in handling another one all places may be the engine's: no heading without any.
    return "\n".join(
        line for k, line in enumerate(kept) if line != HEADING or "".join(kept[k + 1 : k + 2]).startswith("  File ")
    )


def _metric_missing(task: TaskEntry, runs: list[Run]) -> str:
    family = task.reported
    for t, result in runs:
        if result.status != "ok":
            continue
        for what, prefix, key in (
            ("reported", "val_", family.select),
            ("returned", "test_", family.primary.key if t.spec.stage == "final" else ""),
        ):
            there = [name.removeprefix(prefix) for name in result.final if name.startswith(prefix)]
            if key and key not in there:
                return (
                    f"{key!r} is to be compared, but what is {what} is {', '.join(there) or 'nothing'}; name one of "
                    "these (--metric NAME, with --higher if higher is better; in a study file `metrics`)"
                )
    return ""


def _rate_overwritten(runs: list[Run]) -> str:
    """Tell two trials at different rates that trained at one and the same: a constant took the place of the trial's."""
    peaks: dict[str, dict[float, list[float]]] = {}
    for t, result in runs:
        its = [peak for name in PEAKS if (peak := result.final.get(name))]
        if its:
            peaks.setdefault(t.spec.optimizer.name, {}).setdefault(t.spec.optimizer.lr, its)
    for at in peaks.values():
        for (a, one), (b, other) in combinations(at.items(), 2):
            same = [peak for peak in one for its in other if math.isclose(peak, its, rel_tol=1e-9)]
            if same:
                return (
                    f"at the trials' learning rates {a:g} and {b:g} the largest rate of a step was {same[0]:g} both "
                    "times: a scheduler, or the loop, sets a number of its own; let it work from the optimizer's rate, "
                    "or give it trial.lr, as in OneCycleLR(optimizer, max_lr=trial.lr)"
                )
    return ""


def _repeats(task: TaskEntry, runs: list[Run]) -> str:
    """Compare the first trial with its repeat."""
    for t, again in runs:
        if t.role != "repeat":
            continue
        once = next(
            (r for other, r in runs if other.spec == t.spec.model_copy(update={"repeat": 0})),
            None,
        )
        if once is None or "error" in (once.status, again.status):
            return ""
        if _numbers(once) == _numbers(again):
            return (
                "the function gives the same numbers to the last bit under the same seed. Two optimizers at one seed "
                "share what the seed decides, so their runs are compared in pairs; how much that gains is r in "
                "the statistics of differences"
            )
        key = f"val_{task.reported.select}"
        values = " and ".join("-" if (v := r.final.get(key)) is None else f"{v:.6g}" for r in (once, again))
        return (
            f"the function does not repeat under its seed: run twice, its first trial ended at validation "
            f"{task.reported.select} {values}. Pairing runs by seed gains little then, intervals stay right. To "
            "repeat, seed data loaders' generators by trial.seed, and see torch.use_deterministic_algorithms"
        )
    return ""


def _budgets(study: Study, task: TaskEntry) -> str:
    """Tell that optimizers were not given as many learning rates."""
    points = {name: stages.tuning_points(study, task.name, name) for name in study.optimizers}
    if len(set(points.values())) == 1:
        return ""
    each = ", ".join(f"{stages.label(study, name)} {count}" for name, count in points.items())
    return f"not all optimizers were tuned on as many trials ({each}), which favours those with more"


def _far_rate(study: Study, runs: list[Run]) -> str:
    """Tell a rate far from the trial's, where there is but one: several would show whether it is a constant."""
    for name in study.optimizers:
        mine = [(t.spec.optimizer.lr, r.final.get("peak_lr_high")) for t, r in runs if t.optimizer == name]
        if len({lr for lr, _ in mine}) != 1:
            continue
        for lr, peak in mine:
            if peak and not FAR < peak / lr < 1 / FAR:
                return (
                    f"{stages.label(study, name)} was to train at lr {lr:g}, and the largest rate of a step was "
                    f"{peak:g}: if a scheduler sets a number of its own, give it trial.lr"
                )
    return ""


def _uneven_rates(study: Study, runs: list[Run]) -> str:
    """Tell trials whose steps were made at another part of the trial's rate than those of others."""
    for name in PEAKS:
        parts = [
            (peak / t.spec.optimizer.lr, f"{stages.label(study, t.optimizer)} at lr {t.spec.optimizer.lr:g}")
            for t, r in runs
            if r.status == "ok" and (peak := r.final.get(name))
        ]
        (low, one), (high, other) = min(parts, default=(1.0, "")), max(parts, default=(1.0, ""))
        if high > UNEVEN * low:
            return (
                f"the largest rate of a step was {low:.3g} times the trial's in {one}, and {high:.3g} times in {other}"
                ": a schedule, or the loop, treats them differently, so they did not train at what they are named by. "
                "Let it work from the trial's rate in the same way for all"
            )
    return ""


def _uneven_settings(study: Study, runs: list[Run]) -> str:
    """Tell that the script changes settings of one optimizer and leaves them in another."""
    texts = []
    for key in sorted({key for _, r in runs for key in r.final if key.startswith(CHANGED)}):
        steps = [(t.optimizer, r.final[key]) for t, r in runs if r.status == "ok" and key in r.final]  # 0: none of them
        with_it = {name for name, count in steps if count}
        without = {name for name, _ in steps} - with_it
        if with_it and without:
            some, others = (
                ", ".join(stages.label(study, name) for name in study.optimizers if name in each)
                for each in (with_it, without)
            )
            texts.append(
                f"{key.removeprefix(CHANGED)} of {some} were not the trial's in some steps, and those of {others} were "
                "in all: the script, or a scheduler, treats the optimizers differently, so they did not train at what "
                "they are named by. Give a setting by --incumbent or in a study file"
            )
    return "; ".join(texts)


def _numbers(result: TrialResult) -> object:
    return result.status, result.final, result.curve


def _seeds(study: Study, runs: list[Run]) -> str:
    """Tell final runs of different seeds that are one and the same."""
    for name in study.optimizers:
        mine = [r for t, r in runs if (t.role, t.optimizer, r.status) == ("final", name, "ok")]
        if len(mine) > 1 and all(_numbers(r) == _numbers(mine[0]) for r in mine):
            return (
                f"the {len(mine)} final runs of {stages.label(study, name)} are one and the same, so the seed decides "
                "nothing: the function sets a seed of its own, or draws nothing at random. Take trial.seed, or the "
                "intervals mean nothing"
            )
    return ""


def _same_split(task: TaskEntry, runs: list[Run]) -> str:
    """Tell that what is returned was reported: as the last value, or as the best one, which many a script returns."""
    final = [r for t, r in runs if t.spec.stage == "final" and r.status == "ok"]
    for metric in task.reported.metrics:
        tested = [r.final.get(f"test_{metric.key}") for r in final]
        # Where all runs end at one value, such as a share of 1, that both splits have it says nothing.
        if len(set(tested)) > 1 and all(v in _judged(r, metric) for v, r in zip(tested, final, strict=True)):
            return (
                f"{metric.key} is the same on validation and test split in each of {len(final)} final runs, at the "
                "last report or the best: settings were chosen on what judges them, which flatters whoever was tuned "
                "more. Report on examples that the returned metrics do not see"
            )
    return ""


def _judged(result: TrialResult, metric: Metric) -> set[float]:
    """Return the last and the best value of a metric on the validation split."""
    values = [v for v in result.curve.get(f"val_{metric.key}", []) if v is not None]
    return {values[-1], (min if metric.better == "lower" else max)(values)} if values else set()


def _others(runs: list[Run]) -> str:
    if any(r.final.get("steps_of_others") for _, r in runs):
        return (
            "an optimizer that did not come from trial.optimizer made steps too: what it trains is trained alike in "
            "all trials"
        )
    return ""


def _reasons(study: Study, runs: list[Run]) -> str:
    """Say why trials diverged, where all of an optimizer did, or all of its final ones."""
    texts = []
    for name in study.optimizers:
        its = [(t.role, r) for t, r in runs if t.optimizer == name]
        for what, mine in (("runs", [r for _, r in its]), ("final runs", [r for role, r in its if role == "final"])):
            if mine and all(r.status == "diverged" for r in mine):
                texts.append(f"all {what} of {stages.label(study, name)} diverged, the first by: {mine[0].error}")
                break
    return "; ".join(texts)


def _undefined(study: Study, task: TaskEntry, runs: list[Run]) -> str:
    """Tell final runs in which the metric that is compared is no number, though they did not diverge."""
    key, texts = task.reported.primary.key, []
    for name in study.optimizers:
        mine = [r for t, r in runs if (t.role, t.optimizer, r.status) == ("final", name, "ok")]
        if count := sum(r.final.get(f"test_{key}") is None for r in mine):
            texts.append(f"{count} of {len(mine)} final runs of {stages.label(study, name)}")
    if not texts:
        return ""
    return f"{key}, which is compared, was not a finite number in {', '.join(texts)}: they count as the worst"
