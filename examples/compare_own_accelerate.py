"""AdamW against AdaMomentum in an Accelerate loop, with two backward passes a step.

adamomentum compare --train examples/compare_own_accelerate.py:train
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train(trial: Any, epochs: int = 3) -> dict[str, float]:
    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=trial.device.type == "cpu")
    x = torch.randn(1200, 8, generator=torch.Generator().manual_seed(0))
    data = x, (x[:, :1] - x[:, 1:2].abs()).tanh()
    parts = [TensorDataset(*(t[rows] for t in data)) for rows in (slice(800), slice(800, 1000), slice(1000, 1200))]
    order = torch.Generator().manual_seed(trial.seed)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = trial.optimizer(model.parameters())  # it was torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 20)
    model, optimizer, schedule, *loaders = accelerator.prepare(
        model, optimizer, schedule, *(DataLoader(p, 20, shuffle=p is parts[0], generator=order) for p in parts)
    )

    @torch.no_grad()
    def evaluate(loader: DataLoader[Any]) -> float:
        return torch.stack([nn.functional.mse_loss(model(x), y) for x, y in loader]).mean().item()

    for _ in range(epochs):
        for inputs, targets in loaders[0]:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        trial.report(loss=evaluate(loaders[1]))
    return {"loss": evaluate(loaders[2])}
