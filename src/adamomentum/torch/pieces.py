"""What of a parameter, its gradient and its state is worked on at a time: pieces, of what this process has of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from adamomentum.torch.precision import BLOCK, in_memory_order
from adamomentum.torch.state import COUNTS, PLAIN_TENSORS, SCALES, Row

__all__ = ["local_tensors", "pieces"]

# Elements of a piece, a multiple of BLOCK: moments in 8 bits take up to 48 bytes an element while they are worked on.
PIECE_ELEMENTS = {"cpu": 2**18, "default": 2**22}


def local_tensors(p: Tensor, grad: Tensor, state: Mapping[str, Tensor]) -> Row | None:
    """Return what this process has of DTensors that are all distributed alike; None for anything else."""
    tensors: list[Any] = [p, grad, *(t for key, t in state.items() if key not in COUNTS)]
    if not all(hasattr(t, "_local_tensor") and hasattr(t, "placements") for t in tensors):
        return None
    if any(t.placements != tensors[0].placements or t.device_mesh != tensors[0].device_mesh for t in tensors):
        return None
    if any(placement.is_partial() for placement in tensors[0].placements):
        return None
    local: dict[str, Any] = {key: getattr(t, "_local_tensor", t) for key, t in state.items()}
    return tensors[0]._local_tensor, tensors[1]._local_tensor, local


def pieces(p: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Iterator[tuple[int, Row]]:
    """Cut a large parameter into views, so that what is worked on at a time needs little memory.

    Args:
        p: the parameter.
        grad: its gradient.
        state: its state.

    Yields:
        Where a piece begins in the order of memory, and the piece: of everything shaped like the parameter a view of
        one dimension, of the exponents of 8-bit codes those of its blocks. The whole where it is small or where its
        pieces are no views.
    """
    whole = 0, (p, grad, state)
    limit = PIECE_ELEMENTS.get(p.device.type, PIECE_ELEMENTS["default"])
    if p.numel() <= limit or torch.compiler.is_compiling():  # the compiler plans the memory itself
        yield whole
        return
    local = local_tensors(p, grad, state)
    if local is not None:
        torch.autograd.graph.increment_version(p)  # it is the local tensor alone that is written to
        yield from pieces(*local)
        return
    written = {"p": p, **{key: t for key, t in state.items() if t.shape == p.shape}}
    flat = {key: in_memory_order(t, p) for key, t in written.items()}
    if type(p) not in PLAIN_TENSORS or any(not _same_memory(flat[key], t) for key, t in written.items()):
        yield whole
        return
    flat["grad"] = in_memory_order(grad, p)
    for first in range(0, p.numel(), limit):
        piece = {key: t[first : first + limit] for key, t in flat.items()}
        blocks = slice(first // BLOCK, -(-(first + limit) // BLOCK))
        scales = {key: t[blocks] for key, t in state.items() if key in SCALES}
        yield first, (piece.pop("p"), piece.pop("grad"), {**piece, **scales})


def _same_memory(flat: Tensor, t: Tensor) -> bool:
    return flat.untyped_storage().data_ptr() == t.untyped_storage().data_ptr()
