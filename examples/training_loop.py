"""A plain PyTorch loop: groups without decay on norms and biases, warm-up and cosine, clipping, EMA and SWA.

python examples/training_loop.py
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from adamomentum import AdaMomentum
from adamomentum.torch import param_groups

STEPS, WARMUP, SWA_STEPS = 200, 20, 100


def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the plane, and whether they lie in a ring."""
    x = 4 * torch.rand(64, 2, generator=generator) - 2
    radius = x.norm(dim=1)
    return x, ((radius > 0.7) & (radius < 1.5)).long()


@torch.no_grad()
def loss_on_new_data(network: nn.Module) -> float:
    network.eval()
    generator = torch.Generator().manual_seed(2)
    losses = [nn.functional.cross_entropy(network(x), y) for x, y in (batch(generator) for _ in range(20))]
    return torch.stack(losses).mean().item()


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2)
    )
    # It was torch.optim.AdamW(param_groups(model, weight_decay=0.1), lr=5.6e-2).
    optimizer = AdaMomentum(param_groups(model, weight_decay=0.1), lr=5.6e-2, adjust_lr="match_rms_adamw")
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda t: min((t + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * t / STEPS)),
    )
    generator = torch.Generator().manual_seed(1)

    def train(steps: int, schedule: torch.optim.lr_scheduler.LRScheduler, average: AveragedModel) -> None:
        model.train()
        for _ in range(steps):
            x, y = batch(generator)
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.clip_grad_norm_(1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)

    first = loss_on_new_data(model)
    swa = AveragedModel(model)
    # An exponential moving average of the weights, and of the statistics of batch norms.
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95), use_buffers=True)
    train(STEPS, schedule, ema)
    averaged = loss_on_new_data(ema)
    # Stochastic weight averaging: on at a large constant lr, to the plain mean of the weights from here on.
    train(SWA_STEPS, SWALR(optimizer, swa_lr=2e-2, anneal_epochs=10), swa)
    without_statistics = loss_on_new_data(swa)
    # Batch norms still have the statistics of other weights.
    update_bn((batch(generator)[0] for _ in range(50)), swa)
    last = loss_on_new_data(swa)
    print(f"loss {first:.2f} -> {averaged:.2f} by the moving average -> {last:.2f} by SWA")
    assert averaged < 0.5 * first
    assert last < 0.95 * averaged
    assert last < 0.95 * without_statistics


if __name__ == "__main__":
    main()
