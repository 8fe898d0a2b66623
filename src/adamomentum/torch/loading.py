"""What :meth:`AdaMomentum.load_state_dict` does beyond its base class: check everything first, and keep dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from adamomentum.torch.checks import STATE_DTYPES, check_count, check_options, describe

__all__ = ["Hidden", "checked_and_hidden", "state_dtype_for"]

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class Hidden:
    """Carries a tensor through ``Optimizer.load_state_dict``, which casts those it sees to the parameter's dtype."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def checked_and_hidden(defaults: dict[str, Any], optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Check a state dict against the optimizer and prepare its tensors; the dict passed in stays as it is.

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
        raise ValueError(f"state_dict must have the keys 'state' and 'param_groups', got {sorted(state_dict)}")
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
    saved = [(i, group) for group in groups for i in group["params"]]
    params = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
    if len(saved) != len(params):
        raise ValueError(
            f"state_dict: it holds {len(saved)} parameters, this optimizer {len(params)}; build the optimizer with "
            "the same parameters before loading"
        )
    state = dict(state_dict["state"])
    for (i, group), p in zip(saved, params, strict=True):
        if state.get(i):
            state[i] = _hidden(f"state_dict: state {i}", state[i], p, group)
    return {**state_dict, "param_groups": groups, "state": state}


def _hidden(where: str, entries: Any, p: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
    """The checked state of one parameter; entries that are not ours stay as they are."""
    missing = {"step", "exp_avg", "exp_avg_sq"} - (entries.keys() if isinstance(entries, Mapping) else set())
    if missing:
        raise ValueError(f"{where} lacks {sorted(missing)}")
    loaded = dict(entries)
    count = torch.tensor(check_count(f"{where}, 'step'", entries["step"]), dtype=torch.float32)
    loaded["step"] = Hidden(count.to(p.device if group["capturable"] else "cpu"))
    for key in (key for key in MOMENTS if key in entries):
        loaded[key] = Hidden(_moment(f"{where}, {key!r}", entries[key], p, group))
    return loaded


def _moment(where: str, value: Any, p: Tensor, group: Mapping[str, Any]) -> Tensor:
    """A copy of a saved moment, on the device and in the dtype that it is to have from now on."""
    kind = "complex" if p.is_complex() else "real floating-point"
    if (
        not isinstance(value, Tensor)
        or value.shape != p.shape
        or value.layout != torch.strided
        or not (value.is_complex() if p.is_complex() else value.is_floating_point())
    ):
        raise ValueError(f"{where} must be a dense {kind} tensor of shape {tuple(p.shape)}, got {describe(value)}")
    # Moments saved in half precision were not ours: this optimizer computes in float32 at least.
    narrow = value.dtype not in (*STATE_DTYPES, torch.complex64, torch.complex128)
    dtype = state_dtype_for(p, group["state_dtype"]) if narrow else value.dtype
    return value.detach().to(p.device, dtype, copy=True)


def state_dtype_for(p: Tensor, requested: StateDtype) -> torch.dtype:
    """The dtype of the moments of ``p``, where ``requested`` is the option ``state_dtype``: uint8 for 8-bit codes."""
    if isinstance(requested, str):
        return torch.uint8
    dtype = requested or torch.promote_types(p.dtype, torch.float32)
    return dtype.to_complex() if p.is_complex() else dtype
