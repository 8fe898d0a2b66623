"""What labelled data sets have in common: their splits, what files call these, a fingerprint of what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

SPLITS = ("train", "val", "test")

NAMES = {"train": ("train",), "val": ("valid", "validation", "val", "dev"), "test": ("test",)}
"""What others call our splits, the usual name first."""


def fingerprint_of(x: Mapping[str, npt.NDArray[Any]], y: Mapping[str, npt.NDArray[Any]]) -> str:
    """Returns 16 hex digits over inputs and labels of all splits, their dtypes and shapes included."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for array in (x[split], y[split]):
            digest.update(f"{split} {array.dtype.str} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
