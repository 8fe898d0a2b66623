"""The optimizers that can be compared: constructor, published defaults, search space.

Every hyper-parameter that changes the mathematics is written out here, so that a trial's hash does not
depend on the defaults of whichever torch is installed.

Weight decay. Decoupled decay shrinks a weight by lr * weight_decay per step. AdaMomentum's learning rates
lie sqrt((1 + beta1) / (1 - beta1)) = 4.36 times below Adam's, so its weight_decay is 4.36 times AdamW's:
both decay equally at the centre of their grids. Adam's published default is no decay; SGD's is the
L2 coefficient 5e-4 usual for image classification.

Where the values below are not the published defaults:

- ``weight_decay`` of AdaMomentum (0.0436) and AdaBelief (0.01): both were published with 0. A task that sets the decay,
  or searches it, overrides them.
- ``rectify`` of AdaMomentum: off, as in the paper's algorithm; the authors' code has it on by default.
- ``weight_decouple`` of Yogi and AdaBound: published with L2 decay; here they decay as AdamW does, so that a difference
  from AdamW is not one of decay.

AdaBelief otherwise is adabelief-pytorch 0.2: rectified, decoupled decay, eps 1e-16.

NAdamW is torch's NAdam with decoupled decay and a ``momentum_decay`` of 1000, which holds the momentum at beta1 from
the first step on: it moves by b1 m_t / (1 - b1^(t+1)) + (1 - b1) g_t / (1 - b1^t), as in optax and AlgoPerf's NAdamW.
torch's default of 0.004, the schedule of Dozat's report, starts at half of beta1 and needs 4,000 steps for half of the
way up: in trainings as short as these it would be another optimizer.

Search spaces belong to the optimizer, not to the task, and are as wide for AdaMomentum (2.5 decades of lr) as for
every other adaptive method. SGD's step is not scale-free: its space spans four decades.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Literal

from adamomentum.study import own
from adamomentum.study.spec import EpsPlacement, OptimizerSpec

if TYPE_CHECKING:
    import torch

LR_RATIO = math.sqrt((1 + 0.9) / (1 - 0.9))
"""How much further AdaMomentum moves than Adam at equal lr when gradients are noise (beta1 = 0.9)."""

Kind = Literal["adaptive", "sgd", "other"]
"""What an optimizer counts as in the paper's claims: a step that is adapted to each coordinate, or SGD's."""

GRID_HALF_DECADES = (-2, -1, 0, 1, 2)
"""The tuning grid of ``adamomentum compare`` around each optimizer's own centre; the same number of points for all."""


@dataclass(frozen=True)
class Range:
    """A range searched on a logarithmic scale.

    Raises:
        ValueError: unless 0 < low < high, both finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the ends."""
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"a range needs 0 < low < high, both finite, got {self.low} and {self.high}")

    def at(self, u: float) -> float:
        """Return the value at ``u`` in [0, 1] of the way from low to high, to 3 digits; goes on outside of [0, 1]."""
        return float(f"{self.low * (self.high / self.low) ** u:.3g}")

    def position(self, value: float) -> float:
        """Return where ``value`` lies: 0 at the low end, 1 at the high one."""
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
        hyperparameters: all others, at their published defaults but for what the module's text says.
        decay: ``decoupled`` or ``L2``: how weight decay acts, if it is not 0 (``own``: the class knows).
        kind: what it counts as where the paper's claims speak of adaptive methods and of SGD.
        eps_placement: where eps enters the denominator; None: nothing is measured of it.
        space: what can be searched for, by name.
        optional: further options that a spec may name; those that it leaves out are off.
        colour: of its lines and marks in every figure, as RGB; empty: one that is left over. Those here are Okabe and
            Ito's, told apart with all common kinds of colour blindness; black is left to the text.
        marker: matplotlib's name of its mark.
    """

    name: str
    label: str
    build: Callable[..., torch.optim.Optimizer]
    lr_centre: float
    default_lr: float
    hyperparameters: Mapping[str, Any]
    decay: str
    kind: Kind
    eps_placement: EpsPlacement | None = None
    space: Mapping[str, Range] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    colour: str = ""
    marker: str = ""

    def has(self, name: str) -> bool:
        """Whether a spec may name the hyper-parameter ``name``, the learning rate aside."""
        return name in self.hyperparameters or name in self.optional

    def lr_grid(self) -> tuple[float, ...]:
        """Return the learning rates to try, half a decade apart, rounded to two digits."""
        return tuple(float(f"{self.lr_centre * 10 ** (k / 2):.1e}") for k in GRID_HALF_DECADES)

    def spec(self, lr: float) -> OptimizerSpec:
        """Return the resolved spec at peak learning rate ``lr``."""
        return OptimizerSpec(name=self.name, lr=lr, hyperparameters=dict(self.hyperparameters))

    def changed(
        self,
        label: str = "",
        hyperparameters: Mapping[str, Any] | None = None,
        default_lr: float | None = None,
        space: Mapping[str, Range] | None = None,
    ) -> Optimizer:
        """Return the same optimizer with other published settings.

        Raises:
            ValueError: if it has no hyper-parameter of a name that is given.
        """
        for name in {**(hyperparameters or {}), **(space or {})}:
            if name != "lr" and not self.has(name):
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
    from adamomentum.torch import AdaMomentum

    return AdaMomentum(params, **kwargs)


def _torch(name: str) -> Callable[..., torch.optim.Optimizer]:
    def build(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = getattr(import_module("torch.optim"), name)(params, **kwargs)
        return optimizer

    return build


def _pytorch_optimizer(name: str) -> Callable[..., torch.optim.Optimizer]:
    def build(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
        # foreach=False: up to release 3.10 the foreach AdaBelief lacked a bias correction, and its first step was 10
        # times too small. Since 4.0 both paths agree; the loop is kept for one arithmetic everywhere.
        optimizer: torch.optim.Optimizer = getattr(import_module("pytorch_optimizer"), name)(
            params, foreach=False, **kwargs
        )
        return optimizer

    return build


def _eadam(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
    from adamomentum.study.eadam import EAdam

    return EAdam(params, **kwargs)


def _muon(params: Iterable[Any], **kwargs: Any) -> torch.optim.Optimizer:
    from adamomentum.study.muon import MuonAdamW

    return MuonAdamW(params, **kwargs)


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
# Off where a spec does not name them, so that trials from before there were such options keep their ids.
_ADAMOMENTUM_OPTIONAL = ("state_dtype", "adjust_lr", "second_moment", "nesterov")
_ADAMOMENTUM_SPACE = {"lr": _ADAMOMENTUM_LR, "weight_decay": Range(4.36e-3, 4.36)}

OPTIMIZERS: Mapping[str, Optimizer] = {
    o.name: o
    for o in (
        Optimizer(
            name="adamomentum",
            label="AdaMomentum",
            colour="#D55E00",
            marker="o",
            build=_adamomentum,
            lr_centre=1e-2 / LR_RATIO,
            default_lr=1e-3,
            hyperparameters=_ADAMOMENTUM,
            decay="decoupled",
            kind="adaptive",
            eps_placement="accumulated",
            space=_ADAMOMENTUM_SPACE,
            optional=_ADAMOMENTUM_OPTIONAL,
        ),
        Optimizer(
            name="adamw",
            label="AdamW",
            colour="#0072B2",
            marker="s",
            build=_torch("AdamW"),
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False},
            decay="decoupled",
            kind="adaptive",
            eps_placement="outside",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        Optimizer(
            name="nadamw",
            label="NAdamW",
            colour="#4A7C59",
            marker="8",
            build=_torch("NAdam"),
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "weight_decay": 0.01,
                "momentum_decay": 1e3,
                "decoupled_weight_decay": True,
            },
            decay="decoupled",
            kind="adaptive",
            eps_placement="outside",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        Optimizer(
            name="adam",
            label="Adam",
            colour="#56B4E9",
            marker="^",
            build=_torch("Adam"),
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False},
            decay="L2",
            kind="adaptive",
            eps_placement="outside",
            space={"lr": _ADAM_LR, "weight_decay": Range(1e-6, 1e-3)},
        ),
        Optimizer(
            name="sgdm",
            label="SGD + momentum",
            colour="#009E73",
            marker="D",
            build=_torch("SGD"),
            lr_centre=0.1,
            default_lr=0.1,
            hyperparameters={"momentum": 0.9, "dampening": 0.0, "nesterov": False, "weight_decay": 5e-4},
            decay="L2",
            kind="sgd",
            space={"lr": Range(3e-3, 30.0), "weight_decay": Range(1e-5, 1e-2)},
        ),
        Optimizer(
            name="radam",
            label="RAdam",
            colour="#CC79A7",
            marker="v",
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
            kind="adaptive",
            eps_placement="outside",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        # Yogi's own defaults: lr 1e-2, eps 1e-3, both moments start at 1e-6. AdaMomentum's paper ran lr 1e-3, eps 1e-8.
        Optimizer(
            name="yogi",
            label="Yogi",
            colour="#E69F00",
            marker="P",
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
            kind="adaptive",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        # The bounds are scaled by lr / (lr at construction). A trial constructs with the schedule's peak, so that
        # warm-up and decay act on the bounds as on lr. pytorch-optimizer adds 1e-15 below the root, which the paper
        # does not: without effect, as the upper bound is reached at much larger denominators already.
        Optimizer(
            name="adabound",
            label="AdaBound",
            colour="#8C6D31",
            marker="X",
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
            kind="adaptive",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        Optimizer(
            name="adabelief",
            label="AdaBelief",
            colour="#7A6FC4",
            marker="<",
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
            kind="adaptive",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        Optimizer(
            name="muon",
            label="Muon, AdamW",
            colour="#9B2226",
            marker="H",
            build=_muon,
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={"momentum": 0.95, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1},
            decay="decoupled",
            kind="other",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        # Published with eps 1e-8; here a control, so it has AdaMomentum's.
        Optimizer(
            name="eadam",
            label="EAdam",
            colour="#7F7F7F",
            marker=">",
            build=_eadam,
            lr_centre=1e-2,
            default_lr=1e-3,
            hyperparameters={"betas": (0.9, 0.999), "eps": 1e-16, "weight_decay": 0.0},
            decay="decoupled",
            kind="adaptive",
            eps_placement="accumulated",
            space={"lr": _ADAM_LR, "weight_decay": _DECOUPLED},
        ),
        Optimizer(
            name="adamomentum-fbc",
            label="AdaMomentum, full bias correction",
            colour="#D1495B",
            marker="h",
            build=_adamomentum,
            lr_centre=1e-2 / LR_RATIO,
            default_lr=1e-3,
            hyperparameters={**_ADAMOMENTUM, "full_bias_correction": True},
            decay="decoupled",
            kind="adaptive",
            eps_placement="accumulated",
            space=_ADAMOMENTUM_SPACE,
            optional=_ADAMOMENTUM_OPTIONAL,
        ),
    )
}

COMPARED = ("adamomentum", "adamw", "adam", "sgdm")
"""What ``adamomentum compare`` takes by default."""


def get(name: str) -> Optimizer:
    """Return the optimizer called ``name``.

    Raises:
        ValueError: if there is none; the message lists the names there are.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; allowed: {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


def custom(
    path: str,
    label: str,
    default_lr: float,
    hyperparameters: Mapping[str, Any],
    space: Mapping[str, Range],
    kind: Kind = "other",
    eps_placement: EpsPlacement | None = None,
) -> Optimizer:
    """Return an optimizer of the user's own; nothing is imported before a trial is run.

    Args:
        path: ``module:Class``; the class is a torch.optim.Optimizer whose constructor takes ``params``, ``lr`` and the
            hyper-parameters by keyword. The module must be importable in the worker, or lie beside the study file.
        label: what a reader sees.
        default_lr: for the role ``default``.
        hyperparameters: all others that change the mathematics, with their default values.
        space: what can be searched for: ``lr``, and any of ``hyperparameters``.
        kind: what it counts as in the paper's claims; ``other`` is left out of those on adaptive methods and on SGD.
        eps_placement: where eps enters the denominator, if it is to be measured where eps rules.

    Raises:
        ValueError: if ``path`` is no such path, ``default_lr`` is not positive, ``space`` lacks ``lr`` or names a
            hyper-parameter without a default, or ``eps_placement`` is given without ``betas`` and ``eps``.
    """
    own.check_path("an optimizer", path, "my_package.optim:Lion")
    if not 0 < default_lr < math.inf:
        raise ValueError(f"default_lr of {path} must be positive and finite, got {default_lr}")
    if "lr" not in space:
        raise ValueError(f"space of {path} must have a range for lr, got {', '.join(space) or 'none at all'}")
    for name in ("params", "lr"):
        if name in hyperparameters:
            raise ValueError(f"hyperparameters of {path} must leave out {name!r}: it is passed in any case")
    for name in space:
        if name != "lr" and name not in hyperparameters:
            raise ValueError(f"space of {path} has {name!r}, which needs a default in hyperparameters too")
    lacking = [name for name in ("betas", "eps") if name not in hyperparameters]
    if eps_placement is not None and lacking:
        raise ValueError(
            f"eps_placement of {path} needs {' and '.join(lacking)} in hyperparameters: "
            "where eps rules follows from both"
        )
    return Optimizer(
        name=path,
        label=label,
        build=lambda params, **kwargs: _own(path, params, kwargs),
        lr_centre=math.sqrt(space["lr"].low * space["lr"].high),
        default_lr=default_lr,
        hyperparameters=dict(hyperparameters),
        decay="own",
        kind=kind,
        eps_placement=eps_placement,
        space=dict(space),
    )


def _own(path: str, params: Iterable[Any], kwargs: Mapping[str, Any]) -> torch.optim.Optimizer:
    import torch

    cls = own.imported("optimizer", path)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise ValueError(f"optimizer {path!r} is not a torch.optim.Optimizer class but {cls!r}")
    taken = signature(cls).parameters
    if not any(each.kind is Parameter.VAR_KEYWORD for each in taken.values()):
        refused = [key for key in kwargs if key not in taken or taken[key].kind is Parameter.POSITIONAL_ONLY]
        if refused:
            raise ValueError(
                f"optimizer {path!r} does not accept {', '.join(refused)} by keyword; it accepts: {', '.join(taken)}"
            )
    return cls(params, **kwargs)


def eps_placement(spec: OptimizerSpec) -> EpsPlacement | None:
    """Return where eps enters the denominator of what ``spec`` describes; None: nothing is measured of it."""
    return spec.eps_placement if ":" in spec.name else get(spec.name).eps_placement


def build(spec: OptimizerSpec, params: Iterable[Any]) -> torch.optim.Optimizer:
    """Return the torch optimizer that ``spec`` describes, over ``params``.

    Raises:
        ValueError: if there is no such optimizer, or its hyper-parameters are not exactly those of the spec: some
            constructors swallow what they do not know, and a missing one would be at whatever default is installed.
    """
    if ":" in spec.name:
        return _own(spec.name, params, {"lr": spec.lr, **spec.hyperparameters})
    entry = get(spec.name)
    for what, names in (
        ("has no hyper-parameter", {key for key in spec.hyperparameters if not entry.has(key)}),
        ("needs a value for", entry.hyperparameters.keys() - spec.hyperparameters.keys()),
    ):
        if names:
            raise ValueError(
                f"{spec.name} {what} {', '.join(sorted(names))}; it has: lr, {', '.join(entry.hyperparameters)}"
            )
    return entry.build(params, lr=spec.lr, **spec.hyperparameters)
