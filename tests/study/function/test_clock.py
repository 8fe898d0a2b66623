"""The time of a step, where the loop is the user's."""

from __future__ import annotations

import pytest
import torch

from adamomentum.study.tasks.function.clock import MOST, StepClock

CPU = torch.device("cpu")


@pytest.fixture
def time_is(monkeypatch):
    """Sets the clock."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def test_the_median_of_the_times_between_steps(time_is) -> None:
    clock = StepClock(CPU)
    for step, seconds in enumerate([5.0, 6.0, 7.0, 20.0, 21.0], start=1):
        time_is(seconds)
        clock.tick(step)
    assert clock.seconds() == 1.0


def test_an_evaluation_is_off_the_clock_and_several_steps_are_one_time(time_is) -> None:
    clock = StepClock(CPU)
    time_is(1.0)
    clock.tick(1)
    clock.pause()
    time_is(50.0)
    clock.tick(2)
    time_is(58.0)
    clock.tick(6)
    assert clock.seconds() == 2.0


def test_where_each_step_is_followed_by_something_else_that_counts_too(time_is) -> None:
    clock = StepClock(CPU)
    assert clock.seconds() == 0.0
    for step in (1, 2):
        time_is(3.0 * step)
        clock.tick(step)
        clock.pause()
    assert clock.seconds() == 3.0


def test_not_more_is_kept_than_is_needed(time_is) -> None:
    clock = StepClock(CPU)
    for step in range(1, MOST + 500):
        time_is(float(step))
        clock.tick(step)
    assert len(clock._pairs) == MOST


def test_on_a_device_that_works_behind_the_loop_its_own_times_count(monkeypatch) -> None:
    """CUDA's events, here made up: recorded at once, read after the device has come to the end."""
    times, waited = iter(range(0, 1000, 5)), []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(times)

        def elapsed_time(self, end: Event) -> float:
            assert waited
            return float(end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    clock = StepClock(torch.device("cuda"))
    for step in range(1, 4):
        clock.tick(step)
    assert not waited
    assert clock.seconds() == 0.005


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    clock, a = StepClock(torch.device("cuda")), torch.ones(2000, 2000, device="cuda")
    for step in range(1, 20):
        a = (a @ a).clamp(0, 1)
        clock.tick(step)
    assert 0 < clock.seconds() < 1
