"""The user's own images: a folder, or an .npz file.

Tested in tests/study/test_data.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt
from PIL.Image import Image, Resampling, fromarray
from PIL.Image import open as open_image
from PIL.ImageOps import exif_transpose

from adamomentum.study.data.base import SPLITS, DataError
from adamomentum.study.data.images import ImageData, counted, on_white

T = TypeVar("T")

# Names under which other tools keep splits. As classes they would be a mistake that trains without complaint.
SPLIT_SYNONYMS = ("training", "valid", "validation", "testing")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
NPZ_KEYS = (
    "'x' and 'y', or 'x_train', 'y_train', 'x_test', 'y_test' and optionally 'x_val', 'y_val' "
    "(x: uint8 or floats in [0, 1], shape [n, h, w] or [n, h, w, c] with c 1 or 3; y: n labels)"
)
MIN_SIDE, MAX_SIDE = 8, 64
RESIZED_SIDE = 32
HELD_OUT_PERCENT = 15
ORIENTATION = 0x0112  # EXIF tag; 5 to 8: the camera was held upright


def load(path: Path) -> ImageData:
    """Return the user's images: an .npz file, or a folder with one subfolder a class.

    A folder may have ``train``, ``val`` and ``test`` subfolders above the class folders. Missing splits are
    taken from the images per class: 15 % each for validation and test, by a fixed permutation. Images of
    different sizes, or with a side below 8 or above 64 pixels, are resized to 32 x 32. Transparent pixels are laid on
    white, and photographs turned as their EXIF data says.

    Raises:
        DataError: if there is nothing usable at ``path``; the message says what is wrong.
    """
    if path.is_dir():
        return _load_folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _load_npz(path)
    what = "does not exist" if not path.exists() else "is neither"
    raise DataError(f"--data takes a folder of images or an .npz file; {path} {what}")


def _load_npz(path: Path) -> ImageData:
    if not is_zipfile(path):
        raise DataError(f"{path} is not an .npz file; write one with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:
        # NumPy advises to allow pickles, which is no remedy here: they can run any code.
        reason = "it holds Python objects, not plain arrays" if "pickle" in str(error) else error
        raise DataError(f"{path} cannot be read as .npz ({reason})") from None
    suffixes = {"all": "", "train": "_train", "val": "_val", "test": "_test"}
    parts = {
        split: (arrays[f"x{suffix}"], arrays[f"y{suffix}"])
        for split, suffix in suffixes.items()
        if {f"x{suffix}", f"y{suffix}"} <= arrays.keys()
    }
    if parts.keys() not in ({"all"}, {"train", "test"}, {"train", "val", "test"}):
        raise DataError(f"{path} has the keys {sorted(arrays)}; it needs {NPZ_KEYS}")
    x = {}
    for split, (images, labels) in parts.items():
        x[split] = _as_uint8(images, f"{path}, {split}")
        if labels.ndim != 1 or len(labels) != len(images):
            raise DataError(f"{path}, {split}: {len(images)} images need as many labels, got shape {labels.shape}")
        if labels.dtype.kind not in "iuU":
            raise DataError(f"{path}, {split}: labels must be integers or strings, got {labels.dtype}")
    y = {split: labels.astype(str) for split, (_, labels) in parts.items()}
    return _assemble(path, x, y)


def _as_uint8(images: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise DataError(f"{where}: images have shape {images.shape}, need [n, h, w] or [n, h, w, 1 or 3]")
    if images.dtype == np.uint8:
        return images
    wrong = f"{where}: images must be uint8 or floats in [0, 1], got {images.dtype}"
    if images.dtype.kind not in "biuf":
        raise DataError(wrong)
    low, high = images.min(), images.max()
    if not np.isfinite([low, high]).all():  # NaN carries through min and max
        raise DataError(f"{wrong} with NaN or infinite values; remove them")
    if images.dtype.kind != "f":
        remedy = "scale them to 0 to 255" if low < 0 or high > 255 else 'convert them with .astype("uint8")'
        raise DataError(f"{wrong}, range {low:d} to {high:d}; {remedy}")
    if low < 0 or high > 1:
        remedy = "divide them by 255" if low >= 0 and high <= 255 else "scale them"
        raise DataError(f"{wrong}, range {low:g} to {high:g}; {remedy}")
    return np.round(images * 255).astype(np.uint8)


def _load_folder(path: Path) -> ImageData:
    roots = _split_folders(path)
    files: dict[str, list[tuple[Path, str]]] = {}
    for split, root in roots.items():
        files[split] = []
        for folder in _subfolders(root):
            below = _files(folder)
            inside = [file for file in below if file.suffix.lower() in SUFFIXES and file.is_file()]
            if not inside:
                held = f" but {counted(_endings(below))}" if below else ""
                raise DataError(
                    f"the class folder {folder} holds no images{held}; images end in {', '.join(sorted(SUFFIXES))}: "
                    "convert them, or take the folder away"
                )
            files[split] += [(file, folder.name) for file in inside]
        if not files[split]:
            raise DataError(
                f"no images in {root}: expected one subfolder a class with {', '.join(sorted(SUFFIXES))} files"
            )
    images = _decode([image for pairs in files.values() for image, _ in pairs])
    used = {image for pairs in files.values() for image, _ in pairs}
    x, y, start = {}, {}, 0
    for split, pairs in files.items():
        x[split] = images[start : start + len(pairs)]
        y[split] = np.array([label for _, label in pairs])
        start += len(pairs)
    return _assemble(path, x, y, _endings([file for file in _files(path) if file not in used]))


def _files(folder: Path) -> list[Path]:
    """Return all that is not a folder, nor hidden, at any depth of ``folder``."""
    return [f for f in sorted(folder.rglob("*")) if not _hidden(f.relative_to(folder)) and not f.is_dir()]


def _endings(files: list[Path]) -> dict[str, int]:
    """Count files that are not used by their ending."""

    def ending(file: Path) -> str:
        suffix = file.suffix.lower()
        if suffix not in SUFFIXES:
            return suffix or "without an ending"
        return f"{suffix} outside of the class folders" if file.is_file() else f"{suffix} that are no files"

    return dict(Counter(map(ending, files)))


def _split_folders(path: Path) -> dict[str, Path]:
    """Return the folders above the class folders: those of the splits, or ``path`` itself as ``all``."""
    folders = {folder.name.lower(): folder for folder in _subfolders(path)}
    splits = [name for name in folders if name in SPLITS or name in SPLIT_SYNONYMS]
    if not splits:
        return {"all": path}
    unknown = [folder.name for name, folder in folders.items() if name not in SPLITS]
    if "train" not in folders or unknown:
        raise DataError(
            f"{path} has the subfolders {', '.join(folder.name for folder in folders.values())}; expected either "
            "classes alone, or train and, if you like, val and test, with classes below (these names are reserved)"
        )
    return folders


def _subfolders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not _hidden(Path(entry.name)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _decode(files: list[Path]) -> npt.NDArray[np.uint8]:
    """Read images to one size and mode: as they are if small and all alike, else 32 x 32."""
    # Sizes and modes first: they are in the headers, so that no more than one image is held at full size.
    seen = {_read(file, lambda image: (image.mode, _upright_size(image))) for file in files}
    modes = {mode for mode, _ in seen}
    mode = "L" if modes <= {"1", "L", "LA", "La"} else "RGB"
    sizes = {size for _, size in seen}
    size = _side_limit(*sizes.pop()) if len(sizes) == 1 else (RESIZED_SIDE, RESIZED_SIDE)

    def pixels(image: Image) -> npt.NDArray[np.uint8]:
        flat = on_white(_upright(image))
        return np.asarray(flat.convert(mode).resize(size, Resampling.BILINEAR), dtype=np.uint8)

    stacked = np.stack([_read(file, pixels) for file in files])
    return stacked[..., None] if mode == "L" else stacked


def _orientation(image: Image) -> int:
    """How the camera was held, 1 if nothing says so. Pillow turns TIFF files itself, their size included."""
    if image.format == "TIFF":
        return 1
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1  # without looking behind the pixels, which would mean to decode them all
    return int(image.getexif().get(ORIENTATION, 1))


def _upright_size(image: Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _upright(image: Image) -> Image:
    return exif_transpose(image) if _orientation(image) != 1 else image


def _side_limit(width: int, height: int) -> tuple[int, int]:
    """Return the size to which images of this size are brought."""
    fits = min(width, height) >= MIN_SIDE and max(width, height) <= MAX_SIDE
    return (width, height) if fits else (RESIZED_SIDE, RESIZED_SIDE)


def _limited(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return [n, h, w, c] resized to [n, 32, 32, c] if too large or too small to train on."""
    _, height, width, channels = images.shape
    size = _side_limit(width, height)
    if size == (width, height):
        return images
    small = np.empty((len(images), size[1], size[0], channels), np.uint8)
    for k, image in enumerate(images):
        frame = fromarray(image[..., 0] if channels == 1 else image)
        small[k] = np.asarray(frame.resize(size, Resampling.BILINEAR)).reshape(small.shape[1:])
    return small


def _read(file: Path, get: Callable[[Image], T]) -> T:
    try:
        # Not by its name: Pillow maps an uncompressed TIFF file into memory, and then turns it with rows for columns.
        with file.open("rb") as stream, open_image(stream) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode!r}; convert it to 8 bits a channel")
            return get(image)
    except Exception as error:
        # Pillow raises many types for broken files.
        raise DataError(f"{file} cannot be read as an image ({error})") from None


def _assemble(
    path: Path,
    x: dict[str, npt.NDArray[np.uint8]],
    y: dict[str, npt.NDArray[np.str_]],
    left_out: Mapping[str, int] | None = None,
) -> ImageData:
    """Check labels and shapes across splits and cut the missing splits from what there is."""
    shapes = {images.shape[1:] for images in x.values()}
    if len(shapes) > 1:
        raise DataError(f"{path}: splits differ in image shape: {sorted(shapes)}")
    x = {split: _limited(images) for split, images in x.items()}
    known = "all" if "all" in y else "train"
    classes = np.unique(y[known])
    if len(classes) < 2:
        raise DataError(f"{path}: at least 2 classes are needed, found {list(map(str, classes))}")
    for split, labels in y.items():
        extra = sorted(set(labels.tolist()) - set(classes.tolist()))
        if extra:
            raise DataError(f"{path}: {split} has classes that train lacks: {extra}")
    index = {split: np.searchsorted(classes, labels).astype(np.int64) for split, labels in y.items()}
    missing = [split for split in ("val", "test") if split not in x]
    if missing:
        kept, taken = _hold_out(path, index[known], missing, [str(c) for c in classes])
        source_x, source_y = x[known], index[known]
        for split, rows in {"train": kept, **taken}.items():
            x[split], index[split] = source_x[rows], source_y[rows]
    first = x["train"][0]
    if all(np.array_equal(image, first) for image in x["train"]):
        raise DataError(
            f"{path}: all {len(x['train'])} training images are alike, so nothing can be learned from them; look at "
            "how they were made"
        )
    whole = path.resolve()
    return ImageData(
        name=whole.name if whole.is_dir() else whole.stem,
        x={split: x[split] for split in SPLITS},
        y={split: index[split] for split in SPLITS},
        classes=tuple(str(c) for c in classes),
        left_out=left_out or {},
    )


def _hold_out(
    path: Path, labels: npt.NDArray[np.int64], splits: list[str], classes: list[str]
) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.int64]]]:
    """Return the rows kept for training and those held out per split, the same share of each class."""
    rng = np.random.default_rng(0)
    kept: list[npt.NDArray[np.int64]] = []
    taken: dict[str, list[npt.NDArray[np.int64]]] = {split: [] for split in splits}
    for label, name in enumerate(classes):
        rows = rng.permutation(np.flatnonzero(labels == label))
        share = max(1, len(rows) * HELD_OUT_PERCENT // 100)
        if len(rows) <= share * len(splits):
            raise DataError(
                f"{path}: class {name!r} has {len(rows)} images, too few to hold out {' and '.join(splits)}; "
                f"at least {len(splits) + 1} are needed"
            )
        for k, split in enumerate(splits):
            taken[split].append(np.sort(rows[k * share : (k + 1) * share]))
        kept.append(np.sort(rows[len(splits) * share :]))
    return np.concatenate(kept), {split: np.concatenate(rows) for split, rows in taken.items()}
