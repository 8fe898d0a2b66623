"""Time of a jitted update of AdaMomentum in JAX, beside optax.adamw on the same tree, as ratios in interleaved rounds.

python benchmarks/optax_step.py [--parameters 2000000] [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from adamomentum.optax import adamomentum

MAKERS = {
    "optax.adamw": lambda: optax.adamw(1e-3),
    "optax.adabelief": lambda: optax.adabelief(1e-3),
    "adamomentum": lambda: adamomentum(1e-3, weight_decay=1e-4),
    "adamomentum, bfloat16 moments": lambda: adamomentum(
        1e-3, weight_decay=1e-4, mu_dtype=jnp.bfloat16, nu_dtype=jnp.bfloat16
    ),
}
STEPS = 10


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--parameters", type=int, default=2_000_000)
    arguments.add_argument("--rounds", type=int, default=9)
    options = arguments.parse_args()
    each = options.parameters // 4
    params = {str(i): jnp.ones((each // 1000, 1000)) for i in range(4)}
    grads = jax.tree.map(lambda p: 0.1 * p, params)
    runs = {}
    for name, make in MAKERS.items():
        optimizer = make()

        def step(params, state, optimizer=optimizer):
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        compiled = jax.jit(step)
        runs[name] = (compiled, compiled(params, optimizer.init(params)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, (compiled, current) in runs.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                current = compiled(*current)
            jax.block_until_ready(current)
            times[name].append((time.perf_counter() - start) / STEPS)
            runs[name] = (compiled, current)
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, optax {optax.__version__}, {device}, {4 * each:,} float32 parameters")
    for name, found in times.items():
        ratios = [t / base for t, base in zip(found, times["optax.adamw"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:32} {1e3 * statistics.median(found):7.2f} ms, ratio {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
