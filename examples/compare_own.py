"""AdamW against AdaMomentum on a plain training function: groups, a data loader, mixed precision, clipping, OneCycleLR.

adamomentum compare --train examples/compare_own.py:train
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


def train(trial: Any, width: int = 32, epochs: int = 3) -> dict[str, float]:
    x = torch.randn(1200, 8, generator=torch.Generator().manual_seed(0))  # the data is the same for every seed
    y = (x[:, :1] - x[:, 1:2].abs()).tanh()
    parts = random_split(TensorDataset(x, y), [800, 200, 200], torch.Generator().manual_seed(0))
    order = torch.Generator().manual_seed(trial.seed)  # its order is the trial's
    loaders = [DataLoader(part, 40, shuffle=part is parts[0], generator=order) for part in parts]
    model = nn.Sequential(nn.Linear(8, width), nn.LayerNorm(width), nn.Tanh(), nn.Linear(width, 1)).to(trial.device)
    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    # It was torch.optim.AdamW(groups, lr=1e-2).
    optimizer = trial.optimizer([{"params": matrices}, {"params": vectors, "weight_decay": 0}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=trial.lr, total_steps=epochs * len(loaders[0]))
    scaler = torch.amp.GradScaler(trial.device.type, enabled=trial.device.type == "cuda")

    def loss_of(batch: Any) -> torch.Tensor:
        inputs, targets = (tensor.to(trial.device) for tensor in batch)
        with torch.autocast(trial.device.type, torch.bfloat16):
            return nn.functional.mse_loss(model(inputs).float(), targets)

    @torch.no_grad()
    def evaluate(loader: DataLoader[Any]) -> float:
        return torch.stack([loss_of(batch) for batch in loader]).mean().item()

    for _ in range(epochs):
        for batch in loaders[0]:
            optimizer.zero_grad()
            scaler.scale(loss_of(batch)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
        trial.report(loss=evaluate(loaders[1]))
    torch.save(model.state_dict(), trial.folder / "model.pt")
    return {"loss": evaluate(loaders[2])}
