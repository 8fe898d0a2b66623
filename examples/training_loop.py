"""A plain PyTorch loop: groups without decay on norms and biases, warm-up and cosine, clipping, average of weights.

python examples/training_loop.py
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from adamomentum import AdaMomentum
from adamomentum.torch import param_groups

STEPS, WARMUP = 200, 50


def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the plane, and whether they lie in a ring."""
    x = 4 * torch.rand(64, 2, generator=generator) - 2
    radius = x.norm(dim=1)
    return x, ((radius > 0.7) & (radius < 1.5)).long()


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    # Coming from AdamW at lr 1e-2, weight_decay 0.1: lr over 4.4, decay times 4.4.
    optimizer = AdaMomentum(param_groups(model, weight_decay=0.44), lr=2.3e-3)
    # The first steps of AdaMomentum are long ones: warm up.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda t: min((t + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * t / STEPS)),
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        x, y = batch(generator)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.clip_grad_norm_(1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        losses.append(loss.item())
    x, y = batch(generator)
    accuracy = (average(x).argmax(1) == y).float().mean().item()
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}, accuracy of the averaged weights {100 * accuracy:.0f} %")
    assert losses[-1] < 0.5 * losses[0]


if __name__ == "__main__":
    main()
