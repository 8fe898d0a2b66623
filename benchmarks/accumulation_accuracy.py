"""What rounding the first moment in every backward pass costs: accumulation under release, beside float32.

    python benchmarks/accumulation_accuracy.py [--steps 1000] [--passes 1 4 16] [--seeds 3]

A network with a hidden layer learns the embedded digits with gradient release, each step of so many passes over so
many micro-batches of 8. Everything but the format of the moments is equal: initial weights, micro-batches, learning
rate. The way is the sum over all steps and parameters of |change|, divided by float32's on the same micro-batches; the
distance is from where float32 ends, divided by how far that is from the start, the largest of all seeds.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor, nn

from adamomentum import AdaMomentum
from adamomentum.study.data.mnist5k import mnist5k
from adamomentum.torch import release_gradients

FORMATS = {
    "float32": None,
    "float32, 8bit": ("float32", "8bit"),
    "bfloat16": "bfloat16",
    "bfloat16, 8bit": ("bfloat16", "8bit"),
    "8bit": "8bit",
}
# The drop-in for AdamW, with the second moment that is exact in float32 whatever the number of passes.
OPTIONS = {"adjust_lr": "match_rms_adamw", "second_moment": "momentum"}
MICRO_BATCH = 8


def train(state_dtype, images: Tensor, labels: Tensor, steps: int, passes: int, seed: int):
    """Return the way, the start and the end of all parameters, and the mean loss of the last tenth of the steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(images.shape[1], 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = AdaMomentum(model.parameters(), lr=1e-3, **OPTIONS, state_dtype=state_dtype)
    handle = release_gradients(optimizer, passes)
    generator = torch.Generator().manual_seed(seed)

    def parameters() -> Tensor:
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    start = before = parameters()
    way, losses = 0.0, []
    for t in range(steps):
        for _ in range(passes):
            rows = torch.randint(len(images), (MICRO_BATCH,), generator=generator)
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            (loss / passes).backward()
            if t >= 0.9 * steps:
                losses.append(loss.item())
        after = parameters()
        way += (after - before).abs().sum().item()
        before = after
    handle.remove()
    return way, start, before, math.fsum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = mnist5k()
    images = torch.from_numpy(data.x["train"]).flatten(1).float() / 255
    labels = torch.from_numpy(data.y["train"])
    print("| passes | moments | way, ratio | distance | loss at the end | minus float32 |\n|---|---|---|---|---|---|")
    for passes in args.passes:
        runs = {
            name: [train(option, images, labels, args.steps, passes, seed) for seed in range(args.seeds)]
            for name, option in FORMATS.items()
        }
        for name, theirs in runs.items():
            ways, distances, losses = [], [], []
            for (way, _, end, loss), (way32, start, end32, _) in zip(theirs, runs["float32"], strict=True):
                ways.append(way / way32)
                distances.append(((end - end32).norm() / (end32 - start).norm()).item())
                losses.append(loss)
            cells = [f"{sum(ways) / len(ways):.4f}", f"{max(distances):.3f}", f"{sum(losses) / len(losses):.4f}"]
            differences = [loss - other[3] for loss, other in zip(losses, runs["float32"], strict=True)]
            cells.append(f"{sum(differences) / len(differences):+.4f}" if name != "float32" else "")
            print(f"| {passes} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
