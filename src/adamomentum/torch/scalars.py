"""The numbers of a step: everything the update multiplies by or adds, from the options and the step count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adamomentum.reference import rectification
from adamomentum.torch.rounding import Rounding

__all__ = [
    "Numbers",
    "Rule",
    "Scalar",
    "as_real",
    "l2_of",
    "numbers_at",
    "numbers_matrix",
    "numbers_on_device",
    "numbers_on_host",
    "with_floats",
]

# A float, or a 0-dim tensor.
Scalar = float | Tensor

# The dtype of the numbers beside moments that are stored in another one: that of the arithmetic.
_REAL = {
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
    torch.bfloat16: torch.float32,
    torch.uint8: torch.float32,
}


class Rule(NamedTuple):
    """The options that shape the update, as :func:`adamomentum.torch.functional.adamomentum` explains them."""

    lr: Scalar
    beta1: Scalar
    beta2: Scalar
    eps: float
    weight_decay: float
    amsgrad: bool
    decoupled_weight_decay: bool
    fixed_decay: bool
    rectify: bool
    full_bias_correction: bool
    grad_factor: Scalar  # of every gradient: -1 to maximize, times loss scale and clipping
    differentiable: bool
    rounding: Rounding = "nearest"


class Numbers(NamedTuple):
    """The numbers of one parameter's step: floats, or 0-dim tensors on its device."""

    m_weight: Scalar  # 1 - beta1
    beta2: Scalar
    v_weight: Scalar  # 1 - beta2, divided by c1^2 under full bias correction
    accumulated_eps: Scalar
    shrink: Scalar  # what decoupled decay multiplies the parameter by
    factor: Scalar  # of m / sqrt(v + accumulated eps), or of m alone where not `adapt`, in the update: negative
    adapt: bool | Tensor  # False while rectification finds the variance intractable


def with_floats(rule: Rule, *, keep_tensors: bool = False) -> Rule:
    """The same rule with numbers of any kind as floats, but for tensors if they are to be kept."""

    def number(x: Scalar) -> Scalar:
        return x if keep_tensors and isinstance(x, Tensor) else float(x)

    return rule._replace(
        lr=number(rule.lr),
        beta1=number(rule.beta1),
        beta2=number(rule.beta2),
        grad_factor=number(rule.grad_factor),
    )


def l2_of(rule: Rule) -> float:
    """What the gradient gets of the parameter: the weight decay where it is not decoupled."""
    return 0.0 if rule.decoupled_weight_decay else rule.weight_decay


def as_real(t: Tensor) -> Tensor:
    """Real and imaginary part of a complex tensor as two real ones, in a last dimension of a view."""
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def numbers_at(t: Scalar, rule: Rule) -> Numbers:
    """The numbers of step t, counted from 1: floats if t is one, tensors of t's shape if t is one.

    What does not depend on t keeps the kind of the option that it comes from.
    """
    lr, beta1, beta2 = rule.lr, rule.beta1, rule.beta2
    correction1 = 1 - beta1**t
    correction2 = 1 - beta2**t

    step_size = lr * correction2**0.5 / correction1
    adapt: bool | Tensor = True
    if rule.rectify and isinstance(t, Tensor):
        r, adapt = _rectification_on_device(t, beta2)
        step_size = torch.where(adapt, r * step_size, lr / correction1)
    elif rule.rectify:
        known = rectification(int(t), float(beta2))
        adapt = known is not None
        step_size = lr / correction1 if known is None else known * step_size

    shrink: Scalar = 1 - lr * rule.weight_decay
    if not rule.decoupled_weight_decay:
        shrink = 1.0
    elif rule.fixed_decay:  # a step of lr 0 moves nothing
        moves = (lr != 0).to(lr.dtype) if isinstance(lr, Tensor) else float(lr != 0)
        shrink = 1 - rule.weight_decay * moves

    return Numbers(
        m_weight=1 - beta1,
        beta2=beta2,
        v_weight=(1 - beta2) / correction1**2 if rule.full_bias_correction else 1 - beta2,
        accumulated_eps=rule.eps * correction2 / (1 - beta2),
        shrink=shrink,
        factor=-step_size,
        adapt=adapt,
    )


def numbers_on_host(state_steps: list[Tensor], rule: Rule) -> list[Numbers]:
    """:func:`numbers_at` for each parameter, as floats; reads the steps.

    Args:
        state_steps: the number of steps, counting this one, of each parameter.
        rule: the options, floats.
    """
    steps = [step.item() for step in state_steps]
    at = {t: numbers_at(t, rule) for t in set(steps)}  # parameters nearly always share their step
    return [at[t] for t in steps]


def numbers_on_device(state_steps: list[Tensor], exp_avgs: list[Tensor], rule: Rule) -> list[Numbers]:
    """:func:`numbers_at` for each parameter, never read on the host.

    Args:
        state_steps: the number of steps, counting this one, of each parameter.
        exp_avgs: its first moment, whose device and precision the numbers get.
        rule: the options.

    Returns:
        The numbers of each parameter, as 0-dim tensors where they are not plain floats.
    """
    alike: dict[Any, list[int]] = defaultdict(list)
    for i, m in enumerate(exp_avgs):
        alike[(m.device, m.dtype)].append(i)
    numbers: dict[int, Numbers] = {}
    for (device, dtype), indices in alike.items():
        # One vector of steps: a handful of operations, however many parameters.
        rows = _numbers_of_vector([state_steps[i] for i in indices], device, dtype, rule)
        numbers.update(zip(indices, rows, strict=True))
    return [numbers[i] for i in range(len(exp_avgs))]


def _numbers_of_vector(
    state_steps: list[Tensor], device: torch.device, dtype: torch.dtype, rule: Rule
) -> Iterator[Numbers]:
    narrow = _REAL.get(dtype, dtype)

    def rows(x: Scalar) -> Iterable[Scalar]:
        if not isinstance(x, Tensor):
            return repeat(x, len(state_steps))
        if x.is_floating_point():
            x = x.to(narrow)
        return x.unbind() if x.dim() else repeat(x, len(state_steps))

    return map(Numbers, *map(rows, _wide_numbers(state_steps, device, rule)))


def _wide_numbers(state_steps: list[Tensor], device: torch.device, rule: Rule) -> Numbers:
    """The numbers of all steps at once: vectors, or what :func:`numbers_at` leaves floats or 0-dim tensors."""
    # 1 - beta2^t cancels: in float32 it would lose four digits at the first steps. MPS has no float64.
    wide = torch.float32 if device.type == "mps" else torch.float64

    def widen(x: Scalar) -> Scalar:
        return x.reshape(()).to(device, wide) if isinstance(x, Tensor) else x

    t = torch.stack(state_steps).to(device, wide)
    return numbers_at(t, rule._replace(lr=widen(rule.lr), beta1=widen(rule.beta1), beta2=widen(rule.beta2)))


def numbers_matrix(state_steps: list[Tensor], rule: Rule, device: torch.device) -> Tensor:
    """:func:`numbers_at` for each parameter, as the fused kernels take them.

    Steps and options that are tensors on a device are not read on the host.

    Args:
        state_steps: the number of steps, counting this one, of each parameter.
        rule: the options.
        device: where to put the numbers.

    Returns:
        float32, a row a parameter. The columns are the fields of :class:`Numbers`, but 1 - beta2 in place of beta2,
        which float32 holds more precisely.
    """

    def columns(n: Numbers) -> list[Scalar]:
        return [n.m_weight, 1 - n.beta2, n.v_weight, n.accumulated_eps, n.shrink, n.factor, n.adapt]

    options_are_floats = not any(isinstance(x, Tensor) for x in (rule.lr, rule.beta1, rule.beta2))
    if options_are_floats and all(step.is_cpu for step in state_steps):
        rows = [columns(n) for n in numbers_on_host(state_steps, rule)]
        # Pinned, since a copy from other memory would wait for the device.
        matrix = torch.tensor(rows, dtype=torch.float32, pin_memory=device.type == "cuda")
        return matrix.view(-1, 7).to(device, non_blocking=True)

    matrix = torch.empty(len(state_steps), 7, dtype=torch.float32, device=device)
    for column, x in zip(matrix.unbind(1), columns(_wide_numbers(state_steps, device, rule)), strict=True):
        if isinstance(x, Tensor):
            column.copy_(x)
        else:
            column.fill_(x)
    return matrix


def _rectification_on_device(t: Tensor, beta2: Scalar) -> tuple[Tensor, Tensor]:
    """:func:`adamomentum.reference.rectification` for a tensor t: the factor, and whether it applies."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    adapt = rho >= 5
    # Where it does not apply its value is not used; the bounds keep it, and its derivative, finite.
    rho = rho.clamp(min=5)
    rho_inf = rho_inf.clamp(min=5) if isinstance(rho_inf, Tensor) else max(rho_inf, 5.0)
    return ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5, adapt
