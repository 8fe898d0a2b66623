"""Convolutional GANs without labels: a small one for 8 x 8 digits, and DCGAN for 32 x 32 colour images.

Tested in tests/study/test_gan_models.py.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamomentum.study.tasks.gan.layers import orthogonal, spectral_norm


class DigitGenerator(nn.Module):
    """Two transposed convolutions 2 -> 4 -> 8, batch norm."""

    def __init__(self, latent: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.start = nn.Linear(latent, 2 * width * 4, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(2 * width), nn.BatchNorm2d(width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False)
        self.up2 = nn.ConvTranspose2d(width, channels, 4, 2, 1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images [n, channels, 8, 8]."""
        x = F.relu(self.norm1(self.start(noise).unflatten(1, (-1, 2, 2))))
        return torch.tanh(self.up2(F.relu(self.norm2(self.up1(x)))))


class DigitDiscriminator(nn.Module):
    """Two convolutions, spectral norm in every layer."""

    def __init__(self, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(channels, 2 * width // 3, 3, 1, 1))
        self.conv2 = spectral_norm(nn.Conv2d(2 * width // 3, 4 * width // 3, 4, 2, 1))
        self.score = spectral_norm(nn.Linear(4 * width // 3 * 16, 1))

    def forward(self, images: Tensor, labels: Tensor, batches: int = 1) -> Tensor:
        """Return scores [n] of images [n, channels, 8, 8]."""
        x = F.leaky_relu(self.conv1(images), 0.1)
        x = F.leaky_relu(self.conv2(x), 0.1)
        out: Tensor = self.score(x.flatten(1))[:, 0]
        return out


class DcganGenerator(nn.Module):
    """Transposed convolutions 4 -> 8 -> 16 -> 32 with batch norm, and one convolution (after arXiv 1511.06434)."""

    def __init__(self, latent: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        sizes = [8 * width, 4 * width, 2 * width, width]
        layers: list[nn.Module] = [orthogonal(nn.Linear(latent, sizes[0] * 16)), nn.Unflatten(1, (sizes[0], 4, 4))]
        for a, b in itertools.pairwise(sizes):
            layers += [orthogonal(nn.ConvTranspose2d(a, b, 4, 2, 1)), nn.BatchNorm2d(b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, orthogonal(nn.Conv2d(width, channels, 3, 1, 1)), nn.Tanh())

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images [n, channels, 32, 32]."""
        out: Tensor = self.layers(noise)
        return out


class DcganDiscriminator(nn.Module):
    """Pairs of a convolution and one with stride, 32 -> 16 -> 8 -> 4, one more, sum over places; batch norm."""

    def __init__(self, width: int, classes: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []

        def add(inputs: int, outputs: int, kernel: int, stride: int) -> None:
            convolution = orthogonal(nn.Conv2d(inputs, outputs, kernel, stride, 1))
            layers.extend([convolution, nn.BatchNorm2d(outputs), nn.ReLU()])

        for a, b in itertools.pairwise([channels, width, 2 * width, 4 * width]):
            add(a, b, 3, 1)
            add(b, b, 4, 2)
        add(4 * width, 8 * width, 3, 1)
        self.layers, self.score = nn.Sequential(*layers), orthogonal(nn.Linear(8 * width, 1))

    def forward(self, images: Tensor, labels: Tensor, batches: int = 1) -> Tensor:
        """Return scores [n] of images [n, channels, 32, 32], which are so many batches, each normalized alone."""
        return torch.cat([self.score(self.layers(batch).sum((2, 3)))[:, 0] for batch in images.chunk(batches)])
