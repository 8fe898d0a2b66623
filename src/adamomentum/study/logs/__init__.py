"""Learning curves of a run in the tools that show them as it goes on: TensorBoard, Weights & Biases, MLflow.

One process writes them all, the one that runs the study: from where trials say they stand, and from their results. So
trials are the same with and without, and their machines need none of those packages.
"""

from __future__ import annotations

from pathlib import Path

from adamomentum.study.logs.base import Writer

NAMES = ("tensorboard", "wandb", "mlflow")


def writer(name: str, root: Path, study: str) -> Writer:
    """Return what writes by a package of this name.

    Args:
        name: one of ``NAMES``.
        root: the study's folder.
        study: its name.

    Raises:
        ModuleNotFoundError: if the package is not installed.
        ValueError: if there is no such name.
    """
    if name == "tensorboard":
        from adamomentum.study.logs.tensorboard import TensorBoard

        return TensorBoard(root)
    if name == "wandb":
        from adamomentum.study.logs.wandb import WeightsAndBiases

        return WeightsAndBiases(root, study)
    if name == "mlflow":
        from adamomentum.study.logs.mlflow import MLflow

        return MLflow(root, study)
    raise ValueError(f"unknown --log-to {name!r}; allowed: {', '.join(NAMES)}")
