"""Keras: compile and fit, warm-up and cosine, no decay on biases and norms, saved and loaded in the middle.

KERAS_BACKEND=torch python examples/keras_fit.py     (or jax, or tensorflow)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np

from adamomentum.keras import AdaMomentum

EPOCHS, BATCH = 12, 32


def data() -> tuple[np.ndarray, np.ndarray]:
    """Points of the plane, and whether they lie in a ring."""
    x = np.random.default_rng(0).uniform(-2, 2, (2048, 2)).astype("float32")
    radius = np.linalg.norm(x, axis=1)
    return x, ((radius > 0.7) & (radius < 1.5)).astype("int32")


def main() -> None:
    keras.utils.set_random_seed(0)
    x, y = data()
    model = keras.Sequential(
        [
            keras.layers.Input((2,)),
            keras.layers.Dense(64, "gelu"),
            keras.layers.LayerNormalization(),
            keras.layers.Dense(64, "gelu"),
            keras.layers.Dense(2),
        ]
    )
    steps = EPOCHS * len(x) // BATCH
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - 50, warmup_target=1e-2, warmup_steps=50)
    # Was keras.optimizers.AdamW(schedule, weight_decay=0.1, global_clipnorm=1.0): its rate, schedule and decay stay.
    optimizer = AdaMomentum(schedule, weight_decay=0.1, global_clipnorm=1.0, adjust_lr="match_rms_adamw")
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])  # saved with the model
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    first = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS // 2, verbose=0).history
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        model = keras.saving.load_model(Path(folder) / "model.keras")
    second = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS - EPOCHS // 2, verbose=0).history
    print(
        f"{keras.backend.backend()}: loss {first['loss'][0]:.2f} -> {second['loss'][-1]:.2f}, "
        f"accuracy {100 * second['accuracy'][-1]:.0f} %"
    )
    assert second["loss"][-1] < 0.5 * first["loss"][0]


if __name__ == "__main__":
    main()
