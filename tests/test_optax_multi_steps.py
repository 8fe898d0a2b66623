"""Accumulated gradients in optax: beside the reference on their mean, and beside ``optax.MultiSteps``."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from adamomentum import reference

jax = pytest.importorskip("jax", reason="jax is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")
jnp = jax.numpy

from adamomentum.optax import (  # noqa: E402
    MultiSteps,
    MultiStepsState,
    adamomentum,
    apply_updates_stochastically,
    from_adam,
    scale_by_adamomentum,
)

MATCH = {"adjust_lr": "match_rms_adamw"}
SWITCHES = {
    "plain": {},
    "amsgrad": {"amsgrad": True, "eps": 1e-4},
    "decay": {"weight_decay": 0.1},
    "betas": {"betas": (0.5, 0.9), "eps": 1e-8},
    "full-bias-correction": {"full_bias_correction": True, "betas": (0.9, 0.99)},
    "momentum": {**MATCH, "second_moment": "momentum"},
    "drop-in": MATCH,
    "drop-in-l2": {**MATCH, "weight_decay": 0.1, "decoupled_weight_decay": False},
    "drop-in-decay-amsgrad": {**MATCH, "amsgrad": True, "weight_decay": 0.1, "eps": 1e-4},
    "lookahead": {"second_moment": "lookahead"},
}
SHAPES = {"w": (3, 4), "b": (), "empty": (0, 2)}
PARAMS = {"w": jnp.asarray([0.5, 2.0]), "b": jnp.asarray(-1.0)}
# K of each step, by its number.
STEPS = {"1": 1, "2": 2, "5": 5, "growing": lambda step: 1 + step // 4}


def ours(lr, betas=(0.9, 0.999), decoupled_weight_decay=True, weight_decay=0.0, **options):
    """The optimizer, and what goes around MultiSteps: L2 decay, which joins every micro-batch's gradient."""
    if decoupled_weight_decay:
        return adamomentum(lr, *betas, weight_decay=weight_decay, **options), lambda multi: multi
    l2 = optax.add_decayed_weights(weight_decay)
    return adamomentum(lr, *betas, **options), lambda multi: optax.chain(l2, multi.gradient_transformation())


def moments_of(state):
    (part,) = [x for x in jax.tree.leaves(state, is_leaf=is_moments) if is_moments(x)]
    return part


def is_moments(x) -> bool:
    return type(x).__name__ == "ScaleByAdaMomentumState"


def jitted(optimizer):
    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, updates

    return step


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("use_grad_mean", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize("options", SWITCHES.values(), ids=SWITCHES.keys())
def test_lockstep_with_the_reference(options: dict, steps, use_grad_mean: bool) -> None:
    """Whose step takes the mean of K gradients, and knows the last one."""
    if not use_grad_mean and not options.get("decoupled_weight_decay", True):
        pytest.skip("L2 decay would join every gradient of a sum")
    rng = np.random.default_rng(0)
    theta = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    states = {name: reference.State.zeros(p) for name, p in theta.items()}
    inner, around = ours(1e-2, **options)
    optimizer = around(MultiSteps(inner, steps, use_grad_mean))
    params = jax.tree.map(jnp.asarray, theta)
    state, step = optimizer.init(params), jitted(optimizer)
    beta2, eps = options.get("betas", (0.9, 0.999))[1], options.get("eps", 1e-16)
    for t in range(20):
        k = steps(t) if callable(steps) else steps
        weight = 1 / k if use_grad_mean else 1
        batches = [{name: rng.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(k)]
        before = params
        for i, grads in enumerate(batches):
            jax.tree.map(np.testing.assert_array_equal, params, before)
            assert moments_of(state).count == t
            params, state, updates = step(params, state, grads)
            if i < k - 1:
                assert not any(np.any(u) for u in jax.tree.leaves(updates))
        accumulated = eps * (1 - beta2 ** (t + 1)) / (1 - beta2)
        for name in SHAPES:
            theta[name], states[name] = reference.step(
                theta[name],
                weight * sum(grads[name] for grads in batches),
                states[name],
                last_grad=weight * batches[-1][name],
                passes=k,
                lr=1e-2,
                **options,
            )
            moments, wanted = moments_of(state), states[name]
            np.testing.assert_allclose(params[name], theta[name], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(moments.mu[name], wanted.m, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(moments.nu[name] + accumulated, wanted.v, rtol=1e-12, atol=1e-14)
            if options.get("amsgrad"):
                np.testing.assert_allclose(moments.nu_max[name], wanted.v_max, rtol=1e-12)
    assert step._cache_size() == 1, "the second micro-batch was compiled again"


SAME = {
    "plain": lambda: adamomentum(0.1),
    "schedules": lambda: adamomentum(
        optax.cosine_decay_schedule(0.1, 4),
        weight_decay=optax.linear_schedule(0.0, 0.4, 3),
        mask={"w": True, "b": False},
    ),
    "momentum": lambda: adamomentum(0.1, second_moment="momentum", **MATCH),
    "injected": lambda: optax.inject_hyperparams(adamomentum)(optax.linear_schedule(0.1, 0.0, 5), weight_decay=0.1),
    "chained": lambda: optax.chain(
        scale_by_adamomentum(), optax.trace(0.5), optax.scale_by_trust_ratio(), optax.scale(-0.1)
    ),
    "by labels": lambda: optax.multi_transform(
        {"fast": adamomentum(0.3), "slow": adamomentum(0.1, 0.5, amsgrad=True)}, {"w": "fast", "b": "slow"}
    ),
    "masked": lambda: optax.chain(
        optax.masked(adamomentum(0.1), {"w": True, "b": False}), optax.masked(adamomentum(0.2), {"w": False, "b": True})
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "options",
    [
        {"every_k_schedule": 3},
        {"every_k_schedule": lambda step: jnp.where(step < 2, 1, 4), "use_grad_mean": False},
        {"every_k_schedule": 2, "should_skip_update_fn": optax.skip_not_finite},
    ],
    ids=["mean", "growing-sum", "skip"],
)
@pytest.mark.parametrize("inner", SAME.values(), ids=SAME.keys())
def test_as_multi_steps_of_optax(inner, options: dict) -> None:
    """Parameters, counts and what is skipped, in float64, where the sum in the one and in the other are as precise."""
    rng = np.random.default_rng(1)
    optimizers = [MultiSteps(inner(), **options), optax.MultiSteps(inner(), accumulator_dtype=jnp.float64, **options)]
    params = {"w": jnp.asarray(rng.standard_normal(3)), "b": jnp.asarray(np.asarray(rng.standard_normal()))}
    both = [(params, optimizer.init(params), None) for optimizer in optimizers]
    steps = [jitted(optimizer) for optimizer in optimizers]
    for t in range(17):
        grads = {"w": rng.standard_normal(3), "b": np.asarray(rng.standard_normal())}
        if t % 5 == 2:
            grads["b"] = np.asarray(np.nan if "should_skip_update_fn" in options else 0.0)
        both = [step(params, state, grads) for step, (params, state, _) in zip(steps, both, strict=True)]
        (ours, state, update), (theirs, wanted, wanted_update) = both
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13), (ours, update), (theirs, wanted_update)
        )
        assert state.mini_step == wanted.mini_step
        assert state.gradient_step == wanted.gradient_step
        assert optimizers[0].has_updated(state) == optimizers[1].has_updated(wanted)
        jax.tree.map(np.testing.assert_array_equal, state.skip_state, wanted.skip_state)
        assert jax.tree.map(jnp.shape, state.inner_opt_state) == jax.tree.map(jnp.shape, wanted.inner_opt_state)
    assert [step._cache_size() for step in steps] == [1, 1]
    assert state.gradient_step > 3


def test_outside_of_jit_and_in_a_scan() -> None:
    optimizer = MultiSteps(adamomentum(0.1, weight_decay=0.1, **MATCH), 3)
    grads = jnp.asarray(np.random.default_rng(2).standard_normal((12, 5)), "float32")

    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), updates

    carry = start = jnp.ones(5), optimizer.init(jnp.ones(5))
    for g in grads:
        carry, _ = step(carry, g)
    scanned, _ = jax.jit(lambda carry: jax.lax.scan(step, carry, grads))(start)
    for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(scanned), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)
    assert scanned[1].gradient_step == 4


PRECISIONS = {
    "float32": ("float32", {}),
    "bfloat16 moments": ("float32", {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}),
    "bfloat16 parameters": ("bfloat16", {}),
    "amsgrad": ("float32", {"amsgrad": True}),
}


@pytest.mark.parametrize("dtype, options", PRECISIONS.values(), ids=PRECISIONS.keys())
def test_resumes_bitwise_in_the_middle_of_a_step(dtype: str, options: dict) -> None:
    rng = np.random.default_rng(3)
    optimizer = MultiSteps(adamomentum(0.1, weight_decay=0.1, **MATCH, **options), 3)
    params = jnp.ones(40, dtype)
    current, step = (params, optimizer.init(params), None), jitted(optimizer)
    grads = [jnp.asarray(rng.standard_normal(40), dtype) for _ in range(12)]
    for t, g in enumerate(grads):
        if t == 5:
            kept = jax.tree.map(np.asarray, current[:2])
            assert kept[1].mini_step == 2
        current = step(*current[:2], g)
    again = (*jax.tree.map(jnp.asarray, kept), None)
    for g in grads[5:]:
        again = step(*again[:2], g)
    jax.tree.map(np.testing.assert_array_equal, again, current)
    assert all(np.isfinite(x.astype("float32")).all() for x in jax.tree.leaves(current))


@pytest.mark.slow
@pytest.mark.clients
def test_orbax_keeps_the_state(tmp_path) -> None:
    orbax = pytest.importorskip("orbax.checkpoint", reason="orbax is not installed")
    optimizer = MultiSteps(adamomentum(optax.cosine_decay_schedule(0.1, 20), weight_decay=0.1), 2)
    _, state, _ = jitted(optimizer)(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert state.mini_step == 1
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def peak(optimizer, shape=(300, 100), leaves: int = 4) -> tuple[float, float]:
    """Bytes a parameter: of the state, and of what a compiled step has beside parameters, state and gradients."""
    params = {str(i): jnp.ones(shape) for i in range(leaves)}
    state = optimizer.init(params)

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    memory = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile().memory_analysis()
    n = sum(p.size for p in params.values())
    return sum(x.nbytes for x in jax.tree.leaves(state)) / n, memory.temp_size_in_bytes / n


@pytest.mark.parametrize(
    "options", [{}, {**MATCH, "weight_decay": 0.1}, {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}]
)
def test_no_tree_of_gradients(options: dict) -> None:
    """Neither in the state nor, where XLA makes the step in place, in the compiled step."""
    state, beside = peak(MultiSteps(adamomentum(0.1, **options), 4))
    plain, _ = peak(adamomentum(0.1, **options))
    theirs, theirs_beside = peak(optax.MultiSteps(adamomentum(0.1, **options), 4))
    assert state == pytest.approx(plain, abs=0.01)
    assert theirs == pytest.approx(plain + 4, abs=0.01)
    if jax.__version_info__ >= (0, 10):
        assert beside < 0.1
        assert theirs_beside > 0.1


@pytest.mark.parametrize("k", [1, 4, 16])
def test_steps_in_noise_are_as_long_as_those_of_adamw(k: int) -> None:
    """Those of AdamW on the mean: the look-ahead momentum takes the last gradient for it, and its mean knows."""
    rng = np.random.default_rng(4)
    n, lengths = 3000, []
    for optimizer in (
        MultiSteps(adamomentum(1.0, 0.9, 0.99, **MATCH), k),
        optax.MultiSteps(optax.adamw(1.0, 0.9, 0.99), k),
    ):
        state, update = optimizer.init(jnp.zeros(n)), jax.jit(optimizer.update)
        moved = []
        for t in range(150 * k):
            updates, state = update(jnp.asarray(rng.standard_normal(n), "float32"), state, jnp.zeros(n))
            if t >= 50 * k and optimizer.has_updated(state):
                moved.append(float(jnp.sqrt(jnp.mean(updates**2))))
        lengths.append(np.mean(moved))
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)


def test_after_a_change_of_k_steps_are_off_by_less_than_said() -> None:
    """From 1 to 4 the correction is that of K = 4 at once, while the second moment still holds that of K = 1."""
    rng, n = np.random.default_rng(5), 4000
    exact = optax.MultiSteps(adamomentum(1.0, **MATCH), lambda step: jnp.where(step < 1000, 1, 4))
    optimizer = MultiSteps(adamomentum(1.0, **MATCH), lambda step: jnp.where(step < 1000, 1, 4))
    states, updates = [], [jax.jit(exact.update), jax.jit(optimizer.update)]
    states = [exact.init(jnp.zeros(n)), optimizer.init(jnp.zeros(n))]
    for _ in range(1004):
        g = jnp.asarray(rng.standard_normal(n), "float32")
        moved, states = zip(*(f(g, s, jnp.zeros(n)) for f, s in zip(updates, states, strict=True)), strict=True)
    theirs, mine = (float(jnp.sqrt(jnp.mean(u**2))) for u in moved)
    kappa = [reference.white_noise_mean(1001, (0.9, 0.999), lookahead=True, passes=k) for k in (1, 4)]
    assert mine / theirs == pytest.approx((kappa[1] / kappa[0]) ** 0.5, rel=0.02)
    assert 1.1 < mine / theirs < 4**0.5


def test_bfloat16_moments_travel_as_far() -> None:
    """A micro-batch's rounding is without bias: the way over 1,000 steps of 16 is that of float32 moments."""
    n, k, steps = 2000, 16, 1000
    drift = jnp.where(jnp.arange(n) % 2 == 0, 0.02, -0.02)
    ends = []
    for options in ({}, {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}):
        optimizer = MultiSteps(adamomentum(1e-3, **MATCH, **options), k)

        def body(carry, key, optimizer=optimizer):
            params, state = carry
            updates, state = optimizer.update(drift + jax.random.normal(key, (n,)), state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jnp.zeros(n), optimizer.init(jnp.zeros(n))
        keys = jax.random.split(jax.random.key(0), k * steps)
        (params, _), _ = jax.jit(lambda carry, keys, body=body: jax.lax.scan(body, carry, keys))(start, keys)
        ends.append(np.asarray(params * jnp.sign(drift), np.float64))
    assert ends[1].mean() == pytest.approx(ends[0].mean(), rel=0.02)
    assert np.abs(ends[1]).mean() == pytest.approx(np.abs(ends[0]).mean(), rel=0.02)


def test_each_micro_batch_is_rounded_by_other_bits() -> None:
    """Equal bits in each would add up to a bias of a place: here one chance in two, sixteen times."""
    n, k = 4000, 17
    optimizer = MultiSteps(adamomentum(1.0, b1=0.5, mu_dtype="bfloat16"), k, use_grad_mean=False)
    state, update = optimizer.init(jnp.zeros(n)), jax.jit(optimizer.update)
    first, half = jnp.full(n, 1.0), jnp.full(n, 2.0**-8)  # half of the spacing above 1
    for i in range(k - 1):
        _, state = update(half if i else first, state, jnp.zeros(n))
    ups = (np.asarray(moments_of(state).mu, np.float64) - 1) / 2.0**-7
    assert ups.mean() == pytest.approx(7.5, abs=0.15)
    assert ups.std() == pytest.approx((15 / 4) ** 0.5, rel=0.1), "a binomial's: one draw for all would give 7.5"


def test_micro_batches_in_bfloat16_train_stochastically_rounded_parameters() -> None:
    """The zeros between the steps move nothing."""
    optimizer = MultiSteps(adamomentum(1e-3, **MATCH), 2)
    params = jnp.ones(1000, jnp.bfloat16)
    state = optimizer.init(params)
    for _ in range(2):
        before = params
        updates, state = optimizer.update(jnp.ones(1000), state, params)
        params = apply_updates_stochastically(params, updates, state.gradient_step)
        if not optimizer.has_updated(state):
            np.testing.assert_array_equal(params.astype("float32"), before.astype("float32"))
    assert 1 - float(params.astype("float32").mean()) == pytest.approx(1e-3, rel=0.3)


def test_none_complex_and_narrow_gradients() -> None:
    optimizer = MultiSteps(adamomentum(0.1), 2)
    state = optimizer.init(PARAMS)
    for _ in range(2):
        updates, state = jax.jit(optimizer.update)({"w": PARAMS["w"], "b": None}, state, PARAMS)
    assert updates["b"] is None
    assert np.any(updates["w"])
    assert moments_of(state).mu["b"] == 0
    z = jnp.asarray([1 + 2j, -3j], "complex64")
    for params, g in ((z, z), (jnp.ones(3), jnp.full(3, 6e4, "float16"))):  # whose sum is none of float16
        state, plain = optimizer.init(params), adamomentum(0.1)
        for _ in range(2):
            updates, state = optimizer.update(g, state, params)
        wanted, _ = plain.update(g, plain.init(params), params)
        np.testing.assert_allclose(updates, wanted, rtol=1e-5)
        assert updates.dtype == wanted.dtype


def test_beside_other_optimizers_and_behind_clipping() -> None:
    """As the errors say to do it."""
    ours = MultiSteps(adamomentum(0.1), 2).gradient_transformation()
    both = optax.multi_transform(
        {"ours": ours, "sgd": optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()}, {"w": "ours", "b": "sgd"}
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), both)
    params, state, step = PARAMS, optimizer.init(PARAMS), jitted(optimizer)
    small = jax.tree.map(lambda p: 0.01 * p, PARAMS)
    for g in (PARAMS, small):
        params, state, _ = step(params, state, g)
    norm = float(optax.tree.norm(PARAMS))
    mean = jax.tree.map(lambda p: (p / norm + 0.01 * p) / 2, PARAMS)
    np.testing.assert_allclose(params["b"], PARAMS["b"] - 0.1 * mean["b"], rtol=1e-6)
    np.testing.assert_allclose(moments_of(state).mu["w"], 0.1 * mean["w"], rtol=1e-6)


def test_on_from_multi_steps_of_optax() -> None:
    """Between two steps; and from Adam."""
    theirs = optax.MultiSteps(optax.adamw(0.1), 2)
    params, state, step = PARAMS, theirs.init(PARAMS), jitted(theirs)
    for _ in range(4):
        params, state, _ = step(params, state, PARAMS)
    optimizer = MultiSteps(adamomentum(0.1, **MATCH), 2)
    with pytest.raises(TypeError, match=r"got MultiStepsState of optax\. Between two steps, at mini_step 0"):
        optimizer.update(PARAMS, state, params)
    converted = from_adam(state, **MATCH)
    converted = MultiStepsState(converted.mini_step, converted.gradient_step, converted.inner_opt_state)
    assert jax.tree.structure(converted) == jax.tree.structure(optimizer.init(PARAMS))
    _, converted, _ = jitted(optimizer)(params, converted, PARAMS)
    assert (converted.mini_step, converted.gradient_step, moments_of(converted).count) == (1, 2, 2)


CHANGED = "must reach scale_by_adamomentum as it is handed to MultiSteps.* is changed before or not taken"


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize(
    "inner, message",
    [
        (optax.chain(optax.clip_by_global_norm(1.0), adamomentum(0.1)), rf"gradient \['b'\] {CHANGED}"),
        (optax.chain(optax.scale(-1.0), adamomentum(0.1)), CHANGED),
        (optax.adamw(0.1), CHANGED),
        (optax.masked(adamomentum(0.1), {"w": True, "b": False}), rf"gradient \['b'\] {CHANGED}"),
        (
            optax.multi_transform({"a": adamomentum(0.1), "b": optax.sgd(0.1)}, {"w": "a", "b": "b"}),
            rf"gradient \['b'\] {CHANGED}",
        ),
        (optax.apply_if_finite(adamomentum(0.1), 3), "must be kept as .* leaves it.* give MultiSteps a should_skip"),
        (adamomentum(0.1, nesterov=True), "nesterov=True does not go with MultiSteps"),
        (adamomentum(0.1, b1=0.0), "b1 must be > 0 with MultiSteps, got 0"),
    ],
)
def test_what_needs_the_whole_gradient_is_refused(inner, message: str, jit: bool) -> None:
    """Silently, it would be made from the last micro-batch alone."""
    optimizer = MultiSteps(inner, 2)
    update = jax.jit(optimizer.update) if jit else optimizer.update
    with pytest.raises(ValueError, match=message):
        update(PARAMS, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: MultiSteps(adamomentum(0.1), 0), ValueError, "every_k_schedule must be >= 1, got 0"),
        (lambda: MultiSteps(adamomentum(0.1), True), TypeError, "every_k_schedule must be an integer or a function"),
        (lambda: MultiSteps(adamomentum(0.1), 2.5), TypeError, "got 2.5"),
        (lambda: MultiSteps(adamomentum(0.1), np.int64(0)), ValueError, "every_k_schedule must be >= 1, got 0"),
        (lambda: MultiSteps(adamomentum(0.1), np.True_), TypeError, "every_k_schedule must be an integer"),
        (
            lambda: MultiSteps(adamomentum(0.1), 2).update(PARAMS, adamomentum(0.1).init(PARAMS), PARAMS),
            TypeError,
            "state must be the MultiStepsState that init made, got tuple",
        ),
        (
            lambda: (m := MultiSteps(adamomentum(0.1), 2, should_skip_update_fn=lambda *_: (jnp.zeros(2), ()))).update(
                PARAMS, m.init(PARAMS), PARAMS
            ),
            ValueError,
            "should_skip_update_fn must return a boolean array of shape",
        ),
    ],
)
def test_bad_arguments(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_an_integer_of_numpy_is_one(kind) -> None:
    results = []
    for k in (3, kind(3)):
        optimizer = MultiSteps(adamomentum(0.1), k)
        params, state, step = PARAMS, optimizer.init(PARAMS), jitted(optimizer)
        for _ in range(4):
            params, state, _ = step(params, state, PARAMS)
        results.append((params, state))
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and jnp.array_equal(a, b), *results))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from adamomentum.optax import MultiSteps, adamomentum

jax.config.update("jax_num_cpu_devices", 4)
rng = np.random.default_rng(0)
start, grads = rng.standard_normal((8, 6)), [rng.standard_normal((8, 6)) for _ in range(7)]

def steps(optimizer, place):
    params = jax.device_put(jnp.asarray(start), place)
    state, update = optimizer.init(params), jax.jit(lambda *args: optimizer.update(*args))
    for g in grads:
        updates, state = update(jax.device_put(jnp.asarray(g), place), state, params)
        params = optax.apply_updates(params, updates)
    return params, state, update._cache_size()

for options in ({}, {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}):
    optimizer = MultiSteps(adamomentum(0.1, weight_decay=0.1, adjust_lr="match_rms_adamw", **options), 3)
    alone, _, _ = steps(optimizer, jax.devices()[0])
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind, kind))
        over = NamedSharding(mesh, P("data", "model"))
        with (jax.set_mesh if hasattr(jax, "set_mesh") else jax.sharding.use_mesh)(mesh):
            end, state, compiled = steps(optimizer, over)
        np.testing.assert_allclose(np.asarray(end), np.asarray(alone), rtol=1e-6)
        assert all(x.sharding.is_equivalent_to(over, 2) for x in jax.tree.leaves((end, state)) if x.ndim), kind
        assert compiled == 1, (kind, compiled)
print("sharded over", len(jax.devices()), "devices")
"""


@pytest.mark.slow
def test_sharded_over_devices() -> None:
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sharded over 4 devices\n"
