"""The parameters of a GAN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from adamomentum.study.spec import Value
from adamomentum.study.tasks import features
from adamomentum.study.tasks.gan_models import MODELS
from adamomentum.study.tasks.params import FLAG, NAME, NOT_NEGATIVE, SHARE, WHOLE, checked, known, one_of, read, whole

SIDES = {"digits": 8, "cifar10": 32}
OF = "a GAN"
KINDS = {
    "data": one_of(SIDES),
    # Which of them go with the data is seen later.
    "model": NAME,
    "features": NAME,
    "d_steps": WHOLE,
    "latent": whole(0),
    # The least number of channels that can be halved is two; 0 stands for the model's own.
    "width": whole(0, but=(1,)),
    "loss": one_of(("hinge", "bce")),
    "consistency": NOT_NEGATIVE,
    "flip": FLAG,
    "average": SHARE,
    "average_from": whole(0),
    # Four points are the least that have third neighbours.
    "samples": whole(4),
    "eval_limit": whole(0, but=(1, 2, 3)),
}


@dataclass(frozen=True)
class Settings:
    """Networks, loss and measure, from a task's ``params``.

    The defaults here are those for ``data = "digits"``.

    Attributes:
        data: which images, ``digits`` or ``cifar10``.
        model: which networks; see ``gan_models``.
        features: the network whose features are compared; part of what the metric means.
        d_steps: updates of the discriminator before each one of the generator.
        latent: size of the noise; 0: the model's own.
        width: channels of both networks; 0: the model's own.
        loss: ``hinge``, or ``bce``: cross-entropy of the discriminator, the generator's not saturating.
        consistency: weight of the squared change of the score when a real image is shifted and mirrored (CR-GAN,
            arXiv 1910.12027).
        flip: mirror half the real images.
        average: decay of the running average of the generator's weights, which then makes the samples; 0: none.
        average_from: the step from which it averages; until then it follows.
        samples: generated images that are compared with the real ones.
        eval_limit: compared with only the first so many real images of a split, for a smoke run; 0: with all.
    """

    data: str = "digits"
    model: str = "sn-dcgan"
    features: str = features.DIGITS
    d_steps: int = 1
    latent: int = 0
    width: int = 0
    loss: str = "hinge"
    consistency: float = 0.0
    flip: bool = False
    average: float = 0.0
    average_from: int = 0
    samples: int = 1797
    eval_limit: int = 0

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Settings:
        """Returns the settings that ``params`` ask for, over the defaults for their ``data`` and ``model``.

        Raises:
            ValueError: if a parameter is not known or not usable, or two do not go together.
        """
        known(OF, params, KINDS)
        data = checked(OF, "data", params.get("data", cls.data), KINDS["data"])
        base = cls() if data == "digits" else CIFAR10.get(params.get("model"), CIFAR10["dcgan"])
        made = read(OF, params, KINDS, base)
        for name, choices in (
            ("model", [name for name, kind in MODELS.items() if kind.side == SIDES[data]]),
            ("features", [features.DIGITS if data == "digits" else features.INCEPTION]),
        ):
            checked(f"{OF} on {data}", name, getattr(made, name), one_of(choices))
        parts = MODELS[made.model].parts
        if made.latent % parts:
            raise ValueError(
                f"params.latent of a GAN must be a multiple of {parts} for model {made.model!r}, got {made.latent}"
            )
        return made


_CIFAR10 = Settings(data="cifar10", model="sngan", features=features.INCEPTION, d_steps=5, flip=True, samples=10_000)
CIFAR10: Mapping[Any, Settings] = {
    "dcgan": Settings(**{**asdict(_CIFAR10), "model": "dcgan", "d_steps": 2, "loss": "bce"}),
    "sngan": _CIFAR10,
    "biggan": Settings(
        **{**asdict(_CIFAR10), "model": "biggan", "consistency": 10.0, "average": 0.9999, "average_from": 1000}
    ),
}
"""Defaults for ``cifar10`` by model: the configurations of AdaMomentum's authors (``DCGAN_BigGAN/src/configs`` and
``SNGAN/configs`` of wyzjack/AdaM3), 10,000 samples compared with the test split's 10,000 images among them."""
