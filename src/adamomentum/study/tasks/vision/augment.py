"""Augmentation of whole batches on their device, drawn from torch's global generator of that device.

Tested in tests/study/test_vision_cifar.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PAD = 4
CUTOUT = 16


def crop_flip(images: Tensor) -> Tensor:
    """Return [n, c, h, w] images shifted by up to 4 pixels on a border of zeros, and mirrored half the time."""
    (n, _, h, w), device = images.shape, images.device
    dy, dx = torch.randint(0, 2 * PAD + 1, (2, n), device=device)
    flip = torch.rand(n, device=device) < 0.5
    rows = torch.arange(h, device=device) + dy[:, None]
    columns = torch.arange(w, device=device) + dx[:, None]
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    padded = F.pad(images, (PAD,) * 4).permute(0, 2, 3, 1)
    index = torch.arange(n, device=device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor) -> Tensor:
    """Return [n, c, h, w] images with a square of 16 pixels set to 0, its centre anywhere (arXiv 1708.04552)."""
    n, _, h, w = images.shape
    rows, columns = _stretches(h, n, images.device), _stretches(w, n, images.device)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _stretches(size: int, n: int, device: torch.device) -> Tensor:
    """Return n random stretches of 16 among ``size`` places, cut off at the ends, bool [n, size]."""
    start = torch.randint(0, size, (n, 1), device=device) - CUTOUT // 2
    place = torch.arange(size, device=device)
    return (place >= start) & (place < start + CUTOUT)


AUGMENTATIONS = {
    "none": lambda images: images,
    "crop-flip": crop_flip,
    "crop-flip-cutout": lambda images: cutout(crop_flip(images)),
}
