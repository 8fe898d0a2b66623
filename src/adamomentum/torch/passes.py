"""What a hook can see of the backward pass that calls it: whether it is one that gradient release goes with.

Autograd tells a hook nothing but the number of the pass. The rest is on the stack: each pass that Python starts goes
through ``_engine_run_backward``, whose arguments are the tensors that it starts from.

Tested in tests/torch/test_release.py.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

__all__ = ["is_compiled", "is_nested", "number", "reenters"]


# Returns autograd's number of the pass; no other has the same.
number = torch._C._current_graph_task_id


def is_compiled() -> bool:
    """Whether compiled autograd runs the pass: it calls hooks when it likes, and nothing at the end of the pass."""
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return bool(getattr(module, "in_compiled_autograd_region", False))


def is_nested() -> bool:
    """Whether the pass was started by a node or a hook of another one."""
    frame = _start_of_pass(sys._getframe())
    while frame is not None and (frame := frame.f_back) is not None:
        # The first is there where a device's own thread, on whose stack the outer pass is not, runs the node.
        if frame.f_code is BackwardCFunction.apply.__code__ or _starts_a_pass(frame):
            return True
    return False


def reenters() -> bool:
    """Whether a node of the pass will start another pass, as that of a reentrant checkpoint does."""
    frame = _start_of_pass(sys._getframe())
    if frame is None:  # a device's own thread; the pass was started on another one
        starts = [start for top in sys._current_frames().values() if (start := _start_of_pass(top)) is not None]
        if len(starts) != 1:
            return False
        frame = starts[0]
    return any(_starts_passes(kind) for kind in _kinds_of_nodes(frame.f_locals.get("t_outputs", ())))


def _starts_a_pass(frame: FrameType) -> bool:
    return frame.f_code.co_name == "_engine_run_backward"


def _start_of_pass(frame: FrameType | None) -> FrameType | None:
    """Return the innermost start of a pass on a stack."""
    while frame is not None and not _starts_a_pass(frame):
        frame = frame.f_back
    return frame


def _kinds_of_nodes(outputs: Iterable[Any]) -> Iterator[type]:
    """Return the types of the nodes of a graph, given the tensors or gradient edges that a pass starts from."""
    roots = (output.grad_fn if isinstance(output, Tensor) else output.node for output in outputs)
    waiting = [node for node in roots if node is not None]
    seen, kinds = set(waiting), set(map(type, waiting))
    leaf = getattr(torch._C._functions, "AccumulateGrad", None)  # leaves lead nowhere
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None or (kind := type(node)) is leaf or node in seen:
                continue
            seen.add(node)
            kinds.add(kind)
            waiting.append(node)
    return iter(kinds)


def _starts_passes(kind: type) -> bool:
    """Whether nodes of a type are those of a Python function whose ``backward`` calls ``torch.autograd.backward``."""
    backward = getattr(getattr(kind, "_forward_cls", None), "backward", None)
    code = getattr(inspect.unwrap(backward), "__code__", None) if backward is not None else None
    return code is not None and {"autograd", "backward"} <= set(code.co_names)
