"""A language small enough to learn in a test, trials on it, and checkpoints at a chosen step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from adamomentum.study import registry
from adamomentum.study.checkpoint import Checkpoints
from adamomentum.study.data.text import TextData
from adamomentum.study.spec import Budget, ConstantSchedule, TaskSpec, TrialSpec
from adamomentum.study.tasks.base import Context

WORDS = ("<unk>", "<eos>", *"abcdefgh")
SMALL = {"embedding": 12, "hidden": 16, "bptt": 10, "eval_streams": 1}
REGULARIZED = {"data": "ptb", "layers": 2, **SMALL}
"""AWD-LSTM's dropouts, penalties and random lengths, on a small network."""


def sentences(count: int, seed: int) -> np.ndarray:
    """Returns runs through the alphabet, forwards or backwards: which way, only the word before last tells."""
    rng = np.random.default_rng(seed)
    tokens: list[int] = []
    for _ in range(count):
        run = (rng.integers(8) + np.arange(8) * rng.choice([1, -1])) % 8 + 2
        tokens += [*run.tolist(), 1]
    return np.array(tokens, dtype=np.int32)


def tiny_text(train: int = 80) -> TextData:
    return TextData("tiny", WORDS, {"train": sentences(train, 0), "val": sentences(12, 1), "test": sentences(15, 2)})


def make_spec(
    data: TextData,
    optimizer: str = "adamomentum",
    lr: float = 3e-3,
    params: dict[str, Any] | None = None,
    **fields: Any,
) -> TrialSpec:
    return TrialSpec(
        **{
            "stage": "final",
            "task": TaskSpec(
                family="language-model",
                version=1,
                data_fingerprint=data.fingerprint,
                params=dict(SMALL if params is None else params),
            ),
            "optimizer": registry.get(optimizer).spec(lr),
            "schedule": ConstantSchedule(name="constant"),
            "budget": Budget(steps=12, batch_size=4, evaluations=3),
            "replicate": 0,
            **fields,
        }
    )


def make_context(data: TextData, params: dict[str, Any], lr: float = 0.1, batch_size: int = 4) -> Context:
    torch.manual_seed(0)
    return Context(
        data=data,
        params=params,
        budget=Budget(epochs=1, batch_size=batch_size),
        device=torch.device("cpu"),
        seed=lambda role: 0,
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
    )


class CheckpointAt(Checkpoints):
    """Keeps the state at step ``at`` and leaves a file that says which process went on from where."""

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__(folder)
        self.at = at

    def due(self) -> bool:
        return True

    def save(self, spec, run, log, group) -> None:
        if log.step == self.at:
            super().save(spec, run, log, group)

    def load(self, spec, run, rank=0):
        log = super().load(spec, run, rank)
        if log is not None:
            (self.folder / f"rank {rank} from step {log.step}").touch()
        return log
