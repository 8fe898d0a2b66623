"""The parameters of a GAN.

Tested in tests/study/test_gan_data.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from adamomentum.study.spec import Value
from adamomentum.study.tasks.gan import features as networks
from adamomentum.study.tasks.gan.models import MODELS
from adamomentum.study.tasks.settings import Count, NotNegative, Settings, Share, Whole, fits, zero_or_from

SIDES = {"digits": 8, "cifar10": 32}


class GanSettings(Settings):
    """Networks, loss and measure.

    The defaults here are those for ``data = "digits"``.

    Attributes:
        data: which images, ``digits`` or ``cifar10``.
        model: which networks; see ``models``.
        features: the network whose features are compared; part of what the metric means.
        d_steps: updates of the discriminator before each one of the generator.
        latent: size of the noise; 0: the model's own.
        width: channels of both networks, which are halved; 0: the model's own.
        loss: ``hinge``, or ``bce``: cross-entropy of the discriminator, the generator's not saturating.
        consistency: weight of the squared change of the score when a real image is shifted and mirrored (CR-GAN,
            arXiv 1910.12027).
        flip: mirror half the real images.
        average: decay of the running average of the generator's weights, which then makes the samples; 0: none.
        average_from: the step from which it averages; until then it follows.
        samples: generated images that are compared with the real ones; four are the least that have third neighbours.
        eval_limit: compared with only the first so many real images of a split, for a smoke run; 0: with all.
    """

    data: Literal["digits", "cifar10"] = "digits"
    model: str = "sn-dcgan"
    features: str = networks.DIGITS
    d_steps: Count = 1
    latent: Whole = 0
    width: Annotated[Whole, zero_or_from(2)] = 0
    loss: Literal["hinge", "bce"] = "hinge"
    consistency: NotNegative = 0.0
    flip: bool = False
    average: Share = 0.0
    average_from: Whole = 0
    samples: Annotated[Whole, Field(ge=4)] = 1797
    eval_limit: Annotated[Whole, zero_or_from(4)] = 0

    @field_validator("model")
    @classmethod
    def _model_fits(cls, name: str, info: ValidationInfo) -> str:
        side = SIDES.get(info.data.get("data", ""))
        return fits(name, [each for each, kind in MODELS.items() if kind.side == side], info)

    @field_validator("features")
    @classmethod
    def _features_fit(cls, name: str, info: ValidationInfo) -> str:
        return fits(name, [networks.DIGITS if info.data.get("data") == "digits" else networks.INCEPTION], info)

    @field_validator("latent")
    @classmethod
    def _latent_can_be_cut(cls, size: int, info: ValidationInfo) -> int:
        model = info.data.get("model")
        if model is not None and size % MODELS[model].parts:
            raise ValueError(f"must be a multiple of {MODELS[model].parts} with model = {model!r}, got {size}")
        return size

    @classmethod
    def defaults(cls, params: Mapping[str, Value]) -> Mapping[str, Any]:
        """Return those of the model for ``cifar10``."""
        if params.get("data") != "cifar10":
            return {}
        return CIFAR10.get(params.get("model"), CIFAR10["dcgan"])


_CIFAR10 = {"features": networks.INCEPTION, "d_steps": 5, "flip": True, "samples": 10_000}
CIFAR10: Mapping[Any, Mapping[str, Any]] = {
    "dcgan": {**_CIFAR10, "model": "dcgan", "d_steps": 2, "loss": "bce"},
    "sngan": {**_CIFAR10, "model": "sngan"},
    "biggan": {**_CIFAR10, "model": "biggan", "consistency": 10.0, "average": 0.9999, "average_from": 1000},
}
"""Defaults for ``cifar10`` by model: the configurations of AdaMomentum's authors (``DCGAN_BigGAN/src/configs`` and
``SNGAN/configs`` of wyzjack/AdaM3), 10,000 samples compared with the test split's 10,000 images among them."""
