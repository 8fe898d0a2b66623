"""What the numbers say about the paper's claims, in plain words that follow from the numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from adamomentum.study import stages
from adamomentum.study.registry import Kind
from adamomentum.study.report.comparisons import ALPHA, NO_EVIDENCE, Comparison
from adamomentum.study.report.tables import Part, StudyTables
from adamomentum.study.report.text import difference_text, span
from adamomentum.study.results import StudyResults, family_of

VISION = "image-classification"
PAPERS = "adamomentum"
"""The registry's name of the optimizer that the paper's claims are about."""

QUALITY = ("better", "worse")
SPEED = ("faster", "slower")
LOSS = ("lower", "higher")
Words = tuple[str, str]

RULE = (
    "A claim is called supported if the reference comes out ahead in more than half of the comparisons and behind in "
    "none, contradicted if it is behind in more than half and ahead in none; partly so if it is only ahead, or only "
    "behind, in fewer; mixed if it is both."
)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper's abstract and what came out.

    Attributes:
        text: the claim.
        verdict: a few words.
        evidence: sentences, one a task or group.
        missing: what of it has not been run; empty if all has.
    """

    text: str
    verdict: str
    evidence: tuple[str, ...]
    missing: str


@dataclass(frozen=True)
class Count:
    """How often the reference came out ahead, behind, or neither, after correction."""

    ahead: int
    behind: int
    total: int

    @classmethod
    def of(cls, comparisons: Iterable[Comparison]) -> Count:
        """Count comparisons, the same runs once."""
        sides = [_side(c) for c in comparisons if not c.same_as]
        return cls(sides.count("better"), sides.count("worse"), len(sides))

    def text(self, words: Words) -> str:
        """Return the counts in words."""
        neither = self.total - self.ahead - self.behind
        return f"{words[0]} in {self.ahead}, {words[1]} in {self.behind}, {NO_EVIDENCE} in {neither} of {self.total}"


def undecidable(comparisons: Iterable[Comparison]) -> int:
    """How many rank tests could not have been significant after correction, however they had come out."""
    return sum(
        c.by_rank and not c.untrained and (c.paired.wilcoxon_p is None or c.paired.wilcoxon_floor * len(group) >= ALPHA)
        for group in _by_task(comparisons)
        for c in group
        if not c.same_as
    )


def _by_task(comparisons: Iterable[Comparison]) -> list[list[Comparison]]:
    groups: dict[str, list[Comparison]] = {}
    for c in comparisons:
        groups.setdefault(c.task, []).append(c)
    return list(groups.values())


def _side(c: Comparison) -> str:
    return c.outcome if c.corrected else "neither"


def verdict(comparisons: Sequence[Comparison], words: Words) -> str:
    """Return what comparisons say of a claim that the reference is ahead; see ``RULE``."""
    count = Count.of(comparisons)
    if not count.total:
        return "not tested yet"
    if count.ahead == count.behind == 0:
        return f"not supported: {NO_EVIDENCE} in any of {count.total} comparisons"
    if count.ahead and count.behind:
        word = "mixed"
    else:
        word = "supported" if count.ahead else "contradicted"
        most = max(count.ahead, count.behind) > count.total / 2
        word = f"{word} here" if most else f"partly {word}"
    return f"{word}: {count.text(words)} comparisons"


class Judge(Part):
    """Words on one report."""

    def __init__(self, results: StudyResults, tables: StudyTables) -> None:
        super().__init__(results, tables)
        self.reference = self.label(self.study.reference)
        self.vision = [t.name for t in self.study.tasks if t.family == VISION]
        self.others = [t.name for t in self.study.tasks if t.family != VISION]

    def of_kind(self, kind: Kind) -> list[str]:
        """Return the baselines of a kind."""
        return [n for n in self.study.baselines if self.study.optimizer(n).kind == kind]

    def _picked(
        self, comparisons: Sequence[Comparison], tasks: Sequence[str], names: Sequence[str]
    ) -> list[Comparison]:
        return [c for c in comparisons if c.task in tasks and c.other in names]

    def missing(self, tasks: Sequence[str], role: str = "final") -> str:
        """Return what of a role is not there yet."""
        seeds = self.study.final.seeds if role == "final" else self.study.default.seeds
        parts = []
        for task in tasks:
            lacking = []
            for name in (self.study.reference, *self.study.baselines):
                row = self.tables.row(task, name, role)
                if row is None or (row.setting and row.runs < seeds):
                    lacking.append(self.label(name))
            everyone = len(lacking) == len(self.study.baselines) + 1
            if lacking:
                parts.append(f"{task}: {'all' if everyone else ', '.join(lacking)}")
        return "; ".join(parts)

    def sentence(self, task: str, comparisons: Sequence[Comparison], words: Words) -> str:
        """Say how the reference came out on a task."""
        parts = []
        for side, word in (("better", f"{words[0]} than"), ("worse", f"{words[1]} than"),
                           ("neither", f"{NO_EVIDENCE} to")):  # fmt: skip
            names = [self.label(c.other) for c in comparisons if _side(c) == side]
            if names:
                parts.append(f"{word} {', '.join(names)}")
        return f"{task}: {'; '.join(parts)}."

    def _by_task(self, comparisons: Sequence[Comparison], tasks: Sequence[str], words: Words) -> list[str]:
        grouped = ((task, [c for c in comparisons if c.task == task]) for task in tasks)
        return [self.sentence(task, mine, words) for task, mine in grouped if mine]

    def _place(self, cost: Callable[[str], float | None]) -> tuple[int, int] | None:
        """Return the reference's place among the optimizers that have a cost, and their number; equals share one."""
        costs = {n: c for n in (self.study.reference, *self.study.baselines) if (c := cost(n)) is not None}
        mine = costs.get(self.study.reference)
        if mine is None or len(costs) < 2:
            return None
        return 1 + sum(c < mine for c in costs.values()), len(costs)

    def place(self, task: str) -> tuple[int, int] | None:
        """Return the reference's place by the mean primary metric, a divergence being worst; None if it has no runs."""
        metric = family_of(self.results, task).primary

        def cost(name: str) -> float | None:
            row = self.tables.row(task, name)
            if row is None:
                return None
            mean = row.metrics[metric.key].mean
            if row.diverged or not row.setting or not math.isfinite(mean):
                return math.inf
            return mean if metric.better == "lower" else -mean

        return self._place(cost)

    def speed(self) -> Claim:
        """Judge "it trains faster": steps to the target, and the training loss at the end."""
        tasks = [t.name for t in self.study.tasks]
        evidence = []
        for task in tasks:
            comparisons = [c for c in self.tables.speed if c.task == task]
            if not comparisons:
                continue
            target = self.tables.targets[task]
            text = self.sentence(task, comparisons, SPEED)
            origin = f"the median end of {self.label(target.baseline)}" if target.baseline else "declared in advance"
            if target.share is not None:
                origin = f"which the median baseline had reached after {target.share:.0%} of its steps in tuning"
            evidence.append(f"{text} {self._by_median_steps(task)} {target.text}, {origin}.")
        blind, total = undecidable(self.tables.speed), Count.of(self.tables.speed).total
        if blind:
            evidence.append(
                f"{blind} of the {total} comparisons of steps could not have come out either way after "
                "correction: too few pairs of runs differ, since most of both reach the target or most of both miss it."
            )
        loss = [c for c in self.tables.loss_comparisons if not c.control]
        if loss:
            evidence.append(f"Training loss at the end: {verdict(loss, LOSS)}.")
            evidence += [f"Training loss, {text}" for text in self._by_task(loss, tasks, LOSS)]
        return Claim("It trains faster.", verdict(self.tables.speed, SPEED), tuple(evidence), self.missing(tasks))

    def _by_median_steps(self, task: str) -> str:
        def cost(name: str) -> float | None:
            row = self.tables.row(task, name)
            return None if row is None else math.inf if not row.setting else row.steps

        mine, place = cost(self.study.reference), self._place(cost)
        if mine is None or place is None:
            return "Steps to"
        if math.isinf(mine):
            return f"At least half of the runs of {self.reference} miss"
        return f"Place {place[0]} of {place[1]} by median steps to"

    def generalization(self) -> Claim:
        """Judge "it generalizes better": on vision comparably to SGD, better than adaptive methods."""
        text = "It generalizes better: on vision comparably to SGD, and better than adaptive methods."
        if not self.vision:
            return Claim(text, "not tested: the study has no vision task", (), "")
        adaptive = self._picked(self.tables.comparisons, self.vision, self.of_kind("adaptive"))
        sgd = self._picked(self.tables.comparisons, self.vision, self.of_kind("sgd"))
        parts = [f"against adaptive methods {verdict(adaptive, QUALITY)}"]
        parts.append(f"against SGD {Count.of(sgd).text(QUALITY)} comparisons" if sgd else "against SGD not tested yet")
        evidence = self._by_task(adaptive, self.vision, QUALITY)
        for c in sgd:
            evidence.append(f"{c.task}, {self.label(c.other)}: {_side_words(c)}{_size(c)}.")
        if left_out := self.of_kind("other"):
            names = ", ".join(map(self.label, left_out))
            evidence.append(f'Left out of both, being of kind "other" in the study file: {names}.')
        nothing = not adaptive and not sgd
        return Claim(
            text, "not tested yet" if nothing else "; ".join(parts), tuple(evidence), self.missing(self.vision)
        )

    def elsewhere(self) -> Claim:
        """Judge "it is best on other tasks too"."""
        text = "It is best on other tasks too: language modelling, translation, generative networks."
        if not self.others:
            return Claim(text, "not tested: the study has no such task", (), "")
        comparisons = self._picked(self.tables.comparisons, self.others, self.study.baselines)
        evidence = self._by_task(comparisons, self.others, QUALITY)
        places = {task: place for task in self.others if (place := self.place(task)) is not None}
        words = verdict(comparisons, QUALITY)
        if places:
            first = sum(place == 1 for place, _ in places.values())
            words += f"; first by mean on {first} of {len(places)} tasks"
            evidence += [
                f"{task}: place {place} of {n} by mean {family_of(self.results, task).primary.label}."
                for task, (place, n) in places.items()
            ]
        return Claim(text, words, tuple(evidence), self.missing(self.others))

    def answer(self) -> str:
        """Return the whole in one paragraph."""
        study, comparisons = self.study, [c for c in self.tables.comparisons if not c.control]
        tasks = f"{len(study.tasks)} task{'s' if len(study.tasks) > 1 else ''}"
        others = f"{len(study.baselines)} other optimizer{'s' if len(study.baselines) != 1 else ''}"
        if not study.baselines:
            return f"{self.reference} alone on {tasks}; {self._how_tuned()} There is no other to compare it with."
        opening = f"{self.reference} against {others} on {tasks}; {self._how_tuned()}"
        if not comparisons:
            return (
                f"{opening} Nothing can be said yet: no evaluation runs of {self.reference} and another are finished."
            )
        ahead = Count.of(comparisons)
        parts = [opening, f"On the test split {self.reference} was {ahead.text(QUALITY)} comparisons."]
        parts += self._beside_all(comparisons)
        if self.tables.speed:
            parts.append(f"It was {Count.of(self.tables.speed).text(SPEED)} comparisons of steps to a common target.")
        places = [(t.name, place) for t in study.tasks if (place := self.place(t.name)) is not None]
        if places:
            ranked = ", ".join(f"{place} of {n} on {task}" for task, (place, n) in places)
            parts.append(f"By its mean it takes place {ranked}.")
        default = [c for c in self.tables.default_comparisons if not c.control]
        if default:
            parts.append(f"Untuned, at published settings, it was {Count.of(default).text(QUALITY)} comparisons.")
        parts += self.counted_once()
        if self.missing([t.name for t in study.tasks]):
            parts.append("Runs are missing, so this may change.")
        return " ".join(parts)

    def _beside_all(self, comparisons: Sequence[Comparison]) -> list[str]:
        """Say on how many tasks nobody is better, and on how many everybody is worse; of tasks with all comparisons."""
        of = {t.name: [c for c in comparisons if c.task == t.name] for t in self.study.tasks}
        whole = {task: its for task, its in of.items() if len(its) == len(self.study.baselines) > 1}
        if not whole:
            return []
        behind = [task for task, its in whole.items() if any(c.corrected and c.outcome == "worse" for c in its)]
        ahead = sum(all(c.corrected and c.outcome == "better" for c in its) for its in whole.values())
        total, tasks = len(whole), "task" if len(whole) == 1 else "tasks"
        text = f"No other was better on {total - len(behind)} of {total} {tasks}"
        text += f" (one was on {', '.join(behind)})" if behind else ""
        return [f"{text}; all others were worse on {ahead}."]

    def _how_tuned(self) -> str:
        study = self.study
        points = [{stages.tuning_points(study, t.name, n) for n in study.optimizers} for t in study.tasks]
        runs, s = study.final.seeds, "s" if study.final.seeds != 1 else ""
        if all(counts == {0} for counts in points):
            whose = "given" if any(o.grid for o in study.optimizers.values()) else "published"
            return f"nothing was tuned: each had {runs} run{s} at the setting {whose} for it."
        equal = all(len(counts) == 1 for counts in points)
        number = "the same number of" if equal else span(set.union(*points))
        return f"each was given {number} tuning trials, then {runs} fresh run{s} at what was chosen."

    def counted_once(self) -> list[str]:
        """Say which baselines are one and the same optimizer on a task, and so one comparison."""
        pairs: dict[tuple[str, str], list[str]] = {}
        for (_, task), same in self.tables.same.items():
            for name, earlier in same.items():
                tasks = pairs.setdefault((earlier, name), [])
                tasks += [task] if task not in tasks else []
        return [
            f"{self.label(earlier)} and {self.label(name)} have the same runs on {', '.join(tasks)}: they count once."
            for (earlier, name), tasks in pairs.items()
        ]

    def claims(self) -> list[Claim]:
        """Return the verdicts on the claims that runs can test: speed, generalization, other tasks.

        None where the study does not ask for them, or another optimizer than AdaMomentum is the reference: the paper
        claims nothing of it.
        """
        if not self.study.claims or self.study.optimizer(self.study.reference).name != PAPERS:
            return []
        return [self.speed(), self.generalization(), self.elsewhere()]


def _side_words(c: Comparison) -> str:
    side = _side(c)
    return NO_EVIDENCE if side == "neither" else side


def _size(c: Comparison) -> str:
    """Return the difference and its interval, if there is one: no evidence of a difference is not evidence of none."""
    d = c.paired.difference
    if not math.isfinite(d.low):
        return ""
    unit = " points" if c.metric.unit == "%" else ""
    text = f", difference in {c.metric.label} {difference_text(d.mean, c.metric)}{unit}"
    return f"{text} ({difference_text(d.low, c.metric)} to {difference_text(d.high, c.metric)})"
