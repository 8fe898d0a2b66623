"""The seam between the engine and a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from adamomentum.study.spec import Budget

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Context:
    """What a task gets for one trial.

    Attributes:
        data: the task's data set.
        budget: epochs, batch size, evaluations.
        device: where to train.
        seed: the seed of a named role; the same for every optimizer.
        make_optimizer: builds the trial's optimizer over parameters; its learning rate is scheduled by
            the engine.
    """

    data: Any
    budget: Budget
    device: torch.device
    seed: Callable[[str], int]
    make_optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer]


class Run(Protocol):
    """A task set up for one trial."""

    total_steps: int

    def step(self) -> float:
        """Makes one optimizer update and returns the training loss before it."""

    def evaluate(self, split: str) -> dict[str, float]:
        """Returns the metrics of ``split`` (``val`` or ``test``) at the present weights."""


class Task(Protocol):
    """A kind of training problem."""

    name: str
    version: int

    def setup(self, context: Context) -> Run:
        """Builds model, batches and optimizer for one trial."""
