"""Memory and time of a training step with gradient release, beside AdamW with and without stepping in backward.

    python benchmarks/release_memory.py [--rounds 7] [--width 512] [--blocks 12] [--json FILE]

The model is a stack of residual blocks, Linear, GELU, Linear, in float32, with few tokens a pass: what it takes beyond
parameters and state is gradients almost alone. A round times a step of each way, one after the other, and the ratio to
AdamW is taken within the round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from adamomentum import AdaMomentum
from adamomentum.bench.memory import peak_bytes, state_bytes
from adamomentum.torch import release_gradients

TOKENS = 16
BASELINE = "AdamW, accumulate then step"
FORMATS = {"8bit": "8-bit moments", ("float32", "8bit"): "exp_avg in float32, exp_avg_sq in 8 bits"}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)))


def accumulate_then_step(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def end() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return end


def adamw_in_backward(model: nn.Module) -> tuple[list[torch.optim.Optimizer], Callable[[], None]]:
    """PyTorch's recipe: an optimizer a parameter, which a hook steps."""
    optimizers = {p: torch.optim.AdamW([p], lr=1e-4, fused=True) for p in model.parameters()}

    def hook(p: torch.Tensor) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    return list(optimizers.values()), lambda: None


def ways(passes: int) -> dict[str, Callable[[nn.Module], tuple[list[torch.optim.Optimizer], Callable[[], None]]]]:
    """What makes the optimizers of a model, and what is called after the last pass of a step."""

    def adamw(model: nn.Module):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        return [optimizer], accumulate_then_step(optimizer)

    def plain(model: nn.Module):
        optimizer = AdaMomentum(model.parameters(), lr=1e-4)
        return [optimizer], accumulate_then_step(optimizer)

    def released(model: nn.Module, **options):
        optimizer = AdaMomentum(model.parameters(), lr=1e-4, **options)
        release_gradients(optimizer, passes)
        return [optimizer], accumulate_then_step(optimizer)

    makers = {BASELINE: adamw, "AdaMomentum, accumulate then step": plain, "AdaMomentum, released": released}
    if passes == 1:
        makers["AdamW, stepped in backward"] = adamw_in_backward
    for formats, name in FORMATS.items():
        makers[f"AdaMomentum, released, {name}"] = partial(released, state_dtype=formats)
    return makers


def measure(passes: int, rounds: int, width: int, blocks: int) -> dict[str, dict[str, float]]:
    """Bytes a parameter and time ratios of each way, for so many passes a step."""
    steps, table = {}, {}
    x = torch.randn(TOKENS, width)
    for name, make in ways(passes).items():
        torch.manual_seed(0)
        model = nn.Sequential(*[Block(width) for _ in range(blocks)])
        optimizers, end = make(model)

        def step(model=model, end=end) -> None:
            for _ in range(passes):
                (model(x).square().mean() / passes).backward()
            end()

        step()
        count = sum(p.numel() for p in model.parameters())
        table[name] = {
            "state": sum(map(state_bytes, optimizers)) / count,
            "step": peak_bytes(step, torch.device("cpu")) / count,
        }
        steps[name] = step
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        table[name]["time"] = statistics.median(a / b for a, b in zip(times, seconds[BASELINE], strict=True))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tables = {passes: measure(passes, args.rounds, args.width, args.blocks) for passes in (1, 4)}
    print("| passes a step | | state, bytes a parameter | a step on top, bytes a parameter | time, ratio |")
    print("|---|---|---|---|---|")
    for passes, table in tables.items():
        for name, row in table.items():
            print(f"| {passes} | {name} | {row['state']:.2f} | {row['step']:.2f} | {row['time']:.2f} |")
    if args.json:
        args.json.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
