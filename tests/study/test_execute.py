from __future__ import annotations

import multiprocessing
import time

import pytest
from study.worker_functions import misbehave, report_pid

from adamomentum.study.execute.local import LocalExecutor


def results(executor, specs):
    return {spec.replicate: result for spec, result in executor.run(specs)}


def test_one_trial_that_raises_and_one_that_kills_its_worker(make_spec) -> None:
    data = {1: "raise", 2: "die"}
    with LocalExecutor(data, workers=2, run=misbehave) as executor:
        found = results(executor, [make_spec(replicate=k) for k in range(6)])
        assert sorted(found) == list(range(6))
        assert {k for k, r in found.items() if r.status == "ok"} == {0, 3, 4, 5}
        assert "RuntimeError: replicate 1 is bad" in found[1].error
        assert "misbehave" in found[1].error
        assert "worker process died" in found[2].error
        # The same executor goes on with the next stage.
        assert results(executor, [make_spec(replicate=9)])[9].status == "ok"


def test_a_worker_that_dies_once_is_no_failure(make_spec, tmp_path) -> None:
    data = {0: f"die once {tmp_path / 'marker'}"}
    with LocalExecutor(data, workers=1, run=misbehave) as executor:
        assert results(executor, [make_spec(replicate=0)])[0].status == "ok"


def test_trials_are_taken_only_as_workers_become_free(make_spec) -> None:
    taken = []

    def specs():
        for k in range(5):
            taken.append(k)
            yield make_spec(replicate=k)

    with LocalExecutor({}, workers=1, run=misbehave) as executor:
        run = executor.run(specs())
        next(run)
        assert taken == [0]
        assert len(list(run)) == 4


def test_leaving_stops_the_workers_at_once(make_spec) -> None:
    before = set(multiprocessing.active_children())
    with LocalExecutor(0.0, workers=1, run=report_pid) as executor:
        first, second = (results(executor, [make_spec()])[0].final["pid"] for _ in range(2))
        assert first == second  # the worker persists
    assert set(multiprocessing.active_children()) == before
    slow = LocalExecutor(60.0, workers=1, run=report_pid)
    slow._submit(make_spec())
    start = time.monotonic()
    slow.close()
    assert time.monotonic() - start < 30  # the trial under way would take 60
    assert set(multiprocessing.active_children()) == before


def test_workers_must_be_positive() -> None:
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        LocalExecutor(None, workers=0)
