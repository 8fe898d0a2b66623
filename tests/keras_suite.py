"""What AdaMomentum does in Keras, on the backend that KERAS_BACKEND names; test_keras.py runs it on each."""

from __future__ import annotations

import functools
import os
import sys

# JAX counts its devices when it is first used; one test wants two.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"

import keras
import numpy as np
import pytest
from keras import ops

from adamomentum import reference
from adamomentum.keras import AdaMomentum
from adamomentum.second_moment import adam_ratio, white_noise_mean

MATCH = {"adjust_lr": "match_rms_adamw"}
SWITCHES = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "amsgrad-large-eps": {"amsgrad": True, "eps": 1e-4},
    "decay": {"weight_decay": 0.125},  # a number that Keras does not round, as it does others, to float32
    "betas": {"betas": (0.5, 0.9), "eps": 1e-8},
    "no-momentum": {"betas": (0.0, 0.99)},
    "no-second-moment": {"betas": (0.9, 0.0)},
    "full-bias-correction": {"full_bias_correction": True, "betas": (0.9, 0.99)},
    "drop-in": MATCH,
    "drop-in-decay-amsgrad": {**MATCH, "amsgrad": True, "weight_decay": 0.125, "eps": 1e-4},
    "drop-in-momentum": {**MATCH, "second_moment": "momentum"},
    "drop-in-nesterov": {**MATCH, "nesterov": True},
    "drop-in-no-momentum": {**MATCH, "betas": (0.0, 0.99)},
    "drop-in-no-second-moment": {**MATCH, "betas": (0.9, 0.0)},
    "drop-in-square": {**MATCH, "betas": (0.9, 0.9**2)},
    "drop-in-near-square": {**MATCH, "betas": (0.9, 0.81), "eps": 1e-8},
    "lookahead": {"second_moment": "lookahead"},
    "nesterov": {"nesterov": True, "second_moment": "momentum"},
}

# Gradient number t for an array of standard normal numbers.
KINDS = {
    "noise": lambda noise, t: noise,
    "tiny": lambda noise, t: 1e-25 * noise,
    "sparse": lambda noise, t: noise * (t % 20 == 0),
    "constant": lambda noise, t: np.full_like(noise, 0.3),
    "alternating": lambda noise, t: np.full_like(noise, 0.3 * (-1) ** t),
}

# What Keras itself does with files and options is the same on each backend: all of that is seen on torch, where nothing
# is compiled, and on the others what stands for it.
ON_TORCH = keras.backend.backend() == "torch"
torch_stands_for_all = pytest.mark.skipif(not ON_TORCH, reason="the same on each backend, and quickest on torch")


@pytest.fixture(autouse=True)
def fresh():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def ours(lr=1e-2, betas=(0.9, 0.999), eps=1e-16, **options) -> AdaMomentum:
    return AdaMomentum(lr, beta_1=betas[0], beta_2=betas[1], epsilon=eps, **options)


ROUNDINGS = ("nearest", "stochastic")


def array(x) -> np.ndarray:
    return np.array(ops.convert_to_numpy(x))


def in_lockstep(optimizer: AdaMomentum, steps: int = 60, start: dict | None = None, **options) -> dict:
    """Steps of the reference beside it, for each kind of gradients; ``start`` is what an earlier call returned."""
    rng = np.random.default_rng(0)
    places = [(kind, shape) for kind in KINDS for shape in ((3, 4), ())]
    if start is None:
        theta = [rng.standard_normal(shape) for _, shape in places]
        start = {"t": 0, "theta": theta, "states": [reference.State.zeros(x) for x in theta]}
    theta, states, first = start["theta"], start["states"], start["t"]
    variables = [keras.Variable(x, dtype="float64") for x in theta]
    optimizer.build(variables)
    if first:
        optimizer.load_own_variables(start["store"])
    step = stepper(optimizer, variables)
    beta2, eps = options.get("betas", (0.9, 0.999))[1], options.get("eps", 1e-16)
    for t in range(first, first + steps):
        grads = [KINDS[kind](rng.standard_normal(shape), t) for kind, shape in places]
        step([ops.convert_to_tensor(g, "float64") for g in grads])
        accumulated = eps * (1 - beta2 ** (t + 1)) / (1 - beta2)
        for i, g in enumerate(grads):
            theta[i], states[i] = reference.step(theta[i], g, states[i], lr=1e-2, **options)
            size = 1e-25 if places[i][0] == "tiny" else 1.0
            np.testing.assert_allclose(array(variables[i]), theta[i], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(array(optimizer._momentums[i]), states[i].m, rtol=1e-12, atol=1e-14 * size)
            second = array(optimizer._velocities[i]) + accumulated
            np.testing.assert_allclose(second, states[i].v, rtol=1e-12, atol=1e-14 * size**2)
            if options.get("amsgrad"):
                np.testing.assert_allclose(array(optimizer._largest_velocities[i]), states[i].v_max, rtol=1e-12)
    store: dict = {}
    optimizer.save_own_variables(store)
    return {"t": first + steps, "theta": theta, "states": states, "store": store}


@pytest.mark.parametrize("switches", SWITCHES)
def test_lockstep_with_the_reference(switches: str) -> None:
    keras.config.set_floatx("float64")
    in_lockstep(ours(**SWITCHES[switches]), **SWITCHES[switches])


@pytest.mark.parametrize("before", [{}, {**MATCH, "nesterov": True}])
def test_a_state_goes_on_with_other_switches_and_betas(before: dict) -> None:
    """Nothing in it depends on them."""
    keras.config.set_floatx("float64")
    start = in_lockstep(ours(**before, eps=0.0), 10, **before, eps=0.0)
    after = {**MATCH, "betas": (0.8, 0.95), "eps": 0.0}
    in_lockstep(ours(**after), 20, start, **after)


ACCUMULATING = {
    "plain": {},
    "amsgrad-decay": {"amsgrad": True, "eps": 1e-4, "weight_decay": 0.125},
    "full-bias-correction": {"full_bias_correction": True, "betas": (0.5, 0.99)},
    "momentum": {**MATCH, "second_moment": "momentum"},
    "drop-in": {**MATCH, "weight_decay": 0.125},
}


@pytest.mark.parametrize("passes", [2, 5])
@pytest.mark.parametrize("switches", ACCUMULATING)
def test_accumulation_in_lockstep_with_the_reference(switches: str, passes: int) -> None:
    """Whose step takes the mean of the batches' gradients, and knows the last one. Variables move in that alone."""
    keras.config.set_floatx("float64")
    options = ACCUMULATING[switches]
    rng = np.random.default_rng(0)
    theta = [rng.standard_normal(shape) for shape in ((3, 4), ())]
    states = [reference.State.zeros(x) for x in theta]
    variables = [keras.Variable(x, dtype="float64") for x in theta]
    optimizer = ours(gradient_accumulation_steps=passes, **options)
    optimizer.build(variables)
    assert len(optimizer.variables) == 2 + (3 if optimizer.amsgrad else 2) * len(variables)
    step = stepper(optimizer, variables)
    beta2, eps = options.get("betas", (0.9, 0.999))[1], options.get("eps", 1e-16)
    for t in range(12):
        batches = [[rng.standard_normal(x.shape) for x in theta] for _ in range(passes)]
        for grads in batches:
            for variable, x in zip(variables, theta, strict=True):
                np.testing.assert_allclose(array(variable), x, rtol=1e-12, atol=1e-12)
            step([ops.convert_to_tensor(g, "float64") for g in grads])
        assert int(optimizer.iterations) == t + 1
        accumulated = eps * (1 - beta2 ** (t + 1)) / (1 - beta2)
        for i in range(2):
            theta[i], states[i] = reference.step(
                theta[i],
                sum(grads[i] for grads in batches) / passes,
                states[i],
                last_grad=batches[-1][i] / passes,
                passes=passes,
                lr=1e-2,
                **options,
            )
            np.testing.assert_allclose(array(variables[i]), theta[i], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(array(optimizer._momentums[i]), states[i].m, rtol=1e-12, atol=1e-14)
            second = array(optimizer._velocities[i]) + accumulated
            np.testing.assert_allclose(second, states[i].v, rtol=1e-12, atol=1e-14)


class WithAccumulators(AdaMomentum):
    """Accumulates as Keras does it, and as this one did before the first moment took the accumulators' place."""

    def _mean_is_needed_for(self) -> str:
        return "all"


AS_KERAS = {
    "average": {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2, "weight_decay": 0.1},
    "schedule": {"learning_rate": keras.optimizers.schedules.CosineDecay(0.0, 20, warmup_target=1e-2, warmup_steps=5)},
    "scaled-loss": {"loss_scale_factor": 256.0, "amsgrad": True},
    "dynamic-loss-scale": {"weight_decay": 0.1},
}


@pytest.mark.parametrize("name", AS_KERAS if ON_TORCH else ["average", "dynamic-loss-scale"])
def test_accumulation_is_that_of_keras(name: str) -> None:
    """To rounding, in fit: averages, schedules, scaled losses, constraints, and variables that are looked up."""
    trained = []
    for kind in (AdaMomentum, WithAccumulators):
        optimizer = kind(gradient_accumulation_steps=3, **{"learning_rate": 1e-2, **AS_KERAS[name]})
        counted = optimizer
        if name == "dynamic-loss-scale":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0, dynamic_growth_steps=3)
        keras.utils.set_random_seed(1)
        layers = [
            keras.layers.Input((4,)),
            keras.layers.Embedding(20, 3, embeddings_constraint=keras.constraints.MaxNorm(0.05)),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
        model = keras.Sequential(layers)
        model.compile(optimizer, "mse", jit_compile=keras.backend.backend() == "jax")
        words = np.random.default_rng(0).integers(0, 20, (80, 4))
        losses = model.fit(words, words[:, :1] / 10.0, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
        trained.append((model, losses, counted))
    (model, losses, optimizer), (keras_model, keras_losses, keras_optimizer) = trained
    assert int(optimizer._iterations) == int(keras_optimizer._iterations) == 20
    n = len(model.trainable_variables)
    assert len(optimizer.variables) == len(keras_optimizer.variables) - n
    np.testing.assert_allclose(losses, keras_losses, rtol=1e-5)
    same(model, keras_model, 1e-4)


NEED_THE_MEAN = [{"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.5}, {"nesterov": True}, {"beta_1": 0.0}]


@pytest.mark.parametrize("options", NEED_THE_MEAN if ON_TORCH else NEED_THE_MEAN[1:2])
def test_what_needs_the_mean_of_several_batches_keeps_accumulators(options: dict) -> None:
    """And is then the step of that mean."""
    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 2, 3, 4))
    ends = []
    for k in (None, 2):
        optimizer = AdaMomentum(1e-2, gradient_accumulation_steps=k, **options)
        variables = [keras.Variable(x, dtype="float32") for x in start]
        optimizer.build(variables)
        assert len(optimizer.variables) == 2 + (2 if k is None else 3) * 2
        step = stepper(optimizer, variables)
        for batch in (grads[::2] + grads[1::2]) / 2 if k is None else grads:
            step([ops.convert_to_tensor(g, "float32") for g in batch])
        ends.append([array(v) for v in variables])
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_clipping_that_comes_too_late() -> None:
    """Would see one batch's gradients of several."""
    optimizer = ours(gradient_accumulation_steps=2)
    variable = keras.Variable(np.ones(2), dtype="float32")
    optimizer.build([variable])
    optimizer.clipnorm = 1.0
    with pytest.raises(ValueError, match=r"clipnorm=1.0 was set after the optimizer was made, and needs the mean of 2"):
        optimizer.apply([ops.ones(2)], [variable])


def mutant(wrong):
    def kappa(t, beta1, beta2, correction2, *, array, lookahead, passes):
        return wrong(
            lambda t=t, lookahead=lookahead: white_noise_mean(
                t, beta1, beta2, -ops.expm1(t * np.log(beta2)), array=array, lookahead=lookahead
            ),
            t,
            correction2,
            lookahead,
        )

    return kappa


MUTANTS = {
    "limit": lambda kappa, t, c2, lookahead: adam_ratio(np.inf, 0.9, 0.999, lookahead=lookahead) * c2,
    "adam's": lambda kappa, t, c2, lookahead: c2,
    "late": lambda kappa, t, c2, lookahead: kappa(t=t + 1),
    "of the other": lambda kappa, t, c2, lookahead: kappa(lookahead=not lookahead),
}


@pytest.mark.parametrize("second_moment", ["momentum", "lookahead"])
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_mean_fails_the_lockstep(monkeypatch, name: str, second_moment: str) -> None:
    """On the torch backend too, where the one pass has numbers of its own: there variables go one by one."""
    keras.config.set_floatx("float64")
    options = {**MATCH, "second_moment": second_moment}
    module = sys.modules[AdaMomentum.__module__]
    monkeypatch.setattr(module, "white_noise_mean", mutant(lambda kappa, *_: kappa()))
    in_lockstep(OneByOne(1e-2, **options), 3, **options)
    monkeypatch.setattr(module, "white_noise_mean", mutant(MUTANTS[name]))
    with pytest.raises(AssertionError):
        in_lockstep(OneByOne(1e-2, **options), 3, **options)


@pytest.mark.parametrize("options", [MATCH, {**MATCH, "nesterov": True}, {"full_bias_correction": True}])
def test_the_first_step_is_as_long_as_the_learning_rate(options: dict) -> None:
    (moved,) = step_of(ours(lr=0.01, **options), [[-0.3, 7.0]], [np.zeros(2)], ["kernel"])
    np.testing.assert_allclose(moved, [0.01, -0.01], rtol=2e-6)


@pytest.mark.parametrize("options", [MATCH, {**MATCH, "second_moment": "momentum"}])
def test_the_mean_is_precise_in_float32(options: dict) -> None:
    """At the first steps and at late ones."""
    for b1, b2 in ((0.9, 0.999), (0.99, 0.9999), (0.9, 0.81)):
        rtol = 8e-6 if b1 == 0.99 else 2e-6  # there v is 4 or 5 digits below the gradient's square
        for t in (1, 2, 10, 10_000, 10**7):
            variable = keras.Variable(np.zeros(2), dtype="float32", name="kernel")
            optimizer = ours(lr=1.0, betas=(b1, b2), **options)
            optimizer.build([variable])
            optimizer.iterations.assign(t - 1)
            g = np.asarray([0.5, -2.0], "float32")
            optimizer._momentums[0].assign(0.3 * g)
            optimizer._velocities[0].assign(g**2)
            optimizer.apply([ops.convert_to_tensor(g)], [variable])
            m, v = (array(moment[0]).astype(float) for moment in (optimizer._momentums, optimizer._velocities))
            kappa = reference.white_noise_mean(t, (b1, b2), lookahead="second_moment" not in options)
            np.testing.assert_allclose(array(variable), -m / (1 - b1**t) / np.sqrt(v / kappa), rtol=rtol)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_variables_have_float32_moments(dtype: str) -> None:
    variable = keras.Variable(np.zeros(20), dtype=dtype)
    optimizer = ours(lr=1.0)
    optimizer.build([variable])
    assert optimizer._velocities[0].dtype == optimizer._momentums[0].dtype == "float32"
    g = ops.cast(np.linspace(-2e-3, 2e-3, 20), dtype)
    optimizer.apply([g], [variable])
    wanted, _ = reference.step(np.zeros(20), array(ops.cast(g, "float32")), reference.State.zeros(np.zeros(20)), lr=1.0)
    np.testing.assert_allclose(array(ops.cast(variable, "float32")), wanted, rtol=4e-3)


DATA = np.random.default_rng(3)
X = DATA.standard_normal((64, 5)).astype("float32")
Y = (X @ DATA.standard_normal((5, 2))).astype("float32")


def make_model(optimizer, **compile_options) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)])
    if keras.backend.backend() == "tensorflow":  # its graph alone, unless a test asks for XLA, which takes long
        compile_options = {"jit_compile": False, **compile_options}
    model.compile(optimizer, "mse", **compile_options)
    return model


def fit(model: keras.Model, epochs: int = 1, **options) -> list[float]:
    done = model.fit(X, Y, batch_size=options.pop("batch_size", 16), epochs=epochs, shuffle=False, verbose=0, **options)
    return done.history["loss"]


def same(a: keras.Model, b: keras.Model, rtol: float = 0.0) -> None:
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


def test_fit_learns() -> None:
    losses = fit(make_model(ours(lr=5e-3, weight_decay=1e-3), jit_compile="auto"), 30)
    assert losses[-1] < losses[0] / 4


def excluding(**options) -> AdaMomentum:
    optimizer = ours(weight_decay=5.0)
    optimizer.exclude_from_weight_decay(**options)
    return optimizer


def cosine():
    return keras.optimizers.schedules.CosineDecay(0.0, 20, warmup_target=1e-2, warmup_steps=5)


# What adds to the state, or changes when it moves; that options are kept is seen in test_configuration.
SAVED = {
    "plain": ours,
    "amsgrad-decay": lambda: ours(amsgrad=True, weight_decay=0.1),
    "excluded-from-decay": lambda: excluding(var_names=["bias", "gamma"]),
    "accumulation": lambda: ours(gradient_accumulation_steps=3),  # of 8 batches: saved with two gradients in hand
    "dynamic-loss-scale": lambda: keras.optimizers.LossScaleOptimizer(
        excluding(var_names=["bias"]), initial_scale=256.0, dynamic_growth_steps=3
    ),
    "schedule": lambda: ours(lr=cosine()),
    "accumulation-average": lambda: ours(use_ema=True, ema_momentum=0.5, gradient_accumulation_steps=3),
}
# On the other backends, those with most in them.
RICH = ("amsgrad-decay", "dynamic-loss-scale", "accumulation-average")


@pytest.mark.parametrize("name", SAVED if ON_TORCH else RICH)
def test_a_saved_model_goes_on_bitwise(tmp_path, name: str) -> None:
    model = make_model(SAVED[name]())
    fit(model, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(getattr(loaded.optimizer, "inner_optimizer", loaded.optimizer), AdaMomentum)
    before = model.get_weights()
    fit(model, 2)
    fit(loaded, 2)
    same(loaded, model)
    assert all((x != y).any() for x, y in zip(before, model.get_weights(), strict=True))


def test_variables_excluded_from_decay_are_saved(tmp_path) -> None:
    """Given as ``var_list``, which no name tells from the others; also from one loaded model to the next."""
    optimizer = ours(weight_decay=5.0)
    model = make_model(optimizer)
    optimizer.exclude_from_weight_decay(var_list=[model.layers[1].bias], var_names=["kernel"])
    with pytest.raises(ValueError, match="var_list excluded from weight decay must be built before it is saved"):
        model.save(tmp_path / "model.keras")
    fit(model)
    model.save(tmp_path / "1.keras")
    first = keras.saving.load_model(tmp_path / "1.keras")
    first.save(tmp_path / "2.keras")
    second = keras.saving.load_model(tmp_path / "2.keras")
    for one in (model, first, second):
        fit(one)
        decayed = [one.optimizer._use_weight_decay(v) for v in one.trainable_variables]
        assert decayed == [False, True, False, False]
    same(first, model)
    same(second, model)


def test_configuration() -> None:
    configured = ours(
        betas=(0.8, 0.99), eps=1e-12, amsgrad=True, weight_decay=0.1, clipnorm=1.0, use_ema=True, name="mine"
    )
    config = configured.get_config()
    switches = {"adjust_lr", "second_moment", "nesterov", "full_bias_correction", "rounding"}
    assert AdaMomentum.from_config({k: x for k, x in config.items() if k not in switches}).get_config() == config
    switched = ours(**MATCH, second_moment="momentum", nesterov=True, rounding="stochastic").get_config()
    assert AdaMomentum.from_config(switched).get_config() == switched
    assert [switched[k] for k in sorted(switches)] == ["match_rms_adamw", False, True, "stochastic", "momentum"]
    again = AdaMomentum.from_config(config)
    assert again.get_config() == config
    assert (config["beta_1"], config["beta_2"], config["epsilon"], config["amsgrad"]) == (0.8, 0.99, 1e-12, True)
    assert keras.optimizers.deserialize(keras.optimizers.serialize(configured)).get_config() == config
    scheduled = AdaMomentum(keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=5))
    again = AdaMomentum.from_config(scheduled.get_config())
    assert again.get_config() == scheduled.get_config()

    class Falling(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 1 / (1 + step)

        def get_config(self):
            return {}

    config = AdaMomentum(Falling()).get_config()
    again = AdaMomentum.from_config(config, custom_objects={"Falling": Falling})
    assert again.get_config() == config


def step_of(optimizer, grads, starts=((1.0, 2.0), (3.0,)), names=("kernel", "bias")) -> list[np.ndarray]:
    variables = [keras.Variable(np.array(x), name=name) for x, name in zip(starts, names, strict=True)]
    optimizer.build(variables)
    optimizer.apply([ops.convert_to_tensor(np.array(g, "float32")) for g in grads], variables)
    return [array(v) for v in variables]


def test_configuration_of_exclusions() -> None:
    assert not [key for key in ours().get_config() if key.startswith("undecayed")]
    config = excluding(var_names=["gamma", "bias"]).get_config()
    assert (config["undecayed_names"], "undecayed_variables" in config) == (["gamma", "bias"], False)
    again = AdaMomentum.from_config(config)
    assert again.get_config() == config
    again.exclude_from_weight_decay()
    assert again.get_config() == {k: v for k, v in config.items() if k != "undecayed_names"}

    variables = [keras.Variable(np.ones(2)) for _ in range(3)]
    optimizer = excluding(var_list=variables[1:2])
    optimizer.build(variables)
    config = optimizer.get_config()
    assert (config["undecayed_variables"], "undecayed_names" in config) == ([False, True, False], False)
    again = AdaMomentum.from_config(config)
    assert again.get_config() == config
    with pytest.raises(ValueError, match=r"variables must be the 3 that the optimizer was saved with, .*, got 2"):
        again.build(variables[:2])
    again.build(variables)
    assert again.get_config() == config
    again = AdaMomentum.from_config(config)
    again.exclude_from_weight_decay()
    assert "undecayed_variables" not in again.get_config()
    with pytest.raises(TypeError, match=r"var_names must be a list of strings, got 'bias'"):
        optimizer.exclude_from_weight_decay(var_names="bias")


def test_excluded_from_decay() -> None:
    optimizer = ours(lr=0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    kernel, bias = step_of(optimizer, [[0.0, 0.0], [0.0]])
    np.testing.assert_allclose(kernel, [0.95, 1.9], rtol=1e-6)
    np.testing.assert_allclose(bias, [3.0])


def test_names_excluded_from_decay_are_those_of_variables() -> None:
    """Not of layers; the tensorflow backend alone looks in those too."""
    optimizer = ours(weight_decay=5.0)
    optimizer.exclude_from_weight_decay(var_names=["dense"])
    model = make_model(optimizer)
    before = model.get_weights()[0]
    model.fit(0 * X, 0 * Y, verbose=0)  # without gradients
    assert (model.get_weights()[0] != before).all() == (keras.backend.backend() != "tensorflow")


def test_optimizers_of_keras_forget_what_was_excluded_from_decay() -> None:
    """As the documentation says; when they do no more, it has to say so, and what is ours may go."""
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    bias = keras.Variable(np.ones(2), name="bias")
    assert not optimizer._use_weight_decay(bias)
    assert keras.optimizers.AdamW.from_config(optimizer.get_config())._use_weight_decay(bias)


@pytest.mark.parametrize("clip", [{"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.5}])
def test_clipping(clip: dict) -> None:
    grads = [np.array([3.0, -4.0]), np.array([0.1])]
    optimizer = ours(**clip)
    step_of(optimizer, grads)
    total = np.sqrt(25.01)
    wanted = {
        "clipnorm": [np.array([0.3, -0.4]), np.array([0.1])],
        "global_clipnorm": [0.5 * g / total for g in grads],
        "clipvalue": [np.array([0.5, -0.5]), np.array([0.1])],
    }[next(iter(clip))]
    for m, g in zip(optimizer._momentums, wanted, strict=True):
        np.testing.assert_allclose(array(m), 0.1 * g, rtol=1e-5)


def test_accumulated_gradients() -> None:
    """Two batches of 8 are one of 16."""
    whole, halves = make_model(ours()), make_model(ours(gradient_accumulation_steps=2))
    fit(whole, 3)
    fit(halves, 3, batch_size=8)
    same(whole, halves, 2e-5)


def test_loss_scale() -> None:
    plain, scaled = make_model(ours()), make_model(ours(loss_scale_factor=1024.0))
    dynamic = make_model(keras.optimizers.LossScaleOptimizer(ours(), initial_scale=256.0))
    for model in (plain, scaled, dynamic):
        fit(model, 2)
    same(plain, scaled, 1e-5)
    same(plain, dynamic, 1e-5)


def test_moving_average(tmp_path) -> None:
    """It starts with the variables after the first step, and replaces them whenever ``fit`` ends."""
    model, raw = make_model(ours(use_ema=True, ema_momentum=0.5)), make_model(ours())
    average = None
    for i, steps in enumerate((2, 3, 2)):
        if i == 2:
            model.save(tmp_path / "model.keras")
            model = keras.saving.load_model(tmp_path / "model.keras")
        fit(model, steps, batch_size=64)
        for _ in range(steps):
            fit(raw, batch_size=64)
            new = raw.get_weights()
            average = new if average is None else [0.5 * a + 0.5 * b for a, b in zip(average, new, strict=True)]
        raw.set_weights(average)
        same(model, raw, 1e-5)


def quantized(optimizer) -> keras.Model:
    model = make_model(optimizer)
    for layer in model.layers:
        layer.quantize("float8")
    model.compile(optimizer, "mse")
    return model


def test_float8(tmp_path) -> None:
    """Gradients overwrite its scales, which have no moments; Keras loads them in another order than it saved them."""
    optimizer = ours(weight_decay=5.0, amsgrad=True)
    model = quantized(optimizer)
    optimizer.exclude_from_weight_decay(var_list=[model.layers[1].kernel])
    losses = fit(model, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = fit(model, 3)
    assert again[-1] < losses[0]
    assert fit(loaded, 3) == again
    assert [tuple(v.shape) for v in optimizer.variables[2:]] == [
        (5, 8),
        (5, 8),
        (8,),
        (8,),
        (8, 2),
        (8, 2),
        (2,),
        (2,),
        (5, 8),
        (8,),
        (8, 2),
        (2,),
    ]


def test_accumulation_of_float8(tmp_path) -> None:
    """Its scales keep their accumulators, of which Keras takes the largest."""
    optimizer = ours(gradient_accumulation_steps=3)
    model = quantized(optimizer)
    losses = fit(model, 2)
    scales = [v for v in model.trainable_variables if getattr(v, "overwrite_with_gradient", False)]
    assert len(scales) > 0
    assert len(optimizer.variables) == 2 + len(scales) + 2 * (len(model.trainable_variables) - len(scales))
    assert fit(model, 20)[-1] < losses[0]


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="Keras fails to average float8 models there")
def test_moving_average_of_float8() -> None:
    model = quantized(ours(use_ema=True))
    assert fit(model)[-1] > fit(model, 30)[-1]


@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True, "use_ema": True, "gradient_accumulation_steps": 2, "clipnorm": 1.0}]
)
def test_state_has_the_order_and_names_of_that_of_adam(options: dict) -> None:
    variables = make_model(None).trainable_variables
    mine, adams = ours(**options), keras.optimizers.Adam(**options)
    for optimizer in (mine, adams):
        optimizer.build(variables)
    assert [v.name.replace("largest_velocity", "velocity_hat") for v in mine.variables] == [
        v.name for v in adams.variables
    ]


def stepper(optimizer, variables: list):
    """``optimizer.apply`` to all of its variables; compiled on jax, where each operation would be, for each shape."""
    if keras.backend.backend() != "jax":
        return lambda grads: optimizer.apply(grads, variables)
    import jax

    compiled = jax.jit(optimizer.stateless_apply)

    def step(grads: list) -> None:
        state = optimizer.variables
        new = compiled([v.value for v in state], grads, [v.value for v in variables])
        for variable, value in zip([*variables, *state], [*new[0], *new[1]], strict=True):
            variable.assign(value)

    return step


def after_steps(optimizer, bias: bool = True, steps: int = 3) -> keras.Model:
    """A model whose optimizer has taken steps; without a bias its variables all have one shape."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(4, use_bias=bias, name=f"layer{i}") for i in range(2)]
    model = keras.Sequential([keras.layers.Input((4,)), *layers], name="model")
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    rng, step = np.random.default_rng(0), stepper(optimizer, model.trainable_variables)
    for _ in range(steps):
        step([ops.convert_to_tensor(rng.standard_normal(v.shape), "float32") for v in model.trainable_variables])
    return model


def state_of(model: keras.Model) -> list[np.ndarray]:
    return [array(v) for v in model.optimizer.variables]


def equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all((x == y).all() for x, y in zip(a, b, strict=True))


ADAMS = {
    "AdamW": lambda: keras.optimizers.AdamW(1e-3),
    "Adam-named": lambda: keras.optimizers.Adam(1e-3, name="mine"),
    "amsgrad": lambda: keras.optimizers.Adam(1e-3, amsgrad=True, use_ema=True),
    "schedule": lambda: keras.optimizers.AdamW(cosine(), gradient_accumulation_steps=2),
}


@pytest.mark.parametrize(
    ("name", "bias"),
    [*((name, True) for name in ADAMS), ("AdamW", False), ("Adam-named", False)] if ON_TORCH else [("amsgrad", True)],
)
def test_weights_trained_with_adam(tmp_path, name: str, bias: bool) -> None:
    """Go on in AdaMomentum: its learning rate, Adam's steps and first moments, and the second ones in its own size."""
    trained = after_steps(ADAMS[name](), bias)
    adam = trained.optimizer
    trained.save_weights(tmp_path / "a.weights.h5")
    config = adam.get_config()
    options = {name: config[name] for name in ("amsgrad", "use_ema", "gradient_accumulation_steps")}
    model = after_steps(ours(lr=cosine() if callable(adam._learning_rate) else 2.5e-4, eps=1e-8, **options), bias, 0)
    optimizer = model.optimizer
    model.load_weights(tmp_path / "a.weights.h5")
    assert int(optimizer._iterations) == 3
    if not callable(adam._learning_rate):
        assert float(optimizer.learning_rate) == np.float32(2.5e-4)
    if config["gradient_accumulation_steps"]:  # the third batch's gradient, which goes into the first moment
        for m, of_adam, g in zip(optimizer._momentums, adam._momentums, adam._accumulated_gradients, strict=True):
            np.testing.assert_allclose(array(m), array(of_adam) + 0.1 / 0.9 / 2 * array(g), rtol=1e-5, atol=1e-7)
    else:
        assert equal([array(v) for v in optimizer._momentums], [array(v) for v in adam._momentums])
    ratio = adam_ratio(1 if config["gradient_accumulation_steps"] else 3, 0.9, 0.999)
    for v, of_adam in zip(optimizer._velocities, adam._velocities, strict=True):
        np.testing.assert_allclose(array(v), array(of_adam) * ratio, rtol=1e-6)
    if config["amsgrad"]:
        accumulated = 1e-8 * (1 + 0.999 + 0.999**2)
        for v, of_adam in zip(optimizer._largest_velocities, adam._velocity_hats, strict=True):
            np.testing.assert_allclose(array(v), array(of_adam) * ratio + accumulated, rtol=1e-6)
        for v, of_adam in zip(
            optimizer._model_variables_moving_average, adam._model_variables_moving_average, strict=True
        ):
            assert (array(v) == array(of_adam)).all()
    same(model, trained)
    stepper(optimizer, model.trainable_variables)([ops.ones(v.shape) for v in model.trainable_variables])
    assert all(np.isfinite(x).all() for x in (*model.get_weights(), *state_of(model)))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({}, 4.36), (MATCH, 1.0), ({**MATCH, "second_moment": "momentum"}, 1.0), ({"full_bias_correction": True}, 4.36)],
)
def test_steps_after_adam_have_their_own_length(options: dict, wanted: float) -> None:
    """In noise: at once and in each of the next 50; with ``adjust_lr`` they are as long as Adam's."""
    rng = np.random.default_rng(0)
    variables = [keras.Variable(np.zeros(2000, "float32")) for _ in range(2)]
    adam, optimizer, store = keras.optimizers.Adam(1e-3), ours(1e-3, **options), {}
    for one, variable in zip((adam, optimizer), variables, strict=True):
        one.build([variable])
    steps = [stepper(one, [variable]) for one, variable in zip((adam, optimizer), variables, strict=True)]
    ratios = []
    for t in range(80):
        if t == 30:
            adam.save_own_variables(store)
            names = {"_h5_entry_group": type("Group", (), {"attrs": {"name": "adam"}})}
            optimizer.load_own_variables(type("Store", (dict,), names)(store))
        g, lengths = ops.convert_to_tensor(rng.standard_normal(2000), "float32"), []
        for step, variable in zip(steps[: 1 + (t >= 30)], variables, strict=False):
            before = array(variable)
            step([g])
            lengths.append(np.sqrt(np.mean((array(variable) - before) ** 2)))
        if t >= 30:
            ratios.append(lengths[1] / lengths[0])
    np.testing.assert_allclose(ratios, wanted, rtol=0.1)


@torch_stands_for_all
@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "use_ema": True}])
def test_files_with_accumulators(tmp_path, options: dict) -> None:
    """Of before the first moment took their place: the run goes on, in the middle of a step, as it would have."""
    trained = after_steps(
        WithAccumulators(1e-2, name="ada_momentum", gradient_accumulation_steps=3, **options), steps=5
    )
    assert array(trained.optimizer._accumulated_gradients[0]).any()
    trained.save_weights(tmp_path / "a.weights.h5")
    model = after_steps(ours(gradient_accumulation_steps=3, **options), steps=0)
    model.load_weights(tmp_path / "a.weights.h5")
    gradients = [ops.ones(v.shape) for v in model.trainable_variables]
    for one in (trained, model):
        for _ in range(4):
            one.optimizer.apply(gradients, one.trainable_variables)
    same(model, trained, 1e-5)
    for a, b in zip(moments_of(model.optimizer), moments_of(trained.optimizer), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9)
    # One whose state would fit, but that counts batches where this counts steps.
    after_steps(keras.optimizers.Adam(**options)).save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="it was written with other options"):
        model.load_weights(tmp_path / "a.weights.h5")


class Earlier(AdaMomentum):
    """Its variables and files are as they were before they had Adam's order and a mark."""

    @property
    def variables(self) -> list:
        moments = [*self._momentums, *self._velocities, *(self._largest_velocities if self.amsgrad else ())]
        inherited = super().variables
        return [*inherited[: len(inherited) - len(moments)], *moments]

    def save_own_variables(self, store) -> None:
        keras.optimizers.Optimizer.save_own_variables(self, store)


def moments_of(optimizer) -> list[np.ndarray]:
    largest = optimizer._largest_velocities if optimizer.amsgrad else []
    return [array(v) for v in (optimizer.iterations, *optimizer._momentums, *optimizer._velocities, *largest)]


@torch_stands_for_all
@pytest.mark.parametrize(
    ("options", "name", "bias"),
    [
        ({}, "ada_momentum_3", True),
        ({}, "mine", False),
        ({"amsgrad": True, "use_ema": True}, "ada_momentum", False),
        ({"amsgrad": True, "use_ema": True}, "mine", True),
    ],
)
def test_files_of_earlier_versions(tmp_path, options: dict, name: str, bias: bool) -> None:
    trained = after_steps(Earlier(1e-2, name=name, **options), bias)
    trained.save_weights(tmp_path / "a.weights.h5")
    model = after_steps(ours(lr=1.0, **options), bias, 0)
    model.load_weights(tmp_path / "a.weights.h5")
    assert equal(moments_of(model.optimizer), moments_of(trained.optimizer))
    assert float(model.optimizer.learning_rate) == np.float32(1e-2)
    if options:
        averages = [one.optimizer._model_variables_moving_average for one in (model, trained)]
        assert equal(*([array(v) for v in average] for average in averages))


@torch_stands_for_all
def test_wrapped_and_sharded_files(tmp_path) -> None:
    scaled = keras.optimizers.LossScaleOptimizer
    for written in (ours(1e-3), keras.optimizers.Adam(1e-3)):
        trained = after_steps(scaled(written))
        trained.save_weights(tmp_path / "scaled.weights.h5")
        model = after_steps(scaled(ours(1e-2)), steps=0)
        model.load_weights(tmp_path / "scaled.weights.h5")
        ratio = 1.0 if isinstance(written, AdaMomentum) else adam_ratio(3, 0.9, 0.999)
        converted = array(model.optimizer.inner_optimizer._velocities[0])
        np.testing.assert_allclose(converted, array(written._velocities[0]) * ratio, rtol=1e-6)
        assert float(model.optimizer.learning_rate) == np.float32(1e-3)  # the wrapper takes over all by place
    trained = after_steps(scaled(Earlier(1e-3, name="ada_momentum")))
    trained.save_weights(tmp_path / "earlier.weights.h5")
    with pytest.warns(UserWarning, match="1 objects could not be loaded"):  # the wrapper, before what it wraps
        model.load_weights(tmp_path / "earlier.weights.h5", skip_mismatch=True)
    assert equal(moments_of(model.optimizer.inner_optimizer), moments_of(trained.optimizer.inner_optimizer))

    trained = after_steps(ours(name="mine"))
    trained.save_weights(tmp_path / "sharded.weights.json", max_shard_size=1e-7)
    assert len(list(tmp_path.glob("sharded*.h5"))) > 2
    model = after_steps(ours(), steps=0)
    model.load_weights(tmp_path / "sharded.weights.json")
    assert equal(state_of(model), state_of(trained))
    model = after_steps(ours(name="mine"), steps=0)
    model.set_state_tree(trained.get_state_tree(value_format="numpy_array"))
    assert equal(state_of(model), state_of(trained))


@torch_stands_for_all
def test_state_of_other_optimizers(tmp_path) -> None:
    others = keras.optimizers
    model = after_steps(ours(lr=1e-2))
    before = state_of(model)
    for optimizer, name in ((others.Adamax(), "adamax"), (others.RMSprop(momentum=0.9), "rmsprop")):
        trained = after_steps(optimizer, steps=1)
        trained.save_weights(tmp_path / "a.weights.h5")
        with pytest.raises(ValueError, match=f"state was written by '{name}'.*load with skip_mismatch=True"):
            model.load_weights(tmp_path / "a.weights.h5")
        with pytest.warns(UserWarning, match=f"state was written by '{name}'"):
            model.load_weights(tmp_path / "a.weights.h5", skip_mismatch=True)
        same(model, trained)
        assert equal(state_of(model), before)
    # Keras's own warning where the number of variables differs, for whom an unbuilt optimizer loads too.
    for reads, writes in (
        (ours(lr=1e-2), others.Nadam()),
        (ours(lr=1e-2), others.Lion()),
        (ours(lr=1e-2), others.Adam(amsgrad=True)),
        (others.Adam(), ours()),
    ):
        after_steps(writes, steps=1).save_weights(tmp_path / "a.weights.h5")
        model = after_steps(reads, steps=0)
        before = state_of(model)
        with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
            model.load_weights(tmp_path / "a.weights.h5")
        assert equal(state_of(model), before)
    unbuilt = make_model(ours())
    trained = make_model(others.Adam())
    trained.optimizer.build(trained.trainable_variables)
    trained.save_weights(tmp_path / "a.weights.h5")
    with pytest.warns(UserWarning, match="it has 2 variables whereas the saved optimizer has 10"):
        unbuilt.load_weights(tmp_path / "a.weights.h5")
    same(unbuilt, trained)


@torch_stands_for_all
def test_state_that_does_not_fit() -> None:
    """Is refused before anything is changed. Plain dicts have no name that could tell."""
    variables = [keras.Variable(np.ones(3, "float32")) for _ in range(2)]
    noise = [ops.convert_to_tensor(x) for x in np.random.default_rng(0).standard_normal((2, 3)).astype("float32")]

    def stepped(optimizer, variables=variables) -> dict[str, np.ndarray]:
        optimizer.build(variables)
        optimizer.apply(noise[: len(variables)], variables)
        store: dict[str, np.ndarray] = {}
        optimizer.save_own_variables(store)
        return store

    averaged, marked = ours(use_ema=True), ours(use_ema=True)
    stepped(averaged)
    before = [array(v) for v in averaged.variables]
    for written, message in (  # as many variables, of the same shapes
        (keras.optimizers.Adam(amsgrad=True), "may be Adam's, or AdaMomentum's of an earlier version"),
        (keras.optimizers.RMSprop(centered=True, momentum=0.9), "never negative as the file's is"),
        (ours(amsgrad=True), "it was written with other options: make the optimizer with the amsgrad, use_ema"),
        (ours(gradient_accumulation_steps=2, clipnorm=9.0), "it was written with other options"),
    ):
        with pytest.raises(ValueError, match=message):
            averaged.load_own_variables(stepped(written))
    longer = {k: np.append(x, x[-1:]) if x.shape == (3,) and k == "7" else x for k, x in stepped(marked).items()}
    with pytest.raises(ValueError, match=r"velocity has shape \(3,\), in the file \(4,\)"):
        averaged.load_own_variables(longer)
    assert equal([array(v) for v in averaged.variables], before)

    # What the first moments have of a step's gradients, and how many batches a step is, hold for that many alone.
    four, two = (ours(gradient_accumulation_steps=k) for k in (4, 2))
    stepped(two)
    with pytest.raises(ValueError, match=r"other options: make the optimizer with .* gradient_accumulation_steps"):
        two.load_own_variables(stepped(four))

    # With one variable both orders are the same, and only a name could tell.
    one, adam = ours(), keras.optimizers.Adam()
    stepped(one, variables[:1])
    before = [array(v) for v in one.variables]
    with pytest.raises(ValueError, match="may be Adam's, or AdaMomentum's of an earlier version"):
        one.load_own_variables(stepped(adam, variables[:1]))
    assert equal([array(v) for v in one.variables], before)
    one.load_own_variables({k: 0 * x for k, x in stepped(keras.optimizers.Adam(), variables[:1]).items()})
    assert not array(one.iterations)


@pytest.mark.parametrize("name", ["adamomentum", "AdaMomentum"])
def test_compiled_by_name(tmp_path, name: str) -> None:
    model = make_model(name)
    assert type(model.optimizer) is AdaMomentum
    model.optimizer.name = name  # which Keras must not take for the class when it loads
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").optimizer
    assert (type(loaded), loaded.name) == (AdaMomentum, name)
    assert keras.optimizers.serialize(loaded)["registered_name"] == "adamomentum>AdaMomentum"


@pytest.mark.parametrize("given", [(0.004,), (0.9, 0.999), (None,)])
def test_arguments_by_place(given: tuple) -> None:
    """Second is weight_decay in AdamW, beta_1 in Adam."""
    with pytest.raises(TypeError, match=f"must be given by name, got {given[0]!r}: .*weight_decay in Keras's AdamW"):
        AdaMomentum(1e-3, *given)
    with pytest.raises(TypeError, match="must be given by name"):
        AdaMomentum(1e-3, *given, weight_decay=0.1)


SHAPES = [(0,), (0, 3), (3, 0), (0, 3, 1), (), (1,), (1, 3), (3, 1), (1, 3, 1), (1, 3, 1, 1, 1, 1)]


@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "weight_decay": 0.125, "global_clipnorm": 1e3}])
def test_odd_shapes(options: dict) -> None:
    """Empty variables, scalars, and what tensorflow could take for a bias."""
    reached = {}
    for graph in (False, True) if keras.backend.backend() == "tensorflow" else (False,):
        variables = [keras.Variable(np.full(shape, 2.0), dtype="float32") for shape in SHAPES]
        grads = [ops.convert_to_tensor(np.full(shape, 0.5, "float32")) for shape in SHAPES]
        optimizer = ours(**options)
        optimizer.build(variables)
        step = functools.partial(stepper(optimizer, variables), grads)
        if graph:
            import tensorflow

            step = tensorflow.function(step)
        for _ in range(2):
            step()
        reached[graph] = [array(v) for v in variables]
        flat = reached[False][SHAPES.index(())]
        assert flat < 1.9
        for shape, x in zip(SHAPES, reached[graph], strict=True):
            assert x.shape == shape
            np.testing.assert_allclose(x, np.full(shape, flat), rtol=1e-6)


def test_float64_variables_among_others() -> None:
    """Their update is in float64, whatever Keras's own floatx is."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal(5)
    variables = [keras.Variable(start, dtype=dtype) for dtype in ("float32", "float64")]
    optimizer = ours(lr=2.0**-7)
    optimizer.build(variables)
    theta, state, step = start, reference.State.zeros(start), stepper(optimizer, variables)
    for _ in range(10):
        g = rng.standard_normal(5)
        step([ops.convert_to_tensor(g, dtype) for dtype in ("float32", "float64")])
        theta, state = reference.step(theta, g, state, lr=2.0**-7)
    np.testing.assert_allclose(array(variables[0]), theta, rtol=1e-5)
    np.testing.assert_allclose(array(variables[1]), theta, rtol=1e-12)


torch_alone = pytest.mark.skipif(not ON_TORCH, reason="the torch backend's own update")


class OneByOne(AdaMomentum):
    """Updates one variable after the other on the torch backend too."""

    def _backend_update_step(self, grads, trainable_variables, learning_rate) -> None:
        if not ON_TORCH:
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        import torch

        with torch.no_grad():
            for gradient, variable in zip(grads, trainable_variables, strict=True):
                self.update_step(gradient, variable, learning_rate)


@torch_alone
@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"amsgrad": True, "weight_decay": 0.1, "epsilon": 1e-6, "beta_1": 0.0},
        {**MATCH, "nesterov": True, "weight_decay": 0.1, "rounding": "stochastic"},
    ],
)
def test_one_pass_is_as_one_by_one(monkeypatch, options: dict, on_host: bool) -> None:
    """Mixed dtypes, sparse gradients, a schedule, and another subset of the variables each time."""
    import torch

    if not on_host:  # as where the numbers of a step are not to be read from the device
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    dtypes = ["float32", "bfloat16", "float64", "float16", "float32", "float64"]
    start = np.random.default_rng(0).standard_normal((6, 4, 3))
    trained = []
    for kind in (AdaMomentum, OneByOne):
        variables = [keras.Variable(x, dtype=dtype) for x, dtype in zip(start, dtypes, strict=True)]
        optimizer = kind(cosine(), **options)
        optimizer.build(variables)
        rng = np.random.default_rng(1)
        for t in range(12):
            grads = [ops.cast(ops.convert_to_tensor(rng.standard_normal((4, 3))), dtype) for dtype in dtypes]
            grads[4] = (grads[4] * torch.tensor([[1.0], [0.0], [0.0], [1.0]])).to_sparse(1)
            if t % 3 == 1:
                grads[0] = grads[2] = None
            chosen = slice(None) if t % 4 else slice(1, 5)
            optimizer.apply(grads[chosen], variables[chosen])
        trained.append((variables, optimizer))
    for x, y in zip(*([*variables, *optimizer.variables] for variables, optimizer in trained), strict=True):
        # What goes through Keras's operations has numbers that were rounded to float32.
        rtol = {"float64": 1e-6, "float32": 2e-6, "bfloat16": 8e-3, "float16": 1e-3}.get(x.dtype, 0)
        np.testing.assert_allclose(array(ops.cast(x, "float64")), array(ops.cast(y, "float64")), rtol=rtol, atol=1e-8)


@torch_alone
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}, {"clipnorm": 1.0, "use_ema": True}])
def test_a_step_is_one_pass(monkeypatch, options: dict) -> None:
    """Through fit, none of what Keras would do variable by variable."""

    def one_by_one(*_) -> None:
        raise AssertionError("variable by variable")

    monkeypatch.setattr(AdaMomentum, "update_step", one_by_one)
    model = make_model(ours(**options))
    before = model.get_weights()
    fit(model, 2)
    assert all((x != y).any() for x, y in zip(before, model.get_weights(), strict=True))


@torch_alone
def test_stateless_steps_change_nothing_in_place() -> None:
    variables = [keras.Variable(np.ones(3), dtype="float32"), keras.Variable(np.ones((2, 2)), dtype="float64")]
    optimizer, other = ours(weight_decay=None), ours()
    grads = [ops.full(v.shape, 0.5, dtype=v.dtype) for v in variables]
    for one in (optimizer, other):
        one.build(variables)
    given = ([ops.copy(v.value) for v in optimizer.variables], grads, [ops.copy(v.value) for v in variables])
    kept = [array(x) for part in given for x in part]
    trained, state = optimizer.stateless_apply(*given)
    assert equal([array(x) for part in given for x in part], kept)
    assert not array(optimizer.iterations)
    assert (array(variables[0]) == 1).all()
    other.apply(grads, variables)
    for x, y in zip([*trained, *state], [*variables, *other.variables], strict=True):
        np.testing.assert_allclose(array(x), array(y), rtol=1e-6)


def test_nothing_decays_where_all_is_excluded() -> None:
    """Also if only such variables are trained; Keras's own optimizers fail there on the torch backend."""
    for names in (["kernel", "bias"], ["bias"]):
        optimizer = ours(lr=0.1, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=names)
        variables = [keras.Variable(np.full(2, 3.0), name=name) for name in ("kernel", "bias")]
        optimizer.build(variables)
        optimizer.apply([ops.zeros(2)], variables[1:])
        np.testing.assert_array_equal(array(variables[1]), 3.0)


def test_accumulated_gradients_that_are_not_finite() -> None:
    """Are gone after the step that they spoil."""
    optimizer = ours(gradient_accumulation_steps=2, clipvalue=1.0)
    variable = keras.Variable(np.ones(2), dtype="float32")
    optimizer.build([variable])
    for size in (1.0, np.inf):
        optimizer.apply([ops.full((2,), size, dtype="float32")], [variable])
    assert not array(optimizer._accumulated_gradients[0]).any()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras distributes models on jax alone")
def test_state_is_sharded_as_its_variables() -> None:
    mesh = keras.distribution.DeviceMesh((2,), ["model"], keras.distribution.list_devices()[:2])
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*dense.*/kernel"] = (None, "model")
    with keras.distribution.ModelParallel(layout_map=layouts).scope():
        optimizer = ours(amsgrad=True, use_ema=True)
        model = make_model(optimizer)
        fit(model)
        fit(model)
    kernel = model.layers[0].kernel.value
    assert not kernel.sharding.is_fully_replicated
    state = [v.value for v in optimizer.variables if v.shape == kernel.shape]
    assert len(state) == 4
    assert all(x.sharding.is_equivalent_to(kernel.sharding, 2) for x in state)


@pytest.mark.parametrize("beta", [0.999, 1 - 1e-6])
def test_bias_correction_in_float32(beta: float) -> None:
    """beta^t is so near 1 that float32 holds few digits of what it lacks to 1, or none."""
    g, zeros = np.array([0.5, -2.0]), np.zeros(2)
    wanted, _ = reference.step(zeros, g, reference.State.zeros(zeros), lr=1e-2, betas=(0.9, beta))
    variable = keras.Variable(zeros, dtype="float32")
    ours(betas=(0.9, beta)).apply([ops.convert_to_tensor(g, "float32")], [variable])
    np.testing.assert_allclose(array(variable), wanted, rtol=1e-6)


def rounded_steps(optimizer, steps: int, start, g, dtype: str = "bfloat16") -> np.ndarray:
    variable = keras.Variable(np.asarray(start, "float32"), dtype=dtype)
    optimizer.build([variable])
    step = stepper(optimizer, [variable])
    for _ in range(steps):
        step([ops.cast(ops.convert_to_tensor(np.asarray(g, "float32")), dtype)])
    return array(ops.cast(variable, "float32"))


def test_stochastic_rounding_keeps_what_the_nearest_loses() -> None:
    """Steps and decay far below the spacing of bfloat16 numbers, 2^-8 below 1."""
    g = np.resize([1.0, -1.0], 4096)
    for options in ({}, {"weight_decay": 1.0}):
        options = {"lr": 5e-4, **MATCH, **options}
        theta, state = np.ones(2), reference.State.zeros(np.ones(2))
        for _ in range(100):
            theta, state = reference.step(theta, g[:2], state, **options)
        assert (np.abs(theta - 1) > 0.01).all()
        ends = [
            rounded_steps(ours(**options, rounding=rounding), 100, np.ones(4096), g)
            for rounding in ("nearest", "stochastic", "stochastic")
        ]
        assert (ends[0] == 1).all()
        np.testing.assert_array_equal(ends[1], ends[2])
        means = ends[1].reshape(-1, 2).mean(0)  # of 2,048, each within a spacing or so
        np.testing.assert_allclose(means, theta, atol=4e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_variables_are_rounded_to_the_nearest(dtype: str) -> None:
    ends = [rounded_steps(ours(rounding=r, weight_decay=0.1), 3, np.ones(5), 5e-3, dtype) for r in ROUNDINGS]
    np.testing.assert_array_equal(*ends)


def test_stochastic_rounding_has_the_bits_of_the_class_for_pytorch() -> None:
    """On each backend those that are computed here in 64 bits, and these are that class's own."""
    from adamomentum.keras_rounding import rounded_by_chance

    x = np.random.default_rng(0).standard_normal((37, 11)).astype("float32")
    x[0, :3] = np.inf, -np.inf, np.nan
    for step in (1, 77, 10**6):
        random = (np.arange(x.size, dtype="uint64") * 0xD1B54A33 + np.uint64(step * 0x9E3779B9)) & 0xFFFFFFFF
        bits = (x.ravel().view("uint32") + (random >> 16).astype("uint32")) & np.uint32(0xFFFF0000)
        wanted = np.where(np.isfinite(x), bits.view("float32").reshape(x.shape), x)
        rounded = rounded_by_chance(ops.convert_to_tensor(x), ops.convert_to_tensor(step))
        np.testing.assert_array_equal(array(ops.cast(rounded, "float32")), wanted)
        if ON_TORCH:
            import torch

            from adamomentum.torch.precision import dither, round_to_bfloat16

            theirs = round_to_bfloat16(torch.tensor(x).ravel(), dither(x.size, step, "theta", torch.device("cpu")))
            np.testing.assert_array_equal(theirs.float().numpy().reshape(x.shape), wanted)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_low_precision_models_learn(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    losses = fit(make_model(ours(lr=5e-3)), 30)
    assert losses[-1] < losses[0] / 4


def test_embeddings() -> None:
    """Their gradients are sparse on some backends; all moments decay, as for dense ones."""
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Embedding(10, 4), keras.layers.Flatten()])
    optimizer = ours()
    model.compile(optimizer, "mse")
    words, wanted = np.array([[1, 2, 3]] * 4), np.ones((4, 12), "float32")
    model.fit(words, wanted, batch_size=4, epochs=1, verbose=0)
    first = array(optimizer._momentums[0])
    assert (first[1:4] != 0).all()
    assert (first[4:] == 0).all()
    model.fit(words + 5, wanted, batch_size=4, epochs=1, verbose=0)
    np.testing.assert_allclose(array(optimizer._momentums[0])[1:4], 0.9 * first[1:4], rtol=1e-5)


def test_schedule() -> None:
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.0, 0.1, 0.0])
    model = make_model(AdaMomentum(schedule))
    before = model.get_weights()
    fit(model, 1, batch_size=64)
    for x, y in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    fit(model, 1, batch_size=64)
    assert any((x != y).any() for x, y in zip(before, model.get_weights(), strict=True))


def test_numbers_of_numpy_and_complex_variables() -> None:
    optimizer = AdaMomentum(np.float32(1e-3), beta_1=np.float32(0.9), weight_decay=np.float64(0.1), epsilon=0)
    assert all(type(optimizer.get_config()[name]) is float for name in ("beta_1", "beta_2", "epsilon", "weight_decay"))
    with pytest.raises(ValueError, match=r"variables must be real, got .* in complex64"):
        AdaMomentum().build([keras.Variable(np.ones(2, "complex64"), dtype="complex64")])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be >= 0 and finite, got -1.0"),
        ({"beta_1": 1.0}, ValueError, r"beta_1 must be in \[0, 1\), got 1.0"),
        ({"beta_2": float("nan")}, ValueError, r"beta_2 must be in \[0, 1\), got nan"),
        ({"epsilon": -1e-8}, ValueError, "epsilon must be >= 0 and finite, got -1e-08"),
        ({"beta_1": "0.9"}, TypeError, "beta_1 must be a number, got '0.9'"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be >= 0 and finite, got -0.1"),
        ({"adjust_lr": True}, ValueError, "adjust_lr must be None or one of 'match_rms_adamw', got True"),
        ({"second_moment": "m"}, ValueError, "second_moment must be None or one of 'momentum', 'lookahead', got 'm'"),
        ({"nesterov": 1}, TypeError, "nesterov must be True or False, got 1"),
        ({"full_bias_correction": True, **MATCH}, ValueError, "does not go with full_bias_correction=True"),
        ({"gradient_accumulation_steps": 2.5}, TypeError, "must be an integer, got 2.5: .*>= 2; None"),
        ({"gradient_accumulation_steps": "2"}, TypeError, "must be an integer, got '2': .*>= 2; None"),
        ({"gradient_accumulation_steps": True}, TypeError, "accumulation_steps must be an integer, got True"),
        ({"gradient_accumulation_steps": 1}, ValueError, "accumulation_steps` must be an integer >= 2"),
        ({"rounding": "up"}, ValueError, "rounding must be 'nearest' or 'stochastic', got 'up'"),
    ],
)
def test_bad_arguments(options: dict, error, message: str) -> None:
    with pytest.raises(error, match=message):
        AdaMomentum(**options)


def test_an_integer_of_numpy_is_one() -> None:
    steps = AdaMomentum(gradient_accumulation_steps=np.int64(2)).get_config()["gradient_accumulation_steps"]
    assert (steps, type(steps)) == (2, int)
