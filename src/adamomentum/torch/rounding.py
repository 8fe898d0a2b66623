r"""Half-precision parameters that keep learning from updates below their spacing.

A bfloat16 number has 8 bits of mantissa: what an update adds below 2^-9 of a parameter is rounded away, at every step.
With the option ``rounding`` it is not:

* ``"stochastic"``: rounded up or down with the probability that keeps the mean (bfloat16 only; no extra memory). The
  random numbers are a function of the element's position in memory and of the step count alone, as those of
  :mod:`adamomentum.torch.precision`.
* ``"kahan"``: what rounding lost is kept in a second tensor of the parameter's dtype, the state ``compensation``, and
  added before the next update: 16 bits of mantissa in all for bfloat16 (2 bytes a parameter).
* ``"master"``: the state ``master`` is the parameter in float32 (4 bytes a parameter), of which the parameter is the
  rounded copy.

With both, an element that was changed from outside, by loading weights for example, is taken up as it is: what is kept
counts only where it rounds to the element.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from adamomentum.torch.precision import dither, in_memory_order, local_part, round_to_bfloat16

__all__ = ["HALF", "ROUNDINGS", "Rounding", "narrowed", "new_kept", "rounds", "widened"]

Rounding = Literal["nearest", "stochastic", "kahan", "master"]

ROUNDINGS = ("nearest", "stochastic", "kahan", "master")
HALF = (torch.bfloat16, torch.float16)
# As bits of float32 numbers: 2^16 and infinity, 2^-14, from which on float16 numbers are normal.
_FLOAT16_INFINITE, _INFINITE, _FLOAT16_NORMAL = 0x47800000, 0x7F800000, 0x38800000


def rounds(p: Tensor, rounding: Rounding) -> bool:
    """Whether ``rounding`` makes a difference for this parameter."""
    return rounding != "nearest" and p.dtype in HALF


def new_kept(p: Tensor, rounding: Rounding) -> Tensor:
    """Return what "kahan" or "master" keeps of a parameter, before the first step."""
    if rounding == "kahan":
        return torch.zeros_like(p, memory_format=torch.preserve_format)
    return p.detach().to(torch.float32)


def widened(p: Tensor, kept: Tensor | None, rounding: Rounding) -> Tensor:
    """Return the parameter in float32, with what rounding has kept of it; a new tensor.

    Args:
        p: the parameter, half precision.
        kept: what "kahan" and "master" keep of it; None for "stochastic".
        rounding: the option of that name.
    """
    theta = p.to(torch.float32)
    if kept is None:
        return theta
    if rounding == "master":
        return torch.where(nearest(kept, p.dtype) == theta, kept, theta)
    lost = kept.to(torch.float32)
    whole, inner = theta + lost, theta + lost * (1 - 2**-9)
    # Half a spacing exactly is a tie, which may round away from p: then a little less. What rounds to another number
    # was lost by another one, so that p was changed from outside.
    closest = torch.where(nearest(whole, p.dtype) == theta, whole, inner)
    return torch.where(nearest(closest, p.dtype) == theta, closest, theta)


def nearest(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 numbers rounded to the nearest that bfloat16 or float16 has, ties to even; still in float32.

    Compiled code does it on the bits: a compiler may leave out a cast to and fro, and rounding with it.
    """
    if not torch.compiler.is_compiling():
        return x.to(dtype).to(torch.float32)
    bits = x.view(torch.int32)
    dropped = 16 if dtype == torch.bfloat16 else 13
    odd = (bits >> dropped) & 1
    rounded = (bits + ((1 << (dropped - 1)) - 1) + odd) & -(1 << dropped)
    if dtype == torch.float16:
        sign, magnitude = bits & -(1 << 31), rounded & 0x7FFFFFFF
        magnitude = torch.where(magnitude >= _FLOAT16_INFINITE, _INFINITE, magnitude)
        # Below 2^-14 the spacing stays 2^-24, which is that of float32 numbers from 1/2 to 1.
        subnormal = ((x.abs() + 0.5) - 0.5).view(torch.int32)
        rounded = sign | torch.where((bits & 0x7FFFFFFF) < _FLOAT16_NORMAL, subnormal, magnitude)
    return torch.where(x.isfinite(), rounded.view(torch.float32), x)


def narrowed(
    theta: Tensor, p: Tensor, kept: Tensor | None, rounding: Rounding, step: float | Tensor, first: int = 0
) -> None:
    """Store an updated parameter, and what rounding it loses.

    Args:
        theta: the updated parameter, float32.
        p: where it goes.
        kept: where "kahan" puts what was lost, and "master" the parameter; None for "stochastic".
        rounding: the option of that name.
        step: the step count t after which it is stored.
        first: where it begins in the whole parameter.
    """
    if rounding == "stochastic":
        # Laid out as the parameter, but dense where that is a part of something larger.
        local = local_part(theta)
        x = in_memory_order(local, local)
        x.copy_(round_to_bfloat16(x, dither(x.numel(), step, "theta", x.device, first)))
    elif kept is not None and rounding == "kahan":
        stored = nearest(theta, p.dtype)
        kept.copy_(theta - stored)
        theta = stored
    elif kept is not None:
        kept.copy_(theta)
    p.copy_(theta)
