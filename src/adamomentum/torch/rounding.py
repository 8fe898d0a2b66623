r"""Half-precision parameters that keep learning from updates below their spacing.

A bfloat16 number has 8 bits of mantissa: what an update adds below 2^-9 of a parameter is rounded away, at every step.
With the option ``rounding`` it is not:

* ``"stochastic"``: rounded up or down with the probability that keeps the mean (bfloat16 only; no extra memory). The
  random numbers are a function of the element's position in memory and of the step count alone, as those of
  :mod:`adamomentum.torch.precision`.
* ``"kahan"``: what rounding lost is kept in a second tensor of the parameter's dtype, the state ``compensation``, and
  added before the next update: 16 bits of mantissa in all for bfloat16 (2 bytes a parameter).
* ``"master"``: the state ``master`` is the parameter in float32 (4 bytes a parameter), of which the parameter is the
  rounded copy. An element that was changed from outside, by loading weights for example, is taken up as it is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from adamomentum.torch.precision import dither, in_memory_order, round_to_bfloat16

__all__ = ["HALF", "ROUNDINGS", "ROUNDING_STATE", "Rounding", "narrowed", "new_state", "rounds", "widened"]

Rounding = Literal["nearest", "stochastic", "kahan", "master"]

ROUNDINGS = ("nearest", "stochastic", "kahan", "master")
HALF = (torch.bfloat16, torch.float16)
# The state that each keeps.
ROUNDING_STATE = {"kahan": "compensation", "master": "master"}


def rounds(p: Tensor, rounding: Rounding) -> bool:
    """Whether ``rounding`` makes a difference for this parameter."""
    return rounding != "nearest" and p.dtype in HALF


def new_state(p: Tensor, rounding: Rounding) -> Tensor:
    """What :data:`ROUNDING_STATE` names, before the first step."""
    if rounding == "kahan":
        return torch.zeros_like(p, memory_format=torch.preserve_format)
    return p.detach().to(torch.float32)


def widened(p: Tensor, state: dict[str, Tensor], rounding: Rounding) -> Tensor:
    """The parameter in float32, with what rounding has kept of it; a new tensor.

    Args:
        p: the parameter, half precision.
        state: its state.
        rounding: the option of that name.
    """
    theta = p.to(torch.float32)
    if rounding == "kahan":
        return theta.add_(state["compensation"])
    if rounding == "master":
        return torch.where(state["master"].to(p.dtype) == p, state["master"], theta)
    return theta


def narrowed(
    theta: Tensor, p: Tensor, state: dict[str, Tensor], rounding: Rounding, step: float | Tensor, first: int = 0
) -> None:
    """Stores an updated parameter, and what rounding it loses.

    Args:
        theta: the updated parameter, float32.
        p: where it goes.
        state: its state.
        rounding: the option of that name.
        step: the step count t after which it is stored.
        first: where it begins in the whole parameter.
    """
    if rounding == "stochastic":
        # Laid out as the parameter, but dense where that is a part of something larger.
        local = getattr(theta, "_local_tensor", theta)
        x = in_memory_order(local, local)
        x.copy_(round_to_bfloat16(x, dither(x.numel(), step, "theta", x.device, first)))
    p.copy_(theta)
    if rounding == "kahan":
        state["compensation"].copy_(theta.sub_(p))
    elif rounding == "master":
        state["master"].copy_(theta)
