"""What gradient release looks for before it first changes something in a backward pass, in time against that pass.

python benchmarks/release_checks.py [--passes 20]

It walks the graph for nodes that would start another pass; not where all gradients, of less than 2^20 elements, wait
for the end of the pass. Prints the median over the passes of one thread's CPU time.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from unittest.mock import patch

import torch
from torch import nn

from adamomentum.torch import AdaMomentum, passes, release_gradients

LAYERS = 12


def measure(width: int, batch: int, tokens: int, count: int) -> tuple[float, float]:
    """Seconds of the look, and its share of the backward pass around it."""
    layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    optimizer = AdaMomentum(model.parameters())
    release_gradients(optimizer)
    looks, shares = [], []
    look = passes.reenters

    def timed() -> bool:
        start = time.thread_time()
        answer = look()
        looks.append(time.thread_time() - start)
        return answer

    with patch.object(passes, "reenters", timed):
        for _ in range(count):
            loss = model(torch.randn(batch, tokens, width)).square().mean()
            start = time.thread_time()
            loss.backward()
            shares.append(looks[-1] / (time.thread_time() - start))
    return median(looks), median(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for width, batch, tokens in ((128, 2, 16), (256, 4, 64), (512, 4, 64)):
        seconds, share = measure(width, batch, tokens, arguments.passes)
        what = f"{LAYERS} layers of width {width}, {batch * tokens} tokens"
        print(f"{what}: {1e3 * seconds:.2f} ms, {share:.2%} of the pass")


if __name__ == "__main__":
    main()
