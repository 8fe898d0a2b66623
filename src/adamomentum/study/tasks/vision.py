"""Image classification with a small residual CNN."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamomentum.study.data.images import ImageData
from adamomentum.study.tasks import IMAGE_CLASSIFICATION
from adamomentum.study.tasks.base import Context

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


class _ImageRun:
    def __init__(self, context: Context) -> None:
        data: ImageData = context.data
        device = self._device = context.device
        mean, std = channel_statistics(data.x["train"])
        self._mean, self._std = mean.to(device), std.to(device)
        # Kept as bytes and normalized batch by batch: as floats they would take four times the memory.
        self._x = {split: torch.from_numpy(x).to(device) for split, x in data.x.items()}
        self._y = {split: torch.from_numpy(y).to(device) for split, y in data.y.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed("init"))
            model = small_resnet(len(mean), len(data.classes))
        self._model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = context.make_optimizer(self._model.parameters())
        self._order = torch.Generator().manual_seed(context.seed("order"))
        size = len(self._y["train"])
        self._batch = min(context.budget.batch_size, size)
        self.total_steps = context.budget.epochs * (size // self._batch)
        self._pending: list[Tensor] = []

    def _next_batch(self) -> Tensor:
        if not self._pending:
            order = torch.randperm(len(self._y["train"]), generator=self._order)
            # The ragged last batch is dropped: every step sees the same number of images.
            full = [b for b in torch.split(order, self._batch) if len(b) == self._batch]
            self._pending = full[::-1]
        return self._pending.pop().to(self._device)

    def _normalized(self, images: Tensor) -> Tensor:
        # Channels-last convolutions, which the permuted view asks for, are about 1.3 times faster on CPU at this size.
        return ((images.float() - self._mean) / self._std).permute(0, 3, 1, 2)

    def step(self) -> float:
        index = self._next_batch()
        self._model.train()
        loss = F.cross_entropy(self._model(self._normalized(self._x["train"][index])), self._y["train"][index])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
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

    name, version = IMAGE_CLASSIFICATION

    def setup(self, context: Context) -> _ImageRun:
        """Normalizes the images by the training split and builds the network."""
        return _ImageRun(context)
