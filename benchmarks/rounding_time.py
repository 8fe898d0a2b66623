"""Time of a step on bfloat16 parameters by how they are rounded, beside torch's fused AdamW, which rounds to nearest.

    python benchmarks/rounding_time.py [--float32] [--elements 8388608] [--rounds 15] [--threads 1]

A round times a step of each, one after the other, and the ratio to AdamW is taken within the round: the median, and the
middle half of the rounds. Processor time, so that other work on the machine disturbs less. The last line is beside
AdamW on as many float32 parameters. With --float32 the parameters are in float32, and the moments are what differs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from adamomentum import AdaMomentum

KINDS = {
    "nearest": {},
    "kahan": {"rounding": "kahan"},
    "master": {"rounding": "master"},
    "stochastic": {"rounding": "stochastic"},
    "stochastic, bfloat16 moments": {"rounding": "stochastic", "state_dtype": "bfloat16"},
    "stochastic, 8-bit moments": {"rounding": "stochastic", "state_dtype": "8bit"},
}
OF_FLOAT32 = {
    "float32 moments": {},
    "bfloat16 moments": {"state_dtype": "bfloat16"},
    "8-bit moments": {"state_dtype": "8bit"},
}
# The last kind once more.
BESIDE_WIDE = "the same, beside float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--float32", action="store_true", help="parameters in float32 instead of bfloat16")
    parser.add_argument("--elements", type=int, default=1 << 23)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    narrow, kinds = (torch.float32, OF_FLOAT32) if args.float32 else (torch.bfloat16, KINDS)

    def parameter(dtype: torch.dtype) -> torch.nn.Parameter:
        p = torch.nn.Parameter(torch.randn(args.elements).to(dtype))
        p.grad = torch.randn(args.elements).to(dtype)
        return p

    def seconds(optimizer: torch.optim.Optimizer) -> float:
        before = time.process_time()
        optimizer.step()
        return time.process_time() - before

    # Beside which AdamW, by its parameters' dtype, a line is; only the last kind is also beside the wide one.
    baselines = {dtype: torch.optim.AdamW([parameter(dtype)], fused=True) for dtype in {narrow, torch.float32}}
    ours = {name: AdaMomentum([parameter(narrow)], **options) for name, options in kinds.items()}
    for optimizer in (*baselines.values(), *ours.values()):
        optimizer.step()  # makes the state
    ratios: dict[str, list[float]] = {name: [] for name in (*ours, *([] if args.float32 else [BESIDE_WIDE]))}
    for _ in range(args.rounds):
        reference = {dtype: seconds(baseline) for dtype, baseline in baselines.items()}
        for name, optimizer in ours.items():
            taken = seconds(optimizer)
            ratios[name].append(taken / reference[narrow])
        if BESIDE_WIDE in ratios:
            ratios[BESIDE_WIDE].append(taken / reference[torch.float32])
    print(f"| {'moments' if args.float32 else '`rounding`'} | step, ratio to AdamW fused |\n|---|---|")
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"| {name} | {middle:.2f} ({low:.2f}-{high:.2f}) |")


if __name__ == "__main__":
    main()
