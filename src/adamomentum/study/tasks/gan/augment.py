"""Changes of whole images that leave what they show as it is; float32 [n, channels, h, w].

Tested in tests/study/test_gan_models.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored(images: Tensor, noise: torch.device) -> Tensor:
    """Return the images, each mirrored left to right with probability 1/2.

    Args:
        images: [n, channels, h, w].
        noise: whose random numbers decide.
    """
    flip = (torch.rand(len(images), device=noise) < 0.5).to(images.device)
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def shifted(images: Tensor, noise: torch.device) -> Tensor:
    """Return the images, each moved by up to an eighth of its sides, reflected at the border.

    Args:
        images: [n, channels, h, w].
        noise: whose random numbers decide.
    """
    n, _, h, w = images.shape

    def places(size: int) -> Tensor:
        reach = max(1, size // 8)
        by = torch.randint(-reach, reach + 1, (n, 1), device=noise).to(images.device)
        moved = (torch.arange(size, device=images.device) + by).abs()
        return size - 1 - (size - 1 - moved).abs()

    rows, columns = places(h), places(w)
    index = torch.arange(n, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
