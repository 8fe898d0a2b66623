"""State dicts that any sharding can load: 8-bit codes as the numbers they stand for.

A block of codes is made of 256 elements of what one process has, so another sharding has other blocks. Every number
that codes stand for is one of bfloat16, exactly: a code has 3 bits of mantissa, bfloat16 has 7, and both reach as far
as float32. So that is what is handed out of DTensors, as DTensors. Where the blocks are the same again, coding gives
the same numbers again, whatever the random bits of the rounding are, since what a code can express is not rounded: the
run goes on bit for bit. (A block's exponent may come out lower by one, if its largest number had been rounded down; the
codes are then others, for the same numbers.) Where blocks are others, numbers that the new block cannot express are
rounded at random once more.

Plain tensors keep their codes, and beside them an entry that says of what their blocks are: of which step, and of which
order of memory. Loaders that fill tensors in place lose both without a word, ``torch.distributed.checkpoint`` for one.
It casts numbers to codes, keeps exponents that it finds nothing for (if allowed to), and knows no order but that of
the dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from adamomentum.torch.checks import check_count, describe, has_numbers
from adamomentum.torch.pieces import stretches
from adamomentum.torch.precision import block_count, in_memory_order, local_part, unpack
from adamomentum.torch.sharded import is_dtensor
from adamomentum.torch.state import CODED, STEP, blocks_of, same_layout, scale_of

__all__ = ["decoded", "laid_out_as_coded", "numbers_of", "portable"]


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
    return _with_states(state_dict, keep_plain=False)


def portable(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Decode the states of DTensors, whose exponents are those of one process, and describe the blocks of others."""
    return _with_states(state_dict, keep_plain=True)


def _with_states(state_dict: Mapping[str, Any], *, keep_plain: bool) -> dict[str, Any]:
    state = {key: _portable_state(key, entries, keep_plain) for key, entries in state_dict["state"].items()}
    return {**state_dict, "state": state}


def _portable_state(of: Any, entries: Any, keep_plain: bool) -> Any:
    """Return the state of one parameter with its codes decoded or described; the same object where it has none."""
    if not isinstance(entries, Mapping):
        return entries
    changed: dict[str, Any] = {}
    gone: set[str] = set()
    for key, moment in CODED:
        codes, scale = entries.get(key), entries.get(scale_of(key))
        if not isinstance(codes, Tensor) or codes.dtype != torch.uint8:
            continue
        if keep_plain and not is_dtensor(codes):
            changed[blocks_of(key)] = _described(codes, entries[STEP])
            continue
        blocks = block_count(local_part(codes).numel())
        if not isinstance(scale, Tensor) or scale.shape != (blocks,):
            raise ValueError(
                f"state_dict: state {of!r}, {scale_of(key)!r} must be a tensor of shape ({blocks},) beside 8-bit "
                f"codes, got {describe(scale)}; take a state_dict() as the optimizer returned it"
            )
        if not is_dtensor(codes):
            codes = laid_out_as_coded(f"state_dict: state {of!r}", key, entries)
        changed[key] = numbers_of(codes, scale, moment)
        gone |= {scale_of(key), blocks_of(key)}
    return {**{key: value for key, value in entries.items() if key not in gone}, **changed} if changed else entries


def _described(codes: Tensor, step: Tensor) -> Tensor:
    """Return the step count and the strides that codes have now, int64, on their device."""
    strides = torch.tensor(codes.stride(), dtype=torch.int64, device=codes.device)
    return torch.cat((step.reshape(1).to(codes.device, torch.int64), strides))


def laid_out_as_coded(where: str, key: str, entries: Mapping[str, Any]) -> Tensor:
    """Return codes of a state dict in the order of memory that their blocks are of; they may have got another.

    Args:
        where: how errors name the state.
        key: which moment.
        entries: the state of one parameter, with codes of this moment that are no DTensor.

    Raises:
        ValueError: if they are codes of another step than the state.
    """
    codes: Tensor = entries[key]
    blocks = entries.get(blocks_of(key))
    if blocks is None:  # of an older version
        return codes
    if isinstance(blocks, Tensor) and not has_numbers(blocks):
        return codes
    if not isinstance(blocks, Tensor) or blocks.dtype != torch.int64 or blocks.shape != (1 + codes.dim(),):
        raise ValueError(
            f"{where}, {blocks_of(key)!r} must be a torch.int64 tensor of shape ({1 + codes.dim()},) beside 8-bit "
            f"codes, got {describe(blocks)}; take a state_dict() as the optimizer returned it"
        )
    of, *strides = blocks.tolist()
    step = check_count(f"{where}, {STEP!r}", entries[STEP])
    if of != step:
        raise ValueError(
            f"{where}, {key!r}: these 8-bit codes are of step {of}, but {STEP!r} is {step:.0f}, so not everything was "
            "loaded; load the checkpoint without allow_partial_load, into an optimizer built with the state_dtype that "
            "was saved, and for a folder that holds numbers have it hand out adamomentum.torch.decoded(state_dict)"
        )
    as_coded = torch.empty_strided(codes.shape, strides, dtype=codes.dtype, device="meta")
    if same_layout(as_coded, codes):
        return codes
    if not _is_dense(codes.shape, strides):
        raise ValueError(f"{where}, {blocks_of(key)!r} has {strides}, which are not the strides of a dense tensor")
    return torch.empty_strided(codes.shape, strides, dtype=codes.dtype, device=codes.device).copy_(codes)


def _is_dense(shape: torch.Size, strides: list[int]) -> bool:
    """Whether each element has a place of its own, with none between them."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def numbers_of(codes: Tensor, scale: Tensor, moment: Literal["m", "v"]) -> Tensor:
    """Return what codes stand for, in bfloat16 and laid out like them; of DTensors, with the exponents of this part."""
    numbers = torch.empty_like(codes, dtype=torch.bfloat16)
    local = local_part(codes)
    flat, target = in_memory_order(local, local), in_memory_order(local_part(numbers), local)
    for elements, blocks in stretches(local):
        target[elements] = unpack(flat[elements], scale[blocks], moment)
    return numbers
