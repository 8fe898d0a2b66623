"""Time of a step on CUDA beside torch's fused AdamW on float32 parameters: of the device and of the host.

    python benchmarks/cuda_step_time.py [--rounds 15]

A round times a few steps of each, one kind after the other, between two events; the ratio is taken within a round: the
median, and the middle half. The host's time is that of the calls alone, with nothing waiting on the device. The share
of bandwidth is what a step must read and write, by the time, over the best that copying a tensor reaches here.
`--device cpu` tries the script where there is no GPU: it measures the paths of the CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from math import prod

import torch

from adamomentum import AdaMomentum
from adamomentum.bench.bandwidth import stream, stream_elements
from adamomentum.bench.memory import state_bytes
from adamomentum.bench.timing import Step, clock_for, quartiles, rounds_of
from adamomentum.bench.workloads import WORKLOADS

REFERENCE = "torch AdamW fused"
STOCHASTIC = {"fused": True, "rounding": "stochastic"}
KINDS: dict[str, tuple[torch.dtype, Callable[[list[torch.Tensor]], torch.optim.Optimizer]]] = {
    REFERENCE: (torch.float32, lambda params: torch.optim.AdamW(params, fused=True)),
    "torch AdamW fused, bfloat16 throughout": (torch.bfloat16, lambda params: torch.optim.AdamW(params, fused=True)),
    "default path": (torch.float32, AdaMomentum),
    "fused": (torch.float32, lambda params: AdaMomentum(params, fused=True)),
    "fused, capturable": (torch.float32, lambda params: AdaMomentum(params, fused=True, capturable=True)),
    "fused, bfloat16 state": (torch.float32, lambda params: AdaMomentum(params, fused=True, state_dtype="bfloat16")),
    "fused, 8-bit state": (torch.float32, lambda params: AdaMomentum(params, fused=True, state_dtype="8bit")),
    "fused, bfloat16 parameters, stochastic, float32 and 8-bit state": (
        torch.bfloat16,
        lambda params: AdaMomentum(params, state_dtype=("float32", "8bit"), **STOCHASTIC),
    ),
    "fused, bfloat16 parameters, stochastic, 8-bit state": (
        torch.bfloat16,
        lambda params: AdaMomentum(params, state_dtype="8bit", **STOCHASTIC),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", default=["one-64m", "gpt2", "1000x512"], choices=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny tensors: tries the script")
    args = parser.parse_args()
    device = torch.device(args.device)
    clock = clock_for(device, 1)
    elements = 10_000 if args.quick else stream_elements(device)
    copy = stream(device, clock, elements)["a.copy_(b)"]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {name}, copy {copy / 1e9:.0f} GB/s\n")
    print("| tensors | | step, us | ratio | host, us | ratio | bandwidth | state, B a parameter |")
    print("|---|---|---|---|---|---|---|---|")
    for key in args.workload:
        workload = WORKLOADS[key].quick() if args.quick else WORKLOADS[key]
        for row in rows(workload.label, workload.shapes, device, args.rounds, copy):
            print(row, flush=True)


def rows(label: str, shapes: tuple[tuple[int, ...], ...], device: torch.device, rounds: int, copy: float) -> list[str]:
    """Measure one workload; return the rows of the table."""
    n = sum(map(prod, shapes))
    optimizers, steps, moved, failed = {}, {}, {}, []
    for name, (dtype, make) in KINDS.items():
        params = [torch.nn.Parameter(torch.randn(shape, device=device).to(dtype)) for shape in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        try:
            optimizer = make(params)
            optimizer.step()
        except Exception as error:  # the others still count
            failed.append(f"| {label} | {name} | failed: {str(error).splitlines()[0]} | | | | | |")
            continue
        optimizers[name], steps[name] = optimizer, Step(optimizer.step)
        moved[name] = 3 * dtype.itemsize * n + 2 * state_bytes(optimizer)
    device_times = rounds_of(steps, REFERENCE, clock_for(device, 1), rounds)
    host_times = rounds_of(steps, REFERENCE, lambda run, count: host_seconds(run, count, device), rounds)
    printed = []
    for name in steps:
        cells = [label, name]
        for times in (device_times, host_times):
            ratio = quartiles([a / b for a, b in zip(times[name], times[REFERENCE], strict=False)])
            cells += [
                f"{1e6 * quartiles(times[name]).median:.0f}",
                f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})",
            ]
        cells.append(f"{100 * moved[name] / quartiles(device_times[name]).median / copy:.0f} %")
        cells.append(f"{state_bytes(optimizers[name]) / n:.2f}")
        printed.append("| " + " | ".join(cells) + " |")
    return printed + failed


def host_seconds(run: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds until the calls return, on a device that had nothing to do."""
    total = 0.0
    for _ in range(count):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        total += time.perf_counter() - start
    return total


if __name__ == "__main__":
    main()
