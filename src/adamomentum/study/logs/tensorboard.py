"""Logs for TensorBoard: ``tensorboard --logdir FOLDER/tensorboard``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from adamomentum.study.logs.base import Log, final, settings
from adamomentum.study.stages import Planned
from adamomentum.study.trial import TrialResult

WITHOUT_TENSORFLOW = "tensorboard.compat.notf"


class TensorBoard:
    """Writes a folder a trial, ``tensorboard/TASK/OPTIMIZER/ID``.

    Args:
        root: the study's folder.

    Raises:
        ModuleNotFoundError: if TensorBoard is not installed.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "tensorboard"
        # TensorBoard writes as well without TensorFlow, which takes seconds to import where it is installed, and may
        # end the process where its LLVM meets another one; a module of this name is how it is told to do without.
        sys.modules.setdefault(WITHOUT_TENSORFLOW, ModuleType(WITHOUT_TENSORFLOW))
        self._module: Any = import_module("torch.utils.tensorboard")
        self.folder.mkdir(parents=True, exist_ok=True)

    def open(self, trial: Planned) -> Log:
        """Begin a folder; what an interrupted attempt has left there goes."""
        folder = self.folder / trial.task / trial.optimizer / trial.spec.trial_id
        left = list(folder.glob("events.out.tfevents.*"))
        for path in left:
            path.unlink()
        # A TensorBoard that has read them already is told to forget them.
        return _Log(self._module.SummaryWriter(log_dir=str(folder), purge_step=0 if left else None), trial)


class _Log:
    def __init__(self, writer: Any, trial: Planned) -> None:
        self._writer, self._trial = writer, trial

    def point(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # who looks wants to see it now

    def end(self, result: TrialResult) -> None:
        self._writer.add_text("status", result.status if result.status != "error" else result.last_line)
        # Under names of their own, or they would be drawn into the curves. "." is the trial's own folder.
        metrics = {f"final/{name}": value for name, value in final(result).items()}
        self._writer.add_hparams(settings(self._trial), metrics, run_name=".")
        self.close()

    def close(self) -> None:
        self._writer.close()
