"""Experiments side by side; what becomes of one that breaks down is in test_cli.py."""

from __future__ import annotations

import time

import pytest
from theory.faults import ON_DEMAND

from adamomentum.theory import experiments
from adamomentum.theory.run import run_all


@pytest.mark.slow
def test_an_interrupt_does_not_wait_for_what_is_under_way() -> None:
    running = run_all({name: ON_DEMAND[name] for name in ("good", "sleeps")}, "quick", 0, 2)
    assert next(running)[0] == "good"
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 120  # of 600 s


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_workers() -> None:
    """Nor on which experiments run beside."""
    known = experiments.by_name()
    one = dict(run_all({"algorithm": known["algorithm"]}, "quick", 3, 1))
    two = dict(run_all({name: known[name] for name in ("startup", "algorithm")}, "quick", 3, 2))
    assert set(two) == {"startup", "algorithm"}
    assert one["algorithm"][0].data == two["algorithm"][0].data
