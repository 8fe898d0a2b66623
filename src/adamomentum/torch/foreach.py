"""The foreach path: the update rule over lists of tensors, one launch an operation instead of one a tensor.

Tested in tests/torch/test_parity.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from adamomentum.torch.rule import Numbers, Rule
from adamomentum.torch.state import PLAIN_TENSORS

__all__ = ["CHUNK_ELEMENTS", "foreach_update"]

# Tensors are worked through in chunks of about this many elements, which caps the temporary memory whatever the size
# of the model: 64 MiB on an accelerator for float32 parameters, twice that with half-precision parameters, with
# maximize or clipping and L2 decay together or with capturable, and at most four times that with float64 state or
# several of these at once. On a CPU a chunk that stays in cache is also faster.
CHUNK_ELEMENTS = {"cpu": 2**18, "default": 2**24}

_Operands = tuple[list[Tensor], Numbers]  # a parameter, its gradient and its moments; the numbers of its step


def foreach_update(columns: list[list[Tensor]], numbers: list[Numbers], rule: Rule) -> None:
    """Update lists of tensors in place.

    Args:
        columns: the lists of parameters, gradients, first moments, second moments and, with amsgrad, their maxima
            (else anything as long), all real.
        numbers: the numbers of each parameter's step.
        rule: the options.
    """
    alike: dict[Any, list[_Operands]] = defaultdict(list)
    for i, n in enumerate(numbers):
        tensors = [column[i] for column in columns]
        kind = (type(tensors[0]) in PLAIN_TENSORS, tensors[0].device, *[t.dtype for t in tensors[:3]])
        alike[kind].append((tensors, n))
    for members in alike.values():
        limit = CHUNK_ELEMENTS.get(members[0][0][0].device.type, CHUNK_ELEMENTS["default"])
        for chunk in _chunks(members, limit):
            chunk_columns = [[tensors[i] for tensors, _ in chunk] for i in range(len(columns))]
            _update_chunk(chunk_columns, [n for _, n in chunk], rule)


def _chunks(members: list[_Operands], limit: int) -> Iterator[list[_Operands]]:
    """Gather operands into lists of at most ``limit`` elements, cutting larger tensors into views."""
    if torch.compiler.is_compiling():  # the compiler plans the memory itself
        yield members
        return
    chunk: list[_Operands] = []
    room = limit
    for tensors, n in members:
        for piece in _pieces(tensors, limit):
            numel = piece[0].numel()
            if numel > room and chunk:
                yield chunk
                chunk, room = [], limit
            chunk.append((piece, n))
            room -= numel
    yield chunk


def _pieces(tensors: list[Tensor], limit: int) -> Iterator[list[Tensor]]:
    """Cut tensors of one shape along their longest dimension, into views of about ``limit`` elements."""
    first = tensors[0]
    numel = first.numel()
    if numel <= limit or type(first) not in PLAIN_TENSORS:
        yield tensors
        return
    dim = max(range(first.dim()), key=first.size)
    length = max(1, limit * first.size(dim) // numel)
    for start in range(0, first.size(dim), length):
        yield [t.narrow(dim, start, min(length, first.size(dim) - start)) for t in tensors]


def _update_chunk(columns: list[list[Tensor]], numbers: list[Numbers], rule: Rule) -> None:
    """Apply the update rule to tensors of one device and one combination of dtypes."""
    params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs = columns
    n: Any = Numbers._make(zip(*numbers, strict=True))  # each field now holds one number a tensor
    dtype = torch.promote_types(params[0].dtype, exp_avgs[0].dtype)
    thetas, grads = _to(params, dtype), _to(grads, dtype)
    if isinstance(rule.grad_factor, Tensor):
        grads = list(torch._foreach_mul(grads, rule.grad_factor.to(grads[0].device, dtype)))
    elif rule.grad_factor != 1:
        grads = list(torch._foreach_mul(grads, rule.grad_factor))
    looks_ahead = rule.lookahead or rule.nesterov
    last = grads if looks_ahead and rule.passes != 1 else []
    if rule.l2:
        grads = list(torch._foreach_add(grads, thetas, alpha=rule.l2))

    _lerp_(exp_avgs, _to(grads, exp_avgs[0].dtype), n.m_weight[0])
    lookaheads = exp_avgs
    if looks_ahead:
        aheads = list(torch._foreach_add(grads, last, alpha=rule.passes - 1)) if last else grads
        lookaheads = _to(aheads, exp_avgs[0].dtype)
        del aheads
        if lookaheads is columns[1]:  # gradients are never written
            lookaheads = list(torch._foreach_sub(lookaheads, exp_avgs))
        else:
            torch._foreach_sub_(lookaheads, exp_avgs)
        torch._foreach_mul_(lookaheads, n.m_weight[0])
        torch._foreach_add_(lookaheads, exp_avgs)
    del grads, last
    averaged = lookaheads if rule.lookahead else exp_avgs
    if rule.momentum_floor:
        floors = torch._foreach_abs(exp_avgs)
        torch._foreach_mul_(floors, rule.momentum_floor)
        averaged = list(torch._foreach_abs(averaged))
        torch._foreach_maximum_(averaged, floors)
        del floors
    torch._foreach_mul_(exp_avg_sqs, n.beta2[0])
    _addcmul_(exp_avg_sqs, averaged, averaged, n.v_weight)
    del averaged
    if not rule.nesterov:
        lookaheads = exp_avgs  # one copy less while the root is taken
    vs = torch._foreach_add(exp_avg_sqs, n.eps_sum)
    if rule.amsgrad:
        torch._foreach_maximum_(max_exp_avg_sqs, vs)
        del vs
        denoms = list(torch._foreach_sqrt(max_exp_avg_sqs))
    else:
        torch._foreach_sqrt_(vs)
        denoms = list(vs)
        del vs
    if rule.rectify:
        for i, adapt in enumerate(n.adapt):
            if isinstance(adapt, Tensor):
                denoms[i] = torch.where(adapt, denoms[i], 1.0)
            elif not adapt:
                denoms[i].fill_(1.0)
    if rule.weight_decay and rule.decoupled_weight_decay:
        torch._foreach_mul_(thetas, n.shrink)
    _addcdiv_(thetas, lookaheads, denoms, n.factor)
    if thetas is not params:
        if type(params[0]) in PLAIN_TENSORS:
            torch._foreach_copy_(params, thetas)
        else:  # DTensor has no _foreach_copy_
            for p, theta in zip(params, thetas, strict=True):
                p.copy_(theta)


def _to(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the tensors in ``dtype``; the very same list where they have it already."""
    return tensors if tensors[0].dtype == dtype else [t.to(dtype) for t in tensors]


def _lerp_(out: list[Tensor], end: list[Tensor], weight: Any) -> None:
    """``out[i] += weight * (end[i] - out[i])``, the weight a float or a 0-dim tensor."""
    if isinstance(weight, Tensor):
        difference = torch._foreach_sub(end, out)
        torch._foreach_mul_(difference, weight)
        torch._foreach_add_(out, difference)
    else:
        torch._foreach_lerp_(out, end, weight)


def _addcmul_(out: list[Tensor], a: list[Tensor], b: list[Tensor], values: Any) -> None:
    """``out[i] += values[i] * a[i] * b[i]``, the values floats or 0-dim tensors."""
    if isinstance(values[0], Tensor):
        product = torch._foreach_mul(a, b)
        torch._foreach_mul_(product, values)
        torch._foreach_add_(out, product)
    else:
        torch._foreach_addcmul_(out, a, b, values)


def _addcdiv_(out: list[Tensor], a: list[Tensor], b: list[Tensor], values: Any) -> None:
    """``out[i] += values[i] * a[i] / b[i]``, the values floats or 0-dim tensors."""
    if isinstance(values[0], Tensor):
        quotient = torch._foreach_div(a, b)
        torch._foreach_mul_(quotient, values)
        torch._foreach_add_(out, quotient)
    else:
        torch._foreach_addcdiv_(out, a, b, values)
