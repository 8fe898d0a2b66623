"""What the optimizer's state says about a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# How eps enters the denominator. AdaMomentum and EAdam add it into v at every step, so that it grows to
# eps / (1 - beta2) below the root; Adam adds it to the root.
_INSIDE = ("AdaMomentum", "EAdam")
_OUTSIDE = ("Adam", "AdamW", "RAdam")


def diagnostics(optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, float | None]:
    """Returns ``eps_dominated``: the share of coordinates whose denominator is mostly eps, where it is defined.

    In those coordinates the update is no longer adaptive: it is a momentum step of size lr / floor.
    """
    dominated = total = 0
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        if kind not in _INSIDE + _OUTSIDE:
            return {}
        for group in optimizer.param_groups:
            beta2, eps = float(group["betas"][1]), float(group["eps"])
            for p in group["params"]:
                state = optimizer.state.get(p, {})
                if "exp_avg_sq" not in state or state["exp_avg_sq"].dtype.itemsize == 1:
                    continue  # no step yet, or an 8-bit state that would have to be decoded
                v = state["exp_avg_sq"].float() / (1 - beta2 ** float(state["step"]))
                dominated += int((v < (eps / (1 - beta2) if kind in _INSIDE else eps * eps)).sum())
                total += v.numel()
    return {"eps_dominated": dominated / total} if total else {}
