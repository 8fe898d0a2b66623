"""AdamW at its best learning rate in the examples' problems, and the drop-in at exactly that setting.

    python benchmarks/swap_one_line.py [--schedule constant | --written] [--seeds 5]

Network, data, size of batch, steps, decay and clipping are those of the examples, without the library that an example
shows and without compiling. Searched is AdamW's rate alone, for the lowest mean over seeds; the same seeds are then
compared, so the choice favours AdamW. The loss is the training loss, a mean over the last tenth of the steps; a seed
sets weights, data and batches, and is the same for all optimizers.

With --written nothing is searched: rate and schedule are those that stand in the example for AdamW. The example for
Keras is among them then, with PyTorch's weights at the start.
"""

from __future__ import annotations

import argparse
import math
import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy, mse_loss

from adamomentum import AdaMomentum
from adamomentum.study.statistics.paired import t_interval
from adamomentum.torch import param_groups

EXAMPLES = Path(__file__).parents[1] / "examples"
RATES = [float(f"{10 ** (k / 4):.2g}") for k in range(-12, 1)]  # four a decade, 0.001 to 1
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": torch.optim.AdamW,
    "drop-in": partial(AdaMomentum, adjust_lr="match_rms_adamw"),
    "with Nesterov": partial(AdaMomentum, adjust_lr="match_rms_adamw", nesterov=True),
}
SCHEDULES: dict[str, Callable[[int, int], float]] = {  # what lr is multiplied by at step t of so many, t from 0
    "constant": lambda t, steps: 1.0,
    "cosine": lambda t, steps: 0.5 + 0.5 * math.cos(math.pi * t / steps),
    # A warm-up of a tenth of the steps, as in the examples.
    "warmup-cosine": lambda t, steps: min(10 * (t + 1) / steps, 0.5 + 0.5 * math.cos(math.pi * t / steps)),
    "50 steps, cosine": lambda t, steps: (
        t / 50 if t < 50 else 0.5 + 0.5 * math.cos(math.pi * (t - 50) / max(1, steps - 50))
    ),
}


@dataclass(frozen=True)
class Problem:
    """A network to be trained: its groups, whose "lr" is a factor of the whole one, and the loss on the next batch."""

    groups: list[dict[str, Any]]
    loss: Callable[[], torch.Tensor]
    steps: int
    clip: float = 1.0
    autocast: bool = False


def all_decay(model: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(model.parameters()), "weight_decay": 0.01}]


def ring_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """64 points of the plane, and whether they lie in a ring; new ones at each call."""
    return RING(torch.default_generator)


def passes(x: torch.Tensor, y: torch.Tensor, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches without end, in a new order in each pass over the data."""
    while True:
        for rows in torch.randperm(len(x)).split(batch):
            yield x[rows], y[rows]


def regression(batch: int, clip: float, steps: int) -> Problem:
    x = torch.randn(512, 8)
    batches = passes(x, (x[:, :1] - x[:, 1:2].abs()).tanh(), batch)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

    def loss() -> torch.Tensor:
        inputs, targets = next(batches)
        return mse_loss(model(inputs), targets)

    return Problem(all_decay(model), loss, steps, clip)


def training_loop() -> Problem:
    model = nn.Sequential(
        nn.Linear(2, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2)
    )

    def loss() -> torch.Tensor:
        x, y = ring_batch()
        return cross_entropy(model(x), y)

    return Problem(param_groups(model, weight_decay=0.1), loss, steps=200)


def mixed_precision() -> Problem:
    x = torch.randn(512, 16)
    y = (x[:, :1] * x[:, 1:2] + x[:, 2:3]).tanh()
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1))
    return Problem(all_decay(model), lambda: mse_loss(model(x).float(), y), steps=150, autocast=True)


def accelerate_loop() -> Problem:
    return regression(batch=64, clip=1.0, steps=80)  # 4 batches of 16 make an update


def compiled_step() -> Problem:
    x = torch.randn(256, 8)
    y = x.prod(1, keepdim=True).tanh() + x[:, :1]
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    return Problem(all_decay(model), lambda: mse_loss(model(x), y), steps=100, clip=math.inf)


def lightning_module() -> Problem:
    return regression(batch=32, clip=0.1, steps=224)


def layer_decay() -> Problem:
    model = TRANSFORMER()
    groups = param_groups(model, weight_decay=0.05, layer_decay=0.75, lr=1.0)
    images = torch.randn(128, 1, 8, 8)
    quarters = avg_pool2d(images, 4).flatten(1).argmax(1)
    return Problem(groups, lambda: cross_entropy(model(images), quarters), steps=100)


def hf_trainer() -> Problem:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=16, n_embd=32, n_layer=2, n_head=2))

    def loss() -> torch.Tensor:
        words = (torch.randint(16, (16, 1)) + torch.arange(12)) % 16
        return model(input_ids=words, labels=words).loss

    return Problem(param_groups(model, weight_decay=0.1), loss, steps=70)


def deepspeed_zero() -> Problem:
    model = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))

    def loss() -> torch.Tensor:  # of two processes
        x, y = (torch.cat(parts) for parts in zip(ring_batch(), ring_batch(), strict=True))
        return cross_entropy(model(x), y)

    return Problem(param_groups(model, weight_decay=0.1), loss, steps=150)


def keras_fit() -> Problem:
    x, y = (torch.cat(parts) for parts in zip(*(ring_batch() for _ in range(32)), strict=True))
    batches = passes(x, y, 32)
    layers = (nn.Linear(2, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    model = nn.Sequential(*layers)

    def loss() -> torch.Tensor:
        inputs, targets = next(batches)
        return cross_entropy(model(inputs), targets)

    return Problem(param_groups(model, weight_decay=0.1), loss, steps=768)


RING = runpy.run_path(str(EXAMPLES / "training_loop.py"))["batch"]
TRANSFORMER = runpy.run_path(str(EXAMPLES / "layer_decay.py"))["VisionTransformer"]
PROBLEMS: dict[str, Callable[[], Problem]] = {
    problem.__name__: problem
    for problem in (
        training_loop,
        mixed_precision,
        accelerate_loop,
        compiled_step,
        lightning_module,
        layer_decay,
        hf_trainer,
        deepspeed_zero,
    )
}
# AdamW's rate and schedule as they stand in each example.
WRITTEN: dict[str, tuple[float, str]] = {
    "training_loop": (0.056, "warmup-cosine"),
    "mixed_precision": (0.1, "cosine"),
    "accelerate_loop": (0.18, "cosine"),
    "compiled_step": (0.056, "cosine"),
    "lightning_module": (0.1, "cosine"),
    "layer_decay": (0.032, "warmup-cosine"),
    "hf_trainer": (0.032, "warmup-cosine"),
    "deepspeed_zero": (0.032, "warmup-cosine"),
    "keras_fit": (0.01, "50 steps, cosine"),
}


def loss_at_end(
    name: str, optimizer_name: str, lr: float, seed: int, schedule: str = "constant", steps: int | None = None
) -> float:
    """Mean training loss over the last tenth of the steps, infinity where it is not a number.

    Args:
        name: of the problem, in PROBLEMS or WRITTEN.
        optimizer_name: in OPTIMIZERS.
        lr: The learning rate at its height.
        seed: of weights, data and batches.
        schedule: in SCHEDULES.
        steps: At most this many; None for as many as the example makes.
    """
    torch.manual_seed(seed)
    problem = {**PROBLEMS, "keras_fit": keras_fit}[name]()
    steps = min(problem.steps, steps or problem.steps)
    groups = [{**group, "lr": lr * group.get("lr", 1.0)} for group in problem.groups]
    optimizer = OPTIMIZERS[optimizer_name](groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: SCHEDULES[schedule](t, steps))
    scaler = torch.amp.GradScaler("cpu", enabled=problem.autocast)
    params = [p for group in groups for p in group["params"]]
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.float16, enabled=problem.autocast):
            loss = problem.loss()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(params, problem.clip)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        losses.append(loss.item())
    mean = float(np.mean(losses[-max(1, steps // 10) :]))
    return mean if math.isfinite(mean) else math.inf


def row(name: str, rates: list[float], run: Callable[[str, str, float], np.ndarray]) -> list[str]:
    """The cells of a problem's row, `run` giving the losses of all seeds for a problem, an optimizer and a rate."""
    at = {lr: run(name, "AdamW", lr) for lr in rates}
    best = min(rates, key=lambda lr: at[lr].mean())
    theirs, ours, nesterov = at[best], run(name, "drop-in", best), run(name, "with Nesterov", best)
    difference = t_interval(ours - theirs)
    spread = theirs.std(ddof=1)
    return [
        name,
        f"{best:g}" + (", an end of the grid" if len(rates) > 1 and best in (min(rates), max(rates)) else ""),
        f"{theirs.mean():.4f} ± {spread:.4f}",
        f"{ours.mean():.4f}",
        f"{nesterov.mean():.4f}",
        "yes" if difference.mean > spread else "no",
        f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--schedule", choices=SCHEDULES, default="constant")
    parser.add_argument("--written", action="store_true", help="the examples' rates and schedules, nothing searched")
    parser.add_argument("--seeds", type=int, default=5, help="2 at least")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="AdamW's, to choose from")
    parser.add_argument("--steps", type=int, help="at most this many, instead of as many as the example makes")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the networks are too small for more

    def run(name: str, optimizer: str, lr: float) -> np.ndarray:
        schedule = WRITTEN[name][1] if args.written else args.schedule
        return np.array([loss_at_end(name, optimizer, lr, seed, schedule, args.steps) for seed in range(args.seeds)])

    how = "as written" if args.written else args.schedule
    print(f"{how}, {args.seeds} seeds: mean ± standard deviation; paired difference and 95 % interval\n")
    print(f"| problem | AdamW's {'' if args.written else 'best '}lr | " + " | ".join(OPTIMIZERS), end="")
    print(" | drop-in above by more than the spread | drop-in minus AdamW |")
    print("|---" * 7 + "|")
    for name in WRITTEN if args.written else PROBLEMS:
        rates = [WRITTEN[name][0]] if args.written else args.rates
        print("| " + " | ".join(row(name, rates, run)) + " |", flush=True)


if __name__ == "__main__":
    main()
