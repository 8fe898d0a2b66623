"""How fast memory streams: the physical limit of a step on tensors too large for the caches.

Tested in tests/bench/test_timing.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from adamomentum.bench.timing import Clock

__all__ = ["FLOAT32_STEP_BYTES", "cache_bytes", "stream", "stream_elements"]

# A float32 step reads parameter, gradient and two moments and writes all but the gradient.
FLOAT32_STEP_BYTES = 4 * 4 + 3 * 4

# The operations, with the bytes of float32 elements that each must read and write. What a processor reads only because
# it is going to overwrite it is not counted.
PATTERNS: dict[str, tuple[Callable[[Tensor, Tensor], object], int]] = {
    "a.copy_(b)": (lambda a, b: a.copy_(b), 8),
    "a.mul_(s)": (lambda a, b: a.mul_(0.999), 8),
    "a.add_(b)": (lambda a, b: a.add_(b, alpha=1e-3), 12),
    "a.lerp_(b, s)": (lambda a, b: a.lerp_(b, 1e-3), 12),
}


def cache_bytes() -> int:
    """Return the size of the last-level cache that the first core sees; 0 where the system does not say (not Linux)."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]])
    return max(sizes)


def stream_elements(device: torch.device) -> int:
    """Return how many float32 elements to stream: at least 256 MB and twice the last-level cache, at most 2 GB."""
    known = cache_bytes() if device.type == "cpu" else 0
    return max(64_000_000, min(2 * known // 4, 500_000_000))


def stream(
    device: torch.device, clock: Clock, elements: int, repeats: int = 3, allocations: int = 3
) -> dict[str, float]:
    """Measure bytes a second of each pattern, in the best of all runs.

    Args:
        device: whose memory is streamed.
        clock: measures.
        elements: of each of the two float32 tensors.
        repeats: runs on each pair of tensors.
        allocations: pairs of tensors; where they lie in memory changes the rate.
    """
    best = dict.fromkeys(PATTERNS, 0.0)
    for _ in range(allocations):
        a, b = (torch.ones(elements, device=device) for _ in range(2))
        for name, (run, size) in PATTERNS.items():
            best[name] = max(best[name], size * elements / _fastest(run, a, b, clock, repeats))
        del a, b  # before the next pair
    return best


def _fastest(run: Callable[[Tensor, Tensor], object], a: Tensor, b: Tensor, clock: Clock, repeats: int) -> float:
    once: Callable[[], object] = lambda: run(a, b)
    once()
    return max(min(clock(once, 1) for _ in range(repeats)), 1e-9)  # a coarse clock may show nothing for a tiny tensor
