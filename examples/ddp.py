"""DistributedDataParallel, and ZeroRedundancyOptimizer, which shares the optimizer's state between the processes.

torchrun --standalone --nproc-per-node 2 examples/ddp.py [--zero] [--checkpoint FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from adamomentum import AdaMomentum

EPOCHS = 30


def train(zero: bool, checkpoint: Path | None) -> None:
    rank, processes = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same data and weights everywhere; the sampler deals the data out
    x = torch.randn(512, 8)
    y = (x[:, :1] - x[:, 1:2].abs()).tanh()
    data = TensorDataset(x, y)
    sampler = DistributedSampler(data)
    loader = DataLoader(data, batch_size=64 // processes, sampler=sampler)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)))
    if zero:
        with warnings.catch_warnings(action="ignore"):  # importing it warns of things inside torch
            from torch.distributed.optim import ZeroRedundancyOptimizer
        optimizer = ZeroRedundancyOptimizer(
            model.parameters(),
            optimizer_class=AdaMomentum,
            lr=0.18,
            weight_decay=0.01,
            adjust_lr="match_rms_adamw",
        )
    else:
        # It was torch.optim.AdamW(model.parameters(), lr=0.18, weight_decay=0.01).
        optimizer = AdaMomentum(model.parameters(), lr=0.18, weight_decay=0.01, adjust_lr="match_rms_adamw")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader))

    losses = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        total = torch.zeros(())
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            # What DDP reduced is the same everywhere, and so is its norm.
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.detach() / len(loader)
        dist.all_reduce(total)
        losses.append(total.item() / processes)

    if checkpoint is not None:
        if zero:
            optimizer.consolidate_state_dict(to=0)
        if rank == 0:  # every process has the same, and the file can be loaded on any number of them
            torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
    if rank == 0:
        print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} on {processes} processes")
        assert losses[-1] < 0.2 * losses[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--zero", action="store_true", help="share the optimizer's state between the processes")
    parser.add_argument("--checkpoint", type=Path, help="write model and optimizer to this file")
    args = parser.parse_args()
    if "RANK" not in os.environ:
        command = " ".join(["torchrun --standalone --nproc-per-node 2", *sys.argv])
        raise SystemExit(f"torchrun makes the processes: {command}")
    dist.init_process_group("gloo")  # "nccl" on GPUs, with the model on torch.device("cuda", LOCAL_RANK)
    try:
        train(args.zero, args.checkpoint)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
