"""Follows a run and logs its trials: while they are under way from where they stand, at their end from the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from operator import methodcaller
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from adamomentum.study.engine import Round
from adamomentum.study.logs.base import Log, Writer
from adamomentum.study.stages import Plan, Planned
from adamomentum.study.standing import EVERY, Curve, standings
from adamomentum.study.trial import TrialResult

FINISHED = "finished.txt"
"""Ids of the trials whose logs are complete, in the folder of a writer: who removes it has them all logged again."""


class Follower:
    """Logs a run in a thread of its own, so that no network holds up a trial; a context manager.

    What goes wrong ends the log and is said, and never ends the run.

    Args:
        writers: by name.
        running: where trials say how far they are.
        tell: says what went wrong.
    """

    def __init__(self, writers: Mapping[str, Writer], running: Path, tell: Callable[[str], None]) -> None:
        self._running, self._tell = running, tell
        self._each = {name: _Logs(writer) for name, writer in writers.items()}
        self._plan: Plan | None = None
        self._ended = SimpleQueue[tuple[Planned, TrialResult] | None]()
        self._thread = Thread(target=self._follow, daemon=True) if writers else None

    def __enter__(self) -> Follower:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._thread is not None:
            self._ended.put(None)
            self._thread.join()

    def on_round(self, now: Round) -> None:
        """Take up a new plan, and what of it was finished before."""
        self._plan = now.plan
        for key, result in now.results.items():
            self._ended.put((now.plan.by_id[key], result))

    def on_trial(self, planned: Planned, result: TrialResult) -> None:
        """Take up what became of a trial."""
        self._ended.put((planned, result))

    def _follow(self) -> None:
        due = time.monotonic() + EVERY
        while True:
            try:
                ended = self._ended.get(timeout=max(0.0, due - time.monotonic()))
            except Empty:
                self._look()
                due = time.monotonic() + EVERY
                continue
            if ended is None:
                self._try(_Logs.close)
                return
            trial, result = ended
            self._try(methodcaller("end", trial, result))

    def _look(self) -> None:
        if self._plan is None:
            return
        for key, standing in standings(self._running).items():
            trial = self._plan.by_id.get(key)
            if trial is not None:
                self._try(methodcaller("extend", trial, standing.curve))

    def _try(self, act: Callable[[_Logs], None]) -> None:
        for name, logs in list(self._each.items()):
            try:
                act(logs)
            except Exception as error:
                # A package of others, and a network behind it, may raise anything.
                del self._each[name]
                self._tell(f"Warning: --log-to {name} failed, nothing more is logged there in this run: {error!r}")


class _Logs:
    """The logs of one writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._finished_path = writer.folder / FINISHED
        self._finished = set(self._finished_path.read_text().split()) if self._finished_path.exists() else set()
        self._open: dict[str, tuple[Log, int]] = {}  # and how many points it has

    def extend(self, trial: Planned, curve: Curve) -> None:
        """Log what of a curve is new."""
        key = trial.spec.trial_id
        if key in self._finished:
            return
        log, logged = self._open.get(key) or (self._writer.open(trial), 0)
        self._open[key] = log, logged
        steps = curve.get("step", [])
        for k in range(logged, len(steps)):
            step, columns = steps[k], {name: values[k] for name, values in curve.items() if name != "step"}
            log.point(round(step or 0), {name: value for name, value in columns.items() if value is not None})
            self._open[key] = log, k + 1

    def end(self, trial: Planned, result: TrialResult) -> None:
        """Log the rest of a trial; one that failed will be run and logged again."""
        key = trial.spec.trial_id
        if key in self._finished:
            return
        self.extend(trial, result.curve)
        log, _ = self._open.pop(key)
        log.end(result)
        if result.status != "error":
            self._finished.add(key)
            with self._finished_path.open("a") as file:
                file.write(f"{key}\n")

    def close(self) -> None:
        """Close what is open: trials that were interrupted."""
        for log, _ in self._open.values():
            log.close()
