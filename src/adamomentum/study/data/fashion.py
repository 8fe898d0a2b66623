"""Fashion-MNIST (arXiv 1708.07747) where it is installed: Debian's dataset-fashion-mnist, or the user's copy.

Tested in tests/study/test_image_sources.py.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adamomentum.study.data.base import DataError, hold_out
from adamomentum.study.data.images import ImageData

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def fashion_mnist(source: Path | None) -> ImageData:
    """Return Fashion-MNIST: of its training images a sixth is held out for validation.

    Args:
        source: the folder with the four ``.gz`` files; None: where Debian's package puts them.

    Raises:
        DataError: if it is not there, or is not what it should be.
    """
    folder = source if source is not None else DEBIAN
    if not folder.is_dir():
        raise DataError(
            f"Fashion-MNIST is not in {folder}; install it with `apt-get install dataset-fashion-mnist`, or give "
            "--data fashion-mnist=FOLDER with its four .gz files"
        )
    x, y = _read(folder / "train-images-idx3-ubyte.gz", 3), _read(folder / "train-labels-idx1-ubyte.gz", 1)
    x_test, y_test = _read(folder / "t10k-images-idx3-ubyte.gz", 3), _read(folder / "t10k-labels-idx1-ubyte.gz", 1)
    if len(x) != len(y) or len(x_test) != len(y_test):
        raise DataError(f"{folder}: {len(x)} and {len(x_test)} images, {len(y)} and {len(y_test)} labels")
    highest = max(y.max(initial=0), y_test.max(initial=0))
    if len(y) < 6 or not len(y_test) or highest >= len(CLASSES):
        raise DataError(
            f"{folder} is not Fashion-MNIST: {len(y)} and {len(y_test)} images, labels up to {highest}; expected "
            f"60000 and 10000, labels up to {len(CLASSES) - 1}"
        )
    rows = hold_out(len(y), len(y) // 6)
    return ImageData(
        name="Fashion-MNIST",
        x={**{split: x[part][..., None] for split, part in rows.items()}, "test": x_test[..., None]},
        y={**{split: y[part].astype(np.int64) for split, part in rows.items()}, "test": y_test.astype(np.int64)},
        classes=CLASSES,
    )


def _read(path: Path, dimensions: int) -> npt.NDArray[Any]:
    """Return the bytes of an idx file: a magic number with the number of dimensions, the sizes, the values."""
    try:
        content = gzip.decompress(path.read_bytes())
        header = np.frombuffer(content, ">i4", 1 + dimensions)
        if header[0] != 0x0800 + dimensions:
            raise ValueError(f"it begins with {header[0]:#x}")
        return np.frombuffer(content, np.uint8, offset=4 * (1 + dimensions)).reshape(header[1:]).copy()
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as Fashion-MNIST ({error})") from None
