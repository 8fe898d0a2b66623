"""Mixed precision with GradScaler, and pure bfloat16 parameters that keep learning.

python examples/mixed_precision.py
"""

from __future__ import annotations

import torch
from torch import nn

from adamomentum import AdaMomentum

STEPS = 150


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(512, 16, generator=generator)
    return x, (x[:, :1] * x[:, 1:2] + x[:, 2:3]).tanh()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1))


def autocast_with_scaler() -> tuple[float, float]:
    """Float32 parameters, float16 forward and backward; an overflow skips the step and lowers the scale."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = network().to(device)
    x, y = (t.to(device) for t in data())
    # It was torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.01).
    optimizer = AdaMomentum(model.parameters(), lr=0.1, weight_decay=0.01, adjust_lr="match_rms_adamw")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    scaler = torch.amp.GradScaler(device)
    losses = []
    for _ in range(STEPS):
        with torch.autocast(device, torch.float16):
            loss = nn.functional.mse_loss(model(x).float(), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def bfloat16_parameters() -> tuple[float, float]:
    """Parameters, gradients and moments take 2 + 2 + 4 bytes each: no float32 copy anywhere."""
    model = network().bfloat16()
    x, y = (t.bfloat16() for t in data())
    # It was torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.01), on parameters in float32.
    optimizer = AdaMomentum(
        model.parameters(),
        lr=0.1,
        weight_decay=0.01,
        adjust_lr="match_rms_adamw",
        rounding="stochastic",
        state_dtype=torch.bfloat16,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    losses = []
    for _ in range(STEPS):
        loss = nn.functional.mse_loss(model(x).float(), y.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def main() -> None:
    for run in (autocast_with_scaler, bfloat16_parameters):
        first, last = run()
        print(f"{run.__name__}: loss {first:.3f} -> {last:.3f}")
        assert last < 0.6 * first


if __name__ == "__main__":
    main()
