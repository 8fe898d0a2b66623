"""Generative adversarial networks: samples that look like the training images.

Tested in tests/study/test_gan_trial.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from adamomentum.study.data.base import DataError
from adamomentum.study.spec import Value
from adamomentum.study.tasks import FAMILIES
from adamomentum.study.tasks.base import Context, Task
from adamomentum.study.tasks.gan import features
from adamomentum.study.tasks.gan.data import GanData
from adamomentum.study.tasks.gan.distances import frechet_distance, precision_recall
from adamomentum.study.tasks.gan.run import GanRun
from adamomentum.study.tasks.gan.settings import GanSettings


class Gan(Task):
    """A GAN on digits or CIFAR-10; ``params``: see ``GanSettings``.

    Networks and settings for CIFAR-10 are those of AdaMomentum's authors, except that 5,000 training images are held
    out for validation, that samples are made with batch norm's running statistics (theirs: a batch's, for DCGAN and
    BigGAN), that the last step counts (theirs: the best), and that DCGAN's discriminator has the cross-entropy loss
    (theirs takes log sigmoid(1 - score) for a fake image, where the cross-entropy has -score).
    """

    family = FAMILIES["gan"]

    def load(self, params: Mapping[str, Value], source: Path | None) -> GanData:
        """Return the images, and where the features' weights are.

        Raises:
            DataError: if they cannot be had.
            ValueError: if a parameter is wrong.
        """
        settings = GanSettings.of(params)
        if settings.data == "digits":
            from adamomentum.study.data.digits import digits

            return GanData(digits())
        from adamomentum.study.data.cache import cache_dir
        from adamomentum.study.data.cifar import cifar

        folder = cache_dir() if source is None else source if source.is_dir() else source.parent
        weights = folder / features.INCEPTION_FILE
        if not weights.is_file():
            raise DataError(f"{features.NO_INCEPTION}; {weights} is not there")
        return GanData(cifar(settings.data, source), weights)

    def baselines(self, data: GanData) -> dict[str, dict[str, float]]:
        """Return what the other half of the real images reaches, and Gaussian images with their mean and covariance.

        For the digits only: the Inception network takes a GPU.
        """
        if data.weights is not None:
            return {}
        described = features.load(features.DIGITS, torch.device("cpu"))
        real = {
            split: described(torch.from_numpy(data.images.x[split]).permute(0, 3, 1, 2).float() / 127.5 - 1)
            for split in ("val", "test")
        }
        shape = data.images.x["train"].shape
        flat = data.images.x["train"].reshape(shape[0], -1).astype(np.float64) / 127.5 - 1
        drawn = np.random.default_rng(0).multivariate_normal(flat.mean(0), np.cov(flat.T), len(flat))
        pixels = torch.from_numpy(drawn.clip(-1, 1).reshape(-1, 1, *shape[1:3])).float()
        scores = {}
        for name, fake in (("real images", real["val"]), ("Gaussian images", described(pixels))):
            precision, recall = precision_recall(real["test"], fake)
            scores[name] = {
                "test_fid": frechet_distance(real["test"], fake),
                "test_precision": precision,
                "test_recall": recall,
            }
        return scores

    def setup(self, context: Context) -> GanRun:
        """Build both networks."""
        return GanRun(context)
