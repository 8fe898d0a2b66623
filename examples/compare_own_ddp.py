"""AdamW against AdaMomentum with DistributedDataParallel: two processes train each trial together.

adamomentum compare --train examples/compare_own_ddp.py:train --processes 2
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def train(trial: Any, epochs: int = 3) -> dict[str, float]:
    # The process group is there, as torchrun would have made it.
    assert distributed.get_rank() == trial.rank
    x = torch.randn(1200, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, :1] - x[:, 1:2].abs()).tanh()
    examples = TensorDataset(x[:800], y[:800])
    sampler = DistributedSampler(examples, trial.world, trial.rank, seed=trial.seed)
    loader = DataLoader(examples, 20, sampler=sampler)
    network = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).to(trial.device)
    model = DistributedDataParallel(network)
    optimizer = trial.optimizer(model.parameters())  # it was torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))

    @torch.no_grad()
    def evaluate(rows: slice) -> float:
        return nn.functional.mse_loss(network(x[rows].to(trial.device)), y[rows].to(trial.device)).item()

    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs.to(trial.device)), targets.to(trial.device)).backward()
            optimizer.step()
            schedule.step()
        trial.report(loss=evaluate(slice(800, 1000)))  # of all processes; the first one's counts
    return {"loss": evaluate(slice(1000, 1200))}
