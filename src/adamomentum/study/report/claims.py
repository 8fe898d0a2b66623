"""What the numbers say about the paper's claims, in plain words that follow from the numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adamomentum.study import stages, stats
from adamomentum.study.report.study_tables import ALPHA, Comparison, StudyTables
from adamomentum.study.results import StudyResults

VISION = "image-classification"
ADAPTIVE = ("adam", "adamw", "radam", "yogi", "adabound", "adabelief")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper's abstract and what came out.

    Attributes:
        text: the claim.
        verdict: a few words.
        evidence: sentences, one a task or group.
        missing: what has not been run; empty if all has.
    """

    text: str
    verdict: str
    evidence: tuple[str, ...]
    missing: str


def claims(results: StudyResults, made: StudyTables) -> list[Claim]:
    """Returns the verdicts on the claims that runs can test: speed, generalization, other tasks."""
    return [_speed(results, made), _generalization(results, made), _elsewhere(results, made)]


def _label(results: StudyResults, name: str) -> str:
    return stages.label(results.study, name)


def _listed(results: StudyResults, names: Sequence[str]) -> str:
    return ", ".join(_label(results, name) for name in names)


def _missing(results: StudyResults, made: StudyTables, tasks: Sequence[str]) -> str:
    """What of the final track is not there yet."""
    study, parts = results.study, []
    for task in tasks:
        lacking = []
        for name in (study.reference, *study.baselines):
            row = made.row(task, name)
            if row is None or (row.setting and row.runs < study.final.seeds):
                lacking.append(name)
        if lacking:
            parts.append(f"{task}: {_listed(results, lacking)}")
    return "; ".join(parts)


def _sides(found: Sequence[Comparison]) -> dict[str, list[str]]:
    sides: dict[str, list[str]] = {"better": [], "worse": [], "neither": []}
    for c in found:
        sides[c.outcome if c.corrected else "neither"].append(c.other)
    return sides


def _sentence(results: StudyResults, task: str, sides: dict[str, list[str]], word: tuple[str, str]) -> str:
    parts = []
    if sides["better"]:
        parts.append(f"{word[0]} than {_listed(results, sides['better'])}")
    if sides["worse"]:
        parts.append(f"{word[1]} than {_listed(results, sides['worse'])}")
    if sides["neither"]:
        parts.append(f"no evidence of difference to {_listed(results, sides['neither'])}")
    return f"{task}: {'; '.join(parts)}."


def _summary(sides: Sequence[dict[str, list[str]]], word: tuple[str, str]) -> str:
    """The counts, in words."""
    better, worse = (sum(len(s[key]) for s in sides) for key in ("better", "worse"))
    total = sum(len(names) for s in sides for names in s.values())
    if not total:
        return "not tested yet"
    if better == worse == 0:
        return f"not supported: no evidence of difference in any of {total} comparisons"
    text = f"{word[0]} in {better}, {word[1]} in {worse} of {total} comparisons"
    if better > total / 2 and not worse:
        return f"supported here: {text}"
    if worse > better:
        return f"contradicted here: {text}"
    return f"not supported as a whole: {text}"


def _speed(results: StudyResults, made: StudyTables) -> Claim:
    study = results.study
    evidence, all_sides = [], []
    for task in study.tasks:
        names = [n for n in study.baselines if (task.name, n) in made.speed]
        corrected = stats.holm([made.speed[task.name, n].wilcoxon_p for n in names])
        sides: dict[str, list[str]] = {"better": [], "worse": [], "neither": []}
        for name, p in zip(names, corrected, strict=True):
            mine = made.steps[task.name, study.reference]
            other = made.steps[task.name, name]
            a, b = stats.median(mine), stats.median(other)
            key = "neither" if p is None or p >= ALPHA or a == b else "better" if a < b else "worse"
            sides[key].append(name)
        if names:
            all_sides.append(sides)
            target = made.targets[task.name]
            ranked = sorted((n for n in (study.reference, *study.baselines) if (task.name, n) in made.steps),
                            key=lambda n: stats.median(made.steps[task.name, n]))  # fmt: skip
            place = ranked.index(study.reference) + 1
            sentence = _sentence(results, task.name, sides, ("faster", "slower"))
            evidence.append(
                f"{sentence} Place {place} of {len(ranked)} by median steps to {target.value:.4g}, "
                f"the median end of {_label(results, target.baseline)}."
            )
    loss_sides = []
    for task in study.tasks:
        found = [c for c in made.loss_comparisons if c.task == task.name and not c.control]
        if found:
            loss_sides.append(_sides(found))
    if loss_sides:
        evidence.append(f"Final training loss: {_summary(loss_sides, ('lower', 'higher'))}.")
    return Claim(
        "It trains faster.",
        _summary(all_sides, ("faster", "slower")),
        tuple(evidence),
        _missing(results, made, [t.name for t in study.tasks]),
    )


def _compared(results: StudyResults, made: StudyTables, tasks: Sequence[str], names: Sequence[str]) -> tuple[
    list[dict[str, list[str]]], list[str]
]:  # fmt: skip
    sides, evidence = [], []
    for task in tasks:
        found = [c for c in made.comparisons if c.task == task and c.other in names and not c.control]
        if found:
            sides.append(_sides(found))
            evidence.append(_sentence(results, task, sides[-1], ("better", "worse")))
    return sides, evidence


def _generalization(results: StudyResults, made: StudyTables) -> Claim:
    study = results.study
    vision = [t.name for t in study.tasks if t.family == VISION]
    adaptive = [n for n in study.baselines if (study.optimizers[n].base or n) in ADAPTIVE]
    others = [n for n in study.baselines if n not in adaptive]
    sides, evidence = _compared(results, made, vision, adaptive)
    sgd_sides, sgd_evidence = _compared(results, made, vision, others)
    verdict = f"against adaptive methods: {_summary(sides, ('better', 'worse'))}"
    if sgd_sides:
        verdict += f"; against SGD: {_sgd_summary(sgd_sides)}"
    return Claim(
        "It generalizes better; on vision comparably to SGD, better than adaptive methods.",
        verdict if sides or sgd_sides else "not tested yet",
        (*evidence, *sgd_evidence),
        _missing(results, made, vision),
    )


def _sgd_summary(sides: Sequence[dict[str, list[str]]]) -> str:
    better, worse, neither = (sum(len(s[key]) for s in sides) for key in ("better", "worse", "neither"))
    parts = [f"{n} {word}" for n, word in ((better, "better"), (worse, "worse"), (neither, "no evidence of difference"))
             if n]  # fmt: skip
    return ", ".join(parts)


def _elsewhere(results: StudyResults, made: StudyTables) -> Claim:
    study = results.study
    rest = [t.name for t in study.tasks if t.family != VISION]
    sides, evidence = _compared(results, made, rest, study.baselines)
    for task in rest:
        rows = [r for n in (study.reference, *study.baselines) if (r := made.row(task, n)) is not None and r.runs]
        if len(rows) > 1:
            metric = next(c.metric for c in made.comparisons if c.task == task) if made.comparisons else None
            if metric is None:
                continue
            sign = 1 if metric.better == "lower" else -1
            ranked = sorted(rows, key=lambda r: (r.diverged, sign * r.metrics[metric.key].mean))
            names = [r.optimizer for r in ranked]
            if study.reference in names:
                place = names.index(study.reference) + 1
                evidence.append(f"{task}: place {place} of {len(names)} by mean {metric.label}.")
    return Claim(
        "It is best on other tasks too: language modelling, translation, generative networks.",
        _summary(sides, ("better", "worse")),
        tuple(evidence),
        _missing(results, made, rest),
    )
