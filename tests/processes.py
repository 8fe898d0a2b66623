"""Run a function of a test file in several processes of one group, with gloo."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

TIMEOUT = timedelta(seconds=120)  # on a busy machine importing torch alone takes one of its minutes


def run_in_processes(worker: Callable[[int, Path], None], count: int, folder: Path) -> list[dict]:
    """Run ``worker(rank, folder)``, a function of a test file, in several processes of one group.

    The processes run this file: unlike those of multiprocessing they need not import the test as a module.

    Returns:
        What each has saved in ``folder`` under its rank.
    """
    command = [sys.executable, __file__, worker.__code__.co_filename, worker.__name__, str(folder), str(count)]
    (folder / "store").unlink(missing_ok=True)  # of processes that ran there before
    logs = [folder / f"{rank}.log" for rank in range(count)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            with log.open("w") as output:
                processes.append(subprocess.Popen([*command, str(rank)], stdout=output, stderr=subprocess.STDOUT))
        for process in processes:
            process.wait(timeout=2 * TIMEOUT.total_seconds())
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(log.read_text() for log in logs)
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


if __name__ == "__main__":
    file, name, folder, count, rank = (
        Path(sys.argv[1]),
        sys.argv[2],
        Path(sys.argv[3]),
        int(sys.argv[4]),
        int(sys.argv[5]),
    )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    store = (folder / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count, timeout=TIMEOUT)
    try:
        getattr(module, name)(rank, folder)
    finally:
        dist.destroy_process_group()
