"""Small files of the official formats of CIFAR, Fashion-MNIST, ImageNet, MNIST-1D; and trials on them."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from study.trials import bfloat16_stays_near, goes_on_bit_for_bit, spec_of, two_processes

from adamomentum.study.data import cifar as cifar_module
from adamomentum.study.data.cifar import ARCHIVES, cifar
from adamomentum.study.data.fashion import fashion_mnist
from adamomentum.study.data.imagenet import decode, imagenet
from adamomentum.study.data.signals import SPLITS, SignalData, mnist1d
from adamomentum.study.data.wheel import DataError
from adamomentum.study.spec import Budget
from adamomentum.study.tasks.vision import ImageClassification, Settings
from adamomentum.study.trial import run_trial

# --- CIFAR ---


def write_cifar(folder, name, count=20):
    """An archive of the official layout, a few images a file; returns its path and what is in it."""
    archive, rng = ARCHIVES[name], np.random.default_rng(0)
    written = {}
    with tarfile.open(folder / archive.file, "w:gz") as tar:
        for file in (*archive.train, archive.test):
            x = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
            y = (np.arange(count) % archive.classes).tolist()
            written[file] = (x, y)
            content = pickle.dumps({b"data": x, archive.labels.encode(): y, b"batch_label": b"x"}, protocol=2)
            info = tarfile.TarInfo(f"{archive.folder}/{file}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return folder / archive.file, written


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_from_the_archive_and_from_its_folder(tmp_path, name) -> None:
    path, written = write_cifar(tmp_path, name)
    data = cifar(name, path)
    total = 20 * len(ARCHIVES[name].train)
    assert len(data.y["train"]) + len(data.y["val"]) == total
    assert len(data.y["val"]) == total // 10
    x, y = written[ARCHIVES[name].test]
    np.testing.assert_array_equal(data.x["test"], x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert data.y["test"].tolist() == y
    seen = {image.tobytes() for split in ("train", "val") for image in data.x[split]}
    assert len(seen) == total
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    assert cifar(name, tmp_path / "out").fingerprint == data.fingerprint
    assert cifar(name, tmp_path / "out" / ARCHIVES[name].folder).fingerprint == data.fingerprint


class Harmful:
    def __reduce__(self):
        return os.system, ("touch /tmp/harm",)


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path) -> None:
    archive = ARCHIVES["cifar100"]
    folder = tmp_path / archive.folder
    folder.mkdir()
    for file in (*archive.train, archive.test):
        (folder / file).write_bytes(pickle.dumps({b"data": Harmful()}, protocol=2))
    with pytest.raises(DataError, match=r"refused: the file asks for .*system"):
        cifar("cifar100", tmp_path)


def test_cifar_says_what_is_wrong(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"is not cifar-10-python.tar.gz \(MD5 .*expected c58f"):
        cifar("cifar10", tmp_path / "a.tar.gz")
    with pytest.raises(DataError, match="lacks data_batch_1"):
        cifar("cifar10", tmp_path)
    monkeypatch.setattr(cifar_module, "cache_dir", lambda: tmp_path / "cache")

    def offline(url, timeout):
        raise OSError("no network")

    monkeypatch.setattr(cifar_module.urllib.request, "urlopen", offline)
    with pytest.raises(DataError, match=r"toronto.*no network.*give --data cifar10=/path/to"):
        cifar("cifar10", None)
    monkeypatch.setattr(cifar_module.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"something else"))
    with pytest.raises(DataError, match=r"MD5 .*expected c58f"):
        cifar("cifar10", None)
    assert not list((tmp_path / "cache").glob("*"))


@pytest.fixture(scope="module")
def tiny_cifar(tmp_path_factory):
    path, _ = write_cifar(tmp_path_factory.mktemp("cifar"), "cifar10")
    return ImageClassification().load({"data": "cifar10"}, path)


AS_RUN = {"data": "cifar10", "augment": "crop-flip-cutout", "label_smoothing": 0.1}


@pytest.mark.parametrize("model", ["vgg16-bn", "resnet34", "densenet121"])
def test_the_papers_networks_train(tiny_cifar, model) -> None:
    budget = Budget(steps=2, batch_size=8)
    spec = spec_of("image-classification", tiny_cifar, {**AS_RUN, "model": model}, lr=1e-4, budget=budget)
    result = run_trial(spec, tiny_cifar)
    assert result.status == "ok", result.error
    assert {"test_accuracy", "test_loss"} <= set(result.final)


def test_augmentation_goes_on_bit_for_bit(tiny_cifar, tmp_path) -> None:
    params = {**AS_RUN, "model": "small-resnet"}
    spec = spec_of("image-classification", tiny_cifar, params, budget=Budget(steps=20, batch_size=16, evaluations=4))
    whole = goes_on_bit_for_bit(spec, tiny_cifar, tmp_path, 7)
    plain = spec_of(
        "image-classification",
        tiny_cifar,
        {**params, "augment": "none"},
        budget=Budget(steps=20, batch_size=16, evaluations=4),
    )
    assert run_trial(plain, tiny_cifar).final["train_loss"] < whole.final["train_loss"]


def test_bfloat16(tiny_cifar) -> None:
    budget = Budget(steps=20, batch_size=16)
    spec = spec_of("image-classification", tiny_cifar, {"data": "cifar10"}, lr=1e-3, budget=budget)
    bfloat16_stays_near(spec, tiny_cifar, 0.05)


@pytest.mark.distributed
def test_two_processes_train_together(tiny_cifar) -> None:
    spec = spec_of("image-classification", tiny_cifar, AS_RUN, budget=Budget(steps=4, batch_size=16))
    assert two_processes(spec, tiny_cifar).final == two_processes(spec, tiny_cifar).final


# --- Fashion-MNIST ---


def test_fashion_mnist(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for name, n in (("train", 60), ("t10k", 10)):
        images = b"\x00\x00\x08\x03" + b"".join(k.to_bytes(4, "big") for k in (n, 28, 28)) + rng.bytes(n * 784)
        labels = b"\x00\x00\x08\x01" + n.to_bytes(4, "big") + bytes(k % 10 for k in range(n))
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    data = fashion_mnist(tmp_path)
    assert [data.x[split].shape for split in SPLITS] == [(50, 28, 28, 1), (10, 28, 28, 1), (10, 28, 28, 1)]
    assert data.y["test"].tolist() == list(range(10))
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
    everything = np.concatenate([data.x[split] for split in SPLITS])
    assert everything.mean() == pytest.approx(0, abs=1e-3)
    assert everything.std() == pytest.approx(1, abs=1e-3)
    assert (np.bincount(np.concatenate([data.y[split] for split in SPLITS])) == 500).all()


def test_signals_train() -> None:
    rng = np.random.default_rng(0)
    y = {split: rng.integers(0, 2, n) for split, n in zip(SPLITS, (64, 32, 32), strict=True)}
    waves = np.stack([np.sin(np.linspace(0, 6, 40)), np.cos(np.linspace(0, 12, 40))])
    x = {s: (waves[v] + 0.3 * rng.normal(size=(len(v), 40))).astype(np.float32) for s, v in y.items()}
    data = SignalData("waves", x, y, ("a", "b"))
    params = {"data": "mnist1d", "model": "cnn1d"}
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


def test_imagenet_goes_on_in_the_middle_of_an_epoch_bit_for_bit(tiny_imagenet, tmp_path) -> None:
    params = {"data": "imagenet", "model": "small-resnet", "augment": "rrc-flip"}
    data = ImageClassification().load(params, tiny_imagenet)
    budget = Budget(steps=9, batch_size=6, evaluations=3)
    goes_on_bit_for_bit(spec_of("image-classification", data, params, budget=budget), data, tmp_path, 4)


def test_imagenets_network_trains(tiny_imagenet) -> None:
    params = {"data": "imagenet", "model": "resnet18-imagenet", "augment": "rrc-flip"}
    data = ImageClassification().load(params, tiny_imagenet)
    result = run_trial(spec_of("image-classification", data, params, budget=Budget(steps=1, batch_size=4)), data)
    assert result.status in ("ok", "diverged"), result.error
    assert 0 <= result.final["test_accuracy"] <= 1


@pytest.mark.distributed
def test_two_processes_decode_their_shares(tiny_imagenet) -> None:
    params = {"data": "imagenet", "model": "small-resnet", "augment": "rrc-flip"}
    data = ImageClassification().load(params, tiny_imagenet)
    spec = spec_of("image-classification", data, params, budget=Budget(steps=3, batch_size=6))
    first = two_processes(spec, data)
    assert first.final == two_processes(spec, data).final


def test_settings_are_checked() -> None:
    for params, message in (
        ({"dataset": "x"}, "unknown params of image classification: dataset"),
        ({"data": "svhn"}, "unknown data 'svhn'.*allowed: mnist5k"),
        ({"model": "vit"}, "unknown model 'vit'"),
        ({"augment": "rrc-flip"}, "unknown augment 'rrc-flip'.*allowed: none, crop-flip"),
        ({"data": "imagenet", "augment": "crop-flip"}, "allowed: none, rrc-flip"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings.of(params)
