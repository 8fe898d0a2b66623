"""The gradient of a backward pass that is not the last of its step goes into the first moment, and nowhere else.

    exp_avg <- exp_avg + weight * g

In float32 and wider that is exact: it is the sum that ``p.grad`` would hold. In bfloat16 and 8 bits the sum is rounded
stochastically after every pass, so that it is right on average. The random bits are a function of position, step count
and number of the pass alone, and have nothing to do with those of the last pass: a run repeats, and goes on bit for bit
from a checkpoint between two passes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adamomentum.torch import fused_cpu
from adamomentum.torch.pieces import pieces
from adamomentum.torch.precision import is_reduced, pack, unpack
from adamomentum.torch.rule import Scalar
from adamomentum.torch.state import EXP_AVG, EXP_AVG_SCALE, PASSES, PLAIN_TENSORS, STATE_DTYPES, STEP, Row, pass_count

__all__ = ["fold"]


def fold(rows: list[Row], weight: Scalar, *, native: bool) -> None:
    """Add ``weight`` times the gradient to the first moment of each parameter, and count the pass.

    Args:
        rows: parameter, gradient and complete state of each.
        weight: what gradients are multiplied by.
        native: whether the native kernels may do it; what they cannot take goes by torch's operations.
    """
    batch = fused_cpu.new_batch() if native else None
    passes: list[int] = []
    alike: list[Row] = []
    rest: list[Row] = []
    for row in rows:
        p, grad, state = row
        dtype = state[EXP_AVG].dtype
        if dtype == grad.dtype and dtype in STATE_DTYPES and type(p) in PLAIN_TENSORS:
            alike.append(row)  # nothing is converted: torch's own loop is the faster one
        elif batch is not None and fused_cpu.add(batch, *row, amsgrad=False):
            passes.append(_number(row))
        else:
            rest.append(row)
    if batch is not None and passes:
        fused_cpu.fold(batch, float(weight), passes)
    if alike and not isinstance(weight, Tensor):
        torch._foreach_add_([state[EXP_AVG] for *_, state in alike], [grad for _, grad, _ in alike], alpha=weight)
    else:
        rest += alike
    for row in rest:
        _, grad, state = row
        moment = state[EXP_AVG]
        if is_reduced(moment.dtype):
            _fold_packed(row, weight)
        elif isinstance(weight, Tensor):
            moment.add_(grad.to(moment.dtype) * weight.to(moment.device))
        else:
            moment.add_(grad, alpha=weight)
    for _, _, state in rows:
        if PASSES not in state:  # one that was saved without release
            state[PASSES] = pass_count()
    torch._foreach_add_([state[PASSES] for _, _, state in rows], torch.tensor(1.0, device="cpu"), alpha=1.0)


def _number(row: Row) -> int:
    """Return the number of the pass within the step, from 1, that the gradient is of."""
    passes = row[2].get(PASSES)
    return 1 if passes is None else int(passes) + 1


def _fold_packed(row: Row, weight: Scalar) -> None:
    """Fold into a first moment of which a float32 copy is made first."""
    count = row[2][STEP]
    step = count.item() + 1 if count.is_cpu else count + 1  # of another device's the host waits for nothing
    for first, (_, grad, state) in pieces(*row):
        stored, scale = state[EXP_AVG], state.get(EXP_AVG_SCALE)
        values = unpack(stored, scale, "m")
        values.add_(grad.to(torch.float32) * (weight.to(values) if isinstance(weight, Tensor) else weight))
        pack(values, stored, scale, "m", step, first, _number(row))
