"""CIFAR from the parquet files of the Hugging Face Hub (``uoft-cs/cifar10`` and ``uoft-cs/cifar100``).

Tested in tests/study/test_parquet.py.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from adamomentum.study.data import parquet
from adamomentum.study.data.base import DataError
from adamomentum.study.data.images import on_white

SPLITS = ("train", "test")
LABELS = {"cifar10": "label", "cifar100": "fine_label"}

Part = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def find(folder: Path) -> dict[str, list[Path]]:
    """Return the parquet files of each split below ``folder``, in order; no split has any if one lacks them."""
    files = {split: parquet.files(folder, split) for split in SPLITS}
    return files if all(files.values()) else {}


def read(files: dict[str, list[Path]], name: str) -> dict[str, Part]:
    """Return images, uint8 [n, 32, 32, 3], and labels, int64 [n], of ``train`` and ``test``.

    Args:
        files: what ``find`` returned.
        name: ``cifar10`` or ``cifar100``.

    Raises:
        DataError: if a file is not what the Hub has, or pyarrow is not installed.
    """
    return {split: _read(paths, LABELS[name]) for split, paths in files.items()}


def _read(paths: list[Path], labels: str) -> Part:
    images: list[npt.NDArray[np.uint8]] = []
    y: list[int] = []
    for path in paths:
        try:
            rows, classes = parquet.columns(path, ("img", labels))
            images += [_pixels(row["bytes"]) for row in rows]
            y += classes
        except DataError:
            raise
        except Exception as error:
            # Pillow raises many types for broken files.
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{path} cannot be read as CIFAR ({reason}); expected columns img and {labels}, images of 32 x 32"
            ) from None
    if not y:
        raise DataError(f"{', '.join(map(str, paths))}: no images")
    return np.stack(images), np.array(y, dtype=np.int64)


def _pixels(encoded: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(on_white(image).convert("RGB"))
    if pixels.shape != (32, 32, 3):
        raise ValueError(f"an image of shape {pixels.shape}")
    return pixels
