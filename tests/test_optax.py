"""The optax transformation beside the reference, and in optax's and JAX's own ways of use."""

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

from adamomentum.optax import ScaleByAdaMomentumState, _stored, adamomentum, scale_by_adamomentum  # noqa: E402

SHAPES = {"w": (3, 4), "b": (), "empty": (0, 2)}
SWITCHES = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "amsgrad-large-eps": {"amsgrad": True, "eps": 1e-4},
    "decay": {"weight_decay": 0.1},
    "betas": {"betas": (0.5, 0.9), "eps": 1e-8},
    "no-momentum": {"betas": (0.0, 0.99)},
    "no-second-moment": {"betas": (0.9, 0.0)},
}


@pytest.fixture
def x64():
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # from 0.8, and before
    with enable():
        yield


def ours(lr, betas=(0.9, 0.999), **options):
    return adamomentum(lr, *betas, **options)


def state_of(state) -> ScaleByAdaMomentumState:
    (found,) = [part for part in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(part)]
    return found


def is_ours(x) -> bool:
    return isinstance(x, ScaleByAdaMomentumState)


def gradient(rng, kind: str, shape, t: int):
    noise = rng.standard_normal(shape)
    return {"noise": noise, "huge": 1e20 * noise, "tiny": 1e-25 * noise, "sparse": noise * (t % 40 == 0)}[kind]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["noise", "huge", "tiny", "sparse"])
@pytest.mark.parametrize("options", SWITCHES.values(), ids=SWITCHES.keys())
def test_lockstep_with_the_reference(options: dict, kind: str) -> None:
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.standard_normal(shape)) for name, shape in SHAPES.items()}
    theta = {name: np.asarray(p) for name, p in params.items()}
    states = {name: reference.State.zeros(p) for name, p in theta.items()}
    optimizer = ours(1e-2, **options)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for t in range(120):
        grads = {name: gradient(rng, kind, shape, t) for name, shape in SHAPES.items()}
        params, state = step(params, state, grads)
        mine = state_of(state)
        assert mine.count == t + 1
        beta2, eps = options.get("betas", (0.9, 0.999))[1], options.get("eps", 1e-16)
        accumulated = eps * (1 - beta2 ** (t + 1)) / (1 - beta2)
        for name in SHAPES:
            theta[name], states[name] = reference.step(theta[name], grads[name], states[name], lr=1e-2, **options)
            wanted = states[name]
            size = np.abs(grads[name]).max(initial=0) if kind != "sparse" else 1
            np.testing.assert_allclose(params[name], theta[name], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(mine.mu[name], wanted.m, rtol=1e-12, atol=1e-14 * size)
            np.testing.assert_allclose(mine.nu[name] + accumulated, wanted.v, rtol=1e-12, atol=1e-14 * size**2)
            if options.get("amsgrad"):
                np.testing.assert_allclose(mine.nu_max[name], wanted.v_max, rtol=1e-12)
    assert step._cache_size() == 1, "the second step was compiled again"


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 2e-6), ("bfloat16", 6e-3), ("float16", 8e-4)])
def test_update_in_each_precision(dtype: str, rtol: float) -> None:
    """Maths and moments in float32, the update rounded once, for gradients that dtype holds."""
    rng = np.random.default_rng(1)
    params = jnp.zeros(50, dtype)
    transform = scale_by_adamomentum()
    state, update = transform.init(params), jax.jit(transform.update)
    wanted, theta = reference.State.zeros(np.zeros(50)), np.zeros(50)
    for _ in range(100):
        g = jnp.asarray(rng.standard_normal(50), dtype)
        made, state = update(g, state)
        assert made.dtype == params.dtype
        assert state.mu.dtype == state.nu.dtype == jnp.float32
        before = theta
        theta, wanted = reference.step(theta, np.asarray(g, np.float64), wanted, lr=1.0)
        scale = 1 / np.sqrt(wanted.v / (1 - 0.999**wanted.step))
        error = np.abs(np.asarray(made, np.float64) - (before - theta))
        assert (error <= rtol * (np.abs(before - theta) + 0.1 * scale)).all()


def test_bias_correction_is_accurate_in_float32() -> None:
    """1 - 0.999^t taken in float32 would be off by 1e-5 in the first steps."""
    transform = scale_by_adamomentum(b2=0.99999)
    made, _ = transform.update(jnp.ones(1), transform.init(jnp.ones(1)))
    assert float(made[0]) == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}], ids=["float32", "bf16"])
def test_resumes_bitwise(options: dict) -> None:
    rng = np.random.default_rng(2)
    grads = [{"a": jnp.asarray(rng.standard_normal(30), "float32")} for _ in range(20)]
    transform = scale_by_adamomentum(**options)
    state, kept = transform.init(grads[0]), None
    for t, g in enumerate(grads):
        if t == 7:
            kept = jax.tree.map(np.asarray, state)
        made, state = transform.update(g, state)
    again = jax.tree.map(jnp.asarray, kept)
    for g in grads[7:]:
        resumed, again = transform.update(g, again)
    np.testing.assert_array_equal(resumed["a"], made["a"])


def test_bfloat16_moments_follow_without_bias() -> None:
    """Rounded to the nearest, nu would stop where 0.001 of the distance is below half a bit."""
    n, steps = 20_000, 2000
    transform = scale_by_adamomentum(mu_dtype="bfloat16", nu_dtype="bfloat16")
    state, update = transform.init(jnp.zeros(n)), jax.jit(transform.update)
    for _ in range(steps):
        _, state = update(jnp.full(n, 0.7), state)
    assert state.mu.dtype == state.nu.dtype == jnp.bfloat16
    wanted = reference.State.zeros(np.zeros(1))
    for _ in range(steps):
        _, wanted = reference.step(np.zeros(1), np.full(1, 0.7), wanted)
    found = np.asarray(state.nu, np.float64)
    assert found.mean() == pytest.approx(wanted.v[0], rel=4e-3)
    assert len(np.unique(found)) > 10, "each value has its own chance"
    assert np.asarray(state.mu, np.float64).mean() == pytest.approx(0.7, rel=1e-3)


def test_complex_gradients() -> None:
    """The squared modulus is averaged; split, each part moves as a number of its own."""
    g = jnp.asarray([3 + 4j, 1 - 1j], jnp.complex64)
    transform = scale_by_adamomentum()
    state = transform.init(g)
    assert state.mu.dtype == jnp.complex64
    assert state.nu.dtype == jnp.float32
    made, state = transform.update(g, state)
    np.testing.assert_allclose(made, 10 * g / jnp.abs(g), rtol=1e-5)
    np.testing.assert_allclose(state.nu, 1e-3 * 0.01 * jnp.abs(g) ** 2, rtol=1e-5)
    split = optax.contrib.split_real_and_imaginary(transform)
    made, _ = split.update(g, split.init(g))
    np.testing.assert_allclose(made, np.asarray([10 + 10j, 10 - 10j]), rtol=1e-5)


def quadratic(params) -> jax.Array:
    return sum(jnp.sum((p - 1) ** 2) for p in jax.tree.leaves(params))


def run(optimizer, params, steps: int = 5, grads=None):
    grads = grads or jax.grad(quadratic)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update(grads(params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


PARAMS = {"w": jnp.asarray([0.5, 2.0]), "b": jnp.asarray(-1.0)}


def close(a, b, rtol: float = 1e-5) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6), a, b)


def test_schedules() -> None:
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 5)
    params, state = PARAMS, None
    plain = scale_by_adamomentum()
    state = plain.init(params)
    for t in range(5):
        updates, state = plain.update(jax.grad(quadratic)(params), state)
        params = jax.tree.map(lambda p, u, t=t: p - schedule(t) * u, params, updates)
    close(run(adamomentum(schedule), PARAMS)[0], params)


def test_injected_hyperparameters_may_change() -> None:
    optimizer = optax.inject_hyperparams(adamomentum)(learning_rate=0.1, weight_decay=0.01, b2=0.99)
    state = optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    grads = jax.grad(quadratic)(PARAMS)
    updates, state = update(grads, state, PARAMS)
    fixed = adamomentum(0.1, b2=0.99, weight_decay=0.01)
    close(updates, fixed.update(grads, fixed.init(PARAMS), PARAMS)[0])
    state.hyperparams["learning_rate"] = jnp.zeros_like(state.hyperparams["learning_rate"])
    updates, state = update(grads, state, PARAMS)
    assert not any(np.any(u) for u in jax.tree.leaves(updates))
    assert update._cache_size() == 1


def test_accumulated_gradients() -> None:
    """MultiSteps of two halves is one step of their mean."""
    optimizer = optax.MultiSteps(adamomentum(0.1), every_k_schedule=2)
    halves = lambda scale: lambda params: jax.tree.map(lambda g: scale * g, jax.grad(quadratic)(params))
    state, params = optimizer.init(PARAMS), PARAMS
    for _ in range(5):
        for scale in (0.5, 1.5):
            updates, state = optimizer.update(halves(scale)(params), state, params)
            params = optax.apply_updates(params, updates)
    close(params, run(adamomentum(0.1), PARAMS)[0])


@pytest.mark.parametrize("mask", [{"w": True, "b": False}, lambda p: jax.tree.map(lambda x: x.ndim > 0, p)])
def test_decay_of_some_parameters(mask) -> None:
    zero = lambda params: jax.tree.map(jnp.zeros_like, params)
    params, _ = run(adamomentum(0.1, weight_decay=0.5, mask=mask), PARAMS, 1, zero)
    close(params, {"w": 0.95 * PARAMS["w"], "b": PARAMS["b"]})


def test_for_some_parameters() -> None:
    masked, _ = run(optax.masked(adamomentum(0.1), {"w": True, "b": False}), PARAMS, 1)
    close(masked["w"], run(adamomentum(0.1), PARAMS, 1)[0]["w"])
    labels = {"w": "ours", "b": "sgd"}
    both = optax.multi_transform({"ours": adamomentum(0.1), "sgd": optax.sgd(0.1)}, labels)
    params, _ = run(both, PARAMS, 3)
    close(params["w"], run(adamomentum(0.1), PARAMS, 3)[0]["w"])
    close(params["b"], run(optax.sgd(0.1), PARAMS, 3)[0]["b"])


def test_chained_with_clipping() -> None:
    params, state = run(optax.chain(optax.clip_by_global_norm(0.1), adamomentum(0.1)), PARAMS, 1)
    assert float(optax.tree.norm(state_of(state).mu)) == pytest.approx(0.01, rel=1e-5)
    close(params, run(adamomentum(0.1), PARAMS, 1)[0])  # the first step does not depend on the gradient's size


def test_a_parameter_without_gradient_stays() -> None:
    transform = scale_by_adamomentum(amsgrad=True)
    state = transform.init(PARAMS)
    made, after = transform.update({"w": jnp.ones(2), "b": None}, state)
    assert made["b"] is None
    assert float(after.mu["b"]) == 0
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_no_weight_decay_needs_no_parameters() -> None:
    optimizer = adamomentum(0.1)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
    assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)


def test_state_has_one_structure_with_and_without_decay() -> None:
    for mask in (None, {"w": True, "b": False}):
        states = [adamomentum(0.1, weight_decay=decay, mask=mask).init(PARAMS) for decay in (0.0, 0.1)]
        assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_random_bits_are_even_and_independent() -> None:
    """Of the bfloat16 rounding: over elements, from update to update, from moment to moment."""
    x, like = jnp.full((512, 512), 1.0 + 2**-9), jnp.zeros((512, 512), jnp.bfloat16)  # a quarter of the way up
    ups = [np.asarray(_stored(x, like, jnp.int32(t), place) > 1, float) for t in (1, 2) for place in (0, 1)]
    for up in ups:
        assert up.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / up.size))
        for lag in (1, 512):
            assert abs(np.corrcoef(up.ravel()[:-lag], up.ravel()[lag:])[0, 1]) < 5 / np.sqrt(up.size)
    for i, one in enumerate(ups):
        for other in ups[:i]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: adamomentum(-1.0), ValueError, "learning_rate must be >= 0 and finite, got -1.0"),
        (lambda: adamomentum(0.1, b1=1.0), ValueError, r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: adamomentum(0.1, b2=float("nan")), ValueError, r"b2 must be in \[0, 1\), got nan"),
        (lambda: adamomentum(0.1, eps=-1e-8), ValueError, "eps must be >= 0 and finite, got -1e-08"),
        (lambda: adamomentum(0.1, b1=(0.9, 0.999)), TypeError, r"b1 must be a number, got \(0.9, 0.999\)"),
        (lambda: adamomentum(0.1, weight_decay="0"), TypeError, "weight_decay must be a number, got '0'"),
        (lambda: adamomentum(0.1, b1=jnp.array(True)), TypeError, "b1 must be a number"),
        (lambda: adamomentum(0.1, eps=jnp.array(1j)), TypeError, "eps must be a number"),
        (
            lambda: adamomentum(0.1, b2=jnp.bfloat16(0.999)),
            ValueError,
            "got 1.0 in bfloat16; inject_hyperparams rounds",
        ),
        (lambda: scale_by_adamomentum(mu_dtype=jnp.zeros(())), TypeError, "mu_dtype must be a dtype, got an array"),
        (lambda: scale_by_adamomentum(nu_dtype="float16"), ValueError, "nu_dtype must be float32, float64, bfloat16"),
    ],
)
def test_bad_arguments(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
from adamomentum.optax import adamomentum
jax.config.update("jax_num_cpu_devices", 4)
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
over = NamedSharding(mesh, P("data"))
rng = np.random.default_rng(0)
start, grads = rng.standard_normal((8, 3)), [rng.standard_normal((8, 3)) for _ in range(5)]
for options in ({}, {"amsgrad": True, "weight_decay": 0.1}, {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}):
    optimizer = adamomentum(0.1, **options)
    ends = []
    for place in (over, jax.devices()[0]):
        params = jax.device_put(jnp.asarray(start), place)
        state = jax.jit(optimizer.init)(params)
        step = jax.jit(optimizer.update)
        for g in grads:
            updates, state = step(jax.device_put(jnp.asarray(g), place), state, params)
            params = optax.apply_updates(params, updates)
            if place is over:
                for x in (params, *(x for x in jax.tree.leaves(state) if x.ndim)):
                    assert x.sharding.is_equivalent_to(over, 2), x.sharding
        ends.append(np.asarray(params))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)
print("sharded over", len(jax.devices()), "devices")
"""


@pytest.mark.slow
def test_sharded_over_devices() -> None:
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sharded over 4 devices\n"


@pytest.mark.slow
def test_import_needs_no_torch() -> None:
    code = "import sys, adamomentum.optax; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_orbax_and_plain_pytrees_keep_the_state() -> None:
    state = scale_by_adamomentum().init(PARAMS)
    assert state.nu_max is None
    assert optax.tree.get(state, "nu")["w"].shape == (2,)
