"""The user's own training function as a task: seeded, run once, what it reported and returned taken down.

Tested in tests/study/function/test_task.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from adamomentum.study.numbers import Number, number
from adamomentum.study.spec import Value
from adamomentum.study.tasks import FAMILIES, OWN
from adamomentum.study.tasks.base import Outcome, Whole, WholeContext
from adamomentum.study.tasks.function.script import Script, read
from adamomentum.study.tasks.function.settings import OUTPUT
from adamomentum.study.tasks.function.surroundings import surroundings
from adamomentum.study.tasks.function.trial import Ended, Trial, as_number, fatal

NOT_FINITE = re.compile(r"\b(nans?|infs?|infinit\w*|non-?finite|not finite|overflow)\b", re.IGNORECASE)
"""How an error says that it is about a number that is not finite."""


class Own(Whole):
    """A function that trains by itself and is told what with."""

    family = FAMILIES[OWN]

    def load(self, params: Mapping[str, Value], source: Path | None) -> Script:
        """Return the script; ``source`` is the folder that its path starts from, by default the current one."""
        return read(params, source or Path())

    def train(self, context: WholeContext) -> Outcome:
        """Call the function.

        Raises:
            ValueError: if it did not do its part: no optimizer of the trial's, no report, nothing returned; or if what
                it depends on was edited since it was read.
            RuntimeError: if it left by ``sys.exit``.
            Exception: what it raises, unless that comes of numbers that are not finite.
        """
        context.data.check()
        with Trial(context) as trial, surroundings(context.data.path), _written(context):
            random.seed(context.seed)
            np.random.seed(context.seed)  # noqa: NPY002 - users' code draws from it
            torch.manual_seed(context.seed)
            tested, diverged = {}, ""
            try:
                tested = _returned(context.data.function()(trial))
            except Ended as ended:
                diverged = str(ended)
            except SystemExit as error:
                left = f"the function left by sys.exit({error.code!r})"
                if not trial.broken():
                    raise RuntimeError(
                        f"{left}; it must return its test metrics, and take no command line: its arguments come from "
                        "--arg, or params"
                    ) from error
                diverged = f"{left}; a parameter or gradient is not finite"  # many a script looks at its loss itself
            except Exception as error:
                # The user's code may raise anything, and does where it finds a loss that is not finite.
                if not (trial.broken() or _of_numbers(error)):
                    raise
                diverged = f"{type(error).__name__}: {error}"
            if not diverged:
                broken = "the parameters are not finite at the end" if trial.broken() else ""
                # While settings are chosen nothing of the test split is looked at, not even whether it is a number.
                diverged = trial.lost or (_fault(tested) if context.stage == "final" else "") or broken
            trial.check(tested, complete=not diverged)
        context.data.check()
        final: dict[str, Number] = {**trial.last, **trial.numbers}
        if context.stage == "final":
            final |= {f"test_{key}": number(value) for key, value in tested.items()}
        return Outcome(final, trial.curve, trial.timing, diverged)


def _returned(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or not value:
        raise ValueError(
            f'the function must return its test metrics, e.g. return {{"loss": test_loss}}, got {value!r}; by them '
            "optimizers are compared, and they are kept in final trials alone"
        )
    return {str(key): as_number(f"return {{{key!r}: ...}}", each) for key, each in value.items()}


def _fault(tested: Mapping[str, float]) -> str:
    return next((f"it returned {key} = {tested[key]}" for key in fatal(tested)), "")


def _of_numbers(error: Exception) -> bool:
    return isinstance(error, (FloatingPointError, OverflowError)) or (
        isinstance(error, (ValueError, RuntimeError, AssertionError)) and NOT_FINITE.search(str(error)) is not None
    )


@contextlib.contextmanager
def _written(context: WholeContext) -> Iterator[None]:
    """Send what the function prints to a file: several trials at a time would make a mess of the terminal.

    The stream is the same for all trials of this process and leads to another file in each: ``logging``, and packages
    that stay imported, keep the one that they found first.
    """
    if context.folder is None:
        yield
        return
    context.folder.mkdir(parents=True, exist_ok=True)
    stream = _stream()
    with (context.folder / (f"{context.rank}-{OUTPUT}" if context.rank else OUTPUT)).open("wb") as file:
        os.dup2(file.fileno(), stream.fileno(), inheritable=False)
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
    finally:
        if stream.closed:  # by the script
            _stream.cache_clear()
        else:
            stream.flush()
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno(), inheritable=False)


@functools.cache
def _stream() -> TextIO:
    """Return what functions print to, which leads nowhere yet; a line is written as it comes, for who looks on."""
    return Path(os.devnull).open("w", buffering=1, encoding="utf-8", errors="backslashreplace")
