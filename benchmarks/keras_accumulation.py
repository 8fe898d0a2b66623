"""Memory of accumulated gradients in Keras's jax backend: in the first moment, and in Keras's accumulators.

python benchmarks/keras_accumulation.py [--parameters 20000000] [--variables 4]

Bytes a parameter, which is in float32: the optimizer's variables, and XLA's own figure of what its compiled step needs
beside them, variables and gradients, where all but the gradients is donated, as Keras's trainer does.
"""

from __future__ import annotations

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras

from adamomentum.keras import AdaMomentum

MATCH = {"adjust_lr": "match_rms_adamw"}
MAKERS = {
    "AdamW": lambda: keras.optimizers.AdamW(1e-3),
    "AdamW, accumulating": lambda: keras.optimizers.AdamW(1e-3, gradient_accumulation_steps=8),
    "AdaMomentum": lambda: AdaMomentum(1e-3, weight_decay=4e-3, **MATCH),
    "AdaMomentum, accumulating": lambda: AdaMomentum(1e-3, weight_decay=4e-3, gradient_accumulation_steps=8, **MATCH),
    "AdaMomentum, accumulating, `global_clipnorm`": lambda: AdaMomentum(
        1e-3, weight_decay=4e-3, gradient_accumulation_steps=8, global_clipnorm=1.0, **MATCH
    ),
}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--parameters", type=int, default=20_000_000)
    arguments.add_argument("--variables", type=int, default=4, help="that the parameters are in")
    options = arguments.parse_args()
    shape = (options.parameters // options.variables,)
    n = shape[0] * options.variables
    print(f"keras {keras.__version__}, jax {jax.__version__}, {n} parameters in {options.variables} variables\n")
    print("| | state | beside |\n|---|---|---|")
    for name, make in MAKERS.items():
        optimizer = make()
        variables = [keras.Variable(keras.ops.zeros(shape)) for _ in range(options.variables)]
        optimizer.build(variables)
        state = [v.value for v in optimizer.variables]
        values = [v.value for v in variables]
        step = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))
        memory = step.lower(state, values, values).compile().memory_analysis()
        size = sum(x.nbytes for x in state)
        print(f"| {name} | {size / n:.2f} | {memory.temp_size_in_bytes / n:.2f} |")


if __name__ == "__main__":
    main()
