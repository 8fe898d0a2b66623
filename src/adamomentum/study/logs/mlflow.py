"""Logs for MLflow, a run a trial; where they lie ``MLFLOW_TRACKING_URI`` says, or MLflow itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from adamomentum.study.logs.base import Log, final, settings
from adamomentum.study.stages import Planned
from adamomentum.study.trial import TrialResult


class MLflow:
    """Writes runs of an experiment named as the study; an interrupted attempt stays as a run that was killed.

    Args:
        root: the study's folder.
        study: its name.

    Raises:
        ModuleNotFoundError: if MLflow is not installed.
    """

    def __init__(self, root: Path, study: str) -> None:
        self.folder = root / "mlflow"
        self._study = study
        self._module: Any = import_module("mlflow")
        self._client: Any = None
        self._experiment = ""
        self.folder.mkdir(parents=True, exist_ok=True)

    def open(self, trial: Planned) -> Log:
        """Begin a run."""
        if self._client is None:  # not before: it may ask a server
            client = self._module.MlflowClient()
            experiment = client.get_experiment_by_name(self._study)
            self._experiment = client.create_experiment(self._study) if experiment is None else experiment.experiment_id
            self._client = client
        name = f"{trial.task} {trial.optimizer} {trial.role}"
        run = self._client.create_run(self._experiment, run_name=name, tags={"trial": trial.spec.trial_id})
        for key, value in settings(trial).items():
            self._client.log_param(run.info.run_id, key, value)
        return _Log(self._module.entities.Metric, self._client, run.info.run_id)


class _Log:
    def __init__(self, metric: Any, client: Any, run: str) -> None:
        self._metric, self._client, self._run = metric, client, run
        self._step = 0

    def point(self, step: int, values: Mapping[str, float]) -> None:
        self._step, now = step, round(1000 * time.time())  # MLflow counts in milliseconds
        self._client.log_batch(
            self._run, metrics=[self._metric(name, value, now, step) for name, value in values.items()]
        )

    def end(self, result: TrialResult) -> None:
        # Under names of their own: those of the curve go by the same ones.
        self.point(self._step, {f"final/{name}": value for name, value in final(result).items()})
        self._client.set_tag(self._run, "status", result.status)
        self._client.set_terminated(self._run, "FAILED" if result.status == "error" else "FINISHED")

    def close(self) -> None:
        self._client.set_terminated(self._run, "KILLED")
