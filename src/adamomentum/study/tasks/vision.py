"""Image classification with a small residual CNN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamomentum.study.data.images import ImageData, load, mnist5k
from adamomentum.study.spec import Value
from adamomentum.study.tasks.base import Batches, Context, Run, Update

EVAL_BATCH = 500


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; the shortcut is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def small_resnet(channels: int, classes: int) -> nn.Sequential:
    """Returns a three-stage residual CNN (16, 32, 64 channels; 77,754 parameters for 1 x 28 x 28, 10)."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        ResidualBlock(16, 16, 1),
        ResidualBlock(16, 32, 2),
        ResidualBlock(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation (at least 1e-6) of each channel of [n, h, w, channels], float32 [channels].

    They come from counts of the 256 values, which are exact and need no float copy of the images.
    """
    channels = images.shape[3]
    counts = np.zeros((channels, 256))
    for part in range(0, len(images), EVAL_BATCH):
        for channel in range(channels):
            counts[channel] += np.bincount(images[part : part + EVAL_BATCH, ..., channel].ravel(), minlength=256)
    size = counts[0].sum()
    values = np.arange(256)
    mean = counts @ values / size
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / (size - 1)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance)).float().clamp_min(1e-6)


class _ImageRun(Run):
    def __init__(self, context: Context) -> None:
        data: ImageData = context.data
        device = context.device
        mean, std = channel_statistics(data.x["train"])
        self._mean, self._std = mean.to(device), std.to(device)
        # Kept as bytes and normalized batch by batch: as floats they would take four times the memory.
        self._x = {split: torch.from_numpy(x).to(device) for split, x in data.x.items()}
        self._y = {split: torch.from_numpy(y).to(device) for split, y in data.y.items()}
        model = small_resnet(len(mean), len(data.classes))
        self._model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._trained = context.parallel(self._model)
        self._update = Update(context, self._model)
        self._batches = Batches(len(self._y["train"]), context.budget.batch_size, context.generator("order"))
        self._context = context
        self.total_steps = context.budget.total_steps(self._batches.per_epoch)

    def parts(self) -> dict[str, Any]:
        return {"model": self._model, "update": self._update, "batches": self._batches}

    def _normalized(self, images: Tensor) -> Tensor:
        # Channels-last convolutions, which the permuted view asks for, are about 1.3 times faster on CPU at this size.
        return ((images.float() - self._mean) / self._std).permute(0, 3, 1, 2)

    def step(self) -> float:
        index = self._context.share(self._batches.next()).to(self._context.device)
        self._trained.train()
        with self._context.autocast():
            logits = self._trained(self._normalized(self._x["train"][index]))
            loss = F.cross_entropy(logits, self._y["train"][index])
        self._update(loss)
        return loss.item()

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        self._model.eval()
        x, y = self._x[split], self._y[split]
        logits = torch.cat([self._model(self._normalized(part)) for part in torch.split(x, EVAL_BATCH)])
        return {
            "loss": F.cross_entropy(logits, y).item(),
            # argmax of a NaN row is a fixed class: a network that has blown up scores at chance.
            "accuracy": (logits.argmax(1) == y).sum().item() / len(y),
        }


class ImageClassification:
    """A small residual CNN on an ``ImageData``: no augmentation, ragged last batch dropped."""

    def load(self, params: Mapping[str, Value], source: Path | None) -> ImageData:
        """Returns MNIST-5k, or the user's images."""
        return mnist5k() if source is None else load(source)

    def baselines(self, data: ImageData) -> dict[str, dict[str, float]]:
        """Returns what always naming the most frequent class reaches."""
        share = np.bincount(data.y["test"])[np.bincount(data.y["train"]).argmax()] / len(data.y["test"])
        return {"most frequent class": {"test_accuracy": float(share)}}

    def setup(self, context: Context) -> _ImageRun:
        """Normalizes the images by the training split and builds the network."""
        return _ImageRun(context)
