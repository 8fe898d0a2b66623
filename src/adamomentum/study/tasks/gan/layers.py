"""Parts of which the networks of GANs are made.

Tested in tests/study/test_gan_models.py.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

M = TypeVar("M", nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)


class _InFull(nn.Module):
    """Computes a parametrization in the weight's own precision, whatever the forward pass around it computes in."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            out: Tensor = self.inner(weight)
        return out


def spectral_norm(module: M) -> M:
    """Return ``module`` with its weight divided by its largest singular value (arXiv 1802.05957).

    One power iteration a forward pass. Within autocast to bfloat16 torch's own would estimate the value to 3 digits.
    """
    parametrizations.spectral_norm(module)
    weight: nn.ModuleList = module.parametrizations.weight  # type: ignore[union-attr,assignment]
    weight[0] = _InFull(weight[0])
    return module


def plain(module: M) -> M:
    """Return ``module`` as it is: what stands for ``spectral_norm`` where there is none."""
    return module


def orthogonal(module: M) -> M:
    """Return ``module`` with an orthogonal weight and no bias.

    Before ``spectral_norm``: the weight that a normalized module shows is computed, what is written there is lost.
    """
    nn.init.orthogonal_(module.weight)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return module


class ConditionalNorm(nn.Module):
    """Batch norm whose scale and shift come from a condition.

    Args:
        channels: of the images.
        classes: how many labels there are, if the condition is a label [n].
        size: of the condition, if it is a vector [n, size]; 0: it is a label.
    """

    def __init__(self, channels: int, classes: int, size: int = 0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = (
            spectral_norm(orthogonal(nn.Linear(size, channels, bias=False)))
            if size
            else orthogonal(nn.Embedding(classes, channels))
            for _ in range(2)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map [n, channels, h, w] to the same."""
        scale, shift = self.scale(condition)[:, :, None, None], self.shift(condition)[:, :, None, None]
        out: Tensor = self.norm(x) * (1 + scale) + shift
        return out


class SelfAttention(nn.Module):
    """Attention between places (arXiv 1805.08318), its share learnt from 0; spectral norm.

    Args:
        channels: of the images; from 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

        def mix(inputs: int, outputs: int) -> nn.Conv2d:
            return spectral_norm(orthogonal(nn.Conv2d(inputs, outputs, 1, bias=False)))

        inner = max(1, channels // 8)
        self.query, self.key = mix(channels, inner), mix(channels, inner)
        self.value, self.output = mix(channels, channels // 2), mix(channels // 2, channels)
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, h, w] to the same."""
        query = self.query(x).flatten(2)
        key, value = F.max_pool2d(self.key(x), 2).flatten(2), F.max_pool2d(self.value(x), 2).flatten(2)
        weights = torch.softmax(query.transpose(1, 2) @ key, -1)
        y = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        out: Tensor = x + self.share * self.output(y)
        return out
