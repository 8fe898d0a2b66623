"""Augmentation of whole batches where they lie, drawn from torch's global generator of the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PAD = 4
CUTOUT = 16


def crop_flip(images: Tensor) -> Tensor:
    """Returns [n, c, h, w] images shifted by up to 4 pixels on a border of zeros, and mirrored half the time."""
    n, _, h, w = images.shape
    dy, dx = torch.randint(0, 2 * PAD + 1, (2, n)).to(images.device)
    flip = (torch.rand(n) < 0.5).to(images.device)
    rows = torch.arange(h, device=images.device) + dy[:, None]
    columns = torch.arange(w, device=images.device) + dx[:, None]
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    padded = F.pad(images, (PAD,) * 4).permute(0, 2, 3, 1)
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor) -> Tensor:
    """Returns [n, c, h, w] images with a square of 16 pixels set to 0, its centre anywhere (arXiv 1708.04552)."""
    n, _, h, w = images.shape
    y, x = torch.randint(0, h, (n, 1)).to(images.device), torch.randint(0, w, (n, 1)).to(images.device)
    inside = lambda size, centre: (torch.arange(size, device=images.device) - centre + CUTOUT // 2).clamp(-1, CUTOUT)
    rows, columns = inside(h, y), inside(w, x)
    hit = lambda places: (places >= 0) & (places < CUTOUT)
    return images.masked_fill((hit(rows)[:, :, None] & hit(columns)[:, None, :])[:, None], 0.0)


AUGMENTATIONS = {
    "none": lambda images: images,
    "crop-flip": crop_flip,
    "crop-flip-cutout": lambda images: cutout(crop_flip(images)),
}
