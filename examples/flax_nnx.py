"""Flax NNX: the transformation in an nnx.Optimizer.

python examples/flax_nnx.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from adamomentum.optax import adamomentum

STEPS = 300


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(2, 64, rngs=rngs)
        self.norm = nnx.LayerNorm(64, rngs=rngs)
        self.second = nnx.Linear(64, 64, rngs=rngs)
        self.third = nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.gelu(self.norm(self.first(x)))
        return self.third(nnx.gelu(self.second(x)))


def batch(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points of the plane, and whether they lie in a ring."""
    x = jax.random.uniform(key, (64, 2), minval=-2, maxval=2)
    radius = jnp.linalg.norm(x, axis=1)
    return x, ((radius > 0.7) & (radius < 1.5)).astype(jnp.int32)


@nnx.jit
def step(model: Network, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
    def loss_fn(model: Network) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


def main() -> None:
    model = Network(nnx.Rngs(0))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.3e-2, 50, STEPS)
    # Was optax.adamw(schedule, weight_decay=0.1): its rate, schedule and decay stay.
    transform = adamomentum(schedule, weight_decay=0.1, adjust_lr="match_rms_adamw")
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    losses = [float(step(model, optimizer, *batch(key))) for key in jax.random.split(jax.random.key(1), STEPS)]
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    assert losses[-1] < 0.5 * losses[0]


if __name__ == "__main__":
    main()
