"""How a run gets on: bars in a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from adamomentum.study import stages
from adamomentum.study.engine import Round
from adamomentum.study.estimate import duration, left
from adamomentum.study.stages import Planned
from adamomentum.study.standing import standings
from adamomentum.study.studyfile import Study
from adamomentum.study.trial import TrialResult
from adamomentum.terminal import say

# Seconds between two lines where there is no terminal: while trials end, and while none does, so that a long one is not
# taken for a run that hangs.
EVERY, SILENCE = 30.0, 300.0


class Watch:
    """A bar an optimizer of a study of one task, a bar a task of any other; a context manager.

    Args:
        study: what is run.
        workers: trials at a time.
        console: where to.
        running: where trials under way say how far they are; None: nowhere.
    """

    def __init__(self, study: Study, workers: int, console: Console, running: Path | None = None) -> None:
        self.study, self.workers, self.console, self._running = study, workers, console, running
        self.trained = self.kept = 0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),  # in a narrow terminal the bar gives way
            TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._round: Round | None = None
        # Where it is, when it ends by what is known, and what happened last: one value, which another thread reads.
        self._now: tuple[str, float | None, str] | None = None
        self._over = Event()
        self._teller = None if console.is_terminal else Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Watch:
        self.progress.start()
        if self._teller is not None:
            self._teller.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()
        self._over.set()
        if self._teller is not None:
            self._teller.join()

    @property
    def place(self) -> str:
        """How many trials of how many are done; of so many at most, where later ones depend on what is found."""
        now = self._round
        if now is None:
            return "no"
        return f"{len(now.results)} of {len(now.results.keys() | now.missing.keys()) + now.plan.open.total()}"

    def on_round(self, now: Round) -> None:
        """Take up a new plan."""
        self._round, self.kept = now, len(now.results) - self.trained
        # In the order of the study, not of its trials.
        names = (self._bar(t.name, name) for t in self.study.tasks for name in self.study.optimizers)
        totals, done = Counter[str](dict.fromkeys(names, 0)), Counter[str]()
        for key, t in now.plan.by_id.items():
            totals[self._bar(t.task, t.optimizer)] += 1
            done[self._bar(t.task, t.optimizer)] += key in now.results
        for (_, task, name), count in now.plan.open.items():
            totals[self._bar(task, name)] += count
        for name, total in totals.items():
            if name not in self._bars:
                state = "waiting for workers" if done[name] < total else ""
                self._bars[name] = self.progress.add_task(name, total=total, state=state)
            self.progress.update(self._bars[name], total=total, completed=done[name])
        if now.missing:
            more = f", up to {now.plan.open.total()} more after them" if now.plan.open else ""
            rest = left(self.study, now.plan, now.results)
            time_left = f". To the end: {rest.text(self.workers, self._how)}" if rest.seconds else ""
            say(self.console, f"{len(now.missing)} trials to run now{more}{time_left}")
        self._take_down("")

    @property
    def _how(self) -> str:
        return f" with {self.workers} at a time" if self.workers > 1 else ""

    def on_trial(self, planned: Planned, result: TrialResult) -> None:
        """Take up what became of a trial."""
        assert self._round is not None
        self.trained += 1
        metric = self.study.task(planned.task).reported.primary
        value = result.final.get(f"val_{metric.key}")
        score = f"validation {metric.text(value)}" if value is not None and result.status == "ok" else result.status
        state = f"{planned.role}: lr {planned.spec.optimizer.lr:g}, {score}"
        label = stages.label(self.study, planned.optimizer)
        bar = self._bar(planned.task, planned.optimizer)
        self.progress.update(self._bars[bar], advance=1, state=state if bar == label else f"{label}, {state}")
        self._take_down(f"; {self._name(planned)}, {state}")

    def _take_down(self, state: str) -> None:
        if self._teller is None or self._round is None:  # bars tell it all
            return
        rest = left(self.study, self._round.plan, self._round.results)
        known = rest.seconds and not rest.unknown
        self._now = self.place, time.monotonic() + rest.seconds / self.workers if known else None, state

    def _tell(self) -> None:
        """Say now and then how far it is, until it is over."""
        said, told = time.monotonic(), ""
        while not self._over.wait(EVERY):
            if self._now is None:
                continue
            place, end, state = self._now
            if place == told and time.monotonic() < said + SILENCE:
                continue
            if place == told:
                state = self._under_way() or state
            said, told = time.monotonic(), place
            ahead = "" if end is None else f", about {duration(max(0.0, end - said))} left"
            say(self.console, f"{time.strftime('%H:%M:%S')} {place} trials{ahead}{state}")

    def _under_way(self) -> str:
        """How far the trials are that run now and have said it."""
        if self._running is None or self._round is None:
            return ""
        now, by_id = standings(self._running), self._round.plan.by_id
        each = [
            f"{self._name(by_id[key])}, {by_id[key].role} at step {standing.step}"
            + (f" of {standing.steps}" if standing.steps else "")
            for key, standing in now.items()
            if key in by_id
        ]
        return f"; running: {'; '.join(each)}" if each else ""

    def _name(self, planned: Planned) -> str:
        label = stages.label(self.study, planned.optimizer)
        return label if len(self.study.tasks) == 1 else f"{planned.task}, {label}"

    def _bar(self, task: str, optimizer: str) -> str:
        return task if len(self.study.tasks) > 1 else stages.label(self.study, optimizer)
