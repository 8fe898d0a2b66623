"""DTensors: what this process has of a parameter, its gradient and its state, and where that lies in the whole.

Moments in 8 bits have their blocks in each process's part, from its first element on in the order of its memory: codes
are DTensors placed as the parameter is, exponents plain tensors that belong to this part alone. Random bits follow the
position in the whole parameter where the part is a stretch of it, see :func:`first_element`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adamomentum.torch.precision import local_part
from adamomentum.torch.state import SHAPED, Row

__all__ = ["are_alike", "first_element", "is_dtensor", "local_tensors", "placed_like"]


def is_dtensor(t: Any) -> bool:
    """Whether it is a DTensor."""
    return hasattr(t, "_local_tensor") and hasattr(t, "placements")


def local_tensors(p: Tensor, grad: Tensor, state: Mapping[str, Tensor]) -> tuple[int, Row] | None:
    """Return what this process has of a parameter, its gradient and its state.

    A gradient that is placed in another way, as a sum that is still to be taken, is brought to the parameter's.

    Returns:
        Where the part begins (:func:`first_element`), and the local tensors; None for what is no DTensor, or not placed
        alike.
    """
    shaped = [state[key] for key in SHAPED if key in state]
    if not all(is_dtensor(t) for t in (p, grad, *shaped)) or not all(are_alike(p, t) for t in shaped):
        return None
    own: Any = p
    given: Any = grad
    if any(placement.is_partial() for placement in own.placements) or given.device_mesh != own.device_mesh:
        return None
    if given.placements != own.placements:
        given = given.redistribute(own.device_mesh, own.placements)
    return first_element(p), (local_part(p), local_part(given), {key: local_part(t) for key, t in state.items()})


def are_alike(a: Any, b: Any) -> bool:
    """Whether two DTensors are placed in the same way."""
    return bool(a.device_mesh == b.device_mesh and a.placements == b.placements)


def first_element(p: Any) -> int:
    """Return where this process's part of a parameter begins in the whole, in elements in the order of memory.

    That is a number for what is sharded along dimension 0, with that dimension outermost in memory: such a part is a
    stretch of the whole. It is 0 for other parts, and for what is not distributed.
    """
    if not is_dtensor(p) or not p.numel():
        return 0
    local, coordinate = p._local_tensor, p.device_mesh.get_coordinate()
    begin, rows = 0, p.shape[0] if p.dim() else 1
    row = p.numel() // rows
    for axis, placement in enumerate(p.placements):
        if placement.is_replicate():
            continue
        # FSDP over tensor parallelism shards dimension 0 in an order of its own, which has a factor.
        if not placement.is_shard(0) or hasattr(placement, "split_factor") or coordinate is None:
            return 0
        part = -(-rows // p.device_mesh.shape[axis])  # as torch.chunk
        skipped = min(coordinate[axis] * part, rows)
        begin, rows = begin + skipped, min(part, rows - skipped)
    outermost = local.dim() == 0 or local.shape[0] < 2 or local.stride(0) == row
    return begin * row if outermost else 0


def placed_like(p: Any, whole: Tensor) -> Tensor:
    """Return a tensor that every process has as a whole placed as ``p``, where that is a DTensor; no messages pass."""
    if not is_dtensor(p) or is_dtensor(whole):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(p.device), p.device_mesh, p.placements, src_data_rank=None)
