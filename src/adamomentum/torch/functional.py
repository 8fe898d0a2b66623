"""The AdaMomentum update on lists of tensors: the choice of path, and the update rule itself in ``_for_loop``.

Algorithm 1 adds eps to the second moment at every step. Here the stored moment v is the plain average of the squared
momentum, and the eps accumulated so far, eps (1 - beta2^t) / (1 - beta2), is added when the root is taken: the same
numbers for constant eps and beta2. With c1 = 1 - beta1^t and c2 = 1 - beta2^t, the update of Algorithm 1 becomes

    theta <- theta - (lr sqrt(c2) / c1) * m / sqrt(v + accumulated eps)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from adamomentum.torch import fused_cpu, fused_cuda
from adamomentum.torch.foreach import PLAIN_TENSORS, foreach_update
from adamomentum.torch.pieces import Row, pieces
from adamomentum.torch.precision import StateDtype, is_reduced, pack, unpack
from adamomentum.torch.rounding import narrowed, rounds, widened
from adamomentum.torch.scalars import Numbers, Rule, Scalar, as_real, numbers_on_device, numbers_on_host, with_floats

if TYPE_CHECKING:
    from adamomentum._native import Batch

__all__ = ["Path", "adamomentum", "choose_path", "update"]

Path = Literal["for-loop", "foreach", "fused"]

_FOREACH_DEVICES = ("cuda", "xpu", "mtia", "cpu")


def choose_path(
    params: list[Tensor],
    *,
    foreach: bool | None,
    fused: bool | None,
    differentiable: bool,
    state_dtype: StateDtype = None,
) -> Path:
    """Choose the path for one parameter group: an explicit request, else the fastest correct one.

    With ``fused=None`` and ``foreach=None`` that is, for parameters on a CPU, the native kernels if they are
    installed. Tensors in the group that these cannot take (``fused_cpu.py``) go the next way, which
    is foreach if every parameter is a plain tensor (no subclass such as DTensor) on a device with foreach kernels and
    moments are kept in float32 or wider, else the for-loop. On CUDA the fused kernel is taken on request alone, since
    it has not been measured there yet. With ``differentiable``, always the for-loop. Compiled code, and code that a
    torch mode watches, never calls the native kernels; what it leaves out, moments in 8 bits, goes as in an ordinary
    step.

    Args:
        params: the parameters to be updated.
        foreach: True or False to insist on a path, None to leave the choice here.
        fused: the same for the native kernels.
        differentiable: whether autograd will run through the update.
        state_dtype: the option of that name.

    Returns:
        The name of the path.

    Raises:
        RuntimeError: if ``fused`` is True and there are no kernels for these parameters.
        ValueError: if the requests contradict each other or cannot be met.
    """
    reduced = is_reduced(state_dtype)
    if fused and differentiable:
        raise ValueError(
            "fused=True does not go with differentiable=True: autograd does not run through the native kernels; leave "
            "fused=None"
        )
    if foreach and differentiable:
        raise ValueError(
            "foreach=True does not go with differentiable=True: autograd does not run through foreach operations; "
            "leave foreach=None"
        )
    if foreach and reduced:
        raise ValueError(
            f"foreach=True does not go with state_dtype={state_dtype!r}, which only the fused and the for-loop path "
            "support; leave foreach=None"
        )
    if fused:
        reason = _why_not_fused(params)
        if reason:
            raise RuntimeError(
                f"fused=True needs the native kernels: {reason}; leave fused=None to get the fastest path there is"
            )
    tracing = torch.compiler.is_compiling() or fused_cpu.watched()
    on_cpu = bool(params) and params[0].device.type == "cpu"
    if fused and not tracing:
        return "fused"
    if fused is None and foreach is None and on_cpu and not (differentiable or tracing or fused_cpu.why_not()):
        return "fused"
    if foreach is None:
        foreach = not (differentiable or reduced) and all(
            type(p) in PLAIN_TENSORS and p.device.type in _FOREACH_DEVICES for p in params
        )
    return "foreach" if foreach else "for-loop"


def _why_not_fused(params: list[Tensor]) -> str | None:
    """Why the native kernels can't be used for any of the parameters; None if they can, or there are none yet.

    Parameters on meta are yet to come: ``to_empty`` puts them on a device.
    """
    devices = {p.device.type for p in params} - {"meta"}
    if devices == {"cpu"}:
        return fused_cpu.why_not()
    if devices == {"cuda"}:
        return fused_cuda.available()
    return f"they are for parameters on a CPU or on CUDA, got parameters on {sorted(devices)}" if devices else None


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
    exp_avg_scales: list[Tensor] | None = None,
    exp_avg_sq_scales: list[Tensor] | None = None,
    grad_scale: Scalar = 1.0,
) -> None:
    """Take one AdaMomentum step on lists of tensors, in place.

    The options are those of :class:`~adamomentum.torch.AdaMomentum`, which also validates them; nothing is checked here
    but what :func:`~adamomentum.torch.functional.choose_path` raises. The i-th tensors of all lists belong together.

    Args:
        params: parameters, of any floating-point or complex dtype.
        grads: their gradients, same shapes; read, never written.
        exp_avgs: first moments, same shapes: float32 or float64, or complex for complex parameters; bfloat16; or uint8
            codes as :mod:`adamomentum.torch.precision` makes them.
        exp_avg_sqs: second moments without eps, shaped and typed as the first.
        max_exp_avg_sqs: with ``amsgrad``, running maxima of the second moment with its eps; otherwise ignored.
        state_steps: 0-dim float64 tensors, the number of steps taken; on the parameter's device if ``capturable``. In
            float32 they count no further than 2^24.
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
        foreach: see :func:`~adamomentum.torch.functional.choose_path`.
        fused: see :func:`~adamomentum.torch.functional.choose_path`.
        capturable: never read a tensor on the host.
        differentiable: keep the update differentiable.
        exp_avg_scales: for uint8 codes, the exponents of their blocks.
        exp_avg_sq_scales: the same for the second moment.
        grad_scale: what the gradients were multiplied by: they are divided by it.
    """
    reduced: StateDtype = None
    if exp_avgs and is_reduced(exp_avgs[0].dtype):
        reduced = "8bit" if exp_avgs[0].dtype == torch.uint8 else torch.bfloat16
    path = choose_path(params, foreach=foreach, fused=fused, differentiable=differentiable, state_dtype=reduced)
    if not params:
        return
    rule = Rule(
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=float(eps),
        weight_decay=float(weight_decay),
        amsgrad=amsgrad,
        decoupled_weight_decay=decoupled_weight_decay,
        fixed_decay=fixed_decay,
        rectify=rectify,
        full_bias_correction=full_bias_correction,
        grad_factor=(-1.0 if maximize else 1.0) / grad_scale,
        differentiable=differentiable,
    )
    states = []
    for i, (step, m, v) in enumerate(zip(state_steps, exp_avgs, exp_avg_sqs, strict=True)):
        states.append({"step": step, "exp_avg": m, "exp_avg_sq": v})
        if amsgrad:
            states[i]["max_exp_avg_sq"] = max_exp_avg_sqs[i]
        if exp_avg_scales and exp_avg_sq_scales:
            states[i].update(exp_avg_scale=exp_avg_scales[i], exp_avg_sq_scale=exp_avg_sq_scales[i])
    rows = list(zip(params, grads, states, strict=True))
    if path == "fused" and params[0].is_cpu:
        _by_cpu_kernels(rows, rule, reduced, capturable)
    else:
        update(rows, None, rule, path, capturable=capturable, fused=fused)


def _by_cpu_kernels(rows: list[Row], rule: Rule, reduced: StateDtype, capturable: bool) -> None:
    """Take one step by the native CPU kernels, and another way where they can't."""
    batch = fused_cpu.new_batch()
    rest = [row for row in rows if not fused_cpu.add(batch, *row, rule.amsgrad)]
    path = choose_path([p for p, _, _ in rest], foreach=None, fused=False, differentiable=False, state_dtype=reduced)
    update(rest, batch, rule, path, capturable=capturable)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _update_codes(rows: list[Row], rule: Rule, capturable: bool, fused: bool | None) -> None:
    """Take the step of parameters with moments in 8 bits outside of compiled code, as an ordinary step does.

    A block's exponent is the maximum of what its elements become, which only then can be coded: of that a compiler
    makes several large kernels for every tensor, in ten times the time that float32 moments take it. torch 2.13's also
    drops the last, partial block of a vector (pytorch/pytorch#195582).
    """
    params = [p for p, _, _ in rows]
    fused = False if any(rounds(p, rule.rounding) for p in params) else fused
    path = choose_path(params, foreach=None, fused=fused, differentiable=False, state_dtype="8bit")
    if path == "fused" and params[0].is_cpu:
        _by_cpu_kernels(rows, rule, "8bit", capturable)
    else:
        update(rows, None, rule, path, capturable=capturable)


def update(
    rows: list[Row],
    batch: Batch | None,
    rule: Rule,
    path: Path,
    *,
    capturable: bool = False,
    found_inf: Tensor | None = None,
    fused: bool | None = None,
) -> None:
    """Take one step on parameters with their gradients and states, and on what a batch for the kernels holds.

    Args:
        rows: parameter, gradient and state (with the keys of the optimizer's state) of what ``path`` updates.
        batch: what the native CPU kernels update.
        rule: the options.
        path: the path for ``rows``; what the CUDA kernel of "fused" can't take goes another way.
        capturable: never read a tensor on the host.
        found_inf: one float32 number on the device: if it is not 0, nothing changes. For "fused" and ``capturable``
            alone; elsewhere the caller reads it.
        fused: whether the kernels are wanted, for what compiled code leaves to them.

    Raises:
        RuntimeError: if there is a ``found_inf`` and a tensor that the CUDA kernel can't take.
    """
    if batch is not None and len(batch):
        fused_cpu.run(batch, rule)
    if path == "fused":
        rows = fused_cuda.run(rows, rule, capturable=capturable, found_inf=found_inf)
        path = choose_path([p for p, _, _ in rows], foreach=None, fused=False, differentiable=False)
    if torch.compiler.is_compiling():
        codes = [row for row in rows if row[2]["exp_avg"].dtype == torch.uint8]
        rows = [row for row in rows if row[2]["exp_avg"].dtype != torch.uint8]
        if codes:
            _update_codes(codes, rule, capturable, fused)
    narrow = [row for row in rows if _is_narrow(row, rule)]
    if narrow and len(narrow) < len(rows):
        update([row for row in rows if not _is_narrow(row, rule)], None, rule, path, capturable=capturable)
        rows = narrow
    if not rows:
        return
    # The numbers stay tensors where the host may not wait for them, or autograd or a compiler follows them.
    stay_tensors = capturable or rule.differentiable or torch.compiler.is_compiling()
    rule = with_floats(rule, keep_tensors=stay_tensors)

    params, grads = [p for p, _, _ in rows], [grad for _, grad, _ in rows]
    states = [state for _, _, state in rows]
    state_steps, exp_avgs = [s["step"] for s in states], [s["exp_avg"] for s in states]
    exp_avg_sqs = [s["exp_avg_sq"] for s in states]
    if torch.compiler.is_compiling() or not state_steps[0].is_cpu:
        torch._foreach_add_(state_steps, 1)
    else:  # on a CPU the line above would wrap the 1 into a tensor again for each step
        torch._foreach_add_(state_steps, torch.tensor(1.0, device="cpu"), alpha=1.0)
    numbers = numbers_on_device(state_steps, exp_avgs, rule) if stay_tensors else numbers_on_host(state_steps, rule)

    if narrow:
        for param, grad, state, n in zip(params, grads, states, numbers, strict=True):
            step = state["step"] if stay_tensors else state["step"].item()
            for first, piece in pieces(param, grad, state):
                _narrow(*piece, n, rule, step, first)
        return
    columns = [params, grads, exp_avgs, exp_avg_sqs]
    columns.append([s["max_exp_avg_sq"] for s in states] if rule.amsgrad else exp_avg_sqs)
    if any(p.is_complex() for p in params):
        columns = [[as_real(t) for t in column] for column in columns]
    if path == "foreach":
        foreach_update(columns, numbers, rule)
    else:
        for param, grad, m, v, v_max, n in zip(*columns, numbers, strict=True):
            _for_loop(param, grad, m, v, v_max, n, rule)


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
    if isinstance(rule.grad_factor, Tensor) or rule.grad_factor != 1:
        grad = grad * (rule.grad_factor.to(dtype) if isinstance(rule.grad_factor, Tensor) else rule.grad_factor)
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


def _is_narrow(row: Row, rule: Rule) -> bool:
    """Whether a parameter goes the way of :func:`_narrow`."""
    param, _, state = row
    return is_reduced(state["exp_avg"].dtype) or rounds(param, rule.rounding)


def _narrow(
    param: Tensor, grad: Tensor, state: dict[str, Tensor], n: Numbers, rule: Rule, step: float | Tensor, first: int
) -> None:
    """The update rule with moments in reduced precision, or a parameter whose rounding is not the nearest.

    The update is made in float32, and what it makes is then rounded to be stored. ``first`` is where the tensors begin
    in those that they are pieces of.
    """
    theta = widened(param, state, rule.rounding) if rounds(param, rule.rounding) else param
    moments: tuple[tuple[str, Literal["m", "v"]], ...] = (("exp_avg", "m"), ("exp_avg_sq", "v"))
    if is_reduced(state["exp_avg"].dtype):
        scales = {key: state.get(f"{key}_scale") for key, _ in moments}
        m, v = (unpack(state[key], scales[key], moment) for key, moment in moments)
        _for_loop(theta, grad, m, v, v, n, rule)
        for values, (key, moment) in zip((m, v), moments, strict=True):
            pack(values, state[key], scales[key], moment, step, first)
    else:
        v = state["exp_avg_sq"]
        _for_loop(theta, grad, state["exp_avg"], v, state["max_exp_avg_sq"] if rule.amsgrad else v, n, rule)
    if theta is not param:
        narrowed(theta, param, state, rule.rounding, step, first)


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
