"""Time of the host in a fused step on CUDA, without a GPU: all up to the launch of the kernel, which is left out.

    python benchmarks/cuda_host_time.py [--tensors 150 1000] [--rounds 25]

The tensors are on the CPU, so the copy of the table to the device is missing too. Beside it torch's fused AdamW: whole
as it is on a CPU, with tensors of one element; and with its two operators left out, which on CUDA launch kernels, so
that only its Python is timed. Processor time, the ratio taken within a round: the median, and the middle half.
"""

from __future__ import annotations

import argparse
import statistics
import time
import types
from collections import defaultdict
from contextlib import ExitStack
from unittest import mock

import torch

from adamomentum import AdaMomentum
from adamomentum.torch import fused_cpu, fused_cuda, optimizer

OURS = {
    "native table": {},
    "native table, 8-bit moments": {"state_dtype": "8bit"},
    "table in Python": {},
}


class Launch:
    """In place of a Triton kernel: takes a grid, then the arguments, and does nothing."""

    def __getitem__(self, grid: tuple[int]) -> object:
        return lambda *args, **kwargs: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, nargs="+", default=[150, 1000])
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = types.SimpleNamespace(float32="fp32", float64="fp64", bfloat16="bf16", uint8="u8")
    kernel = types.SimpleNamespace(CHUNK=2048, WARPS=8, tl=names, update_chunk=Launch())

    print("| tensors | | us a tensor | ratio to torch's fused AdamW | to its Python alone |\n|---|---|---|---|---|")
    for n in args.tensors:
        times = measured(n, args.rounds, kernel)
        for name in [name for name in OURS if name in times]:
            whole, python = (ratio(times[name], times[key]) for key in ("whole", "python"))
            print(f"| {n:,} | {name} | {1e6 * statistics.median(times[name]) / n:.2f} | {whole} | {python} |")


def measured(n: int, rounds: int, kernel: object) -> dict[str, list[float]]:
    """Seconds of processor time of each kind of step, by round."""

    def params() -> list[torch.nn.Parameter]:
        new = [torch.nn.Parameter(torch.randn(1)) for _ in range(n)]
        for p in new:
            p.grad = torch.randn(1)
        return new

    def seconds(step: object) -> float:
        before = time.process_time()
        step()
        return time.process_time() - before

    adamw = torch.optim.AdamW(params(), fused=True)
    names = [name for name in OURS if name == "table in Python" or not fused_cpu.why_not()]
    ours = {name: AdaMomentum(params(), foreach=False, **OURS[name]) for name in names}
    for each in (adamw, *ours.values()):
        each.step()  # makes the state
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        times["whole"].append(seconds(adamw.step))
        with mock.patch.object(torch, "_fused_adamw_"), mock.patch.object(torch, "_foreach_add_"):
            times["python"].append(seconds(adamw.step))
        for name, each in ours.items():
            with ExitStack() as patches:
                enter = patches.enter_context
                enter(mock.patch.object(fused_cuda, "_kernel", lambda: kernel))
                enter(mock.patch.object(fused_cuda, "_on_unusable_device", lambda p: None))
                enter(mock.patch.object(optimizer, "choose_kernels", lambda *_, **__: "triton"))
                if name == "table in Python":
                    enter(mock.patch.object(fused_cuda, "new_batch", lambda *_: None))
                times[name].append(seconds(each.step))
    return times


def ratio(ours: list[float], theirs: list[float]) -> str:
    low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    main()
