"""Networks of the paper: sizes as published, shapes, augmentation."""

from __future__ import annotations

import pytest
import torch

from adamomentum.study.tasks.vision.augment import PAD, crop_flip, cutout
from adamomentum.study.tasks.vision.models import MODELS

SIZES = {  # parameters; the papers' and the usual counts
    "small-resnet": (1, 28, 10, 77_754),
    "vgg16-bn": (3, 32, 10, 14_728_266),
    "resnet34": (3, 32, 10, 21_282_122),
    "densenet121": (3, 32, 10, 1_000_618),
    "resnet18-imagenet": (3, 224, 1000, 11_689_512),
}


@pytest.mark.parametrize("name", list(SIZES))
def test_sizes(name) -> None:
    channels, side, classes, count = SIZES[name]
    model = MODELS[name](channels, classes).eval()
    assert sum(p.numel() for p in model.parameters()) == count
    with torch.no_grad():
        assert model(torch.zeros(2, channels, side, side)).shape == (2, classes)


def test_the_network_for_signals() -> None:
    model = MODELS["cnn1d"](1, 10)
    assert sum(p.numel() for p in model.parameters()) == 5_210
    assert model(torch.zeros(3, 1, 40)).shape == (3, 10)


def test_crops_are_shifts_and_mirrors() -> None:
    torch.manual_seed(0)
    image = torch.arange(1.0, 8 * 8 + 1).view(1, 1, 8, 8)
    padded = torch.nn.functional.pad(image, (PAD,) * 4)
    candidates = {}
    for dy in range(2 * PAD + 1):
        for dx in range(2 * PAD + 1):
            crop = padded[0, 0, dy : dy + 8, dx : dx + 8]
            candidates[crop.numpy().tobytes()] = (dy, dx, False)
            candidates[crop.flip(1).contiguous().numpy().tobytes()] = (dy, dx, True)
    seen = {candidates[x[0].contiguous().numpy().tobytes()] for x in crop_flip(image.expand(600, 1, 8, 8))}
    assert len(seen) > 140  # of 162
    assert {flip for _, _, flip in seen} == {False, True}


def test_crops_of_a_batch_differ_and_keep_the_channels_together() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 1, 32, 32).expand(16, 3, 32, 32) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    moved = crop_flip(images)
    assert torch.equal(moved[:, 1], 2 * moved[:, 0])
    assert len({m.contiguous().numpy().tobytes() for m in moved}) > 10


def test_cutout_blanks_one_square() -> None:
    torch.manual_seed(0)
    cut = cutout(torch.ones(200, 3, 32, 32))
    holes = (cut == 0).all(1)
    assert torch.equal(holes, (cut == 0).any(1))
    areas = holes.sum((1, 2))
    # The centre may lie at the border: from a quarter of the square to all of it.
    assert areas.max() == 16**2
    assert areas.min() >= 8**2
    for hole in holes:
        rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
        assert hole.sum() == len(rows) * len(columns)  # a rectangle
        assert int(rows.max() - rows.min()) + 1 == len(rows)
