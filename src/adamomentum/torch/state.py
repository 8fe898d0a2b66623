"""The state of a parameter: its keys and dtypes, how it is made, and how it lies in memory.

No other file of the optimizer spells the keys, but for ``native/batch.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from adamomentum.torch.precision import StateDtype, empty_scales, formats_of, pack, unpack
from adamomentum.torch.rounding import new_kept, rounds

__all__ = [
    "BLOCKS",
    "CODED",
    "COUNTS",
    "ESSENTIAL",
    "EXP_AVG",
    "EXP_AVG_SCALE",
    "EXP_AVG_SQ",
    "EXP_AVG_SQ_SCALE",
    "MAX_EXP_AVG_SQ",
    "MIXED_DTYPES",
    "MIXED_NAMES",
    "MOMENTS",
    "NORM",
    "OWN",
    "PASSES",
    "PASSES_BETA1",
    "PLAIN_TENSORS",
    "ROUNDING_STATE",
    "SCALES",
    "SHAPED",
    "STATE_DTYPES",
    "STATE_DTYPE_NAMES",
    "STEP",
    "Row",
    "blocks_of",
    "by_passes",
    "complete",
    "laid_out_like",
    "norm_average",
    "pass_count",
    "passes_of",
    "same_layout",
    "scale_of",
    "set_passes",
    "state_dtype_for",
    "step_count",
]

STEP = "step"
# The moments, shaped like the parameter.
EXP_AVG, EXP_AVG_SQ, MAX_EXP_AVG_SQ = MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
# Those that may be stored in 8-bit codes, with their letters in precision.py; the exponents of their blocks.
CODED: tuple[tuple[str, Literal["m", "v"]], ...] = ((EXP_AVG, "m"), (EXP_AVG_SQ, "v"))
EXP_AVG_SCALE, EXP_AVG_SQ_SCALE = SCALES = ("exp_avg_scale", "exp_avg_sq_scale")  # as scale_of() makes them
# In state dicts alone, beside codes of plain tensors: of what their blocks are (decoding.py).
BLOCKS = ("exp_avg_blocks", "exp_avg_sq_blocks")  # as blocks_of() makes them
# What the option rounding keeps of the parameter, shaped like it too.
ROUNDING_STATE = {"kahan": "compensation", "master": "master"}
SHAPED = (*MOMENTS, *ROUNDING_STATE.values())
# Under gradient release: in the state, a 0-dim float32 tensor on the CPU, how many backward passes gave the parameter a
# gradient that is in the moments and not yet in the parameter; in a parameter group, how many there were.
PASSES = "accumulated"
# In a parameter group, the beta1 that went into those gradients; absent while there are none.
PASSES_BETA1 = "accumulated_beta1"

# Under gradient release with clipping that adapts: the running average of the norms of the gradient, clipped, and the
# number of those norms, as a tensor of two. It lies on the device of the parameter.
NORM = "grad_norm"

# What a state has if it has anything of this optimizer; wrappers of it may keep entries of their own there.
ESSENTIAL = (STEP, EXP_AVG, EXP_AVG_SQ)
# What is not shaped like the parameter, whatever shape that is.
COUNTS = (STEP, PASSES, NORM)
# Where a state that is being loaded has, until its tensors are copied, how to copy them.
OWN = "adamomentum"

# The dtypes of moments without the option state_dtype, and the names that it takes.
STATE_DTYPES = (torch.float32, torch.float64)
STATE_DTYPE_NAMES = ("float32", "float64", "bfloat16", "8bit")
# Those of which one moment may have one and the other another, and how they are stored.
MIXED_NAMES = ("float32", "bfloat16", "8bit")
MIXED_DTYPES = (torch.float32, torch.bfloat16, torch.uint8)

# Tensors that are no more than they seem: subclasses such as DTensor promise neither foreach kernels nor views.
PLAIN_TENSORS = (Tensor, torch.nn.Parameter)

# A parameter, its gradient and its state.
Row = tuple[Tensor, Tensor, dict[str, Tensor]]


def scale_of(key: str) -> str:
    """Return the key of the exponents that go with a moment's codes."""
    return f"{key}_scale"


def blocks_of(key: str) -> str:
    """Return the key of what a state dict says of the blocks of a moment's codes."""
    return f"{key}_blocks"


def passes_of(state: Mapping[Tensor, Mapping[str, Tensor]], p: Tensor) -> int:
    """Return how many passes have a gradient of a parameter in its first moment and not yet in itself."""
    count = state[p].get(PASSES) if p in state else None
    return 0 if count is None else int(count)


def by_passes(state: Mapping[Tensor, Mapping[str, Tensor]], params: list[Tensor]) -> dict[int, list[int]]:
    """Return the places of parameters by how many passes they have a gradient of, with the one that comes now."""
    places: dict[int, list[int]] = {}
    for i, p in enumerate(params):
        places.setdefault(passes_of(state, p) + 1, []).append(i)
    return places


def set_passes(optimizer: Optimizer, count: int) -> None:
    """Say in the groups how many passes are in first moments and not yet in parameters; in the state too where none."""
    for group in optimizer.param_groups:
        group[PASSES] = count
    counts = [state[PASSES] for state in optimizer.state.values() if PASSES in state] if count == 0 else []
    if counts:
        torch._foreach_zero_(counts)


def step_count(count: float, device: torch.device | str) -> Tensor:
    """Return the entry :data:`STEP`: 0-dim float64, since float32 stops counting at 2^24; MPS has nothing wider."""
    wide = torch.float32 if torch.device(device).type == "mps" else torch.float64
    return torch.tensor(count, dtype=wide, device=device)


def pass_count(count: float = 0.0) -> Tensor:
    """Return the entry :data:`PASSES` of a state."""
    return torch.tensor(count, dtype=torch.float32, device="cpu")


def norm_average(p: Tensor, saved: Tensor | None = None) -> Tensor:
    """Return the entry :data:`NORM` of a state, in float64 where the device has that."""
    wide = torch.float32 if p.device.type == "mps" else torch.float64
    return torch.zeros(2, dtype=wide, device=p.device) if saved is None else saved.to(p.device, wide, copy=True)


def state_dtype_for(p: Tensor, requested: StateDtype, key: str) -> torch.dtype:
    """Return the dtype of a moment of ``p``, with ``requested`` as ``state_dtype``: uint8 for 8-bit codes."""
    name = formats_of(requested)[key != EXP_AVG]
    if name == "8bit":
        return torch.uint8
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
    new: dict[str, Tensor] = {}
    count_on = p.device if group["capturable"] else "cpu"  # on the CPU the host reads it without waiting for the device
    if EXP_AVG not in state:
        new[STEP] = step_count(0.0, count_on)
        for key, moment in CODED:
            new[key] = _zeros(p, state_dtype_for(p, group["state_dtype"], key))
            if new[key].dtype == torch.uint8:
                new[scale_of(key)] = empty_scales(p, moment)
    elif group["capturable"] and state[STEP].device != p.device:
        new[STEP] = state[STEP].to(p.device)
    if group["amsgrad"] and MAX_EXP_AVG_SQ not in state:
        new[MAX_EXP_AVG_SQ] = _zeros(p, {**state, **new}[EXP_AVG_SQ].dtype)
    if rounds(p, group["rounding"]) and (kept := ROUNDING_STATE.get(group["rounding"])) and kept not in state:
        new[kept] = new_kept(p, group["rounding"])
    state.update(new)


def _zeros(p: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have their elements in the same order in memory."""
    return a.stride() == b.stride() or all(
        size < 2 or i == j for size, i, j in zip(a.shape, a.stride(), b.stride(), strict=True)
    )


def laid_out_like(p: Tensor, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the entries of a state that must be stored anew to lie in memory as their parameter does.

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
    shaped = {key: state[key] for key in SHAPED if key in state and p.dim() > 1}
    if all(same_layout(t, p) for t in shaped.values()):
        return {}
    model = torch.empty_like(p, device="meta")  # laid out as what is made for this parameter; dense where it is not
    stored: dict[str, Tensor] = {}
    for key, t in shaped.items():
        if not same_layout(t, model):
            stored[key] = torch.empty_strided(p.shape, model.stride(), dtype=t.dtype, device=t.device)
            if t.dtype != torch.uint8:
                stored[key].copy_(t)
    for key, moment in CODED:
        if key in stored and stored[key].dtype == torch.uint8:
            scale = scale_of(key)
            values = unpack(state[key], state[scale], moment)
            stored[scale] = torch.empty_like(state[scale])
            pack(values, stored[key], stored[scale], moment, state[STEP].item())
    return stored
