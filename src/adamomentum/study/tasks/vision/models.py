"""Classifiers, small ones and those of the paper.

Tested in tests/study/test_vision_models.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; the shortcut is projected where the shape changes (arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def small_resnet(channels: int, classes: int) -> nn.Sequential:
    """Return a three-stage residual CNN (16, 32, 64 channels; 77,754 parameters for 1 x 28 x 28, 10)."""
    return nn.Sequential(
        _conv(channels, 16, 3, 2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        ResidualBlock(16, 16, 1),
        ResidualBlock(16, 32, 2),
        ResidualBlock(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def cnn1d(channels: int, classes: int) -> nn.Sequential:
    """Return three strided convolutions for signals of 40 numbers (5,210 parameters for 1 channel, 10 classes)."""
    return nn.Sequential(
        nn.Conv1d(channels, 25, 5, 2, 1),
        nn.ReLU(),
        nn.Conv1d(25, 25, 3, 2, 1),
        nn.ReLU(),
        nn.Conv1d(25, 25, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(125, classes),
    )


def vgg16(channels: int, classes: int) -> nn.Sequential:
    """Return VGG16 with batch norm for 32 x 32 images: thirteen convolutions, one linear layer (arXiv 1409.1556)."""
    layers: list[nn.Module] = []
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, classes))


def _resnet(stem: list[nn.Module], blocks: tuple[int, int, int, int], classes: int) -> nn.Sequential:
    layers, inputs = stem, 64
    for stage, (width, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
        for k in range(count):
            layers.append(ResidualBlock(inputs, width, 2 if stage and not k else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def resnet34(channels: int, classes: int) -> nn.Sequential:
    """Return ResNet-34 with a 3 x 3 stem and no pooling after it, for 32 x 32 images (arXiv 1512.03385)."""
    return _resnet([_conv(channels, 64, 3), nn.BatchNorm2d(64), nn.ReLU()], (3, 4, 6, 3), classes)


def resnet18_imagenet(channels: int, classes: int) -> nn.Sequential:
    """Return ResNet-18 with the stem for 224 x 224 images."""
    stem = [_conv(channels, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return _resnet(stem, (2, 2, 2, 2), classes)


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1 x 1 and 3 x 3 convolution; its output is appended to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, 4 * growth, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), _conv(4 * growth, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, h, w] to [n, inputs + growth, h, w]."""
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([y, x], 1)


def densenet121(channels: int, classes: int, growth: int = 12) -> nn.Sequential:
    """Return DenseNet-BC of 6, 12, 24, 16 layers, compression 0.5, 3 x 3 stem, for 32 x 32 images (1608.06993)."""
    width = 2 * growth
    layers: list[nn.Module] = [_conv(channels, width, 3)]
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            layers.append(DenseLayer(width, growth))
            width += growth
        if stage < 3:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), _conv(width, width // 2, 1), nn.AvgPool2d(2)]
            width //= 2
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
    return nn.Sequential(*layers)


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "small-resnet": small_resnet,
    "cnn1d": cnn1d,
    "vgg16-bn": vgg16,
    "resnet34": resnet34,
    "densenet121": densenet121,
    "resnet18-imagenet": resnet18_imagenet,
}
