"""Accelerate, with gradient accumulation; starts on one process or, by `accelerate launch`, on many.

python examples/accelerate_loop.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from adamomentum import AdaMomentum

EPOCHS, PASSES = 10, 4


def main() -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=PASSES)
    x = torch.randn(512, 8)
    y = (x[:, :1] - x[:, 1:2].abs()).tanh()
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    # It was torch.optim.AdamW(model.parameters(), lr=0.18, weight_decay=0.01).
    optimizer = AdaMomentum(model.parameters(), lr=0.18, weight_decay=0.01, adjust_lr="match_rms_adamw")
    # Accelerate steps the schedule where there is an update, as often as there are processes, which share the batches.
    updates = EPOCHS * len(loader) // PASSES
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=updates)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    losses = []
    for _ in range(EPOCHS):
        total = 0.0
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(inputs), targets)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            total += loss.item()
        losses.append(total / len(loader))
    steps = int(next(iter(optimizer.state.values()))["step"])
    accelerator.print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {steps} updates of {PASSES} batches each")
    assert losses[-1] < 0.5 * losses[0]
    if accelerator.num_processes == 1:
        assert steps == updates


if __name__ == "__main__":
    main()
