"""Equinox: the transformation on the arrays of a model.

python examples/equinox_loop.py
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from adamomentum.optax import adamomentum

STEPS = 300


def batch(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points of the plane, and whether they lie in a ring."""
    x = jax.random.uniform(key, (64, 2), minval=-2, maxval=2)
    radius = jnp.linalg.norm(x, axis=1)
    return x, ((radius > 0.7) & (radius < 1.5)).astype(jnp.int32)


def main() -> None:
    model = eqx.nn.MLP(2, 2, width_size=64, depth=2, activation=jax.nn.gelu, key=jax.random.key(0))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.3e-2, 50, STEPS)
    # Was optax.adamw(schedule, weight_decay=0.1): its rate, schedule and decay stay.
    optimizer = adamomentum(schedule, weight_decay=0.1, adjust_lr="match_rms_adamw")
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, x, y):
        def loss_fn(model):
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for key in jax.random.split(jax.random.key(1), STEPS):
        model, state, loss = step(model, state, *batch(key))
        losses.append(float(loss))
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    assert losses[-1] < 0.5 * losses[0]


if __name__ == "__main__":
    main()
