"""What :meth:`AdaMomentum.load_state_dict` does beyond its base class: check everything first, and keep dtypes.

Tested in tests/torch/test_state.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from adamomentum.torch.checks import check_count, check_options, describe, has_numbers
from adamomentum.torch.decoding import laid_out_as_coded, numbers_of
from adamomentum.torch.pieces import stretches
from adamomentum.torch.precision import (
    TOP_CODE,
    block_count,
    can_go_together,
    empty_scales,
    formats_of,
    in_memory_order,
    is_reduced,
    local_part,
    pack,
    reaches_beyond_zero,
    unpack,
)
from adamomentum.torch.sharded import first_element, is_dtensor, placed_like
from adamomentum.torch.state import (
    BLOCKS,
    CODED,
    ESSENTIAL,
    EXP_AVG,
    MAX_EXP_AVG_SQ,
    MOMENTS,
    NORM,
    OWN,
    PASSES,
    SCALES,
    SHAPED,
    STATE_DTYPES,
    STEP,
    blocks_of,
    laid_out_like,
    norm_average,
    pass_count,
    scale_of,
    state_dtype_for,
    step_count,
)

__all__ = ["Hidden", "by_identifier", "checked_and_hidden"]


class Hidden:
    """Carries a state through ``Optimizer.load_state_dict``, which would cast its tensors to the parameter's dtype.

    The copies are made at the end, when the state that they replace is gone: so no more than one parameter's is there
    twice.
    """

    def __init__(self, make: Callable[[], dict[str, Tensor]]) -> None:
        self.make = make


def checked_and_hidden(defaults: dict[str, Any], optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Check a state dict against the optimizer; the dict passed in stays as it is.

    Args:
        defaults: the values of options that the dict lacks because it was written by an older version.
        optimizer: the optimizer that is to load it.
        state_dict: what ``state_dict()`` returned.

    Returns:
        The dict for ``Optimizer.load_state_dict``.

    Raises:
        ValueError, TypeError: if it is not a state dict of an AdaMomentum with such parameters.
    """
    if not {"state", "param_groups"} <= state_dict.keys():
        inside = [key for key, value in state_dict.items() if isinstance(value, Mapping) and "param_groups" in value]
        remedy = f"; pass its entry {inside[0]!r}" if inside else ""
        raise ValueError(f"state_dict must have the keys 'state' and 'param_groups', got {sorted(state_dict)}{remedy}")
    for i, group in enumerate(state_dict["param_groups"]):
        if "full_bias_correction" not in group:
            raise ValueError(
                f"state_dict: parameter group {i} has no 'full_bias_correction', so it was not written by "
                "AdaMomentum; use adamomentum.torch.from_adam for the state of Adam or AdamW, from_adam3 for that of "
                "the authors' AdaM3"
            )
    groups = [{**defaults, **group} for group in state_dict["param_groups"]]
    for group in groups:
        check_options(group)
    _order_by_name(groups, optimizer.param_groups)
    saved = [(i, group) for group in groups for i in group["params"]]
    params = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
    if len(saved) != len(params):
        raise ValueError(
            f"state_dict: it holds {_parameters(len(saved))}, this optimizer {len(params)}; build the optimizer with "
            "the same ones before loading"
        )
    states = by_identifier(state_dict["state"], [i for i, _ in saved])
    hidden = dict(states)
    for (i, group), p in zip(saved, params, strict=True):
        if states.get(i):
            hidden[i] = _hidden(f"state_dict: state {i}", states[i], p, group)
    _check_not_all_zero([states[i] for i, _ in saved if states.get(i)])
    return {**state_dict, "param_groups": groups, "state": hidden}


def by_identifier(state: Mapping[Any, Any], identifiers: list[Any]) -> dict[Any, Any]:
    """Return the states under the identifiers that the groups have for their parameters.

    Keys of files are text: ``torch.distributed.checkpoint`` makes "0" of 0, while lists keep their numbers.

    Raises:
        ValueError: if a state is that of no parameter.
    """
    own = set(identifiers)
    by_text = {str(i): i for i in identifiers}
    result = dict(state)
    for key in state:
        if key in own:
            continue
        i = by_text.get(str(key))
        if i is not None and i not in state:
            result[i] = result.pop(key)
        elif isinstance(state[key], Mapping) and {STEP, EXP_AVG} <= state[key].keys():
            raise ValueError(
                f"state_dict: state {key!r} is of no parameter: the groups have {identifiers[:4]}"
                f"{' and more' * (len(identifiers) > 4)}; save and load what get_optimizer_state_dict and "
                "set_optimizer_state_dict of torch.distributed.checkpoint.state_dict make, which has names"
            )
    return result


def _check_not_all_zero(states: list[Mapping[str, Any]]) -> None:
    """Refuse codes that nothing says the step of, if one moment of all parameters is 0 after steps.

    That is what becomes of room for codes that was made before training and filled with numbers.

    Raises:
        ValueError: if it is so.
    """
    for key, moment in CODED:
        scales = [
            state[scale_of(key)]
            for state in states
            if isinstance(state[key], Tensor) and state[key].dtype == torch.uint8 and not is_dtensor(state[key])
            if blocks_of(key) not in state and has_numbers(state[scale_of(key)]) and state[STEP]
        ]
        if scales and not any(reaches_beyond_zero(scale, moment) for scale in scales):
            raise ValueError(
                f"state_dict: {key!r} is 0 in every state, which after steps it is not: a loader that fills state in "
                "place had no codes for it; load the checkpoint without allow_partial_load, into an optimizer built "
                "with the state_dtype that was saved"
            )


def _parameters(count: int) -> str:
    return f"{count} parameter{'s' * (count != 1)}"


def _order_by_name(saved: list[dict[str, Any]], own: list[dict[str, Any]]) -> None:
    """Put the parameters of saved groups in the order of this optimizer's, where both have names that say it.

    Without names, or where a parameter was renamed, its place stands for it, as for any torch optimizer.

    Raises:
        ValueError: if names say that parameters changed places, but not how.
    """
    places = {name: (i, j) for i, group in enumerate(own) for j, name in enumerate(group.get("param_names", ()))}
    for i, group in enumerate(saved):
        names, mine = group.get("param_names", ()), own[i].get("param_names", ()) if i < len(own) else ()
        moved = [name for j, name in enumerate(names) if places.get(name, (i, j)) != (i, j)]
        if moved:
            if set(names) != set(mine):
                raise ValueError(
                    f"state_dict: the parameter named {moved[0]!r} is at another place in this optimizer's groups, and "
                    f"not all names of group {i} are in both; build the optimizer with the same parameters in the same "
                    "groups, or without names to go by order alone"
                )
            group["params"] = [group["params"][names.index(name)] for name in mine]
        if mine and len(names) == len(mine):
            group["param_names"] = list(mine)


def _hidden(where: str, entries: Any, p: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked state of one parameter, not copied yet; entries that are not ours stay as they are."""
    missing = {*ESSENTIAL} - (entries.keys() if isinstance(entries, Mapping) else set())
    if missing:
        raise ValueError(f"{where} lacks {sorted(missing)}")
    count = check_count(f"{where}, {STEP!r}", entries[STEP])
    own: dict[str, Any] = {STEP: count}
    if PASSES in entries:
        own[PASSES] = check_count(f"{where}, {PASSES!r}", entries[PASSES])
    if NORM in entries:
        own[NORM] = _checked_norm(f"{where}, {NORM!r}", entries[NORM])
    for key in SHAPED:
        if key in entries:
            own[key] = _checked_moment(f"{where}, {key!r}", entries[key], p)
            if own[key].dtype == torch.uint8:
                own[scale_of(key)] = _checked_scale(where, scale_of(key), entries, p)
                own[key] = _checked_codes(where, key, {**entries, key: own[key]})
    for (key, moment), name in zip(CODED, formats_of(group["state_dtype"]), strict=True):
        if name == "8bit" and own[key].dtype != torch.uint8 and _look_like_codes(own[key], moment):
            raise ValueError(
                f"{where}, {key!r} looks like 8-bit codes that were cast to {own[key].dtype}: loaders that fill the "
                "existing state in place, as torch.distributed.checkpoint does, need "
                + (
                    "decoded moments for shards: save adamomentum.torch.decoded(state_dict), or load the whole file "
                    "that torch.distributed.checkpoint.format_utils.dcp_to_torch_save makes of a folder"
                    if is_dtensor(p)
                    else f"an optimizer built with state_dtype={group['state_dtype']!r}"
                )
            )
    # Exponents go with codes; those that a loader found no place for are not of these numbers.
    kept = {key: value for key, value in entries.items() if key not in (*own, *SCALES, *BLOCKS)}
    # No scales yet: codes may become something else.
    names = dict.fromkeys(key for key in own if key not in SCALES)
    return {**kept, **names, OWN: Hidden(partial(_copied, own, p, group))}


def _copied(own: Mapping[str, Any], p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return copies of checked entries, in the dtype, on the device and in the memory layout that they are to have."""
    count = own[STEP]
    own = _placed(own, p)
    copies = {STEP: step_count(count, p.device if group["capturable"] else "cpu")}
    if PASSES in own:
        copies[PASSES] = pass_count(own[PASSES])
    if NORM in own:
        copies[NORM] = norm_average(p, own[NORM])
    for key in SHAPED:
        if key in own:
            copies.update(_copied_tensor(key, own, p, group))
    return {**copies, **laid_out_like(p, copies)}


def _copied_tensor(key: str, own: Mapping[str, Any], p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a copy of one checked tensor, in the format that it is to have, and the exponents of codes."""
    option = group["state_dtype"]
    copy: Tensor = own[key].detach().to(p.device, copy=True)
    scale: Tensor | None = own[scale_of(key)].detach().to(p.device, copy=True) if copy.dtype == torch.uint8 else None
    as_saved = {key: copy} if scale is None else {key: copy, scale_of(key): scale}
    if key not in MOMENTS:
        return as_saved
    wanted = state_dtype_for(p, None if key == MAX_EXP_AVG_SQ and is_reduced(option) else option, key)
    if copy.dtype == wanted or (scale is not None and option is None):
        return as_saved
    # Half precision without the option was not ours: this optimizer computes in float32 at least.
    if copy.dtype in (*STATE_DTYPES, torch.complex64, torch.complex128) and not is_reduced(option):
        return as_saved
    which = dict(CODED).get(key, "v")
    if scale is not None:
        copy = unpack(copy, scale, which)
    if not is_reduced(wanted):
        return {key: copy.to(wanted)}
    stored = torch.empty_like(p, dtype=wanted)  # blocks follow the parameter's memory
    scale = empty_scales(p, which) if wanted == torch.uint8 else None
    target, begin = local_part(stored), first_element(p)
    flat, numbers = in_memory_order(target, target), in_memory_order(local_part(copy), target)
    for elements, blocks in stretches(target):
        exponents = None if scale is None else scale[blocks]
        pack(numbers[elements].float(), flat[elements], exponents, which, own[STEP], begin + elements.start)
    return {key: stored} if scale is None else {key: stored, scale_of(key): scale}


def _checked_moment(where: str, value: Any, p: Tensor) -> Tensor:
    """Return a saved tensor that goes with its parameter, element by element; perhaps of codes."""
    kind = "complex" if p.is_complex() else "real floating-point"
    if is_dtensor(value) and not is_dtensor(p):
        raise ValueError(
            f"{where} must not be a DTensor for a parameter that is none; load what its full_tensor() returns"
        )
    codes = isinstance(value, Tensor) and value.dtype == torch.uint8 and not p.is_complex()
    if (
        not isinstance(value, Tensor)
        or value.shape != p.shape
        or value.layout != torch.strided
        or not (codes or (value.is_complex() if p.is_complex() else value.is_floating_point()))
    ):
        raise ValueError(f"{where} must be a dense {kind} tensor of shape {tuple(p.shape)}, got {describe(value)}")
    return value


def _checked_codes(where: str, key: str, entries: Mapping[str, Any]) -> Tensor:
    """Return saved codes in the order of memory that their exponents are for."""
    codes: Tensor = entries[key]
    if is_dtensor(codes):
        return codes
    codes, scale, which = laid_out_as_coded(where, key, entries), entries[scale_of(key)], dict(CODED)[key]
    flat = in_memory_order(codes, codes)
    for elements, blocks in stretches(codes) if has_numbers(codes) and has_numbers(scale) else ():
        if not can_go_together(flat[elements], scale[blocks].to(codes.device), which):
            raise ValueError(
                f"{where}, {key!r}: these 8-bit codes are not those of {scale_of(key)!r}: in some block of 256 none "
                "reaches its exponent; load both from one checkpoint, into an optimizer with the state_dtype saved"
            )
    return codes


def _checked_norm(where: str, value: Any) -> Tensor:
    """Return the saved running average of a gradient's norm."""
    fits = isinstance(value, Tensor) and value.shape == (2,) and value.is_floating_point()
    if not fits or not (value.is_meta or (value >= 0).all()):
        raise ValueError(f"{where} must be a tensor of two numbers >= 0, got {value!r}")
    average: Tensor = value.detach()
    return average


def _placed(own: Mapping[str, Any], p: Tensor) -> Mapping[str, Any]:
    """Return checked entries as DTensors where ``p`` is one, and their codes decoded: its blocks are others."""
    if not is_dtensor(p):
        return own
    placed: dict[str, Any] = {key: value for key, value in own.items() if key not in SCALES}
    for key in SHAPED:
        if key in own:
            whole = own[key].detach()
            if whole.dtype == torch.uint8:  # in blocks of the whole: each process decodes it all, and keeps its part
                whole = whole.full_tensor() if is_dtensor(whole) else whole
                whole = numbers_of(whole, own[scale_of(key)].to(whole.device), dict(CODED)[key])
            placed[key] = placed_like(p, whole)
    return placed


def _look_like_codes(moment: Tensor, which: Literal["m", "v"]) -> bool:
    """Whether these numbers can be codes: whole ones, of which the largest of a block stands for its largest number."""
    whole = ((moment >= 0) & (moment <= 255) & (moment == moment.round())).all()
    magnitude, top = (moment.remainder(128) if which == "m" else moment), TOP_CODE[which]
    return bool(whole) and bool((magnitude >= top).any())


def _checked_scale(where: str, key: str, entries: Mapping[str, Any], p: Tensor) -> Tensor:
    """Return the saved exponents of a moment's codes."""
    value, blocks = entries.get(key), block_count(p.numel())
    if not isinstance(value, Tensor) or value.dtype != torch.uint8 or value.shape != (blocks,):
        raise ValueError(
            f"{where}, {key!r} must be a torch.uint8 tensor of shape ({blocks},) beside 8-bit codes, got "
            f"{describe(value)}"
        )
    return value
