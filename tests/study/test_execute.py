from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from study.arrays import make_arrays
from study.worker_functions import hold, misbehave, report_pid

from adamomentum.study import trial, work
from adamomentum.study.execute.local import LocalExecutor
from adamomentum.study.spec import TaskSpec
from adamomentum.study.work import Setup, run_planned


def results(executor, specs):
    return {spec.replicate: result for spec, result in executor.run(specs)}


def test_one_trial_that_raises_and_one_that_kills_its_worker(make_spec) -> None:
    data = {1: "raise", 2: "die", 3: "leave"}
    with LocalExecutor(data, workers=2, run=misbehave) as executor:
        by_replicate = results(executor, [make_spec(replicate=k) for k in range(6)])
        assert sorted(by_replicate) == list(range(6))
        assert {k for k, r in by_replicate.items() if r.status == "ok"} == {0, 4, 5}
        assert "RuntimeError: replicate 1 is bad" in by_replicate[1].error
        assert "misbehave" in by_replicate[1].error
        assert by_replicate[3].last_line == "KeyboardInterrupt"
        assert "worker process died" in by_replicate[2].error
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


def test_a_worker_computes_in_one_thread_and_holds_the_data_of_two_tasks(tmp_path, make_spec, monkeypatch) -> None:
    sources = []
    for k in range(3):
        path = tmp_path / f"{k}.npz"
        np.savez(path, x=make_arrays()[0] // (k + 1), y=make_arrays()[1])
        sources.append(path)
    threads = []
    monkeypatch.setattr(trial, "_train", lambda *args: threads.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for path in sources:
            setup = Setup({"folder": path})
            data = work.load("image-classification", {"data": "folder"}, setup.sources)
            params = TaskSpec(
                family="image-classification",
                version=2,
                data_fingerprint=data.fingerprint,
                params={"data": "folder"},
            )
            run_planned(make_spec().model_copy(update={"task": params}), setup)
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 1, 1]
    assert work._load.cache_info().currsize == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_trial_that_wants_too_much_memory_fails_alone(make_spec) -> None:
    with LocalExecutor(2**30, workers=1, run=hold) as executor:
        by_replicate = results(executor, [make_spec(replicate=k) for k in (0, 2, 0)])
        by_replicate |= results(executor, [make_spec(replicate=0)])
    assert {k: r.status for k, r in by_replicate.items()} == {0: "ok", 2: "error"}
    assert "allocate memory" in by_replicate[2].error


def test_workers_must_be_positive() -> None:
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        LocalExecutor(None, workers=0)


@pytest.mark.slow
def test_ray_starts_a_trial_again_whose_worker_died(make_spec, tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")
    from adamomentum.study.execute.ray import RayExecutor

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # for what its workers are to do
    data = {0: f"die once {tmp_path / 'marker'}", 1: "die", 2: "raise"}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with RayExecutor(data, workers=2, run=misbehave) as executor:
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler  # not Ray's own
            by_replicate = results(executor, [make_spec(replicate=k) for k in range(5)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "marker").exists()
    assert {k for k, r in by_replicate.items() if r.status == "ok"} == {0, 3, 4}
    assert "died" in by_replicate[1].error
    assert "RuntimeError: replicate 2 is bad" in by_replicate[2].error
