"""CPU time of a step of AdaMomentum on Keras's torch backend beside Keras's AdamW, as ratios in interleaved rounds.

Many small variables: 200 of 16 and 16x16, or 100 layers Dense(16); few large ones: 4 of 1000x1000, or 4 Dense(1000).
Accumulated gradients make every 4th step an update. A batch has 8 samples.

python benchmarks/keras_step.py [--rounds 9] [--scale 1.0]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

from adamomentum.keras import AdaMomentum

MAKERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "AdamW": lambda **options: keras.optimizers.AdamW(1e-3, **options),
    "AdaMomentum": lambda **options: AdaMomentum(1e-3, weight_decay=4e-3, **options),
}


def apply_to(shapes: list[tuple[int, ...]], dtype: str = "float32") -> Callable:
    """A maker of steps: ``optimizer.apply`` to variables of these shapes."""

    def make(optimizer: keras.optimizers.Optimizer) -> Callable[[], None]:
        rng = np.random.default_rng(0)
        variables = [keras.Variable(rng.standard_normal(shape), dtype=dtype) for shape in shapes]
        gradients = [keras.ops.cast(rng.standard_normal(shape), dtype) for shape in shapes]
        optimizer.build(variables)
        return lambda: optimizer.apply(gradients, variables)

    return make


def fit(layers: int, width: int) -> Callable:
    """A maker of steps: one of ``fit``, of a model of dense layers and a batch of 8."""

    def make(optimizer: keras.optimizers.Optimizer) -> Callable[[], None]:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Input((width,)), *(keras.layers.Dense(width) for _ in range(layers))])
        model.compile(optimizer, "mse")
        x = np.random.default_rng(0).standard_normal((8, width)).astype("float32")
        return lambda: model.train_on_batch(x, x)

    return make


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument(
        "--scale", type=float, default=1.0, help="of how many small and how wide large variables are"
    )
    options = arguments.parse_args()
    small, wide = max(1, int(100 * options.scale)), max(1, int(1000 * options.scale))
    many, few = [(16,), (16, 16)] * small, [(wide, wide)] * 4
    cases = {
        "many small variables": (apply_to(many), {}, 10),
        "the same, amsgrad": (apply_to(many), {"amsgrad": True}, 10),
        "the same, bfloat16": (apply_to(many, "bfloat16"), {}, 10),
        "the same, gradients accumulated": (apply_to(many), {"gradient_accumulation_steps": 4}, 12),
        "few large variables": (apply_to(few), {}, 3),
        "few large variables, amsgrad": (apply_to(few), {"amsgrad": True}, 3),
        "a step of `fit`, many small layers": (fit(small, 16), {}, 5),
        "a step of `fit`, few large layers": (fit(4, wide), {}, 3),
    }
    print("| | CPU time to that of AdamW: median (quartiles) |\n|---|---|")
    for case, (make, settings, steps) in cases.items():
        runs = {name: make(maker(**settings)) for name, maker in MAKERS.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for i in range(options.rounds + 1):
            for name in list(runs)[:: 1 if i % 2 else -1]:
                start = time.process_time()
                for _ in range(steps):
                    runs[name]()
                if i:  # the first round warms up
                    times[name].append(time.process_time() - start)
        ratios = [ours / base for ours, base in zip(times["AdaMomentum"], times["AdamW"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"| {case} | {middle:.2f} ({low:.2f}-{high:.2f}) |", flush=True)


if __name__ == "__main__":
    main()
