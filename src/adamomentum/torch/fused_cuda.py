"""The fused path on CUDA: one launch updates all tensors of a group that share their dtypes.

The kernel finds its tensors through a table of addresses, which native code makes in most cases, Python where there is
none or step counts are on the device. The table is made anew at every step and nothing is kept: to notice a tensor that
moved, all addresses would have to be read anyway, and gradients do move. It travels from pinned memory, which torch's
allocator does not reuse before the copy is done, so the host never waits.

In a CUDA graph nothing moves: what is captured keeps its addresses in every replay. So while a graph is captured, the
table is uploaded apart from it, once, on another stream that the host waits for, and replays read it. It lives as long
as the moments that it leads to, without which no replay is any good either.

The kernel itself is in :mod:`adamomentum.torch.fused_cuda_kernel`. Triton is imported when it is first needed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from adamomentum.torch import fused_cpu
from adamomentum.torch.rounding import ROUNDINGS, Rounding, rounds
from adamomentum.torch.rule import Rule
from adamomentum.torch.scalars import ENTRY, MATRIX_COLUMNS, in_columns, numbers_at, numbers_matrix, with_floats
from adamomentum.torch.state import (
    EXP_AVG,
    EXP_AVG_SQ,
    MAX_EXP_AVG_SQ,
    MIXED_DTYPES,
    PLAIN_TENSORS,
    ROUNDING_STATE,
    STEP,
    Row,
    scale_of,
)

if TYPE_CHECKING:
    from adamomentum._native import Batch

__all__ = ["fused_cuda_update", "new_batch", "run", "run_batch", "why_not", "why_not_update"]

_IN_ORDER = itemgetter(*ENTRY)
_NAMES = ("parameter", "gradient", EXP_AVG, EXP_AVG_SQ, "state of the rounding")
_PARAM_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# What captured graphs read, by the first moment of the first tensor that it is of.
_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@functools.cache
def why_not() -> str | None:
    """Why the kernel can't be used in this process, as a sentence; None if it can."""
    try:
        kernel = _kernel()
    except RuntimeError as error:
        return str(error)
    if _interpreted(kernel):
        return None
    if not torch.cuda.is_available():
        return "fused=True on CUDA needs a CUDA device, and torch finds none"
    try:
        # Triton compiles a small C program at its start: the usual cause of failure is a missing C compiler.
        kernel.triton.runtime.driver.active.get_current_target()
    except Exception as error:
        return f"fused=True on CUDA needs Triton, which fails to start: {error}"
    return None


def why_not_update(p: Tensor, g: Tensor, m: Tensor, v: Tensor, kept: Tensor | None = None) -> str | None:
    """Why :func:`fused_cuda_update` can't update these tensors, as a sentence; None if it can.

    Args:
        p: a parameter.
        g: its gradient.
        m: its first moment.
        v: its second moment.
        kept: what rounding keeps of it.
    """
    device = p.device
    tensors = (p, g, m, v) if kept is None else (p, g, m, v, kept)
    for name, t in zip(_NAMES, tensors, strict=False):
        if type(t) not in PLAIN_TENSORS or t.layout != torch.strided or t.is_neg():
            return f"the {name} is not a plain dense tensor: {type(t).__name__}, {t.layout}"
        if t.device != device:
            return f"the {name} is on {t.device}, the parameter on {device}"
    if reason := _on_unusable_device(p):
        return reason
    if p.dtype not in _PARAM_DTYPES:
        return f"the parameter's dtype is {p.dtype}, not float32, bfloat16 or float16"
    if g.dtype != p.dtype:
        return f"the gradient's dtype is {g.dtype}, the parameter's {p.dtype}"
    if m.dtype not in MIXED_DTYPES or v.dtype not in MIXED_DTYPES:
        return f"the dtypes of the moments are {m.dtype} and {v.dtype}, not float32, bfloat16 or 8-bit codes"
    # This runs for every tensor at every step, so the usual case is told by what is cheap to ask.
    if all(t.is_contiguous() and t.shape == p.shape for t in tensors):
        return None
    for name, t in zip(_NAMES, tensors, strict=False):
        codes_in_order = t.dtype == torch.uint8 and t.dim() == 1 and t.numel() == p.numel() and t.is_contiguous()
        if not codes_in_order and _layout(t) != _layout(p):
            return f"the {name} has another shape or memory layout than the parameter"
    if not _dense(p):
        return "the parameter's elements do not lie together in memory"
    return None


def run(rows: list[Row], rule: Rule, *, capturable: bool, found_inf: Tensor | None) -> list[Row]:
    """Take the step for what the kernel can take, device by device, and count it.

    Args:
        rows: parameter, gradient and state of each tensor.
        rule: the options.
        capturable: never read a tensor on the host.
        found_inf: one float32 number on the device: if it is not 0, nothing changes.

    Returns:
        The rows that the kernel can't take.

    Raises:
        RuntimeError: if there are such rows and a ``found_inf``, which only the kernel can obey.
    """
    alike: dict[torch.device, list[Row]] = defaultdict(list)
    rest = []
    keeps = rule.rounding in ROUNDING_STATE
    for p, grad, state in rows:
        kept = state[ROUNDING_STATE[rule.rounding]] if keeps and rounds(p, rule.rounding) else None
        reason = why_not_update(p, grad, state[EXP_AVG], state[EXP_AVG_SQ], kept)
        if reason and found_inf is not None:
            raise RuntimeError(
                f"a captured step with a GradScaler needs the fused kernel for every tensor, but {reason}; give that "
                "parameter to another optimizer"
            )
        if reason:
            rest.append((p, grad, state))
        else:
            alike[p.device].append((p, grad, state))
    factor = rule.grad_factor  # one that is a tensor stays on its device in any case
    rule = with_floats(rule._replace(grad_factor=1.0), keep_tensors=capturable)
    for device, members in alike.items():
        steps = [state[STEP] for _, _, state in members]
        if found_inf is not None:
            torch._foreach_add_(steps, (found_inf == 0).to(torch.float32).reshape(()))
        elif steps[0].is_cpu:  # the last line would wrap the 1 into a tensor again for each step
            torch._foreach_add_(steps, torch.tensor(1.0, device="cpu"), alpha=1.0)
        else:
            torch._foreach_add_(steps, 1.0)
        fused_cuda_update(
            members,
            numbers=numbers_matrix(steps, rule, device),
            grad_factor=(
                factor.to(device, torch.float32).reshape(())
                if isinstance(factor, Tensor)
                else torch.full((), factor, dtype=torch.float32, device=device)
            ),
            rule=rule,
            found_inf=found_inf,
        )
    return rest


def fused_cuda_update(
    rows: list[Row], *, numbers: Tensor, grad_factor: Tensor, rule: Rule, found_inf: Tensor | None
) -> None:
    """Update tensors in place, without a wait of the host.

    Args:
        rows: parameter, gradient and state of each tensor. All are on one device, :func:`why_not_update` has nothing
            against them, and their steps are counted by now.
        numbers: what :func:`adamomentum.torch.scalars.numbers_matrix` returned, a row each.
        grad_factor: one float32 number on the device, by which the gradients are multiplied.
        rule: the options, of which those are looked at here that are not in ``numbers``.
        found_inf: one float32 number on the device: if it is not 0, nothing is written. None for 0.

    Raises:
        RuntimeError: if Triton is missing.
    """
    kernel = _kernel()
    alike: dict[tuple[torch.dtype, ...], list[int]] = defaultdict(list)
    for i, (p, _, state) in enumerate(rows):
        if p.numel():
            alike[(p.dtype, state[EXP_AVG].dtype, state[EXP_AVG_SQ].dtype, state[STEP].dtype)].append(i)
    if not alike:
        return

    device = rows[0][0].device
    for (param_dtype, m_dtype, v_dtype, step_dtype), indices in alike.items():
        steps_on_device = _steps_on_device(rows[indices[0]][2][STEP], device)
        rounding = rule.rounding if rounds(rows[indices[0]][0], rule.rounding) else "nearest"
        rounds_moments = {m_dtype, v_dtype} != {torch.float32}
        amsgrad = rule.amsgrad and not rounds_moments
        keys = {
            "m": EXP_AVG,
            "v": EXP_AVG_SQ,
            "v_max": MAX_EXP_AVG_SQ if amsgrad else "",
            "m_scale": scale_of(EXP_AVG) if m_dtype == torch.uint8 else "",
            "v_scale": scale_of(EXP_AVG_SQ) if v_dtype == torch.uint8 else "",
            "kept": ROUNDING_STATE.get(rounding, ""),
        }
        entries: list[tuple[int, ...]] = []
        starts: list[int] = []
        chunks = 0
        for i in indices:
            p, grad, state = rows[i]
            numel, step = p.numel(), 0
            if rounds_moments or rounding == "stochastic":  # for the random bits
                step = state[STEP].data_ptr() if steps_on_device else int(state[STEP].item())
            entry = {name: state[key].data_ptr() if key else 0 for name, key in keys.items()}
            entry |= {"numel": numel, "start": chunks, "row": i, "step": step, "position": 0}
            entry |= {"param": p.data_ptr(), "grad": grad.data_ptr()}
            entries.append(_IN_ORDER(entry))
            starts.append(chunks)
            chunks += -(-numel // kernel.CHUNK)
        names = _name(param_dtype), _name(m_dtype), _name(v_dtype)
        kind = _Kind(names, rounding, _name(step_dtype) if steps_on_device else None)
        with _on(device):
            capturing = _is_capturing(device)
            with _apart_from_the_graph(device) if capturing else nullcontext():
                table = _upload(bytearray(array("q", [*chain.from_iterable(entries), *starts])), device, wait=capturing)
                owners = _owners(table, len(indices), chunks)
            if capturing:
                leads_to = rows[indices[0]][2][EXP_AVG]
                if leads_to not in _kept:
                    _kept[leads_to] = []
                _kept[leads_to].append((table, owners))
            _launch(kind, table, owners, numbers, grad_factor, rule._replace(amsgrad=amsgrad), found_inf)
    torch.autograd.graph.increment_version([p for p, _, _ in rows])


def new_batch(rounding: Rounding, p: Tensor) -> Batch | None:
    """Return an empty batch that gathers tensors for :func:`run_batch`; None where it can't be.

    That is without the native code, which makes the table in a fraction of Python's time.

    Args:
        rounding: the option of that name.
        p: a parameter on the device.
    """
    if fused_cpu.why_not() or _on_unusable_device(p):
        return None
    return fused_cpu.new_batch(rounding, table_device=int(p.__dlpack_device__()[0]))


def run_batch(batch: Batch, rule: Rule) -> None:
    """Take the step for everything in a batch from :func:`new_batch`, and count it. Steps are on the CPU.

    Args:
        batch: what is to be updated.
        rule: the options; tensors among them are read on the host, but for ``grad_factor``.

    Raises:
        RuntimeError: if Triton is missing.
    """
    factor = rule.grad_factor
    rule = with_floats(rule._replace(grad_factor=1.0))
    rows = [in_columns(numbers_at(t, rule)) for t in batch.next_steps()]
    floats = array("f", [float(x) for row in rows for x in row])
    floats.append(1.0 if isinstance(factor, Tensor) else factor)
    floats.extend([0.0] * (len(floats) % 2))  # whole elements of int64
    for index, param, m, v, rounding, tensors, chunks, cells in batch.tables(_kernel().CHUNK, ENTRY):
        device = torch.device(batch.params[0].device.type, index)
        with _on(device):
            table = _upload(cells + floats.tobytes(), device)  # all in one copy
            numbers = table[-len(floats) // 2 :].view(torch.float32)
            one = numbers[len(rows) * len(MATRIX_COLUMNS)]
            grad_factor = factor.to(device, torch.float32).reshape(()) if isinstance(factor, Tensor) else one
            owners = _owners(table, tensors, chunks)
            _launch(_Kind((param, m, v), rounding), table, owners, numbers, grad_factor, rule, None)
    batch.count()
    torch.autograd.graph.increment_version(batch.params)


class _Kind(NamedTuple):
    """What tensors of one launch have in common: names of dtypes, how parameters are rounded."""

    dtypes: tuple[str, str, str]  # of parameters and both moments
    rounding: Rounding
    step: str | None = None  # None for step counts on the CPU


def _owners(table: Tensor, tensors: int, chunks: int) -> Tensor:
    """Return the tensor of each chunk: how many of them start at or before it, as the end of the table has it."""
    first = tensors * len(ENTRY)
    return torch.searchsorted(
        table[first : first + tensors], torch.arange(chunks, device=table.device), right=True, out_int32=True
    )


def _launch(
    kind: _Kind,
    table: Tensor,
    owners: Tensor,
    numbers: Tensor,
    grad_factor: Tensor,
    rule: Rule,
    found_inf: Tensor | None,
) -> None:
    """Launch the kernel for the tensors of a table, of which ``owners`` has the one of each chunk."""
    kernel = _kernel()
    param, m, v = (getattr(kernel.tl, name) for name in kind.dtypes)
    kernel.update_chunk[(len(owners),)](
        table,
        owners,
        numbers,
        grad_factor,
        l2=float(rule.l2),
        passes=float(rule.passes),
        momentum_floor=float(rule.momentum_floor),
        found_inf=found_inf,
        PARAM=param,
        M_STATE=m,
        V_STATE=v,
        AMSGRAD=rule.amsgrad,
        HAS_L2=rule.l2 != 0,
        LOOKAHEAD=rule.lookahead,
        NESTEROV=rule.nesterov,
        ROUNDING=ROUNDINGS.index(kind.rounding),
        STEP=None if kind.step is None else getattr(kernel.tl, kind.step),
        CHUNK=kernel.CHUNK,
        num_warps=kernel.WARPS,
        enable_fp_fusion=False,  # the same roundings on every device, and in the interpreter
    )


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _upload(values: bytearray, device: torch.device, *, wait: bool = False) -> Tensor:
    """Return an int64 tensor on the device, from its bytes; without a wait of the host if not told to."""
    table = torch.frombuffer(values, dtype=torch.int64)  # half the time of torch.tensor
    if device.type != "cuda":
        return table
    return table.to(device) if wait else table.pin_memory().to(device, non_blocking=True)


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@contextmanager
def _apart_from_the_graph(device: torch.device) -> Iterator[None]:
    """Run work on the device now while a graph is captured, on another stream; at the end the host waits for it.

    Memory that is allocated meanwhile is not the graph's.
    """
    with _relaxed():
        stream: Any = torch.cuda.current_stream(device)
        while _captures(stream):  # streams are handed out again and again, so that one may be the graph's
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()


def _captures(stream: Any) -> bool:
    with torch.cuda.stream(stream):
        return torch.cuda.is_current_stream_capturing()


@contextmanager
def _relaxed() -> Iterator[None]:
    """Let this thread allocate and wait while it captures a graph; CUDA forbids it unless told that it is meant so.

    Raises:
        RuntimeError: if the driver can't be told.
    """
    if torch.version.hip:
        library, function = "libamdhip64.so", "hipThreadExchangeStreamCaptureMode"
    else:
        library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        function = "cuThreadExchangeStreamCaptureMode"
    try:
        exchange = getattr(ctypes.CDLL(library), function)
    except (OSError, AttributeError) as error:
        raise RuntimeError(
            f"capturing step() with fused=True needs {function} of {library}: {error}; use foreach=True"
        ) from None
    mode = ctypes.c_int(2)  # CU_STREAM_CAPTURE_MODE_RELAXED; becomes what it was before
    if code := exchange(ctypes.byref(mode)):
        raise RuntimeError(f"capturing step() with fused=True: {function} failed with code {code}; use foreach=True")
    try:
        yield
    finally:
        exchange(ctypes.byref(mode))


def _steps_on_device(step: Tensor, device: torch.device) -> bool:
    return step.device == device


@functools.cache
def _kernel() -> Any:
    """Return the module of the kernel."""
    try:
        return importlib.import_module("adamomentum.torch.fused_cuda_kernel")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise RuntimeError(
            "fused=True on CUDA needs Triton: it comes with the CUDA builds of PyTorch; pip install triton"
        ) from None


def _interpreted(kernel: Any) -> bool:
    """Whether Triton was told, by TRITON_INTERPRET=1, to run its kernels in Python, on the CPU."""
    return not isinstance(kernel.update_chunk, kernel.triton.JITFunction)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _on_unusable_device(p: Tensor) -> str | None:
    if p.is_cpu and why_not() is None and _interpreted(_kernel()):
        return None
    if not p.is_cuda:
        return f"the parameter is on {p.device}, not on a CUDA device"
    if _too_old(p.device):
        return f"Triton needs compute capability 7.0, {torch.cuda.get_device_name(p.device)} has less"
    return None


@functools.cache
def _too_old(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0)


def _layout(t: Tensor) -> tuple[torch.Size, list[int]]:
    """Shape and strides, without the strides that do not matter."""
    return t.shape, [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1 and t.numel()]


def _dense(t: Tensor) -> bool:
    """Whether the elements fill a stretch of memory, each its own place."""
    if t.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
