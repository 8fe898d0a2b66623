"""Memory and time of accumulated gradients in JAX: in the first moment, and in the tree of optax.MultiSteps.

python benchmarks/optax_accumulation.py [--parameters 20000000] [--leaves 4] [--passes 8] [--rounds 9]

Bytes a parameter, which is in float32: the state's, which are those of its arrays, and XLA's own figure of what the
compiled step needs beside parameters, state and gradients, where parameters and state are donated. Times are those of
as many micro-batches as make a step, on a CPU its CPU time, as ratios within a round to the first row.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from adamomentum.optax import MultiSteps, adamomentum

MATCH = {"adjust_lr": "match_rms_adamw"}
BFLOAT16 = {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16}
MAKERS = {
    "`optax.MultiSteps`, `optax.adamw`": lambda k: optax.MultiSteps(optax.adamw(1e-3), k),
    "the same, again": lambda k: optax.MultiSteps(optax.adamw(1e-3), k),
    "adamomentum, an update each time": lambda k: adamomentum(1e-3, **MATCH),
    "`optax.MultiSteps`, adamomentum": lambda k: optax.MultiSteps(adamomentum(1e-3, **MATCH), k),
    "`MultiSteps`, adamomentum": lambda k: MultiSteps(adamomentum(1e-3, **MATCH), k),
    "`MultiSteps`, adamomentum, bfloat16 moments": lambda k: MultiSteps(adamomentum(1e-3, **MATCH, **BFLOAT16), k),
}


def measure(parameters: int, leaves: int, passes: int, rounds: int) -> None:
    shape = (max(parameters // leaves // 100, 1), 100)
    grads = {
        str(i): 0.1 * jax.random.normal(key, shape) for i, key in enumerate(jax.random.split(jax.random.key(0), leaves))
    }
    n = sum(g.size for g in grads.values())
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    rows, runs = {}, {}
    for name, make in MAKERS.items():
        optimizer = make(passes)

        def step(params, state, grads, optimizer=optimizer):
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(jnp.ones_like, grads)
        state = optimizer.init(params)
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads).compile()
        rows[name] = (
            sum(x.nbytes for x in jax.tree.leaves(state)) / n,
            compiled.memory_analysis().temp_size_in_bytes / n,
        )
        runs[name] = (compiled, (params, state))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name in random.sample(list(runs), len(runs)):
            step, current = runs[name]
            jax.block_until_ready(current)
            start = clock()
            for _ in range(passes):
                current = step(*current, grads)
            jax.block_until_ready(current)
            if i:  # the first round warms up
                times[name].append(clock() - start)
            runs[name] = (step, current)
    print(
        f"jax {jax.__version__}, optax {optax.__version__}, {n} parameters in {leaves} arrays, {passes} passes a step\n"
    )
    print("| | state | beside | time of a step: median (quartiles) |\n|---|---|---|---|")
    for name, (state, beside) in rows.items():
        ratios = [t / base for t, base in zip(times[name], times[next(iter(rows))], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"| {name} | {state:.2f} | {beside:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--parameters", type=int, default=20_000_000)
    arguments.add_argument("--leaves", type=int, default=4, help="arrays that the parameters are in, all of one shape")
    arguments.add_argument("--passes", type=int, default=8, help="micro-batches a step")
    arguments.add_argument("--rounds", type=int, default=9)
    options = arguments.parse_args()
    measure(options.parameters, options.leaves, options.passes, options.rounds)


if __name__ == "__main__":
    main()
