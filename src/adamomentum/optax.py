r"""AdaMomentum for JAX, as an optax gradient transformation.

    m_t = b1 m_(t-1) + (1 - b1) g_t
    v_t = b2 v_(t-1) + (1 - b2) m_t^2
    update = mhat_t / sqrt(v_t / (1 - b2^t) + eps / (1 - b2)),    mhat_t = m_t / (1 - b1^t)

which is Algorithm 1 of arXiv 2106.11514 for constant b2 and eps: that adds eps to v at every step, where it accumulates
to eps (1 - b2^t) / (1 - b2). Here eps stays out of the stored moment, so that it can be changed at any time and cannot
be lost to rounding. Importing this module imports jax and optax, not torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

try:
    import jax
    import jax.numpy as jnp
    import optax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'adamomentum.optax needs jax and optax, {error.name} is not installed: run pip install "adamomentum[jax]"'
    ) from error

__all__ = ["ScaleByAdaMomentumState", "adamomentum", "scale_by_adamomentum"]

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
) -> optax.GradientTransformation:
    """Scale updates as AdaMomentum does: the second moment averages the square of the first one.

    All maths is done in float32, or in float64 for gradients or moments in it. Updates come back in the dtype that
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

    Returns:
        The transformation; its state is a :class:`ScaleByAdaMomentumState`.

    Raises:
        TypeError: if a number is none.
        ValueError: if an argument is out of range. Arrays under tracing are not looked into.
    """
    _check("b1", b1, below_one=True)
    _check("b2", b2, below_one=True)
    _check("eps", eps)
    mu_dtype, nu_dtype = _moment_dtype("mu_dtype", mu_dtype), _moment_dtype("nu_dtype", nu_dtype)

    def init_fn(params: optax.Params) -> ScaleByAdaMomentumState:
        def zeros(dtype: Any, real: bool) -> optax.Updates:
            return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=_dtype_for(p, dtype, real)), params)

        nu_max = zeros(jnp.promote_types(nu_dtype, jnp.float32) if nu_dtype else None, True) if amsgrad else None
        return ScaleByAdaMomentumState(jnp.zeros([], jnp.int32), zeros(mu_dtype, False), zeros(nu_dtype, True), nu_max)

    def update_fn(
        updates: optax.Updates, state: ScaleByAdaMomentumState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByAdaMomentumState]:
        count = optax.safe_increment(state.count)
        c1, c2 = _one_minus_power(b1, count), _one_minus_power(b2, count)
        floor = eps / (1 - b2)

        def one(g: jax.Array | None, p: Any, m: jax.Array, v: jax.Array, v_max: jax.Array | None, i: int) -> _Leaf:
            if g is None:  # not trained in this step
                return _Leaf(None, m, v, v_max)
            g = jnp.asarray(g)
            dtype = jnp.result_type(v, g.real, jnp.float32)

            def scalar(x: Any) -> jax.Array:
                return jnp.asarray(x, dtype)

            wide = jnp.result_type(dtype, m, g)  # complex for complex gradients
            m_new = scalar(b1) * m.astype(wide) + scalar(1 - b1) * g.astype(wide)
            v_new = scalar(b2) * v.astype(dtype) + scalar(1 - b2) * _abs_squared(m_new)
            if v_max is None:
                v_hat = v_new / scalar(c2) + scalar(floor)
            else:
                v_max = jnp.maximum(v_max, (v_new + scalar(floor) * scalar(c2)).astype(v_max.dtype))
                v_hat = v_max.astype(dtype) / scalar(c2)
            step = m_new / scalar(c1) / jnp.sqrt(v_hat)
            m, v = _stored(m_new, m, count, 2 * i), _stored(v_new, v, count, 2 * i + 1)
            # The gradients' dtype alone would round the steps of float32 parameters to bfloat16's 8 bits.
            return _Leaf(step.astype(g.dtype if p is None else jnp.result_type(g, p)), m, v, v_max)

        leaves, tree = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
        rows = zip(
            leaves,
            [None] * len(leaves) if params is None else tree.flatten_up_to(params),
            *(tree.flatten_up_to(moment) for moment in (state.mu, state.nu)),
            tree.flatten_up_to(state.nu_max) if amsgrad else [None] * len(leaves),
            range(len(leaves)),
            strict=True,
        )
        made = [one(*row) for row in rows]
        columns = [jax.tree.unflatten(tree, [leaf[i] for leaf in made]) for i in range(4)]
        return columns[0], ScaleByAdaMomentumState(count, columns[1], columns[2], columns[3] if amsgrad else None)

    return optax.GradientTransformation(init_fn, update_fn)


def adamomentum(
    learning_rate: optax.ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-16,
    *,
    weight_decay: Number = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    amsgrad: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
) -> optax.GradientTransformation:
    """AdaMomentum with decoupled weight decay: Adam whose second moment averages the square of the momentum.

    To come from ``optax.adamw``, divide its learning rate by about 4: in noise AdaMomentum's steps are 4.36 times as
    long at the default betas. ``adamomentum.theory.guidance.suggest_lr`` computes the factor for others. Its eps is
    not Adam's either; keep the default. The first step is lr / (1 - b1) long, ten times the learning rate: warm up.

    Args:
        learning_rate: a number, or a schedule: a function of the number of updates made.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: see :func:`scale_by_adamomentum`.
        weight_decay: parameters shrink by ``learning_rate * weight_decay`` a step.
        mask: which parameters decay, as in ``optax.adamw``: a tree of booleans, or a function that makes it of the
            parameters.
        amsgrad: see :func:`scale_by_adamomentum`.
        mu_dtype: see :func:`scale_by_adamomentum`.
        nu_dtype: see :func:`scale_by_adamomentum`.

    Returns:
        The transformation. Pass ``update`` the parameters: weight decay needs them, and updates are then as precise as
        they are.

    Raises:
        TypeError: if a number is none.
        ValueError: if an argument is out of range.
    """
    _check("weight_decay", weight_decay)
    if not callable(learning_rate):
        _check("learning_rate", learning_rate)
    decays = not isinstance(weight_decay, int | float) or weight_decay != 0
    # Of the same structure of state as the decay, so that decay can be turned on later.
    nothing = optax.identity() if mask is None else optax.masked(optax.identity(), mask)
    return optax.chain(
        scale_by_adamomentum(b1, b2, eps, amsgrad=amsgrad, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
        optax.add_decayed_weights(weight_decay, mask) if decays else nothing,
        optax.scale_by_learning_rate(learning_rate),
    )


class _Leaf(NamedTuple):
    update: jax.Array | None
    m: jax.Array
    v: jax.Array
    v_max: jax.Array | None


def _check(name: str, value: Number, *, below_one: bool = False) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    dtype = jnp.result_type(value) if getattr(value, "shape", None) == () else None
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
    """The dtype of a moment of a parameter."""
    own = jnp.promote_types(jnp.result_type(p), jnp.float32)
    if not jnp.issubdtype(own, jnp.complexfloating):
        return own if dtype is None else dtype
    if real:
        return jnp.finfo(own).dtype if dtype is None else dtype
    return own if dtype is None else jnp.promote_types(dtype, jnp.complex64)


def _one_minus_power(b: Number, count: jax.Array) -> jax.Array:
    """1 - b^t, also where b^t is so near 1 that float32 would lose it."""
    if isinstance(b, int | float):
        log = math.log(b) if b else -math.inf
        return -jnp.expm1(count * log)
    return -jnp.expm1(count * jnp.log(b))


def _abs_squared(x: jax.Array) -> jax.Array:
    return jnp.square(x) if not jnp.iscomplexobj(x) else jnp.square(x.real) + jnp.square(x.imag)


def _mixed(h: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3 (Appleby, public domain): every bit of 32 depends on every bit."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def _stored(x: jax.Array, like: jax.Array, count: jax.Array, place: int) -> jax.Array:
    """``x`` in the dtype that a moment is stored in, bfloat16 rounded by chance.

    The random bits are a function of the update's number, the moment's place in the tree and the element's in the
    moment, so a run resumes as it was. They are a hash and not jax.random's, because
    that fuses with the rest of the update and follows its sharding.
    """
    if like.dtype != jnp.bfloat16:
        return x.astype(like.dtype)
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    index, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    seed = _mixed(count.astype(jnp.uint32) + jnp.uint32(place * 0x9E3779B9 % 2**32))
    noise = _mixed(_mixed(index ^ seed) + seed) >> 16
    rounded = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)
