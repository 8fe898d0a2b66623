"""The optimizers that take part, each by a function that makes it; a missing package is no error until then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

__all__ = ["CLIP", "REFERENCE", "STEP", "Contestant", "Unavailable", "contestants"]

LR, BETAS, WEIGHT_DECAY = 1e-3, (0.9, 0.999), 0.01
REFERENCE = "torch AdamW fused"

Make = Callable[[list[Parameter]], Optimizer]


class Unavailable(Exception):
    """An optimizer that cannot take part; the message says why in a few words."""


@dataclass(frozen=True)
class Contestant:
    """One optimizer in one form.

    Attributes:
        name: what tables call it.
        package: the distribution it comes from.
        make: makes it for a list of parameters.
        clip: for clip-and-step workloads, whose ``clip_grad_norm_`` precedes the step.
        only_on: the device it is for, if it is for one alone.
    """

    name: str
    package: str
    make: Make
    clip: Literal["torch", "own"] | None = None
    only_on: str | None = None

    @property
    def ours(self) -> bool:
        """Whether it is this library's."""
        return self.package == "adamomentum"

    def version(self) -> str | None:
        """Return the version of its package, or None if that is not installed."""
        try:
            return torch.__version__ if self.package == "torch" else version(self.package)
        except PackageNotFoundError:
            return None

    def create(self, params: list[Parameter]) -> Optimizer:
        """Make it.

        Args:
            params: what it will step.

        Raises:
            Unavailable: if its package is not installed, or it does not work here.
        """
        device = params[0].device.type
        if self.only_on not in (None, device):
            raise Unavailable(f"not for {device}")
        try:
            return self.make(params)
        except ModuleNotFoundError as error:
            raise Unavailable("not installed" if self.version() is None else reason(error)) from error
        except (Exception, SystemExit) as error:  # whatever a peer's own build or start-up throws
            raise Unavailable(("not available: " if self.ours else "failed: ") + reason(error)) from error


def reason(error: BaseException) -> str:
    """Return the first line of an error, with its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _adamw(**options: Any) -> Make:
    return lambda params: torch.optim.AdamW(params, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, **options)


def _ours(**options: Any) -> Make:
    from adamomentum.torch import AdaMomentum

    return lambda params: AdaMomentum(params, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, **options)


def _sgd(params: list[Parameter]) -> Optimizer:
    return torch.optim.SGD(params, lr=LR, momentum=0.9, weight_decay=WEIGHT_DECAY, fused=True)


def _adabelief(params: list[Parameter]) -> Optimizer:
    optimizer: Optimizer = import_module("pytorch_optimizer").AdaBelief(
        params,
        lr=LR,
        betas=BETAS,
        weight_decay=WEIGHT_DECAY,
        weight_decouple=True,
        fixed_decay=False,
        rectify=False,
        n_sma_threshold=5,
        degenerated_to_sgd=True,
        ams_bound=False,
        foreach=False,
        eps=1e-16,
        maximize=False,
    )
    return optimizer


def _named(module: str, name: str, **options: Any) -> Make:
    """Return an AdamW by another library, with the options that all of them know."""
    return lambda params: getattr(import_module(module), name)(
        params, lr=LR, betas=BETAS, eps=1e-8, weight_decay=WEIGHT_DECAY, **options
    )


STEP = (
    Contestant(REFERENCE, "torch", _adamw(fused=True)),
    Contestant("torch AdamW foreach", "torch", _adamw(foreach=True)),
    Contestant("torch AdamW for-loop", "torch", _adamw(foreach=False, fused=False)),
    Contestant("torch SGD + momentum fused", "torch", _sgd),
    Contestant("AdaMomentum (default)", "adamomentum", _ours()),
    Contestant("AdaMomentum fused", "adamomentum", _ours(fused=True)),
    Contestant("AdaMomentum foreach", "adamomentum", _ours(foreach=True)),
    Contestant("AdaMomentum for-loop", "adamomentum", _ours(foreach=False)),
    Contestant("AdaMomentum bfloat16 state", "adamomentum", _ours(state_dtype=torch.bfloat16)),
    Contestant("AdaMomentum 8-bit state", "adamomentum", _ours(state_dtype="8bit")),
    Contestant("pytorch-optimizer AdaBelief", "pytorch-optimizer", _adabelief),
    Contestant("optimi AdamW", "torch-optimi", _named("optimi", "AdamW")),
    Contestant("DeepSpeed CPUAdam", "deepspeed", _named("deepspeed.ops.adam", "DeepSpeedCPUAdam"), only_on="cpu"),
    Contestant("bitsandbytes AdamW", "bitsandbytes", _named("bitsandbytes.optim", "AdamW")),
    Contestant("bitsandbytes AdamW8bit", "bitsandbytes", _named("bitsandbytes.optim", "AdamW8bit")),
    Contestant("torchao AdamW8bit", "torchao", _named("torchao.optim", "AdamW8bit")),
)

CLIP = (
    Contestant(REFERENCE, "torch", _adamw(fused=True), clip="torch"),
    Contestant("torch AdamW foreach", "torch", _adamw(foreach=True), clip="torch"),
    Contestant("AdaMomentum, clipped by torch", "adamomentum", _ours(), clip="torch"),
    Contestant("AdaMomentum, own clipping", "adamomentum", _ours(), clip="own"),
    Contestant("AdaMomentum fused, own clipping", "adamomentum", _ours(fused=True), clip="own"),
)


def contestants(group: str) -> tuple[Contestant, ...]:
    """Return who takes part in the workloads of a group; the first one is what all are divided by."""
    return CLIP if group == "clip" else STEP
