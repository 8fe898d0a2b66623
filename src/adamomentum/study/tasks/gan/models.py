"""The networks of GANs by name.

Every generator maps noise [n, latent] and labels [n] to images in [-1, 1]; every discriminator images, labels and the
number of batches that lie one behind the other in them to scores [n]. Those that know no labels ignore them, those
without batch norm the number of batches.

Tested in tests/study/test_gan_models.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from adamomentum.study.tasks.gan.convolutional import (
    DcganDiscriminator,
    DcganGenerator,
    DigitDiscriminator,
    DigitGenerator,
)
from adamomentum.study.tasks.gan.residual import PARTS, ResidualDiscriminator, ResidualGenerator


@dataclass(frozen=True)
class Networks:
    """The two networks of a GAN.

    Attributes:
        generator: makes it from (latent, width, classes, image channels).
        discriminator: makes it from (width, classes, image channels).
        side: of the images, in pixels.
        latent: default size of the noise.
        widths: default number of channels of the narrowest layer, of generator and discriminator.
        parts: into which the noise is cut.
    """

    generator: Callable[[int, int, int, int], nn.Module]
    discriminator: Callable[[int, int, int], nn.Module]
    side: int
    latent: int
    widths: tuple[int, int]
    parts: int = 1


MODELS = {
    "sn-dcgan": Networks(DigitGenerator, DigitDiscriminator, 8, 32, (24, 24)),
    "dcgan": Networks(DcganGenerator, DcganDiscriminator, 32, 128, (64, 64)),
    "sngan": Networks(ResidualGenerator, ResidualDiscriminator, 32, 128, (256, 128)),
    "biggan": Networks(
        partial(ResidualGenerator, shared=128),
        partial(ResidualDiscriminator, attention=True),
        32,
        80,
        (384, 192),
        PARTS,
    ),
}
"""The digits' is the project's own; the others are as AdaMomentum's authors ran them."""
