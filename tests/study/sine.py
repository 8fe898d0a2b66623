"""A family of a user's own that keeps all promises: a network learns a noisy sine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from adamomentum.study.data.base import fingerprint_of, hold_out
from adamomentum.study.tasks import Family, Metric
from adamomentum.study.tasks.base import Batches, Run, Task, Update
from adamomentum.study.tasks.settings import Count, Settings


class SineSettings(Settings):
    width: Count = 8


@dataclass
class Points:
    x: dict[str, np.ndarray]
    y: dict[str, np.ndarray]
    name: str = "sine"

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.x, self.y)

    def describe(self) -> str:
        return f"{self.name}: {len(self.y['train'])} points to learn from"


class SineRun(Run):
    def __init__(self, context) -> None:
        self.context, data = context, context.data
        width = SineSettings.of(context.params).width
        self.x = {split: torch.from_numpy(x).to(context.device) for split, x in data.x.items()}
        self.y = {split: torch.from_numpy(y).to(context.device) for split, y in data.y.items()}
        layers = nn.Linear(1, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 1)
        self.model = nn.Sequential(*layers).to(context.device)
        self.trained = context.parallel(self.model)
        self.update = Update(context, self.model)
        self.batches = Batches(len(self.y["train"]), context.budget.batch_size, context.generator("order"))
        self.total_steps = context.budget.total_steps(self.batches.per_epoch)

    def parts(self):
        return {"model": self.model, "update": self.update, "batches": self.batches}

    def loss(self, model, x, y):
        with self.context.autocast():
            return F.mse_loss(model(x).float(), y)

    def step(self) -> float:
        rows = self.context.share(self.batches.next()).to(self.context.device)
        self.trained.train()
        loss = self.loss(self.trained, self.x["train"][rows], self.y["train"][rows])
        self.update(loss)
        return loss.item()

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        self.model.eval()
        return {"loss": self.loss(self.model, self.x[split], self.y[split]).item()}


class Sine(Task):
    family = Family(version=3, metrics=(Metric("loss", "mean squared error", "lower", digits=4),))

    def load(self, params, source):
        SineSettings.of(params)
        rng = np.random.default_rng(0)
        x = rng.uniform(-3, 3, (60, 1)).astype(np.float32)
        y = (np.sin(x) + 0.1 * rng.normal(size=x.shape)).astype(np.float32)
        rows = hold_out(48, 12)
        parts = {**rows, "test": np.arange(48, 60)}
        return Points(
            {split: x[part] for split, part in parts.items()}, {split: y[part] for split, part in parts.items()}
        )

    def baselines(self, data):
        return {"mean": {"test_loss": float(np.mean((data.y["test"] - data.y["train"].mean()) ** 2))}}

    def setup(self, context) -> SineRun:
        return SineRun(context)
