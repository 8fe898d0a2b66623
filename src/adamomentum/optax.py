r"""AdaMomentum for JAX, as an optax gradient transformation.

    m_t = b1 m_(t-1) + (1 - b1) g_t
    v_t = b2 v_(t-1) + (1 - b2) m_t^2
    update = mhat_t / sqrt(v_t / (1 - b2^t) + eps / (1 - b2)),    mhat_t = m_t / (1 - b1^t)

which is Algorithm 1 of arXiv 2106.11514 for constant b2 and eps: that adds eps to v at every step, where it accumulates
to eps (1 - b2^t) / (1 - b2). Here eps stays out of the stored moment, so that it can be changed at any time and cannot
be lost to rounding. What the options change in it is specified in :mod:`adamomentum.reference`. Importing this module
imports jax and optax, not torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

try:
    import jax
    import jax.numpy as jnp
    import optax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'adamomentum.optax needs jax and optax, {error.name} is not installed: run pip install "adamomentum[jax]"'
    ) from error

from adamomentum import reference
from adamomentum.optax_multi_steps import MicroBatch, MultiSteps, MultiStepsState
from adamomentum.second_moment import AdjustLR, SecondMoment, checked_lookahead, white_noise_mean

__all__ = [
    "MultiSteps",
    "MultiStepsState",
    "ScaleByAdaMomentumState",
    "adamomentum",
    "apply_updates_stochastically",
    "from_adam",
    "scale_by_adamomentum",
]

# A number, or an array of one: what inject_hyperparams makes of a number.
Number = Any


class ScaleByAdaMomentumState(NamedTuple):
    """What :func:`scale_by_adamomentum` carries from one update to the next.

    Attributes:
        count: number of updates made, int32, shape ().
        mu: first moment m, a tree like the parameters.
        nu: second moment v without eps, likewise; real for complex parameters.
        nu_max: with amsgrad the largest v so far, eps in it; else None.
    """

    count: jax.Array
    mu: optax.Updates
    nu: optax.Updates
    nu_max: optax.Updates | None


def scale_by_adamomentum(
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-16,
    *,
    amsgrad: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    adjust_lr: AdjustLR | None = None,
    second_moment: SecondMoment | None = None,
    nesterov: bool = False,
    full_bias_correction: bool = False,
) -> optax.GradientTransformation:
    """Scale updates as AdaMomentum does: the second moment averages the square of the first one.

    All maths is done in float32, or in float64 for gradients or moments in it. The derivative of an update is
    that of this maths, also where a moment is rounded to bfloat16. Updates come back in the dtype that
    gradients and parameters promote to, or in the gradients' where ``update`` is not given the parameters. Of complex
    gradients the squared modulus is averaged, as in ``optax.scale_by_adam``; wrap the transformation in
    ``optax.contrib.split_real_and_imaginary`` for what PyTorch's optimizers do.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the second moment at every step, in units of the gradient squared, where it accumulates: the
            denominator is at least sqrt(eps / (1 - b2)), 3e-7 by default. Not Adam's eps. With 0, or
            where eps / (1 - b2) underflows, a coordinate becomes NaN when its first gradient is 0.
        amsgrad: divide by the largest second moment so far, eps included, instead of the current one.
        mu_dtype: dtype of the first moment: float32, float64 or bfloat16. Default: that of the parameters, but float32
            for half precision. Of complex parameters it is complex64 at least.
        nu_dtype: dtype of the second moment, likewise. A moment in bfloat16 is rounded stochastically, because to the
            nearest it would stop moving when its change in a step, 1 - b2 of the distance, is less than half a bit.
        adjust_lr: "match_rms_adamw" divides the second moment by its mean in white noise instead of by 1 - b2^t, so
            that updates are as long as those of ``optax.scale_by_adam`` in noise; the first one is 1 in each
            coordinate. None: Algorithm 1.
        second_moment: what the second moment averages the square of: "momentum", or "lookahead" for b1 m + (1 - b1) g.
            None is "lookahead" with ``adjust_lr`` or ``nesterov``, else "momentum".
        nesterov: move by the look-ahead momentum over 1 - b1^(t+1) instead of by the momentum over 1 - b1^t.
        full_bias_correction: average the square of m / (1 - b1^t) instead of that of m: the first update is then 1 in
            each coordinate, not 1 / (1 - b1). Not with the three options before.

    Returns:
        The transformation; its state is a :class:`ScaleByAdaMomentumState`. Moments of a state from elsewhere keep
        their dtype, whatever ``mu_dtype`` and ``nu_dtype`` are. ``init`` and ``update`` raise a TypeError that names
        the leaf which is no array of floating-point or complex numbers of at least 16 bits (parameters may be
        integers or booleans where their gradients are None), ``update`` also for the state of another transformation,
        and a ValueError for a state whose shapes or ``amsgrad`` differ.

    Raises:
        TypeError: if a number is none, or a switch no bool.
        ValueError: if an argument is out of range, or does not go with ``full_bias_correction``. Arrays under tracing
            are not looked into.
    """
    lookahead = checked_lookahead(adjust_lr, second_moment, nesterov, full_bias_correction)
    b1, b2 = _number("b1", b1, below_one=True), _number("b2", b2, below_one=True)
    eps = _number("eps", eps)
    mu_dtype, nu_dtype = _moment_dtype("mu_dtype", mu_dtype), _moment_dtype("nu_dtype", nu_dtype)

    def init_fn(params: optax.Params) -> ScaleByAdaMomentumState:
        for i, p in enumerate(jax.tree.leaves(params)):
            _dtype_of(p, "parameter", params, i)

        def zeros(dtype: Any, real: bool) -> optax.Updates:
            return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=_dtype_for(p, dtype, real)), params)

        nu_max = zeros(jnp.promote_types(nu_dtype, jnp.float32) if nu_dtype else None, True) if amsgrad else None
        return ScaleByAdaMomentumState(jnp.zeros([], jnp.int32), zeros(mu_dtype, False), zeros(nu_dtype, True), nu_max)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAdaMomentumState,
        params: optax.Params | None = None,
        *,
        micro_batch: MicroBatch | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAdaMomentumState]:
        del extra_args
        _check_state(state, amsgrad)
        count = optax.safe_increment(state.count)
        c1, c2 = _one_minus_power(b1, count), _one_minus_power(b2, count)
        # The second moment's corrections are reciprocals, because XLA divides every element by a number that several
        # leaves share.
        floor = eps / (1 - b2)
        m_seed, v_seed = _seeds(count)
        m_decay, g_weight, ahead_weight, passes = b1, 1 - b1, 1 - b1, 1
        floor_of_m: Any = None
        takes = last = None
        if micro_batch is not None:
            _check_accumulates(b1, nesterov)
            takes, last, passes = micro_batch.takes, micro_batch.last, micro_batch.count
            # The update multiplies by b1 what is in the first moment by then.
            m_decay = jnp.where(last, b1, 1)
            g_weight = jnp.where(last, 1 - b1, (1 - b1) / b1) * micro_batch.weight
            ahead_weight = (1 - b1) * micro_batch.weight * passes
            floor_of_m = jnp.where(passes != 1, reference.momentum_floor(2, lookahead=lookahead), 0.0)
            m_seed = jnp.where(last, m_seed, _accumulation_seed(count, micro_batch.number))
        v_weight, by_mean = 1 - b2, 1 / c2
        if adjust_lr:
            by_mean = 1 / white_noise_mean(count, b1, b2, c2, array=jnp, lookahead=lookahead, passes=passes)
        elif full_bias_correction:
            v_weight = (1 - b2) / c1**2
        numbers = _Numbers(
            m_decay,
            g_weight,
            b1,
            ahead_weight,
            floor_of_m,
            b2,
            v_weight,
            eps_sum=floor * c2,
            c1=_one_minus_power(b1, optax.safe_increment(count)) if nesterov else c1,
            by_mean=by_mean,
            floor=floor * (c2 * by_mean) if adjust_lr else floor,
            m_seed=m_seed,
            v_seed=v_seed,
            takes=takes,
            last=last,
        )
        update = partial(_update, lookahead=lookahead, nesterov=nesterov)
        leaves, tree = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
        rows = zip(
            leaves,
            [None] * len(leaves) if params is None else tree.flatten_up_to(params),
            *(tree.flatten_up_to(moment) for moment in (state.mu, state.nu)),
            tree.flatten_up_to(state.nu_max) if amsgrad else [None] * len(leaves),
            strict=True,
        )
        updated = []
        for i, (g, p, m, v, v_max) in enumerate(rows):
            if g is None:  # not trained in this step
                updated.append(_Leaf(None, m, v, v_max))
            else:
                if micro_batch is not None:
                    micro_batch.take(g)
                updated.append(update(g, m, v, v_max, numbers, dtype=_update_dtype(updates, i, g, p, m, v)))
        columns = [jax.tree.unflatten(tree, [leaf[i] for leaf in updated]) for i in range(4)]
        count = count if last is None else jnp.where(last, count, state.count)
        state = ScaleByAdaMomentumState(count, columns[1], columns[2], columns[3] if amsgrad else None)
        if micro_batch is not None:
            micro_batch.leave(state)
        return columns[0], state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def adamomentum(
    learning_rate: optax.ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-16,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    amsgrad: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    adjust_lr: AdjustLR | None = None,
    second_moment: SecondMoment | None = None,
    nesterov: bool = False,
    full_bias_correction: bool = False,
) -> optax.GradientTransformation:
    """Make AdaMomentum with decoupled weight decay: Adam whose second moment averages the square of the momentum.

    To come from ``optax.adamw``, keep its learning rate, schedule and ``weight_decay`` (0 by default here, 1e-4 there)
    and add ``adjust_lr="match_rms_adamw"``: steps then are as long as AdamW's in noise. Its eps is not Adam's; keep the
    default. :func:`from_adam` takes over the state in the middle of a run.

    Without ``adjust_lr`` it is Algorithm 1 as printed, whose steps in noise are 4.36 times as long at the default
    betas and whose first step is ten times the learning rate: ``adamomentum.theory.guidance.suggest_lr`` says what to
    divide AdamW's by, and it wants a warm-up.

    Args:
        learning_rate: a number, or a schedule: a function of the number of updates made.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: see :func:`scale_by_adamomentum`.
        weight_decay: parameters shrink by ``learning_rate * weight_decay`` a step. A number, or a schedule as that of
            the learning rate. The state is of one structure with each and with none, so that decay can change later.
        mask: which parameters decay, as in ``optax.adamw``: a tree of booleans, or a function that makes it of the
            parameters.
        amsgrad: see :func:`scale_by_adamomentum`.
        mu_dtype: see :func:`scale_by_adamomentum`.
        nu_dtype: see :func:`scale_by_adamomentum`.
        adjust_lr: "match_rms_adamw" makes steps as long as AdamW's at the same ``learning_rate``; see
            :func:`scale_by_adamomentum`.
        second_moment: see :func:`scale_by_adamomentum`.
        nesterov: see :func:`scale_by_adamomentum`.
        full_bias_correction: see :func:`scale_by_adamomentum`.

    Returns:
        The transformation. Pass ``update`` the parameters: weight decay needs them, and updates are then as precise as
        they are.

    Raises:
        TypeError: if a number is none, or a switch no bool.
        ValueError: if an argument is out of range, or does not go with another.
    """
    if not callable(learning_rate):
        learning_rate = _number("learning_rate", learning_rate)
    scaled = scale_by_adamomentum(
        b1,
        b2,
        eps,
        amsgrad=amsgrad,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
        adjust_lr=adjust_lr,
        second_moment=second_moment,
        nesterov=nesterov,
        full_bias_correction=full_bias_correction,
    )
    by_rate = optax.scale_by_learning_rate(learning_rate)
    # Of the same structure of state as the decay, so that decay can be turned on later.
    nothing = optax.identity() if mask is None else optax.masked(optax.identity(), mask)

    def with_decay(decay: Number) -> optax.GradientTransformationExtraArgs:
        decays = not isinstance(decay, int | float) or decay != 0
        return optax.chain(scaled, optax.add_decayed_weights(decay, mask) if decays else nothing, by_rate)

    if not callable(weight_decay):
        return with_decay(_number("weight_decay", weight_decay))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        # The moments have counted the updates: a count of its own would be another structure of state.
        decayed: tuple[optax.Updates, Any] = with_decay(weight_decay(state[0].count)).update(
            updates, state, params, **extra
        )
        return decayed

    return optax.GradientTransformationExtraArgs(with_decay(0.0).init, update_fn)


def from_adam(
    state: Any,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-16,
    *,
    amsgrad: bool = False,
    adjust_lr: AdjustLR | None = None,
    second_moment: SecondMoment | None = None,
    nesterov: bool = False,
    full_bias_correction: bool = False,
    nu: Literal["keep", "scale"] | None = None,
) -> Any:
    """Convert the state of ``optax.adam`` or ``adamw`` into that of :func:`adamomentum` with the same betas.

    Counts and first moments are taken as they are. Adam's second moment averages the square of the gradient, which in
    white noise is another multiple of it: "scale" multiplies by the ratio of the two at the state's count, so that
    AdaMomentum's goes on without a jump. "keep" takes it as it is: steps are then too short until it is forgotten, over
    some 1 / (1 - b2) updates, and never too long.

    Args:
        state: a ``ScaleByAdamState``, or a tree with such states in it, as that of a chain, ``MultiSteps`` or
            ``masked``. The states of Adamax and Yogi have the same name and another meaning: they are not told apart.
        b1: decay rate of the first moment, in Adam and in what takes the state over.
        b2: decay rate of the second moment, likewise.
        eps: of the optimizer that takes the state over, as are the options that follow: pass what it was given.
        amsgrad: see :func:`scale_by_adamomentum`; the largest second moment starts from this one.
        adjust_lr: see :func:`scale_by_adamomentum`.
        second_moment: see :func:`scale_by_adamomentum`.
        nesterov: see :func:`scale_by_adamomentum`.
        full_bias_correction: see :func:`scale_by_adamomentum`; the ratio is then the limit for many updates.
        nu: what to do with the second moment: "keep" or "scale". None is "scale" with ``adjust_lr``, else "keep".

    Returns:
        The tree with a :class:`ScaleByAdaMomentumState` in place of each of Adam's. Moments keep their dtype, but
        float16 becomes float32.

    Raises:
        TypeError: if there is no state of Adam in it, or a number is none.
        ValueError: if an argument is out of range, or does not go with another.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from adamomentum.optax import adamomentum, from_adam
        >>> adam_state = optax.adamw(1e-3).init(jnp.zeros(2))
        >>> optimizer = adamomentum(1e-3, weight_decay=1e-4, adjust_lr="match_rms_adamw")
        >>> state = from_adam(adam_state, adjust_lr="match_rms_adamw")
    """
    lookahead = checked_lookahead(adjust_lr, second_moment, nesterov, full_bias_correction)
    b1, b2 = _number("b1", b1, below_one=True), _number("b2", b2, below_one=True)
    eps = _number("eps", eps)
    if nu not in (None, "keep", "scale"):
        raise ValueError(f"nu must be 'keep', 'scale' or None, got {nu!r}")
    scales = nu == "scale" or (nu is None and adjust_lr is not None)

    def is_adams(part: Any) -> bool:
        # By name: a module that is loaded again has another class.
        return bool(type(part).__name__ == optax.ScaleByAdamState.__name__)

    def scaled(moment: jax.Array, by: Any = 1.0) -> jax.Array:
        wide = jnp.promote_types(moment.dtype, jnp.float32)
        return (by * moment.astype(wide)).astype(wide if moment.dtype == jnp.float16 else moment.dtype)

    def converted(part: Any) -> Any:
        if not is_adams(part):
            return part
        t = jnp.maximum(part.count, 1)  # before the first update the moments are 0, and any number will do
        c2 = _one_minus_power(b2, t)
        ratio = 1.0
        if scales and full_bias_correction:
            ratio = (1 - b1) / (1 + b1)
        elif scales:
            ratio = white_noise_mean(t, b1, b2, c2, array=jnp, lookahead=lookahead) / c2
        second = jax.tree.map(lambda v: scaled(v.real, ratio), part.nu)
        largest = None
        if amsgrad:  # as it is kept: in 32 bits or more, with what eps has added by now
            eps_sum = eps / (1 - b2) * c2
            largest = jax.tree.map(lambda v: v.astype(jnp.promote_types(v.dtype, jnp.float32)) + eps_sum, second)
        return ScaleByAdaMomentumState(part.count, jax.tree.map(scaled, part.mu), second, largest)

    parts = jax.tree.leaves(state, is_leaf=is_adams)
    if not any(map(is_adams, parts)):
        raise TypeError(
            f"state must be one of optax.adam or optax.adamw, with a ScaleByAdamState in it, got {type(state).__name__}"
        )
    return jax.tree.map(converted, state, is_leaf=is_adams)


def apply_updates_stochastically(params: optax.Params, updates: optax.Updates, count: jax.Array | int) -> optax.Params:
    """Add updates to parameters, as ``optax.apply_updates`` does, but round bfloat16 ones stochastically.

    Rounded to the nearest, a bfloat16 parameter stays where it is when its update is less than half of its spacing,
    2^-8 to 2^-9 of it; rounded up or down with the probability that keeps the mean it follows, without further memory.

    Updates of bfloat16 parameters must be in float32, so that nothing was lost before they are added: with gradients in
    float32, as by ``jax.tree.map(lambda g: g.astype(jnp.float32), grads)``, they come so from :func:`adamomentum`.

    Args:
        params: the parameters. Those not in bfloat16 are rounded to the nearest.
        updates: a tree like it; None leaves a parameter as it is.
        count: number of the update, an integer: what differs from one update to the next. The random bits are a
            function of it, of the element's place and of the parameter alone, so runs repeat.

    Returns:
        The parameters after the update, in their dtypes.

    Raises:
        TypeError: if the update of a bfloat16 parameter is itself of less than 32 bits.
    """
    seed = _mixed(jnp.asarray(count).astype(jnp.uint32) ^ jnp.uint32(0x9E3779B9))
    leaves, tree = jax.tree.flatten(params, is_leaf=lambda x: x is None)
    after = []
    for i, (p, u) in enumerate(zip(leaves, tree.flatten_up_to(updates), strict=True)):
        if p is None or u is None:
            after.append(p)
            continue
        p = jnp.asarray(p)
        if p.dtype != jnp.bfloat16:
            after.append(jnp.asarray(p + u).astype(p.dtype))
            continue
        if jnp.result_type(u).itemsize < 4:
            raise TypeError(
                f"update {_name(params, i)} of a bfloat16 parameter must be in float32, got {jnp.result_type(u)}: cast "
                "the gradients to float32 before the optimizer, jax.tree.map(lambda g: g.astype(jnp.float32), grads)"
            )
        after.append(_rounded(p.astype(jnp.float32) + u, p, seed)[0])
    return jax.tree.unflatten(tree, after)


class _Leaf(NamedTuple):
    update: jax.Array | None
    m: jax.Array
    v: jax.Array
    v_max: jax.Array | None


class _Numbers(NamedTuple):
    """What all leaves share: the numbers of this step and the seeds of the rounding."""

    m_decay: Number  # of m: b1, or 1 in a micro-batch before the update
    g_weight: Number  # of the gradient in m: 1 - b1, or that of a micro-batch
    b1: Number
    ahead_weight: Number  # of the gradient in the look-ahead momentum: of micro-batches, the last one's stands for all
    momentum_floor: jax.Array | None  # of micro-batches, the share of m that this momentum counts as at least in v
    b2: Number
    v_weight: Number  # 1 - b2, divided by c1^2 under full bias correction
    eps_sum: jax.Array  # what eps has added to v by now
    c1: jax.Array  # 1 - b1^t, what the momentum that moves is divided by; 1 - b1^(t+1) under Nesterov
    by_mean: jax.Array  # of v: 1 / (1 - b2^t), or one over its mean in white noise
    floor: Number  # eps_sum * by_mean
    m_seed: jax.Array
    v_seed: jax.Array
    takes: jax.Array | None  # whether the first moment changes, and
    last: jax.Array | None  # whether the others do; None: yes


@partial(jax.jit, static_argnames=("dtype", "lookahead", "nesterov"))
def _update(
    g: jax.Array,
    m: jax.Array,
    v: jax.Array,
    v_max: jax.Array | None,
    numbers: _Numbers,
    *,
    dtype: Any,
    lookahead: bool,
    nesterov: bool,
) -> _Leaf:
    """Update one leaf, in ``dtype``. Compiled: outside of the caller's own jit it is one call, not some 20."""
    wide = jnp.result_type(v, g.real, jnp.float32)

    def scalar(x: Any) -> jax.Array:
        return jnp.asarray(x, wide)

    widest = jnp.result_type(wide, m, g)  # complex for complex gradients

    def towards_g(x: jax.Array, decay: Number, weight: Number) -> jax.Array:
        return scalar(decay) * x + scalar(weight) * g.astype(widest)

    m, m_new = _store(towards_g(m.astype(widest), numbers.m_decay, numbers.g_weight), m, numbers.m_seed, numbers.takes)
    ahead = towards_g(m_new, numbers.b1, numbers.ahead_weight) if lookahead or nesterov else m_new
    averaged, moves = ahead if lookahead else m_new, ahead if nesterov else m_new
    square = _abs_squared(averaged)
    if lookahead and numbers.momentum_floor is not None:
        least = scalar(numbers.momentum_floor) ** 2 * _abs_squared(m_new)
        square = jnp.where(least > square, least, square)
    v_new = scalar(numbers.b2) * v.astype(wide) + scalar(numbers.v_weight) * square
    # Before v is rounded: the largest of values rounded by chance would be too large.
    if v_max is not None:
        largest = jnp.maximum(v_max, (v_new + scalar(numbers.eps_sum)).astype(v_max.dtype))
        v_max = largest if numbers.last is None else jnp.where(numbers.last, largest, v_max)
    v, v_new = _store(v_new, v, numbers.v_seed, numbers.last)
    if v_max is None:
        v_hat = v_new * scalar(numbers.by_mean) + scalar(numbers.floor)
    else:
        v_hat = v_max.astype(wide) * scalar(numbers.by_mean)
    return _Leaf((moves / (scalar(numbers.c1) * jnp.sqrt(v_hat))).astype(dtype), m, v, v_max)


def _check_accumulates(b1: Number, nesterov: bool) -> None:
    if nesterov:
        raise ValueError(
            "nesterov=True does not go with MultiSteps: it needs the gradient of the whole step, which is nowhere but "
            "in the first moment; set nesterov=False, or use optax.MultiSteps, which keeps it"
        )
    if not isinstance(b1, jax.core.Tracer) and float(b1) == 0:
        raise ValueError(
            "b1 must be > 0 with MultiSteps, got 0: the first moment then keeps nothing from one micro-batch to the "
            "next; use optax.MultiSteps, which keeps the gradients"
        )


def _number(name: str, value: Number, *, below_one: bool = False) -> Number:
    """Return the argument ``value``, checked; an array of one number in the shape of a number."""
    shape = getattr(value, "shape", None)
    if shape is not None and math.prod(shape) == 1 and shape != ():
        value, shape = value.reshape(()), ()
    if isinstance(value, jax.core.Tracer) and shape == ():
        return value
    dtype = jnp.result_type(value) if shape == () else None
    real = dtype is not None and (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))
    if isinstance(value, bool) or not (isinstance(value, int | float) or real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= float(value) < (1 if below_one else math.inf):
        hint = ""
        if dtype in (jnp.bfloat16, jnp.float16):
            hint = (
                f" in {dtype}; inject_hyperparams rounds to the parameters' dtype: give it hyperparam_dtype=jnp.float32"
            )
        raise ValueError(f"{name} must be {'in [0, 1)' if below_one else '>= 0 and finite'}, got {value}{hint}")
    return value


def _check_state(state: Any, amsgrad: bool) -> None:
    # By name: a module that is loaded again has another class.
    if type(state).__name__ != ScaleByAdaMomentumState.__name__:
        remedy = ""
        if type(state).__name__ == optax.ScaleByAdamState.__name__:
            remedy = ". Adam's nu averages the squared gradient: convert the state by adamomentum.optax.from_adam"
        raise TypeError(f"state must be the ScaleByAdaMomentumState that init made, got {type(state).__name__}{remedy}")
    if amsgrad and state.nu_max is None and state.nu is not None:
        raise ValueError(
            "amsgrad=True, but amsgrad was off when the state was made: it has no nu_max. Leave it off, or give the "
            "state an nu_max to start from: its nu, in float32"
        )
    if not amsgrad and state.nu_max is not None:
        raise ValueError(
            "amsgrad=False, but amsgrad was on when the state was made: it has an nu_max. Leave it on, or replace "
            "the state's nu_max by None"
        )


def _name(tree: Any, i: int) -> str:
    """Return the name of the i-th leaf, as JAX writes it."""
    path, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)[0][i]
    return jax.tree_util.keystr(path) or "(the only one)"


def _dtype_of(x: Any, what: str, tree: Any, i: int) -> Any:
    """Return the dtype of the i-th leaf of a tree.

    Raises:
        TypeError: if it is none of numbers, or of fewer than 16 bits.
    """
    dtype = jnp.result_type(x) if isinstance(x, bool | int | float | complex) else getattr(x, "dtype", None)
    remedy = "; with Equinox, pass eqx.filter(model, eqx.is_inexact_array)"
    if dtype is not None and not jnp.issubdtype(dtype, jax.dtypes.extended):
        if jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_):
            return dtype
        if jnp.issubdtype(dtype, jnp.inexact):
            if dtype.itemsize > 1:
                return dtype
            remedy = "; keep it in bfloat16 or float32 and cast it in the model"
        elif dtype == jax.dtypes.float0:
            remedy = "; make the gradient None where a parameter is of integers"
    got = type(x).__name__ if dtype is None else "float0" if dtype == jax.dtypes.float0 else dtype
    raise TypeError(f"{what} {_name(tree, i)} must be of real or complex numbers of 16 bits or more, got {got}{remedy}")


def _update_dtype(updates: optax.Updates, i: int, g: Any, p: Any, m: Any, v: Any) -> Any:
    """Return the dtype of the update of the i-th leaf, whose gradient and moments are checked."""
    dtype = _dtype_of(g, "gradient", updates, i)
    shapes = jnp.shape(g), jnp.shape(m), jnp.shape(v)
    if len(set(shapes)) > 1:
        raise ValueError(
            f"gradient {_name(updates, i)} and its moments must be of one shape, got {shapes[0]}, {shapes[1]} and "
            f"{shapes[2]}: the state is of other parameters"
        )
    if p is not None and jnp.issubdtype(_dtype_of(p, "parameter", updates, i), jnp.inexact):
        # The gradients' dtype alone would round the steps of float32 parameters to bfloat16's 8 bits.
        dtype = jnp.result_type(g, p)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"gradient {_name(updates, i)} must not be of integers, got {dtype}: its update would be, too. Make it "
            "None where a parameter is not trained"
        )
    return dtype


def _moment_dtype(name: str, dtype: Any) -> Any:
    if dtype is None:
        return None
    if hasattr(dtype, "shape"):
        raise TypeError(f"{name} must be a dtype, got an array; name it in the static_args of inject_hyperparams")
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.float64, jnp.bfloat16):
        raise ValueError(f"{name} must be float32, float64, bfloat16 or None, got {dtype}")
    return jax.dtypes.canonicalize_dtype(dtype)


def _dtype_for(p: jax.Array, dtype: Any, real: bool) -> Any:
    """Return the dtype of a moment of a parameter."""
    own = jnp.result_type(p)
    # Promotion knows no integers of less than 8 bits.
    own = jnp.promote_types(own, jnp.float32) if jnp.issubdtype(own, jnp.inexact) else jnp.dtype(jnp.float32)
    if not jnp.issubdtype(own, jnp.complexfloating):
        return own if dtype is None else dtype
    if real:
        return jnp.finfo(own).dtype if dtype is None else dtype
    return own if dtype is None else jnp.promote_types(dtype, jnp.complex64)


def _one_minus_power(b: Number, count: jax.Array) -> jax.Array:
    """Return 1 - b^t, also where b^t is so near 1 that float32 would lose it."""
    if isinstance(b, int | float):
        log = math.log(b) if b else -math.inf
        return -jnp.expm1(count * log)
    # The logarithm has no derivative at 0: there the power itself is taken.
    positive = b > 0
    return jnp.where(positive, -jnp.expm1(count * jnp.log(jnp.where(positive, b, 1))), 1 - b**count)


def _abs_squared(x: jax.Array) -> jax.Array:
    return jnp.square(x) if not jnp.iscomplexobj(x) else jnp.square(x.real) + jnp.square(x.imag)


def _mixed(h: jax.Array) -> jax.Array:
    """Return the finalizer of MurmurHash3 (Appleby, public domain): every bit of 32 depends on every bit."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


# Of the rounding of the first moments and of the second ones in an update.
_seeds: Any = jax.jit(lambda count: (_mixed(count.astype(jnp.uint32)), _mixed(~count.astype(jnp.uint32))))
# And of that of the first moments in a micro-batch before the update.
_accumulation_seed: Any = jax.jit(
    lambda count, number: _mixed(count.astype(jnp.uint32) ^ _mixed(number.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)))
)


def _round(x: jax.Array, like: jax.Array, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Round ``x`` by chance to bfloat16, and return it also in float32: the rest of the update goes on from that.

    So XLA writes a moment in place and reads it back. The unrounded one, which is kept nowhere, it would compute again
    for each use, from a copy of the old moment. The rounding error of a moment is in all of the following updates as
    well, so that it is in this one changes little.

    The random bits are a hash of the update's number, the element's place in its array, and what the moment was before,
    so a run resumes as it was and arrays differ, while arrays of one shape have the same code. A number for
    each array would give each a code of its own, and XLA compiles equal ones only once. They are a hash and not
    jax.random's, because that fuses with the rest of the update and follows its sharding.
    """
    place, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    before = jax.lax.bitcast_convert_type(like, jnp.uint16).astype(jnp.uint32)
    h = (place * jnp.uint32(0x9E3779B1) + before * jnp.uint32(0xC2B2AE35)) ^ seed
    noise = ((h ^ (h >> 15)) * jnp.uint32(0x85EBCA6B)) >> 16
    narrow = x.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(narrow, jnp.uint32)
    cut = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    stored = jnp.where(jnp.isnan(narrow), narrow, cut).astype(jnp.bfloat16)
    return stored, stored.astype(x.dtype)


def _derivative(primals: Any, tangents: Any) -> Any:
    """Return the derivative of not rounding at all: that of what was done is 0."""
    return _rounded(*primals), (tangents[0].astype(jnp.bfloat16), tangents[0])


_rounded: Any = jax.custom_jvp(_round)
_rounded.defjvp(_derivative)


def _store(x: jax.Array, like: jax.Array, seed: jax.Array, changes: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return ``x`` in the dtype that a moment is stored in, and as the rest of the update takes it.

    Both are the moment as it was, ``like``, where ``changes`` is False: what is in bfloat16 is not rounded again.
    """
    if changes is not None:
        x = jnp.where(changes, x, like.astype(x.dtype))
    stored, now = _rounded(x, like, seed) if like.dtype == jnp.bfloat16 else (x.astype(like.dtype), x)
    return stored, now
