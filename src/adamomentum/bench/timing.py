"""Timing optimizers against each other: interleaved rounds, and what is made of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

__all__ = ["SLOW", "Clock", "Quartiles", "Step", "clock_for", "order", "quartiles", "rounds_of"]

# Runs a function so many times, and returns the seconds it took.
Clock = Callable[[Callable[[], object], int], float]

# A contestant slower than this many times the reference sits out all but the first rounds: it would take most of the
# time, and nobody needs its ratio to a percent.
SLOW, SLOW_ROUNDS = 10.0, 5


@dataclass(frozen=True)
class Step:
    """What is timed.

    Attributes:
        run: one step.
        before: what precedes each step without being timed, if anything.
    """

    run: Callable[[], object]
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles."""

    low: float
    median: float
    high: float


def clock_for(device: torch.device, threads: int) -> Clock:
    """Return the clock for a device and a number of threads.

    Args:
        device: where the steps run.
        threads: with one, CPU time of this thread is taken, which other programs on the machine disturb least; with
            more, time on the wall. On CUDA, the time between two events.
    """
    if device.type == "cuda":
        return _cuda_seconds
    return lambda run, count: _cpu_seconds(run, count, time.thread_time if threads == 1 else time.perf_counter)


def _cpu_seconds(run: Callable[[], object], count: int, now: Callable[[], float]) -> float:
    start = now()
    for _ in range(count):
        run()
    return now() - start


def _cuda_seconds(run: Callable[[], object], count: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def order(names: list[str], turn: int) -> list[str]:
    """Return the names, rotated by one more each turn, so that nobody always follows the same neighbour."""
    turn %= len(names)
    return names[turn:] + names[:turn]


def _sample(step: Step, count: int, clock: Clock) -> float:
    """Measure the seconds for one of ``count`` steps."""
    if step.before is None:
        return clock(step.run, count) / count
    total = 0.0
    for _ in range(count):
        step.before()
        total += clock(step.run, 1)
    return total / count


def rounds_of(
    steps: Mapping[str, Step], reference: str, clock: Clock, rounds: int, seconds: float = 0.02
) -> dict[str, list[float]]:
    """Time every step once a round.

    Args:
        steps: what is timed, by name.
        reference: the name that the others are to be divided by.
        clock: measures.
        rounds: how many.
        seconds: about how long the reference is stepped each time; slower ones are stepped as often.

    Returns:
        For each name the seconds of one step in each round it took part in, which are always the first ones.
    """
    first = {name: _sample(step, 1, clock) for name, step in steps.items()}  # a warm-up too
    again = {name: min(first[name], _sample(step, 1, clock)) for name, step in steps.items()}
    count = max(1, min(200, round(seconds / max(again[reference], 1e-7))))
    slow = {name for name in steps if again[name] > SLOW * again[reference]}
    times: dict[str, list[float]] = {name: [] for name in steps}
    collecting = gc.isenabled()
    gc.disable()  # a collection would be charged to whoever steps at that moment
    try:
        for turn in range(rounds):
            for name in order(list(steps), turn):
                if name in slow and turn >= SLOW_ROUNDS:
                    continue
                if count > 1:  # the last one's leftovers in the caches matter for small tensors only
                    _sample(steps[name], 1, clock)
                times[name].append(_sample(steps[name], 1 if name in slow else count, clock))
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return times


def quartiles(values: list[float]) -> Quartiles:
    """Return the median and quartiles of at least one value."""
    if len(values) == 1:
        return Quartiles(*values * 3)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(low, median, high)
