"""What was measured on: the machine, and the versions of everything.

Tested in tests/bench/test_bench_cli.py.
"""

from __future__ import annotations

import os
import platform

import torch

from adamomentum.bench.peers import STEP
from adamomentum.cores import available_cores, processor_name

__all__ = ["describe", "versions"]


def describe(device: torch.device) -> str:
    """Return the machine in a line: processor, cores, load, operating system, and the GPU if that is measured."""
    parts = [f"{processor_name() or platform.machine()}, {available_cores()} cores"]
    if device.type == "cuda":
        parts.insert(0, torch.cuda.get_device_name(device))
    if hasattr(os, "getloadavg"):
        parts.append(f"load average {os.getloadavg()[0]:.1f} at the start")
    return ", ".join([*parts, platform.system()])


def versions() -> dict[str, str]:
    """Return the installed versions of Python, this library, torch and the peers' packages."""
    packages = dict.fromkeys(c.package for c in sorted(STEP, key=lambda c: not c.ours))
    installed = {c.package: c.version() for c in STEP}
    return {"Python": platform.python_version(), **{p: v for p in packages if (v := installed[p]) is not None}}
