"""Generative adversarial networks: samples that look like the training images."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adamomentum.study.data.images import ImageData
from adamomentum.study.data.wheel import DataError
from adamomentum.study.spec import Value
from adamomentum.study.tasks import features as feature_networks
from adamomentum.study.tasks.base import Batches, Context, Run, Update
from adamomentum.study.tasks.features import frechet_distance, precision_recall
from adamomentum.study.tasks.gan_models import MODELS

EVAL_BATCH = 500
LAST = 3
SAMPLES = 64


@dataclass(frozen=True)
class Settings:
    """Networks and loss, from a task's ``params``.

    Attributes:
        data: which images, ``digits`` or ``cifar10``.
        model: which networks.
        features: the network whose features are compared; part of what the metric means.
        d_steps: updates of the discriminator before each one of the generator.
        latent: size of the noise; 0: the model's own.
        width: channels; 0: the model's own.
        loss: of the discriminator, ``hinge`` or ``bce``.
        consistency: weight of the squared change of the score when a real image is shifted and flipped (CR-GAN,
            arXiv 1910.12027).
        samples: generated images that are compared with the real ones.
    """

    data: str
    model: str
    features: str
    d_steps: int = 1
    latent: int = 0
    width: int = 0
    loss: str = "hinge"
    consistency: float = 0.0
    samples: int = 1797

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Settings:
        """Returns the settings that ``params`` ask for.

        Raises:
            ValueError: if a parameter is not known, or there is no such model or loss.
        """
        defaults: dict[str, Any] = {"data": "digits", "model": "sn-dcgan"}
        digits = params.get("data", "digits") == "digits"
        defaults["features"] = feature_networks.DIGITS if digits else feature_networks.INCEPTION
        defaults["samples"] = 1797 if digits else 50_000
        defaults["loss"] = "bce" if params.get("model") == "dcgan" else "hinge"
        defaults["consistency"] = 10.0 if params.get("model") == "biggan" else 0.0
        kinds = {name: field.type for name, field in cls.__dataclass_fields__.items()}
        unknown = params.keys() - kinds.keys()
        if unknown:
            raise ValueError(f"unknown params of a GAN: {', '.join(sorted(unknown))}; there are: {', '.join(kinds)}")
        whole = {name: int(value) for name, value in params.items() if kinds[name] == "int"}  # type: ignore[arg-type]
        made = cls(**{**defaults, **params, **whole})
        if made.model not in MODELS:
            raise ValueError(f"unknown model {made.model!r} of a GAN; allowed: {', '.join(MODELS)}")
        if made.loss not in ("hinge", "bce"):
            raise ValueError(f"unknown loss {made.loss!r} of a GAN; allowed: hinge, bce")
        return made


@dataclass(frozen=True, eq=False)
class GanData:
    """Images, and the features' name and weights that they are compared by.

    Attributes:
        images: all to learn from in ``train``; ``val`` and ``test`` are what samples are compared with.
        weights: file of the feature network, if it does not come with the library.
    """

    images: ImageData
    weights: Path | None = None

    @property
    def name(self) -> str:
        """For display only."""
        return self.images.name

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the images."""
        return self.images.fingerprint

    def describe(self) -> str:
        """Returns one line: name, sizes of the splits."""
        return self.images.describe()


class _Recent:
    """The generator's state at the last points of the curve."""

    def __init__(self) -> None:
        self.states: deque[dict[str, Tensor]] = deque(maxlen=LAST)

    def add(self, model: torch.nn.Module) -> None:
        self.states.append({key: value.detach().cpu().clone() for key, value in model.state_dict().items()})

    def state_dict(self) -> dict[str, Any]:
        return {"states": list(self.states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.states = deque(state["states"], maxlen=LAST)


class _GanRun(Run):
    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, Settings.of(context.params)
        s, device = self._settings, context.device
        images: ImageData = context.data.images
        kind = MODELS[s.model]
        self._latent, width = s.latent or kind.latent, s.width or kind.width
        self._classes, channels = len(images.classes), images.x["train"].shape[3]
        self._x = torch.from_numpy(images.x["train"]).to(device)
        self._y = torch.from_numpy(images.y["train"]).to(device)
        self._generator = kind.generator(self._latent, width, self._classes, channels).to(device)
        self._discriminator = kind.discriminator(width, self._classes, channels).to(device)
        self._trained_generator = context.parallel(self._generator)
        self._trained_discriminator = context.parallel(self._discriminator)
        self._update_generator = Update(context, self._generator)
        self._update_discriminator = Update(context, self._discriminator)
        self._batches = Batches(len(self._y), context.budget.batch_size, context.generator("order"))
        self._features = feature_networks.load(s.features, device, context.data.weights)
        self._real = {split: self._described(images.x[split]) for split in ("val", "test")}
        self._recent = _Recent()
        self.total_steps = context.budget.total_steps(max(1, self._batches.per_epoch // s.d_steps))

    def parts(self) -> dict[str, Any]:
        return {
            "generator": self._generator,
            "discriminator": self._discriminator,
            "update_generator": self._update_generator,
            "update_discriminator": self._update_discriminator,
            "batches": self._batches,
            "recent": self._recent,
        }

    def _scaled(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def _described(self, images: Any) -> Tensor:
        parts = torch.split(torch.from_numpy(images), EVAL_BATCH)
        return torch.cat([self._features(self._scaled(part.to(self._context.device))) for part in parts])

    def _noise(self, count: int) -> tuple[Tensor, Tensor]:
        # Drawn on the CPU: the same numbers whatever the device.
        noise, labels = torch.randn(count, self._latent), torch.randint(self._classes, (count,))
        return noise.to(self._context.device), labels.to(self._context.device)

    def step(self) -> float:
        """Updates the discriminator ``d_steps`` times, then the generator; returns the discriminator's last loss."""
        self._generator.train()
        self._discriminator.train()
        for _ in range(self._settings.d_steps):
            index = self._context.share(self._batches.next()).to(self._context.device)
            loss = self._discriminator_loss(self._scaled(self._x[index]), self._y[index])
            self._update_discriminator(loss)
        value = loss.item()
        self._update_generator(self._generator_loss(len(index)))
        return value

    def _discriminator_loss(self, real: Tensor, labels: Tensor) -> Tensor:
        noise, fake_labels = self._noise(len(real))
        with self._context.autocast():
            with torch.no_grad():
                fake = self._trained_generator(noise, fake_labels)
            images, all_labels = [real, fake.to(real.dtype)], [labels, fake_labels]
            if self._settings.consistency:
                images.append(_moved(real))
                all_labels.append(labels)
            # One pass over all: several processes allow a model one forward pass for each backward pass.
            scores = self._trained_discriminator(torch.cat(images), torch.cat(all_labels)).float()
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
    def _generated(self, count: int) -> Tensor:
        """Images of the generator as it is used: with its running statistics, the engine's seed deciding the noise."""
        self._generator.eval()
        return torch.cat([self._generator(*self._noise(len(part))) for part in torch.arange(count).split(EVAL_BATCH)])

    @torch.no_grad()
    def _fake(self) -> Tensor:
        parts = self._generated(self._settings.samples).split(EVAL_BATCH)
        return torch.cat([self._features(part.float()) for part in parts])

    def evaluate(self, split: str) -> dict[str, float]:
        if split == "val":
            self._recent.add(self._generator)
        return {"fid": frechet_distance(self._real[split], self._fake())}

    def finish(self, split: str) -> dict[str, float]:
        """Precision and recall, and the mean distance over the last three points of the curve, on the same noise."""
        now = {key: value.clone() for key, value in self._generator.state_dict().items()}
        seed = self._context.seed(f"finish {split}")
        with torch.random.fork_rng(devices=[]):
            distances = []
            for state in self._recent.states:
                self._generator.load_state_dict(state)
                torch.manual_seed(seed)
                fake = self._fake()
                distances.append(frechet_distance(self._real[split], fake))
        self._generator.load_state_dict(now)
        found = {"fid_last3": sum(distances) / len(distances)}
        # The last of these states is the present one.
        if math.isfinite(distances[-1]):
            found["precision"], found["recall"] = precision_recall(self._real[split], fake)
        return found

    def samples(self) -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            images = self._generated(SAMPLES)
        pixels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return {
            "images": pixels.flatten(1).tolist(),
            "shape": list(pixels.shape[1:]),
            "metric": f"Fréchet distance on {self._settings.features}, {self._settings.samples} samples",
        }

    def diverged(self, untrained: Mapping[str, float], train_loss: float, final: Mapping[str, float]) -> bool:
        """A game's losses say nothing: the samples must be nearer to the images than the untrained generator's."""
        return not final["fid"] < untrained["fid"]


def _moved(images: Tensor) -> Tensor:
    """Returns each image shifted by up to an eighth of its side, and mirrored half the time."""
    n, _, h, w = images.shape
    reach = max(1, h // 8)
    flip = torch.rand(n, device=images.device) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    dy, dx = torch.randint(-reach, reach + 1, (2, n), device=images.device)
    rows = (torch.arange(h, device=images.device) + dy[:, None]).clamp(0, h - 1)
    columns = (torch.arange(w, device=images.device) + dx[:, None]).clamp(0, w - 1)
    index = torch.arange(n, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Gan:
    """A GAN on images."""

    def load(self, params: Mapping[str, Value], source: Path | None) -> GanData:
        """Returns the images.

        Raises:
            DataError: if they cannot be had.
            ValueError: if there is no such data set.
        """
        s = Settings.of(params)
        if s.data == "digits":
            from adamomentum.study.data.digits import digits

            return GanData(digits())
        if s.data == "cifar10":
            from adamomentum.study.data.cache import cache_dir
            from adamomentum.study.data.cifar import cifar

            folder = cache_dir() if source is None else source if source.is_dir() else source.parent
            weights = folder / feature_networks.INCEPTION_FILE
            if s.features == feature_networks.INCEPTION and not weights.is_file():
                raise DataError(f"{feature_networks.NO_INCEPTION}; {weights} is not there")
            return GanData(cifar("cifar10", source), weights)
        raise ValueError(f"unknown data {s.data!r} of a GAN; allowed: digits, cifar10")

    def baselines(self, data: GanData) -> dict[str, dict[str, float]]:
        """Returns what the other half of the real images reaches, and Gaussian noise with the pixels' statistics."""
        if data.images.x["train"].shape[1] != 8:
            return {}
        features = feature_networks.load(feature_networks.DIGITS, torch.device("cpu"))
        described = {
            split: features(torch.from_numpy(data.images.x[split]).permute(0, 3, 1, 2).float() / 127.5 - 1)
            for split in ("val", "test")
        }
        flat = data.images.x["train"].reshape(len(data.images.x["train"]), -1).astype(np.float64) / 127.5 - 1
        drawn = np.random.default_rng(0).multivariate_normal(flat.mean(0), np.cov(flat.T), len(flat))
        pixels = torch.from_numpy(drawn.clip(-1, 1).reshape(-1, 1, 8, 8)).float()
        real = described["test"]
        found = {}
        for name, fake in (("real images", described["val"]), ("Gaussian pixels", features(pixels))):
            precision, recall = precision_recall(real, fake)
            found[name] = {
                "test_fid": frechet_distance(real, fake),
                "test_precision": precision,
                "test_recall": recall,
            }
        return found

    def setup(self, context: Context) -> _GanRun:
        """Builds both networks."""
        return _GanRun(context)
