"""A language model with bfloat16 parameters beside float32 ones, for each way to round the parameters.

    python benchmarks/bf16_parameters.py [--seeds 3] [--steps 400] [--lr 1e-3] [--units 128] [--streams 20]
        [--evaluated 20000] [--json FILE]

An LSTM on the embedded Wikipedia excerpt; forward and backward pass in the parameters' dtype. Everything
else is equal: initial weights, batches, learning rate, schedule.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F

from adamomentum import AdaMomentum
from adamomentum.study import work
from adamomentum.study.tasks.language.awd_lstm import AwdLstm

WINDOW = 35
RUNS = {
    "float32": (torch.float32, "nearest"),
    "bfloat16, nearest": (torch.bfloat16, "nearest"),
    "bfloat16, stochastic": (torch.bfloat16, "stochastic"),
    "bfloat16, kahan": (torch.bfloat16, "kahan"),
    "bfloat16, master": (torch.bfloat16, "master"),
}


def in_streams(tokens: torch.Tensor, count: int) -> torch.Tensor:
    return tokens[: len(tokens) // count * count].view(count, -1).t()


def train(data, dtype: torch.dtype, rounding: str, seed: int, args: argparse.Namespace) -> tuple[list[float], float]:
    """Returns the training loss of each step, and the validation loss in float32 at the end."""
    torch.manual_seed(seed)
    steps, units, streams = args.steps, args.units, args.streams
    model = AwdLstm(len(data.words), units, units, 1, 0.0, 0.0, 0.0, 0.0, 0.0).to(dtype)
    optimizer = AdaMomentum(model.parameters(), lr=args.lr, rounding=rounding)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    text = in_streams(torch.from_numpy(data.tokens["train"]).long(), streams)
    hidden = [(h.to(dtype), c.to(dtype)) for h, c in model.initial(streams)]
    losses = []
    for step in range(steps):
        start = step * WINDOW % (len(text) - WINDOW - 1)
        logits, hidden, _, _ = model(text[start : start + WINDOW], hidden)
        hidden = [(h.detach(), c.detach()) for h, c in hidden]
        loss = F.cross_entropy(logits.float().flatten(0, 1), text[start + 1 : start + WINDOW + 1].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.clip_grad_norm_(1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.float().eval()
    held_out = in_streams(torch.from_numpy(data.tokens["val"]).long()[: args.evaluated], streams)
    with torch.no_grad():
        logits, _, _, _ = model(held_out[:-1], model.initial(streams))
    return losses, F.cross_entropy(logits.flatten(0, 1), held_out[1:].flatten()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--streams", type=int, default=20, help="running texts side by side, as in a batch")
    parser.add_argument("--evaluated", type=int, default=20_000, help="words of the validation text")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    data = work.load("language-model", {"data": "wikipedia"}, {})
    results = {
        name: [train(data, dtype, rounding, seed, args) for seed in range(args.seeds)]
        for name, (dtype, rounding) in RUNS.items()
    }
    print(f"{args.steps} steps, lr {args.lr:g}, {args.seeds} seeds\n")
    print("| parameters | validation loss | minus float32, mean and largest | training loss curve, largest distance |")
    print("|---|---|---|---|")
    record = {}
    for name, runs in results.items():
        d = [mine - base for (_, mine), (_, base) in zip(runs, results["float32"], strict=True)]
        curves = [
            abs(statistics.fmean(mine[k : k + 20]) - statistics.fmean(base[k : k + 20]))
            for (mine, _), (base, _) in zip(runs, results["float32"], strict=True)
            for k in range(0, args.steps - 19, 20)
        ]
        mean = statistics.fmean(value for _, value in runs)
        record[name] = {"val_loss": mean, "difference": d, "curve": max(curves)}
        cells = (
            ["", ""]
            if name == "float32"
            else [f"{statistics.fmean(d):+.4f}, {max(d, key=abs):+.4f}", f"{max(curves):.3f}"]
        )
        print(f"| {name} | {mean:.4f} | " + " | ".join(cells) + " |")
    if args.json:
        args.json.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
