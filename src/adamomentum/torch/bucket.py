"""Ready gradients that wait for each other, so that Python's share of an update is paid once for many of them.

Tested in tests/torch/test_release.py.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adamomentum.torch.sharded import is_dtensor

__all__ = ["BUCKET_ELEMENTS", "Bucket", "Buckets", "Part"]

# Elements of a full bucket, which are alive beyond the gradient that is being made: 4 MiB in float32.
BUCKET_ELEMENTS = 2**20


class Part(NamedTuple):
    """Parameters of one group and their gradients."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]


class Bucket:
    """Gradients that wait, in the order in which they were ready; they are not in ``p.grad``."""

    def __init__(self, stream: torch.Stream | None = None) -> None:
        self.room = BUCKET_ELEMENTS  # elements that it may still take; none where it is full
        self.params: list[Tensor] = []
        self.grads: list[Tensor] = []
        self._stream = stream

    def split(self, rows: list[tuple[Tensor, Tensor]]) -> list[Bucket]:
        """Return buckets of the same stream with the given parameters and gradients, none twice in one of them."""
        buckets: list[Bucket] = []
        places = Counter[int]()
        for p, grad in rows:
            if places[id(p)] == len(buckets):
                buckets.append(Bucket(self._stream))
            bucket = buckets[places[id(p)]]
            bucket.params.append(p)
            bucket.grads.append(grad)
            places[id(p)] += 1
        return buckets

    @contextmanager
    def opened(self, groups: list[dict[str, Any]]) -> Iterator[list[Part]]:
        """Give what waits, on the stream that made it, and free it at the end of the block, also where that fails.

        Another stream could have the memory of the gradients before they are read. The caller's waits for that one.

        Args:
            groups: the parameter group of each parameter.
        """
        parts = _divided(groups, self.params, self.grads)
        try:
            if self._stream is None:
                yield parts
                return
            caller = stream_of(self.params[0])
            with self._stream:
                yield parts
            if caller is not None and caller != self._stream:
                caller.wait_stream(self._stream)
        finally:
            for part in parts:
                part.grads.clear()


class Buckets:
    """The gradients of a backward pass that wait: in a bucket for plain tensors on the CPU, and one for each stream.

    Several threads may use it, as each device has its own in backward. The hooks of what is on the CPU all run on one:
    that fills the bucket ``plain`` by itself, without a lock.
    """

    def __init__(self) -> None:
        self.plain = Bucket()
        self._lock = threading.Lock()
        self._by_stream: dict[torch.Stream | None, Bucket] = {}

    def put(self, p: Tensor, grad: Tensor) -> Bucket | None:
        """Let a gradient wait.

        Args:
            p: a parameter, of which no gradient waits.
            grad: its gradient, made on the current stream.

        Returns:
            The bucket that it is in, where that has become full: it waits no longer.
        """
        stream = None if p.is_cpu else stream_of(p)
        with self._lock:
            bucket = self._by_stream.get(stream)
            if bucket is None:
                bucket = self._by_stream[stream] = Bucket(stream)
            bucket.params.append(p)
            bucket.grads.append(grad)
            bucket.room -= _elements(p)
            if bucket.room > 0:
                return None
            del self._by_stream[stream]
            return bucket

    def take_all(self) -> list[Bucket]:
        """Return what waits, and have nothing more wait."""
        with self._lock:
            buckets = [bucket for bucket in (self.plain, *self._by_stream.values()) if bucket.params]
            self.plain = Bucket()
            self._by_stream.clear()
            return buckets


def _divided(groups: list[dict[str, Any]], params: list[Tensor], grads: list[Tensor]) -> list[Part]:
    """Divide parameters and their gradients by group."""
    if len(set(map(id, groups))) == 1:
        return [Part(groups[0], params, grads)]
    by_group: dict[int, Part] = {}
    for group, p, grad in zip(groups, params, grads, strict=True):
        part = by_group.get(id(group))
        if part is None:
            part = by_group[id(group)] = Part(group, [], [])
        part.params.append(p)
        part.grads.append(grad)
    return list(by_group.values())


def stream_of(p: Tensor) -> torch.Stream | None:
    """Return the current stream of a parameter's device; None for one without streams."""
    return torch.accelerator.current_stream(p.device) if p.is_cuda or p.is_xpu else None


def _elements(p: Any) -> int:
    """Return the elements of a parameter, of a DTensor those of its largest shard: the same number on all processes."""
    if not is_dtensor(p):
        return int(p.numel())
    shape = list(p.shape)
    for placement, processes in zip(p.placements, p.device_mesh.shape, strict=True):
        if placement.is_shard():
            shape[placement.dim] = -(-shape[placement.dim] // processes)
    return math.prod(shape)
