"""FSDP2: parameters, gradients and state in shards; checkpoints that another number of processes can go on from.

torchrun --standalone --nproc-per-node 2 examples/fsdp2.py --checkpoints FOLDER [--steps 40] [--release]

Started again with more steps, on as many processes as you like, it goes on from the last checkpoint in FOLDER.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from adamomentum import AdaMomentum
from adamomentum.torch import release_gradients

BATCH, PASSES = 24, 2


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's part of a batch; the whole is the same on any number of processes."""
    x = torch.randn(BATCH, 9, generator=torch.Generator().manual_seed(number))
    y = (x[:, :1] - x[:, 1:2].abs()).tanh()
    rank, processes = dist.get_rank(), dist.get_world_size()
    return x[rank::processes], y[rank::processes]


def train(steps: int, folder: Path, release: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 15), Block(15), Block(15), nn.Linear(15, 1))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in [*model, model]:
        fully_shard(module, mesh=mesh)
    # It was torch.optim.AdamW(model.parameters(), lr=3.2e-2, weight_decay=0.01).
    optimizer = AdaMomentum(
        model.parameters(),
        lr=3.2e-2,
        weight_decay=0.01,
        adjust_lr="match_rms_adamw",
        second_moment="momentum",  # which is exact also under release with several passes
    )
    if release:  # gradients are not stored: after its reduction each goes into this process's shard of exp_avg
        release_gradients(optimizer, accumulation_steps=PASSES)

    first = 0
    saved = sorted(folder.glob("step-*"))
    if saved:
        first = int(saved[-1].name.removeprefix("step-"))
        optimizer.init_state()  # a distributed checkpoint is loaded into state that exists
        model_state, optimizer_state = get_state_dict(model, optimizer)
        # Partial, since under release the state has an entry that a checkpoint written without it lacks.
        planner = DefaultLoadPlanner(allow_partial_load=True)
        dcp.load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=saved[-1], planner=planner)
        set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)

    losses = []
    for step in range(first, steps):
        total = torch.zeros(())
        for i in range(PASSES):
            inputs, targets = batch(PASSES * step + i)
            loss = nn.functional.mse_loss(model(inputs), targets) / PASSES
            loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        dist.all_reduce(total)
        losses.append(total.item() / dist.get_world_size())

    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder / f"step-{steps:06}")
    if dist.get_rank() == 0:
        place = f"steps {first + 1} to {steps} on {dist.get_world_size()} processes"
        print(f"loss {losses[0]:.9f} -> {losses[-1]:.9f}, {place}")
        assert losses[-1] < 0.2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--release", action="store_true", help="do not store gradients")
    args = parser.parse_args()
    if "RANK" not in os.environ:
        command = " ".join(["torchrun --standalone --nproc-per-node 2", *sys.argv])
        raise SystemExit(f"torchrun makes the processes: {command}")
    dist.init_process_group("gloo")  # "nccl" on GPUs, with init_device_mesh("cuda", ...)
    try:
        train(args.steps, args.checkpoints, args.release)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
