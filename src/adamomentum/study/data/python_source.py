"""Python source as bytes, out of a pinned wheel: that of NetworkX, its tests left out.

NetworkX is under the 3-clause BSD licence, by its developers.

Tested in tests/study/test_language_data.py.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from adamomentum.study.data.base import SPLITS, DataError
from adamomentum.study.data.cache import Arrays, cached
from adamomentum.study.data.text import TextData
from adamomentum.study.data.wheel import Wheel, check_given, download

WHEEL = Wheel("networkx", "3.4.2", "df5d4365b724cf81b8c6a7312509d0c22386097011ad1abe274afd5e9d3bbc5f")
LICENCE = (
    "Source of NetworkX 3.4.2 (https://networkx.org), copyright (C) 2004-2024 NetworkX Developers, Aric Hagberg, Dan "
    "Schult, Pieter Swart; 3-clause BSD licence (https://opensource.org/license/bsd-3-clause). Read out of the wheel "
    "networkx 3.4.2.\n"
)
VERSION = 1  # of how it is read; raised when it changes
HOLD_OUT = 12
"""Of so many files one is for validation and one for the test."""


def python_source(source: Path | None = None, cache: Path | None = None) -> TextData:
    """Return the source, byte by byte: of twelve files ten are for training, one each for validation and test.

    Args:
        source: the wheel as a file; None: from the cache, or else downloaded.
        cache: folder of the cache; by default ``cache_dir()``.

    Raises:
        DataError: if it is not in the cache and cannot be downloaded, or ``source`` is another file.
    """

    def make() -> tuple[Arrays, dict[str, str]]:
        return _make(source)

    check_given("networkx", WHEEL, source)
    arrays = cached(f"networkx-{WHEEL.sha256[:12]}-v{VERSION}", make, cache)
    tokens = {split: arrays[split].astype(np.int32) for split in SPLITS}
    return TextData("Python source of NetworkX", tuple(map(chr, range(256))), tokens, unit="bytes")


def _make(source: Path | None) -> tuple[Arrays, dict[str, str]]:
    try:
        with TemporaryDirectory() as folder, zipfile.ZipFile(source or download(WHEEL, Path(folder))) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    except DataError as error:
        raise DataError(
            f"the source of NetworkX is not in the cache and {error}; connect to the network once, or give "
            f"--data networkx=FILE, the wheel {WHEEL.name} {WHEEL.version}"
        ) from None
    return split(files), {"LICENCE.txt": LICENCE}


def split(files: dict[str, bytes]) -> Arrays:
    """Return the bytes of the Python files that are no tests, uint8, by split; a file is in one of them as a whole."""
    names = sorted(name for name in files if name.endswith(".py") and "/tests/" not in name)
    parts: dict[str, list[bytes]] = {name: [] for name in SPLITS}
    for k, name in enumerate(names):
        held = {HOLD_OUT // 2 - 1: "val", HOLD_OUT - 1: "test"}
        parts[held.get(k % HOLD_OUT, "train")].append(files[name])
    return {name: np.frombuffer(b"".join(contents), dtype=np.uint8) for name, contents in parts.items()}
