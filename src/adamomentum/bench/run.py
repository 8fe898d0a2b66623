"""A whole run: the memory's streaming rate, then one workload after the other.

Tested in tests/bench/test_bench_cli.py.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import torch

from adamomentum.bench import bandwidth, machine
from adamomentum.bench.measure import Settings, measure
from adamomentum.bench.page import Results
from adamomentum.bench.timing import clock_for
from adamomentum.bench.workloads import Workload

__all__ = ["run"]


def run(
    workloads: list[Workload],
    settings: Settings,
    command: str,
    say: Callable[[str], None] = lambda text: None,
    stream_elements: int | None = None,
) -> Results:
    """Measure workloads one by one.

    Args:
        workloads: what is stepped.
        settings: how to measure.
        command: the command line, for the record.
        say: is told what goes on.
        stream_elements: the size of the tensors that the streaming rate is measured on; None: larger than the caches.

    Raises:
        Unavailable: if what everything is compared with does not work here.
    """
    device = settings.device
    results = Results(
        settings=settings,
        command=command,
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        machine=machine.describe(device),  # before the load is our own
        versions=machine.versions(),
        cache=bandwidth.cache_bytes() if device.type == "cpu" else 0,
        bandwidth={},
        streamed=0,
        measured=[],
    )
    if any(w.group == "large" for w in workloads):
        elements = stream_elements or bandwidth.stream_elements(device)
        results.streamed = 4 * elements
        say(f"streaming rate, {results.streamed / 1e6:,.0f} MB")
        before = torch.get_num_threads()
        try:
            for threads in settings.threads:
                torch.set_num_threads(threads)
                results.bandwidth[threads] = bandwidth.stream(device, clock_for(device, threads), elements)
        finally:
            torch.set_num_threads(before)
    for workload in workloads:
        results.measured.append(measure(workload, settings, say))
    return results
