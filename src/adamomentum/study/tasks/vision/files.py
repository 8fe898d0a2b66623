"""Classification of images that are decoded as they are needed: ImageNet.

Tested in tests/study/test_image_sources.py.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from adamomentum.cores import available_cores
from adamomentum.study.data.imagenet import MEAN, STD, FileImages, decode
from adamomentum.study.tasks.base import Batches, Context, Run, Update, first
from adamomentum.study.tasks.vision.models import MODELS
from adamomentum.study.tasks.vision.settings import FILE_AUGMENT, VisionSettings

AHEAD = 4  # batches that are decoded before they are needed
EVAL_BATCH = 256

Pixels = npt.NDArray[np.uint8]


class Decoded:
    """Training batches decoded by threads a few steps ahead; Pillow decodes without holding Python's lock.

    What is drawn for an image depends on seed, step and place alone, and a checkpoint remembers the batch that training
    needs next, not the one that is decoded next: stopping and going on changes nothing.

    Args:
        data: the images.
        batches: which ones.
        context: the trial, for seeds and this process's share.
        augment: crop and mirror at random.
        pool: the threads.
    """

    def __init__(
        self, data: FileImages, batches: Batches, context: Context, augment: bool, pool: ThreadPoolExecutor
    ) -> None:
        self._data, self._batches, self._context, self._augment, self._pool = data, batches, context, augment, pool
        self._seed = context.seed("augment")
        self._step = 0
        self._ahead: deque[tuple[dict[str, Any], Tensor, list[Future[Pixels]]]] = deque()

    def next(self) -> tuple[Tensor, Tensor]:
        """Return images, uint8 [n, 224, 224, 3], and labels, int64 [n]."""
        while len(self._ahead) < AHEAD:
            self._start()
        _, index, images = self._ahead.popleft()
        return torch.from_numpy(np.stack([image.result() for image in images])), torch.from_numpy(
            self._data.y["train"][index.numpy()]
        )

    def _start(self) -> None:
        before = {"step": self._step, "batches": self._batches.state_dict()}
        places = torch.arange(self._batches.size)
        index = self._context.share(self._batches.next())
        images = [
            self._pool.submit(self._decode, self._data.files["train"][k], self._step, place)
            for k, place in zip(index.tolist(), self._context.share(places).tolist(), strict=True)
        ]
        self._step += 1
        self._ahead.append((before, index, images))

    def _decode(self, file: str, step: int, place: int) -> Pixels:
        rng = np.random.default_rng([self._seed, step, place]) if self._augment else None
        return decode(self._data.root / file, rng)

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands."""
        if self._ahead:
            return self._ahead[0][0]
        return {"step": self._step, "batches": self._batches.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state``; what was decoded ahead is dropped."""
        self._ahead.clear()
        self._step = state["step"]
        self._batches.load_state_dict(state["batches"])


class FileImageRun(Run):
    """A trial on image files.

    Args:
        context: the trial.
    """

    def __init__(self, context: Context) -> None:
        data: FileImages = context.data
        self._context, self._data = context, data
        self._settings = settings = VisionSettings.of(context.params)
        device = context.device
        self._mean = torch.tensor(MEAN, device=device) * 255
        self._std = torch.tensor(STD, device=device) * 255
        net = MODELS[settings.model](3, len(data.classes))
        self._model = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._trained = context.parallel(self._model)
        self._update = Update(context, self._model)
        self._pool = ThreadPoolExecutor(max(1, available_cores() // context.world))
        batches = Batches(len(data.files["train"]), context.budget.batch_size, context.generator("order"))
        self._decoded = Decoded(data, batches, context, settings.augment == FILE_AUGMENT, self._pool)
        self.total_steps = context.budget.total_steps(batches.per_epoch)

    def parts(self) -> dict[str, Any]:
        """Return all that a checkpoint must hold."""
        return {"model": self._model, "update": self._update, "decoded": self._decoded}

    def _normalized(self, images: Tensor) -> Tensor:
        pixels = images.to(self._context.device, non_blocking=True).float()
        return ((pixels - self._mean) / self._std).permute(0, 3, 1, 2)

    def step(self) -> float:
        """Make one update and return the training loss before it."""
        images, labels = self._decoded.next()
        self._trained.train()
        with self._context.autocast():
            logits = self._trained(self._normalized(images))
            target = labels.to(self._context.device)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=self._settings.label_smoothing)
        self._update(loss)
        return loss.item()

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """Return loss and accuracy of ``split``, centre crops."""
        self._model.eval()
        files = first(self._data.files[split], self._settings.eval_limit)
        labels = torch.from_numpy(first(self._data.y[split], self._settings.eval_limit))
        loss = correct = 0.0
        for start in range(0, len(files), EVAL_BATCH):
            part = slice(start, start + EVAL_BATCH)
            images = self._pool.map(lambda file: decode(self._data.root / file, None), files[part])
            target = labels[part].to(self._context.device)
            with self._context.autocast():
                logits = self._model(self._normalized(torch.from_numpy(np.stack(list(images))))).float()
            loss += F.cross_entropy(logits, target, reduction="sum").item()
            correct += (logits.argmax(1) == target).sum().item()
        return {"loss": loss / len(files), "accuracy": correct / len(files)}
