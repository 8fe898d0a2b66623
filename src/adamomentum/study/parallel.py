"""Several processes that train one trial together, each on its share of every batch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamomentum.study.spec import TrialSpec

if TYPE_CHECKING:
    import torch

    from adamomentum.study.trial import TrialResult

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
        """Returns the place of this process, which has joined a process group if ``spec`` wants several.

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
        """Returns the mean of all processes' losses and whether the first one wants a checkpoint."""
        if self.world == 1:
            return loss, due
        import torch
        from torch import distributed

        shared = torch.tensor([loss / self.world, float(due and self.rank == 0)], device=self.device)
        distributed.all_reduce(shared)
        return shared[0].item(), bool(shared[1].item() > 0)

    def gather(self, value: Any) -> list[Any]:
        """Returns every process's ``value``, in order of rank."""
        if self.world == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values


def join(spec: TrialSpec) -> None:
    """Joins the process group that the environment describes, as torchrun sets it."""
    import torch
    from torch import distributed

    if spec.device_kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    distributed.init_process_group("nccl" if spec.device_kind == "cuda" else "gloo", timeout=TIMEOUT)


def run_in_group(spec: TrialSpec, run: Callable[[TrialSpec], TrialResult]) -> TrialResult:
    """Runs ``spec`` in ``spec.processes`` new processes on this machine and returns the first one's result.

    Args:
        spec: what to run.
        run: what each process calls; must be picklable.

    Raises:
        RuntimeError: if a process fails; its traceback is in the message.
    """
    from torch.multiprocessing.spawn import start_processes

    from adamomentum.study.trial import TrialResult

    with tempfile.TemporaryDirectory() as folder:
        try:
            start_processes(_process, (spec, run, folder), nprocs=spec.processes, start_method="spawn")
        except Exception as error:
            raise RuntimeError(f"one of {spec.processes} processes failed: {error}") from None
        return TrialResult.model_validate_json((Path(folder) / "result.json").read_bytes())


def _process(rank: int, spec: TrialSpec, run: Callable[[TrialSpec], TrialResult], folder: str) -> None:
    from torch import distributed

    from adamomentum.study.execute.local import exit_with_parent

    exit_with_parent()
    os.environ["LOCAL_RANK"] = str(rank)
    distributed.init_process_group(
        "nccl" if spec.device_kind == "cuda" else "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=spec.processes,
        timeout=TIMEOUT,
    )
    try:
        result = run(spec)
        if rank == 0:
            (Path(folder) / "result.json").write_text(result.model_dump_json())
    finally:
        distributed.destroy_process_group()
