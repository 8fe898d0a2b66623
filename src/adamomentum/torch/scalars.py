"""The numbers of a step: everything the update multiplies by or adds, from the options and the step count.

Tested in tests/torch/test_rule.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from adamomentum.reference import rectification
from adamomentum.reference import white_noise_mean as white_noise_mean_at
from adamomentum.second_moment import white_noise_mean
from adamomentum.torch.rule import Numbers, Rule, Scalar

__all__ = [
    "ENTRY",
    "MATRIX_COLUMNS",
    "as_real",
    "in_columns",
    "numbers_at",
    "numbers_matrix",
    "numbers_on_device",
    "numbers_on_host",
    "with_floats",
]

# The columns of numbers_matrix(): the fields of Numbers, but 1 - beta2 in place of beta2, which float32 holds more
# precisely.
MATRIX_COLUMNS = tuple("v_decay" if name == "beta2" else name for name in Numbers._fields)

# What the table of the CUDA kernel holds, an entry a tensor: numbers that it needs to find its way, and addresses, 0
# where the kind of state or rounding has no use for them. Python and native code fill it by these names.
ENTRY = (
    "numel", "start", "row", "step", "position", "param", "grad", "m", "v", "v_max", "m_scale", "v_scale", "kept",
)  # fmt: skip

# The dtype of the numbers beside moments that are stored in another one: that of the arithmetic.
_REAL = {
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
    torch.bfloat16: torch.float32,
    torch.uint8: torch.float32,
}


def with_floats(rule: Rule, *, keep_tensors: bool = False) -> Rule:
    """Return the same rule with numbers of any kind as floats, but for tensors if they are to be kept."""
    lr, beta1, beta2, grad_factor = rule.lr, rule.beta1, rule.beta2, rule.grad_factor
    return rule._replace(
        lr=lr if keep_tensors and isinstance(lr, Tensor) else float(lr),
        beta1=beta1 if keep_tensors and isinstance(beta1, Tensor) else float(beta1),
        beta2=beta2 if keep_tensors and isinstance(beta2, Tensor) else float(beta2),
        grad_factor=grad_factor if keep_tensors and isinstance(grad_factor, Tensor) else float(grad_factor),
    )


def as_real(t: Tensor) -> Tensor:
    """Real and imaginary part of a complex tensor as two real ones, in a last dimension of a view."""
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def numbers_at(t: Scalar, rule: Rule) -> Numbers:
    """Return the numbers of step t, counted from 1: floats if t is one, tensors of t's shape if t is one.

    What does not depend on t keeps the kind of the option that it comes from.
    """
    lr, beta1, beta2 = rule.lr, rule.beta1, rule.beta2
    correction1 = 1 - beta1**t
    correction2 = 1 - beta2**t
    of_direction = 1 - beta1 ** (t + 1) if rule.nesterov else correction1

    step_size = lr * _of_second_moment(t, correction2, rule) ** 0.5 / of_direction
    adapt: bool | Tensor = True
    if rule.rectify and isinstance(t, Tensor):
        r, adapt = _rectification_on_device(t, beta2)
        step_size = torch.where(adapt, r * step_size, lr / of_direction)
    elif rule.rectify:
        known = rectification(int(t), float(beta2))
        adapt = known is not None
        step_size = lr / of_direction if known is None else known * step_size

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
        eps_sum=rule.eps * correction2 / (1 - beta2),
        shrink=shrink,
        factor=-step_size,
        adapt=adapt,
    )


def _of_second_moment(t: Scalar, correction2: Scalar, rule: Rule) -> Scalar:
    """Return what v is divided by at step t: 1 - beta2^t, or its mean in white noise."""
    if not rule.adjust_lr:
        return correction2
    beta1, beta2 = rule.beta1, rule.beta2
    if not isinstance(t, Tensor):
        return white_noise_mean_at(t, (float(beta1), float(beta2)), lookahead=rule.lookahead, passes=rule.passes)
    if isinstance(beta1, Tensor) or isinstance(beta2, Tensor):
        beta1, beta2 = (x if isinstance(x, Tensor) else torch.full_like(t, x) for x in (beta1, beta2))
    kappa: Tensor = white_noise_mean(
        t, beta1, beta2, correction2, array=torch, lookahead=rule.lookahead, passes=rule.passes
    )
    return kappa


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
        theirs = _numbers_of_vector([state_steps[i] for i in indices], device, dtype, rule)
        numbers.update(zip(indices, theirs, strict=True))
    return [numbers[i] for i in range(len(exp_avgs))]


def _numbers_of_vector(
    state_steps: list[Tensor], device: torch.device, dtype: torch.dtype, rule: Rule
) -> Iterator[Numbers]:
    real = _REAL.get(dtype, dtype)

    def one_each(x: Scalar) -> Iterable[Scalar]:
        if not isinstance(x, Tensor):
            return repeat(x, len(state_steps))
        if x.is_floating_point():
            x = x.to(real)
        return x.unbind() if x.dim() else repeat(x, len(state_steps))

    return map(Numbers, *map(one_each, _wide_numbers(state_steps, device, rule)))


def _wide_numbers(state_steps: list[Tensor], device: torch.device, rule: Rule) -> Numbers:
    """Return the numbers of all steps at once: vectors, or what :func:`numbers_at` leaves floats or 0-dim tensors."""
    # 1 - beta2^t cancels: in float32 it would lose four digits at the first steps. MPS has no float64.
    wide = torch.float32 if device.type == "mps" else torch.float64

    def widen(x: Scalar) -> Scalar:
        return x.reshape(()).to(device, wide) if isinstance(x, Tensor) else x

    t = torch.stack(state_steps).to(device, wide)
    return numbers_at(t, rule._replace(lr=widen(rule.lr), beta1=widen(rule.beta1), beta2=widen(rule.beta2)))


def numbers_matrix(state_steps: list[Tensor], rule: Rule, device: torch.device) -> Tensor:
    """:func:`numbers_at` for each parameter, as the CUDA kernel takes them.

    Steps and options that are tensors on a device are not read on the host.

    Args:
        state_steps: the number of steps, counting this one, of each parameter.
        rule: the options.
        device: where to put the numbers.

    Returns:
        float32, a row a parameter, with the columns :data:`MATRIX_COLUMNS`.
    """
    options_are_floats = not any(isinstance(x, Tensor) for x in (rule.lr, rule.beta1, rule.beta2))
    if options_are_floats and all(step.is_cpu for step in state_steps):
        rows = [in_columns(n) for n in numbers_on_host(state_steps, rule)]
        # Pinned, since a copy from other memory would wait for the device.
        matrix = torch.tensor(rows, dtype=torch.float32, pin_memory=device.type == "cuda")
        return matrix.view(-1, len(MATRIX_COLUMNS)).to(device, non_blocking=True)

    matrix = torch.empty(len(state_steps), len(MATRIX_COLUMNS), dtype=torch.float32, device=device)
    for column, x in zip(matrix.unbind(1), in_columns(_wide_numbers(state_steps, device, rule)), strict=True):
        if isinstance(x, Tensor):
            column.copy_(x)
        else:
            column.fill_(x)
    return matrix


def in_columns(n: Numbers) -> list[Scalar]:
    """Return numbers as :data:`MATRIX_COLUMNS` has them."""
    return list(n._replace(beta2=1 - n.beta2))


def _rectification_on_device(t: Tensor, beta2: Scalar) -> tuple[Tensor, Tensor]:
    """:func:`adamomentum.reference.rectification` for a tensor t: the factor, and whether it applies."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    adapt = rho >= 5
    # Where it does not apply its value is not used; the bounds keep it, and its derivative, finite.
    rho = rho.clamp(min=5)
    rho_inf = rho_inf.clamp(min=5) if isinstance(rho_inf, Tensor) else max(rho_inf, 5.0)
    return ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5, adapt
