"""Measuring one workload: sets up its optimizers on the same tensors, then times them.

Tested in tests/bench/test_peers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from adamomentum.bench.memory import peak_bytes, state_bytes
from adamomentum.bench.peers import Contestant, Unavailable, contestants, reason
from adamomentum.bench.tensors import SharedTensors
from adamomentum.bench.timing import Step, clock_for, rounds_of
from adamomentum.bench.workloads import Workload

__all__ = ["Measured", "Settings", "Times", "measure"]


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        device: CPU or CUDA.
        threads: the numbers of threads, each measured in turn.
        rounds: how often each optimizer is timed.
        allocations: on how many fresh sets of tensors all of that is repeated.
        seconds: about how long the reference is stepped each time.
    """

    device: torch.device
    threads: tuple[int, ...]
    rounds: int = 15
    allocations: int = 1
    seconds: float = 0.02


@dataclass
class Times:
    """Seconds of one optimizer's steps, and their ratios to the reference in the same round."""

    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


@dataclass
class Measured:
    """What was found for one workload.

    Attributes:
        workload: what was stepped.
        names: the contestants, the reference first.
        times: by number of threads and contestant.
        state: bytes of state a parameter, by contestant.
        peak: bytes a parameter that a step holds on top, by contestant.
        separate: contestants whose state has a form of its own, so that they could not use the shared moments.
        missing: why a contestant did not take part.
    """

    workload: Workload
    names: list[str]
    times: dict[int, dict[str, Times]]
    state: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)
    separate: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def measure(workload: Workload, settings: Settings, say: Callable[[str], None] = lambda text: None) -> Measured:
    """Measure all contestants on one workload.

    Args:
        workload: what is stepped.
        settings: how to measure.
        say: is told what goes on.

    Raises:
        Unavailable: if the reference itself does not work here.
    """
    entrants = contestants(workload.group)
    result = Measured(workload, [c.name for c in entrants], {threads: {} for threads in settings.threads})
    before = torch.get_num_threads()
    try:
        for allocation in range(settings.allocations):
            shared = SharedTensors(workload.shapes, settings.device, seed=allocation)
            steps = _enter(entrants, shared, result, settings.device)
            for threads in settings.threads:
                again = f", memory {allocation + 1} of {settings.allocations}" if settings.allocations > 1 else ""
                say(f"{workload.key}, {threads} thread{'s' * (threads > 1)}{again}: {settings.rounds} rounds")
                torch.set_num_threads(threads)
                clock = clock_for(settings.device, threads)
                times = rounds_of(steps, result.names[0], clock, settings.rounds, settings.seconds)
                for name, seconds in times.items():
                    kept = result.times[threads].setdefault(name, Times())
                    kept.seconds += seconds
                    # Whoever sits out rounds sits out the last ones.
                    kept.ratios += [s / r for s, r in zip(seconds, times[result.names[0]], strict=False)]
    finally:
        torch.set_num_threads(before)
    return result


def _enter(
    entrants: tuple[Contestant, ...], shared: SharedTensors, result: Measured, device: torch.device
) -> dict[str, Step]:
    """Make each contestant's step, and note its memory or what keeps it out."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in shared.grads])).item()
    originals = [g.clone() for g in shared.grads] if any(c.clip for c in entrants) else []
    steps = {}
    for contestant in entrants:
        name = contestant.name
        if name in result.missing:  # in the allocation before
            continue
        try:
            optimizer = contestant.create(shared.params)
            step = _step_of(contestant, optimizer, shared, norm / 2, originals)
            try:
                optimizer.step()  # creates the state
                held = state_bytes(optimizer)
                if not shared.lend_moments(optimizer) and name not in result.separate:
                    result.separate.append(name)
                if step.before is not None:
                    step.before()
                step.run()
                peak = peak_bytes(step.run, device)
            except Exception as error:
                raise Unavailable(f"failed: {reason(error)}") from error
        except Unavailable as error:
            if name == result.names[0]:
                raise
            result.missing[name] = str(error)
            continue
        result.state[name] = held / shared.numel
        result.peak[name] = peak / shared.numel
        steps[name] = step
    return steps


def _step_of(
    contestant: Contestant, optimizer: Optimizer, shared: SharedTensors, max_norm: float, originals: list[torch.Tensor]
) -> Step:
    if contestant.clip is None:
        return Step(optimizer.step)
    if contestant.clip == "own":
        own = getattr(optimizer, "clip_grad_norm_", None)
        if own is None:
            raise Unavailable("not available: this version has no AdaMomentum.clip_grad_norm_")
        clip: Callable[[], object] = lambda: own(max_norm)
    else:
        clip = lambda: clip_grad_norm_(shared.params, max_norm)

    def run() -> None:
        clip()
        optimizer.step()

    # Clipped once, gradients would never exceed max_norm again.
    return Step(run, before=lambda: torch._foreach_copy_(shared.grads, originals))
