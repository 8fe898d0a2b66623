"""Logs for Weights & Biases, with a stand-in for its package: no test has an account or a network."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from study.logs.stand_ins import ERROR, RESULT, first_round

from adamomentum.study.logs import writer
from adamomentum.study.logs.base import settings


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    told: list[tuple] = []

    class Summary:
        def update(self, values) -> None:
            told.append(("summary", values))

    class Run:
        summary = Summary()

        def log(self, values, step) -> None:
            told.append(("log", values, step))

        def finish(self, exit_code) -> None:
            told.append(("finish", exit_code))

    def init(**options) -> Run:
        told.append(("init", options))
        return Run()

    module = ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return told


def test_a_trial_is_a_run_that_an_interrupted_one_goes_on_as(calls, tmp_path) -> None:
    _, (trial, *_) = first_round()
    weights = writer("wandb", tmp_path, "mini")
    assert weights.folder == tmp_path / "wandb"
    assert weights.folder.is_dir()
    log = weights.open(trial)
    log.point(3, {"train_loss": 1.0, "val_loss": 0.75})
    log.end(RESULT)
    assert calls == [
        (
            "init",
            {
                "project": "mini",
                "id": trial.spec.trial_id,
                "name": f"one {trial.optimizer} {trial.role} lr={trial.spec.optimizer.lr:g}",
                "group": "one",
                "job_type": trial.role,
                "config": settings(trial),
                "dir": str(tmp_path),
                "resume": "allow",
                "reinit": "create_new",
                "settings": {"silent": True, "console": "off"},
            },
        ),
        ("log", {"train_loss": 1.0, "val_loss": 0.75}, 3),
        ("summary", {"status": "ok", "val_loss": 0.25, "test_loss": 0.5}),
        ("finish", 0),
    ]


def test_the_project_of_the_environment_and_how_runs_end_badly(calls, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    _, (trial, *_) = first_round()
    weights = writer("wandb", tmp_path, "mini")
    weights.open(trial).end(ERROR)
    weights.open(trial).close()
    assert [call[1]["project"] for call in calls if call[0] == "init"] == ["ours", "ours"]
    assert [call[1] for call in calls if call[0] == "finish"] == [1, 1]
