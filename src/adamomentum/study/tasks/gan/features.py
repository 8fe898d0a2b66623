"""Feature networks on whose outputs generated and real images are compared.

A distance means something only together with the network and the real images it was computed with: each network has a
name, which is part of a trial's parameters.

Tested in tests/study/test_gan_data.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamomentum.study.tasks.gan import digit_features

DIGITS = digit_features.NAME
INCEPTION = "inception"
INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_BATCH = 100
NO_INCEPTION = (
    f"features {INCEPTION!r} need the weights of the Inception network: put NVIDIA's {INCEPTION_FILE} (of StyleGAN's "
    "metrics), or another TorchScript file of that name that maps uint8 images [n, 3, h, w] to features and resizes "
    "them itself, beside the images, in the folder of what --data cifar10=PATH names"
)
Features = Callable[[Tensor], Tensor]
"""Maps images, float32 [n, channels, h, w] in [-1, 1], to features, float32 [n, k]."""


def load(name: str, device: torch.device, weights: Path | None = None) -> Features:
    """Return the feature network called ``name``.

    Args:
        name: ``digits-cnn64-v1``, whose weights come with the library, or ``inception``.
        device: where it runs.
        weights: for ``inception``: a TorchScript file that maps uint8 images [n, 3, h, w] of any size to features.

    Raises:
        ValueError: if there is no such network, or its weights are missing or not TorchScript.
    """
    if name == DIGITS:
        return digit_features.load_digits_cnn().to(device).features
    if name != INCEPTION:
        raise ValueError(f"unknown features {name!r}; allowed: {DIGITS}, {INCEPTION}")
    if weights is None or not weights.is_file():
        raise ValueError(f"{NO_INCEPTION}; got {weights}")
    try:
        script = torch.jit.load(str(weights), map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(
            f"{weights} is not a TorchScript file ({str(error).splitlines()[0]}); {NO_INCEPTION}"
        ) from None
    # NVIDIA's file returns features, and not the probabilities of its classes, if it is told so.
    options = {"return_features": True} if _takes(script, "return_features") else {}

    def inception(images: Tensor) -> Tensor:
        # Bytes of the images' own size, which the network itself resizes: published distances are computed so.
        pixels = to_bytes(images)
        parts = [script(part, **options) for part in pixels.split(INCEPTION_BATCH)]
        return torch.cat(parts).flatten(1).float()

    return inception


def to_bytes(images: Tensor) -> Tensor:
    """Return ``images``, in [-1, 1], as uint8 of the same shape."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _takes(script: torch.jit.ScriptModule, name: str) -> bool:
    schema: Any = getattr(script.forward, "schema", None)
    return schema is not None and any(argument.name == name for argument in schema.arguments)
