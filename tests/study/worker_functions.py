"""What test trials do in a worker process; imported there by name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from adamomentum.study.spec import TrialSpec
from adamomentum.study.trial import TrialResult
from adamomentum.study.work import limit_memory


def misbehave(spec: TrialSpec, data: dict[int, str]) -> TrialResult:
    """Does what ``data`` says for the spec's replicate: raise, die, or by default succeed."""
    action = data.get(spec.replicate, "")
    if action == "raise":
        raise RuntimeError(f"replicate {spec.replicate} is bad")
    if action == "leave":
        raise KeyboardInterrupt
    if action == "die":
        os._exit(7)
    if action.startswith("die once "):
        marker = Path(action.removeprefix("die once "))
        if not marker.exists():
            marker.touch()
            os._exit(7)
    time.sleep(0.05)
    return TrialResult(status="ok", final={"val_loss": float(spec.replicate)})


def report_pid(spec: TrialSpec, data: float) -> TrialResult:
    """Returns the worker's process id after ``data`` seconds."""
    time.sleep(data)
    return TrialResult(status="ok", final={"pid": float(os.getpid())})


def hold(spec: TrialSpec, data: int) -> TrialResult:
    """Keeps within ``data`` bytes of memory, and takes as many GiB as the spec's replicate says."""
    limit_memory(data)
    held = torch.ones(spec.replicate * 2**28)  # touched, not only promised
    return TrialResult(status="ok", final={"val_loss": float(held.sum())})
