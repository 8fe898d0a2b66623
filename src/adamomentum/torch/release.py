r"""Training without gradient buffers: each gradient goes into the first moment soon after it is there, and is freed.

The second moment of AdaMomentum sees the momentum alone, and the momentum is linear in the gradient. So the gradients
of K backward passes need not be summed anywhere but in ``exp_avg``. In each pass but the last, a gradient g goes in as

    exp_avg <- exp_avg + (1 - beta1) / beta1 * g

and the update after the last pass, which is the ordinary one with the last gradient alone, multiplies by beta1 what is
there, to make beta1 m + (1 - beta1) times the sum of all gradients: the momentum of Algorithm 1 for that sum. Where
``exp_avg`` is in bfloat16 or 8 bits it is so on average (``fold.py``).

Gradients wait for each other in a bucket (``bucket.py``) until it is full or the pass at its end, so that Python's
share of an update is not paid for every tensor.

The look-ahead momentum, which the second moment of the drop-in for AdamW averages the square of, needs that sum by
itself. In its place stands K times the last gradient: its mean in white noise has a closed form, too
(:func:`adamomentum.reference.white_noise_mean`), and where it cancels the momentum there is a floor
(:func:`adamomentum.reference.momentum_floor`).
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.utils.hooks import RemovableHandle

from adamomentum.torch import lightning_clip, passes
from adamomentum.torch.bucket import Bucket, Buckets, Part
from adamomentum.torch.checks import LOAD_STATE, check_beta1, check_options, check_whole, is_readable
from adamomentum.torch.clip_each import AdaptiveClip, check_clip, clipped, factors_of
from adamomentum.torch.fold import fold
from adamomentum.torch.functional import choose_kernels
from adamomentum.torch.optimizer import AdaMomentum, take_work
from adamomentum.torch.rule import Scalar
from adamomentum.torch.state import PASSES, PASSES_BETA1, PLAIN_TENSORS, by_passes, passes_of, set_passes
from adamomentum.torch.unsynchronized import watch

__all__ = ["GradientRelease", "release_gradients"]


def release_gradients(
    optimizer: AdaMomentum,
    accumulation_steps: int = 1,
    *,
    clip: float | AdaptiveClip | None = None,
    local_gradients: bool = False,
) -> GradientRelease:
    """Let every gradient go into the optimizer's state, and be freed, soon after backward has made it.

    With one backward pass a step, each parameter is updated inside ``backward()``, when its gradient is ready and with
    those ready before it is one of 2^20 elements or more (4 MiB in float32), the rest at the end of the pass. With
    ``accumulation_steps`` of them, the gradients of all but the last go into ``exp_avg`` at once, and the last pass
    updates the parameters. ``step()`` then finds nothing to do, and may be called as always; called before the last
    pass, as at the end of an epoch, it takes the step with what there is. The parameters are those that summing the
    gradients in ``p.grad`` and one ``step()`` would give, to rounding: gradients are summed, not averaged, so divide
    the loss by ``accumulation_steps`` as without release.

    Every backward pass trains, whatever it is for: also that of another network's loss through this one, or one for a
    map of the inputs' gradients. Put those under ``with handle.paused():``. ``torch.autograd.grad`` never trains.

    The optimizer must be kept, as the parameters do not keep it; the handle need not be. Parameters that are thawed,
    or added by ``add_param_group``, are trained from then on.

    lr, eps, weight decay and beta2 are read in the last pass, beta1 must not change from the first to the last. The
    state can be saved and loaded between any two passes; ``load_state_dict`` and ``release_gradients`` may come in
    either order.

    What cannot be had together with it, because it needs all gradients at once: clipping by their total norm,
    GradScaler (use bfloat16), reading ``p.grad`` after ``backward()``. With ``clip`` each gradient is clipped by its
    own norm. Clipping by others, ``torch.nn.utils.clip_grad_norm_`` and the trainers that call it, finds no gradients
    and does nothing: turn it off there (``max_grad_norm=0`` in transformers, ``gradient_clip_val=None`` in Lightning).
    Given what Lightning's ``self.optimizers()`` or ``fabric.setup`` returns, ``clip_gradients`` of either raises.
    A scaled loss must not be backpropagated at all; only ``GradScaler.step`` can notice.
    ``backward()`` raises, before anything changes, with ``create_graph=True``, reentrant checkpoints, compiled autograd
    or another pass under way.

    Args:
        optimizer: the optimizer, on parameters that are plain tensors or sharded by ``fully_shard``.
        accumulation_steps: backward passes a step, >= 1. With more than one, beta1 must be > 0 and ``nesterov`` be
            off; a second moment of the look-ahead momentum then takes K times the last pass's gradient for the sum of
            the K that a parameter had. ``exp_avg`` in bfloat16 or 8 bits is rounded in each pass, stochastically; in
            float32 the sum is exact, also with ``exp_avg_sq`` in 8 bits: ``state_dtype=("float32", "8bit")``.
        clip: the largest 2-norm of a gradient, > 0, of each parameter by itself, where torch's ``max_norm`` is of all
            of them together. With K passes a step each gradient is clipped to ``clip`` / K, so that their sum is within
            ``clip``; noise makes the norms of K small batches larger, up to sqrt(K) times: choose it so. Or an
            :class:`~adamomentum.torch.AdaptiveClip`, whose limit for the gradient of a pass follows their average. A
            spike then moves a parameter, in 2-norm, by no more than lr * limit / d, weight decay aside: limit is the
            largest so far, the sum of those of the passes of a step; d is the smallest element of what the step divides
            by, sqrt(v / (1 - beta2^t)) or as ``adjust_lr`` has it, where kappa_t is in the place of 1 - beta2^t and
            with several passes can be larger; it is at least sqrt(beta2) times as large as with v of before. Gradients
            are read and not written, L2 decay is not part of them. Where a norm is infinite finite elements become 0
            and infinite ones NaN, as in torch. Of parameters sharded by ``fully_shard`` it is the norm of the whole, in
            an all-reduce of one number a parameter for each bucket. None: no clipping.
        local_gradients: confirm that the gradients of plain tensors need no reduction over the processes of a
            distributed run. DistributedDataParallel reduces them too late for release, use ``fully_shard``.

    Returns:
        A handle, whose ``paused()`` keeps passes from training, and whose ``remove()`` ends the release.

    Raises:
        TypeError: if ``optimizer`` is not an AdaMomentum, ``accumulation_steps`` not an integer, or ``clip`` neither a
            number nor an AdaptiveClip.
        ValueError: if an option of the optimizer does not go with release, or ``clip`` is not > 0.
        RuntimeError: if gradients are released already, some are waiting in ``p.grad``, or the run is distributed and
            a parameter is a plain tensor without ``local_gradients``.
    """
    if not isinstance(optimizer, AdaMomentum):
        raise TypeError(
            f"optimizer must be an adamomentum.AdaMomentum, got {type(optimizer).__name__}: others need whole "
            "gradients; if that wraps one, pass the one inside, as in release_gradients(wrapper.optimizer)"
        )
    # Lightning's wrapper is one by inheritance, but its state is no longer that of the optimizer once one was loaded.
    wrapper, optimizer = optimizer, getattr(optimizer, "optimizer", optimizer)
    if optimizer._pending.release is not None:
        raise RuntimeError("this optimizer releases its gradients already; call remove() on that handle first")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if any(p.grad is not None for p in params):
        raise RuntimeError("some gradients are in p.grad; call step() or zero_grad() before release_gradients")
    release = GradientRelease(optimizer, accumulation_steps, check_clip(clip), local_gradients)
    strategy = getattr(wrapper, "_strategy", None)
    if strategy is not None:
        lightning_clip.guard_strategy(strategy)
    return release


class GradientRelease:
    """The handle of :func:`~adamomentum.torch.release_gradients`, which makes it.

    Attributes:
        clip: what the norm of each gradient is limited to; None for no limit.
    """

    def __init__(
        self,
        optimizer: AdaMomentum,
        accumulation_steps: int,
        clip: float | AdaptiveClip | None,
        local_gradients: bool,
    ) -> None:
        self._accumulation_steps: int
        self.accumulation_steps = accumulation_steps
        self.clip = clip
        self._optimizer = weakref.ref(optimizer)  # it keeps the handle
        self._local_gradients = local_gradients
        self._hooks: dict[Tensor, RemovableHandle] = {}
        self._hooked: dict[Tensor, int] = {}  # the address of what each hook is on
        self._module_hooks: list[RemovableHandle] = []
        # The parameters and their groups by id, as a tensor's own hash is a call into Python.
        self._params: dict[int, Tensor] = {}
        self._group_of: dict[int, dict[str, Any]] = {}
        self._sharded = False  # whether a parameter is a DTensor
        self._followed: list[int] = []  # groups, lengths and addresses, as follow() has seen them
        self._lock = threading.Lock()  # each device has its own thread in backward
        self._pauses = 0
        self._kept = False  # whether fully_shard keeps the gradients of the last pass for a later one
        # Of the backward pass under way: itself, which autograd keeps, and whether it is the one that updates.
        self._pass: Callable[[], _Pass | None] = _no_pass
        self._last = False
        for group in optimizer.param_groups:
            self._check(group)
        self._hook = _hook_of(self)
        self.follow()
        optimizer._pending.release = self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "the handle of release_gradients cannot be copied or pickled; copy the optimizer, and call "
            "release_gradients with the copy"
        )

    @property
    def accumulated(self) -> int:
        """How many backward passes are in the moments and not yet in the parameters."""
        optimizer = self._optimizer()
        groups = [] if optimizer is None else optimizer.param_groups
        return max((int(group.get(PASSES, 0)) for group in groups), default=0)

    @property
    def accumulation_steps(self) -> int:
        """Backward passes a step; it may be set to another number >= 1 between two steps."""
        return self._accumulation_steps

    @accumulation_steps.setter
    def accumulation_steps(self, value: int) -> None:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"accumulation_steps must be an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"accumulation_steps must be >= 1, got {value}")
        self._accumulation_steps = int(value)

    @property
    def _unfinished(self) -> str | None:
        """Why a pass, of which something is in the state, did not come to its end; None where there is none such."""
        return self._held()._pending.unfinished

    @_unfinished.setter
    def _unfinished(self, reason: str | None) -> None:
        self._held()._pending.unfinished = reason

    @property
    def adapts(self) -> bool:
        """Whether the state has the average that limits follow."""
        return isinstance(self.clip, AdaptiveClip)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not train in the backward passes inside of the block.

        Their gradients are in ``p.grad``, as without release, to be read there; they are freed at the end of the
        block, also when it ends with an error, or by ``zero_grad()`` before. What earlier passes have left in the
        moments waits. ``step()`` inside of the block updates with the gradients in ``p.grad`` and what waits together,
        as a last pass would: with ``clip``, each is clipped as a pass's. Blocks may be nested, and end with the
        outermost.

        Raises:
            RuntimeError: if a backward pass is under way, or gradients are in ``p.grad`` or kept by ``fully_shard``.
        """
        optimizer = self._optimizer()
        if optimizer is None or optimizer._pending.release is not self:  # there is nothing to pause
            yield
            return
        if self._pass() is not None:
            raise RuntimeError("paused() must be entered outside of backward passes, not in a hook that one calls")
        if not self._pauses and optimizer._gradients():
            raise RuntimeError("some gradients are in p.grad; call step() or zero_grad() before paused()")
        if self._kept:
            raise RuntimeError(
                "fully_shard keeps gradients of passes without synchronization, to which paused ones would be added; "
                "synchronize in a pass before paused()"
            )
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses and optimizer._pending.release is self:
                _free_gradients(optimizer)

    def attach(self, group: dict[str, Any]) -> None:
        """Take on the parameters of a group that was added.

        Args:
            group: the group.
        """
        self._check(group)
        self.follow()

    def follow(self) -> None:
        """Release the gradients of the parameters that are in the groups by now, and of no others."""
        optimizer = self._held()
        followed = [x for group in optimizer.param_groups for x in (id(group), len(group["params"]))]
        followed += [p._cdata for group in optimizer.param_groups for p in group["params"]]
        if followed == self._followed:  # as nearly always; what they stand for is kept alive
            return
        accumulated = self.accumulated
        params: dict[int, Tensor] = {id(p): p for group in optimizer.param_groups for p in group["params"]}
        new = [p for p in params.values() if p not in self._hooks or self._hooked[p] != p._cdata]
        for p in new:
            self._check_free(p)
        self._params = params
        self._group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for p in [p for p in self._hooks if id(p) not in self._params]:
            self._hooks.pop(p).remove()
            del self._hooked[p]
        for group in optimizer.param_groups:
            group.setdefault(PASSES, accumulated)
        for p in new:
            with torch._C.DisableTorchFunctionSubclass():  # lazy parameters answer most calls with an error
                if p.is_inference():  # it can never be thawed
                    continue
                if p in self._hooks:  # swapped for another tensor, which torch leaves without the hooks it has of it
                    p._post_accumulate_grad_hooks = None  # type: ignore[assignment]
                self._hooks[p], self._hooked[p] = _register(p, self._hook), p._cdata
            state = optimizer.state.get(p)
            if state and not accumulated:
                state.pop(PASSES, None)
        self._sharded = any(hasattr(p, "placements") for p in self._params.values())
        if any(hasattr(p, "placements") for p in new):
            for hook in self._module_hooks:
                hook.remove()
            self._module_hooks = watch(self._params.values(), _weakly(self._begin_unreduced))
        self._followed = followed

    def remove(self) -> None:
        """End the release. What is in ``exp_avg`` of passes that are not in the parameters counts in the next step."""
        for hook in (*self._hooks.values(), *self._module_hooks):
            hook.remove()
        self._hooks.clear()
        self._hooked.clear()
        self._module_hooks.clear()
        self._params.clear()
        self._group_of.clear()
        self._followed.clear()
        optimizer = self._optimizer()
        if optimizer is not None and optimizer._pending.release is self:
            optimizer._pending.release = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def finish(self) -> bool:
        """Update the parameters with what the passes since the last update have given, if there were any.

        Returns:
            Whether what is in ``p.grad`` was taken with it, as the gradients of one more pass.

        Raises:
            RuntimeError: if a backward pass stopped half-way, or is under way.
        """
        if self._pass() is not None:
            raise RuntimeError("step() was called during a backward pass that releases its gradients; call it after it")
        self._check_whole()
        self.follow()
        optimizer = self._held()
        clips = self._pauses and self.clip is not None and (optimizer.state or not optimizer._only_state_is_wanted())
        if not (self.accumulated or clips):
            return False
        for group in optimizer.param_groups:
            check_options(group, read_tensors=not group["capturable"])
            check_beta1(group)
        given = [(p, grad) for p in self._params.values() if (grad := p.grad) is not None]
        self._last, this = True, _Pass(self, optimizer, self._group_of.copy())
        self._put_zeros(this, list(self._params.values()))
        for p, grad in given:
            self._put(this, p, grad)
        self._empty_all(this)
        self._close(optimizer)
        return bool(given)

    def forget(self) -> None:
        """Forget a backward pass that stopped half-way, once a state from before it has been loaded."""
        if (this := self._pass()) is not None:
            this.waiting.take_all()
        self._pass = _no_pass
        self._unfinished = None

    def check_discardable(self) -> None:
        """Check that ``zero_grad`` has nothing to undo. In a pause it is meant for what is in ``p.grad``.

        Raises:
            RuntimeError: if passes are in the moments and not yet in the parameters.
        """
        if self.accumulated and not self._pauses:
            raise RuntimeError(
                f"zero_grad cannot discard the gradients of {self.accumulated} backward passes, which are in exp_avg; "
                "call step() to take the step with them"
            )

    def _held(self) -> AdaMomentum:
        optimizer = self._optimizer()
        if optimizer is None:
            raise RuntimeError("the optimizer of this handle no longer exists; keep a reference to it")
        return optimizer

    def _enter(self, create_graph: bool = False, *, reduced: bool = True) -> _Pass | None:
        """Return the backward pass under way; None without an optimizer.

        At the first call in it, check before anything changes what could make it fail later.
        """
        optimizer = self._optimizer()
        if optimizer is None:
            _warn_of_its_end()
            return None
        with self._lock, torch.no_grad():
            if (this := self._pass()) is not None and this.number == passes.number():  # of another thread
                return this
            this = None  # who keeps an error keeps what its frames hold
            try:
                self._check_pass(create_graph)
                self._check_whole()
                self.follow()
                for group in optimizer.param_groups:
                    check_options(group, read_tensors=not group["capturable"])
                    self._check(group)
                    check_beta1(group)
            except Exception:
                if self._pass() is None:  # another pass has gradients that it needs
                    _free_gradients(optimizer)
                raise
            return self._begin(optimizer, reduced)

    def _check_pass(self, create_graph: bool) -> None:
        """Check that a backward pass is of a kind that release goes with."""
        if passes.is_compiled():
            raise RuntimeError(
                "release_gradients does not go with compiled autograd, which calls nothing at the end of a backward "
                "pass; set torch._dynamo.config.compiled_autograd = False"
            )
        if passes.is_nested():
            if self._pass() is None or self._unfinished is None:
                raise RuntimeError(_REENTRANT)
            self._unfinished = f". {_REENTRANT}"
            raise RuntimeError(f"{_REENTRANT}. The outer pass has moved parameters or moments by now; {LOAD_STATE}")
        if self._pass() is not None:
            raise RuntimeError(
                "release_gradients does not go with two backward passes at the same time, as of two threads; the other "
                "one goes on, call backward() again after it"
            )
        if create_graph:
            raise RuntimeError(_CREATE_GRAPH)

    def _begin(self, optimizer: AdaMomentum, reduced: bool) -> _Pass:
        self._kept = not reduced
        self._last = reduced and self.accumulated + 1 >= self.accumulation_steps
        this = _Pass(self, optimizer, self._group_of.copy())
        self._pass = weakref.ref(this)
        Variable._execution_engine.queue_callback(this)
        return this

    def _begin_unreduced(self) -> None:
        """Count a backward pass whose gradients ``fully_shard`` keeps for a later one.

        It stands for no update: the next pass that reduces them takes its place.
        """
        if self._pauses:
            raise RuntimeError(
                "a paused backward pass must synchronize gradients, as fully_shard would add them to those of the next "
                "one; call set_requires_gradient_sync(True) before it"
            )
        if self._optimizer() is not None:
            self._enter(reduced=False)

    def _end(self, this: _Pass) -> None:
        """End of a backward pass."""
        self._pass = _no_pass
        optimizer = this.optimizer
        self._empty_all(this)
        left = [p for key in this.expected if (p := self._params.get(key)) is not None]
        if self._last:
            self._put_zeros(this, left)
        for p in left:
            if (grad := p.grad) is not None:  # it came to the groups after its gradient
                p.grad = None
                self._put(this, p, grad)
        self._empty_all(this)
        if self._last:
            self._close(optimizer)
        else:  # one whose gradients are kept cannot be the last
            set_passes(optimizer, min(self.accumulated + 1, self.accumulation_steps - 1))
        self.forget()

    def _put(self, this: _Pass, p: Tensor, grad: Tensor) -> None:
        """Let a gradient wait for others, or go where it belongs with those that have waited."""
        full = this.waiting.put(p, grad)
        if full is not None:
            self._empty(this.optimizer, this.expected, full)

    def _put_zeros(self, this: _Pass, params: list[Tensor]) -> None:
        """Have those parameters step too that had a gradient in an earlier pass and none in the last one."""
        if self.accumulated:
            for p in params:
                if passes_of(this.optimizer.state, p) and p.grad is None:
                    self._put(this, p, torch.zeros_like(p))

    def _empty_within(self, optimizer: AdaMomentum, expected: dict[int, dict[str, Any]], bucket: Bucket) -> None:
        """Empty a bucket before the end of a pass."""
        # A pass that runs within this one shows when it calls a hook, but then this one has changed something.
        if self._unfinished is None and passes.reenters():
            raise RuntimeError(_REENTRANT)
        self._empty(optimizer, expected, bucket)

    def _empty_all(self, this: _Pass) -> None:
        for bucket in this.waiting.take_all():
            self._empty(this.optimizer, this.expected, bucket)

    def _empty(self, optimizer: AdaMomentum, expected: dict[int, dict[str, Any]], bucket: Bucket) -> None:
        """Put the gradients of a bucket where they belong.

        Args:
            optimizer: the optimizer.
            expected: that of the pass.
            bucket: the bucket.
        """
        try:
            if self._sharded and any(grad.requires_grad for grad in bucket.grads):
                raise RuntimeError(_CREATE_GRAPH)
            groups: list[Any] = [expected.pop(id(p), None) for p in bucket.params]
            if all(groups):
                self._take(optimizer, bucket, groups)
                return
            for some in self._apart(bucket, groups):
                self._take(optimizer, some, [self._group_of[id(p)] for p in some.params])
        finally:
            bucket.grads.clear()  # who keeps an error keeps the bucket

    def _apart(self, bucket: Bucket, groups: list[Any]) -> list[Bucket]:
        """Return what is in a bucket in several that have no parameter twice, to be emptied one after the other.

        Args:
            bucket: the bucket.
            groups: the group of each parameter; None where it has had a gradient in this pass, or has left its group.
        """
        for p, group in zip(bucket.params, groups, strict=True):
            if group is None and self._last and id(p) in self._group_of:
                raise RuntimeError(
                    f"the gradient of a parameter of shape {tuple(p.shape)} was ready twice in one backward pass, the "
                    "one that updates it; fully_shard does that to a module that is called twice: shard its parent "
                    "instead"
                )
        rows = []
        for p, grad in zip(bucket.params, bucket.grads, strict=True):
            if id(p) in self._group_of:
                rows.append((p, grad))
            else:
                p.grad = grad
        return bucket.split(rows)

    @torch.no_grad()
    def _take(self, optimizer: AdaMomentum, bucket: Bucket, groups: list[dict[str, Any]]) -> None:
        """Put gradients where they belong, all of which are checked before anything changes."""
        with bucket.opened(groups) as parts:
            if self._last:
                works = optimizer._prepare_some(_by_passes(optimizer, parts))
                self._unfinished = ""
                factors = self._factors(optimizer, parts)
                if factors is not None:
                    works = [some for work in works for some in clipped(work, factors)]
                for work in works:
                    take_work(work)
                return
            for part in parts:
                optimizer._prepare_state(*part)
            self._unfinished = ""
            factors = self._factors(optimizer, parts)
            for part in parts:
                _fold(optimizer, part, factors)

    def _factors(self, optimizer: AdaMomentum, parts: list[Part]) -> dict[int, Scalar] | None:
        """Return what each gradient is to be multiplied by, by the id of its parameter; None for nothing."""
        return None if self.clip is None else factors_of(parts, self.clip, self.accumulation_steps, optimizer.state)

    def _close(self, optimizer: AdaMomentum) -> None:
        """Begin anew: what was accumulated is in the parameters."""
        if self.accumulated:
            set_passes(optimizer, 0)
        for group in optimizer.param_groups:
            group.pop(PASSES_BETA1, None)
        self._unfinished = None
        optimizer.__dict__["_opt_called"] = True  # or schedules would warn that no step came before theirs

    def _check_whole(self) -> None:
        check_whole(self._unfinished)

    def _check(self, group: dict[str, Any]) -> None:
        """Check that a parameter group goes with release."""
        if group["differentiable"]:
            raise ValueError("release_gradients does not go with differentiable=True, which needs whole gradients")
        if self.accumulation_steps > 1:
            if group["nesterov"]:
                raise ValueError(
                    "nesterov=True does not go with accumulation_steps > 1: it needs the gradient of the whole step, "
                    "which is nowhere but in exp_avg; set nesterov=False or accumulation_steps=1"
                )
            if is_readable(group["betas"][0]) and float(group["betas"][0]) == 0:
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

    def _check_free(self, p: Tensor) -> None:
        """Check that no other optimizer, which would be the first, releases the gradients of a parameter."""
        with torch._C.DisableTorchFunctionSubclass():  # of lazy ones
            hooks = p._post_accumulate_grad_hooks or {}
        if any(_is_of_another(hook, self) for hook in hooks.values()):
            raise RuntimeError(
                f"the gradients of a parameter of shape {tuple(p.shape)} are released by another optimizer "
                "already, which would take them first; call remove() on its handle"
            )


class _Pass:
    """A backward pass under way.

    Autograd alone keeps it, to call it at the end, and so it lives as long as the pass, also where that fails; and with
    it the gradients that wait.
    """

    def __init__(self, release: GradientRelease, optimizer: AdaMomentum, expected: dict[int, dict[str, Any]]) -> None:
        self._release = release
        self.optimizer = optimizer
        self.number = passes.number()
        self.expected = expected  # the groups, by id, of the parameters of which no gradient has left its bucket yet
        self.waiting = Buckets()

    def __call__(self) -> None:
        self._release._end(self)


def _no_pass() -> None:
    """In place of the reference to a pass, where there is none."""


def _by_passes(optimizer: AdaMomentum, parts: list[Part]) -> list[tuple[Any, ...]]:
    """Divide parts by the number of passes that gave their parameters a gradient, the last one included."""
    if not any(part.group.get(PASSES) for part in parts):
        return [(*part, 1) for part in parts]
    divided: list[tuple[Any, ...]] = []
    for group, params, grads in parts:
        for count, places in by_passes(optimizer.state, params).items():
            divided.append((group, [params[i] for i in places], [grads[i] for i in places], count))
    return divided


def _fold(optimizer: AdaMomentum, part: Part, factors: dict[int, Scalar] | None) -> None:
    """Put the gradients of a pass before the last, which have been checked, into the first moments.

    Args:
        optimizer: has the complete state of the parameters.
        part: parameters and their gradients.
        factors: what gradients are multiplied by, by the id of the parameter; None for nothing.
    """
    group, params, grads = part
    beta1 = group["betas"][0]
    if PASSES_BETA1 not in group:
        group[PASSES_BETA1] = _copy(beta1)
    weight = (1 - beta1) / beta1 * (-1 if group["maximize"] else 1)
    kernels = choose_kernels(params, foreach=group["foreach"], fused=group["fused"], differentiable=False)
    rows = [(p, grad, optimizer.state[p]) for p, grad in zip(params, grads, strict=True)]
    scales = None if factors is None else [factors[id(p)] for p in params]
    fold(rows, weight, native=kernels == "native", factors=scales)


def _hook_of(release: GradientRelease) -> Callable[[Tensor], None]:
    """Make what backward calls with each parameter whose gradient is whole.

    It keeps nothing alive: Python cannot see that a parameter keeps its hooks. All that is done for every gradient is
    here, in one function, since calls are what it costs.
    """
    reference, number, is_traced = weakref.ref(release), passes.number, torch.compiler.is_dynamo_compiling

    def take(p: Tensor) -> None:
        if is_traced():  # compiled autograd, which is refused
            untraced(p)
            return
        release = reference()
        if release is None:
            _warn_of_its_end()
            return
        try:
            this = release._pass()
            if this is None or this.number != number():
                if release._pauses:
                    return
                # FSDP's call may come at the end of the pass, when the mode is that of the caller.
                this = release._enter(torch.is_grad_enabled() and not hasattr(p, "placements"))
                if this is None:
                    return
            grad = p.grad
            if grad is None:  # someone has taken it away
                return
            p.grad = None
            bucket: Bucket | None
            if type(p) in PLAIN_TENSORS and p.is_cpu:
                bucket = this.waiting.plain
                bucket.params.append(p)
                bucket.grads.append(grad)
                bucket.room -= p.numel()
                if bucket.room > 0:
                    return
                this.waiting.plain = Bucket()
            else:
                bucket = this.waiting.put(p, grad)
            if bucket is not None:
                release._empty_within(this.optimizer, this.expected, bucket)
        except BaseException:
            # Who keeps the error keeps what its frames hold, and the pass is over when that is gone.
            this = bucket = grad = None
            if id(p) in release._group_of:
                p.grad = None
            raise

    untraced = torch.compiler.disable(take)  # type: ignore[no-untyped-call]
    take.release = reference  # type: ignore[attr-defined]
    return take


def _is_of_another(hook: Any, release: GradientRelease) -> bool:
    """Whether a hook is that of another release, which still goes on."""
    other = getattr(hook, "release", _no_pass)()
    return other is not None and other is not release and other._optimizer() is not None


def _warn_of_its_end() -> None:
    warnings.warn(
        "the optimizer that released these gradients no longer exists, and trains nothing; keep a reference to it, or "
        "call remove() on the handle of release_gradients before it goes",
        stacklevel=3,
    )


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Return a method, as a function that does not keep its object alive."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (method := reference()) is not None:
            method()

    return call


def _register(p: Tensor, hook: Callable[[Tensor], None]) -> RemovableHandle:
    """Have a parameter call ``hook`` when its gradient is whole, a frozen one when it is thawed."""
    frozen = not p.requires_grad
    if frozen:  # torch registers hooks on no others
        p.requires_grad_(True)
    try:
        handle: RemovableHandle = p.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        return handle
    finally:
        if frozen:
            p.requires_grad_(False)


def _free_gradients(optimizer: AdaMomentum) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = None


_CREATE_GRAPH = "release_gradients does not go with backward(create_graph=True), which needs whole gradients"
_REENTRANT = (
    "release_gradients does not go with backward passes within one another, as of reentrant checkpoints; call "
    "torch.utils.checkpoint.checkpoint with use_reentrant=False"
)


def _is_distributed() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _copy(x: float | Tensor) -> float | Tensor:
    return x.clone() if isinstance(x, Tensor) else x
