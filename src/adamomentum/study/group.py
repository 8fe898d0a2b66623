"""This process among those that train a trial together, each on its share of every batch.

Tested in tests/study/test_vision_cifar.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from adamomentum.study.spec import TrialSpec

if TYPE_CHECKING:
    import torch

# Rank 0 evaluates alone while the others wait.
TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class Group:
    """This process among those that train a trial."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @classmethod
    def of_this_process(cls, spec: TrialSpec) -> Group:
        """Return the place of this process, which has joined a process group if ``spec`` wants several.

        Raises:
            ValueError: if the group is not as large as ``spec`` wants.
        """
        import torch
        from torch import distributed

        joined = distributed.is_available() and distributed.is_initialized()
        world = distributed.get_world_size() if joined else 1
        if world != spec.processes:
            raise ValueError(f"the trial needs {spec.processes} processes, {world} train together here")
        rank = distributed.get_rank() if joined else 0
        index = int(os.environ.get("LOCAL_RANK", rank))
        device = torch.device("cuda", index) if spec.device_kind == "cuda" else torch.device(spec.device_kind)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return cls(device, rank, world)

    def agree(self, loss: float, due: bool) -> tuple[float, bool]:
        """Return the mean of all processes' losses and whether the first one wants a checkpoint."""
        if self.world == 1:
            return loss, due
        import torch
        from torch import distributed

        shared = torch.tensor([loss / self.world, float(due and self.rank == 0)], device=self.device)
        distributed.all_reduce(shared)
        return shared[0].item(), bool(shared[1].item() > 0)

    def gather(self, value: Any) -> list[Any]:
        """Return every process's ``value``, in order of rank."""
        if self.world == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values


def join(spec: TrialSpec) -> None:
    """Join the process group that the environment describes, as torchrun sets it."""
    import torch
    from torch import distributed

    if spec.device_kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    distributed.init_process_group("nccl" if spec.device_kind == "cuda" else "gloo", timeout=TIMEOUT)
