"""Generators and discriminators: a small one for digits, and DCGAN, SNGAN and BigGAN for 32 x 32 colour images.

Every generator maps noise [n, latent] and labels [n] to images in [-1, 1], every discriminator images and labels to
scores [n]; those without classes ignore the labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


@dataclass(frozen=True)
class Gan:
    """A kind of GAN.

    Attributes:
        generator: makes it from (latent, width, classes).
        discriminator: makes it from (width, classes, image channels).
        latent: default size of the noise.
        width: default number of channels of the narrowest layer.
        conditional: labels matter.
    """

    generator: Callable[[int, int, int, int], nn.Module]
    discriminator: Callable[[int, int, int], nn.Module]
    latent: int
    width: int
    conditional: bool


# --- digits, 8 x 8: spectrally normalized DCGAN ---


class DigitGenerator(nn.Module):
    """Two transposed convolutions, batch norm."""

    def __init__(self, latent: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.start = nn.Linear(latent, 2 * width * 4, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(2 * width), nn.BatchNorm2d(width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False)
        self.up2 = nn.ConvTranspose2d(width, channels, 4, 2, 1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Returns images [n, channels, 8, 8]."""
        x = F.relu(self.norm1(self.start(noise).unflatten(1, (-1, 2, 2))))
        return torch.tanh(self.up2(F.relu(self.norm2(self.up1(x)))))


class DigitDiscriminator(nn.Module):
    """Two convolutions, spectral norm in every layer."""

    def __init__(self, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(channels, 2 * width // 3, 3, 1, 1))
        self.conv2 = spectral_norm(nn.Conv2d(2 * width // 3, 4 * width // 3, 4, 2, 1))
        self.score = spectral_norm(nn.Linear(4 * width // 3 * 16, 1))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns scores [n] of images [n, channels, 8, 8]."""
        x = F.leaky_relu(self.conv1(images), 0.1)
        x = F.leaky_relu(self.conv2(x), 0.1)
        out: Tensor = self.score(x.flatten(1))[:, 0]
        return out


# --- DCGAN, 32 x 32 (arXiv 1511.06434) ---


def _dcgan_init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class DcganGenerator(nn.Module):
    """Transposed convolutions 1 -> 4 -> 8 -> 16 -> 32."""

    def __init__(self, latent: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        sizes = [8 * width, 4 * width, 2 * width]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent, sizes[0], 4, 1, 0, bias=False)]
        for a, b in zip(sizes, [*sizes[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(*layers).apply(_dcgan_init)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Returns images [n, channels, 32, 32]."""
        return torch.tanh(self.layers(noise[:, :, None, None]))


class DcganDiscriminator(nn.Module):
    """Convolutions 32 -> 16 -> 8 -> 4 -> 1."""

    def __init__(self, width: int, classes: int, channels: int) -> None:
        super().__init__()
        sizes = [channels, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for k, (a, b) in enumerate(itertools.pairwise(sizes)):
            layers.append(nn.Conv2d(a, b, 4, 2, 1, bias=False))
            layers += [nn.BatchNorm2d(b), nn.LeakyReLU(0.2)] if k else [nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 4, bias=False)).apply(_dcgan_init)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns scores [n] of images [n, channels, 32, 32]."""
        return self.layers(images).flatten()  # type: ignore[no-any-return]


# --- SNGAN and BigGAN, 32 x 32: residual blocks (arXiv 1802.05957, 1802.05637, 1809.11096) ---


class ConditionalNorm(nn.Module):
    """Batch norm whose scale and shift come from a condition, [n, size], or from a label."""

    def __init__(self, channels: int, classes: int, condition: int = 0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale: nn.Module
        self.shift: nn.Module
        if condition:
            self.scale = spectral_norm(nn.Linear(condition, channels, bias=False))
            self.shift = spectral_norm(nn.Linear(condition, channels, bias=False))
        else:
            self.scale, self.shift = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
            nn.init.zeros_(self.scale.weight)
            nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps [n, channels, h, w] to the same."""
        scale, shift = self.scale(condition)[:, :, None, None], self.shift(condition)[:, :, None, None]
        out: Tensor = self.norm(x) * (1 + scale) + shift
        return out


def _identity(module: nn.Module) -> nn.Module:
    return module


class UpBlock(nn.Module):
    """Norm, ReLU, twice as large, convolution; norm, ReLU, convolution; the shortcut is projected."""

    def __init__(self, inputs: int, outputs: int, classes: int, condition: int = 0) -> None:
        super().__init__()
        wrap = spectral_norm if condition else _identity
        self.norm1 = ConditionalNorm(inputs, classes, condition)
        self.norm2 = ConditionalNorm(outputs, classes, condition)
        self.conv1, self.conv2 = wrap(nn.Conv2d(inputs, outputs, 3, 1, 1)), wrap(nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.shortcut = wrap(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps [n, inputs, h, w] to [n, outputs, 2 h, 2 w]."""
        y = self.conv1(F.interpolate(F.relu(self.norm1(x, condition)), scale_factor=2))
        y = self.conv2(F.relu(self.norm2(y, condition)))
        out: Tensor = y + self.shortcut(F.interpolate(x, scale_factor=2))
        return out


class DownBlock(nn.Module):
    """Two spectrally normalized convolutions with ReLU before them, half as large if ``down``; residual."""

    def __init__(self, inputs: int, outputs: int, down: bool, first: bool = False) -> None:
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(inputs, outputs, 3, 1, 1))
        self.conv2 = spectral_norm(nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.shortcut = spectral_norm(nn.Conv2d(inputs, outputs, 1)) if down or inputs != outputs else nn.Identity()
        self.down, self.first = down, first

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, inputs, h, w] to [n, outputs, h / 2, w / 2] or [n, outputs, h, w]."""
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if not self.down:
            return y + self.shortcut(x)  # type: ignore[no-any-return]
        # On pixels, where there are fewer channels, pooling first is cheaper and the same up to the bias.
        short = self.shortcut(F.avg_pool2d(x, 2)) if self.first else F.avg_pool2d(self.shortcut(x), 2)
        return F.avg_pool2d(y, 2) + short


class SelfAttention(nn.Module):
    """Attention between places (arXiv 1805.08318), its share learnt from 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query = spectral_norm(nn.Conv2d(channels, inner, 1, bias=False))
        self.key = spectral_norm(nn.Conv2d(channels, inner, 1, bias=False))
        self.value = spectral_norm(nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.output = spectral_norm(nn.Conv2d(channels // 2, channels, 1, bias=False))
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, channels, h, w] to the same."""
        query = self.query(x).flatten(2)
        key, value = F.max_pool2d(self.key(x), 2).flatten(2), F.max_pool2d(self.value(x), 2).flatten(2)
        weights = torch.softmax(query.transpose(1, 2) @ key, -1)
        y = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        out: Tensor = x + self.share * self.output(y)
        return out


class ResidualGenerator(nn.Module):
    """Three blocks, 4 -> 32, conditioned on the label; ``shared`` as in BigGAN on a shared embedding and the noise."""

    def __init__(self, latent: int, width: int, classes: int, channels: int, shared: int = 0) -> None:
        super().__init__()
        self.shared = nn.Embedding(classes, shared) if shared else None
        # BigGAN gives each block a part of the noise.
        self.parts = 4 if shared else 1
        if latent % self.parts:
            raise ValueError(f"latent must be a multiple of {self.parts}, got {latent}")
        part = latent // self.parts
        condition = shared + part if shared else 0
        wrap = spectral_norm if shared else _identity
        self.start = wrap(nn.Linear(part if shared else latent, width * 16))
        self.blocks = nn.ModuleList(UpBlock(width, width, classes, condition) for _ in range(3))
        self.attention = SelfAttention(width) if shared else nn.Identity()
        self.norm, self.end = nn.BatchNorm2d(width), wrap(nn.Conv2d(width, channels, 3, 1, 1))
        if shared:
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.orthogonal_(module.weight)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Returns images [n, channels, 32, 32]."""
        parts = noise.chunk(self.parts, 1)
        x = self.start(parts[0]).unflatten(1, (-1, 4, 4))
        for k, block in enumerate(self.blocks):
            condition = labels
            if self.shared is not None:
                condition = torch.cat([self.shared(labels), parts[k + 1]], 1)
            x = block(x, condition)
            if k == 1:
                x = self.attention(x)
        return torch.tanh(self.end(F.relu(self.norm(x))))


class ResidualDiscriminator(nn.Module):
    """Four blocks, spectral norm, the label by projection (arXiv 1802.05637)."""

    def __init__(self, width: int, classes: int, channels: int, attention: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                DownBlock(channels, width, True, first=True),
                DownBlock(width, width, True),
                DownBlock(width, width, False),
                DownBlock(width, width, False),
            ]
        )
        self.attention = SelfAttention(width) if attention else nn.Identity()
        self.score = spectral_norm(nn.Linear(width, 1))
        self.embedding = spectral_norm(nn.Embedding(classes, width))
        if attention:
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                    nn.init.orthogonal_(module.weight)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns scores [n] of images [n, channels, 32, 32]."""
        x = images
        for k, block in enumerate(self.blocks):
            x = block(x)
            if k == 0:
                x = self.attention(x)
        x = F.relu(x).sum((2, 3))
        out: Tensor = self.score(x)[:, 0] + (self.embedding(labels) * x).sum(1)
        return out


MODELS = {
    "sn-dcgan": Gan(DigitGenerator, DigitDiscriminator, 32, 24, False),
    "dcgan": Gan(DcganGenerator, DcganDiscriminator, 100, 64, False),
    "sngan": Gan(ResidualGenerator, ResidualDiscriminator, 128, 256, True),
    "biggan": Gan(
        lambda latent, width, classes, channels: ResidualGenerator(latent, width, classes, channels, shared=128),
        lambda width, classes, channels: ResidualDiscriminator(width, classes, channels, attention=True),
        80,
        256,
        True,
    ),
}
