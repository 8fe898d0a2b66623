"""What is stepped: lists of tensor shapes, of real models and of many small tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Literal

__all__ = ["WORKLOADS", "Shapes", "Workload", "choose", "gpt2_small", "resnet18"]

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Workload:
    """One list of shapes, and what is done with it.

    Attributes:
        key: its name on the command line.
        label: its name in tables.
        shapes: the shapes of the parameters.
        group: the table it belongs to.
    """

    key: str
    label: str
    shapes: Shapes
    group: Literal["large", "small", "clip"]

    @property
    def numel(self) -> int:
        """The number of parameters."""
        return sum(prod(shape) for shape in self.shapes)

    def quick(self) -> Workload:
        """Return a tiny workload of the same kind, for tests of the harness."""
        return replace(self, shapes=tuple(tuple(min(d, 8) for d in shape) for shape in self.shapes[:6]))


def resnet18() -> Shapes:
    """Return the parameter shapes of ResNet-18 for ImageNet, in order."""

    def norm(channels: int) -> list[tuple[int, ...]]:
        return [(channels,), (channels,)]

    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), *norm(64)]
    before = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            shapes += [(width, before, 3, 3), *norm(width), (width, width, 3, 3), *norm(width)]
            if block == 0 and before != width:  # the shortcut changes the width
                shapes += [(width, before, 1, 1), *norm(width)]
            before = width
    return (*shapes, (1000, 512), (1000,))


def gpt2_small() -> Shapes:
    """Return the parameter shapes of GPT-2 small; the head is tied to the token embedding and so not listed again."""
    d = 768
    norm = [(d,), (d,)]
    attention = [(d, 3 * d), (3 * d,), (d, d), (d,)]
    mlp = [(d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    return ((50257, d), (1024, d), *(12 * [*norm, *attention, *norm, *mlp]), *norm)


WORKLOADS = {
    w.key: w
    for w in (
        Workload("resnet18", "ResNet-18, 62 tensors, 11.7 M", resnet18(), "large"),
        Workload("gpt2", "GPT-2 small, 148 tensors, 124 M", gpt2_small(), "large"),
        Workload("one-64m", "1 tensor of 64 M", ((64_000_000,),), "large"),  # no power of two: those share cache sets
        Workload("100x64", "100 of 64", ((64,),) * 100, "small"),
        Workload("1000x64", "1,000 of 64", ((64,),) * 1000, "small"),
        Workload("100x512", "100 of 512", ((512,),) * 100, "small"),
        Workload("1000x512", "1,000 of 512", ((512,),) * 1000, "small"),
        Workload("100x4096", "100 of 4,096", ((4096,),) * 100, "small"),
        Workload("clip-gpt2", "GPT-2 small, 148 tensors, 124 M", gpt2_small(), "clip"),
        Workload("clip-100x512", "100 of 512", ((512,),) * 100, "clip"),
    )
}


def choose(keys: list[str] | None, quick: bool = False) -> list[Workload]:
    """Return the workloads of these keys, in the order of :data:`WORKLOADS`; all of them without keys.

    Args:
        keys: names as on the command line.
        quick: take the tiny version of each.

    Raises:
        ValueError: if a key is unknown.
    """
    for key in keys or []:
        if key not in WORKLOADS:
            raise ValueError(f"workload must be one of {', '.join(WORKLOADS)}, got {key!r}")
    chosen = [w for w in WORKLOADS.values() if not keys or w.key in keys]
    return [w.quick() for w in chosen] if quick else chosen
