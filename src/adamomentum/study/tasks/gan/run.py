"""A GAN set up for one trial.

Tested in tests/study/test_gan_trial.py.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from adamomentum.study.data.images import ImageData
from adamomentum.study.tasks.base import Batches, Context, Run, Update, first
from adamomentum.study.tasks.gan import features as feature_networks
from adamomentum.study.tasks.gan.augment import mirrored, shifted
from adamomentum.study.tasks.gan.data import GanData
from adamomentum.study.tasks.gan.distances import frechet_distance, precision_recall
from adamomentum.study.tasks.gan.models import MODELS
from adamomentum.study.tasks.gan.settings import GanSettings

EVAL_BATCH = 500
LAST = 3
SAMPLES = 64


class Recent:
    """The generator's state at the last points of the curve."""

    def __init__(self) -> None:
        self.states: deque[dict[str, Tensor]] = deque(maxlen=LAST)

    def add(self, model: nn.Module) -> None:
        """Remembers ``model`` as it is now, on the CPU."""
        self.states.append({key: value.detach().cpu().clone() for key, value in model.state_dict().items()})

    def state_dict(self) -> dict[str, Any]:
        """Return all that it remembers."""
        return {"states": list(self.states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remembers what ``state`` holds."""
        self.states = deque(state["states"], maxlen=LAST)


def average_of(model: nn.Module, decay: float, start: int) -> AveragedModel:
    """Return a running average of the weights and buffers of ``model``, which follows it for ``start`` updates."""

    @torch.no_grad()
    def update(averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor | int) -> None:
        weight = 1 - decay if updates >= start else 1.0
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


class GanRun(Run):
    """A game of two networks; a step is ``d_steps`` updates of the discriminator and one of the generator.

    Samples come from the generator in evaluation mode (batch norm's running statistics), or from the running average of
    its weights if there is one. The images that they are compared with, and the noise they are made of, are the same
    at every point of the curve and for every optimizer.

    Raises:
        ValueError: if a parameter is wrong, the images are not of the networks' size, or there are no feature weights.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, GanSettings.of(context.params)
        s, device = self._settings, context.device
        data: GanData = context.data
        images: ImageData = data.images
        kind = MODELS[s.model]
        side = images.x["train"].shape[1:3]
        if side != (kind.side, kind.side):
            raise ValueError(f"model {s.model!r} needs images of {kind.side} x {kind.side}, got {side[0]} x {side[1]}")
        self._latent = s.latent or kind.latent
        widths = (s.width, s.width) if s.width else kind.widths
        self._classes, channels = len(images.classes), images.x["train"].shape[3]
        self._x = torch.from_numpy(images.x["train"]).to(device)
        self._y = torch.from_numpy(images.y["train"]).to(device)
        self._generator = kind.generator(self._latent, widths[0], self._classes, channels).to(device)
        self._discriminator = kind.discriminator(widths[1], self._classes, channels).to(device)
        self._average = average_of(self._generator, s.average, s.average_from) if s.average else None
        self._shown: nn.Module = self._generator if self._average is None else self._average.module
        self._trained_generator = context.parallel(self._generator)
        self._trained_discriminator = context.parallel(self._discriminator)
        self._update_generator = Update(context, self._generator)
        self._update_discriminator = Update(context, self._discriminator)
        self._batches = Batches(len(self._y), context.budget.batch_size, context.generator("order"))
        # The state that a checkpoint keeps: of the CPU, or of the CUDA device that trains.
        self._noise_device = device if device.type == "cuda" else torch.device("cpu")
        self._recent, self._trained = Recent(), False
        if context.rank == 0:
            self._features = feature_networks.load(s.features, device, data.weights)
            self._real = {split: self._described(first(images.x[split], s.eval_limit)) for split in ("val", "test")}
            self._measure = (
                f"Fréchet distance on {data.measure(s.features)}, {s.samples:,} samples against " + "{:,} images"
            )
        self.total_steps = context.budget.total_steps(max(1, self._batches.per_epoch // s.d_steps))

    def parts(self) -> dict[str, Any]:
        """Return both networks and their optimizers, the average, the batches, the generator's last states."""
        average = {} if self._average is None else {"average": self._average}
        return {
            "generator": self._generator,
            "discriminator": self._discriminator,
            "update_generator": self._update_generator,
            "update_discriminator": self._update_discriminator,
            "batches": self._batches,
            "recent": self._recent,
            **average,
        }

    def _scaled(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def _described(self, images: Any) -> Tensor:
        parts = torch.split(torch.from_numpy(images), EVAL_BATCH)
        return torch.cat([self._features(self._scaled(part.to(self._context.device))) for part in parts])

    def _noise(self, count: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(count, self._latent, device=self._noise_device)
        labels = torch.randint(self._classes, (count,), device=self._noise_device)
        return noise.to(self._context.device), labels.to(self._context.device)

    def step(self) -> float:
        """Update the discriminator ``d_steps`` times, then the generator; return the discriminator's last loss."""
        self._generator.train()
        self._discriminator.train()
        for _ in range(self._settings.d_steps):
            index = self._context.share(self._batches.next()).to(self._context.device)
            loss = self._discriminator_loss(self._scaled(self._x[index]), self._y[index])
            self._update_discriminator(loss)
        value = loss.item()
        self._update_generator(self._generator_loss(len(index)))
        if self._average is not None:
            self._average.update_parameters(self._generator)
        self._trained = True
        return value

    def _discriminator_loss(self, real: Tensor, labels: Tensor) -> Tensor:
        noise, fake_labels = self._noise(len(real))
        if self._settings.flip:
            real = mirrored(real, self._noise_device)
        with self._context.autocast():
            with torch.no_grad():
                fake = self._trained_generator(noise, fake_labels)
            images, all_labels = [real, fake.to(real.dtype)], [labels, fake_labels]
            if self._settings.consistency:
                images.append(shifted(mirrored(real, self._noise_device), self._noise_device))
                all_labels.append(labels)
            # One pass over all: several processes allow a model one forward pass for each backward pass.
            scores = self._trained_discriminator(torch.cat(images), torch.cat(all_labels), len(images)).float()
        on_real, on_fake, *moved = scores.split(len(real))
        if self._settings.loss == "hinge":
            loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        else:
            loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        if moved:
            loss = loss + self._settings.consistency * (on_real - moved[0]).square().mean()
        return loss

    def _generator_loss(self, count: int) -> Tensor:
        noise, labels = self._noise(count)
        # The discriminator is only looked through: its own gradients are not wanted.
        self._discriminator.requires_grad_(False)
        with self._context.autocast():
            scores = self._discriminator(self._trained_generator(noise, labels), labels).float()
        self._discriminator.requires_grad_(True)
        return -scores.mean() if self._settings.loss == "hinge" else F.softplus(-scores).mean()

    @torch.no_grad()
    def _generated(self, count: int) -> Iterator[Tensor]:
        """Yield batches of images; the present random state decides the noise."""
        self._shown.eval()
        for part in torch.arange(count).split(EVAL_BATCH):
            yield self._shown(*self._noise(len(part)))

    @torch.no_grad()
    def _fake(self) -> Tensor:
        return torch.cat([self._features(images.float()) for images in self._generated(self._settings.samples)])

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Numbers of their own, which leave those of whoever is around untouched."""
        device = self._context.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def evaluate(self, split: str) -> dict[str, float]:
        """Return the Fréchet distance ``fid`` of samples from the images of ``split``."""
        # Before the first step there is no point of the curve yet.
        if split == "val" and self._trained:
            self._recent.add(self._shown)
        return {"fid": frechet_distance(self._real[split], self._fake())}

    def finish(self, split: str) -> dict[str, float]:
        """Return precision and recall, and the mean distance over the last three points of the curve, on one noise."""
        now = {key: value.clone() for key, value in self._shown.state_dict().items()}
        distances = []
        for state in self._recent.states:
            self._shown.load_state_dict(state)
            with self._seeded(self._context.seed(f"finish {split}")):
                fake = self._fake()
            distances.append(frechet_distance(self._real[split], fake))
        self._shown.load_state_dict(now)
        metrics = {"fid_last3": sum(distances) / len(distances)}
        # The last of these states is the present one.
        if math.isfinite(distances[-1]):
            metrics["precision"], metrics["recall"] = precision_recall(self._real[split], fake)
        return metrics

    def samples(self) -> dict[str, Any]:
        """Return 64 images as rows of bytes, their shape, and what exactly the distance to the test split measures."""
        with self._seeded(0):
            images = torch.cat(list(self._generated(SAMPLES)))
        pixels = feature_networks.to_bytes(images).permute(0, 2, 3, 1)
        return {
            "images": pixels.flatten(1).tolist(),
            "shape": list(pixels.shape[1:]),
            "metric": self._measure.format(len(self._real["test"])) + " of the test split",
        }

    def diverged(self, untrained: Mapping[str, float], train_loss: float, final: Mapping[str, float]) -> bool:
        """Ask whether the samples are no nearer to the images than untrained ones: a game's losses say nothing."""
        return not final["fid"] < untrained["fid"]
