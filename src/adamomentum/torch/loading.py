"""What :meth:`AdaMomentum.load_state_dict` does beyond its base class: check everything first, and keep dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from adamomentum.torch.checks import STATE_DTYPES, check_options, describe

__all__ = ["Hidden", "checked_and_hidden", "state_dtype_for"]

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class Hidden:
    """Carries a tensor through ``Optimizer.load_state_dict``, which casts those it sees to the parameter's dtype."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def checked_and_hidden(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Check a state dict against the optimizer and prepare its tensors; the dict passed in stays as it is."""
    for i, group in enumerate(state_dict["param_groups"]):
        if "full_bias_correction" not in group:
            raise ValueError(
                f"state_dict: parameter group {i} has no 'full_bias_correction', so it was not written by "
                "AdaMomentum; use adamomentum.torch.checkpoints.from_adam for the state of Adam or AdamW, "
                "from_adam3 for that of the authors' AdaM3"
            )
    groups = [{**optimizer.defaults, **group} for group in state_dict["param_groups"]]
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
            state[i] = {
                key: Hidden(_loaded(f"state_dict: state {i}, {key!r}", key, value, p, group))
                if key == "step" or key in MOMENTS
                else value
                for key, value in state[i].items()
            }
            missing = {"step", "exp_avg", "exp_avg_sq"} - state[i].keys()
            if missing:
                raise ValueError(f"state_dict: state {i} lacks {sorted(missing)}")
    return {**state_dict, "param_groups": groups, "state": state}


def _loaded(where: str, key: str, value: Any, p: Tensor, group: Mapping[str, Any]) -> Tensor:
    """A copy of one saved state value, on the device and in the dtype it is to have from now on."""
    if key == "step":
        device = p.device if group["capturable"] else "cpu"
        return torch.as_tensor(value).detach().to(device, torch.float32, copy=True).reshape(())
    if not isinstance(value, Tensor) or value.shape != p.shape or value.is_complex() != p.is_complex():
        raise ValueError(
            f"{where} must be a {'complex' if p.is_complex() else 'real'} tensor of shape {tuple(p.shape)}, "
            f"like its parameter, got {describe(value)}"
        )
    # Moments saved in half precision were not ours: this optimizer computes in float32 at least.
    narrow = value.dtype not in (*STATE_DTYPES, torch.complex64, torch.complex128)
    return value.detach().to(p.device, state_dtype_for(p, None) if narrow else value.dtype, copy=True)


def state_dtype_for(p: Tensor, requested: torch.dtype | None) -> torch.dtype:
    """The dtype of the moments of ``p``, where ``requested`` is the option ``state_dtype``."""
    dtype = requested or torch.promote_types(p.dtype, torch.float32)
    return dtype.to_complex() if p.is_complex() else dtype
