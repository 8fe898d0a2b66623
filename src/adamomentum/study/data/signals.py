"""MNIST-1D (arXiv 2011.14439): digits as signals of 40 numbers, made by the procedure in its pinned wheel.

Tested in tests/study/test_image_sources.py.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from adamomentum.study.data.base import SPLITS, DataError, fingerprint_of
from adamomentum.study.data.cache import Arrays, cached
from adamomentum.study.data.wheel import Wheel, download

WHEEL = Wheel("mnist1d", "0.0.2.post1", "e780fadc12ab6e45994dcb02bbe728b347243e0a5d13790f2a86992500eceb86")
LICENCE = (
    "MNIST-1D by Sam Greydanus and others, Apache License 2.0; made by mnist1d 0.0.2.post1 with its default seed.\n"
)
VAL = 400
VERSION = 1

# Runs in a process of its own, which the package may seed and whose path it may use. What it imports to download a
# ready-made file and to plot is not used here and need not be there.
_MAKE = """
import sys, types
import numpy as np
sys.path.insert(0, sys.argv[1])
for name in ("requests", "matplotlib", "matplotlib.pyplot"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["matplotlib"].pyplot = sys.modules["matplotlib.pyplot"]
from mnist1d.data import get_dataset_args, make_dataset
data = make_dataset(get_dataset_args())
np.savez(sys.argv[2], x=data["x"], y=data["y"], x_test=data["x_test"], y_test=data["y_test"])
"""


@dataclass(frozen=True, eq=False)
class SignalData:
    """Labelled signals.

    Attributes:
        name: for display only.
        x: per split, float32 [n, length], of mean 0 and standard deviation 1 over the whole set.
        y: per split, int64 [n], indices into ``classes``.
        classes: class names.
    """

    name: str
    x: Mapping[str, npt.NDArray[np.float32]]
    y: Mapping[str, npt.NDArray[np.int64]]
    classes: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over the contents of all splits."""
        return fingerprint_of(self.x, self.y)

    def describe(self) -> str:
        """Return one line: name, sizes of the splits, length, number of classes."""
        n = " / ".join(f"{len(self.y[split]):,}" for split in SPLITS)
        length = self.x["train"].shape[1]
        return f"{self.name}: {n} signals (train / val / test) of {length} numbers, {len(self.classes)} classes"


def mnist1d(cache: Path | None = None) -> SignalData:
    """Return MNIST-1D with its own test split; of its 4,000 training signals the last 400 are for validation.

    Raises:
        DataError: if it is not in the cache and cannot be downloaded or made.
    """
    arrays = cached(f"mnist1d-{WHEEL.sha256[:12]}-v{VERSION}", _make, cache)
    x, y = arrays["x"], arrays["y"]
    parts = {"train": slice(0, -VAL), "val": slice(-VAL, None)}  # the set is shuffled
    return SignalData(
        name="MNIST-1D",
        x={**{split: x[part] for split, part in parts.items()}, "test": arrays["x_test"]},
        y={**{split: y[part] for split, part in parts.items()}, "test": arrays["y_test"]},
        classes=tuple("0123456789"),
    )


def _make() -> tuple[Arrays, dict[str, str]]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "made.npz"
        try:
            wheel = download(WHEEL, Path(folder))
        except DataError as error:
            raise DataError(f"MNIST-1D is not in the cache and {error}; connect to the network once") from None
        command = [sys.executable, "-c", _MAKE, str(wheel), str(path)]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if result.returncode:
            raise DataError(f"MNIST-1D could not be made: {result.stderr.strip().splitlines()[-1]}")
        with np.load(io.BytesIO(path.read_bytes())) as file:
            arrays = {key: file[key] for key in file.files}
    # Rounded: the last bits depend on the machine, and the data's fingerprint must not.
    rounded = {key: np.round(arrays[key], 4).astype(np.float32) for key in ("x", "x_test")}
    return {**rounded, **{key: arrays[key].astype(np.int64) for key in ("y", "y_test")}}, {"LICENCE.txt": LICENCE}
