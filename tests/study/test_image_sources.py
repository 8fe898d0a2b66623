"""Small files of the official formats of Fashion-MNIST and ImageNet; MNIST-1D; and trials on them."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from study.language_mini import CheckpointAt
from study.trials import bfloat16_stays_near, spec_of, two_processes
from study.wheels import build_wheel

from adamomentum.study.data import signals
from adamomentum.study.data.base import SPLITS, DataError
from adamomentum.study.data.fashion import fashion_mnist
from adamomentum.study.data.imagenet import _random_box, decode, imagenet
from adamomentum.study.data.signals import SignalData, mnist1d
from adamomentum.study.execute.group import run_in_group
from adamomentum.study.spec import Budget
from adamomentum.study.tasks.base import Batches, Context
from adamomentum.study.tasks.vision.files import Decoded
from adamomentum.study.tasks.vision.models import MODELS
from adamomentum.study.tasks.vision.settings import VisionSettings
from adamomentum.study.tasks.vision.task import VGG_SIDES, ImageClassification
from adamomentum.study.testing.tasks import goes_on
from adamomentum.study.trial import run_trial

# --- Fashion-MNIST ---


def write_fashion(folder, labels=range(10)):
    rng = np.random.default_rng(0)
    for name, n in (("train", 60), ("t10k", 10)):
        images = b"\x00\x00\x08\x03" + b"".join(k.to_bytes(4, "big") for k in (n, 28, 28)) + rng.bytes(n * 784)
        y = b"\x00\x00\x08\x01" + n.to_bytes(4, "big") + bytes(labels[k % 10] for k in range(n))
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(y))


def test_fashion_mnist(tmp_path) -> None:
    write_fashion(tmp_path)
    data = fashion_mnist(tmp_path)
    assert [data.x[split].shape for split in SPLITS] == [(50, 28, 28, 1), (10, 28, 28, 1), (10, 28, 28, 1)]
    assert data.y["test"].tolist() == list(range(10))
    assert len({image.tobytes() for split in ("train", "val") for image in data.x[split]}) == 60
    spec = spec_of("image-classification", data, {"data": "fashion-mnist"}, budget=Budget(steps=2, batch_size=10))
    assert run_trial(spec, data).status == "ok"


def test_fashion_mnist_says_what_is_wrong(tmp_path) -> None:
    write_fashion(tmp_path, range(1, 11))
    with pytest.raises(DataError, match=r"is not Fashion-MNIST: .*labels up to 10; expected"):
        fashion_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\x00\x00\x08\x01" + b"\x00" * 12))
    with pytest.raises(DataError, match="cannot be read as Fashion-MNIST"):
        fashion_mnist(tmp_path)
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist(tmp_path / "nowhere")


# --- MNIST-1D ---


def test_mnist1d_is_that_of_its_authors() -> None:
    try:
        data = mnist1d()
    except DataError as error:
        pytest.skip(str(error))
    assert [data.x[split].shape for split in SPLITS] == [(3600, 40), (400, 40), (1000, 40)]
    assert data.fingerprint == "d94e34096ea3e290"
    everything = np.concatenate([data.x[split] for split in SPLITS])
    assert everything.mean() == pytest.approx(0, abs=1e-3)
    assert everything.std() == pytest.approx(1, abs=1e-3)
    assert (np.bincount(np.concatenate([data.y[split] for split in SPLITS])) == 500).all()


MAKER = b"""
import matplotlib.pyplot as plt
import numpy as np
import requests

def get_dataset_args():
    return 3

def make_dataset(args):
    np.random.seed(args)
    x = np.random.normal(size=(510, 40))
    return {"x": x[:500], "y": np.arange(500) % 10, "x_test": x[500:], "y_test": np.arange(10)}
"""


def test_mnist1d_is_made_by_its_wheel_in_a_process_of_its_own(offline, monkeypatch, tmp_path) -> None:
    members = {"mnist1d/__init__.py": b"", "mnist1d/data.py": MAKER}
    monkeypatch.setattr(signals, "WHEEL", build_wheel(offline, "mnist1d", "0.0.2.post1", members))
    random, modules = np.random.get_state()[1].copy(), set(sys.modules)  # noqa: NPY002
    data = mnist1d(tmp_path / "cache")
    assert (np.random.get_state()[1] == random).all()  # noqa: NPY002
    assert not {m for m in set(sys.modules) - modules if m.startswith("mnist1d")}
    x = np.random.RandomState(3).normal(size=(510, 40))
    np.testing.assert_allclose(np.concatenate([data.x[s] for s in SPLITS]), x, atol=6e-5)
    assert {s: len(data.y[s]) for s in SPLITS} == {"train": 100, "val": 400, "test": 10}
    assert len(list((tmp_path / "cache").glob("*.LICENCE.txt"))) == 1
    next(offline.iterdir()).unlink()
    assert mnist1d(tmp_path / "cache").fingerprint == data.fingerprint
    with pytest.raises(DataError, match="MNIST-1D is not in the cache and could not download mnist1d==0"):
        mnist1d(tmp_path / "elsewhere")


def test_a_maker_that_fails_is_told(offline, monkeypatch, tmp_path) -> None:
    members = {"mnist1d/__init__.py": b"", "mnist1d/data.py": b"raise RuntimeError('out of signals')"}
    monkeypatch.setattr(signals, "WHEEL", build_wheel(offline, "mnist1d", "0.0.2.post1", members))
    with pytest.raises(DataError, match="MNIST-1D could not be made: RuntimeError: out of signals"):
        mnist1d(tmp_path / "cache")


@pytest.mark.distributed
def test_two_processes_on_signals_do_what_one_does() -> None:
    # Without batch norm the mean of two halves is the whole.
    data = waves()
    params = {"data": "mnist1d", "model": "cnn1d"}
    budget = Budget(steps=20, batch_size=16, evaluations=4)
    spec = spec_of("image-classification", data, params, "sgdm", 0.05, budget=budget)
    alone, both = run_trial(spec, data), two_processes(spec, data)
    assert both.curve["train_loss"] == pytest.approx(alone.curve["train_loss"], rel=1e-4)
    assert both.final["test_loss"] == pytest.approx(alone.final["test_loss"], rel=1e-4)
    assert alone.curve["train_loss"][-1] < 0.9 * alone.curve["train_loss"][0]


def waves() -> SignalData:
    rng = np.random.default_rng(0)
    y = {split: rng.integers(0, 2, n) for split, n in zip(SPLITS, (64, 32, 32), strict=True)}
    waves = np.stack([np.sin(np.linspace(0, 6, 40)), np.cos(np.linspace(0, 12, 40))])
    x = {s: (waves[v] + 0.3 * rng.normal(size=(len(v), 40))).astype(np.float32) for s, v in y.items()}
    return SignalData("waves", x, y, ("a", "b"))


def test_signals_train() -> None:
    data, params = waves(), {"data": "mnist1d", "model": "cnn1d"}
    result = run_trial(spec_of("image-classification", data, params, budget=Budget(steps=60, batch_size=16)), data)
    assert result.final["test_accuracy"] > 0.95


# --- ImageNet ---


@pytest.fixture(scope="module")
def tiny_imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for name in ("n01", "n02"):
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                size = (int(rng.integers(230, 400)), int(rng.integers(230, 400)))
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{name}_{k}.JPEG")
    return root


def test_imagenet_splits(tiny_imagenet) -> None:
    data = imagenet(tiny_imagenet)
    assert [len(data.files[s]) for s in SPLITS] == [22, 2, 6]
    assert not set(data.files["train"]) & set(data.files["val"])
    assert all(f.startswith("val/") for f in data.files["test"])
    for split in SPLITS:
        for file, label in zip(data.files[split], data.y[split], strict=True):
            assert data.classes[label] in file


def test_imagenet_says_what_is_wrong(tmp_path, tiny_imagenet) -> None:
    with pytest.raises(DataError, match="give --data imagenet=FOLDER"):
        imagenet(None)
    with pytest.raises(DataError, match="is not a folder"):
        imagenet(tmp_path)
    for name in ("train/n01", "train/n02", "val/n01"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match=r"train holds no images \(\.jpeg"):
        imagenet(tmp_path)
    image = next((tiny_imagenet / "train" / "n01").iterdir())
    shutil.copy(image, tmp_path / "train" / "n01")
    with pytest.raises(DataError, match="val lacks the class n02"):
        imagenet(tmp_path)
    (tmp_path / "val" / "n02").mkdir()
    shutil.copy(image, tmp_path / "val" / "n02")
    with pytest.raises(DataError, match="holds 1 images, too few to hold out a tenth"):
        imagenet(tmp_path)
    (tmp_path / "x.JPEG").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x\.JPEG cannot be read"):
        decode(tmp_path / "x.JPEG", None)


def test_crops_have_one_size_and_the_middle_is_the_middle(tmp_path) -> None:
    pixels = np.zeros((300, 500, 3), np.uint8)
    pixels[100:200, 200:300] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    middle = decode(tmp_path / "a.png", None)
    assert middle.shape == (224, 224, 3)
    assert middle[112, 112].min() == 255
    assert middle[5, 5].max() == 0
    crops = [decode(tmp_path / "a.png", np.random.default_rng(k)) for k in range(20)]
    assert {crop.shape for crop in crops} == {(224, 224, 3)}
    assert len({crop.tobytes() for crop in crops}) > 15


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_images_of_all_modes_have_three_channels(tmp_path, mode) -> None:
    # ImageNet has grey ones and ones in CMYK among its JPEGs.
    grey = Image.new("L", (240, 300), 90)
    grey.convert("RGB").convert(mode).save(tmp_path / "a.JPEG")
    for rng in (None, np.random.default_rng(0)):
        image = decode(tmp_path / "a.JPEG", rng)
        assert image.shape == (224, 224, 3)
        assert abs(image.astype(int) - 90).max() <= 3


def test_transparency_of_imagenet_is_laid_on_white(tmp_path) -> None:
    Image.new("RGBA", (240, 300), (0, 0, 0, 0)).save(tmp_path / "a.png")
    for rng in (None, np.random.default_rng(0)):
        assert (decode(tmp_path / "a.png", rng) == 255).all()


@pytest.mark.parametrize(("width", "height"), [(500, 375), (8, 400), (1, 1)])
def test_random_crops_lie_within_the_image_and_have_the_sizes_asked_for(width, height) -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([_random_box(width, height, rng) for _ in range(300)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    assert (np.minimum(w, h) >= 1).all()
    if width == 500:
        area, ratio = w * h / (width * height), w / h
        assert 0.079 < area.min() < 0.12
        assert 0.9 < area.max() <= 1
        assert 0.74 < ratio.min() < 0.8
        assert 1.25 < ratio.max() < 1.35
        mirrored = [pixels_of_a_gradient(k) for k in range(40)]
        assert 8 < sum(mirrored) < 32


def pixels_of_a_gradient(seed: int) -> bool:
    """Says whether an image that brightens to the right was mirrored."""
    buffer = io.BytesIO()
    Image.fromarray(np.tile(np.arange(250, dtype=np.uint8), (250, 1))).save(buffer, "PNG")
    buffer.seek(0)
    row = decode(buffer, np.random.default_rng(seed))[0, :, 0]  # type: ignore[arg-type]
    return bool(row[0] > row[-1])


def test_imagenet_goes_on_in_the_middle_of_an_epoch_bit_for_bit(tiny_imagenet) -> None:
    params = {"data": "imagenet", "model": "small-resnet", "augment": "rrc-flip"}
    data = ImageClassification().load(params, tiny_imagenet)
    budget = Budget(steps=6, batch_size=6, evaluations=2)
    goes_on(spec_of("image-classification", data, params, budget=budget), data, [4])


def test_imagenets_network_trains(tiny_imagenet) -> None:
    params = {"data": "imagenet", "model": "resnet18-imagenet", "augment": "rrc-flip"}
    data = ImageClassification().load(params, tiny_imagenet)
    result = run_trial(spec_of("image-classification", data, params, budget=Budget(steps=1, batch_size=4)), data)
    assert result.status in ("ok", "diverged"), result.error
    assert 0 <= result.final["test_accuracy"] <= 1


@pytest.mark.slow
def test_imagenet_in_bfloat16(tiny_imagenet) -> None:
    params = {"data": "imagenet", "model": "small-resnet", "augment": "rrc-flip"}
    data = ImageClassification().load(params, tiny_imagenet)
    budget = Budget(steps=2, batch_size=4, evaluations=1)
    bfloat16_stays_near(spec_of("image-classification", data, params, lr=1e-4, budget=budget), data, 0.05)


@pytest.mark.distributed
def test_two_processes_decode_their_shares_and_go_on(tiny_imagenet, tmp_path) -> None:
    params = {"data": "imagenet", "model": "small-resnet", "augment": "rrc-flip"}
    data = ImageClassification().load(params, tiny_imagenet)
    spec = spec_of("image-classification", data, params, budget=Budget(steps=5, batch_size=6), processes=2)
    run = partial(run_trial, data=data, checkpoints=CheckpointAt(tmp_path, 2))
    whole = run_in_group(spec, run)
    assert whole.status != "error", whole.error
    assert run_in_group(spec, run).final == whole.final
    assert {path.name for path in tmp_path.glob("rank*")} == {"rank 0 from step 2", "rank 1 from step 2"}


@pytest.mark.parametrize("world", [1, 3])
def test_together_the_processes_decode_the_batch_that_one_would(tiny_imagenet, world) -> None:
    data = imagenet(tiny_imagenet)

    def batches(rank: int, world: int):
        context = Context(
            data=data,
            params={},
            budget=Budget(steps=5, batch_size=6),
            device=torch.device("cpu"),
            seed=lambda role: 7,
            build_optimizer=lambda params: torch.optim.SGD(params),
            rank=rank,
            world=world,
        )
        with ThreadPoolExecutor(2) as pool:
            order = Batches(len(data.files["train"]), 6, context.generator("order"))
            decoded = Decoded(data, order, context, True, pool)
            return [decoded.next() for _ in range(5)]

    alone = batches(0, 1)
    shares = [batches(rank, world) for rank in range(world)]
    for step, (images, labels) in enumerate(alone):
        for rank, share in enumerate(shares):
            assert torch.equal(share[step][0], images[rank::world])
            assert torch.equal(share[step][1], labels[rank::world])
    assert not torch.equal(alone[0][0], alone[1][0])


def test_settings_are_checked() -> None:
    for params, message in (
        ({"dataset": "x"}, "params.dataset: there is no such parameter; there are: data, model, augment, "),
        ({"data": "svhn"}, "params.data: Input should be 'mnist5k', .*, got 'svhn'"),
        (
            {"model": "vit"},
            "params.model: must be one of small-resnet, .* with data = 'mnist5k', got 'vit'",
        ),
        (
            {"augment": "rrc-flip"},
            "params.augment: must be one of none, crop-flip, crop-flip-cutout with .*, got 'rrc-flip'",
        ),
        (
            {"data": "imagenet", "augment": "crop-flip"},
            "must be one of none, rrc-flip with data = 'imagenet', got 'crop-flip'",
        ),
        (
            {"data": "mnist1d"},
            "params.model: must be one of cnn1d with data = 'mnist1d', got 'small-resnet'",
        ),
        ({"model": "cnn1d"}, "must be one of small-resnet, vgg16-bn, .* with data = 'mnist5k', got 'cnn1d'"),
        (
            {"data": "mnist1d", "model": "cnn1d", "augment": "crop-flip"},
            "must be one of none with data = 'mnist1d', got 'crop-flip'",
        ),
        ({"label_smoothing": 1.0}, "params.label_smoothing: Input should be less than 1, got 1.0"),
        (
            {"label_smoothing": "some"},
            "params.label_smoothing: Input should be a valid number, got 'some'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            VisionSettings.of(params)


def test_vgg_wants_images_of_32_pixels(tmp_path, tiny_npz, tiny_imagenet) -> None:
    # With fewer nothing is left after five poolings, with more the last layer does not fit.
    task = ImageClassification()
    with pytest.raises(ValueError, match="'vgg16-bn' needs images with sides of 32 to 63 pixels, tiny has 8 x 8; take"):
        task.load({"data": "folder", "model": "vgg16-bn"}, tiny_npz)
    with pytest.raises(ValueError, match="ImageNet has 224 x 224"):
        task.load({"data": "imagenet", "model": "vgg16-bn"}, tiny_imagenet)
    net = MODELS["vgg16-bn"](1, 2).eval()
    for side in VGG_SIDES:
        assert net(torch.zeros(1, 1, side, side)).shape == (1, 2)
    for side in (VGG_SIDES[0] - 1, VGG_SIDES[1] + 1):
        with pytest.raises(RuntimeError):
            net(torch.zeros(1, 1, side, side))
