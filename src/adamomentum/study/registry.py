"""The optimizers that can be compared: constructor, published defaults, search space.

Every hyper-parameter that changes the mathematics is written out here, so that a trial's hash does not
depend on the defaults of whichever torch is installed.

Weight decay. Decoupled decay shrinks a weight by lr * weight_decay per step. AdaMomentum's learning rates
lie sqrt((1 + beta1) / (1 - beta1)) = 4.36 times below Adam's, so its weight_decay is 4.36 times AdamW's:
both decay equally at the centre of their grids. Adam's published default is no decay; SGD's is the
L2 coefficient 5e-4 usual for image classification.

Search spaces belong to the optimizer, not to the task, and are as wide for AdaMomentum (2.5 decades of lr) as for
every other adaptive method. SGD's step is not scale-free: its space spans four decades.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from adamomentum.study.spec import OptimizerSpec

if TYPE_CHECKING:
    import torch

LR_RATIO = math.sqrt((1 + 0.9) / (1 - 0.9))
"""How much further AdaMomentum moves than Adam at equal lr when gradients are noise (beta1 = 0.9)."""

GRID_HALF_DECADES = (-2, -1, 0, 1, 2)
"""The tuning grid of ``adamomentum compare`` around each optimizer's own centre; the same number of points for all."""


@dataclass(frozen=True)
class Range:
    """A range searched on a logarithmic scale."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """Returns the value at ``u`` of the range's length from its low end, to 3 digits; outside it too."""
        return float(f"{self.low * (self.high / self.low) ** u:.3g}")

    def position(self, value: float) -> float:
        """Returns where ``value`` lies: 0 at the low end, 1 at the high one."""
        return math.log(value / self.low) / math.log(self.high / self.low)


@dataclass(frozen=True)
class Optimizer:
    """A comparable optimizer.

    Attributes:
        name: what a trial's specification calls it.
        label: what a reader sees.
        build: makes the torch optimizer over parameters, by keyword.
        lr_centre: middle of the grid of ``adamomentum compare``.
        default_lr: the published default.
        hyperparameters: all others, at their published defaults.
        decay: ``decoupled``, ``L2`` or ``none``: how weight decay acts at these settings.
        space: what can be searched for, by name.
    """

    name: str
    label: str
    build: Callable[..., torch.optim.Optimizer]
    lr_centre: float
    default_lr: float
    hyperparameters: Mapping[str, Any]
    decay: str
    space: Mapping[str, Range] = field(default_factory=dict)

    def lr_grid(self) -> tuple[float, ...]:
        """Returns the learning rates to try, half a decade apart, rounded to two digits."""
        return tuple(float(f"{self.lr_centre * 10 ** (k / 2):.1e}") for k in GRID_HALF_DECADES)

    def spec(self, lr: float) -> OptimizerSpec:
        """Returns the resolved spec at peak learning rate ``lr``."""
        return OptimizerSpec(name=self.name, lr=lr, hyperparameters=dict(self.hyperparameters))

    def changed(
        self,
        label: str = "",
        hyperparameters: Mapping[str, Any] | None = None,
        default_lr: float | None = None,
        space: Mapping[str, Range] | None = None,
    ) -> Optimizer:
        """Returns the same optimizer with other published settings.

        Raises:
            ValueError: if it has no hyper-parameter of a name that is given.
        """
        for name in {**(hyperparameters or {}), **(space or {})}:
            if name != "lr" and name not in self.hyperparameters:
                raise ValueError(
                    f"{self.name} has no hyper-parameter {name!r}; it has: lr, {', '.join(self.hyperparameters)}"
                )
        return replace(
            self,
            label=label or self.label,
            default_lr=self.default_lr if default_lr is None else default_lr,
            hyperparameters={**self.hyperparameters, **(hyperparameters or {})},
            space={**self.space, **(space or {})},
        )


# Built inside functions: planning and reporting must not pay for importing torch.
def _adamomentum(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
    import torch

    from adamomentum.torch import AdaMomentum

    if kwargs.get("state_dtype") not in (None, "8bit"):  # a spec holds text
        kwargs["state_dtype"] = getattr(torch, kwargs["state_dtype"])
    return AdaMomentum(params, **kwargs)


def _torch(name: str) -> Callable[..., torch.optim.Optimizer]:
    def build(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = getattr(import_module("torch.optim"), name)(params, **kwargs)
        return made

    return build


def _pytorch_optimizer(name: str) -> Callable[..., torch.optim.Optimizer]:
    def build(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
        # foreach=False: its foreach AdaBelief omits a bias correction.
        made: torch.optim.Optimizer = getattr(import_module("pytorch_optimizer"), name)(params, foreach=False, **kwargs)
        return made

    return build


def _eadam(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
    from adamomentum.study.eadam import EAdam

    return EAdam(params, **kwargs)


_ADAM_LR = Range(2e-4, 6e-2)
_ADAMOMENTUM_LR = Range(5e-5, 1.5e-2)
_DECOUPLED = Range(1e-3, 1.0)
_ADAMOMENTUM = {
    "betas": (0.9, 0.999),
    "eps": 1e-16,
    "weight_decay": 0.0436,
    "decoupled_weight_decay": True,
    "fixed_decay": False,
    "amsgrad": False,
    "rectify": False,
    "full_bias_correction": False,
}
_ADAMOMENTUM_SPACE = {"lr": _ADAMOMENTUM_LR, "weight_decay": Range(4.36e-3, 4.36)}

OPTIMIZERS: Mapping[str, Optimizer] = {
    o.name: o
    for o in (
        Optimizer(
            name="adamomentum",
            label="AdaMomentum",
            build=_adamomentum,
            lr_centre=1e-2 / LR_RATIO,
            default_lr=1e-3,
            hyperparameters=_ADAMOMENTUM,
            decay="decoupled",
            space=_ADAMOMENTUM_SPACE,
        ),
        Optimizer(
            name="adamw",
            label="AdamW",
            build=_torch("AdamW"),
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False},
            decay="decoupled",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        Optimizer(
            name="adam",
            label="Adam",
            build=_torch("Adam"),
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False},
            decay="none",
            space={"lr": _ADAM_LR, "weight_decay": Range(1e-6, 1e-3)},
        ),
        Optimizer(
            name="sgdm",
            label="SGD + momentum",
            build=_torch("SGD"),
            lr_centre=0.1,
            default_lr=0.1,
            hyperparameters={"momentum": 0.9, "dampening": 0.0, "nesterov": False, "weight_decay": 5e-4},
            decay="L2",
            space={"lr": Range(3e-3, 30.0), "weight_decay": Range(1e-5, 1e-2)},
        ),
        Optimizer(
            name="radam",
            label="RAdam",
            build=_torch("RAdam"),
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "weight_decay": 0.0,
                "decoupled_weight_decay": True,
            },
            decay="decoupled",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        # The accumulator starts at 1e-6, as in Yogi's paper; its lr of 1e-2 and eps of 1e-3 are published defaults.
        Optimizer(
            name="yogi",
            label="Yogi",
            build=_pytorch_optimizer("Yogi"),
            lr_centre=1e-2,
            default_lr=1e-2,
            hyperparameters={
                "betas": (0.9, 0.999),
                "eps": 1e-3,
                "initial_accumulator": 1e-6,
                "weight_decay": 0.0,
                "weight_decouple": True,
                "fixed_decay": False,
            },
            decay="decoupled",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        Optimizer(
            name="adabound",
            label="AdaBound",
            build=_pytorch_optimizer("AdaBound"),
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "final_lr": 0.1,
                "gamma": 1e-3,
                "weight_decay": 0.0,
                "weight_decouple": True,
                "fixed_decay": False,
                "ams_bound": False,
            },
            decay="decoupled",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        Optimizer(
            name="adabelief",
            label="AdaBelief",
            build=_pytorch_optimizer("AdaBelief"),
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={
                "betas": (0.9, 0.999),
                "eps": 1e-16,
                "weight_decay": 0.01,
                "weight_decouple": True,
                "fixed_decay": False,
                "rectify": True,
                "n_sma_threshold": 5,
                "degenerated_to_sgd": True,
                "ams_bound": False,
            },
            decay="decoupled",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        Optimizer(
            name="eadam",
            label="EAdam",
            build=_eadam,
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={"betas": (0.9, 0.999), "eps": 1e-16, "weight_decay": 0.0},
            decay="decoupled",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        Optimizer(
            name="adamomentum-fbc",
            label="AdaMomentum, full bias correction",
            build=_adamomentum,
            lr_centre=1e-2 / LR_RATIO,
            default_lr=1e-3,
            hyperparameters={**_ADAMOMENTUM, "full_bias_correction": True},
            decay="decoupled",
            space=_ADAMOMENTUM_SPACE,
        ),
    )
}

COMPARED = ("adamomentum", "adamw", "adam", "sgdm")
"""What ``adamomentum compare`` takes by default."""


def get(name: str) -> Optimizer:
    """Returns the optimizer called ``name``.

    Raises:
        ValueError: if there is none; the message lists the names there are.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; allowed: {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


def custom(
    path: str, label: str, default_lr: float, hyperparameters: Mapping[str, Any], space: Mapping[str, Range]
) -> Optimizer:
    """Returns an optimizer of the user's own, ``module:Class``; it is imported where a trial is run.

    Args:
        path: the class; its constructor takes ``params``, ``lr`` and the hyper-parameters by keyword.
        label: what a reader sees.
        default_lr: for the default track.
        hyperparameters: all others.
        space: what is searched for; ``lr`` must be in it.
    """
    return Optimizer(
        name=path,
        label=label,
        build=lambda params, **kwargs: _own(path, params, kwargs),
        lr_centre=math.sqrt(space["lr"].low * space["lr"].high),
        default_lr=default_lr,
        hyperparameters=dict(hyperparameters),
        decay="own",
        space=dict(space),
    )


def _own(path: str, params: Iterable[Any], kwargs: Mapping[str, Any]) -> torch.optim.Optimizer:
    import torch

    module, _, name = path.partition(":")
    try:
        cls = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise ValueError(f"optimizer {path!r}: there is no module {error.name!r} where the trial runs") from None
    except AttributeError:
        raise ValueError(f"optimizer {path!r}: module {module!r} has no {name!r}") from None
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise ValueError(f"optimizer {path!r} is not a torch.optim.Optimizer class")
    try:
        return cls(params, **kwargs)
    except TypeError as error:
        raise ValueError(f"optimizer {path!r} does not accept {', '.join(kwargs)}: {error}") from None


def build(spec: OptimizerSpec, params: Iterable[Any]) -> torch.optim.Optimizer:
    """Returns the torch optimizer that ``spec`` describes, over ``params``.

    Raises:
        ValueError: if there is no such optimizer, or it does not take the hyper-parameters.
    """
    if ":" in spec.name:
        return _own(spec.name, params, {"lr": spec.lr, **spec.hyperparameters})
    return get(spec.name).build(params, lr=spec.lr, **spec.hyperparameters)
