"""Rounding to bfloat16 by chance, on every backend of Keras, with the random bits of the PyTorch class.

Tested in tests/keras_suite.py.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

__all__ = ["rounded_by_chance"]

# Those of parameters in adamomentum.torch.precision, as signed numbers of 32 bits: what is multiplied of the place and
# of the step.
_BY_POSITION, _BY_STEP = 0xD1B54A33 - 2**32, 0x9E3779B9 - 2**32


def rounded_by_chance(x: Any, step: Any) -> Any:
    """Round numbers to bfloat16, up or down with the probability that keeps the mean.

    The random bits are a function of an element's place and of the step, in 32 bits where what overflows is cut off.

    Args:
        x: float32, any shape.
        step: the step count, from 1.

    Returns:
        bfloat16 numbers. Infinities and NaN stay what they are.
    """
    place = ops.reshape(ops.arange(math.prod(x.shape), dtype="int32"), x.shape)
    random = place * _BY_POSITION + ops.cast(step, "int32") * _BY_STEP
    noise = ops.bitwise_and(ops.right_shift(random, 16), 0xFFFF)
    cut = ops.bitwise_and(_bits(x, "int32") + noise, ~0xFFFF)
    return ops.cast(ops.where(ops.isfinite(x), _bits(cut, "float32"), x), "bfloat16")


def _bits(x: Any, dtype: str) -> Any:
    """Return the same bits as another type of 32, which keras.ops has from 3.12 on."""
    if keras.backend.backend() == "torch":
        import torch

        return x.view(getattr(torch, dtype))
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.bitcast_convert_type(x, dtype)
    import tensorflow

    return tensorflow.bitcast(x, dtype)
