"""The state of a parameter: what it holds, how it is made, and how it lies in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from adamomentum.torch.foreach import PLAIN_TENSORS
from adamomentum.torch.precision import StateDtype, empty_scales, name_of, pack, unpack
from adamomentum.torch.rounding import ROUNDING_STATE, new_state, rounds

__all__ = ["ESSENTIAL", "MOMENTS", "OWN", "complete", "laid_out_like", "same_layout", "state_dtype_for", "step_count"]

# What a state has if it has anything of this optimizer; wrappers of it may keep entries of their own there.
ESSENTIAL = ("step", "exp_avg", "exp_avg_sq")
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
# Where a state that is being loaded has, until its tensors are copied, how to copy them.
OWN = "adamomentum"

_CODED: tuple[tuple[str, Literal["m", "v"]], ...] = (("exp_avg", "m"), ("exp_avg_sq", "v"))


def step_count(count: float, device: torch.device | str) -> Tensor:
    """The entry ``step``: a 0-dim float64 tensor, since float32 stops counting at 2^24; MPS has nothing wider."""
    wide = torch.float32 if torch.device(device).type == "mps" else torch.float64
    return torch.tensor(count, dtype=wide, device=device)


def state_dtype_for(p: Tensor, requested: StateDtype) -> torch.dtype:
    """The dtype of the moments of ``p``, where ``requested`` is the option ``state_dtype``: uint8 for 8-bit codes."""
    if requested == "8bit":
        return torch.uint8
    name = name_of(requested)
    dtype: torch.dtype = getattr(torch, name) if name else torch.promote_types(p.dtype, torch.float32)
    return dtype.to_complex() if p.is_complex() else dtype


def complete(state: dict[str, Tensor], p: Tensor, group: Mapping[str, Any]) -> None:
    """Make what the state of a parameter lacks for the options of its group.

    Everything that belongs together is put in at once, so that an interrupt leaves no half of it.

    Args:
        state: what there is, perhaps nothing.
        p: the parameter.
        group: its parameter group.
    """
    made: dict[str, Tensor] = {}
    count_on = p.device if group["capturable"] else "cpu"  # on the CPU the host reads it without waiting for the device
    if "exp_avg" not in state:
        dtype = state_dtype_for(p, group["state_dtype"])
        if dtype == torch.uint8:
            made["exp_avg_scale"], made["exp_avg_sq_scale"] = empty_scales(p, "m"), empty_scales(p, "v")
        made["step"] = step_count(0.0, count_on)
        made["exp_avg"], made["exp_avg_sq"] = _zeros(p, dtype), _zeros(p, dtype)
    elif group["capturable"] and state["step"].device != p.device:
        made["step"] = state["step"].to(p.device)
    if group["amsgrad"] and "max_exp_avg_sq" not in state:
        made["max_exp_avg_sq"] = _zeros(p, {**state, **made}["exp_avg_sq"].dtype)
    if rounds(p, group["rounding"]) and (kept := ROUNDING_STATE.get(group["rounding"])) and kept not in state:
        made[kept] = new_state(p, group["rounding"])
    state.update(made)


def _zeros(p: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have their elements in the same order in memory."""
    return a.stride() == b.stride() or all(
        size < 2 or i == j for size, i, j in zip(a.shape, a.stride(), b.stride(), strict=True)
    )


def laid_out_like(p: Tensor, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The entries of a state that must be stored anew to lie in memory as their parameter does.

    The kernels take a parameter and its moments only then. The two come apart when a state that was saved in one memory
    format is loaded into a model in another, or when the model is converted after the first step.

    Args:
        p: the parameter.
        state: complete.

    Returns:
        Those entries, stored anew: nothing where all is well. Codes are decoded and coded again, as their blocks are
        made of what is together in memory.
    """
    if type(p) not in PLAIN_TENSORS:
        return {}
    # Not what a wrapper keeps there, which is its own.
    shaped = {key: state[key] for key in (*MOMENTS, *ROUNDING_STATE.values()) if key in state and p.dim() > 1}
    if all(same_layout(t, p) for t in shaped.values()):
        return {}
    model = torch.empty_like(p, device="meta")  # laid out as what is made for this parameter; dense where it is not
    stored: dict[str, Tensor] = {}
    for key, t in shaped.items():
        if not same_layout(t, model):
            stored[key] = torch.empty_strided(p.shape, model.stride(), dtype=t.dtype, device=t.device)
            if t.dtype != torch.uint8:
                stored[key].copy_(t)
    for key, moment in _CODED:
        if key in stored and stored[key].dtype == torch.uint8:
            values = unpack(state[key], state[f"{key}_scale"], moment)
            stored[f"{key}_scale"] = torch.empty_like(state[f"{key}_scale"])
            pack(values, stored[key], stored[f"{key}_scale"], moment, state["step"].item())
    return stored
