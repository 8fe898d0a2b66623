"""A few images in the file formats of CIFAR."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from adamomentum.study.data.cifar import ARCHIVES

Rows = tuple[np.ndarray, list[int]]


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes as Python 2 did, which made the official files: one kind of string for both."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin-1") if isinstance(value, str) else value
        short = len(data) < 256
        self.write((b"U" + bytes([len(data)]) if short else b"T" + len(data).to_bytes(4, "little")) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def pickled(content: dict[bytes, object]) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def rows_of(name: str, count: int = 20) -> dict[str, Rows]:
    """Returns distinct random images, uint8 [count, 3072], and labels, for each file of the archive."""
    archive, rng = ARCHIVES[name], np.random.default_rng(0)
    return {
        file: (rng.integers(0, 256, (count, 3072), dtype=np.uint8), (np.arange(count) % archive.classes).tolist())
        for file in (*archive.train, archive.test)
    }


def write_folder(folder: Path, name: str, rows: dict[str, Rows]) -> Path:
    """Writes what the official archive holds; returns its folder."""
    archive = ARCHIVES[name]
    inside = folder / archive.folder
    inside.mkdir(parents=True)
    for file, (x, y) in rows.items():
        content = pickled({b"data": x, archive.labels.encode(): y, b"batch_label": b"one of a few"})
        (inside / file).write_bytes(content)
    return inside


def write_archive(folder: Path, name: str, rows: dict[str, Rows]) -> Path:
    path = folder / ARCHIVES[name].file
    with tarfile.open(path, "w:gz") as tar:
        tar.add(write_folder(folder / "content", name, rows), ARCHIVES[name].folder)
    return path


def write_parquet(folder: Path, name: str, rows: dict[str, Rows], labels: str) -> None:
    """Writes the files that the Hub has: PNGs and labels by split."""
    from pyarrow import parquet, table

    folder.mkdir(parents=True)
    archive = ARCHIVES[name]
    for split, files in (("train", archive.train), ("test", (archive.test,))):
        for k, file in enumerate(files):
            x, y = rows[file]
            images = [{"bytes": png(image), "path": None} for image in x]
            parquet.write_table(
                table({"img": images, labels: y}), folder / f"{split}-{k:05}-of-{len(files):05}.parquet"
            )


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.reshape(3, 32, 32).transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()
