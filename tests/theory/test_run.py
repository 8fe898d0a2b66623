"""Experiments side by side; what becomes of one that breaks down is in test_cli.py."""

from __future__ import annotations

import time

import pytest
from theory.faults import ON_DEMAND

from adamomentum.theory import experiments
from adamomentum.theory.run import run_all, run_experiment


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
    algorithm = experiments.by_name()["algorithm"]
    here = run_experiment("algorithm", algorithm, "quick", 3)
    there = dict(run_all({"good": ON_DEMAND["good"], "algorithm": algorithm}, "quick", 3, 2))
    assert set(there) == {"good", "algorithm"}
    assert there["algorithm"][0].data == here[0].data
