"""Ready gradients that wait for each other, so that Python's share of an update is paid once for many of them.

Tested in tests/torch/test_release.py.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adamomentum.torch.sharded import is_dtensor
from adamomentum.torch.state import PLAIN_TENSORS

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

    def __init__(self, stream: torch.Stream | None) -> None:
        self.elements = 0
        self.rows: list[tuple[dict[str, Any], Tensor, Tensor]] = []  # group, parameter, gradient
        self._stream = stream

    @contextmanager
    def opened(self) -> Iterator[list[Part]]:
        """Give what waits, on the stream that made it, and free it at the end of the block, also where that fails.

        Another stream could have the memory of the gradients before they are read. The caller's waits for that one.
        """
        by_group: dict[int, Part] = {}
        for group, p, grad in self.rows:
            part = by_group.get(id(group))
            if part is None:
                part = by_group[id(group)] = Part(group, [], [])
            part.params.append(p)
            part.grads.append(grad)
        self.rows.clear()
        parts = list(by_group.values())
        try:
            if self._stream is None:
                yield parts
                return
            caller = stream_of(parts[0].params[0])
            with self._stream:
                yield parts
            if caller is not None and caller != self._stream:
                caller.wait_stream(self._stream)
        finally:
            for part in parts:
                for p in part.params:
                    p.grad = None
                part.grads.clear()


class Buckets:
    """The gradients of a backward pass that wait, in a bucket for each stream that makes some.

    Several threads may use it, as each device has its own in backward.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_stream: dict[torch.Stream | None, Bucket] = {}

    def put(self, group: dict[str, Any], p: Tensor, grad: Tensor) -> Bucket | None:
        """Let a gradient wait.

        Args:
            group: the parameter group of ``p``.
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
            bucket.rows.append((group, p, grad))
            bucket.elements += p.numel() if type(p) in PLAIN_TENSORS else _elements(p)
            if bucket.elements < BUCKET_ELEMENTS:
                return None
            del self._by_stream[stream]
            return bucket

    def take_all(self) -> list[Bucket]:
        """Return what waits, and have nothing more wait."""
        with self._lock:
            buckets = list(self._by_stream.values())
            self._by_stream.clear()
            return buckets


def stream_of(p: Tensor) -> torch.Stream | None:
    """Return the current stream of a parameter's device; None for one without streams."""
    return torch.accelerator.current_stream(p.device) if p.is_cuda or p.is_xpu else None


def _elements(p: Any) -> int:
    """Return the elements of a parameter, of a DTensor those of its largest shard: the same number on all processes."""
    shape = list(p.shape)
    sharding = zip(p.placements, p.device_mesh.shape, strict=True) if is_dtensor(p) else ()
    for placement, processes in sharding:
        if placement.is_shard():
            shape[placement.dim] = -(-shape[placement.dim] // processes)
    return math.prod(shape)
