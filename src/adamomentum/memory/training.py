"""The bytes of a training step, and the largest model that fits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adamomentum.memory.modes import MODES, Format, Mode
from adamomentum.memory.sizes import Sizes, sizes_of

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = ["Memory", "largest_model", "training_memory"]


@dataclass(frozen=True)
class Memory:
    """What a model takes in one mode, in bytes, without activations, step counts and temporary memory.

    Attributes:
        mode: the mode.
        numel: the number of trained parameters.
        parameters: of all parameters and buffers, frozen ones included.
        gradients: of all gradients.
        moments: of both moments.
        rounding: of what rounding keeps of the parameters beside them.
        held: the most bytes of gradients that are there at a time where they are released in backward.
    """

    mode: Mode
    numel: int
    parameters: int
    gradients: int
    moments: int
    rounding: int
    held: int

    @property
    def total(self) -> int:
        """Bytes in all, with all gradients."""
        return self.parameters + self.gradients + self.moments + self.rounding

    @property
    def released(self) -> int:
        """Bytes in all where gradients are released, those of ``held`` included."""
        return self.total - self.gradients + self.held


def training_memory(model: Module | float | str | Path | Sizes, modes: tuple[Mode, ...] = MODES) -> list[Memory]:
    """Compute what training a model takes, activations aside.

    Args:
        model: what :func:`adamomentum.memory.sizes_of` takes or has returned. Trained parameters are counted as if they
            had the dtype of the mode. Of a number it is not known how large the largest tensor is: its gradient, which
            is there under release beside those that wait in a bucket of 2^20 elements, then counts as none. A parameter
            that a module has in several places is taken to be used in each; one place that is used several times, as a
            layer that is called again, does not show, and counts as used once.
        modes: which ways to train.

    Returns:
        One entry a mode, in their order.

    Raises:
        ValueError: if the model is none of these.
        ModuleNotFoundError: if a config is given and transformers is not installed.
    """
    sizes = model if isinstance(model, Sizes) else sizes_of(model)
    tensors = Counter(sizes.trained)
    return [_memory(mode, sizes, tensors) for mode in modes]


def _memory(mode: Mode, sizes: Sizes, tensors: Counter[int]) -> Memory:
    def bytes_of(*formats: Format) -> int:
        return sum(count * sum(f.bytes_of(numel) for f in formats) for numel, count in tensors.items())

    return Memory(
        mode,
        sizes.numel,
        parameters=bytes_of(mode.parameter) + sizes.fixed,
        gradients=bytes_of(mode.gradient),
        moments=bytes_of(*mode.moments),
        rounding=0 if mode.kept is None else bytes_of(mode.kept),
        held=mode.gradient.bytes_of(_held(sizes, mode.bucket)),
    )


def _held(sizes: Sizes, bucket: int) -> int:
    """Return how many elements of gradients are there at a time where they are released.

    Of a shared parameter the gradient of one use is there until that of the next comes, and both until they are added.
    """
    twice = 2 * max(sizes.shared, default=0)
    return min(sizes.numel + twice, bucket + sum(sizes.shared) + max(sizes.largest, twice))


def largest_model(mode: Mode, capacity: int, *, released: bool) -> int:
    """Return how many parameters can be trained in a memory, activations aside.

    Args:
        mode: the way to train.
        capacity: the memory, in bytes.
        released: whether gradients are released in backward; the largest one is then not counted.
    """

    def fits(numel: int) -> bool:
        (memory,) = training_memory(numel, (mode,))
        return (memory.released if released else memory.total) <= capacity

    low, high = 0, capacity
    while low < high:  # what a model takes grows with its size
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
