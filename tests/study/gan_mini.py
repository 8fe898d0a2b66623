"""Small images for GANs, and stand-ins for the Inception network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from study.trials import spec_of
from torch import Tensor, nn

from adamomentum.study.data.images import ImageData
from adamomentum.study.spec import Budget, TrialSpec
from adamomentum.study.tasks.gan.data import GanData

SMALL = {"width": 6, "latent": 8, "samples": 100}


def images_of(x: np.ndarray, y: np.ndarray) -> ImageData:
    half = len(x) // 2
    rows = {"train": slice(None), "val": slice(0, half), "test": slice(half, None)}
    return ImageData(
        "mini", {k: x[v] for k, v in rows.items()}, {k: y[v] for k, v in rows.items()}, tuple("0123456789")
    )


def squares() -> GanData:
    """White squares of 3 x 3 on 8 x 8 pixels: no download."""
    rng = np.random.default_rng(0)
    x = np.zeros((96, 8, 8, 1), np.uint8)
    for image in x:
        r, c = rng.integers(1, 5, 2)
        image[r : r + 3, c : c + 3] = 255
    return GanData(images_of(x, rng.integers(0, 10, 96)))


def colours() -> ImageData:
    """Images of 32 x 32 of one colour each, which is the label's, with noise."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 48)
    shades = rng.integers(30, 226, (10, 1, 1, 3))
    return images_of((shades[y] + rng.integers(-30, 30, (48, 32, 32, 3))).astype(np.uint8), y)


class Means(nn.Module):
    """Twelve averages over parts of an image, divided by ``scale``; takes what the Inception network takes."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8 and x.shape[1] == 3, "bytes of three channels"
        return torch.nn.functional.adaptive_avg_pool2d(x.float() / self.scale, [2, 2])


class FlaggedMeans(Means):
    """As NVIDIA's file: features only if asked for."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:  # type: ignore[override]
        means = torch.nn.functional.adaptive_avg_pool2d(x.float() / self.scale, [2, 2])
        return means.flatten(1) if return_features else means.flatten(1).softmax(1)


def weights_file(path: Path, scale: float = 10.0, kind: type[Means] = Means) -> Path:
    torch.jit.script(kind(scale)).save(str(path))
    return path


def spec(data: GanData, params=None, **fields) -> TrialSpec:
    fields = {"budget": Budget(steps=8, batch_size=16, evaluations=4), **fields}
    return spec_of("gan", data, {"data": "digits", "model": "sn-dcgan", **SMALL, **(params or {})}, **fields)


def colour_spec(data: GanData, model: str, params=None, **fields) -> TrialSpec:
    fields = {"budget": Budget(steps=3, batch_size=8, evaluations=3), **fields}
    return spec(data, {"data": "cifar10", "model": model, "d_steps": 2, **(params or {})}, **fields)
