"""ImageNet (ILSVRC 2012) from the user's folder; images stay on disk until a batch needs them.

Tested in tests/study/test_image_sources.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from adamomentum.study.data.base import SPLITS, DataError, hold_out
from adamomentum.study.data.images import on_white
from adamomentum.study.digest import digest

SUFFIXES = {".jpeg", ".jpg", ".png"}
VALIDATION = 10_000
SIDE, RESIZED = 224, 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training images, as everyone has them
HOW = "give --data imagenet=FOLDER with train/<class>/*.JPEG and val/<class>/*.JPEG"


@dataclass(frozen=True, eq=False)
class FileImages:
    """Labelled images in files.

    Attributes:
        name: for display only.
        root: folder below which the files lie.
        files: per split, paths relative to ``root``.
        y: per split, int64 [n], indices into ``classes``.
        classes: names of the class folders.
    """

    name: str
    root: Path
    files: Mapping[str, Sequence[str]]
    y: Mapping[str, npt.NDArray[np.int64]]
    classes: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over names and labels; reading every image would take longer than an epoch."""
        return digest(
            part for split in SPLITS for part in ("\n".join([split, *self.files[split]]), self.y[split].tobytes())
        )

    def describe(self) -> str:
        """Return one line: name, sizes of the splits, number of classes."""
        n = " / ".join(f"{len(self.files[split]):,}" for split in SPLITS)
        return f"{self.name}: {n} image files (train / val / test), {len(self.classes):,} classes"


def imagenet(source: Path | None) -> FileImages:
    """Return ImageNet: the official validation images are the test split, 10,000 training images are for validation.

    Args:
        source: the folder. A smaller one of the same layout holds out a tenth of its training images.

    Raises:
        DataError: if it is missing or laid out otherwise.
    """
    if source is None:
        raise DataError(f"ImageNet cannot be downloaded without an account; {HOW}")
    folders = {split: source / name for split, name in (("train", "train"), ("test", "val"))}
    for path in folders.values():
        if not path.is_dir():
            raise DataError(f"{path} is not a folder; {HOW}")
    classes = tuple(sorted(entry.name for entry in folders["train"].iterdir() if entry.is_dir()))
    listed = {split: _listed(source, path, classes) for split, path in folders.items()}
    files, labels = listed["train"]
    held_out = min(VALIDATION, len(files) // 10)
    if not held_out:
        raise DataError(f"{folders['train']} holds {len(files)} images, too few to hold out a tenth")
    rows = hold_out(len(files), held_out)
    return FileImages(
        name="ImageNet",
        root=source,
        files={**{split: [files[k] for k in part] for split, part in rows.items()}, "test": listed["test"][0]},
        y={**{split: labels[part] for split, part in rows.items()}, "test": listed["test"][1]},
        classes=classes,
    )


def _listed(root: Path, folder: Path, classes: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = folder / name
        if not inside.is_dir():
            raise DataError(f"{folder} lacks the class {name}; {HOW}")
        names = sorted(f"{folder.name}/{name}/{p.name}" for p in inside.iterdir() if p.suffix.lower() in SUFFIXES)
        files += names
        labels += [label] * len(names)
    if not files:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}); {HOW}")
    return files, np.array(labels, dtype=np.int64)


def decode(path: Path, rng: np.random.Generator | None) -> npt.NDArray[np.uint8]:
    """Return an image, uint8 [224, 224, 3].

    Args:
        path: the file.
        rng: draws a crop of 8 to 100 % of the area, 3 : 4 to 4 : 3, mirrored half the time (arXiv 1409.4842); None: the
            middle of the image, its shorter side scaled to 256.

    Raises:
        DataError: if the file is not an image.
    """
    try:
        with Image.open(path) as file:
            image = on_white(file).convert("RGB")
    except Exception as error:
        # Pillow raises many types for broken files.
        raise DataError(f"{path} cannot be read as an image ({error})") from None
    if rng is None:
        scale = RESIZED / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))
    image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=_random_box(image.width, image.height, rng))
    pixels = np.asarray(image)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _random_box(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    side = min(width, height)
    x, y = (width - side) / 2, (height - side) / 2
    return x, y, x + side, y + side
