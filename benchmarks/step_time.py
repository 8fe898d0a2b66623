"""Step time of AdaMomentum against torch.optim.AdamW on the very same tensors, as ratios.

    python benchmarks/step_time.py [--threads 1] [--rounds 15] [--device cpu]

All optimizers step the same parameters and gradients, in turn within each round, because a shared machine drifts and
because where memory lies can move a timing by a third. Printed: the median of the per-round ratios to AdamW's default
path, with the quartiles. Moments are separate per optimizer.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch

from adamomentum import AdaMomentum

MODELS = {
    "100 tensors of 512": [(512,)] * 100,
    "CNN, 35 tensors, 83 k": [
        (16, 1, 3, 3),
        *[(16,)] * 16,
        *[(16, 16, 3, 3)] * 8,
        *[(32, 32, 3, 3)] * 6,
        (64, 32, 3, 3),
    ],
    "ResNet-like, 62 tensors, 9 M": [
        *[(512, 512, 3, 3)] * 2,
        *[(256, 256, 3, 3)] * 5,
        *[(128, 128, 3, 3)] * 6,
        *[(64, 64, 3, 3)] * 6,
        *[(256,)] * 43,
    ],
    "one matrix, 16 M": [(4096, 4096)],
}


def optimizers(params: list[torch.nn.Parameter]) -> dict[str, torch.optim.Optimizer]:
    return {
        "AdamW (default)": torch.optim.AdamW(params),
        "AdamW foreach": torch.optim.AdamW(params, foreach=True),
        "AdamW fused": torch.optim.AdamW(params, fused=True),
        "AdaMomentum (default)": AdaMomentum(params, weight_decay=0.01),
        "AdaMomentum for-loop": AdaMomentum(params, weight_decay=0.01, foreach=False),
    }


def seconds(opt: torch.optim.Optimizer, steps: int, device: torch.device) -> float:
    opt.step()  # warms the caches for this optimizer's own moments
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        opt.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(
        f"torch {torch.__version__}, {name}, {args.threads} thread(s), {args.rounds} rounds: ratio to AdamW (default)\n"
    )

    print("| | " + " | ".join(optimizers([torch.nn.Parameter(torch.zeros(1, device=device))])) + " |")
    print("|---|" + "---|" * 5)
    for model, shapes in MODELS.items():
        params = [torch.nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        peers = optimizers(params)
        steps = max(1, 500_000 // sum(p.numel() for p in params))
        rounds = [{peer: seconds(opt, steps, device) for peer, opt in peers.items()} for _ in range(args.rounds)]
        cells = []
        for peer in peers:
            ratios = sorted(times[peer] / times["AdamW (default)"] for times in rounds)
            low, _, high = statistics.quantiles(ratios, n=4)
            cells.append(f"{statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}]")
        cells[0] = f"1 ({statistics.median(times['AdamW (default)'] for times in rounds) * 1e3:.2f} ms)"
        print(f"| {model} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
