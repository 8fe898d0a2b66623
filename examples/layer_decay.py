"""Fine-tuning a vision transformer as BEiT, MAE and timm do: lower rates for earlier layers, no decay of vectors.

python examples/layer_decay.py
"""

from __future__ import annotations

import math

import torch
from torch import nn

from adamomentum import AdaMomentum
from adamomentum.torch import param_groups

STEPS, WARMUP = 100, 10


class VisionTransformer(nn.Module):
    """Named as in timm: patch_embed, blocks, norm, head."""

    def __init__(self, side: int = 8, patch: int = 2, features: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, features, patch, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, (side // patch) ** 2, features))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(features, 4, 64, 0.0, batch_first=True, norm_first=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def main() -> None:
    torch.manual_seed(0)
    model = VisionTransformer()
    # Patches are layer 0, the blocks 1 to 3, norm and head, with the whole lr, layer 4. timm has the last norm in the
    # last block: for that, pass layer_of.
    groups = param_groups(model, weight_decay=0.05, layer_decay=0.75, lr=3.2e-2)
    # It was torch.optim.AdamW(groups, lr=3.2e-2); the decay is in the groups.
    optimizer = AdaMomentum(groups, lr=3.2e-2, adjust_lr="match_rms_adamw")
    for group in optimizer.param_groups:
        count = sum(p.numel() for p in group["params"])
        print(f"lr {group['lr']:.2e}  weight_decay {group['weight_decay']:<4g}  {count} parameters")
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * t / STEPS))
    )
    images = torch.randn(128, 1, 8, 8)
    # Which quarter of the picture is the brightest.
    quarters = nn.functional.avg_pool2d(images, 4).flatten(1)
    losses = []
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(model(images), quarters.argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.clip_grad_norm_(1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    assert losses[-1] < 0.6 * losses[0]


if __name__ == "__main__":
    main()
