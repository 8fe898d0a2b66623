"""What data sets have in common: the error, their splits and what files call these, a fingerprint of the content.

Tested in tests/study/test_data.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from adamomentum.study.digest import digest

SPLITS = ("train", "val", "test")

NAMES = {"train": ("train",), "val": ("valid", "validation", "val", "dev"), "test": ("test",)}
"""What others call our splits, the usual name first."""


class DataError(Exception):
    """Data could not be had or is not usable; the message says why and what to do."""


def hold_out(count: int, size: int) -> dict[str, npt.NDArray[np.int64]]:
    """Return which of ``count`` examples are for training and which ``size`` for validation, always the same ones."""
    order = np.random.default_rng(0).permutation(count)
    return {"train": np.sort(order[size:]), "val": np.sort(order[:size])}


def fingerprint_of(x: Mapping[str, npt.NDArray[Any]], y: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return 16 hex digits over inputs and labels of all splits, their dtypes and shapes included."""
    return digest(
        part
        for split in SPLITS
        for array in (x[split], y[split])
        for part in (f"{split} {array.dtype.str} {array.shape};", np.ascontiguousarray(array).tobytes())
    )
