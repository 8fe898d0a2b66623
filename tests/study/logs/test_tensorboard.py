"""Logs for TensorBoard, with a stand-in for its writer, and with itself where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest
from clients import need
from study.logs.stand_ins import ERROR, RESULT, first_round

from adamomentum.study.logs import writer
from adamomentum.study.logs.base import settings

FINAL = {"final/val_loss": 0.25, "final/test_loss": 0.5}


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """What torch's writer is told."""
    told: list[tuple] = []

    class SummaryWriter:
        def __init__(self, **options) -> None:
            told.append(("new", options))

        def __getattr__(self, name):
            return lambda *given, **options: told.append((name, *given, *([options] if options else [])))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return told


def test_a_trial_is_a_folder_with_its_curve_and_its_setting(calls, tmp_path) -> None:
    _, (trial, *_) = first_round()
    log = writer("tensorboard", tmp_path, "mini").open(trial)
    log.point(3, {"train_loss": 1.0, "val_loss": 0.75})
    log.point(6, {"val_loss": 0.25})
    log.end(RESULT)
    folder = tmp_path / "tensorboard" / "one" / trial.optimizer / trial.spec.trial_id
    assert calls == [
        ("new", {"log_dir": str(folder), "purge_step": None}),
        ("add_scalar", "train_loss", 1.0, 3),
        ("add_scalar", "val_loss", 0.75, 3),
        ("flush",),
        ("add_scalar", "val_loss", 0.25, 6),
        ("flush",),
        ("add_text", "status", "ok"),
        ("add_hparams", settings(trial), FINAL, {"run_name": "."}),
        ("close",),
    ]


def test_a_trial_that_failed_says_why(calls, tmp_path) -> None:
    _, (trial, *_) = first_round()
    writer("tensorboard", tmp_path, "mini").open(trial).end(ERROR)
    assert ("add_text", "status", "KeyError: boom") in calls
    assert calls[-1] == ("close",)


def test_an_interrupted_attempt_is_forgotten(calls, tmp_path) -> None:
    _, (trial, *_) = first_round()
    folder = tmp_path / "tensorboard" / "one" / trial.optimizer / trial.spec.trial_id
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1.host.2.0").write_text("")
    (folder / "notes.txt").write_text("")
    writer("tensorboard", tmp_path, "mini").open(trial)
    assert calls == [("new", {"log_dir": str(folder), "purge_step": 0})]
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_tensorboard_reads_what_was_written(tmp_path) -> None:
    need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, (trial, *_) = first_round()
    board = writer("tensorboard", tmp_path, "mini")
    for value in (9.0, 0.75):  # the second attempt takes the place of the first
        log = board.open(trial)
        log.point(3, {"val_loss": value})
        log.close()
    log = board.open(trial)
    log.point(3, {"val_loss": 0.75})
    log.point(6, {"val_loss": 0.25})
    log.end(RESULT)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "one" / trial.optimizer / trial.spec.trial_id))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_loss")] == [(3, 0.75), (6, 0.25)]
    assert [event.value for event in events.Scalars("final/test_loss")] == [0.5]


def test_tensorflow_is_not_imported(tmp_path) -> None:
    need("tensorboard")
    code = (
        "import pathlib, sys; from study.logs.stand_ins import RESULT, first_round; "
        "from adamomentum.study.logs import writer; "
        "writer('tensorboard', pathlib.Path(sys.argv[1]), 'mini').open(first_round()[1][0]).end(RESULT); "
        "assert 'tensorflow' not in sys.modules"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "PYTHONPATH": paths})
    assert list(tmp_path.rglob("events.out.tfevents.*"))
