"""Logs for Weights & Biases, a run a trial; account, server and mode are as its own environment variables say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from adamomentum.study.logs.base import Log, final, settings
from adamomentum.study.stages import Planned
from adamomentum.study.trial import TrialResult


class WeightsAndBiases:
    """Writes runs of the project ``WANDB_PROJECT``, or else of one named as the study; its files lie in ``wandb/``.

    Args:
        root: the study's folder.
        study: its name.

    Raises:
        ModuleNotFoundError: if wandb is not installed.
    """

    def __init__(self, root: Path, study: str) -> None:
        self._root, self._project = root, os.environ.get("WANDB_PROJECT", study)
        self.folder = root / "wandb"  # where it makes its own files in `dir`
        self._module: Any = import_module("wandb")
        self.folder.mkdir(parents=True, exist_ok=True)

    def open(self, trial: Planned) -> Log:
        """Begin a run, or go on with that of an interrupted attempt: wandb passes over the steps that it has."""
        return _Log(
            self._module.init(
                project=self._project,
                id=trial.spec.trial_id,
                name=f"{trial.task} {trial.optimizer} {trial.role} lr={trial.spec.optimizer.lr:g}",
                group=trial.task,
                job_type=trial.role,
                config=settings(trial),
                dir=str(self._root),
                resume="allow",
                reinit="create_new",  # several trials run at a time; needs wandb 0.19.10
                settings={"silent": True, "console": "off"},
            )
        )


class _Log:
    def __init__(self, run: Any) -> None:
        self._run = run

    def point(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, result: TrialResult) -> None:
        self._run.summary.update({"status": result.status, **final(result)})
        self._run.finish(exit_code=1 if result.status == "error" else 0)

    def close(self) -> None:
        self._run.finish(exit_code=1)
