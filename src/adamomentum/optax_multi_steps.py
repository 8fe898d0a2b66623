r"""Accumulated gradients in optax without a tree for their sum: they go into the first moment as they come.

The second moment of AdaMomentum sees the first one alone, and that is linear in the gradient. In each micro-batch of a
step but the last, a gradient g with the weight w (1 / K in the mean of K) goes in as

    mu <- mu + (1 - b1) / b1 * w * g

and the last one makes the ordinary update with its own w * g, which multiplies by b1 what is there: that gives
b1 mu + (1 - b1) times the weighted sum of all, the momentum of Algorithm 1 for that sum.

The look-ahead momentum, which the second moment of the drop-in for AdamW averages the square of, needs that sum by
itself. In its place stands K times the last w * g: its mean in white noise has a closed form, too
(:func:`adamomentum.reference.white_noise_mean`), and where it cancels the momentum there is a floor
(:func:`adamomentum.reference.momentum_floor`).

The arithmetic of the first moment is in ``scale_by_adamomentum``. Here is who tells it which micro-batch a gradient is
of, and keeps everything else as it was until the last. What is kept is chosen element by element, not by ``lax.cond``:
XLA then makes one pass of update and choice, in place, where a branch would have to return a whole tree of updates.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["MicroBatch", "MultiSteps", "MultiStepsState"]


class MultiStepsState(NamedTuple):
    """What :class:`MultiSteps` carries from one micro-batch to the next: that of optax, without ``acc_grads``.

    Attributes:
        mini_step: micro-batches of the step under way that are in the first moment, int32, shape ().
        gradient_step: number of updates, likewise.
        inner_opt_state: state of the optimizer inside.
        skip_state: what ``should_skip_update_fn`` returned beside its decision.
    """

    mini_step: jax.Array
    gradient_step: jax.Array
    inner_opt_state: Any
    skip_state: Any = ()


class MicroBatch:
    """What ``scale_by_adamomentum`` is told, as an extra argument, of the gradient that it is given.

    Attributes:
        number: its place in the step, from 0.
        count: K, micro-batches of the step.
        weight: what its gradient counts in the sum.
        takes: whether the first moment takes it in, a boolean, shape ().
        last: whether the update is made of it, likewise.
    """

    def __init__(self, number: Any, count: Any, weight: Any, takes: jax.Array, last: jax.Array) -> None:
        self.number, self.count, self.weight, self.takes, self.last = number, count, weight, takes, last
        # Kept, so that no other object gets the id of one of them.
        self._gradients: list[Any] = []
        self._states: list[Any] = []

    def take(self, gradient: Any) -> None:
        """Note that a first moment has taken in this very array."""
        self._gradients.append(gradient)

    def leave(self, state: Any) -> None:
        """Note that this is the state in which it has done so."""
        self._states.append(state)

    def check(self, updates: optax.Updates, state: Any) -> None:
        """Check that first moments have taken in all gradients of ``updates`` as they are, and are in ``state`` now.

        Raises:
            ValueError: if not: whatever was done to them was not done to their mean.
        """
        taken = set(map(id, self._gradients))
        for path, g in jax.tree_util.tree_flatten_with_path(updates)[0]:
            if id(g) not in taken:
                raise ValueError(
                    f"gradient {jax.tree_util.keystr(path) or '(the only one)'} must reach scale_by_adamomentum as it "
                    "is handed to MultiSteps, which keeps it nowhere else, but is changed before or not taken: put "
                    "what comes before around MultiSteps, where it acts on each micro-batch's gradient, and other "
                    "optimizers beside it, as in optax.multi_transform({'a': MultiSteps(...)."
                    "gradient_transformation(), 'b': optax.MultiSteps(...).gradient_transformation()}, labels); or use "
                    "optax.MultiSteps for all"
                )
        left = set(map(id, self._states))
        if not all(id(part) in left for part in jax.tree.leaves(state, is_leaf=_is_of_ours) if _is_of_ours(part)):
            raise ValueError(
                "the first moment must be kept as scale_by_adamomentum leaves it, but what is around that inside "
                "MultiSteps chooses between states, as optax.apply_if_finite does: give MultiSteps a "
                "should_skip_update_fn instead, or use optax.MultiSteps"
            )


class MultiSteps:
    """AdaMomentum with accumulated gradients, as by ``optax.MultiSteps`` but without its tree of accumulated gradients.

    Each micro-batch's gradients go into the first moment at once; updates are zeros but in the last micro-batch of a
    step, which makes the update of the mean of all. Schedules and counts inside go by updates. To rounding, this is
    what ``optax.MultiSteps`` does, with two exceptions: a second moment of the look-ahead momentum, as with
    ``adjust_lr``, takes the last micro-batch's gradient for the mean, and corrects for its larger noise; and a first
    moment in bfloat16 is rounded, without bias, in every micro-batch.

    The gradients must reach ``scale_by_adamomentum`` as they are handed in, every one: inside may be
    :func:`~adamomentum.optax.adamomentum`, what follows it in a chain, ``inject_hyperparams``, or several of them in a
    ``multi_transform``. What changes gradients before it goes around, ``optax.chain(optax.clip_by_global_norm(1.0),
    MultiSteps(inner, 4).gradient_transformation())``, and then acts on every micro-batch's. What needs the mean itself,
    as clipping by its norm does, needs ``optax.MultiSteps``.

    Args:
        opt: the optimizer, with b1 > 0 and ``nesterov`` off.
        every_k_schedule: K, micro-batches a step, >= 1; or a function of the number of updates that returns it. The
            correction for the look-ahead momentum is exact for constant K; after a change it is off by at most the
            root of the ratio of the two K until the second moment has forgotten, over some 1 / (1 - b2) updates.
        use_grad_mean: take the mean of the micro-batches' gradients; else their sum.
        should_skip_update_fn: which micro-batches to leave out, as for ``optax.MultiSteps``: a function of gradients,
            number of updates and parameters that returns a boolean array of shape () and what to keep as
            ``skip_state``.

    Raises:
        TypeError: if ``every_k_schedule`` is neither an integer nor a function.
        ValueError: if it is below 1. ``update`` raises one if a gradient does not reach a first moment as it is, or a
            wrapper inside chooses between states as ``optax.apply_if_finite`` does; with ``nesterov``; or with b1 = 0.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from adamomentum.optax import MultiSteps, adamomentum
        >>> optimizer = MultiSteps(adamomentum(0.5, adjust_lr="match_rms_adamw"), every_k_schedule=2)
        >>> params, state = jnp.zeros(2), optimizer.init(jnp.zeros(2))
        >>> for gradient in (jnp.array([1.0, -3.0]), jnp.array([3.0, -1.0])):
        ...     updates, state = optimizer.update(gradient, state, params)
        ...     print(jnp.round(updates, 2), optimizer.has_updated(state))
        [0. 0.] False
        [-0.45  0.77] True
    """

    def __init__(
        self,
        opt: optax.GradientTransformation,
        every_k_schedule: int | Callable[[jax.Array], Any],
        use_grad_mean: bool = True,
        should_skip_update_fn: Callable[..., tuple[jax.Array, Any]] | None = None,
    ) -> None:
        if isinstance(every_k_schedule, bool) or not (
            isinstance(every_k_schedule, Integral) or callable(every_k_schedule)
        ):
            raise TypeError(
                f"every_k_schedule must be an integer or a function of the number of updates, got {every_k_schedule!r}"
            )
        if isinstance(every_k_schedule, Integral):
            every_k_schedule = int(every_k_schedule)  # NumPy's has a dtype of its own
            if every_k_schedule < 1:
                raise ValueError(f"every_k_schedule must be >= 1, got {every_k_schedule}")
        self._opt = optax.with_extra_args_support(opt)
        self._every_k_schedule = every_k_schedule
        self._use_grad_mean = use_grad_mean
        self._should_skip_update_fn = should_skip_update_fn

    @property
    def inner_opt(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer inside."""
        return self._opt

    def init(self, params: optax.Params) -> MultiStepsState:
        """Return the state before the first micro-batch."""
        zero = jnp.zeros([], jnp.int32)
        skip_state: Any = ()
        if self._should_skip_update_fn is not None:
            _, skip_state = self._should_skip_update_fn(jax.tree.map(jnp.zeros_like, params), zero, params)
        return MultiStepsState(zero, jnp.zeros([], jnp.int32), self._opt.init(params), skip_state)

    def update(
        self, updates: optax.Updates, state: MultiStepsState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, MultiStepsState]:
        """Take in the gradients of a micro-batch.

        Args:
            updates: the gradients, as ``opt`` takes them; a None must be one in all micro-batches of a step.
            state: what ``init`` or the last ``update`` returned.
            params: the parameters, as ``opt`` takes them.
            **extra_args: for ``opt``.

        Returns:
            Updates, which are zeros but in the last micro-batch of a step, and the new state.
        """
        _check_state(state)
        k = self._every_k_schedule
        if not isinstance(k, int):
            k = k(state.gradient_step)

        takes, skip_state = jnp.array(True), state.skip_state
        if self._should_skip_update_fn is not None:
            skips, skip_state = self._should_skip_update_fn(updates, state.gradient_step, params)
            if (getattr(skips, "dtype", None), jnp.shape(skips)) != (jnp.bool_, ()):
                raise ValueError(f"should_skip_update_fn must return a boolean array of shape () first, got {skips!r}")
            takes = jnp.logical_not(skips)
        last = jnp.logical_and(takes, state.mini_step >= k - 1)
        count = jnp.asarray(k, float)
        batch = MicroBatch(state.mini_step, count, 1 / count if self._use_grad_mean else 1.0, takes, last)
        proposed, inner = self._opt.update(updates, state.inner_opt_state, params, micro_batch=batch, **extra_args)
        batch.check(updates, inner)
        return jax.tree.map(lambda x: jnp.where(last, x, jnp.zeros_like(x)), proposed), MultiStepsState(
            mini_step=jnp.where(last, 0, state.mini_step + takes),
            gradient_step=jnp.where(last, optax.safe_increment(state.gradient_step), state.gradient_step),
            inner_opt_state=_chosen(last, state.inner_opt_state, inner),
            skip_state=skip_state,
        )

    def has_updated(self, state: MultiStepsState) -> jax.Array:
        """Return whether the micro-batch that this state is after was the last of a step, a boolean, shape ()."""
        return jnp.logical_and(state.mini_step == 0, state.gradient_step > 0)

    def gradient_transformation(self) -> optax.GradientTransformationExtraArgs:
        """Return the same as a transformation, for ``optax.chain``, ``masked`` and ``multi_transform``."""
        return optax.GradientTransformationExtraArgs(self.init, self.update)


def _check_state(state: Any) -> None:
    # By name: a module that is loaded again has another class. That of optax's has the same.
    if type(state).__name__ != MultiStepsState.__name__ or hasattr(state, "acc_grads"):
        remedy = ""
        if hasattr(state, "acc_grads"):
            remedy = (
                " of optax. Between two steps, at mini_step 0, MultiStepsState(state.mini_step, state.gradient_step, "
                "state.inner_opt_state, state.skip_state) takes it over"
            )
        raise TypeError(f"state must be the MultiStepsState that init made, got {type(state).__name__}{remedy}")


def _is_of_ours(part: Any) -> bool:
    return type(part).__name__ == "ScaleByAdaMomentumState"


def _chosen(last: jax.Array, state: Any, updated: Any) -> Any:
    """Return the state of the optimizer inside: that of AdaMomentum, and of all else what the last one leaves."""

    def choose(old: Any, new: Any) -> Any:
        return new if _is_of_ours(old) else jnp.where(last, new, old).astype(old.dtype)

    return jax.tree.map(choose, state, updated, is_leaf=_is_of_ours)
