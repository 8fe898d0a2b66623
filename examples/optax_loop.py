"""JAX with optax alone: a jitted step, warm-up and cosine, decay on matrices only, clipping, gradient accumulation.

python examples/optax_loop.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from adamomentum.optax import adamomentum

STEPS, WARMUP, ACCUMULATE = 200, 50, 2


def batch(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points of the plane, and whether they lie in a ring."""
    x = jax.random.uniform(key, (64, 2), minval=-2, maxval=2)
    radius = jnp.linalg.norm(x, axis=1)
    return x, ((radius > 0.7) & (radius < 1.5)).astype(jnp.int32)


def init(key: jax.Array) -> dict[str, jax.Array]:
    one, two = jax.random.split(key)
    return {
        "w1": jax.random.normal(one, (2, 64)) / 2**0.5,
        "b1": jnp.zeros(64),
        "w2": jax.random.normal(two, (64, 2)) / 8,
        "b2": jnp.zeros(2),
    }


def loss_fn(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    hidden = jax.nn.gelu(x @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def main() -> None:
    schedule = optax.warmup_cosine_decay_schedule(0.0, 4.4e-2, WARMUP, STEPS)
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    # Was optax.adamw(schedule, weight_decay=0.1, mask=matrices): its rate, schedule and decay stay.
    scaled = adamomentum(schedule, weight_decay=0.1, mask=matrices, adjust_lr="match_rms_adamw")
    optimizer = optax.MultiSteps(
        optax.chain(optax.clip_by_global_norm(1.0), scaled),
        every_k_schedule=ACCUMULATE,
    )
    params = init(jax.random.key(0))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        loss, grads = jax.value_and_grad(loss_fn)(params, *batch(key))
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for key in jax.random.split(jax.random.key(1), STEPS * ACCUMULATE):
        params, state, loss = step(params, state, key)
        losses.append(float(loss))
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    assert losses[-1] < 0.5 * losses[0]


if __name__ == "__main__":
    main()
