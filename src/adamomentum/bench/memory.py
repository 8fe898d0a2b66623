"""Memory of an optimizer: what it keeps, and what a step takes on top of that.

Tested in tests/bench/test_tensors.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import Optimizer

from adamomentum.bench.tensors import inner_tensors

__all__ = ["peak_bytes", "state_bytes"]


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of all tensors in the optimizer's state, each counted once however many parameters share it.

    Args:
        optimizer: after a step, or its state would not exist yet.
    """
    tensors = {
        (t.device, t.data_ptr()): t.numel() * t.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        for t in inner_tensors(value)
    }
    return sum(tensors.values())


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that ``run`` held at a time, beyond what there was, by PyTorch's allocator of the device.

    Args:
        run: what is looked at, e.g. ``optimizer.step``.
        device: CPU or CUDA.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    events = list(profile.profiler.kineto_results.experimental_event_tree())
    changes: list[tuple[int, int]] = []  # when, and by how many bytes
    while events:
        event = events.pop()
        events += event.children
        if event.tag == torch._C._profiler._EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    held = peak = 0
    for _, change in sorted(changes, key=lambda x: x[0]):
        held += change
        peak = max(peak, held)
    return peak
