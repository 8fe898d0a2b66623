"""The seam between the engine and whatever runs its trials.

Tested in tests/study/test_execute.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from adamomentum.study.spec import TrialSpec
from adamomentum.study.trial import TrialResult


class Executor(Protocol):
    """Runs trials; a context manager that stops what still runs at its end."""

    def __enter__(self) -> Executor:
        """Return itself."""

    def __exit__(self, *exception: object) -> None:
        """Stop the workers."""

    def run(self, specs: Iterable[TrialSpec]) -> Iterator[tuple[TrialSpec, TrialResult]]:
        """Yield each spec with its result, in the order in which they finish.

        A trial that fails yields a result of status ``error`` with its traceback; it stops no other.
        """
