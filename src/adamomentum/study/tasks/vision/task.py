"""Classification of images and signals.

Tested in tests/study/test_vision_cifar.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from adamomentum.study.data.base import DataError
from adamomentum.study.data.imagenet import SIDE, FileImages
from adamomentum.study.data.images import ImageData
from adamomentum.study.data.mnist5k import mnist5k
from adamomentum.study.data.own_images import load
from adamomentum.study.data.signals import SignalData, mnist1d
from adamomentum.study.spec import Value
from adamomentum.study.tasks import FAMILIES
from adamomentum.study.tasks.base import Batches, Context, Run, Task, Update, first
from adamomentum.study.tasks.vision.augment import AUGMENTATIONS
from adamomentum.study.tasks.vision.files import FileImageRun
from adamomentum.study.tasks.vision.models import MODELS
from adamomentum.study.tasks.vision.settings import VisionSettings

EVAL_BATCH = 500
VGG_SIDES = (32, 63)  # five halvings leave one pixel


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (at least 1e-6) of each channel of [n, h, w, channels], float32 [channels].

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
        data: ImageData | SignalData = context.data
        self._context, self._settings = context, VisionSettings.of(context.params)
        device = context.device
        if isinstance(data, SignalData):
            channels = 1
            self._mean, self._std = torch.zeros(()), torch.ones(())  # the signals are standardized as they come
        else:
            mean, std = channel_statistics(data.x["train"])
            channels = len(mean)
            self._mean, self._std = mean.to(device), std.to(device)
        # Images are kept as bytes and normalized batch by batch: as floats they would take four times the memory.
        self._x = {split: torch.from_numpy(x).to(device) for split, x in data.x.items()}
        self._y = {split: torch.from_numpy(y).to(device) for split, y in data.y.items()}
        self._augment = AUGMENTATIONS[self._settings.augment]
        model = MODELS[self._settings.model](channels, len(data.classes))
        layout = torch.preserve_format if isinstance(data, SignalData) else torch.channels_last
        self._model = model.to(device, memory_format=layout)  # type: ignore[call-overload]
        self._trained = context.parallel(self._model)
        self._update = Update(context, self._model)
        self._batches = Batches(len(self._y["train"]), context.budget.batch_size, context.generator("order"))
        self.total_steps = context.budget.total_steps(self._batches.per_epoch)

    def parts(self) -> dict[str, Any]:
        return {"model": self._model, "update": self._update, "batches": self._batches}

    def _normalized(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return x.unsqueeze(1)
        # Channels-last convolutions, which the permuted view asks for, are about 1.3 times faster on CPU at this size.
        return ((x.float() - self._mean) / self._std).permute(0, 3, 1, 2)

    def step(self) -> float:
        index = self._context.share(self._batches.next()).to(self._context.device)
        self._trained.train()
        with self._context.autocast():
            logits = self._trained(self._augment(self._normalized(self._x["train"][index])))
            target, smoothing = self._y["train"][index], self._settings.label_smoothing
            loss = F.cross_entropy(logits.float(), target, label_smoothing=smoothing)
        self._update(loss)
        return loss.item()

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        self._model.eval()
        x, y = (first(part[split], self._settings.eval_limit) for part in (self._x, self._y))
        with self._context.autocast():
            logits = torch.cat([self._model(self._normalized(part)) for part in torch.split(x, EVAL_BATCH)]).float()
        return {
            "loss": F.cross_entropy(logits, y).item(),
            # argmax of a NaN row is a fixed class: a network that has blown up scores at chance.
            "accuracy": (logits.argmax(1) == y).sum().item() / len(y),
        }


def _image_data(name: str, source: Path | None) -> ImageData | SignalData | FileImages:
    if name == "folder":
        if source is None:
            raise DataError("data 'folder' is your own: give --data folder=PATH, a folder of images or an .npz file")
        return load(source)
    if name in ("cifar10", "cifar100"):
        from adamomentum.study.data.cifar import cifar

        return cifar(name, source)
    if name == "fashion-mnist":
        from adamomentum.study.data.fashion import fashion_mnist

        return fashion_mnist(source)
    if name == "mnist1d":
        return mnist1d()
    if name == "imagenet":
        from adamomentum.study.data.imagenet import imagenet

        return imagenet(source)
    return mnist5k(full=name == "mnist5k-full")


class ImageClassification(Task):
    """Image or signal classification; the ragged last batch of an epoch is dropped."""

    family = FAMILIES["image-classification"]

    def load(self, params: Mapping[str, Value], source: Path | None) -> ImageData | SignalData | FileImages:
        """Return the data set that ``params`` name.

        Raises:
            DataError: if it cannot be had.
            ValueError: if a parameter is wrong, or the network is not made for images of this size.
        """
        settings = VisionSettings.of(params)
        data = _image_data(settings.data, source)
        side = data.x["train"].shape[1:3] if isinstance(data, ImageData) else (SIDE, SIDE)
        if settings.model == "vgg16-bn" and not all(VGG_SIDES[0] <= s <= VGG_SIDES[1] for s in side):
            raise ValueError(
                f"model 'vgg16-bn' needs images with sides of {VGG_SIDES[0]} to {VGG_SIDES[1]} pixels, "
                f"{data.name} has {side[0]} x {side[1]}; take resnet34 or densenet121"
            )
        return data

    def baselines(self, data: ImageData | SignalData | FileImages) -> dict[str, dict[str, float]]:
        """Return what always naming the most frequent class reaches."""
        share = np.mean(data.y["test"] == np.bincount(data.y["train"]).argmax())
        return {"most frequent class": {"test_accuracy": float(share)}}

    def setup(self, context: Context) -> Run:
        """Normalize the images by the training split and build the network."""
        if isinstance(context.data, FileImages):
            return FileImageRun(context)
        return _ImageRun(context)
