"""DeepSpeed: AdaMomentum under ZeRO, by a config.

torchrun --standalone --nproc-per-node 2 examples/deepspeed_zero.py --stage 2
"""

from __future__ import annotations

import argparse
import os
import sys

import torch
from torch import nn

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
import deepspeed

from adamomentum import AdaMomentum
from adamomentum.torch import param_groups

STEPS = 150


def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the plane, and whether they lie in a ring."""
    x = 4 * torch.rand(64, 2, generator=generator) - 2
    radius = x.norm(dim=1)
    return x, ((radius > 0.7) & (radius < 1.5)).long()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", type=int, default=2, choices=(0, 1, 2, 3))
    stage = parser.parse_args().stage
    if "RANK" not in os.environ:
        command = " ".join(["torchrun --standalone --nproc-per-node 2", *sys.argv])
        raise SystemExit(f"torchrun makes the processes: {command}")
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    engine, _, _, _ = deepspeed.initialize(
        model=model,
        # It was torch.optim.AdamW(param_groups(model, weight_decay=0.1), lr=3.2e-2).
        # DeepSpeed's own optimizers need no mention here; any other is handed over, and allowed under ZeRO by name.
        optimizer=AdaMomentum(param_groups(model, weight_decay=0.1), lr=3.2e-2, adjust_lr="match_rms_adamw"),
        config={
            "train_micro_batch_size_per_gpu": 64,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": STEPS, "warmup_num_steps": 15}},
        },
    )
    generator = torch.Generator().manual_seed(1 + engine.global_rank)
    losses = []
    for _ in range(STEPS):
        x, y = batch(generator)
        loss = nn.functional.cross_entropy(engine(x.to(engine.device)), y.to(engine.device))
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    if engine.global_rank == 0:
        print(f"ZeRO stage {stage}, {engine.world_size} processes: loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    assert losses[-1] < 0.5 * losses[0]
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
