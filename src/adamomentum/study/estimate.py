"""How long the rest of a study takes: from trials of its kind that are finished, or as the study file says.

Tested in tests/study/test_commands.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from adamomentum.study import stages
from adamomentum.study.stages import Plan
from adamomentum.study.studyfile import Study
from adamomentum.study.trial import TrialResult


@dataclass(frozen=True)
class Left:
    """What is left of a study.

    Attributes:
        trials: how many, those that cannot be planned yet included.
        seconds: of one core, for the trials whose time is known.
        unknown: trials, by task, of which neither the study nor a finished trial says how long they take.
    """

    trials: int
    seconds: float
    unknown: Mapping[str, int]

    def text(self, workers: int = 1, how: str = " of one core") -> str:
        """Return it in words, with as many ``workers``; ``how`` is said behind the time."""
        known = f"about {duration(self.seconds / workers)}{how}"
        if not self.unknown:
            return known
        tasks = ", ".join(f"{name} ({count} trials)" for name, count in self.unknown.items())
        lacking = f"how long {tasks} will take is not known until one of each is finished"
        return f"{known}; {lacking}" if self.seconds else lacking


def left(study: Study, plan: Plan, results: Mapping[str, TrialResult]) -> Left:
    """Sum the trials that are left, each at the median of its finished like, or as the study declares."""
    # A control with a budget of its own takes a time of its own.
    apart = {control.name: control.minutes for control in study.controls if control.budget is not None}
    timed: dict[tuple[str, str], list[float]] = {}
    waiting = Counter[tuple[str, str]]()

    def kind(name: str) -> str:
        return name if name in apart else stages.optimizer_of(study, name).name

    for key, t in plan.by_id.items():
        result, mine = results.get(key), kind(t.optimizer)
        if result is None:
            waiting[t.task, mine] += 1
        elif "seconds" in result.timing:
            for like in ((t.task, mine), *([] if mine in apart else [(t.task, "")])):
                timed.setdefault(like, []).append(result.timing["seconds"])
    for (_, task, name), count in plan.open.items():
        waiting[task, kind(name)] += count
    total, unknown = 0.0, Counter[str]()
    for (task, mine), count in waiting.items():
        seconds = timed.get((task, mine)) or (None if apart.get(mine) else timed.get((task, "")))
        declared = apart.get(mine) or study.task(task).minutes
        if seconds:
            total += count * sorted(seconds)[len(seconds) // 2]
        elif declared is not None:
            total += count * 60 * declared
        else:
            unknown[task] += count
    return Left(waiting.total(), total, unknown)


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
