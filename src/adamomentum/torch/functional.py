"""The AdaMomentum update on lists of tensors: the choice of path, and the update rule itself in ``_for_loop``.

Algorithm 1 adds eps to the second moment at every step. Here the stored moment v is the plain average of the squared
momentum, and the eps accumulated so far, eps (1 - beta2^t) / (1 - beta2), is added when the root is taken: the same
numbers for constant eps and beta2. With c1 = 1 - beta1^t and c2 = 1 - beta2^t, the update of Algorithm 1 becomes

    theta <- theta - (lr sqrt(c2) / c1) * m / sqrt(v + accumulated eps)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from adamomentum.torch.foreach import PLAIN_TENSORS, foreach_update
from adamomentum.torch.scalars import Numbers, Rule, Scalar, numbers_at, numbers_on_device

__all__ = ["adamomentum", "as_real", "choose_path"]

_FOREACH_DEVICES = ("cuda", "xpu", "mtia", "cpu")


def choose_path(
    params: list[Tensor], *, foreach: bool | None, fused: bool | None, differentiable: bool
) -> Literal["for-loop", "foreach"]:
    """Choose the path for one parameter group: an explicit request, else the fastest correct one.

    With ``foreach=None`` that is foreach if every parameter is a plain tensor (no subclass such as DTensor) on a
    device with foreach kernels and ``differentiable`` is off, else the for-loop.

    Args:
        params: the parameters to be updated.
        foreach: True or False to insist on a path, None to leave the choice here.
        fused: True to insist on the native kernel, which this version does not have.
        differentiable: whether autograd will run through the update.

    Returns:
        The name of the path.

    Raises:
        RuntimeError: if ``fused`` is True.
        ValueError: if ``foreach`` and ``differentiable`` are both True.
    """
    if fused:
        raise RuntimeError(
            "fused=True needs the native kernel, which this version of adamomentum does not include; "
            "leave fused=None to get the fastest path there is"
        )
    if foreach and differentiable:
        raise ValueError(
            "foreach=True does not go with differentiable=True: autograd does not run through foreach operations; "
            "leave foreach=None"
        )
    if foreach is None:
        foreach = not differentiable and all(
            type(p) in PLAIN_TENSORS and p.device.type in _FOREACH_DEVICES for p in params
        )
    return "foreach" if foreach else "for-loop"


def adamomentum(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    state_steps: list[Tensor],
    *,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    eps: float,
    weight_decay: float,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = True,
    fixed_decay: bool = False,
    rectify: bool = False,
    full_bias_correction: bool = False,
    maximize: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
) -> None:
    """Take one AdaMomentum step on lists of tensors, in place.

    The options are those of :class:`~adamomentum.AdaMomentum`, which also validates them; nothing is checked here
    but what :func:`choose_path` raises. The i-th tensors of all lists belong together.

    Args:
        params: parameters, of any floating-point or complex dtype.
        grads: their gradients, same shapes; read, never written.
        exp_avgs: first moments, same shapes, float32 or float64, or complex for complex parameters.
        exp_avg_sqs: second moments without eps, shaped and typed as the first.
        max_exp_avg_sqs: with ``amsgrad``, running maxima of the second moment with its eps; otherwise ignored.
        state_steps: 0-dim float32 tensors, the number of steps taken; on the parameter's device if ``capturable``.
        lr: learning rate.
        beta1: decay rate of the first moment.
        beta2: decay rate of the second moment.
        eps: added to the second moment at every step.
        weight_decay: strength of the weight decay.
        amsgrad: divide by the running maximum of the second moment.
        decoupled_weight_decay: shrink the parameters; if False, add the decay to the gradient.
        fixed_decay: do not scale decoupled decay by lr.
        rectify: apply RAdam's rectification.
        full_bias_correction: average the square of the bias-corrected first moment.
        maximize: ascend.
        foreach: see :func:`choose_path`.
        fused: see :func:`choose_path`.
        capturable: never read a tensor on the host.
        differentiable: keep the update differentiable.
    """
    path = choose_path(params, foreach=foreach, fused=fused, differentiable=differentiable)
    if not params:
        return
    # The numbers stay tensors where the host may not wait for them, or autograd or a compiler follows them.
    stay_tensors = capturable or differentiable or torch.compiler.is_compiling()
    lr, beta1, beta2 = (x if stay_tensors and isinstance(x, Tensor) else float(x) for x in (lr, beta1, beta2))
    eps, weight_decay = float(eps), float(weight_decay)
    rule = Rule(
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        decoupled_weight_decay=decoupled_weight_decay,
        fixed_decay=fixed_decay,
        rectify=rectify,
        full_bias_correction=full_bias_correction,
        maximize=maximize,
        differentiable=differentiable,
    )

    if torch.compiler.is_compiling() or not state_steps[0].is_cpu:
        torch._foreach_add_(state_steps, 1)
    else:  # on a CPU the line above would wrap the 1 into a tensor again for each step
        torch._foreach_add_(state_steps, torch.tensor(1.0), alpha=1.0)
    if stay_tensors:
        numbers = numbers_on_device(state_steps, exp_avgs, rule)
    else:
        steps = [s.item() for s in state_steps]
        at = {t: numbers_at(t, rule) for t in set(steps)}  # parameters nearly always share their step
        numbers = [at[t] for t in steps]

    columns = [params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs if amsgrad else exp_avg_sqs]
    if any(p.is_complex() for p in params):
        columns = [[as_real(t) for t in column] for column in columns]
    if path == "foreach":
        foreach_update(columns, numbers, rule)
    else:
        for param, grad, m, v, v_max, n in zip(*columns, numbers, strict=True):
            _for_loop(param, grad, m, v, v_max, n, rule)


def as_real(t: Tensor) -> Tensor:
    """Real and imaginary part of a complex tensor as two real ones, in a last dimension of a view."""
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def _for_loop(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor,
    n: Numbers,
    rule: Rule,
) -> None:
    """The update rule, for one parameter."""
    # A half-precision parameter is updated in float32 and rounded once, at the end.
    dtype = torch.promote_types(param.dtype, exp_avg.dtype)
    theta, grad = param.to(dtype), grad.to(dtype)
    if rule.maximize:
        grad = -grad
    if rule.weight_decay and not rule.decoupled_weight_decay:
        grad = grad.add(theta, alpha=rule.weight_decay)

    exp_avg.lerp_(grad.to(exp_avg.dtype), n.m_weight)
    if rule.differentiable:  # autograd keeps what is read below, and the next step overwrites it
        exp_avg = exp_avg.clone()
    _addcmul_(exp_avg_sq.mul_(n.beta2), exp_avg, exp_avg, n.v_weight)
    v = exp_avg_sq + n.accumulated_eps
    if rule.amsgrad:
        v = torch.maximum(max_exp_avg_sq.clone() if rule.differentiable else max_exp_avg_sq, v)
        max_exp_avg_sq.copy_(v)

    denom = v.sqrt_()
    if isinstance(n.adapt, Tensor):
        denom = torch.where(n.adapt, denom, 1.0)
    elif not n.adapt:
        denom.fill_(1.0)
    if rule.weight_decay and rule.decoupled_weight_decay:
        theta.mul_(n.shrink)
    _addcdiv_(theta, exp_avg, denom, n.factor)
    if theta is not param:
        param.copy_(theta)


def _addcmul_(out: Tensor, a: Tensor, b: Tensor, value: Scalar) -> None:
    """``out += value * a * b``."""
    if isinstance(value, Tensor):
        out.add_(a * b * value)
    else:
        out.addcmul_(a, b, value=value)


def _addcdiv_(out: Tensor, a: Tensor, b: Tensor, value: Scalar) -> None:
    """``out += value * a / b``."""
    if isinstance(value, Tensor):
        out.add_(a / b * value)
    else:
        out.addcdiv_(a, b, value=value)
