"""Clipping within the step: the total norm of gradients, and the factor that waits for the step."""

from __future__ import annotations

import weakref
from operator import attrgetter, is_

import torch
from torch import Tensor

from adamomentum.torch import fused_cpu
from adamomentum.torch.rule import Scalar

__all__ = ["Clip", "total_norm"]


class Clip:
    """What the next step is to multiply the gradients by, and which gradients they are.

    They are not kept alive: gradients that someone has set to None are gone, and with them what they were clipped to.
    """

    def __init__(self, factor: Scalar, grads: list[Tensor]) -> None:
        self._factor = factor
        # Not torch's TensorWeakRef, in six times the time: what these give is only ever compared with a live tensor.
        self._measured = list(map(weakref.ref, grads))
        self._versions = _versions(grads)

    def factor_of(self, grads: list[Tensor], *, or_raise: bool = False) -> Scalar:
        """Return the factor of these gradients: 1 unless they are the measured ones, or some of them, unchanged since.

        Args:
            grads: the gradients as they are now.
            or_raise: whether it is an error if some are the measured ones and others are not, or were written to.

        Raises:
            RuntimeError: if it is.
        """
        measured = [ref() for ref in self._measured]  # of those that are gone, None
        if len(measured) == len(grads) and all(map(is_, measured, grads)) and self._versions == _versions(grads):
            return self._factor
        versions = dict(zip(map(id, measured), self._versions, strict=True))
        if all(versions.get(id(grad)) == version for grad, version in zip(grads, _versions(grads), strict=True)):
            return self._factor
        if or_raise and any(id(grad) in versions for grad in grads):
            raise RuntimeError(
                "gradients were changed after clip_grad_norm_ had measured them; clip after the last backward(), or "
                "call the optimizer's zero_grad() to drop gradients together with their clipping"
            )
        return 1.0


_version = attrgetter("_version")


def _versions(grads: list[Tensor]) -> list[int]:
    """How often each tensor was written to, where torch counts that."""
    try:
        return list(map(_version, grads))
    except RuntimeError:  # inference tensors are not counted
        return [-1 if grad.is_inference() else grad._version for grad in grads]


def total_norm(params: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the 2-norm of the gradients of all parameters together, and these gradients.

    Args:
        params: the parameters; those without gradients do not count.

    Returns:
        A 0-dim tensor in float32 or wider, on the device of the gradients, on the CPU if there are none; and the
        gradients, in any order.
    """
    if torch.compiler.is_compiling() or fused_cpu.watched() or fused_cpu.why_not():
        grads = [grad for p in params if (grad := p.grad) is not None]
        return _by_torch(grads), grads
    norm, grads, rest = fused_cpu.norm(params)
    if not rest:
        return norm, grads
    other = _by_torch(rest)
    return torch.hypot(other, norm.to(other)) if grads else other, grads + rest


def _by_torch(grads: list[Tensor]) -> Tensor:
    if not grads:
        return torch.tensor(0.0, device="cpu")
    wide = [
        g if g.dtype in (torch.float64, torch.complex128) else g.to(torch.promote_types(g.dtype, torch.float32))
        for g in grads
    ]
    norm = torch.nn.utils.get_total_norm(wide)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
