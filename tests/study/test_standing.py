"""Where a trial under way stands: what is written, when, and until when it counts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from study.function.functions import STUDY, changed, script, spec_of
from study.standings import of

from adamomentum.study import standing, trial
from adamomentum.study.checkpoint import Checkpoints
from adamomentum.study.group import Group
from adamomentum.study.standing import Standing, Teller, clear, standings
from adamomentum.study.trial import run_trial


@pytest.fixture
def eager(monkeypatch) -> list[Standing]:
    """Each step is written; what was, in order."""
    monkeypatch.setattr(standing, "FIRST", 0.0)
    monkeypatch.setattr(standing, "EVERY", 0.0)
    lines, write = [], standing.write_atomic

    def kept(path: Path, content: bytes) -> None:
        write(path, content)
        lines.append(Standing.model_validate_json(path.read_bytes()))

    monkeypatch.setattr(standing, "write_atomic", kept)
    return lines


def test_a_trial_says_each_step_and_leaves_nothing(eager, make_spec, tiny_data, tmp_path) -> None:
    spec = make_spec()
    silent = run_trial(spec, tiny_data)
    assert not eager
    result = run_trial(spec, tiny_data, running=tmp_path / "running")
    assert (result.final, result.curve) == (silent.final, silent.curve)
    steps = result.curve["step"][-1]
    assert [each.step for each in eager] == list(range(1, int(steps) + 1))
    assert {(each.trial_id, each.process, each.machine, each.steps) for each in eager} == {
        (spec.trial_id, os.getpid(), socket.gethostname(), steps)
    }
    # The loss of each step: their mean between two points is what the curve has.
    half = int(result.curve["step"][0])
    assert result.curve["train_loss"][0] == pytest.approx(sum(each.loss for each in eager[:half]) / half)
    assert eager[half - 2].curve == {"step": [], "train_loss": []}
    assert eager[half].curve == {name: values[:1] for name, values in result.curve.items()}
    assert eager[-1].curve == result.curve
    assert eager[0].seconds_per_step is None
    assert all(each.seconds_per_step > 0 for each in eager[1:])
    assert list((tmp_path / "running").iterdir()) == []


def test_of_several_processes_the_first_says_it(eager, monkeypatch, make_spec, tiny_data, tmp_path) -> None:
    monkeypatch.setattr(trial.Group, "of_this_process", lambda spec: Group(torch.device("cpu"), rank=1))
    run_trial(make_spec(), tiny_data, running=tmp_path / "running")
    assert eager == []


def test_a_short_trial_writes_nothing(make_spec, tiny_data, tmp_path) -> None:
    run_trial(make_spec(), tiny_data, running=tmp_path / "running")
    assert not (tmp_path / "running").exists()


def test_a_folder_that_cannot_be_written_to_ends_no_trial(monkeypatch, make_spec, tiny_data, tmp_path) -> None:
    monkeypatch.setattr(standing, "FIRST", 0.0)
    (tmp_path / "running").write_text("a file")
    assert run_trial(make_spec(), tiny_data, running=tmp_path / "running").status == "ok"


def test_a_trial_that_fails_leaves_nothing(eager, tmp_path) -> None:
    text = changed(
        ("        trial.report", "        if trial.step == 10: raise KeyError('boom')\n        trial.report")
    )
    data = script(tmp_path, text)
    with pytest.raises(KeyError, match="boom"):
        run_trial(spec_of(data), data, running=tmp_path / "running")
    assert eager[-1].step == 10
    assert list((tmp_path / "running").iterdir()) == []


def test_a_function_of_the_users_own_says_its_steps_and_reports(eager, tmp_path) -> None:
    data = script(tmp_path)
    result = run_trial(spec_of(data), data, running=tmp_path / "running")
    # Each of ten steps, and the reports behind the fifth and the tenth.
    assert [each.step for each in eager] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]
    assert {each.steps for each in eager} == {None}
    assert eager[4].curve == {"step": [], "train_loss": []}
    assert eager[5].curve == {name: values[:1] for name, values in result.curve.items()}
    assert eager[-1].curve == result.curve
    assert list((tmp_path / "running").iterdir()) == []


def test_a_trial_that_goes_on_from_a_checkpoint_counts_from_there(eager, make_spec, tiny_data, tmp_path) -> None:
    """Its pace is of the steps that this process made."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", 0.0)
    run_trial(make_spec(), tiny_data, checkpoints, running=tmp_path / "running")  # leaves one of its last but one step
    last = eager[-1].step
    eager.clear()
    run_trial(make_spec(), tiny_data, checkpoints, running=tmp_path / "running")
    assert [(each.step, each.seconds_per_step) for each in eager] == [(last, None)]


def test_it_is_written_now_and_then(monkeypatch, tmp_path) -> None:
    clock = [100.0]
    monkeypatch.setattr(standing.time, "monotonic", lambda: clock[0])
    written, asked = [], []
    with Teller(tmp_path, "a") as teller:
        for step in range(1, 46):  # a second each
            clock[0] += 1
            teller.at(step, 50, 0.25, lambda: asked.append(1) or {"step": [1.0]})
            if (tmp_path / "a.json").exists():
                written.append(Standing.model_validate_json((tmp_path / "a.json").read_bytes()).step)
    assert sorted(set(written)) == [5, 20, 35]
    assert len(asked) == 3
    assert not (tmp_path / "a.json").exists()


def test_a_first_step_that_took_long_is_written_at_once_and_the_pace_soon_after(monkeypatch, tmp_path) -> None:
    clock = [100.0]
    monkeypatch.setattr(standing.time, "monotonic", lambda: clock[0])
    with Teller(tmp_path, "a") as teller:
        paces = []
        for step, seconds in enumerate((30, 2, 2, 2, 2), 1):
            clock[0] += seconds
            teller.at(step, 50, 0.25, dict)
            paces.append(Standing.model_validate_json((tmp_path / "a.json").read_bytes()).seconds_per_step)
    assert paces == [None, None, None, 2.0, 2.0]


def test_what_is_not_finite_is_no_number(eager, tmp_path) -> None:
    with Teller(tmp_path, "a") as teller:
        teller.at(1, 2, float("nan"), dict)
    assert eager[0].loss is None


def test_time_left(tmp_path) -> None:
    assert of(tmp_path).seconds_left() == pytest.approx(60, abs=1)
    assert of(tmp_path, written=time.time() - 20).seconds_left() == pytest.approx(40, abs=1)
    assert of(tmp_path, written=time.time() - 200).seconds_left() == 0
    assert of(tmp_path, written=time.time() + 500).seconds_left() == 60  # another machine's clock is ahead
    assert of(tmp_path, steps=None).seconds_left() is None
    assert of(tmp_path, steps=None).seconds_left(usual=15) == pytest.approx(10, abs=1)
    assert of(tmp_path, seconds_per_step=None).seconds_left(usual=15) is None


def test_only_what_still_runs_counts(tmp_path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = of(tmp_path, "1")
    of(tmp_path, "2", process=gone.pid)
    of(tmp_path, "3", written=time.time() - 2 * standing.OLD)
    there = of(tmp_path, "4", machine="elsewhere", process=gone.pid, written=time.time() - standing.OLD / 2)
    of(tmp_path, "5", machine="elsewhere", written=time.time() - 2 * standing.OLD)
    (tmp_path / "6.json").write_text("{")
    (tmp_path / "7.json").write_text('{"step": 1}')
    assert standings(tmp_path) == {"1": here, "4": there}
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.json", "4.json"]
    for path in tmp_path.iterdir():
        path.unlink()
    clear(tmp_path)
    assert not tmp_path.exists()
    assert standings(tmp_path / "nowhere") == {}


LONG = changed(("            optimizer.step()", "            import time; time.sleep(0.2); optimizer.step()"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_status_shows_trials_that_run_and_none_that_was_killed(tmp_path, executor) -> None:
    if executor == "ray":
        pytest.importorskip("ray")
    (tmp_path / "my_train.py").write_text(LONG)
    (tmp_path / "mine.toml").write_text(STUDY.replace("width = 4", "width = 4, epochs = 200"))
    command = [sys.executable, "-m", "adamomentum", "study"]
    place = ["mine.toml", "--out", "out"]
    options = ["--executor", executor, "--workers", "2"]
    process = subprocess.Popen([*command, "run", *place, *options], cwd=tmp_path, stdout=subprocess.DEVNULL)

    def running() -> list[dict]:
        done = subprocess.run([*command, "status", *place, "--json"], cwd=tmp_path, capture_output=True, text=True)
        return json.loads(done.stdout)["running"] if done.returncode == 0 else []

    try:
        deadline = time.monotonic() + 300
        while len(shown := [row for row in running() if row["validation"] is not None]) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert [(row["task"], row["steps"], row["machine"]) for row in shown] == [
            ("task", None, socket.gethostname())
        ] * 2
        assert all(5 <= row["step"] < 1000 and row["validation"] > 0 for row in shown)
        assert len({row["process"] for row in shown} - {process.pid}) == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 240  # on a busy machine Ray notices late that its driver is gone
    while running():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert len(list((tmp_path / "out" / "running").glob("*.json"))) == 2
