"""Where a trial under way stands: a small file that its own process writes now and then, and ``study status`` reads.

Nothing of it is part of a result: without the file, or if it cannot be written, the trial is the same.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from adamomentum.files import write_atomic
from adamomentum.study.numbers import Number, number

# Seconds: a short trial leaves no file, a long one a new one now and then. Whether a process of another machine is
# there cannot be seen, so a file counts for as long as an evaluation may take.
FIRST, EVERY, OLD = 5.0, 15.0, 3600.0

Curve = Mapping[str, list[Number]]


class Standing(BaseModel):
    """Where a trial stood when it was written.

    Attributes:
        trial_id: which.
        machine: host name of where it runs.
        process: id of its process there.
        written: when, since 1970.
        step: optimizer updates made.
        steps: of how many; None: not known.
        seconds_per_step: mean since the process began, evaluations included; None: not known yet.
        loss: training loss of the last step; None: not known, or not finite.
        curve: the learning curve so far, as a result has it.
    """

    model_config = ConfigDict(frozen=True)

    trial_id: str
    machine: str
    process: int
    written: float
    step: int
    steps: int | None
    seconds_per_step: float | None
    loss: Number
    curve: dict[str, list[Number]]

    @property
    def silent(self) -> float:
        """Seconds since it was written; 0 where the clock of another machine is ahead."""
        return max(0.0, time.time() - self.written)

    def seconds_left(self, usual: int | None = None) -> float | None:
        """Return how long the trial still takes by its pace so far, or None if that is not known.

        Args:
            usual: steps that trials like it take, for one that does not know its own.
        """
        steps = self.steps or usual
        if steps is None or self.seconds_per_step is None:
            return None
        return max(0.0, self.seconds_per_step * (steps - self.step) - self.silent)

    def under_way(self) -> bool:
        """Say whether the trial still runs, as far as can be seen from here."""
        return self.silent < OLD and (self.machine != socket.gethostname() or _is_there(self.process))


class Teller:
    """Writes where a trial stands; a context manager that removes the file at the trial's end.

    Args:
        folder: where to; None: nowhere.
        trial_id: of which trial.
    """

    def __init__(self, folder: Path | None = None, trial_id: str = "") -> None:
        self._path = None if folder is None else folder / f"{trial_id}.json"
        self._trial_id = trial_id
        self._due = time.monotonic() + FIRST
        self._began: tuple[float, int] | None = None

    def __enter__(self) -> Teller:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def at(self, step: int, steps: int | None, loss: float | None, curve: Callable[[], Curve]) -> None:
        """Take note of a step, and write where the trial stands if that is due.

        Args:
            step: updates made.
            steps: of how many; None: not known.
            loss: of this step, in training; None: not known.
            curve: returns the learning curve so far; called only if something is written.
        """
        if self._path is None:
            return
        now = time.monotonic()
        if self._began is None:  # a trial that goes on from a checkpoint does not begin at step 0
            self._began = now, step
        if now < self._due:
            return
        began, first = self._began
        self._due = now + (EVERY if step > first else FIRST)  # before the second step there is no pace
        standing = Standing(
            trial_id=self._trial_id,
            machine=socket.gethostname(),
            process=os.getpid(),
            written=time.time(),
            step=step,
            steps=steps,
            seconds_per_step=(now - began) / (step - first) if step > first else None,
            loss=None if loss is None else number(loss),
            curve=dict(curve()),
        )
        with suppress(OSError):  # a full disk must not end a training
            write_atomic(self._path, standing.model_dump_json().encode())


def standings(folder: Path) -> dict[str, Standing]:
    """Return where the trials that are under way stand, by trial id; files of others are passed over."""
    read = (_read(path) for path in sorted(folder.glob("*.json")))
    return {each.trial_id: each for each in read if each is not None and each.under_way()}


def clear(folder: Path) -> None:
    """Remove what trials that were killed have left, and the folder where nothing runs."""
    for path in folder.glob("*.json"):
        standing = _read(path)
        if standing is None or not standing.under_way():
            with suppress(OSError):
                path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        folder.rmdir()


def _read(path: Path) -> Standing | None:
    try:
        return Standing.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # its trial has just ended, or another version wrote it
        return None


def _is_there(process: int) -> bool:
    if os.name == "nt":  # there os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
