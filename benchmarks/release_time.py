"""What a step costs above its backward pass, with gradients released and without.

    python benchmarks/release_time.py [--rounds 25] [--passes 1] [--more] [--json FILE]

A round takes a step of each way, one after the other: forward, backward and update, of which the latter two are timed,
as CPU time of one thread. "Above" is what remains without the backward passes, whose time is that of dropping their
gradients. The loss is linear, so that backward does little more than to make them. Ratios are those of medians over the
rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from adamomentum import AdaMomentum
from adamomentum.torch import AdaptiveClip, release_gradients

BASELINE = "AdamW fused, step"


class Costless(nn.Module):
    """Parameters of given shapes, and a loss whose backward pass does little more than to make their gradients."""

    def __init__(self, shapes: list[torch.Size]) -> None:
        super().__init__()
        self.parts = nn.ParameterList(torch.randn(shape) for shape in shapes)
        self.inputs = [torch.randn(shape.numel()) for shape in shapes]

    def loss(self) -> Tensor:
        return torch.stack([p.view(-1).dot(x) for p, x in zip(self.parts, self.inputs, strict=True)]).mean()


def transformer() -> list[torch.Size]:
    """12 layers of width 128: 149 tensors, 2.6 million parameters."""
    layer = nn.TransformerEncoderLayer(128, 2, 512)
    layers = nn.TransformerEncoder(layer, 12, nn.LayerNorm(128), enable_nested_tensor=False)
    return [p.shape for module in (nn.Embedding(896, 128), layers, nn.Linear(128, 896)) for p in module.parameters()]


SHAPES = {
    "149 tensors of a 12-layer transformer": transformer(),
    "1,000 tensors of 512": [torch.Size([512])] * 1000,
}


def keep_memory() -> None:
    """Have glibc keep what is freed, or the time is that of getting memory from the system and giving it back."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(parameter, 2**30)


def dropped(model: nn.Module, passes: int) -> Callable[[], None]:
    return model.zero_grad


def adamw(model: nn.Module, passes: int) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    return lambda: (optimizer.step(), optimizer.zero_grad())


def stepped(model: nn.Module, passes: int) -> Callable[[], None]:
    optimizer = AdaMomentum(model.parameters(), lr=1e-4)
    return lambda: (optimizer.step(), optimizer.zero_grad())


def released(model: nn.Module, passes: int, clip: float | AdaptiveClip | None = None) -> Callable[[], None]:
    """The loop without ``step()`` and ``zero_grad()``, which have nothing to do."""
    optimizer = AdaMomentum(model.parameters(), lr=1e-4)
    release_gradients(optimizer, passes, clip=clip)
    return lambda kept=optimizer: None


def released_and_stepped(model: nn.Module, passes: int) -> Callable[[], None]:
    optimizer = AdaMomentum(model.parameters(), lr=1e-4)
    release_gradients(optimizer, passes)
    return lambda: (optimizer.step(), optimizer.zero_grad())


Way = Callable[[nn.Module, int], Callable[[], None]]
DROPPED = "gradients dropped"
WAYS: dict[str, Way] = {
    DROPPED: dropped,
    BASELINE: adamw,
    "AdaMomentum, step": stepped,
    "AdaMomentum, released": released,
}
# Not in every run: the more models there are, the less of each is in the cache when its turn comes.
MORE: dict[str, Way] = {
    "AdaMomentum, released, step() called too": released_and_stepped,
    "AdaMomentum, released, clip=1e-3": partial(released, clip=1e-3),
    "AdaMomentum, released, clip=AdaptiveClip()": partial(released, clip=AdaptiveClip(warmup=1)),
}


def measure(ways: dict[str, Way], shapes: list[torch.Size], rounds: int, passes: int) -> dict[str, list[float]]:
    """Seconds of backward and update of each way, round by round."""
    steps = {}
    for name, way in ways.items():
        torch.manual_seed(0)
        model = Costless(shapes)
        steps[name] = model, way(model, passes)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 3):  # the first ones create state and warm up
        names = list(steps)[number % len(steps) :] + list(steps)[: number % len(steps)]  # no way is always the first
        for name in names:
            model, end = steps[name]
            taken = 0.0
            for _ in range(passes):
                loss = model.loss() / passes
                start = time.thread_time()
                loss.backward()
                if name == DROPPED:
                    end()
                taken += time.thread_time() - start
            start = time.thread_time()
            if name != DROPPED:
                end()
            taken += time.thread_time() - start
            if number >= 3:
                seconds[name].append(taken)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--passes", type=int, default=1, help="backward passes a step")
    parser.add_argument("--more", action="store_true", help="step() called too, and gradients clipped")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    ways = {**WAYS, **(MORE if arguments.more else {})}
    result = {}
    print("| | backward and update, us a tensor | ratio | above the backward passes | ratio |")
    print("|---|---|---|---|---|")
    for what, shapes in SHAPES.items():
        seconds = result[what] = measure(ways, shapes, arguments.rounds, arguments.passes)
        whole = {name: 1e6 * median(times) / len(shapes) for name, times in seconds.items()}
        above = {name: us - whole[DROPPED] for name, us in whole.items()}
        for name, us in whole.items():
            ratios = us / whole[BASELINE], above[name] / above[BASELINE]
            print(f"| {what}: {name} | {us:.1f} | {ratios[0]:.2f} | {above[name]:.1f} | {ratios[1]:.2f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
