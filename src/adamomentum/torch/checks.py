"""What :class:`AdaMomentum` accepts: every check of an option, a parameter or a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from adamomentum.second_moment import check_choices
from adamomentum.torch.precision import StateDtype, block_count, formats_of, is_reduced, local_part, name_of
from adamomentum.torch.rounding import ROUNDINGS, Rounding
from adamomentum.torch.sharded import are_alike, is_dtensor
from adamomentum.torch.state import (
    ESSENTIAL,
    MIXED_DTYPES,
    MIXED_NAMES,
    MOMENTS,
    NORM,
    OWN,
    PASSES,
    PASSES_BETA1,
    PLAIN_TENSORS,
    SHAPED,
    STATE_DTYPE_NAMES,
    STATE_DTYPES,
    STEP,
    scale_of,
)

__all__ = [
    "LOAD_STATE",
    "SWITCHES",
    "check_beta1",
    "check_capture",
    "check_count",
    "check_gradients",
    "check_max_norm",
    "check_options",
    "check_param",
    "check_path_options",
    "check_whole",
    "describe",
    "has_numbers",
    "is_readable",
]

# Those that every option can be had with.
USUAL_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
PARAM_DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex128,
    torch.complex64,
)
SWITCHES = (
    "amsgrad",
    "decoupled_weight_decay",
    "fixed_decay",
    "rectify",
    "full_bias_correction",
    "nesterov",
    "maximize",
    "capturable",
    "differentiable",
)


def describe(value: Any) -> str:
    """``value`` for an error message."""
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _number(name: str, value: Any, read_tensors: bool, *, below: float = math.inf) -> float | Tensor:
    """Return a number in [0, below) as a float; a one-element tensor, which may change in place, as it is."""
    if type(value) is float and 0 <= value < below:
        return value
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element, got shape {tuple(value.shape)}")
        if read_tensors and not value.is_meta:
            _number(name, value.item(), read_tensors, below=below)
        return value
    number = value.item() if _is_one(value) else value
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= float(number) < below:
        limit = ">= 0 and finite" if below == math.inf else f"in [0, {below:g})"
        raise ValueError(f"{name} must be {limit}, got {value}")
    return float(number)


def _is_one(value: Any) -> bool:
    """Whether it is an array of one element, NumPy's or another framework's, or a NumPy scalar."""
    return hasattr(value, "item") and math.prod(getattr(value, "shape", (0,))) == 1


def _pair(betas: Any, read_tensors: bool) -> tuple[float | Tensor, float | Tensor]:
    """Any sequence of two, such as a configuration's list, an array or a tensor, as a tuple."""
    if _is_no_sequence(betas) or len(betas) != 2:
        raise TypeError(f"betas must be a pair (beta1, beta2), got {betas!r}")
    beta1, beta2 = betas
    return _number("betas[0]", beta1, read_tensors, below=1), _number("betas[1]", beta2, read_tensors, below=1)


def _is_no_sequence(value: Any) -> bool:
    if type(value) is tuple:
        return False
    return isinstance(value, str | bytes | Mapping | Set) or not hasattr(value, "__len__")


def _switch(name: str, value: Any, *, or_none: bool = False) -> bool:
    """Return True or False where it is given as 1 or 0, or as an array of one."""
    plain = value.item() if _is_one(value) and not (isinstance(value, Tensor) and not value.is_cpu) else value
    if not isinstance(plain, int) or plain not in (0, 1):
        raise TypeError(f"{name} must be {'True, False or None' if or_none else 'True or False'}, got {value!r}")
    return bool(plain)


def _state_dtype(given: Any) -> Any:
    """Return the option of that name as text, or as a tuple of two where the moments differ."""
    if given is None or (type(given) is str and given in STATE_DTYPE_NAMES):
        return given
    pair = not (isinstance(given, torch.dtype | str) or _is_no_sequence(given))
    parts, known = (tuple(given), MIXED_NAMES) if pair else ((given,), STATE_DTYPE_NAMES)
    kinds = "torch.float32, torch.float64, torch.bfloat16, '8bit' or None"
    if pair:
        kinds = "a pair of 'float32', 'bfloat16' and '8bit', for exp_avg and exp_avg_sq"
        if len(parts) != 2:
            raise ValueError(f"state_dtype must be one for both moments or {kinds}, got {given!r}")
    for part in parts:
        if not isinstance(part, torch.dtype | str):
            raise TypeError(f"state_dtype must be {kinds}, got {given!r}")
        name = str(part).removeprefix("torch.")
        if name not in known:
            remedies = {
                "float16": ": in float16 a second moment underflows",
                "float64": "; float64 goes with itself alone, as state_dtype='float64'",
            }
            raise ValueError(f"state_dtype must be {kinds}, got {given!r}{remedies.get(name, '')}")
    return name_of(parts if pair else given)


def check_options(options: dict[str, Any], *, read_tensors: bool = True) -> None:
    """Check every option of a parameter group, or of the constructor, and put each into its plain form.

    Numbers become floats, switches True or False, betas a tuple and dtypes their names, in place: whatever
    configuration they come from, a checkpoint then holds nothing that ``torch.load`` would refuse. Tensors stay, since
    they may be changed in place.

    Args:
        options: values by name.
        read_tensors: whether to look into tensor lr and betas, which waits for their device.

    Raises:
        ValueError: if an option is out of range or contradicts another one.
        TypeError: if an option has the wrong type.
    """
    for name in ("lr", "eps", "weight_decay"):
        options[name] = _number(name, options[name], read_tensors)
    options["betas"] = _pair(options["betas"], read_tensors)
    for name in SWITCHES:
        if type(options[name]) is not bool:
            options[name] = _switch(name, options[name])
    for name in ("foreach", "fused"):
        if type(options[name]) is not bool and options[name] is not None:
            options[name] = _switch(name, options[name], or_none=True)
    for name in ("eps", "weight_decay"):
        if isinstance(options[name], Tensor) and options["capturable"] and not options[name].is_cpu:
            raise ValueError(
                f"{name} must be a number or a tensor on the CPU with capturable=True, got one on "
                f"{options[name].device}; pass {name}.item()"
            )
    if options["fixed_decay"] and not options["decoupled_weight_decay"]:
        raise ValueError(
            "fixed_decay=True needs decoupled_weight_decay=True, got False: L2 decay goes into the gradient and has "
            "no fixed form"
        )
    if options["fixed_decay"] and read_tensors and options["weight_decay"] > 1:
        raise ValueError(
            f"weight_decay must be in [0, 1] with fixed_decay=True, which multiplies the parameters by "
            f"1 - weight_decay, got {options['weight_decay']}"
        )
    check_choices(options)
    for name in ("adjust_lr", "second_moment"):
        options[name] = options[name] and str(options[name])  # not NumPy's
    if options["foreach"] and options["fused"]:
        raise ValueError("foreach=True and fused=True exclude each other; set at most one of them")
    dtype = options["state_dtype"] = _state_dtype(options["state_dtype"])
    if is_reduced(dtype):
        for name, why in (
            ("amsgrad", "the running maximum of randomly rounded numbers would drift upwards"),
            ("differentiable", "rounding has no derivative"),
        ):
            if options[name]:
                raise ValueError(
                    f"{name}=True does not go with state_dtype={dtype!r}: {why}; use state_dtype=torch.float32"
                )
    rounding = options["rounding"]
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(map(repr, ROUNDINGS))}, got {rounding!r}")
    options["rounding"] = str(rounding)  # not NumPy's
    for name, why in (
        ("foreach", "the foreach path rounds to nearest"),
        ("differentiable", "rounding has no derivative"),
    ):
        if rounding != "nearest" and options[name]:
            raise ValueError(f"{name}=True does not go with rounding={rounding!r}: {why}; leave {name} alone")
    check_path_options(options["foreach"], options["fused"], options["differentiable"], dtype)


def check_path_options(foreach: bool | None, fused: bool | None, differentiable: bool, state_dtype: StateDtype) -> None:
    """Check that the options that decide on the path do not contradict each other.

    Args:
        foreach: the option of that name.
        fused: the option of that name.
        differentiable: the option of that name.
        state_dtype: the option of that name.

    Raises:
        ValueError: if they do.
    """
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
    if foreach and is_reduced(state_dtype):
        raise ValueError(
            f"foreach=True does not go with state_dtype={state_dtype!r}, which only the fused and the for-loop path "
            "support; leave foreach=None"
        )


def check_beta1(group: Mapping[str, Any]) -> None:
    """Check that beta1 is still what it was when released gradients went into the first moment.

    Args:
        group: a parameter group.

    Raises:
        ValueError: if it is another one.
    """
    old, new = group.get(PASSES_BETA1), group["betas"][0]
    if old is not None and is_readable(old) and is_readable(new) and float(old) != float(new):
        raise ValueError(
            f"betas[0] must not change between the backward passes of one step, got {float(new)} after {float(old)}; "
            "move its schedule on after steps alone"
        )


def is_readable(x: float | Tensor) -> bool:
    """Whether reading a number does not wait for a device."""
    return not isinstance(x, Tensor) or x.is_cpu


def has_numbers(t: Tensor) -> bool:
    """Whether a tensor has numbers at all; those on the meta device and fake ones have not."""
    return not (t.is_meta or is_fake(t))


def check_param(p: Tensor, state_dtype: StateDtype = None, rounding: Rounding = "nearest") -> None:
    """Check that a parameter is of a kind that can be updated.

    Args:
        p: the parameter.
        state_dtype: the option of that name.
        rounding: the option of that name.

    Raises:
        TypeError: if it is not.
    """
    if torch.nn.parameter.is_lazy(p):  # it becomes a tensor at the first forward pass
        return
    if p.dtype not in PARAM_DTYPES:
        raise TypeError(
            f"params must be floating-point or complex tensors (float64, float32, float16, bfloat16, complex128, "
            f"complex64), got {describe(p)}"
        )
    if p.is_complex() and is_reduced(state_dtype):
        raise TypeError(f"params must be real with state_dtype={state_dtype!r}, got {describe(p)}")
    codes = "8bit" in formats_of(state_dtype)
    if codes and any(placement.is_partial() for placement in getattr(p, "placements", ())):
        raise TypeError(
            f"params must not be partial sums with state_dtype={state_dtype!r}, got one of shape {tuple(p.shape)}; use "
            "p.redistribute(...)"
        )
    if rounding == "stochastic" and p.dtype == torch.float16:
        raise TypeError(
            f"params must not be float16 with rounding='stochastic', which is for bfloat16, got {describe(p)}; use "
            "rounding='kahan' or 'master'"
        )
    if codes and hasattr(p, "_fsdp_flattened"):
        raise TypeError(
            f"params must not be those of FullyShardedDataParallel with state_dtype={state_dtype!r}, got one of shape "
            f"{tuple(p.shape)}: its checkpoints cannot hold codes; use state_dtype=torch.bfloat16"
        )
    if p.layout != torch.strided:
        raise TypeError(f"params must be dense tensors, got layout {p.layout} of shape {tuple(p.shape)}")
    if p.is_inference() and not torch.is_inference_mode_enabled():
        raise TypeError(
            f"params must not be tensors made under torch.inference_mode(), which cannot be written to outside of it, "
            f"got one of shape {tuple(p.shape)}; make the model outside of it, or use p.clone()"
        )
    if p.is_conj() or p.is_neg():
        raise TypeError(
            f"params must be written in place, got a lazily conjugated or negated tensor of shape {tuple(p.shape)}; "
            "use p.resolve_conj().resolve_neg()"
        )
    if _is_expanded(p):
        raise TypeError(
            f"params must be written in place, got an expanded tensor of shape {tuple(p.shape)}, whose elements share "
            "memory; use p.contiguous()"
        )


def check_max_norm(value: Any) -> None:
    """Check what gradients are clipped to; infinity, which only measures, is allowed.

    Args:
        value: the limit.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is negative or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"max_norm must be a number, got {value!r}")
    if not float(value) >= 0:
        raise ValueError(f"max_norm must be >= 0, got {value}")


LOAD_STATE = "load a state saved before it with load_state_dict, and the parameters too"


def check_whole(unfinished: str | None) -> None:
    """Check that no backward pass stopped when a part of its gradients was in the state.

    Args:
        unfinished: why one did, to be added to the error; None where none did.

    Raises:
        RuntimeError: if one did.
    """
    if unfinished is not None:
        raise RuntimeError(
            "the last backward pass stopped half-way, when some of its gradients were in the optimizer's state; "
            f"{LOAD_STATE}{unfinished}"
        )


def check_count(where: str, value: Any) -> float:
    """Check a saved number of steps: a whole number >= 0, or a one-element tensor of one.

    Returns:
        The number.

    Raises:
        ValueError: if it is something else.
    """
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0 or number % 1:
        raise ValueError(f"{where} must be a whole number >= 0, got {value!r}")
    return float(number)


def _is_expanded(t: Tensor) -> bool:
    """Whether elements share memory because a dimension was expanded."""
    if t.is_contiguous() or not t.numel():
        return False
    return any(stride == 0 and size > 1 for stride, size in zip(t.stride(), t.shape, strict=True))


def _fit(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.device == b.device and a.is_complex() == b.is_complex()


def _is_writable(t: Tensor) -> bool:
    return not _is_expanded(t) and (torch.is_inference_mode_enabled() or not t.is_inference())


def _has_scale(scale: Any, p: Tensor) -> bool:
    blocks = (block_count(local_part(p).numel()),)
    fits = isinstance(scale, Tensor) and scale.dtype == torch.uint8 and scale.shape == blocks
    return fits and scale.device == p.device and _is_writable(scale)


def _counts(step: Any, p: Tensor) -> bool:
    one = isinstance(step, Tensor) and step.numel() == 1 and step.is_floating_point()
    return one and _is_writable(step) and (p.is_meta or not step.is_meta)


def _is_usual(p: Tensor, grad: Tensor, entries: Mapping[str, Any]) -> bool:
    """Whether a parameter, its gradient and its state are what they nearly always are, so that no check can fail.

    The checks together ask some fifty questions of a parameter, at each step; these few answer them all.
    """
    moments = [entries[key] for key in MOMENTS if key in entries]
    step = entries.get(STEP)
    counts = 1 + (PASSES in entries) + (NORM in entries)
    if (
        len(entries) != len(moments) + counts
        or len(moments) < 2
        or type(step) is not Tensor
        or type(p) not in PLAIN_TENSORS
    ):
        return False
    shape, device, dtype = p.shape, p.device, getattr(moments[0], "dtype", None)
    return (
        p.dtype in USUAL_DTYPES
        and grad.dtype in USUAL_DTYPES
        and dtype in STATE_DTYPES
        and step.dtype in STATE_DTYPES
        and step.numel() == 1
        and not (step.is_meta or step.is_inference() or p.is_neg())
        and all(type(m) is Tensor and m.dtype == dtype for m in moments)
        and all(t.layout == torch.strided and t.shape == shape and t.device == device for t in (p, grad, *moments))
        and all(t.is_contiguous() and not t.is_inference() for t in (p, *moments))
    )


def _check_moments(p: Tensor, group: Mapping[str, Any], entries: Mapping[str, Any]) -> None:
    """Check that a parameter's state, if it has one, still goes with it and with its group."""
    if OWN in entries:
        raise ValueError("load_state_dict() was interrupted and the state is not whole; call it again")
    missing = [key for key in ESSENTIAL if key not in entries]
    if missing and len(missing) < len(ESSENTIAL):
        raise ValueError(
            f"the state of a parameter of shape {tuple(p.shape)} lacks {missing}, without which the rest of it means "
            "nothing; load a whole state_dict(), or delete the parameter's entry in optimizer.state to start anew"
        )
    moments = {key: entries[key] for key in MOMENTS if key in entries}
    for key, moment in {key: entries[key] for key in SHAPED if key in entries}.items():
        if not isinstance(moment, Tensor):
            raise ValueError(f"the state entry {key!r} of a parameter must be a tensor, got {moment!r}")
        codes = moment.dtype == torch.uint8 and key in moments
        if (
            not _fit(moment, p)
            or is_dtensor(moment) != is_dtensor(p)
            or (codes and is_dtensor(p) and not are_alike(moment, p))
        ):
            raise ValueError(
                f"the state no longer fits its parameter: {key!r} is {describe(moment)} on {moment.device} for "
                f"{describe(p)} on {p.device}; build a new optimizer after replacing or moving a parameter's data, and "
                "load this one's state_dict() into it to keep the moments"
            )
        if not (codes or moment.is_floating_point() or moment.is_complex()) or moment.layout != torch.strided:
            raise ValueError(
                f"the state entry {key!r} of a parameter must be a dense floating-point or complex tensor, or one of "
                f"8-bit codes, got {describe(moment)} in layout {moment.layout}; load a state_dict() that this "
                "optimizer saved"
            )
        if not _is_writable(moment):
            raise ValueError(
                f"the state entry {key!r} of a parameter of shape {tuple(p.shape)} cannot be written to: it is "
                "expanded, or was made under torch.inference_mode(); put a clone() of it there"
            )
        if moment.dtype == torch.uint8 and not _has_scale(entries.get(scale_of(key)), p):
            raise ValueError(
                f"the state entry {scale_of(key)!r} of a parameter of shape {tuple(p.shape)} must be a writable "
                f"torch.uint8 tensor of shape ({block_count(local_part(p).numel())},) on {p.device} beside 8-bit "
                f"codes, got {describe(entries.get(scale_of(key)))}; load a state_dict() that this optimizer saved"
            )
    dtypes = {moment.dtype for moment in moments.values()}
    if len(dtypes) > 1 and not dtypes <= {*MIXED_DTYPES}:
        raise ValueError(
            "the moments of a parameter must share a dtype, or be in float32, bfloat16 and 8-bit codes, got "
            f"{ {k: m.dtype for k, m in moments.items()} } for {describe(p)}; load a state_dict() that this optimizer "
            "saved"
        )
    if moments and not _counts(entries.get(STEP), p):
        raise ValueError(
            f"the state entry 'step' of a parameter must be a writable floating-point tensor of one element, got "
            f"{describe(entries.get(STEP))}; load_state_dict() takes whole numbers, too"
        )
    reduced = any(map(is_reduced, dtypes))
    if reduced and (group["amsgrad"] or group["differentiable"]):
        raise ValueError(
            "amsgrad=True and differentiable=True do not go with moments stored in bfloat16 or 8 bits, got such a "
            f"state for {describe(p)}; set them back to False"
        )


def check_gradients(
    rows: Iterable[tuple[Tensor, Tensor]], group: Mapping[str, Any], state: Mapping[Tensor, Any]
) -> None:
    """Check what may have changed since the last step: the gradients, the parameters under the state.

    Args:
        rows: parameters with their gradients; what the native kernels took, they have checked.
        group: their parameter group.
        state: the optimizer's state by parameter.

    Raises:
        ValueError: if a gradient or the state does not fit its parameter.
        RuntimeError: if a gradient is sparse, or a leaf is to be updated differentiably.
    """
    for p, grad in rows:
        if not group["differentiable"] and _is_usual(p, grad, state.get(p, {})):
            continue
        if grad.layout != torch.strided:
            raise RuntimeError(
                f"AdaMomentum does not support sparse gradients, got layout {grad.layout} for a parameter of shape "
                f"{tuple(p.shape)}; set sparse=False on its nn.Embedding, or give it to torch.optim.SparseAdam"
            )
        if is_dtensor(grad) != is_dtensor(p):
            raise ValueError(
                f"a gradient must be a DTensor where its parameter is one, got a {type(grad).__name__} for a "
                f"{type(p).__name__} of shape {tuple(p.shape)}; use torch.distributed.tensor.distribute_tensor"
            )
        if not _fit(grad, p):
            raise ValueError(
                f"a gradient must have the shape and device of its parameter and be complex where it is, got "
                f"{describe(grad)} on {grad.device} for {describe(p)} on {p.device}; call zero_grad() after replacing "
                "a parameter's data"
            )
        check_param(p, group["state_dtype"], group["rounding"])
        _check_moments(p, group, state.get(p, {}))
        if group["differentiable"] and p.is_leaf and p.requires_grad:
            raise RuntimeError(
                "differentiable=True updates parameters in place, which autograd does not allow for a leaf that "
                "requires grad; give the optimizer clones, such as p.clone()"
            )


def check_capture(group: Mapping[str, Any]) -> None:
    """Check that a CUDA graph is captured only of steps that can be.

    Raises:
        RuntimeError: if one is captured without ``capturable``.
    """
    if group["capturable"] or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    if any(p.is_cuda for p in group["params"]) and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("capturing step() in a CUDA graph needs capturable=True, got False")
