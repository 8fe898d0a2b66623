"""A step on lists of tensors: the choice of path, and how the tensors go by it.

The update rule itself is in :mod:`adamomentum.torch.rule`.

Tested in tests/torch/test_generic.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from adamomentum.second_moment import AdjustLR, SecondMoment, looks_ahead
from adamomentum.torch import fused_cpu, fused_cuda
from adamomentum.torch.checks import check_path_options
from adamomentum.torch.foreach import foreach_update
from adamomentum.torch.pieces import pieces
from adamomentum.torch.precision import StateDtype, is_reduced, pack, unpack
from adamomentum.torch.rounding import narrowed, rounds, widened
from adamomentum.torch.rule import Numbers, Rule, Scalar, update_one
from adamomentum.torch.scalars import as_real, numbers_on_device, numbers_on_host, with_floats
from adamomentum.torch.state import (
    CODED,
    EXP_AVG,
    EXP_AVG_SCALE,
    EXP_AVG_SQ,
    EXP_AVG_SQ_SCALE,
    MAX_EXP_AVG_SQ,
    PLAIN_TENSORS,
    ROUNDING_STATE,
    STEP,
    Row,
    scale_of,
)

if TYPE_CHECKING:
    from adamomentum._native import Batch

__all__ = [
    "Kernels",
    "Loop",
    "Path",
    "adamomentum",
    "check_kernels",
    "choose_kernels",
    "choose_loop",
    "choose_path",
    "take_step",
]

# The kernels, in C++ on a CPU and in Triton on CUDA, and the ways by torch's own operations.
Kernels = Literal["native", "triton"]
Loop = Literal["for-loop", "foreach"]
Path = Kernels | Loop

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
    moments are kept in float32 or wider, else the for-loop. On CUDA the Triton kernel is taken on request alone, since
    it has not been measured there yet. With ``differentiable``, always the for-loop. Compiled code, and code that a
    torch mode watches, never calls the kernels; what it leaves out, moments in 8 bits, goes as in an ordinary
    step.

    Args:
        params: the parameters to be updated.
        foreach: True or False to insist on a path, None to leave the choice here.
        fused: the same for the kernels.
        differentiable: whether autograd will run through the update.
        state_dtype: the option of that name.

    Returns:
        "native" or "triton" for the kernels on a CPU and on CUDA, else "foreach" or "for-loop".

    Raises:
        RuntimeError: if ``fused`` is True and there are no kernels for these parameters.
        ValueError: if the requests contradict each other or cannot be met.
    """
    check_path_options(foreach, fused, differentiable, state_dtype)
    if fused:
        check_kernels(params)
    kernels = choose_kernels(params, foreach=foreach, fused=fused, differentiable=differentiable)
    return kernels or choose_loop(params, foreach=foreach, differentiable=differentiable, state_dtype=state_dtype)


def choose_kernels(
    params: list[Tensor], *, foreach: bool | None, fused: bool | None, differentiable: bool
) -> Kernels | None:
    """Return the kernels that parameters are offered to, where :func:`choose_path` explains the options; None for none.

    The first parameter stands for all: the kernels themselves leave what they can't take.

    Raises:
        RuntimeError: if ``fused`` is True and there are no kernels for the first parameter.
    """
    if fused:
        check_kernels(params[:1])
    elif fused is False or foreach is not None or differentiable:
        return None
    if not params or torch.compiler.is_compiling() or fused_cpu.watched():
        return None
    if params[0].is_cpu:
        return None if fused_cpu.why_not() else "native"
    return "triton" if fused and params[0].is_cuda else None


def choose_loop(
    params: list[Tensor], *, foreach: bool | None, differentiable: bool = False, state_dtype: StateDtype = None
) -> Loop:
    """Return the way of parameters that are not for the kernels, or that these leave; the options as there."""
    if foreach is None:
        foreach = not (differentiable or is_reduced(state_dtype)) and all(
            type(p) in PLAIN_TENSORS and p.device.type in _FOREACH_DEVICES for p in params
        )
    return "foreach" if foreach else "for-loop"


def check_kernels(params: list[Tensor]) -> None:
    """Check that there are kernels for parameters, of which those on meta are yet to come.

    ``to_empty`` puts them on a device.

    Raises:
        RuntimeError: if there are none.
    """
    devices = {p.device.type for p in params} - {"meta"}
    reason = None
    if devices == {"cpu"}:
        reason = fused_cpu.why_not()
    elif devices == {"cuda"}:
        reason = fused_cuda.why_not()
    elif devices:
        reason = f"they are for parameters on a CPU or on CUDA, got parameters on {sorted(devices)}"
    if reason:
        raise RuntimeError(
            f"fused=True needs the native kernels: {reason}; leave fused=None to get the fastest path there is"
        )


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
    adjust_lr: AdjustLR | None = None,
    second_moment: SecondMoment | None = None,
    nesterov: bool = False,
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
        exp_avg_sqs: second moments without eps, shaped as the first; typed so too, or in another of float32, bfloat16
            and codes.
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
        adjust_lr: divide the second moment by its mean in white noise.
        second_moment: what the second moment averages the square of.
        nesterov: move by the look-ahead momentum.
        maximize: ascend.
        foreach: see :func:`~adamomentum.torch.functional.choose_path`.
        fused: see :func:`~adamomentum.torch.functional.choose_path`.
        capturable: never read a tensor on the host.
        differentiable: keep the update differentiable.
        exp_avg_scales: for first moments in uint8 codes, the exponents of their blocks.
        exp_avg_sq_scales: the same for second moments.
        grad_scale: what the gradients were multiplied by: they are divided by it.
    """
    stored = [t.dtype for t in (*exp_avgs[:1], *exp_avg_sqs[:1]) if is_reduced(t.dtype)]
    reduced: StateDtype = None
    if stored:
        reduced = "8bit" if torch.uint8 in stored else torch.bfloat16
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
        adjust_lr=adjust_lr is not None,
        lookahead=looks_ahead({"adjust_lr": adjust_lr, "second_moment": second_moment, "nesterov": nesterov}),
        nesterov=nesterov,
    )
    states = []
    for i, (step, m, v) in enumerate(zip(state_steps, exp_avgs, exp_avg_sqs, strict=True)):
        states.append({STEP: step, EXP_AVG: m, EXP_AVG_SQ: v})
        if amsgrad:
            states[i][MAX_EXP_AVG_SQ] = max_exp_avg_sqs[i]
        if exp_avg_scales:
            states[i][EXP_AVG_SCALE] = exp_avg_scales[i]
        if exp_avg_sq_scales:
            states[i][EXP_AVG_SQ_SCALE] = exp_avg_sq_scales[i]
    rows = list(zip(params, grads, states, strict=True))
    take_step(rows, None, rule, path, capturable=capturable, fused=fused)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _take_step_on_codes(rows: list[Row], rule: Rule, capturable: bool, fused: bool | None) -> None:
    """Take the step of parameters with moments in 8 bits outside of compiled code, as an ordinary step does.

    A block's exponent is the maximum of what its elements become, which only then can be coded: of that a compiler
    makes several large kernels for every tensor, in ten times the time that float32 moments take it. torch 2.13's also
    drops the last, partial block of a vector (pytorch/pytorch#195582).
    """
    path = choose_path(
        [p for p, _, _ in rows],
        foreach=None,
        fused=fused,
        differentiable=False,
        state_dtype="8bit",
    )
    take_step(rows, None, rule, path, capturable=capturable)


def take_step(
    rows: list[Row],
    batch: Batch | None,
    rule: Rule,
    path: Path,
    *,
    foreach: bool | None = None,
    fused: bool | None = None,
    capturable: bool = False,
    found_inf: Tensor | None = None,
) -> None:
    """Take one step on parameters with their gradients and states, which counts it.

    Args:
        rows: parameter, gradient and state (with the keys of the optimizer's state).
        batch: what the kernels have taken by now, and ``rows`` is what they left; None if they have not been asked.
        rule: the options.
        path: the path; what kernels can't take goes by :func:`choose_loop`.
        foreach: the option of that name, for what kernels leave.
        fused: the option of that name, for what compiled code leaves to the kernels.
        capturable: never read a tensor on the host.
        found_inf: one float32 number on the device: if it is not 0, nothing changes. For "triton" and ``capturable``
            alone; elsewhere the caller reads it.

    Raises:
        RuntimeError: if there is a ``found_inf`` and a tensor that the CUDA kernel can't take.
    """
    if path == "native":
        if batch is None:
            batch = fused_cpu.new_batch(rule.rounding)
            rows = [row for row in rows if not fused_cpu.add(batch, *row, rule.amsgrad)]
        if len(batch):
            fused_cpu.run(batch, rule)
    elif path == "triton":
        if batch:
            fused_cuda.run_batch(batch, rule)
        rows = fused_cuda.run(rows, rule, capturable=capturable, found_inf=found_inf)
    if rows and path in ("native", "triton"):
        path = choose_loop([p for p, _, _ in rows], foreach=foreach)
    if rows and torch.compiler.is_compiling():
        codes = [row for row in rows if _has_codes(row)]
        rows = [row for row in rows if not _has_codes(row)]
        if codes:
            _take_step_on_codes(codes, rule, capturable, fused)
    if not rows:
        return
    packed = [row for row in rows if _is_packed(row, rule)]
    if packed and len(packed) < len(rows):
        take_step([row for row in rows if not _is_packed(row, rule)], None, rule, path, capturable=capturable)
        rows = packed
    # The numbers stay tensors where the host may not wait for them, or autograd or a compiler follows them.
    stay_tensors = capturable or rule.differentiable or torch.compiler.is_compiling()
    rule = with_floats(rule, keep_tensors=stay_tensors)

    params, grads = [p for p, _, _ in rows], [grad for _, grad, _ in rows]
    states = [state for _, _, state in rows]
    state_steps, exp_avgs = [s[STEP] for s in states], [s[EXP_AVG] for s in states]
    exp_avg_sqs = [s[EXP_AVG_SQ] for s in states]
    if torch.compiler.is_compiling() or not state_steps[0].is_cpu:
        torch._foreach_add_(state_steps, 1)
    else:  # on a CPU the line above would wrap the 1 into a tensor again for each step
        torch._foreach_add_(state_steps, torch.tensor(1.0, device="cpu"), alpha=1.0)
    numbers = numbers_on_device(state_steps, exp_avgs, rule) if stay_tensors else numbers_on_host(state_steps, rule)

    if packed:
        for param, grad, state, n in zip(params, grads, states, numbers, strict=True):
            step = state[STEP] if stay_tensors else state[STEP].item()
            for first, piece in pieces(param, grad, state):
                _update_packed(*piece, n, rule, step, first)
        return
    columns = [params, grads, exp_avgs, exp_avg_sqs]
    columns.append([s[MAX_EXP_AVG_SQ] for s in states] if rule.amsgrad else exp_avg_sqs)
    if any(p.is_complex() for p in params):
        columns = [[as_real(t) for t in column] for column in columns]
    if path == "foreach":
        foreach_update(columns, numbers, rule)
    else:
        for param, grad, m, v, v_max, n in zip(*columns, numbers, strict=True):
            update_one(param, grad, m, v, v_max, n, rule)


def _has_codes(row: Row) -> bool:
    return any(row[2][key].dtype == torch.uint8 for key, _ in CODED)


def _is_packed(row: Row, rule: Rule) -> bool:
    """Whether something of a parameter is stored in a format of which the update makes a float32 copy first."""
    param, _, state = row
    return any(is_reduced(state[key].dtype) for key, _ in CODED) or rounds(param, rule.rounding)


def _update_packed(
    param: Tensor, grad: Tensor, state: dict[str, Tensor], n: Numbers, rule: Rule, step: float | Tensor, first: int
) -> None:
    """Update what :func:`_is_packed`: made in float32, and what it makes is then rounded to be stored.

    ``first`` is where the tensors begin in those that they are pieces of.
    """
    theta, kept = param, None
    if rounds(param, rule.rounding):
        if rule.rounding in ROUNDING_STATE:
            kept = state[ROUNDING_STATE[rule.rounding]]
        theta = widened(param, kept, rule.rounding)
    packed = [(key, moment) for key, moment in CODED if is_reduced(state[key].dtype)]
    values = {key: state[key] for key, _ in CODED}
    values |= {key: unpack(state[key], state.get(scale_of(key)), moment) for key, moment in packed}
    v = values[EXP_AVG_SQ]
    update_one(theta, grad, values[EXP_AVG], v, state[MAX_EXP_AVG_SQ] if rule.amsgrad else v, n, rule)
    for key, moment in packed:
        pack(values[key], state[key], state.get(scale_of(key)), moment, step, first)
    if theta is not param:
        narrowed(theta, param, kept, rule.rounding, step, first)
