"""Time of a training step's update in JAX beside optax.adamw's on the same tree, and time to compile it.

python benchmarks/optax_step.py [--parameters 2000000] [--leaves 4] [--rounds 15] [--eager]

The step is jitted and its parameters and state are donated, as in a training loop: without that it is mostly the time
of fresh memory. With --eager nothing is jitted. Times on a CPU are CPU time, which other programs disturb less, and
ratios are taken within a round, in which the optimizers come in random order; the second optax.adamw shows the noise.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from adamomentum.optax import adamomentum

BFLOAT16 = {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16}
MAKERS = {
    "optax.adamw": lambda: optax.adamw(1e-3),
    "optax.adamw, again": lambda: optax.adamw(1e-3),
    "optax.adamw, bfloat16 mu": lambda: optax.adamw(1e-3, mu_dtype=jnp.bfloat16),
    "optax.adabelief": lambda: optax.adabelief(1e-3),
    "adamomentum": lambda: adamomentum(1e-3, weight_decay=1e-4),
    "adamomentum, bfloat16 moments": lambda: adamomentum(1e-3, weight_decay=1e-4, **BFLOAT16),
    "adamomentum, amsgrad": lambda: adamomentum(1e-3, weight_decay=1e-4, amsgrad=True),
}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--parameters", type=int, default=2_000_000)
    arguments.add_argument("--leaves", type=int, default=4, help="arrays that the parameters are in, all of one shape")
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--eager", action="store_true", help="outside of jit")
    options = arguments.parse_args()
    shape = (max(options.parameters // options.leaves // 100, 1), 100)
    keys = jax.random.split(jax.random.key(0), options.leaves)
    grads = {str(i): 0.1 * jax.random.normal(key, shape) for i, key in enumerate(keys)}
    steps = max(1, min(10, 20_000_000 // options.parameters))
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    runs, compile_time = {}, {}
    for name, make in MAKERS.items():
        optimizer = make()

        def step(params, state, grads, optimizer=optimizer):
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(jnp.ones_like, grads)
        state = optimizer.init(params)
        if not options.eager:
            traced = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads)
            start = time.process_time()
            step = traced.compile()
            compile_time[name] = time.process_time() - start
        runs[name] = (step, step(params, state, grads))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name in random.sample(list(runs), len(runs)):
            step, current = runs[name]
            jax.block_until_ready(current)
            start = clock()
            for _ in range(steps):
                current = step(*current, grads)
            jax.block_until_ready(current)
            times[name].append((clock() - start) / steps)
            runs[name] = (step, current)
    print(
        f"jax {jax.__version__}, optax {optax.__version__}, {jax.devices()[0].device_kind}, {options.leaves} arrays of "
        f"{shape[0]} x {shape[1]}, {'not jitted' if options.eager else 'jitted and donated'}\n"
    )
    print("| optimizer | time of a step | ratio to optax.adamw, and its quartiles | to compile |\n|---|---|---|---|")
    for name, seconds in times.items():
        ratios = [t / base for t, base in zip(seconds, times["optax.adamw"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        compiled = f"{compile_time[name]:.2f} s" if name in compile_time else "-"
        spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        print(f"| {name} | {1e3 * statistics.median(seconds):.2f} ms | {spread} | {compiled} |")


if __name__ == "__main__":
    main()
