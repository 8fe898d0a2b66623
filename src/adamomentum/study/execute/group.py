"""A trial in several new processes of this machine, which train it together.

Tested in tests/study/test_vision_cifar.py.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from adamomentum.study.execute.parent import exit_with_parent
from adamomentum.study.group import TIMEOUT
from adamomentum.study.spec import TrialSpec
from adamomentum.study.trial import TrialResult


def run_in_group(spec: TrialSpec, run: Callable[[TrialSpec], TrialResult]) -> TrialResult:
    """Run ``spec`` in ``spec.processes`` new processes on this machine and return the first one's result.

    Args:
        spec: what to run.
        run: what each process calls; must be picklable.

    Raises:
        RuntimeError: if a process fails; its traceback is in the message.
    """
    from torch.multiprocessing.spawn import start_processes

    with tempfile.TemporaryDirectory() as folder:
        try:
            start_processes(_process, (spec, run, folder), nprocs=spec.processes, start_method="spawn")
        except Exception as error:
            raise RuntimeError(f"one of {spec.processes} processes failed: {error}") from None
        return TrialResult.model_validate_json((Path(folder) / "result.json").read_bytes())


def _process(rank: int, spec: TrialSpec, run: Callable[[TrialSpec], TrialResult], folder: str) -> None:
    from torch import distributed

    exit_with_parent()
    # As torchrun does, for users' code and for trainers.
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(spec.processes)}
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
