"""The optimizer step, and a whole training step, under torch.compile.

    python examples/compiled_step.py

Needs what torch.compile needs: a C++ compiler on a CPU.
"""

from __future__ import annotations

import torch
from torch import nn

from adamomentum import AdaMomentum


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    # lr as a tensor may change every step without compiling again.
    optimizer = AdaMomentum(model.parameters(), lr=torch.tensor(3e-3))
    x = torch.randn(256, 8)
    y = x.prod(1, keepdim=True).tanh() + x[:, :1]

    @torch.compile
    def update() -> None:
        optimizer.step()

    losses = []
    for step in range(100):
        optimizer.param_groups[0]["lr"].fill_(3e-3 * min(1.0, (step + 1) / 20))
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        update()
        losses.append(loss.item())
    print(f"compiled step: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < 0.7 * losses[0]


if __name__ == "__main__":
    main()
