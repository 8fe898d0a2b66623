"""The parameters of image classification.

Tested in tests/study/test_image_sources.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator

from adamomentum.study.tasks.settings import Settings, Share, Whole, fits
from adamomentum.study.tasks.vision.augment import AUGMENTATIONS
from adamomentum.study.tasks.vision.models import MODELS

FILE_AUGMENT = "rrc-flip"


class VisionSettings(Settings):
    """Data, network and augmentation.

    Attributes:
        data: ``mnist5k`` (1,000 training images), ``mnist5k-full`` (3,000), ``mnist1d``, ``fashion-mnist``,
            ``cifar10``, ``cifar100``, ``imagenet``, or ``folder``: the user's own.
        model: which network; see ``models``.
        augment: ``none``, ``crop-flip``, ``crop-flip-cutout``; of ``imagenet`` ``none`` or ``rrc-flip``.
        label_smoothing: share of the label's probability that is spread over all classes, in training.
        eval_limit: only the first so many images of a split are evaluated, for a smoke run; 0: all.
    """

    data: Literal[
        "mnist5k", "mnist5k-full", "mnist1d", "fashion-mnist", "cifar10", "cifar100", "imagenet", "folder"
    ] = "mnist5k"
    model: str = "small-resnet"
    augment: str = "none"
    label_smoothing: Share = 0.0
    eval_limit: Whole = 0

    @field_validator("model")
    @classmethod
    def _model_fits(cls, name: str, info: ValidationInfo) -> str:
        signals = info.data.get("data") == "mnist1d"
        return fits(name, [each for each in MODELS if (each == "cnn1d") == signals], info)

    @field_validator("augment")
    @classmethod
    def _augment_fits(cls, name: str, info: ValidationInfo) -> str:
        special = {"mnist1d": ("none",), "imagenet": ("none", FILE_AUGMENT)}
        return fits(name, special.get(info.data.get("data", ""), tuple(AUGMENTATIONS)), info)
