"""Hands the tensors of a step to the native CPU kernels, and says why it can't where it can't."""

from __future__ import annotations

import ctypes
import math
import pathlib
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from adamomentum.torch.rounding import Rounding
from adamomentum.torch.rule import Rule
from adamomentum.torch.scalars import as_real, numbers_at, with_floats
from adamomentum.torch.sharded import local_tensors
from adamomentum.torch.state import PLAIN_TENSORS

if TYPE_CHECKING:
    from adamomentum._native import Batch

__all__ = ["add", "details", "fold", "new_batch", "norm", "norms", "run", "watched", "why_not"]


@cache
def _load() -> tuple[Any, str | None]:
    """Return the native module, connected to torch; or None and the reason."""
    try:
        from adamomentum import _native
    except ImportError as error:
        return None, (
            "this installation of adamomentum has no native kernels, since there was no C++ compiler when it was "
            f"installed or it failed ({error}): install GCC or Clang, then run pip install -v --force-reinstall "
            "--no-cache-dir --no-deps adamomentum (or the path of your clone), which also shows what a compiler says"
        )
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None or not _native.connect(capsule):
        return None, f"it needs the DLPack exchange interface of torch 2.10 or newer, got torch {torch.__version__}"
    _native.use_torch_threads(_torch_parallel_for())
    return _native, None


def _torch_parallel_for() -> int:
    """Return the address of the entry to torch's thread pool, which torch exports as a C function; 0 for none."""
    name = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")
    try:
        library = ctypes.CDLL(str(pathlib.Path(torch.__file__).parent / "lib" / name))
        return ctypes.cast(library.torch_parallel_for, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


def why_not() -> str | None:
    """Why the kernels can't be used in this process, as a sentence; None if they can."""
    return _load()[1]


def details() -> str:
    """Return the instruction set and the threads in use, and what compiled the kernels."""
    native = _load()[0]
    return f"{native.isa} kernels, {native.thread_source()} threads, compiled by {native.compiler}"


def watched() -> bool:
    """Whether a torch mode wants to see every operation, as fake tensors and counters of operations do."""
    if torch._C._len_torch_dispatch_stack():
        return True
    if not torch._C._len_torch_function_stack():
        return False
    # A default device is such a mode too, but one that only looks at what creates tensors.
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return not all(isinstance(mode, DeviceContext) for mode in modes)


def new_batch(rounding: Rounding = "nearest", table_device: int | None = None) -> Batch:
    """Return an empty batch, for the tensors of one parameter group. :func:`why_not` must be None.

    Args:
        rounding: the option of that name.
        table_device: to gather tensors for a kernel on another device, its type in DLPack.
    """
    batch: Batch = _load()[0].Batch(PLAIN_TENSORS, rounding, table_device)
    return batch


def add(batch: Batch, p: Tensor, grad: Tensor, state: Mapping[str, Tensor], amsgrad: bool) -> bool:
    """Put one parameter into a batch, whatever kind of tensor it is, if the kernels can update it.

    They take dense tensors in float32, float64, float16 or bfloat16 whose gradient and moments have the same layout,
    the gradient the same dtype too; moments in float32 (float64 for float64), or in reduced precision but for float64.
    Complex tensors go in as pairs of real numbers, and DTensors as what this process holds of them.

    Returns:
        Whether it is in the batch now.
    """
    state = state if isinstance(state, dict) else dict(state)
    if batch.add(p, grad, state, amsgrad):
        return True
    if p.is_complex():
        return batch.add(as_real(p), as_real(grad), {k: as_real(t) for k, t in state.items()}, amsgrad)
    local = local_tensors(p, grad, state)
    if local is None:
        return False
    first, row = local
    if not batch.add(*row, amsgrad, first):
        return False
    torch.autograd.graph.increment_version(p)  # run() does it for the local tensor alone
    return True


def run(batch: Batch, rule: Rule) -> None:
    """Take the step for everything in a batch, and count it."""
    rule = with_floats(rule)
    numbers = [numbers_at(t, rule) for t in batch.next_steps()]
    batch.run(
        numbers,
        grad_factor=float(rule.grad_factor),
        l2=rule.l2,
        lookahead=rule.lookahead,
        nesterov=rule.nesterov,
        passes=rule.passes,
        momentum_floor=rule.momentum_floor,
        threads=torch.get_num_threads(),
    )
    # Written behind autograd's back: it must still notice when a graph needs the old values.
    torch.autograd.graph.increment_version(batch.params)


def fold(batch: Batch, weight: float, passes: list[int]) -> None:
    """Add ``weight`` times the gradient to the first moment of everything in a batch.

    Args:
        batch: the parameters.
        weight: what gradients are multiplied by.
        passes: for each of them, the number of the pass within the step, from 1.
    """
    batch.fold(weight, passes, torch.get_num_threads())


def norm(params: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the 2-norm of the parameters' gradients, in float32 or wider, which they are, and those it leaves out."""
    batch = new_batch()
    rest = batch.gather_gradients(params)
    squares = batch.square_sum(torch.get_num_threads())
    dtype = torch.float64 if batch.has_float64 else torch.float32
    return torch.tensor(math.sqrt(squares), dtype=dtype, device="cpu"), batch.grads, rest


def norms(params: list[Tensor], grads: list[Tensor]) -> tuple[list[float], list[Tensor]]:
    """Return the 2-norms of gradients, in their order, and the gradients that it leaves out.

    Args:
        params: the parameters.
        grads: their gradients.
    """
    batch = new_batch()
    rest = batch.gather_gradients(params, grads)
    return [math.sqrt(square) for square in batch.square_sums(torch.get_num_threads())], rest


_load()  # now, so that a process forked later knows that it was
