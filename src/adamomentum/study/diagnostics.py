"""What the optimizer's state says about a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from adamomentum.study.spec import EpsPlacement


def _least_v(placement: EpsPlacement, eps: float, beta2: float) -> float:
    """Return the second moment below which the larger part of the denominator is eps."""
    return {"outside": eps * eps, "inside": eps, "accumulated": eps / (1 - beta2)}[placement]


def diagnostics(optimizers: Iterable[torch.optim.Optimizer], placement: EpsPlacement | None) -> dict[str, float | None]:
    """Return ``eps_dominated``: the share of coordinates whose denominator is mostly eps, where it is defined.

    In those coordinates the update is no longer adaptive: it is a momentum step of size lr / floor. Nothing is
    returned where it cannot be said: without a placement, for a state of another form, under ``amsgrad``.

    Args:
        optimizers: of a run.
        placement: where eps enters their denominators; None: that is not known.
    """
    if placement is None:
        return {}
    dominated = total = 0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if not {"betas", "eps"} <= group.keys() or group.get("amsgrad"):
                continue
            beta2, eps = float(group["betas"][1]), float(group["eps"])
            for p in group["params"]:
                state = optimizer.state.get(p, {})
                if not {"exp_avg_sq", "step"} <= state.keys() or state["exp_avg_sq"].dtype.itemsize == 1:
                    continue  # no step yet, or an 8-bit state that would have to be decoded
                v = state["exp_avg_sq"].float() / (1 - beta2 ** float(state["step"]))
                dominated += int((v < _least_v(placement, eps, beta2)).sum())
                total += v.numel()
    return {"eps_dominated": dominated / total} if total else {}
