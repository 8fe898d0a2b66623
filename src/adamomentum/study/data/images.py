"""Labelled images with fixed train, validation and test splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL.Image import Image, alpha_composite
from PIL.Image import new as new_image

from adamomentum.study.data.base import SPLITS, fingerprint_of

# Below so many test images one of them is worth more than 0.2 points, and the reader is told.
SMALL_TEST_SPLIT = 500


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images and labels by split.

    Attributes:
        name: for display only.
        x: per split, uint8 of shape [n, height, width, channels].
        y: per split, int64 of shape [n], indices into ``classes``.
        classes: class names.
        target_accuracy: validation accuracy declared in advance for time-to-target; None: not declared.
        left_out: files of the user's folder that are none of the images, counted by their ending.
    """

    name: str
    x: Mapping[str, npt.NDArray[np.uint8]]
    y: Mapping[str, npt.NDArray[np.int64]]
    classes: tuple[str, ...]
    target_accuracy: float | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over the contents of all splits; names and paths do not enter."""
        return fingerprint_of(self.x, self.y)

    def describe(self) -> str:
        """Return one line: name, sizes of the splits, image size, number of classes, and what a reader must know."""
        n = " / ".join(f"{len(self.y[split]):,}" for split in SPLITS)
        h, w, c = self.x["train"].shape[1:]
        notes = []
        if len(self.y["test"]) < SMALL_TEST_SPLIT:
            notes.append(f"one test image is {points(len(self.y['test']))} points of accuracy")
        if self.left_out:
            notes.append(f"left out of the folder: {counted(self.left_out)}")
        size = f"{self.name}: {n} images (train / val / test), {h}x{w}x{c}, {len(self.classes)} classes"
        return "; ".join([size, *notes])


def points(test_images: int) -> str:
    """Return what one of so many test images is worth, in percentage points of accuracy."""
    return f"{100 / test_images:.2g}"


def small_test_split(test_images: int) -> str:
    """Return what to say of a test split of so many images: nothing unless they are few."""
    if test_images >= SMALL_TEST_SPLIT:
        return ""
    return (
        f"The test split has {test_images} images: one more that is classified rightly is {points(test_images)} points "
        "of accuracy. The intervals cover chance in training only, not the choice of these few images."
    )


def counted(endings: Mapping[str, int]) -> str:
    """Return numbers of files by their ending in words, the most first."""
    return ", ".join(f"{n} {ending}" for ending, n in sorted(endings.items(), key=lambda item: (-item[1], item[0])))


def on_white(image: Image) -> Image:
    """Return ``image`` without transparency, as it looks on a white page; what lies under it is often all black."""
    if image.mode[-1] not in "Aa" and "transparency" not in image.info:
        return image
    if image.mode in ("La", "PA"):  # from which there is no direct way
        image = image.convert({"La": "LA", "PA": "RGBA"}[image.mode])
    image = image.convert("RGBA")
    return alpha_composite(new_image("RGBA", image.size, "white"), image)
