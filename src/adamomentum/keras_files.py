"""Whose optimizer state a file of Keras holds, and how AdaMomentum takes it over.

Keras reads state by place and without a word on whose it is. AdaMomentum's has the order of Adam's and, beside the
variables, a mark. Files without one are Adam's, or AdaMomentum's of before the mark, which had all first moments first.

Tested in tests/keras_suite.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["MARK", "OTHER_OPTIONS", "Layout", "recognise", "writer_of"]

# The key in files that AdaMomentum writes; Adam, which would read them as its own, finds one variable too many.
MARK = "adamomentum"

_Arrays = list[np.ndarray[Any, Any]]

# Why a file does not fit, where its variables are others.
OTHER_OPTIONS = (
    "written with other options: make the optimizer with the amsgrad, use_ema, gradient_accumulation_steps and kind of "
    "learning rate of the one that wrote it"
)


class Layout(NamedTuple):
    """What the optimizer that loads has, in its order."""

    shapes: list[tuple[int, ...]]  # of all its variables
    paths: list[str]  # and their names
    moments: int  # variables that have moments; theirs are the last of all
    amsgrad: bool
    use_ema: bool
    passes: int  # batches a step whose gradients are added up: the step and the first moments count in them; 0: no
    schedule: bool  # the learning rate is none of the variables

    @property
    def mark(self) -> np.ndarray[Any, Any]:
        """What is written under :data:`MARK`: the options that decide what the variables are."""
        return np.array([self.amsgrad, self.use_ema, self.passes, self.schedule], "int32")

    @property
    def start(self) -> int:
        """Where the moments begin."""
        return len(self.shapes) - (3 if self.amsgrad else 2) * self.moments

    @property
    def second(self) -> list[int]:
        """The places of second moments, the largest ones of amsgrad among them."""
        largest = self.start + 2 * self.moments
        return [*range(self.start + 1, largest, 2), *range(largest, len(self.shapes))]


def writer_of(store: Any, known: Collection[str]) -> str | None:
    """Return the optimizer that wrote the file: its class in small letters.

    Keras keeps the name of the optimizer in HDF5 files, by default its class and perhaps a number.

    Args:
        store: what Keras gave to ``load_own_variables``.
        known: classes, in small letters.

    Returns:
        One of ``known``; None if the store has no name or another, which somebody chose.
    """
    name = getattr(getattr(store, "_h5_entry_group", None), "attrs", {}).get("name", "")
    stem = re.sub(r"_\d+$", "", str(name)).replace("_", "").lower()
    return stem if stem in known else None


def recognise(
    saved: _Arrays, writer: str | None, mark: np.ndarray[Any, Any] | None, layout: Layout
) -> tuple[str, _Arrays]:
    """Say whose state it is, and put it in the order of ``layout``.

    Args:
        saved: arrays, as many as ``layout`` has.
        writer: what :func:`writer_of` found.
        mark: what the file has under :data:`MARK`; None without.
        layout: of the optimizer that loads.

    Returns:
        ``"adamomentum"`` or ``"adam"``, and the arrays.

    Raises:
        ValueError: if it is that of another optimizer, does not fit, or may be of either.
    """
    start, n = layout.start, layout.moments
    split = [i for pair in zip(range(start, start + n), range(start + n, start + 2 * n), strict=True) for i in pair]
    earlier = [saved[i] for i in (*range(start), *split, *range(start + 2 * n, len(saved)))]
    if mark is not None:
        if not np.array_equal(mark, layout.mark):
            raise ValueError(f"the optimizer's state does not fit: it was {OTHER_OPTIONS}")
        readings = [("adamomentum", saved)]
    elif writer == "adamomentum":
        readings = [("adamomentum", earlier)]
    elif writer in ("adam", "adamw"):
        readings = [("adam", saved)]
    elif writer is None:
        readings = [("adamomentum", earlier), ("adam", saved)]
    else:
        raise ValueError(
            f"the optimizer's state was written by {writer!r}; AdaMomentum takes over that of Adam and AdamW "
            "alone: load with skip_mismatch=True, which leaves AdaMomentum's state empty, and warm up"
        )
    faults = [_fault(arrays, layout) for _, arrays in readings]
    fitting = [reading for reading, fault in zip(readings, faults, strict=True) if not fault]
    if not fitting:
        raise ValueError(f"the optimizer's state does not fit: {faults[-1]}")
    if len(fitting) > 1 and any(saved[i].any() for i in range(start, len(saved))):
        raise ValueError(
            "the optimizer's state may be Adam's, or AdaMomentum's of an earlier version, and its name, which would "
            "tell, is not the default one of its class or not in the file: load it with the optimizer that wrote it, "
            "without a name of your own, and save it again as .weights.h5 or .keras"
        )
    return fitting[0]


def _fault(arrays: Sequence[np.ndarray[Any, Any]], layout: Layout) -> str:
    """Return why these can't be the variables; empty if they can."""
    for array, shape, path in zip(arrays, layout.shapes, layout.paths, strict=True):
        if array.shape != shape:
            return f"{path} has shape {shape}, in the file {array.shape}"
    for i in layout.second:
        if (arrays[i] < 0).any():
            return (
                f"{layout.paths[i]} is a second moment, which is never negative as the file's is: it may have been "
                + OTHER_OPTIONS
            )
    return ""
