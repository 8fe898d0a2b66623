"""Writing files that others may be reading, or that a kill may interrupt; a table for such files.

Tested in tests/study/test_store.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds either the old or the new file, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class FolderError(OSError):
    """A folder cannot be made or written to; the message says why and what to do."""


def make_folder(path: Path, option: str = "--out") -> None:
    """Make the folder ``path`` with all above it; one that is there is left as it is.

    Raises:
        FolderError: if that is not possible; the message names ``option`` as the way out.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        blocker = next((p for p in (path, *path.parents) if os.path.lexists(p) and not p.is_dir()), None)
        reason = error.strerror if blocker is None else f"{blocker} is {'a file' if blocker.exists() else 'a bad link'}"
        raise FolderError(f"cannot create {path}: {reason}; choose another {option}") from None


def check_output(folder: Path, files: tuple[str, ...], folders: tuple[str, ...] = ()) -> None:
    """Refuse, before anything is computed, what could not be written into ``folder`` after it; make the folder.

    Args:
        folder: where to.
        files: names of files that will be written.
        folders: names of folders that will be written into.

    Raises:
        FolderError: if the folder cannot be made or written to, or something else has one of the names.
    """
    make_folder(folder)
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FolderError(f"cannot write into {folder}: {error.strerror}; choose another --out") from None
    for names, wrong, is_wrong in (
        (files, "a folder where a file would be written", Path.is_dir),
        (folders, "a file where a folder would be made", Path.is_file),
    ):
        for path in (folder / name for name in names):
            if is_wrong(path):
                raise FolderError(f"{path} is {wrong}; remove it or choose another --out")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """Return a table in Markdown, without a line break at its end.

    Args:
        header: the column titles.
        rows: the cells of each row, as many as titles.
        numbers: all columns but the first are aligned to the right.
    """
    rule = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (header, rule, *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
