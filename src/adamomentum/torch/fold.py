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


def fold(rows: list[Row], weight: Scalar, *, native: bool, factors: list[Scalar] | None = None) -> None:
    """Add ``weight`` times the gradient to the first moment of each parameter, and count the pass.

    Args:
        rows: parameter, gradient and complete state of each.
        weight: what gradients are multiplied by.
        native: whether the native kernels may do it; what they cannot take goes by torch's operations.
        factors: what each gradient is multiplied by besides.
    """
    batch = fused_cpu.new_batch() if native else None
    passes: list[int] = []
    scales: list[float] = []
    alike: list[Row] = []
    rest: list[tuple[Row, Scalar]] = []
    for row, factor in zip(rows, [1.0] * len(rows) if factors is None else factors, strict=True):
        p, grad, state = row
        dtype = state[EXP_AVG].dtype
        # Where nothing is converted torch's own loop is the faster one.
        plain = dtype == grad.dtype and dtype in STATE_DTYPES and type(p) in PLAIN_TENSORS
        if plain and not isinstance(factor, Tensor) and factor == 1 and not isinstance(weight, Tensor):
            alike.append(row)
        elif not plain and batch is not None and fused_cpu.add(batch, *row, amsgrad=False):
            passes.append(_number(row))
            scales.append(float(factor))
        else:
            rest.append((row, factor))
    if batch is not None and passes:
        batch.scale(scales)
        fused_cpu.fold(batch, float(weight), passes)
    if alike:
        moments, grads = [state[EXP_AVG] for *_, state in alike], [grad for _, grad, _ in alike]
        torch._foreach_add_(moments, grads, alpha=float(weight))
    for row, factor in rest:
        _, grad, state = row
        moment = state[EXP_AVG]
        own = _product(weight, factor)
        if is_reduced(moment.dtype):
            _fold_packed(row, own)
        elif isinstance(own, Tensor):
            moment.add_(grad.to(moment.dtype) * own.to(moment.device))
        else:
            moment.add_(grad, alpha=own)
    for _, _, state in rows:
        if PASSES not in state:  # one that was saved without release
            state[PASSES] = pass_count()
    torch._foreach_add_([state[PASSES] for _, _, state in rows], torch.tensor(1.0, device="cpu"), alpha=1.0)


def _product(weight: Scalar, factor: Scalar) -> Scalar:
    """Return the product of two numbers, on the device of the second where both are tensors."""
    return (weight.to(factor.device) if isinstance(weight, Tensor) and isinstance(factor, Tensor) else weight) * factor


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
