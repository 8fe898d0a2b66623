"""State dicts that any sharding can load: 8-bit codes as the numbers they stand for.

A block of codes is made of 256 elements of what one process has, so another sharding has other blocks. Every number
that codes stand for is one of bfloat16, exactly: a code has 3 bits of mantissa, bfloat16 has 7, and both reach as far
as float32. So that is what is handed out of DTensors, as DTensors. Where the blocks are the same again, coding gives
the same numbers again, whatever the random bits of the rounding are, since what a code can express is not rounded: the
run goes on bit for bit. (A block's exponent may come out lower by one, if its largest number had been rounded down; the
codes are then others, for the same numbers.) Where blocks are others, numbers that the new block cannot express are
rounded at random once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from adamomentum.torch.checks import describe
from adamomentum.torch.pieces import stretches
from adamomentum.torch.precision import block_count, in_memory_order, local_part, unpack
from adamomentum.torch.sharded import is_dtensor
from adamomentum.torch.state import CODED, scale_of

__all__ = ["decoded", "numbers_of", "shardable"]


def decoded(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Replace moments in 8-bit codes by the numbers they stand for, in bfloat16, which has all of them exactly.

    An optimizer of DTensors hands out its moments so by itself. Of plain tensors ``state_dict()`` has the codes, at
    half the size; they have to be decoded where ``torch.distributed.checkpoint`` is to load them into shards, or fills
    them from what shards have saved. For both, have the optimizer do it:

    >>> import torch
    >>> from adamomentum.torch import AdaMomentum, decoded
    >>> optimizer = AdaMomentum([torch.nn.Parameter(torch.zeros(3))], state_dtype="8bit")
    >>> handle = optimizer.register_state_dict_post_hook(lambda optimizer, state_dict: decoded(state_dict))
    >>> optimizer.init_state()
    >>> optimizer.state_dict()["state"][0]["exp_avg"].dtype
    torch.bfloat16

    ``load_state_dict`` codes them again, as the option ``state_dtype`` in the groups says: bit for bit the same moments
    where the blocks are the same.

    Args:
        state_dict: what ``state_dict()`` or ``get_optimizer_state_dict`` returned, not flattened; it is not changed.

    Returns:
        A dict for ``load_state_dict`` or ``set_optimizer_state_dict``; what is not in codes is the same object.

    Raises:
        ValueError: if codes come without the exponents of their blocks.
    """
    return _with_states(state_dict, sharded_alone=False)


def shardable(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return :func:`decoded` of the states of DTensors alone, whose exponents are those of one process."""
    return _with_states(state_dict, sharded_alone=True)


def _with_states(state_dict: Mapping[str, Any], *, sharded_alone: bool) -> dict[str, Any]:
    state = {key: _decoded_state(key, entries, sharded_alone) for key, entries in state_dict["state"].items()}
    return {**state_dict, "state": state}


def _decoded_state(of: Any, entries: Any, sharded_alone: bool) -> Any:
    """Return the state of one parameter without codes; the same object where it has none."""
    numbers: dict[str, Any] = {}
    for key, moment in CODED:
        codes = entries.get(key) if isinstance(entries, Mapping) else None
        if not isinstance(codes, Tensor) or codes.dtype != torch.uint8 or (sharded_alone and not is_dtensor(codes)):
            continue
        scale, blocks = entries.get(scale_of(key)), block_count(local_part(codes).numel())
        if not isinstance(scale, Tensor) or scale.shape != (blocks,):
            raise ValueError(
                f"state_dict: state {of!r}, {scale_of(key)!r} must be a tensor of shape ({blocks},) beside 8-bit "
                f"codes, got {describe(scale)}; take a state_dict() as the optimizer returned it"
            )
        numbers[key] = numbers_of(codes, scale, moment)
    if not numbers:
        return entries
    scales = {scale_of(key) for key in numbers}
    return {key: numbers.get(key, value) for key, value in entries.items() if key not in scales}


def numbers_of(codes: Tensor, scale: Tensor, moment: Literal["m", "v"]) -> Tensor:
    """Return what codes stand for, in bfloat16 and laid out like them; of DTensors, with the exponents of this part."""
    numbers = torch.empty_like(codes, dtype=torch.bfloat16)
    local = local_part(codes)
    flat, target = in_memory_order(local, local), in_memory_order(local_part(numbers), local)
    for elements, blocks in stretches(local):
        target[elements] = unpack(flat[elements], scale[blocks], moment)
    return numbers
