"""Parquet files of a data set with splits: which belong to a split, and what their columns hold.

Tested in tests/study/test_parquet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from adamomentum.study.data.base import NAMES, DataError


def files(folder: Path, split: str) -> list[Path]:
    """Return the parquet files of a split below ``folder``, in order; none if there are none.

    A file belongs to the split after which it is named: ``train.parquet``, or ``train-00000-of-00001.parquet`` as the
    Hub has them. If it is named after none, to that of its folder below ``folder``: ``train/0000.parquet``, as the
    Hub's conversion does. Of several names of a split (``NAMES``) the first one counts that a file has.
    """
    named = [(path, _named_after(path, folder)) for path in sorted(folder.rglob("*.parquet"))]
    for name in NAMES[split]:
        paths = [path for path, after in named if after == name]
        if paths:
            return paths
    return []


def _named_after(path: Path, folder: Path) -> str:
    # The folder that is searched may itself be called train: that says nothing of what lies in it.
    places = [path.stem.partition("-")[0], *([path.parent.name] if path.parent != folder else [])]
    known = {name for names in NAMES.values() for name in names}
    return next((place for place in places if place in known), "")


def columns(source: Path | IO[bytes], names: Sequence[str]) -> list[list[Any]]:
    """Return the values of each of the named columns.

    Args:
        source: a file.
        names: of the columns.

    Raises:
        DataError: if pyarrow is not installed.
        ValueError: if the file cannot be read, or lacks a column.
    """
    try:
        import pyarrow
        from pyarrow.parquet import read_table
    except ImportError:
        raise DataError('parquet files need pyarrow: pip install "adamomentum[study]"') from None
    try:
        table = read_table(source, columns=list(names))
        return [table[name].to_pylist() for name in names]
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise ValueError(str(error).partition("\n")[0]) from None
