"""CIFAR: its files, and trials at the paper's settings on a few images in the same format."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from study.cifar_files import pickled, rows_of, write_archive, write_folder, write_parquet
from study.language_mini import CheckpointAt
from study.trials import bfloat16_stays_near, spec_of

from adamomentum.study.data import cifar as cifar_module
from adamomentum.study.data.base import DataError
from adamomentum.study.data.cifar import ARCHIVES, cifar
from adamomentum.study.execute.group import run_in_group
from adamomentum.study.spec import Budget
from adamomentum.study.tasks.vision.augment import AUGMENTATIONS
from adamomentum.study.tasks.vision.task import ImageClassification
from adamomentum.study.testing.tasks import goes_on
from adamomentum.study.trial import run_trial

NAMES = ["cifar10", "cifar100"]


@pytest.fixture
def official(monkeypatch):
    """Has a file taken for the official one."""

    def declare(name: str, path: Path) -> None:
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(ARCHIVES, name, dataclasses.replace(ARCHIVES[name], md5=md5))

    return declare


@pytest.mark.parametrize("name", NAMES)
def test_archive_and_folder_hold_the_same(tmp_path, name, official) -> None:
    rows = rows_of(name)
    path = write_archive(tmp_path, name, rows)
    official(name, path)
    data = cifar(name, path)
    assert cifar(name, tmp_path / "content").fingerprint == data.fingerprint
    assert cifar(name, tmp_path / "content" / ARCHIVES[name].folder).fingerprint == data.fingerprint

    x, y = rows[ARCHIVES[name].test]
    np.testing.assert_array_equal(data.x["test"], x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert data.y["test"].tolist() == y
    written = {
        image.reshape(3, 32, 32).transpose(1, 2, 0).tobytes(): label
        for file in ARCHIVES[name].train
        for image, label in zip(*rows[file], strict=True)
    }
    loaded = [
        (image.tobytes(), int(label))
        for split in ("train", "val")
        for image, label in zip(data.x[split], data.y[split], strict=True)
    ]
    assert dict(loaded) == written
    assert len(loaded) == len(written)
    assert len(data.y["val"]) == len(written) // 10


@pytest.mark.parametrize(
    ("name", "labels", "folder"), [("cifar10", "label", "plain_text"), ("cifar100", "fine_label", "cifar100")]
)
def test_the_files_of_the_hub_hold_the_same(tmp_path, name, labels, folder) -> None:
    pytest.importorskip("pyarrow")
    rows = rows_of(name)
    write_parquet(tmp_path / "hub" / folder, name, rows, labels)
    write_folder(tmp_path / "official", name, rows)
    assert cifar(name, tmp_path / "hub").fingerprint == cifar(name, tmp_path / "official").fingerprint
    other = {"cifar10": "cifar100", "cifar100": "cifar10"}[name]
    with pytest.raises(DataError, match=r"train-00000-of-0000.\.parquet cannot be read as CIFAR.*columns img and"):
        cifar(other, tmp_path / "hub")


def test_the_split_of_the_official_sizes(monkeypatch) -> None:
    part = lambda n: (np.zeros((n, 1, 1, 3), np.uint8), np.arange(n) % 10)
    monkeypatch.setattr(cifar_module, "_parts", lambda name, source: (part(50_000), part(10_000)))
    data = cifar("cifar10", None)
    assert {split: len(y) for split, y in data.y.items()} == {"train": 45_000, "val": 5_000, "test": 10_000}
    assert data.fingerprint == cifar("cifar10", None).fingerprint
    assert np.bincount(data.y["val"]).min() > 400


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path) -> None:
    folder = write_folder(tmp_path, "cifar100", rows_of("cifar100"))
    content = pickle.dumps({b"data": Harmful(tmp_path / "harm")}, protocol=2)
    (folder / "train").write_bytes(content)
    with pytest.raises(DataError, match=r"refused: the file asks for (posix|nt)\.mkdir"):
        cifar("cifar100", tmp_path)
    assert not (tmp_path / "harm").exists()
    pickle.loads(content)
    assert (tmp_path / "harm").exists()  # so it was harmful


X = np.zeros((12, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (pickled({b"data": X}), "cannot be read.*fine_labels"),
        (pickled({b"data": X[:, :7], b"fine_labels": [0] * 12}), "cannot be read.*reshape"),
        (pickled({b"data": X.astype(np.int16), b"fine_labels": [0] * 12}), "int16, not uint8"),
        (pickled({b"data": X, b"fine_labels": [0] * 11}), "12 images and 11 labels"),
        (pickled({b"data": X, b"fine_labels": [0] * 11 + [100]}), "labels from 0 to 100; expected .* from 0 to 99"),
        (pickled({b"data": X[:9], b"fine_labels": [0] * 9}), "9 training images are too few"),
    ],
)
def test_wrong_content_is_told(tmp_path, content, message) -> None:
    folder = write_folder(tmp_path, "cifar100", rows_of("cifar100"))
    (folder / "train").write_bytes(content)
    with pytest.raises(DataError, match=message):
        cifar("cifar100", tmp_path)


def test_a_wrong_source_is_told(tmp_path) -> None:
    path = write_archive(tmp_path, "cifar10", rows_of("cifar10"))
    with pytest.raises(DataError, match=r"has MD5 .*c58f30108f718f92721af3b95e74349a; download it again"):
        cifar("cifar10", path)
    with pytest.raises(DataError, match=r"nowhere does not exist; give cifar-10-python\.tar\.gz"):
        cifar("cifar10", tmp_path / "nowhere")
    with pytest.raises(DataError, match="lacks data_batch_1"):
        cifar("cifar10", tmp_path)


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr(cifar_module, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def test_a_download_comes_from_the_first_address_that_serves_the_right_file(tmp_path, cache, official, monkeypatch):
    path = write_archive(tmp_path, "cifar10", rows_of("cifar10"))
    official("cifar10", path)
    (tmp_path / "wrong").write_bytes(b"a page that asks to log in")
    urls = [(tmp_path / name).as_uri() for name in ("missing", "wrong", path.name)]
    archive = dataclasses.replace(ARCHIVES["cifar10"], urls=tuple(urls))
    monkeypatch.setitem(ARCHIVES, "cifar10", archive)
    data = cifar("cifar10", None)
    assert data.fingerprint == cifar("cifar10", path).fingerprint

    path.rename(tmp_path / "away")
    assert cifar("cifar10", None).fingerprint == data.fingerprint  # from the cache
    (cache / archive.file).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"missing: .*wrong: MD5 .*--data cifar10=/path/to/cifar-10-python\.tar\.gz"):
        cifar("cifar10", None)
    (tmp_path / "away").rename(path)
    assert cifar("cifar10", None).fingerprint == data.fingerprint
    assert (cache / archive.file).read_bytes() == path.read_bytes()


def test_offline_is_one_sentence(cache, monkeypatch) -> None:
    def offline(url, timeout):
        raise OSError("no network")

    monkeypatch.setattr(cifar_module.urllib.request, "urlopen", offline)
    with pytest.raises(DataError, match=r"toronto.*no network.*give --data cifar100=/path/to") as error:
        cifar("cifar100", None)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(cifar_module.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"something else"))
    with pytest.raises(DataError, match=r"MD5 .*expected eb90"):
        cifar("cifar100", None)
    assert not cache.exists()


# --- trials ---

AS_RUN = {"data": "cifar10", "augment": "crop-flip-cutout", "label_smoothing": 0.1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("cifar"), "cifar10", rows_of("cifar10"))
    return ImageClassification().load(AS_RUN, folder)


@pytest.fixture(scope="module")
def tiniest(tmp_path_factory):
    """For networks of the paper's size, which take a second an image."""
    folder = write_folder(tmp_path_factory.mktemp("cifar"), "cifar10", rows_of("cifar10", 4))
    return ImageClassification().load(AS_RUN, folder)


def spec(data, params, **budget):
    lr = budget.pop("lr", 3e-3)
    return spec_of("image-classification", data, params, "adamomentum", lr, budget=Budget(**budget))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vgg16-bn", "resnet34", "densenet121"])
def test_the_papers_networks_go_on_bit_for_bit(tiniest, model) -> None:
    params = {**AS_RUN, "model": model}
    whole = goes_on(spec(tiniest, params, lr=1e-4, steps=3, batch_size=4, evaluations=1), tiniest, [2])
    assert whole.status == "ok"
    assert {"test_accuracy", "test_loss"} <= set(whole.final)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vgg16-bn", "resnet34", "densenet121"])
def test_the_papers_networks_in_bfloat16(tiniest, model) -> None:
    params = {"data": "cifar10", "model": model}
    bfloat16_stays_near(spec(tiniest, params, lr=1e-5, steps=2, batch_size=4, evaluations=1), tiniest, 0.05)


def test_augmentation_goes_on_bit_for_bit(tiny) -> None:
    goes_on(spec(tiny, AS_RUN, steps=20, batch_size=16, evaluations=4), tiny, [7])


@pytest.mark.parametrize("change", [{"augment": "crop-flip"}, {"augment": "none"}, {"label_smoothing": 0.0}])
def test_augmentation_and_smoothing_are_at_work_in_training_alone(tiny, change) -> None:
    # Without a step worth the name, only the batches differ.
    losses = [
        run_trial(spec(tiny, params, lr=1e-12, steps=3, batch_size=16), tiny).final
        for params in (AS_RUN, {**AS_RUN, **change})
    ]
    assert losses[0]["train_loss"] != pytest.approx(losses[1]["train_loss"], rel=1e-4)
    if "label_smoothing" in change:
        assert losses[0]["test_loss"] == pytest.approx(losses[1]["test_loss"], rel=1e-6)


def test_random_numbers_come_from_the_device_of_the_images() -> None:
    # Those of the CPU are no part of a checkpoint of training on another device.
    before = torch.get_rng_state()
    moved = AUGMENTATIONS["crop-flip-cutout"](torch.empty(4, 3, 32, 32, device="meta"))
    assert moved.shape == (4, 3, 32, 32)
    assert torch.equal(torch.get_rng_state(), before)


def test_bfloat16(tiny) -> None:
    bfloat16_stays_near(spec(tiny, {"data": "cifar10"}, lr=1e-3, steps=20, batch_size=16), tiny, 0.05)


@pytest.mark.distributed
def test_two_processes_train_together_and_go_on(tiny, tmp_path) -> None:
    two = spec(tiny, AS_RUN, steps=6, batch_size=16, evaluations=2).model_copy(update={"processes": 2})
    run = partial(run_trial, data=tiny, checkpoints=CheckpointAt(tmp_path, 4))
    whole = run_in_group(two, run)
    assert whole.status == "ok", whole.error
    assert run_in_group(two, run).final == whole.final
    assert {path.name for path in tmp_path.glob("rank*")} == {"rank 0 from step 4", "rank 1 from step 4"}
