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

import adamomentum.optax as under_test  # noqa: E402
from adamomentum.optax import (  # noqa: E402
    ScaleByAdaMomentumState,
    adamomentum,
    apply_updates_stochastically,
    from_adam,
    scale_by_adamomentum,
)
from adamomentum.second_moment import adam_ratio, white_noise_mean  # noqa: E402

SHAPES = {"w": (3, 4), "b": (), "empty": (0, 2)}
MATCH = {"adjust_lr": "match_rms_adamw"}
SWITCHES = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "amsgrad-large-eps": {"amsgrad": True, "eps": 1e-4},
    "decay": {"weight_decay": 0.1},
    "l2": {"weight_decay": 0.1, "decoupled_weight_decay": False},
    "betas": {"betas": (0.5, 0.9), "eps": 1e-8},
    "no-momentum": {"betas": (0.0, 0.99)},
    "no-second-moment": {"betas": (0.9, 0.0)},
    "full-bias-correction": {"full_bias_correction": True, "betas": (0.9, 0.99)},
    "drop-in": MATCH,
    "drop-in-decay-amsgrad": {**MATCH, "amsgrad": True, "weight_decay": 0.1, "eps": 1e-4},
    "drop-in-l2": {**MATCH, "weight_decay": 0.1, "decoupled_weight_decay": False},
    "drop-in-momentum": {**MATCH, "second_moment": "momentum"},
    "drop-in-nesterov": {**MATCH, "nesterov": True},
    "drop-in-no-momentum": {**MATCH, "betas": (0.0, 0.99)},
    "drop-in-no-second-moment": {**MATCH, "betas": (0.9, 0.0)},
    "drop-in-square": {**MATCH, "betas": (0.9, 0.9**2)},
    "drop-in-near-square": {**MATCH, "betas": (0.9, 0.81), "eps": 1e-8},
    "lookahead": {"second_moment": "lookahead"},
    "nesterov": {"nesterov": True, "second_moment": "momentum"},
}


def ours(lr, betas=(0.9, 0.999), decoupled_weight_decay=True, weight_decay=0.0, **options):
    if decoupled_weight_decay:
        return adamomentum(lr, *betas, weight_decay=weight_decay, **options)
    return optax.chain(optax.add_decayed_weights(weight_decay), adamomentum(lr, *betas, **options))


def state_of(state) -> ScaleByAdaMomentumState:
    (actual,) = [part for part in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(part)]
    return actual


def is_ours(x) -> bool:
    return isinstance(x, ScaleByAdaMomentumState)


# Gradient number t for an array of standard normal numbers.
KINDS = {
    "noise": lambda noise, t: noise,
    "huge": lambda noise, t: 1e20 * noise,
    "tiny": lambda noise, t: 1e-25 * noise,
    "sparse": lambda noise, t: noise * (t % 40 == 0),
    "constant": lambda noise, t: np.full_like(noise, 0.3),
    "alternating": lambda noise, t: np.full_like(noise, 0.3 * (-1) ** t),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", SWITCHES.values(), ids=SWITCHES.keys())
def test_lockstep_with_the_reference(options: dict) -> None:
    """With parameters of all shapes for each kind of gradients, so that the step is compiled once."""
    rng = np.random.default_rng(0)
    shapes = {(kind, name): shape for kind in KINDS for name, shape in SHAPES.items()}
    params = {name: jnp.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}
    theta = {name: np.asarray(p) for name, p in params.items()}
    states = {name: reference.State.zeros(p) for name, p in theta.items()}
    optimizer = ours(1e-2, **options)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for t in range(120):
        grads = {name: KINDS[name[0]](rng.standard_normal(shape), t) for name, shape in shapes.items()}
        params, state = step(params, state, grads)
        mine = state_of(state)
        assert mine.count == t + 1
        beta2, eps = options.get("betas", (0.9, 0.999))[1], options.get("eps", 1e-16)
        accumulated = eps * (1 - beta2 ** (t + 1)) / (1 - beta2)
        for name in shapes:
            theta[name], states[name] = reference.step(theta[name], grads[name], states[name], lr=1e-2, **options)
            if t >= 10 and t % 10 != 9:
                continue
            wanted = states[name]
            size = np.abs(grads[name]).max(initial=name[0] == "sparse" or "decoupled_weight_decay" in options)
            np.testing.assert_allclose(params[name], theta[name], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(mine.mu[name], wanted.m, rtol=1e-12, atol=1e-14 * size)
            np.testing.assert_allclose(mine.nu[name] + accumulated, wanted.v, rtol=1e-12, atol=1e-14 * size**2)
            if options.get("amsgrad"):
                np.testing.assert_allclose(mine.nu_max[name], wanted.v_max, rtol=1e-12)
    assert step._cache_size() == 1, "the second step was compiled again"


def in_lockstep(pairs, start=None, steps: int = 25, *, injected: bool = True, **options):
    """Steps of white noise beside the reference with each pair of betas; ``start`` is what an earlier call returned."""
    rng = np.random.default_rng(8)
    if start is None:
        theta = rng.standard_normal(20)
        start = jnp.asarray(theta), scale_by_adamomentum().init(theta), theta, reference.State.zeros(theta)
    params, state, theta, wanted = start

    @jax.jit
    def step(params, state, g, b1, b2):
        b1, b2 = (b1, b2) if injected else pairs[0]
        updates, state = scale_by_adamomentum(b1, b2, 0.0, **options).update(g, state, params)
        return params - 0.01 * updates, state

    for betas in [pair for pair in pairs for _ in range(steps)]:
        g = rng.standard_normal(20)
        params, state = step(params, state, g, *betas)
        theta, wanted = reference.step(theta, g, wanted, lr=0.01, betas=betas, eps=0.0, **options)
        np.testing.assert_allclose(params, theta, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(state.nu, wanted.v, rtol=1e-12, atol=1e-14)
    return params, state, theta, wanted


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [MATCH, {**MATCH, "nesterov": True}, {**MATCH, "second_moment": "momentum"}])
def test_switches_and_betas_change_in_the_middle(options: dict) -> None:
    """Betas under tracing, those where the mean's closed form is another one among them; a state is of all switches."""
    reached = in_lockstep([(0.9, 0.999)])
    pairs = [(0.9, 0.999), (0.9, 0.9**2), (0.0, 0.99), (0.9, 0.0), (0.95, 0.9025), (0.0, 0.0)]
    in_lockstep([(0.9, 0.99)], in_lockstep(pairs, reached, **options), full_bias_correction=True)


def mutant(wrong):
    def kappa(t, b1, b2, correction2, *, array, lookahead, passes):
        def mean(t=t, lookahead=lookahead):
            return white_noise_mean(t, b1, b2, 1 - b2**t, array=array, lookahead=lookahead)

        return wrong(mean, t, correction2, lookahead)

    return kappa


MUTANTS = {
    "limit": lambda kappa, t, c2, lookahead: adam_ratio(np.inf, 0.9, 0.99, lookahead=lookahead) * c2,
    "adam's": lambda kappa, t, c2, lookahead: c2,
    "late": lambda kappa, t, c2, lookahead: kappa(t=t + 1),
    "of the other": lambda kappa, t, c2, lookahead: kappa(lookahead=not lookahead),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("second_moment", ["momentum", "lookahead"])
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_mean_fails_the_lockstep(monkeypatch, name: str, second_moment: str) -> None:
    options = {**MATCH, "second_moment": second_moment, "injected": False, "steps": 3}
    monkeypatch.setattr(under_test, "white_noise_mean", mutant(lambda kappa, *_: kappa()))
    in_lockstep([(0.9, 0.99)], **options)
    monkeypatch.setattr(under_test, "white_noise_mean", mutant(MUTANTS[name]))
    with pytest.raises(AssertionError):
        in_lockstep([(0.9, 0.99)], **options)


@pytest.mark.parametrize("options", [MATCH, {**MATCH, "nesterov": True}, {"full_bias_correction": True}])
def test_the_first_update_is_as_long_as_the_learning_rate(options: dict) -> None:
    g = jnp.asarray([-0.3, 7.0])
    optimizer = adamomentum(0.01, **options)
    np.testing.assert_allclose(optimizer.update(g, optimizer.init(g), g)[0], [0.01, -0.01], rtol=2e-6)


@pytest.mark.parametrize("options", [MATCH, {**MATCH, "second_moment": "momentum"}])
def test_the_mean_is_precise_in_float32(options: dict) -> None:
    """Also with betas that are arrays, at the first updates and at a count that cannot rise."""
    for given in ((0.9, 0.999), (0.99, 0.9999), (0.9, 0.81)):
        rtol = 8e-6 if given == (0.99, 0.9999) else 2e-6  # there v is 4 or 5 digits below the gradient's square
        for betas in (given, tuple(map(jnp.float32, given))):
            transform = scale_by_adamomentum(*betas, **options)
            update = jax.jit(transform.update)
            b1, b2 = map(float, betas)
            for t in (1, 2, 10, 10_000, 2**31 - 1):
                g = jnp.asarray([0.5, -2.0])
                state = transform.init(g)._replace(count=jnp.asarray(t - 1), mu=0.3 * g, nu=g**2)
                updates, after = update(g, state)
                kappa = reference.white_noise_mean(t, (b1, b2), lookahead="second_moment" not in options)
                wanted = np.asarray(after.mu, float) / (1 - b1**t) / np.sqrt(np.asarray(after.nu, float) / kappa)
                np.testing.assert_allclose(updates, wanted, rtol=rtol)


# Options, and how long steps are beside Adam's in white noise.
AFTER_ADAM = {
    "drop-in": (MATCH, 1.0),
    "momentum": ({**MATCH, "second_moment": "momentum"}, 1.0),
    "scaled": ({"nu": "scale"}, 4.36),
    "full-bias-correction": ({"full_bias_correction": True, "nu": "scale"}, 4.36),
}


@pytest.mark.parametrize("b2", [0.95, 0.999])
@pytest.mark.parametrize(("options", "ratio"), AFTER_ADAM.values(), ids=AFTER_ADAM.keys())
def test_a_run_goes_on_from_adam_with_steps_as_long(options: dict, ratio: float, b2: float) -> None:
    rng = np.random.default_rng(7)
    params = {"w": jnp.zeros(3000)}
    schedule = optax.constant_schedule(1e-3)
    ours_alone = {name: value for name, value in options.items() if name != "nu"}
    theirs = optax.chain(optax.clip_by_global_norm(1e9), optax.adamw(schedule, b2=b2, weight_decay=0.0))
    own = optax.chain(optax.clip_by_global_norm(1e9), adamomentum(schedule, b2=b2, **ours_alone))
    their_update, update = jax.jit(theirs.update), jax.jit(own.update)
    before, state, ratios = theirs.init(params), None, []
    for t in range(110):
        if t == 60:
            state = from_adam(before, b2=b2, **options)
            assert jax.tree.structure(state) == jax.tree.structure(own.init(params))
        grads = {"w": jnp.asarray(rng.standard_normal(3000), "float32")}
        of_adam, before = their_update(grads, before, params)
        if t >= 60:
            updates, state = update(grads, state, params)
            ratios.append(float(optax.tree.norm(updates) / optax.tree.norm(of_adam)))
    np.testing.assert_allclose(ratios, ratio, rtol=0.1)


def test_what_is_converted_of_adam() -> None:
    """Exactly at its count, with derivatives of nothing: counts and first moments as they are."""
    params = {"w": jnp.ones(2), "b": jnp.ones((), "float16")}
    theirs = optax.MultiSteps(optax.masked(optax.adamw(0.1), {"w": True, "b": True}), 2)
    before = theirs.init(params)
    for _ in range(6):
        _, before = theirs.update(jax.tree.map(lambda p: 0.5 * p, params), before, params)
    (adam,) = [part for part in jax.tree.leaves(before, is_leaf=is_adams) if is_adams(part)]
    for options, ratio in (
        ({}, 1.0),
        ({"nu": "scale"}, adam_ratio(3, 0.9, 0.999)),
        (MATCH, adam_ratio(3, 0.9, 0.999, lookahead=True)),
        ({**MATCH, "nu": "keep"}, 1.0),
    ):
        after = state_of(jax.jit(partial(from_adam, amsgrad=True, eps=1e-4, **options))(before))
        assert after.count == adam.count == 3
        close(after.mu, adam.mu)
        assert after.mu["b"].dtype == after.nu["b"].dtype == jnp.float32
        close(after.nu["w"], ratio * adam.nu["w"])
        close(after.nu_max["w"], ratio * adam.nu["w"] + 1e-4 * (1 + 0.999 + 0.999**2))
    assert state_of(from_adam(before)).nu_max is None
    narrow = from_adam(optax.adam(0.1, mu_dtype="bfloat16").init(jnp.ones(2, "bfloat16")), **MATCH)
    assert [state_of(narrow).mu.dtype, state_of(narrow).nu.dtype] == ["bfloat16", "bfloat16"]
    assert not np.any(state_of(narrow).nu), "nothing was made yet"
    assert state_of(from_adam(optax.adam(0.1).init(jnp.ones(2, "complex64")), **MATCH)).nu.dtype == jnp.float32


def is_adams(x) -> bool:
    return isinstance(x, optax.ScaleByAdamState)


def stepped_in_bfloat16(apply, options: dict, steps: int = 100):
    """Of ones, by gradients that keep their sign: half of them up, half down."""
    params = {"w": jnp.ones((64, 64), "bfloat16"), "wide": jnp.ones(2)}
    optimizer = adamomentum(**options)
    grads = {"w": jnp.resize(jnp.asarray([1.0, -1.0]), (64, 64)), "wide": jnp.ones(2)}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(grads, state, params)
        return apply(params, updates, state[0].count), state

    for _ in range(steps):
        params, state = step(params, state)
    return params


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_stochastic_rounding_keeps_what_the_nearest_loses(decay: float) -> None:
    """Updates and decay far below the spacing of bfloat16 numbers, 2^-8 below 1."""
    options = {"learning_rate": 5e-4, **MATCH, "weight_decay": decay}
    theta, wanted = np.ones(2), reference.State.zeros(np.ones(2))
    for _ in range(100):
        theta, wanted = reference.step(theta, [1.0, -1.0], wanted, lr=5e-4, **MATCH, weight_decay=decay)
    assert (np.abs(theta - 1) > 0.01).all()

    nearest = stepped_in_bfloat16(lambda params, updates, _: optax.apply_updates(params, updates), options)
    assert (nearest["w"] == 1).all()
    one, two = (stepped_in_bfloat16(apply_updates_stochastically, options) for _ in range(2))
    assert one["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(one["w"], two["w"])
    means = np.asarray(one["w"], np.float64).reshape(-1, 2).mean(0)
    np.testing.assert_allclose(means, theta, atol=4e-4)
    assert one["wide"].dtype == jnp.float32
    np.testing.assert_allclose(one["wide"], theta[0], rtol=1e-5)


def test_stochastic_rounding_wants_updates_in_float32() -> None:
    params = {"w": jnp.ones(2, "bfloat16")}
    with pytest.raises(TypeError, match=r"update \['w'\] of a bfloat16 parameter must be in float32, got bfloat16"):
        apply_updates_stochastically(params, params, 1)
    after = apply_updates_stochastically({**params, "none": None}, {"w": jnp.full(2, jnp.nan), "none": None}, 1)
    assert np.isnan(after["w"]).all() and after["none"] is None


# The idioms of docs/optax.md.
IDIOMS = {
    "l2": (lambda inner: optax.chain(optax.add_decayed_weights(0.1), inner), {"decoupled_weight_decay": False}),
    "fixed": (lambda inner: optax.chain(inner, optax.add_decayed_weights(-0.1)), {"fixed_decay": True}),
    "maximize": (lambda inner: optax.chain(optax.scale(-1.0), inner), {"maximize": True}),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("idiom", "options"), IDIOMS.values(), ids=IDIOMS.keys())
def test_what_optax_has_an_idiom_for(idiom, options: dict) -> None:
    rng = np.random.default_rng(9)
    theta = rng.standard_normal(5)
    params, wanted, optimizer = jnp.asarray(theta), reference.State.zeros(theta), idiom(adamomentum(0.01, **MATCH))
    decay = 0.0 if "maximize" in options else 0.1
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(20):
        g = rng.standard_normal(5)
        updates, state = update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
        theta, wanted = reference.step(theta, g, wanted, lr=0.01, weight_decay=decay, **MATCH, **options)
        np.testing.assert_allclose(params, theta, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 2e-6), ("bfloat16", 6e-3), ("float16", 8e-4)])
def test_update_in_each_precision(dtype: str, rtol: float) -> None:
    """Maths and moments in float32, the update rounded once, for gradients and parameters of one dtype."""
    rng = np.random.default_rng(1)
    params = jnp.zeros(50, dtype)
    transform = scale_by_adamomentum()
    state, update = transform.init(params), jax.jit(transform.update)
    wanted, theta = reference.State.zeros(np.zeros(50)), np.zeros(50)
    for _ in range(100):
        g = jnp.asarray(rng.standard_normal(50), dtype)
        updated, state = update(g, state, params)
        assert updated.dtype == params.dtype
        assert state.mu.dtype == state.nu.dtype == jnp.float32
        before = theta
        theta, wanted = reference.step(theta, np.asarray(g, np.float64), wanted, lr=1.0)
        scale = 1 / np.sqrt(wanted.v / (1 - 0.999**wanted.step))
        error = np.abs(np.asarray(updated, np.float64) - (before - theta))
        assert (error <= rtol * (np.abs(before - theta) + 0.1 * scale)).all()


def test_bias_correction_is_accurate_in_float32() -> None:
    """1 - 0.999^t taken in float32 would be off by 1e-5 in the first steps."""
    transform = scale_by_adamomentum(b2=0.99999)
    updated, _ = transform.update(jnp.ones(1), transform.init(jnp.ones(1)))
    assert float(updated[0]) == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}], ids=["float32", "bf16"])
def test_resumes_bitwise(options: dict) -> None:
    rng = np.random.default_rng(2)
    grads = [{"a": jnp.asarray(rng.standard_normal(30), "float32")} for _ in range(20)]
    transform = scale_by_adamomentum(**options)
    state, kept = transform.init(grads[0]), None
    for t, g in enumerate(grads):
        if t == 7:
            kept = jax.tree.map(np.asarray, state)
        updated, state = transform.update(g, state)
    again = jax.tree.map(jnp.asarray, kept)
    for g in grads[7:]:
        resumed, again = transform.update(g, again)
    np.testing.assert_array_equal(resumed["a"], updated["a"])


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
    actual = np.asarray(state.nu, np.float64)
    assert actual.mean() == pytest.approx(wanted.v[0], rel=4e-3)
    assert len(np.unique(actual)) > 10, "each value has its own chance"
    assert np.asarray(state.mu, np.float64).mean() == pytest.approx(0.7, rel=1e-3)


def test_rounding_by_chance_is_even_and_independent() -> None:
    """Over elements, from update to update, from leaf to leaf and between the two moments of one."""
    # Nothing is averaged but 2^-10 of v. bfloat16 has 1 and 1 + 2^-7: the first gradient is a quarter of the way up.
    grads = {name: jnp.full((512, 512), g) for name, g in (("a", 1 + 2**-9), ("b", -3.0 * (1 + 2**-9)))}
    transform = scale_by_adamomentum(b1=0.0, b2=2**-10, mu_dtype="bfloat16", nu_dtype="bfloat16")
    state, update, actual = transform.init(grads), jax.jit(transform.update), []
    for step in range(3):
        before = state
        _, state = update(grads, state)
        for name, g in grads.items():
            m, v_before, v = (np.asarray(x[name], np.float64) for x in (state.mu, before.nu, state.nu))
            for exact, stored in ((np.asarray(g, np.float64), m), (2**-10 * v_before + (1 - 2**-10) * m**2, v)):
                spacing = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 7)
                assert (np.abs(stored - exact) < spacing).all()
                chance = np.abs(exact) / spacing % 1
                sd = np.sqrt(chance * (1 - chance))
                up = np.where(sd > 0, (np.abs(stored) > np.abs(exact)) - chance, 0) / np.maximum(sd, 1e-3)
                assert abs(up.mean()) < 4 / np.sqrt(up.size)
                for lag in (1, 512):
                    assert abs(np.corrcoef(up.ravel()[:-lag], up.ravel()[lag:])[0, 1]) < 5 / np.sqrt(up.size)
                if step:  # in the first update all moments were 0: arrays of one shape share its random bits
                    actual.append(up.ravel())
    between = np.corrcoef(actual) - np.eye(len(actual))
    assert np.abs(between).max() < 5 / np.sqrt(actual[0].size)


def test_members_of_an_ensemble_that_are_equal_stay_equal() -> None:
    """The random bits are a function of the count, the place and the moment; so those of others differ."""
    transform = scale_by_adamomentum(mu_dtype="bfloat16", nu_dtype="bfloat16")
    grads = jnp.full((3, 1000), 0.7).at[2].set(0.8)
    state, update = jax.vmap(transform.init)(grads), jax.jit(jax.vmap(transform.update))
    for _ in range(2):
        _, state = update(grads, state)
    for moment in (state.mu, state.nu):
        assert len(np.unique(moment[0])) > 1
        np.testing.assert_array_equal(moment[0], moment[1])
        up = np.asarray(moment > moment.astype("float32").mean(axis=1, keepdims=True), float)
        assert abs(np.corrcoef(up)[0, 2]) < 0.15


REDUCED = {
    "float32": {},
    "mu": {"mu_dtype": "bfloat16"},
    "nu": {"nu_dtype": "bfloat16"},
    "both": {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"},
    "both-amsgrad": {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16", "amsgrad": True},
}


def loss_after_updates(q, rate, **options) -> jax.Array:
    """A function of starting point and learning rate, through updates in a loop that is computed again backwards."""
    optimizer = adamomentum(rate, weight_decay=0.1, **options)

    @jax.checkpoint
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(lambda p: jnp.sum(jnp.cosh(p - 1)))(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (q, _), _ = jax.lax.scan(step, (q, optimizer.init(q)), None, length=8)
    return jnp.sum(jnp.cosh(q - 1))


@pytest.mark.parametrize("options", REDUCED.values(), ids=REDUCED.keys())
def test_derivatives_are_those_of_no_rounding(options: dict) -> None:
    """The derivative of what is rounded by its bits is 0: that of a learned start or rate would be wrong, silently."""

    def total(q):  # the second gradient is constant: the moments alone carry the derivative
        transform = adamomentum(1e-2, **options)
        _, state = transform.update(q**3, transform.init(q), q)
        return transform.update(jnp.ones(3), state, q)[0].sum()

    q = jnp.asarray([1.0, 2.0, 3.0])
    actual = jax.jit(jax.grad(total))(q)
    np.testing.assert_allclose(actual, [0.02253872, 0.00475016, 0.00107064], atol=4e-4, rtol=2e-2)


def test_derivatives_in_both_modes_through_a_loop() -> None:
    """Batched and computed again backwards, with respect to where it starts and to the learning rate."""
    q = jnp.asarray([[1.5, 2.0, 3.0], [0.5, -1.0, 0.0]])
    both = partial(loss_after_updates, **REDUCED["both"])
    wanted = jax.jit(jax.vmap(jax.grad(loss_after_updates, argnums=(0, 1)), in_axes=(0, None)))(q, 0.05)
    actual = jax.jit(jax.vmap(jax.grad(both, argnums=(0, 1)), in_axes=(0, None)))(q, 0.05)
    for each, exact in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(each, exact, rtol=3e-2, atol=1e-2)
    along = jax.jit(jax.vmap(lambda q: jax.jvp(both, (q, 0.05), (jnp.ones(3), 1.0))[1]))(q)
    np.testing.assert_allclose(along, actual[0].sum(axis=1) + actual[1], rtol=2e-2)


@pytest.mark.parametrize("options", [{}, MATCH, {"full_bias_correction": True}])
@pytest.mark.parametrize("decay_rate", ["b1", "b2"])
def test_the_derivative_by_a_decay_rate_is_a_number_at_0_too(decay_rate, options) -> None:
    """It was NaN there: 1 - b^t came from the logarithm of b."""

    def moved(b, steps):
        transform = scale_by_adamomentum(**{decay_rate: b}, **options)
        state = transform.init(jnp.zeros(2))
        for t in range(steps):
            updates, state = transform.update((t + 1) * jnp.asarray([1.0, -2.0]), state)
        return updates[0]

    for steps in (1, 2, 3):
        step = 2**-9
        at = jax.jit(moved, static_argnums=1)
        slope = (at(jnp.float32(step), steps) - at(jnp.float32(0), steps)) / step
        derivative = jax.jit(jax.grad(moved), static_argnums=1)(0.0, steps)
        np.testing.assert_allclose(derivative, slope, atol=0.02)
        assert steps == 1 or "full_bias_correction" in options or abs(derivative) > 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("decay_rate", ["b1", "b2"])
def test_the_derivative_by_a_decay_rate_where_b2_is_the_square_of_b1(decay_rate) -> None:
    def moved(b):
        transform = scale_by_adamomentum(**{"b1": 0.9, "b2": 0.9**2, decay_rate: b}, **MATCH)
        state = transform.init(jnp.zeros(2))
        for t in range(5):
            updates, state = transform.update((t + 1) * jnp.asarray([1.0, -2.0]), state)
        return updates[0]

    b = 0.9 if decay_rate == "b1" else 0.9**2
    at = jax.jit(moved)
    slope = (at(jnp.asarray(b + 1e-6)) - at(jnp.asarray(b - 1e-6))) / 2e-6
    np.testing.assert_allclose(jax.jit(jax.grad(moved))(b), slope, rtol=1e-6)


@pytest.mark.parametrize("options", REDUCED.values(), ids=REDUCED.keys())
def test_a_donated_step_is_made_in_place(options: dict) -> None:
    """A copy of the old moments in each step was what bfloat16 cost; with amsgrad the second is read twice."""
    params = {name: jnp.ones((64, 64)) for name in "abcd"}
    optimizer = adamomentum(0.1, weight_decay=0.1, **options)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    lowered = step.lower(params, optimizer.init(params), params)
    assert lowered.as_text().count("func.func private @_update") == 1, "arrays of one shape have one code"
    if jax.__version_info__ >= (0, 10):  # XLA of jax 0.4.35 copied the moments in bfloat16
        copies = lowered.compile().as_text().count(" copy(")
        assert copies <= (4 if len(options) == 3 else 0)


def test_bfloat16_moments_keep_what_is_not_finite() -> None:
    """Random bits that are added to a NaN may carry it over to 0: a diverged run would look healthy."""
    bits = np.asarray([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800000, 0xFF800000], np.uint32)
    g = jnp.asarray(np.tile(bits, 50).view(np.float32))
    transform = scale_by_adamomentum(mu_dtype="bfloat16", nu_dtype="bfloat16")
    _, state = jax.jit(transform.update)(g, transform.init(g))
    np.testing.assert_array_equal(state.mu.astype("float32"), g)
    np.testing.assert_array_equal(state.nu.astype("float32"), jnp.abs(g))


def test_largest_second_moment_is_not_rounded_with_the_second() -> None:
    """The largest of values rounded by chance would be too large."""
    transform = scale_by_adamomentum(amsgrad=True, nu_dtype="bfloat16")
    g = jnp.asarray(np.random.default_rng(3).standard_normal(100), "float32")
    before = transform.init(g)
    _, after = jax.jit(transform.update)(g, before)
    assert after.nu.dtype == jnp.bfloat16
    assert before.nu_max.dtype == after.nu_max.dtype == jnp.float32
    np.testing.assert_allclose(after.nu_max, 1e-3 * (0.1 * g) ** 2, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_float64_moments_of_float32_parameters() -> None:
    transform = scale_by_adamomentum(eps=0.0, amsgrad=True, mu_dtype="float64", nu_dtype="float64")
    g = jnp.asarray([0.3, -7.0], "float32")
    state = transform.init(g)
    updated, state = transform.update(g, state, g)
    assert updated.dtype == g.dtype
    exact = np.asarray(g, np.float64)
    for actual, wanted in ((state.mu, 0.1 * exact), (state.nu, 1e-5 * exact**2), (state.nu_max, 1e-5 * exact**2)):
        assert actual.dtype == np.float64
        np.testing.assert_allclose(actual, wanted, rtol=1e-12)
    assert transform.init(g.astype("complex64")).mu.dtype == np.complex128


@pytest.mark.parametrize(
    ("gradients", "parameters", "wanted"),
    [
        ("bfloat16", "float32", "float32"),
        ("float16", "float32", "float32"),
        ("float32", "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
    ],
)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_updates_are_as_precise_as_the_parameters(gradients, parameters, wanted, decay) -> None:
    """As optax's own: their moments are in the parameters' dtype, which promotes the gradients."""
    params = jnp.linspace(1, 2, 50).astype(parameters)
    grads = jnp.linspace(0.1, 3, 50).astype(gradients)
    theirs = optax.adamw(0.1, weight_decay=decay)
    assert jax.eval_shape(theirs.update, grads, theirs.init(params), params)[0].dtype == wanted

    optimizer = adamomentum(0.1, weight_decay=decay)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    _, state = update(0.3 * grads, state, params)  # the first update depends on the gradient's sign alone
    updated, _ = update(grads, state, params)
    assert updated.dtype == wanted
    exact, _ = update(grads.astype("float32"), state, params.astype("float32"))
    np.testing.assert_allclose(updated.astype("float32"), exact, rtol=1e-6 if parameters == "float32" else 2e-2)
    if not decay:
        assert update(grads, state)[0].dtype == gradients, "nothing is known of the parameters"


def test_apply_if_finite_wants_one_dtype() -> None:
    for inner in (optax.adamw(0.1), adamomentum(0.1)):
        optimizer = optax.apply_if_finite(inner, 3)
        params, state = jnp.ones(2), optimizer.init(jnp.ones(2))
        with pytest.raises(TypeError, match="bfloat16"):
            optimizer.update(jnp.ones(2, "bfloat16"), state, params)
        updated, _ = optimizer.update(jnp.asarray([1.0, jnp.nan]), state, params)
        np.testing.assert_array_equal(updated, 0)


def test_bfloat16_parameters_lose_small_updates() -> None:
    ones = lambda params: jax.tree.map(jnp.ones_like, params)
    for dtype, moved in (("bfloat16", False), ("float32", True)):
        params, _ = run(adamomentum(1e-4), jnp.ones(1, dtype), grads=ones)
        assert (params[0] != 1) == moved


def complex_noise(rng):
    return rng.standard_normal(5) + 1j * rng.standard_normal(5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "eps": 1e-3}], ids=["plain", "amsgrad"])
def test_complex_gradients_lockstep(options: dict) -> None:
    """The squared modulus of the momentum is averaged: a turning gradient cancels in it."""
    rng = np.random.default_rng(4)
    transform = scale_by_adamomentum(b2=0.99, **options)
    state, update = transform.init(jnp.zeros(5, complex)), jax.jit(transform.update)
    m = v = v_max = 0
    for t in range(1, 61):
        g = complex_noise(rng)
        updated, state = update(jnp.asarray(g), state)
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * abs(m) ** 2 + options.get("eps", 1e-16)
        v_max = np.maximum(v_max, v) if options else v
        np.testing.assert_allclose(updated, m / (1 - 0.9**t) / np.sqrt(v_max / (1 - 0.99**t)), rtol=1e-12)
        np.testing.assert_allclose(state.mu, m, rtol=1e-12)
        assert state.nu.dtype == np.float64


@pytest.mark.usefixtures("x64")
def test_complex_gradients_split_lockstep() -> None:
    """Split, real and imaginary part move as two real parameters of the reference."""
    rng = np.random.default_rng(5)
    params = jnp.asarray(complex_noise(rng))
    optimizer = optax.contrib.split_real_and_imaginary(adamomentum(0.1, weight_decay=0.1))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    parts = np.stack([params.real, params.imag])
    wanted = reference.State.zeros(parts)
    for _ in range(60):
        g = complex_noise(rng)
        updates, state = update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
        parts, wanted = reference.step(parts, np.stack([g.real, g.imag]), wanted, lr=0.1, weight_decay=0.1)
        np.testing.assert_allclose(params, parts[0] + 1j * parts[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "mu", "nu"),
    [
        ({}, "complex64", "float32"),
        ({"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}, "complex64", "bfloat16"),
        ({"mu_dtype": "float32", "nu_dtype": "float32"}, "complex64", "float32"),
    ],
)
def test_complex_dtypes(options: dict, mu: str, nu: str) -> None:
    g = jnp.asarray([3 + 4j, 1 - 1j], jnp.complex64)
    transform = scale_by_adamomentum(**options)
    before = transform.init(g)
    updated, after = jax.jit(transform.update)(g, before, g)
    for state in (before, after):
        assert (state.mu.dtype, state.nu.dtype) == (mu, nu)
    assert updated.dtype == g.dtype
    np.testing.assert_allclose(updated, 10 * g / jnp.abs(g), rtol=1e-5 if nu == "float32" else 4e-3)
    np.testing.assert_allclose(after.mu, 0.1 * g, rtol=1e-6)


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
    state, update = plain.init(params), jax.jit(plain.update)
    for t in range(5):
        updates, state = update(jax.grad(quadratic)(params), state)
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


@pytest.mark.parametrize("b2", [0.99, 0.9999])
@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_injected_hyperparameters_keep_precision(b1: float, b2: float) -> None:
    """As numbers do: of 0.9999^t in float32, 1 - 0.9999^t would be off by 1e-4 at first."""
    injected = optax.inject_hyperparams(adamomentum)(learning_rate=0.1, b1=b1, b2=b2, weight_decay=0.01)
    fixed = adamomentum(0.1, b1, b2, weight_decay=0.01)
    params, rng = jnp.ones(100), np.random.default_rng(6)
    states = [injected.init(params), fixed.init(params)]
    updates = [jax.jit(injected.update), jax.jit(fixed.update)]
    for _ in range(50):
        g = jnp.asarray(rng.standard_normal(100), "float32")
        (one, states[0]), (two, states[1]) = (f(g, s, params) for f, s in zip(updates, states, strict=True))
        np.testing.assert_allclose(one, two, rtol=8e-6, atol=8e-7)
        params = optax.apply_updates(params, two)
    assert updates[0]._cache_size() == 1


def test_injected_with_static_arguments() -> None:
    """What is callable and no schedule, and dtypes: classes are callable."""
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 0, params)
    options = {"mask": matrices, "mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16}
    injected = optax.inject_hyperparams(adamomentum, static_args=tuple(options))
    optimizer = injected(learning_rate=0.1, weight_decay=0.5, amsgrad=True, **options)
    params, state = run(optimizer, PARAMS, 1, lambda params: jax.tree.map(jnp.zeros_like, params))
    close(params, {"w": 0.95 * PARAMS["w"], "b": PARAMS["b"]})
    assert state_of(state).mu["w"].dtype == state_of(state).nu["w"].dtype == jnp.bfloat16
    assert set(state.hyperparams) == {"learning_rate", "b1", "b2", "eps", "weight_decay"}
    with pytest.raises(TypeError, match="mu_dtype must be a dtype, got an array; name it in the static_args"):
        optax.inject_hyperparams(adamomentum)(learning_rate=0.1, mu_dtype=jnp.bfloat16).init(PARAMS)


def test_injected_with_half_precision_parameters() -> None:
    params = jnp.ones(2, "bfloat16")
    with pytest.raises(ValueError, match=r"b2 must be in \[0, 1\), got 1.0 in bfloat16"):
        optax.inject_hyperparams(adamomentum)(learning_rate=0.1).init(params)
    optimizer = optax.inject_hyperparams(adamomentum, hyperparam_dtype=jnp.float32)(learning_rate=0.1)
    state = optimizer.init(params)
    assert state.hyperparams["b2"] == np.float32(0.999)
    updated, _ = optimizer.update(params, state, params)
    np.testing.assert_allclose(updated.astype("float32"), -1, rtol=1e-2)


def test_accumulated_gradients() -> None:
    """MultiSteps of two halves is one step of their mean."""
    optimizer = optax.MultiSteps(adamomentum(0.1), every_k_schedule=2)
    halves = lambda scale: lambda params: jax.tree.map(lambda g: scale * g, jax.grad(quadratic)(params))
    state, params, update = optimizer.init(PARAMS), PARAMS, jax.jit(optimizer.update)
    for _ in range(5):
        for scale in (0.5, 1.5):
            updates, state = update(halves(scale)(params), state, params)
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


def test_a_schedule_of_decay() -> None:
    """Beside the same numbers one by one; it may begin in the middle of a run, and be injected."""
    schedule, mask = optax.linear_schedule(0.0, 0.8, 4), {"w": True, "b": False}
    optimizer = adamomentum(0.1, weight_decay=schedule, mask=mask)
    injected = optax.inject_hyperparams(adamomentum, static_args="mask")(0.1, weight_decay=schedule, mask=mask)
    params, inner, update = PARAMS, injected.init(PARAMS), jax.jit(optimizer.update)
    state = adamomentum(0.1, mask=mask).init(PARAMS)
    assert jax.tree.structure(optimizer.init(PARAMS)) == jax.tree.structure(state)
    for t in range(6):
        grads = jax.grad(quadratic)(params)
        fixed = adamomentum(0.1, weight_decay=float(schedule(t)), mask=mask)
        wanted, after = fixed.update(grads, state, params)
        updates, state = update(grads, state, params) if t else (wanted, after)
        close(updates, wanted)
        updated, inner = injected.update(grads, inner, params)
        close(updated, wanted)
        params = optax.apply_updates(params, updates)
    assert update._cache_size() == 1
    with pytest.raises(ValueError, match="params"):
        optimizer.update(grads, state)


def test_a_schedule_of_decay_for_all() -> None:
    optimizer = adamomentum(0.1, weight_decay=lambda count: 0.5 * count)
    zero = lambda params: jax.tree.map(jnp.zeros_like, params)
    params, _ = run(optimizer, PARAMS, 3, zero)
    close(params, jax.tree.map(lambda p: p * 0.95 * 0.9, PARAMS))


def test_a_number_may_be_an_array_of_one() -> None:
    """As learning rates of optax.adamw may; a parameter that is a number stays one."""
    one = {name: jnp.asarray([x]) for name, x in (("learning_rate", 0.1), ("b1", 0.8), ("weight_decay", 0.1))}
    updated = []
    for each in (
        adamomentum(**one),
        optax.inject_hyperparams(adamomentum)(np.full(1, 0.1), 0.8, weight_decay=0.1),
        adamomentum(0.1, 0.8, weight_decay=0.1),
    ):
        updated.append(each.update(PARAMS, each.init(PARAMS), PARAMS)[0])
        assert jax.tree.map(jnp.shape, updated[-1]) == {"w": (2,), "b": ()}
    close(updated[0], updated[2])
    close(updated[1], updated[2])
    with pytest.raises(TypeError, match="learning_rate must be a number"):
        jax.jit(lambda rate: adamomentum(rate).init(PARAMS))(jnp.ones(2))


def test_chained_with_clipping() -> None:
    params, state = run(optax.chain(optax.clip_by_global_norm(0.1), adamomentum(0.1)), PARAMS, 1)
    assert float(optax.tree.norm(state_of(state).mu)) == pytest.approx(0.01, rel=1e-5)
    close(params, run(adamomentum(0.1), PARAMS, 1)[0])  # the first step does not depend on the gradient's size


def test_a_parameter_without_gradient_stays() -> None:
    transform = scale_by_adamomentum(amsgrad=True)
    state = transform.init(PARAMS)
    for params in ((), (PARAMS,)):
        updated, after = transform.update({"w": jnp.ones(2), "b": None}, state, *params)
        assert updated["b"] is None
        assert float(after.mu["b"]) == 0
        assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "int32", "bool"])
def test_parameters_of_integers_stay(dtype) -> None:
    params = {"w": jnp.ones(2), "codes": jnp.ones(2, dtype)}
    transform = scale_by_adamomentum(amsgrad=True)
    state = transform.init(params)
    updated, after = transform.update({"w": jnp.ones(2), "codes": None}, state, params)
    assert updated["codes"] is None
    assert after.mu["codes"].dtype == after.nu["codes"].dtype == jnp.float32
    with pytest.raises(TypeError, match=rf"gradient \['codes'\] must not be of integers, got {dtype}"):
        transform.update(params, state, params)


@pytest.mark.slow
@pytest.mark.clients
def test_equinox_applies_an_update_that_is_none() -> None:
    equinox = pytest.importorskip("equinox", reason="equinox is not installed")
    optimizer = adamomentum(0.1)
    updated, _ = optimizer.update({"w": jnp.ones(2), "b": None}, optimizer.init(PARAMS), PARAMS)
    close(equinox.apply_updates(PARAMS, updated), {"w": PARAMS["w"] - 1, "b": PARAMS["b"]})
    with pytest.raises(TypeError):
        optax.apply_updates(PARAMS, updated)


def test_no_weight_decay_needs_no_parameters() -> None:
    optimizer = adamomentum(0.1)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
    assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)


def test_state_has_one_structure_with_and_without_decay() -> None:
    for mask in (None, {"w": True, "b": False}):
        states = [adamomentum(0.1, weight_decay=decay, mask=mask).init(PARAMS) for decay in (0.0, 0.1)]
        assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: adamomentum(-1.0), ValueError, "learning_rate must be >= 0 and finite, got -1.0"),
        (lambda: adamomentum(0.1, b1=1.0), ValueError, r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: adamomentum(0.1, b2=float("nan")), ValueError, r"b2 must be in \[0, 1\), got nan"),
        (lambda: adamomentum(0.1, eps=-1e-8), ValueError, "eps must be >= 0 and finite, got -1e-08"),
        (lambda: adamomentum(0.1, adjust_lr=True), ValueError, "adjust_lr must be None or one of 'match_rms_adamw'"),
        (lambda: scale_by_adamomentum(second_moment="m"), ValueError, "'momentum', 'lookahead', got 'm'"),
        (lambda: adamomentum(0.1, nesterov=1), TypeError, "nesterov must be True or False, got 1"),
        (lambda: adamomentum(0.1, full_bias_correction=True, **MATCH), ValueError, "does not go with full_bias_correc"),
        (lambda: from_adam(optax.adam(0.1).init(jnp.ones(1)), nu="scaled"), ValueError, "nu must be 'keep', 'scale'"),
        (lambda: from_adam(adamomentum(0.1).init(jnp.ones(1))), TypeError, "state must be one of optax.adam or optax"),
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


def updated(params, grads, state=None, **options):
    transform = scale_by_adamomentum(**options)
    return transform.update(grads, transform.init(PARAMS) if state is None else state, params)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"net": [jnp.ones(2), jax.random.key(0)]}, TypeError, r"\['net'\]\[1\] .* got key<fry>; .*is_inexact_array"),
        ({"w": jnp.ones(2, "float8_e4m3fn")}, TypeError, r"\['w'\] .*16 bits or more, got float8_e4m3fn; keep it in"),
        (jnp.ones(2, "float8_e5m2"), TypeError, r"parameter \(the only one\) must be .* got float8_e5m2"),
        ({"w": jnp.ones(2), "act": jnp.tanh}, TypeError, r"parameter \['act'\] .*, got .*; .*is_inexact_array"),
        ({"w": jnp.ones(2), "name": "float32"}, TypeError, r"parameter \['name'\] .*, got str"),
    ],
)
def test_parameters_that_have_no_moments(params, error, message) -> None:
    with pytest.raises(error, match=message):
        adamomentum(0.1).init(params)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: updated(PARAMS, {"w": jax.random.split(jax.random.key(0)), "b": jnp.ones(())}),
            TypeError,
            r"gradient \['w'\] must be .* got key<fry>",
        ),
        (
            lambda: updated({"w": jax.random.split(jax.random.key(0)), "b": jnp.ones(())}, PARAMS),
            TypeError,
            r"parameter \['w'\] must be .* got key<fry>",
        ),
        (
            lambda: updated(PARAMS, {"w": jnp.ones(2, "float8_e5m2"), "b": None}),
            TypeError,
            r"gradient \['w'\] .* got float8_e5m2",
        ),
        (
            lambda: updated(jnp.arange(2), jnp.arange(2), scale_by_adamomentum().init(jnp.arange(2))),
            TypeError,
            r"gradient \(the only one\) must not be of integers, got int32: its update would be, too. Make it None",
        ),
        (
            lambda: updated(PARAMS, {"w": np.zeros(2, jax.dtypes.float0), "b": 1.0}),
            TypeError,
            r"gradient \['w'\] .* got float0; make the gradient None",
        ),
        (
            lambda: updated(None, {"w": jnp.ones(1), "b": 1.0}),
            ValueError,
            r"gradient \['w'\] and its moments must be of one shape, got \(1,\), \(2,\) and \(2,\)",
        ),
        (
            lambda: updated(PARAMS, PARAMS, scale_by_adamomentum().init(PARAMS), amsgrad=True),
            ValueError,
            "amsgrad was off when the state was made",
        ),
        (
            lambda: updated(PARAMS, PARAMS, scale_by_adamomentum(amsgrad=True).init(PARAMS)),
            ValueError,
            "amsgrad was on when the state was made",
        ),
        (
            lambda: adamomentum(0.1).update(PARAMS, optax.adamw(0.1).init(PARAMS), PARAMS),
            TypeError,
            r"ScaleByAdaMomentumState that init made, got ScaleByAdamState. .* by adamomentum.optax.from_adam",
        ),
        (
            lambda: adamomentum(0.1, weight_decay=lambda t: 0.1).update(PARAMS, optax.adamw(0.1).init(PARAMS)),
            TypeError,
            "got ScaleByAdamState",
        ),
        (
            lambda: updated(PARAMS, PARAMS, optax.amsgrad(0.1).init(PARAMS)[0], amsgrad=True),
            TypeError,
            "got ScaleByAmsgradState",
        ),
    ],
)
def test_updates_that_cannot_be_made(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_an_integer_without_gradient_stays() -> None:
    """As Equinox's filter is_array leaves them."""
    params = {"w": jnp.ones(2), "n": jnp.arange(3), "on": jnp.asarray(True)}
    optimizer = adamomentum(0.1, weight_decay=0.1)
    updated, _ = optimizer.update({"w": jnp.ones(2), "n": None, "on": None}, optimizer.init(params), params)
    assert updated["n"] is None and updated["on"] is None


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from adamomentum.optax import adamomentum
jax.config.update("jax_num_cpu_devices", 4)
set_mesh = jax.set_mesh if hasattr(jax, "set_mesh") else jax.sharding.use_mesh  # from 0.7, and before
rng = np.random.default_rng(0)
start, grads = rng.standard_normal((8, 6)), [rng.standard_normal((8, 6)) for _ in range(5)]

def steps(optimizer, init, place):
    params = jax.device_put(jnp.asarray(start), place)
    state, update = init(params), jax.jit(lambda *args: optimizer.update(*args))  # a function, a cache of its own
    states = [state]
    for g in grads:
        updates, state = update(jax.device_put(jnp.asarray(g), place), state, params)
        params = optax.apply_updates(params, updates)
        states.append((params, state))
    return np.asarray(params), states, update._cache_size()

def follow(tree, place):
    return all(x.sharding.is_equivalent_to(place, 2) for x in jax.tree.leaves(tree) if x.ndim)

for options in ({}, {"amsgrad": True, "weight_decay": 0.1}, {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}):
    optimizer = adamomentum(0.1, **options)
    alone, _, _ = steps(optimizer, optimizer.init, jax.devices()[0])
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind, kind))
        over = NamedSharding(mesh, P("data", "model"))
        inits = {"eager": optimizer.init, "jit": jax.jit(optimizer.init)}
        with set_mesh(mesh):
            like = jax.tree.map(lambda x: over if x.ndim else NamedSharding(mesh, P()),
                                jax.eval_shape(optimizer.init, jax.device_put(jnp.asarray(start), over)))
            inits["told"] = jax.jit(optimizer.init, out_shardings=like)
            for name, init in inits.items():
                end, states, compiled = steps(optimizer, init, over)
                np.testing.assert_allclose(end, alone, rtol=1e-6)
                lost = kind is AxisType.Auto and name == "jit"
                assert follow(states[0], over) != lost, (kind, name)
                assert follow(states[1:], over), (kind, name)
                assert compiled == (2 if lost else 1), (kind, name, compiled)
        assert follow(optimizer.init(jax.device_put(jnp.asarray(start), over)), over), "outside of the mesh's context"

theirs = optax.adamw(0.1)
auto = NamedSharding(jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,)), P("data"))
assert not follow(jax.jit(theirs.init)(jax.device_put(jnp.asarray(start), NamedSharding(auto.mesh, P("data")))), auto)
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


@pytest.mark.slow
@pytest.mark.clients
@pytest.mark.parametrize(
    "options", [{"amsgrad": True}, {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}], ids=["float32", "bf16"]
)
def test_orbax_keeps_the_state(options: dict, tmp_path) -> None:
    """Bit for bit: the run goes on as it would have."""
    orbax = pytest.importorskip("orbax.checkpoint", reason="orbax is not installed")
    optimizer = adamomentum(optax.cosine_decay_schedule(0.1, 20), weight_decay=0.1, **options)
    params, state = run(optimizer, PARAMS)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for actual, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert actual.dtype == wanted.dtype
        np.testing.assert_array_equal(actual, wanted)
    grads = jax.grad(quadratic)(params)
    jax.tree.map(
        np.testing.assert_array_equal,
        optimizer.update(grads, restored, params)[0],
        optimizer.update(grads, state, params)[0],
    )


def test_the_state_is_found_by_name() -> None:
    state = adamomentum(0.1).init(PARAMS)
    assert optax.tree.get(state, "nu_max") is None
    assert optax.tree.get(state, "nu")["w"].shape == (2,)
