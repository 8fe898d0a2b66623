"""What a check is, how a series of them is run, and what those of tasks and optimizers share.

Tested in tests/study/test_testing_tasks.py.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from adamomentum.study.data.base import DataError

C = TypeVar("C")


class ContractError(AssertionError):
    """Something does not keep what the study relies on.

    Attributes:
        check: name of the check, as ``skip`` takes it.
    """

    def __init__(self, subject: str, check: str, what: str, why: str, remedy: str) -> None:
        super().__init__(f"{subject} fails the check {check!r}: {what}\nWhy it matters: {why}\nRemedy: {remedy}")
        self.check = check


class Broken(Exception):
    """Raised by a check; the message says what is broken."""


@dataclass(frozen=True)
class Check(Generic[C]):
    """A promise that is put to the test.

    Attributes:
        name: of the check.
        run: raises ``Broken``, or whatever the user's code raises.
        why: the promise matters.
        remedy: what to do.
    """

    name: str
    run: Callable[[C], None]
    why: str
    remedy: str


@dataclass
class Checks(Generic[C]):
    """A series of checks, from what all others need to the special."""

    series: list[Check[C]] = field(default_factory=list)

    def check(self, why: str, remedy: str) -> Callable[[Callable[[C], None]], Callable[[C], None]]:
        """Return a decorator that adds a function to the series under its own name."""

        def add(run: Callable[[C], None]) -> Callable[[C], None]:
            self.series.append(Check(run.__name__, run, why, remedy))
            return run

        return add

    def run(self, subject: str, case: C, skip: Collection[str]) -> None:
        """Run all checks on ``case`` but those in ``skip``.

        Raises:
            ContractError: if one fails.
            DataError: if data cannot be had, which says nothing of the task.
            ValueError: if there is no check of a name in ``skip``.
        """
        names = [check.name for check in self.series]
        for name in skip:
            if name not in names:
                raise ValueError(f"skip names {name!r}, which is no check; there are: {', '.join(names)}")
        for check in self.series:
            if check.name in skip:
                continue
            try:
                check.run(case)
            except Broken as broken:
                raise ContractError(subject, check.name, str(broken), check.why, check.remedy) from None
            except DataError:
                raise
            except Exception as error:
                what = f"it raised {type(error).__name__}: {str(error).partition(chr(10))[0]}"
                raise ContractError(subject, check.name, what, check.why, check.remedy) from error


def path_of(subject: str | type) -> str:
    """Return how a study file names ``subject``: a name as it is, a class as ``module:Class``."""
    return subject if isinstance(subject, str) else f"{subject.__module__}:{subject.__qualname__}"


@contextmanager
def scrambled(seed: int) -> Iterator[None]:
    """Put all global generators of random numbers at a place of their own; they are back where they were at the end."""
    # NumPy's global generator is what is looked after here.
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def drawn_from() -> Callable[[], list[str]]:
    """Return a function that names the global generators that were drawn from between now and then."""

    def states() -> dict[str, Any]:
        # As above, it is NumPy's global generator that is asked about.
        numbers = np.random.get_state(legacy=False)  # noqa: NPY002
        return {"random": random.getstate(), "numpy.random": numbers, "torch": torch.get_rng_state()}

    before = states()
    return lambda: [name for name, state in states().items() if not same(state, before[name])]


def reread(state: Any) -> Any:
    """Return ``state`` as a checkpoint gives it back.

    Raises:
        Broken: if a checkpoint cannot hold it.
    """
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        buffer.seek(0)
        return torch.load(buffer, map_location="cpu", weights_only=True)
    except Exception as error:
        # Both raise many types.
        raise Broken(f"a checkpoint cannot hold it: {str(error).splitlines()[0]}") from error


def same(a: Any, b: Any) -> bool:
    """Say whether two states are equal bit for bit: tensors, arrays, and containers of them."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
