from __future__ import annotations

import gc

import pytest
import torch

from adamomentum.bench import timing
from adamomentum.bench.bandwidth import stream, stream_elements
from adamomentum.bench.timing import Step, clock_for, order, quartiles, rounds_of


class Ticks:
    """A clock by which each contestant takes a fixed time, and a record of who ran."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.now, self.calls, self.before = 0.0, [], []
        self.steps = {name: Step(lambda n=name: self.run(n, costs[n])) for name in costs}

    def run(self, name: str, cost: float) -> None:
        self.calls.append(name)
        self.now += cost

    def clock(self, run, count: int) -> float:
        start = self.now
        for _ in range(count):
            run()
        return self.now - start


def test_rounds_interleave_and_rotate() -> None:
    ticks = Ticks({"a": 1.0, "b": 2.0, "c": 3.0})
    times = rounds_of(ticks.steps, "a", ticks.clock, rounds=4)
    assert times == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [3.0] * 4}
    assert "".join(ticks.calls) == "abc" * 2 + "abc" + "bca" + "cab" + "abc"
    assert order(["a", "b", "c"], 5) == ["c", "a", "b"]


def test_fast_steps_are_repeated_and_warmed_up_alike() -> None:
    ticks = Ticks({"a": 0.01, "b": 0.02})
    times = rounds_of(ticks.steps, "a", ticks.clock, rounds=2, seconds=0.05)
    assert times == {"a": pytest.approx([0.01] * 2), "b": pytest.approx([0.02] * 2)}
    assert ticks.calls.count("a") == ticks.calls.count("b") == 2 + 2 * (1 + 5)


def test_slow_ones_take_part_in_the_first_rounds_only() -> None:
    ticks = Ticks({"a": 1.0, "slow": 1.0 + timing.SLOW})
    times = rounds_of(ticks.steps, "a", ticks.clock, rounds=9)
    assert [len(t) for t in times.values()] == [9, timing.SLOW_ROUNDS]


def test_what_comes_before_a_step_is_not_timed() -> None:
    ticks = Ticks({"a": 1.0})
    prepared = []

    def prepare() -> None:
        prepared.append(len(ticks.calls))
        ticks.now += 100.0

    times = rounds_of({"a": Step(ticks.steps["a"].run, prepare)}, "a", ticks.clock, rounds=2, seconds=3.0)
    assert times == {"a": [1.0, 1.0]}
    assert prepared == list(range(len(ticks.calls)))


def test_the_collector_is_off_while_timing_and_on_again_after_an_error() -> None:
    seen = []

    def run() -> None:
        seen.append(gc.isenabled())
        if len(seen) == 5:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        rounds_of({"a": Step(run)}, "a", lambda f, count: [f() for _ in range(count)] and 1.0, rounds=5)
    assert seen == [True, True, False, False, False]
    assert gc.isenabled()


def test_clocks(monkeypatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(timing.time, "thread_time", lambda: 10 * next(now))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now))
    assert clock_for(torch.device("cpu"), 1)(lambda: None, 3) == 10
    assert clock_for(torch.device("cpu"), 2)(lambda: None, 3) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_clock() -> None:
    a = torch.ones(1000, 1000, device="cuda")
    assert 0 < clock_for(torch.device("cuda"), 1)(lambda: a @ a, 3) < 10


def test_quartiles() -> None:
    q = quartiles([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (q.low, q.median, q.high) == (2.0, 3.0, 4.0)
    assert quartiles([2.0]).high == 2.0


def test_streaming_counts_the_bytes_of_each_pattern() -> None:
    rates = stream(torch.device("cpu"), lambda run, count: run() is None or 2.0, elements=10)
    assert rates == {"a.copy_(b)": 40.0, "a.mul_(s)": 40.0, "a.add_(b)": 60.0, "a.lerp_(b, s)": 60.0}
    assert stream_elements(torch.device("cpu")) >= 64_000_000
