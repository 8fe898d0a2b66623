"""Logs for MLflow, with a stand-in for its client."""

from __future__ import annotations

import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
from study.logs.stand_ins import ERROR, RESULT, first_round

from adamomentum.study.logs import writer
from adamomentum.study.logs.base import settings


class Client:
    """What it is told, and the experiments that there are."""

    def __init__(self) -> None:
        self.told: list[tuple] = []
        self.experiments: dict[str, str] = {}

    def get_experiment_by_name(self, name):
        there = self.experiments.get(name)
        return None if there is None else SimpleNamespace(experiment_id=there)

    def create_experiment(self, name) -> str:
        self.experiments[name] = str(len(self.experiments))
        return self.experiments[name]

    def create_run(self, experiment_id, run_name, tags):
        self.told.append(("run", experiment_id, run_name, tags))
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def log_param(self, run_id, key, value) -> None:
        self.told.append(("param", run_id, key, value))

    def log_batch(self, run_id, metrics) -> None:
        self.told.append(("batch", run_id, [(m.key, m.value, m.step) for m in metrics]))
        assert all(abs(m.timestamp / 1000 - time.time()) < 60 for m in metrics)

    def set_tag(self, run_id, key, value) -> None:
        self.told.append(("tag", run_id, key, value))

    def set_terminated(self, run_id, status) -> None:
        self.told.append(("terminated", run_id, status))


@pytest.fixture
def client(monkeypatch) -> Client:
    client, module = Client(), ModuleType("mlflow")
    module.MlflowClient = lambda: client
    module.entities = SimpleNamespace(
        Metric=lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return client


def test_a_trial_is_a_run_of_the_studys_experiment(client, tmp_path) -> None:
    client.experiments["another"] = "0"
    _, (trial, *_) = first_round()
    log = writer("mlflow", tmp_path, "mini").open(trial)
    log.point(3, {"train_loss": 1.0, "val_loss": 0.75})
    log.point(6, {"val_loss": 0.25})
    log.end(RESULT)
    assert client.told == [
        ("run", "1", f"one {trial.optimizer} {trial.role}", {"trial": trial.spec.trial_id}),
        *[("param", "r", key, value) for key, value in settings(trial).items()],
        ("batch", "r", [("train_loss", 1.0, 3), ("val_loss", 0.75, 3)]),
        ("batch", "r", [("val_loss", 0.25, 6)]),
        ("batch", "r", [("final/val_loss", 0.25, 6), ("final/test_loss", 0.5, 6)]),
        ("tag", "r", "status", "ok"),
        ("terminated", "r", "FINISHED"),
    ]


def test_the_experiment_is_made_once_and_ends_are_told_apart(client, tmp_path) -> None:
    _, (trial, *_) = first_round()
    client.create_experiment("mini")
    flow = writer("mlflow", tmp_path, "mini")
    flow.open(trial).end(ERROR)
    flow.open(trial).close()
    assert client.experiments == {"mini": "0"}
    assert [said[2] for said in client.told if said[0] == "terminated"] == ["FAILED", "KILLED"]
