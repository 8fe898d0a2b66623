"""The optimizers that can be compared: constructor, resolved defaults, learning-rate search space.

Every hyper-parameter that changes the mathematics is written out here, so that a trial's hash does not
depend on the defaults of whichever torch is installed.

Weight decay. Decoupled decay shrinks a weight by lr * weight_decay per step. AdaMomentum's learning rates
lie sqrt((1 + beta1) / (1 - beta1)) = 4.36 times below Adam's, so its weight_decay is 4.36 times AdamW's:
both decay equally at the centre of their grids. Adam's published default is no decay; SGD's is the
L2 coefficient 5e-4 usual for image classification.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adamomentum.study.spec import OptimizerSpec

if TYPE_CHECKING:
    import torch

LR_RATIO = math.sqrt((1 + 0.9) / (1 - 0.9))
"""How much further AdaMomentum moves than Adam at equal lr when gradients are noise (beta1 = 0.9)."""

GRID_HALF_DECADES = (-2, -1, 0, 1, 2)
"""The tuning grid around each optimizer's own centre; the same number of points for all."""


@dataclass(frozen=True)
class Optimizer:
    """A comparable optimizer. ``lr_centre`` is the middle of its declared search space."""

    name: str
    label: str
    build: Callable[..., torch.optim.Optimizer]
    lr_centre: float
    hyperparameters: Mapping[str, Any]
    decay: str

    def lr_grid(self) -> tuple[float, ...]:
        """Returns the learning rates to try, half a decade apart, rounded to two digits."""
        return tuple(float(f"{self.lr_centre * 10 ** (k / 2):.1e}") for k in GRID_HALF_DECADES)

    def spec(self, lr: float) -> OptimizerSpec:
        """Returns the resolved spec at peak learning rate ``lr``."""
        return OptimizerSpec(name=self.name, lr=lr, hyperparameters=dict(self.hyperparameters))


# Built inside functions: planning and reporting must not pay for importing torch.
def _adamomentum(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
    import torch

    from adamomentum.torch import AdaMomentum

    if kwargs.get("state_dtype") not in (None, "8bit"):  # a spec holds text
        kwargs["state_dtype"] = getattr(torch, kwargs["state_dtype"])
    return AdaMomentum(params, **kwargs)


def _adamw(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
    from torch.optim import AdamW

    return AdamW(params, **kwargs)


def _adam(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
    from torch.optim import Adam

    return Adam(params, **kwargs)


def _sgdm(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
    from torch.optim import SGD

    return SGD(params, **kwargs)


OPTIMIZERS: Mapping[str, Optimizer] = {
    o.name: o
    for o in (
        Optimizer(
            name="adamomentum",
            label="AdaMomentum",
            build=_adamomentum,
            lr_centre=1e-2 / LR_RATIO,
            hyperparameters={
                "betas": (0.9, 0.999),
                "eps": 1e-16,
                "weight_decay": 0.0436,
                "decoupled_weight_decay": True,
                "fixed_decay": False,
                "amsgrad": False,
                "rectify": False,
                "full_bias_correction": False,
            },
            decay="decoupled",
        ),
        Optimizer(
            name="adamw",
            label="AdamW",
            build=_adamw,
            lr_centre=1e-2,
            hyperparameters={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False},
            decay="decoupled",
        ),
        Optimizer(
            name="adam",
            label="Adam",
            build=_adam,
            lr_centre=1e-2,
            hyperparameters={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False},
            decay="none",
        ),
        Optimizer(
            name="sgdm",
            label="SGD + momentum",
            build=_sgdm,
            lr_centre=0.1,
            hyperparameters={"momentum": 0.9, "dampening": 0.0, "nesterov": False, "weight_decay": 5e-4},
            decay="L2",
        ),
    )
}


def get(name: str) -> Optimizer:
    """Returns the optimizer called ``name``.

    Raises:
        ValueError: if there is none; the message lists the names there are.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; allowed: {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


def build(spec: OptimizerSpec, params: Iterable[Any]) -> torch.optim.Optimizer:
    """Returns the torch optimizer that ``spec`` describes, over ``params``."""
    return get(spec.name).build(params, lr=spec.lr, **spec.hyperparameters)
