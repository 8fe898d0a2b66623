"""The total norm of gradients, for clipping within the step."""

from __future__ import annotations

import torch
from torch import Tensor

from adamomentum.torch import fused_cpu

__all__ = ["total_norm"]


def total_norm(params: list[Tensor]) -> Tensor:
    """The 2-norm of the gradients of all parameters together.

    Args:
        params: the parameters; those without gradients do not count.

    Returns:
        A 0-dim tensor in float32 or wider, on the device of the gradients; on the CPU if there are none.
    """
    if torch.compiler.is_compiling() or fused_cpu.watched() or fused_cpu.why_not():
        return _by_torch([p.grad for p in params if p.grad is not None])
    norm, rest = fused_cpu.norm(params)
    if not rest:
        return norm
    other = _by_torch(rest)
    return torch.hypot(other, norm.to(other)) if len(rest) < len(params) else other


def _by_torch(grads: list[Tensor]) -> Tensor:
    if not grads:
        return torch.tensor(0.0, device="cpu")
    wide = [
        g if g.dtype in (torch.float64, torch.complex128) else g.to(torch.promote_types(g.dtype, torch.float32))
        for g in grads
    ]
    norm = torch.nn.utils.get_total_norm(wide)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
