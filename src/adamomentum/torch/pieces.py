"""What of a parameter, its gradient and its state is worked on at a time: pieces, of what this process has of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from adamomentum.torch.precision import BLOCK, block_count, in_memory_order
from adamomentum.torch.sharded import first_element, local_tensors
from adamomentum.torch.state import PLAIN_TENSORS, SCALES, Row

__all__ = ["pieces", "stretches"]

# Elements of a piece, a multiple of BLOCK: moments in 8 bits take up to 48 bytes an element while they are worked on.
PIECE_ELEMENTS = {"cpu": 2**18, "default": 2**22}


def pieces(p: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Iterator[tuple[int, Row]]:
    """Cut a large parameter into views, so that what is worked on at a time needs little memory.

    Args:
        p: the parameter.
        grad: its gradient.
        state: its state.

    Yields:
        Where a piece begins in the whole parameter, in the order of memory, and the piece: of everything shaped like
        the parameter a view of one dimension, of the exponents of 8-bit codes those of its blocks. All that this
        process has, where it is small or where its pieces are no views.
    """
    if torch.compiler.is_compiling():  # the compiler plans the memory itself
        yield first_element(p), (p, grad, state)
        return
    local = local_tensors(p, grad, state)
    if local is not None:
        torch.autograd.graph.increment_version(p)  # it is the local tensor alone that is written to
        begin, row = local
        for first, part in pieces(*row):
            yield begin + first, part
        return
    whole = 0, (p, grad, state)
    cuts = stretches(p)
    if len(cuts) < 2:
        yield whole
        return
    written = {"p": p, **{key: t for key, t in state.items() if t.shape == p.shape}}
    flat = {key: in_memory_order(t, p) for key, t in written.items()}
    if type(p) not in PLAIN_TENSORS or any(not _same_memory(flat[key], t) for key, t in written.items()):
        yield whole
        return
    flat["grad"] = in_memory_order(grad, p)
    for elements, blocks in cuts:
        piece = {key: t[elements] for key, t in flat.items()}
        scales = {key: t[blocks] for key, t in state.items() if key in SCALES}
        yield elements.start, (piece.pop("p"), piece.pop("grad"), {**piece, **scales})


def stretches(t: Tensor) -> list[tuple[slice, slice]]:
    """Return the elements of a tensor that are worked on at a time, and their blocks of 8-bit codes."""
    limit = PIECE_ELEMENTS.get(t.device.type, PIECE_ELEMENTS["default"])
    return [
        (slice(first, first + limit), slice(first // BLOCK, block_count(first + limit)))
        for first in range(0, t.numel(), limit)
    ]


def _same_memory(flat: Tensor, t: Tensor) -> bool:
    return flat.untyped_storage().data_ptr() == t.untyped_storage().data_ptr()
