"""Prepared data sets on disk: what takes seconds to make is made once.

Tested in tests/study/test_language_data.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adamomentum.files import write_atomic

Arrays = dict[str, npt.NDArray[Any]]


def cache_dir() -> Path:
    """Where prepared data sets are kept between runs."""
    from platformdirs import user_cache_path

    return user_cache_path("adamomentum")


def cached(name: str, make: Callable[[], tuple[Arrays, Mapping[str, str]]], cache: Path | None = None) -> Arrays:
    """Return the arrays kept under ``name``, or else those that ``make`` returns, and keep them.

    Args:
        name: file name without ending; must change whenever ``make`` would return something else.
        make: returns the arrays, and texts to be kept beside them by file ending, e.g. the licence.
        cache: the folder; by default ``cache_dir()``.
    """
    path = (cache if cache is not None else cache_dir()) / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except Exception:
        # Whatever is wrong with a cache file (np.load raises many types), preparing it again cures it.
        arrays, texts = make()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    try:
        for ending, text in texts.items():
            write_atomic(path.with_suffix(f".{ending}"), text.encode())
        write_atomic(path, buffer.getvalue())
    except OSError:
        pass  # A read-only home costs a download the next time, nothing else.
    return arrays
