"""Residual GANs for 32 x 32 images that know the labels: SNGAN and BigGAN.

ArXiv 1802.05957 (spectral norm), 1802.05637 (the label by projection), 1809.11096 (BigGAN).

Tested in tests/study/test_gan_models.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamomentum.study.tasks.gan.layers import ConditionalNorm, SelfAttention, orthogonal, plain, spectral_norm

BLOCKS = 3
PARTS = BLOCKS + 1
"""BigGAN gives the first layer and each block of the generator a part of the noise."""


class UpBlock(nn.Module):
    """Norm, ReLU, twice as large, convolution; norm, ReLU, convolution; the shortcut is projected.

    Args:
        channels: in and out.
        classes: how many labels there are.
        condition: size of the condition; 0: it is the label, and there is no spectral norm.
    """

    def __init__(self, channels: int, classes: int, condition: int = 0) -> None:
        super().__init__()
        wrap = spectral_norm if condition else plain
        self.norm1 = ConditionalNorm(channels, classes, condition)
        self.norm2 = ConditionalNorm(channels, classes, condition)
        self.conv1 = wrap(orthogonal(nn.Conv2d(channels, channels, 3, 1, 1)))
        self.conv2 = wrap(orthogonal(nn.Conv2d(channels, channels, 3, 1, 1)))
        self.shortcut = wrap(orthogonal(nn.Conv2d(channels, channels, 1)))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map [n, channels, h, w] to [n, channels, 2 h, 2 w]."""
        y = self.conv1(F.interpolate(F.relu(self.norm1(x, condition)), scale_factor=2))
        y = self.conv2(F.relu(self.norm2(y, condition)))
        # A convolution of one pixel commutes with repeating pixels, and is cheaper before it.
        out: Tensor = y + F.interpolate(self.shortcut(x), scale_factor=2)
        return out


class DownBlock(nn.Module):
    """Two spectrally normalized convolutions with ReLU before them; residual.

    Args:
        inputs: channels.
        outputs: channels.
        down: half as large.
        first: the input is an image: no ReLU before it.
    """

    def __init__(self, inputs: int, outputs: int, down: bool, first: bool = False) -> None:
        super().__init__()
        self.conv1 = spectral_norm(orthogonal(nn.Conv2d(inputs, outputs, 3, 1, 1)))
        self.conv2 = spectral_norm(orthogonal(nn.Conv2d(outputs, outputs, 3, 1, 1)))
        projected = down or inputs != outputs
        self.shortcut = spectral_norm(orthogonal(nn.Conv2d(inputs, outputs, 1))) if projected else nn.Identity()
        self.down, self.first = down, first

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, h, w] to [n, outputs, h / 2, w / 2] or [n, outputs, h, w]."""
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.down:
            # A convolution of one pixel commutes with means over pixels, and is cheaper after them.
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        out: Tensor = y + self.shortcut(x)
        return out


class ResidualGenerator(nn.Module):
    """Three blocks, 4 -> 32, conditioned on the label.

    Args:
        latent: size of the noise.
        width: channels.
        classes: how many labels there are.
        channels: of the images.
        shared: size of an embedding of the label that all blocks share, as in BigGAN, with a part of the noise for each
            block, attention and spectral norm; 0: SNGAN.
    """

    def __init__(self, latent: int, width: int, classes: int, channels: int, shared: int = 0) -> None:
        super().__init__()
        self.shared = orthogonal(nn.Embedding(classes, shared)) if shared else None
        self.part = latent // PARTS if shared else latent
        wrap = spectral_norm if shared else plain
        self.start = wrap(orthogonal(nn.Linear(self.part, width * 16)))
        condition = shared + self.part if shared else 0
        self.blocks = nn.ModuleList(UpBlock(width, classes, condition) for _ in range(BLOCKS))
        self.attention = SelfAttention(width) if shared else nn.Identity()
        self.norm, self.end = nn.BatchNorm2d(width), wrap(orthogonal(nn.Conv2d(width, channels, 3, 1, 1)))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images [n, channels, 32, 32]."""
        first, *others = noise.split(self.part, 1)
        x = self.start(first).unflatten(1, (-1, 4, 4))
        for k, block in enumerate(self.blocks):
            x = block(x, labels if self.shared is None else torch.cat([self.shared(labels), others[k]], 1))
            if k == 1:
                x = self.attention(x)
        return torch.tanh(self.end(F.relu(self.norm(x))))


class ResidualDiscriminator(nn.Module):
    """Four blocks, 32 -> 8, spectral norm, the label by projection.

    Args:
        width: channels.
        classes: how many labels there are.
        channels: of the images.
        attention: after the first block, as in BigGAN.
    """

    def __init__(self, width: int, classes: int, channels: int, attention: bool = False) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            DownBlock(channels, width, True, first=True),
            SelfAttention(width) if attention else nn.Identity(),
            DownBlock(width, width, True),
            DownBlock(width, width, False),
            DownBlock(width, width, False),
        )
        self.score = spectral_norm(orthogonal(nn.Linear(width, 1)))
        self.embedding = spectral_norm(orthogonal(nn.Embedding(classes, width)))

    def forward(self, images: Tensor, labels: Tensor, batches: int = 1) -> Tensor:
        """Return scores [n] of images [n, channels, 32, 32]."""
        x = F.relu(self.blocks(images)).sum((2, 3))
        out: Tensor = self.score(x)[:, 0] + (self.embedding(labels) * x).sum(1)
        return out
