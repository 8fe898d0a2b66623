"""A run is logged as it goes on: each point once, each trial to its end, whatever the writer does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from study.logs.stand_ins import ERROR, RESULT, first_round
from study.standings import of

from adamomentum.study.logs import follow
from adamomentum.study.logs.base import final, settings
from adamomentum.study.logs.follow import FINISHED, Follower
from adamomentum.study.stages import Planned
from adamomentum.study.trial import TrialResult


class Recorder:
    """A writer that takes down what it is told."""

    def __init__(self, folder: Path, fails: str = "") -> None:
        self.folder, self.fails = folder, fails
        self.said: list[tuple] = []
        folder.mkdir(exist_ok=True)

    def open(self, trial: Planned):
        self.said.append(("open", trial.spec.trial_id))
        return _Log(self, trial.spec.trial_id)


class _Log:
    def __init__(self, recorder: Recorder, key: str) -> None:
        self.recorder, self.key = recorder, key

    def point(self, step: int, values: Mapping[str, float]) -> None:
        if self.recorder.fails == "point":
            raise ConnectionError("no network")
        self.recorder.said.append(("point", self.key, step, dict(values)))

    def end(self, result: TrialResult) -> None:
        self.recorder.said.append(("end", self.key, result.status))

    def close(self) -> None:
        self.recorder.said.append(("close", self.key))


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(follow, "EVERY", 0.01)


def points(key: str, *which: int) -> list[tuple]:
    values = [{"train_loss": 1.0, "val_loss": 0.75}, {"val_loss": 0.25}]
    return [("point", key, (3, 6)[k], values[k]) for k in which]


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_settings_tell_a_trial_from_others() -> None:
    _, trials = first_round()
    trial = next(t for t in trials if t.optimizer == "adamw" and t.task == "one" and t.role == "default")
    assert settings(trial) == {
        "task": "one",
        "optimizer": "adamw",
        "role": "default",
        "replicate": float(trial.spec.replicate),
        "lr": trial.spec.optimizer.lr,
        "betas": "(0.9, 0.999)",
        "eps": 1e-8,
        "amsgrad": False,
        "weight_decay": trial.spec.optimizer.hyperparameters["weight_decay"],
    }
    assert final(RESULT) == {"val_loss": 0.25, "test_loss": 0.5}


@pytest.mark.usefixtures("quick")
def test_points_come_while_a_trial_runs_and_the_rest_at_its_end(tmp_path) -> None:
    now, (first, second, *_) = first_round()
    a, b = first.spec.trial_id, second.spec.trial_id
    recorder, told = Recorder(tmp_path / "log"), []
    with Follower({"recorder": recorder}, tmp_path / "running", told.append) as follower:
        follower.on_round(now)
        of(tmp_path / "running", a, curve={name: values[:1] for name, values in RESULT.curve.items()})
        of(tmp_path / "running", "f" * 16, curve=RESULT.curve)  # of another plan
        until(lambda: recorder.said == [("open", a), *points(a, 0)])
        follower.on_trial(first, RESULT)
        until(lambda: len(recorder.said) == 4)
        time.sleep(0.05)  # its file is still there: nothing is logged twice
        (tmp_path / "running" / f"{a}.json").unlink()
        of(tmp_path / "running", b)  # no point yet, but it runs
        until(lambda: recorder.said[-1] == ("open", b))
    assert recorder.said == [("open", a), *points(a, 0), *points(a, 1), ("end", a, "ok"), ("open", b), ("close", b)]
    assert (tmp_path / "log" / FINISHED).read_text().split() == [a]
    assert told == []


def test_each_trial_is_logged_once_also_over_several_runs(tmp_path) -> None:
    now, (first, second, third, *_) = first_round()
    a, b, c = (t.spec.trial_id for t in (first, second, third))
    now.results.update({a: RESULT, b: RESULT})

    def run(*ended: tuple[Planned, TrialResult]) -> list[tuple]:
        recorder = Recorder(tmp_path / "log")
        with Follower({"recorder": recorder}, tmp_path / "running", pytest.fail) as follower:
            follower.on_round(now)
            for planned, result in ended:
                follower.on_trial(planned, result)
            follower.on_round(now)
        return recorder.said

    # What was finished before anything was logged is logged from its results.
    whole = [step for key in (a, b) for step in (("open", key), *points(key, 0, 1), ("end", key, "ok"))]
    assert run((third, ERROR)) == [*whole, ("open", c), ("end", c, "error")]
    # A trial that failed runs again.
    assert run((third, RESULT)) == [("open", c), *points(c, 0, 1), ("end", c, "ok")]
    assert run() == []
    (tmp_path / "log" / FINISHED).unlink()
    assert run() == whole


def test_a_writer_that_fails_ends_itself_alone(tmp_path) -> None:
    now, (first, second, *_) = first_round()
    good, bad, told = Recorder(tmp_path / "good"), Recorder(tmp_path / "bad", fails="point"), []
    with Follower({"bad": bad, "good": good}, tmp_path / "running", told.append) as follower:
        follower.on_round(now)
        follower.on_trial(first, RESULT)
        follower.on_trial(second, RESULT)
    assert told == [
        "Warning: --log-to bad failed, nothing more is logged there in this run: ConnectionError('no network')"
    ]
    assert bad.said == [("open", first.spec.trial_id)]
    assert [said[0] for said in good.said] == ["open", "point", "point", "end"] * 2
    assert not (tmp_path / "bad" / FINISHED).exists()


def test_nothing_is_started_where_nothing_is_logged(tmp_path) -> None:
    with Follower({}, tmp_path, pytest.fail) as follower:
        assert follower._thread is None
