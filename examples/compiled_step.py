"""A whole training step under torch.compile: forward, backward and the optimizer's step as one function.

    python examples/compiled_step.py

torch.compile makes several graphs of it: one of forward and backward, one of the whole update.
Needs what torch.compile needs: a C++ compiler on a CPU.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from adamomentum import AdaMomentum


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    # It was torch.optim.AdamW(model.parameters(), lr=5.6e-2, weight_decay=0.01).
    optimizer = AdaMomentum(model.parameters(), lr=5.6e-2, weight_decay=0.01, adjust_lr="match_rms_adamw")
    x = torch.randn(256, 8)
    y = x.prod(1, keepdim=True).tanh() + x[:, :1]

    # To compile less, wrap optimizer.step alone: torch.compile(optimizer.step).
    @torch.compile
    def train_step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    losses = []
    for step in range(100):
        # Numbers that change do not compile anything again, whether they are floats or tensors.
        optimizer.param_groups[0]["lr"] = 5.6e-2 * (0.5 + 0.5 * math.cos(math.pi * step / 100))
        losses.append(train_step(x, y).item())
        if step == 0:  # all is compiled by now: whatever would be compiled from here on is an error
            torch.compiler.set_stance("fail_on_recompile")
    print(f"compiled step: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < 0.7 * losses[0]


if __name__ == "__main__":
    main()
