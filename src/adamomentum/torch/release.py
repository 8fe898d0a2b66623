r"""Training without gradient buffers: each gradient goes into the first moment the moment it is there, and is freed.

The second moment of AdaMomentum sees the momentum alone, and the momentum is linear in the gradient. So the gradients
of K backward passes need not be summed anywhere but in ``exp_avg``. In each pass but the last, a gradient g goes in as

    exp_avg <- exp_avg + (1 - beta1) / beta1 * g

and the update after the last pass, which is the ordinary one with the last gradient alone, multiplies by beta1 what is
there, to make beta1 m + (1 - beta1) times the sum of all gradients: the momentum of Algorithm 1 for that sum.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.autograd.function import BackwardCFunction
from torch.utils.hooks import RemovableHandle

from adamomentum.torch.checks import check_gradients, check_options
from adamomentum.torch.precision import is_reduced

if TYPE_CHECKING:
    from adamomentum.torch.optimizer import AdaMomentum

__all__ = ["ACCUMULATED", "ACCUMULATED_BETA1", "GradientRelease", "check_beta1", "release_gradients"]

# In a parameter group, how many backward passes are in the moments and not yet in the parameters; in the state of a
# parameter, a 0-dim float32 tensor on the CPU, how many of them gave it a gradient. Both are part of a checkpoint.
ACCUMULATED = "accumulated"
# In a parameter group, the beta1 that went into what was accumulated; absent while nothing is.
ACCUMULATED_BETA1 = "accumulated_beta1"


def release_gradients(
    optimizer: AdaMomentum, accumulation_steps: int = 1, *, local_gradients: bool = False
) -> GradientRelease:
    """Let every gradient go into the optimizer's state, and be freed, as soon as backward has made it.

    With one backward pass a step, each parameter is updated inside ``backward()``, when its gradient is ready. With
    ``accumulation_steps`` of them, the gradients of all but the last go into ``exp_avg`` at once, and the last pass
    updates the parameters. ``step()`` then finds nothing to do, and may be called as always; called before the last
    pass, as at the end of an epoch, it takes the step with what there is. The parameters are those that summing the
    gradients in ``p.grad`` and one ``step()`` would give, to rounding: gradients are summed, not averaged, so divide
    the loss by ``accumulation_steps`` as without release.

    lr, eps, weight decay and beta2 are read in the last pass, beta1 must not change from the first to the last. The
    state can be saved and loaded between any two passes; ``load_state_dict`` and ``release_gradients`` may come in
    either order.

    What cannot be had together with it, because it needs all gradients at once: clipping by their total norm,
    GradScaler (use bfloat16), reading ``p.grad`` after ``backward()``. Clip each gradient by itself in
    ``p.register_hook``. Clipping by others, ``torch.nn.utils.clip_grad_norm_`` and the trainers that call it, finds no
    gradients and does nothing: turn it off there (``max_grad_norm=0`` in transformers, ``gradient_clip_val=None`` in
    Lightning). A scaled loss must not be backpropagated at all; only ``GradScaler.step`` can notice.

    Args:
        optimizer: the optimizer, on parameters that are plain tensors or sharded by ``fully_shard``.
        accumulation_steps: backward passes a step, >= 1. With more than one, beta1 must be > 0 and the moments be kept
            in float32 or float64.
        local_gradients: confirm that the gradients of plain tensors need no reduction over the processes of a
            distributed run. DistributedDataParallel reduces them too late for release, use ``fully_shard``.

    Returns:
        A handle, whose ``remove()`` ends the release.

    Raises:
        TypeError: if ``optimizer`` is not an AdaMomentum, or ``accumulation_steps`` not an integer.
        ValueError: if an option of the optimizer does not go with release.
        RuntimeError: if gradients are released already, some are waiting in ``p.grad``, or the run is distributed and
            a parameter is a plain tensor without ``local_gradients``.
    """
    from adamomentum.torch.optimizer import AdaMomentum

    if not isinstance(optimizer, AdaMomentum):
        raise TypeError(
            f"optimizer must be an adamomentum.AdaMomentum, got {type(optimizer).__name__}: others need whole "
            "gradients; if that wraps one, pass the one inside, as in release_gradients(wrapper.optimizer)"
        )
    # Lightning's wrapper is one by inheritance, but its state is no longer that of the optimizer once one was loaded.
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if isinstance(accumulation_steps, bool) or not isinstance(accumulation_steps, int):
        raise TypeError(f"accumulation_steps must be an integer, got {accumulation_steps!r}")
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps must be >= 1, got {accumulation_steps}")
    if optimizer._pending.release is not None:
        raise RuntimeError("this optimizer releases its gradients already; call remove() on that handle first")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if any(p.grad is not None for p in params):
        raise RuntimeError("some gradients are in p.grad; call step() or zero_grad() before release_gradients")
    return GradientRelease(optimizer, accumulation_steps, local_gradients)


class GradientRelease:
    """The handle of :func:`~adamomentum.torch.release_gradients`, which makes it.

    Attributes:
        accumulation_steps: backward passes a step.
    """

    def __init__(self, optimizer: AdaMomentum, accumulation_steps: int, local_gradients: bool) -> None:
        self.accumulation_steps = accumulation_steps
        self._optimizer = optimizer
        self._local_gradients = local_gradients
        self._hooks: list[RemovableHandle] = []
        self._group_of: dict[Tensor, int] = {}
        self._lock = threading.Lock()  # each device has its own thread in backward
        # Of the backward pass under way: autograd's number for it, and the parameters that had their gradient.
        self._running: int | None = None
        self._last = False  # whether it is the one that updates
        self._seen: set[Tensor] = set()
        for group in optimizer.param_groups:
            self._check(group)
        for index in range(len(optimizer.param_groups)):
            self._hook(index)
        optimizer._pending.release = self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "the handle of release_gradients cannot be copied or pickled; copy the optimizer, and call "
            "release_gradients with the copy"
        )

    @property
    def accumulated(self) -> int:
        """How many backward passes are in the moments and not yet in the parameters."""
        return max((int(group.get(ACCUMULATED, 0)) for group in self._optimizer.param_groups), default=0)

    def attach(self, index: int) -> None:
        """Take on the parameters of a group.

        Args:
            index: its place in ``param_groups``.
        """
        self._check(self._optimizer.param_groups[index])
        self._hook(index)

    def _hook(self, index: int) -> None:
        group = self._optimizer.param_groups[index]
        group.setdefault(ACCUMULATED, self.accumulated)
        for p in group["params"]:
            if p.requires_grad:  # a frozen one that thaws later has its gradients in p.grad, for step() to take
                self._group_of[p] = index
                self._hooks.append(p.register_post_accumulate_grad_hook(self._take))
            state = self._optimizer.state.get(p)
            if state and not group[ACCUMULATED]:
                state.pop(ACCUMULATED, None)

    def remove(self) -> None:
        """End the release. What is in ``exp_avg`` of passes that are not in the parameters counts in the next step."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._group_of.clear()
        if self._optimizer._pending.release is self:
            self._optimizer._pending.release = None
            self._set_accumulated(0)

    def finish(self) -> None:
        """Update the parameters with what the passes since the last update have given, if there were any.

        Raises:
            RuntimeError: if a backward pass stopped half-way.
        """
        self._check_whole()
        if self.accumulated:
            for group in self._optimizer.param_groups:
                check_beta1(group)
            self._update_waiting()
            self._close()

    def forget(self) -> None:
        """Forget a backward pass that stopped half-way, once a state from before it has been loaded."""
        self._running = None
        self._seen.clear()

    def check_discardable(self) -> None:
        """Check that ``zero_grad`` has nothing to undo.

        Raises:
            RuntimeError: if passes are in the moments and not yet in the parameters.
        """
        if self.accumulated:
            raise RuntimeError(
                f"zero_grad cannot discard the gradients of {self.accumulated} backward passes, which are in exp_avg; "
                "call step() to take the step with them"
            )

    @torch.no_grad()
    def _take(self, p: Tensor) -> None:
        """What backward calls when the gradient of ``p`` is whole."""
        with self._lock:
            if self._running != torch._C._current_graph_task_id():
                self._begin()
        grad = p.grad
        if grad is None:
            return
        if grad.requires_grad:
            raise RuntimeError(
                "release_gradients does not go with backward(create_graph=True), which needs whole gradients"
            )
        if self._last and p in self._seen:
            raise RuntimeError(
                f"the gradient of a parameter of shape {tuple(p.shape)} was ready twice in one backward pass, after "
                "its update; fully_shard does that to a module that is called twice: shard its parent instead"
            )
        self._seen.add(p)
        if self._last:
            self._update(p)
        else:
            self._fold(p, grad)
        p.grad = None

    def _begin(self) -> None:
        """Start of a backward pass: check, before anything changes, what could make it fail later."""
        self._check_whole()
        if _is_nested():
            raise RuntimeError(
                "release_gradients does not go with reentrant checkpoints, whose backward passes lie in one another; "
                "call torch.utils.checkpoint.checkpoint with use_reentrant=False"
            )
        groups = self._optimizer.param_groups
        for group in groups:
            check_options(group, read_tensors=not group["capturable"])
            self._check(group)
            check_beta1(group)
        if self.accumulation_steps > 1:
            for group in groups:
                group.setdefault(ACCUMULATED_BETA1, _copy(group["betas"][0]))
        self._last = self.accumulated + 1 >= self.accumulation_steps
        self._running = torch._C._current_graph_task_id()
        Variable._execution_engine.queue_callback(self._end)

    @torch.no_grad()
    def _end(self) -> None:
        """End of a backward pass."""
        if self._last:
            self._update_waiting()
            self._close()
        else:
            self._set_accumulated(self.accumulated + 1)
        self.forget()

    def _fold(self, p: Tensor, grad: Tensor) -> None:
        """Put a gradient into the first moment."""
        optimizer, group = self._optimizer, self._optimizer.param_groups[self._group_of[p]]
        check_gradients([p], group, optimizer.state)
        state = optimizer._state_of(p, group)
        moment = state["exp_avg"]
        if is_reduced(moment.dtype):
            raise ValueError(_REDUCED.format(moment.dtype))
        beta1 = group["betas"][0]
        weight = (1 - beta1) / beta1 * (-1 if group["maximize"] else 1)
        if isinstance(weight, Tensor):
            moment.add_(grad.to(moment.dtype) * weight.to(moment.device))
        else:
            moment.add_(grad, alpha=weight)
        state[ACCUMULATED].add_(1)

    def _update(self, p: Tensor) -> None:
        """Take the step of one parameter, whose last gradient is in ``p.grad``."""
        self._optimizer._step_one(self._optimizer.param_groups[self._group_of[p]], p)

    def _update_waiting(self) -> None:
        """Take the step of the parameters that had a gradient in an earlier pass and none in the last one."""
        for p in self._group_of:
            if p in self._seen:
                continue
            waiting = self._optimizer.state.get(p, {}).get(ACCUMULATED)
            if waiting is not None and waiting.item() and p.grad is None:
                p.grad = torch.zeros_like(p)
                self._update(p)
                p.grad = None

    def _close(self) -> None:
        """What was accumulated is in the parameters."""
        self._set_accumulated(0)
        for group in self._optimizer.param_groups:
            group.pop(ACCUMULATED_BETA1, None)

    def _set_accumulated(self, count: int) -> None:
        for group in self._optimizer.param_groups:
            group[ACCUMULATED] = count
        if count == 0:
            for state in self._optimizer.state.values():
                if ACCUMULATED in state:
                    state[ACCUMULATED].zero_()

    def _check_whole(self) -> None:
        if self._running is not None:
            raise RuntimeError(
                "the last backward pass stopped half-way, when some of its gradients were in the optimizer's state; "
                "load a state saved before it with load_state_dict, and the parameters too"
            )

    def _check(self, group: dict[str, Any]) -> None:
        """Check that a parameter group goes with release."""
        if group["differentiable"]:
            raise ValueError("release_gradients does not go with differentiable=True, which needs whole gradients")
        if self.accumulation_steps > 1:
            if is_reduced(group["state_dtype"]):
                raise ValueError(_REDUCED.format(group["state_dtype"]))
            if _readable(group["betas"][0]) and float(group["betas"][0]) == 0:
                raise ValueError(
                    "betas[0] must be > 0 with accumulation_steps > 1, got 0: exp_avg then keeps nothing from one pass "
                    "to the next; set accumulation_steps=1"
                )
        if not self._local_gradients and _is_distributed():
            for p in group["params"]:
                if not hasattr(p, "placements"):
                    raise RuntimeError(
                        "release_gradients in a distributed run needs parameters sharded by fully_shard, got a plain "
                        f"tensor of shape {tuple(p.shape)}: DistributedDataParallel would reduce its gradient after "
                        "the update; pass local_gradients=True if no reduction is wanted"
                    )


def check_beta1(group: dict[str, Any]) -> None:
    """Check that beta1 is still what it was when gradients went into the first moment.

    Raises:
        ValueError: if it is another one.
    """
    old, new = group.get(ACCUMULATED_BETA1), group["betas"][0]
    if old is not None and _readable(old) and _readable(new) and float(old) != float(new):
        raise ValueError(
            f"betas[0] must not change between the backward passes of one step, got {float(new)} after {float(old)}; "
            "move its schedule on after steps alone"
        )


_REDUCED = (
    "accumulation_steps > 1 needs moments in float32 or float64, got {}: exp_avg would be rounded in every pass; set "
    "accumulation_steps=1, or state_dtype=None"
)


def _is_distributed() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _readable(x: float | Tensor) -> bool:
    """Whether reading a number does not wait for a device."""
    return not isinstance(x, Tensor) or x.is_cpu


def _copy(x: float | Tensor) -> float | Tensor:
    return x.clone() if isinstance(x, Tensor) else x


def _is_nested() -> bool:
    """Whether the backward pass under way was started by a node of another one."""
    frame, in_pass = sys._getframe(), False
    while frame.f_back is not None:
        frame = frame.f_back
        in_pass = in_pass or frame.f_code.co_name == "_engine_run_backward"
        if in_pass and frame.f_code is BackwardCFunction.apply.__code__:
            return True
    return False
