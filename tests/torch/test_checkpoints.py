import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from adamomentum.second_moment import adam_ratio
from adamomentum.torch import AdaMomentum
from adamomentum.torch.checkpoints import from_adam, from_adam3
from adamomentum.torch.groups import param_groups

ATTENUATION = (1 - 0.9) / (1 + 0.9)  # of white noise by the first moment, at beta1 = 0.9


def saved_and_loaded(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class AdaM3:
    """The authors' recursion for one parameter, with eps added into the state at every step, in NumPy."""

    def __init__(self, theta, lr, betas, eps, amsgrad):
        self.theta, self.lr, self.betas, self.eps, self.amsgrad = theta.copy(), lr, betas, eps, amsgrad
        self.t, self.m, self.v, self.max = 0, np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)

    def step(self, g):
        (b1, b2), self.t = self.betas, self.t + 1
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * self.m**2 + self.eps
        self.max = np.maximum(self.max, self.v)
        v = (self.max if self.amsgrad else self.v) / (1 - b2**self.t)
        self.theta = self.theta - self.lr * self.m / (1 - b1**self.t) / np.sqrt(v)

    def state(self, dtype=torch.float64):
        entry = {
            "step": self.t,
            "exp_avg": torch.tensor(self.m).to(dtype),
            "exp_avg_var": torch.tensor(self.v).to(dtype),
        }
        if self.amsgrad:
            entry["max_exp_avg_var"] = torch.tensor(self.max).to(dtype)
        return entry

    def group(self, *ids):
        return {
            "lr": 123.0,  # must not be taken over
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": 0.5,
            "amsgrad": self.amsgrad,
            "buffer": [[None, None, None] for _ in range(10)],
            "params": list(ids),
        }


def adam3_state_dict(*runs, dtype=torch.float64):
    return {
        "state": {i: run.state(dtype) for i, run in enumerate(runs)},
        "param_groups": [run.group(i) for i, run in enumerate(runs)],
    }


def run_adam(gradients, cls=torch.optim.Adam, dtype=torch.float64, **options):
    """Adam's optimizer after these gradients, of shape (steps, n); the learning rate moves nothing."""
    p = torch.zeros(gradients.shape[1], dtype=dtype, requires_grad=True)
    optimizer = cls([p], lr=0.0, **{"weight_decay": 0.0, **options})
    feed(optimizer, gradients)
    return optimizer


def run_own(gradients, **options):
    p = torch.zeros(gradients.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = AdaMomentum([p], **{"lr": 0.0, "eps": 0.0, **options})
    feed(optimizer, gradients)
    return optimizer


def feed(optimizer, gradients):
    """Feed the gradients and return the last update."""
    (p,) = optimizer.param_groups[0]["params"]
    for g in gradients:
        before = p.detach().clone()
        p.grad = torch.as_tensor(g, dtype=p.dtype)
        optimizer.step()
    return (p.detach() - before).numpy()


def state_of(optimizer):
    (state,) = optimizer.state.values()
    return state


def imported(state_dict, convert=from_adam, dtype=torch.float64, options=(), **how):
    """A fresh AdaMomentum for the first parameter of a state dict, with the converted state loaded."""
    saved = next(iter(state_dict["state"].values()))
    p = torch.zeros(saved["exp_avg"].shape, dtype=dtype, requires_grad=True)
    optimizer = AdaMomentum([p], **dict(options))
    optimizer.load_state_dict(convert(state_dict, optimizer, **how))
    return optimizer


# AdaM3


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("steps", [1, 50])
def test_adam3_goes_on_as_if_it_had_not_been_interrupted(amsgrad, steps):
    rng = np.random.default_rng(0)
    settings_ = [(1e-3, (0.9, 0.999), 1e-16), (1e-2, (0.9, 0.999), 1e-8), (3e-3, (0.5, 0.98), 1e-3)]
    scales = np.array([1e-9, 1e-5, 1e-2, 1.0, 1e3])  # from eps-dominated to eps-free coordinates
    runs = [AdaM3(rng.normal(size=5), lr, betas, eps, amsgrad) for lr, betas, eps in settings_]

    def gradients(count):
        return rng.normal(size=(count, len(runs), 5)) * scales * np.geomspace(1, 0.1, count)[:, None, None]

    for step in gradients(steps):
        for run, g in zip(runs, step, strict=True):
            run.step(g)
    params = [torch.tensor(run.theta, requires_grad=True) for run in runs]
    optimizer = AdaMomentum(
        [
            {"params": [p], "lr": lr, "betas": betas, "eps": eps}
            for p, (lr, betas, eps) in zip(params, settings_, strict=True)
        ],
        amsgrad=amsgrad,
    )
    optimizer.load_state_dict(from_adam3(saved_and_loaded(adam3_state_dict(*runs)), optimizer))
    for step in gradients(200):
        for run, p, g in zip(runs, params, step, strict=True):
            run.step(g)
            p.grad = torch.tensor(g)
        optimizer.step()
    for run, p in zip(runs, params, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), run.theta, rtol=1e-10, atol=1e-10 * run.lr)
        assert optimizer.state[p]["step"] == run.t


def test_adam3_eps_is_the_saved_one():
    run = AdaM3(np.zeros(3), 1e-3, (0.9, 0.99), 1e-4, False)
    for g in np.random.default_rng(1).normal(size=(30, 3)):
        run.step(g)
    expected = run.v - 1e-4 * (1 - 0.99**30) / (1 - 0.99)
    options = {"betas": (0.9, 0.99), "eps": 1e-16}
    optimizer = imported(adam3_state_dict(run), from_adam3, options=options)
    np.testing.assert_allclose(state_of(optimizer)["exp_avg_sq"].numpy(), expected, rtol=1e-12)
    # The options are the new optimizer's, whatever the checkpoint says.
    (group,) = optimizer.param_groups
    assert (group["lr"], group["eps"], group["weight_decay"]) == (1e-3, 1e-16, 0.0)
    assert "buffer" not in group


def test_adam3_maximum_keeps_its_eps_and_starts_with_it():
    run = AdaM3(np.zeros(3), 1e-3, (0.9, 0.99), 1e-6, True)
    for g in np.random.default_rng(1).normal(size=(100, 3)) * np.geomspace(1, 1e-8, 100)[:, None]:
        run.step(g)
    assert (run.max > 1.2 * run.v).all()
    options = {"betas": (0.9, 0.99), "eps": 1e-6, "amsgrad": True}
    state = state_of(imported(adam3_state_dict(run), from_adam3, options=options))
    np.testing.assert_array_equal(state["max_exp_avg_sq"].numpy(), run.max)
    run.amsgrad = False
    state = state_of(imported(adam3_state_dict(run), from_adam3, options=options))
    np.testing.assert_allclose(state["max_exp_avg_sq"].numpy(), run.v, rtol=1e-14)
    state = state_of(imported(adam3_state_dict(run), from_adam3))
    assert "max_exp_avg_sq" not in state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounded_adam3_state(dtype):
    run = AdaM3(np.zeros(400), 1e-3, (0.9, 0.999), 1e-8, False)
    rng = np.random.default_rng(2)
    scale = np.repeat([0.0, 1e-6, 1e-4, 1e-2], 100)
    for g in rng.normal(size=(300, 400)) * scale:
        run.step(g)
    state_dict = adam3_state_dict(run, dtype=dtype)
    before = state_dict["state"][0]["exp_avg_var"].double()
    state = state_of(imported(state_dict, from_adam3, torch.float32, {"eps": 1e-8}))
    assert state["exp_avg_sq"].dtype == torch.float32
    # The sum of which the root is taken is not below the saved one ...
    accumulated = 1e-8 * (1 - 0.999**300) / (1 - 0.999)
    assert (state["exp_avg_sq"].double() + accumulated >= before * (1 - 1e-6)).all()
    # ... and without the old eps, steps keep to the documented bound.
    optimizer = imported(state_dict, from_adam3, torch.float32, {"lr": 1.0, "eps": 1e-30})
    for g in np.zeros((3, 400)), -rng.normal(size=(3, 400)) * scale:
        assert np.abs(feed(optimizer, g)).max() <= (1 - 0.999) ** -0.5 * (1 + 1e-5)


def test_precision_of_float32_adam3_state():
    run = AdaM3(np.zeros(1000), 1e-3, (0.9, 0.999), 1e-8, False)
    for g in np.random.default_rng(3).normal(size=(2000, 1000)) * 1e-3:
        run.step(g)
    accumulated = 1e-8 * (1 - 0.999**2000) / (1 - 0.999)
    state = state_of(imported(adam3_state_dict(run, dtype=torch.float32), from_adam3, torch.float32))
    error = np.abs(state["exp_avg_sq"].double().numpy() - (run.v - accumulated))
    assert 0 < error.max() < 1e-7 * accumulated  # of the sum, not of the second moment, which is smaller
    assert accumulated > 50 * (run.v - accumulated).max()


# Adam


def ratio_bounds(beta1, beta2):
    gamma = beta1 / beta2**0.5
    return (1 - gamma) / (1 - beta1), (1 + gamma) / (1 - beta1)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(4)), elements=st.floats(-1, 1, width=16)),
    st.sampled_from([(0.9, 0.999), (0.5, 0.98), (0.0, 0.9), (0.95, 0.95)]),
)
def test_imported_second_moment_is_in_the_sandwich(gradients, betas):
    low, high = ratio_bounds(*betas)
    v = state_of(imported(run_adam(gradients, betas=betas).state_dict(), options={"betas": betas}))["exp_avg_sq"]
    own = state_of(run_own(gradients, betas=betas, eps=1e-30))["exp_avg_sq"]
    root, own_root = v.sqrt().numpy(), own.sqrt().numpy()
    assert (root * (1 + 1e-9) >= low * own_root).all()
    assert (root <= high * own_root * (1 + 1e-9)).all()


def test_both_ends_of_the_sandwich_are_reached():
    t = np.arange(6000)
    gradients = np.stack([0.999 ** (t / 2), (-1.0) ** t * 0.999 ** (t / 2)], axis=1)
    v = state_of(imported(run_adam(gradients).state_dict()))["exp_avg_sq"]
    ratio = (v / state_of(run_own(gradients))["exp_avg_sq"]).sqrt().numpy()
    np.testing.assert_allclose(ratio, ratio_bounds(0.9, 0.999), rtol=2e-3)
    np.testing.assert_allclose(ratio_bounds(0.9, 0.999), [0.9955, 19.0045], rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(2, 40), st.just(4)), elements=st.floats(-1, 1, width=16)),
    st.data(),
)
def test_step_lengths_after_the_import(gradients, data):
    split = data.draw(st.integers(1, len(gradients) - 1))
    adam = run_adam(gradients[:split]).state_dict()
    options = {"lr": 1.0, "eps": 1e-30}
    own = np.abs(feed(run_own(gradients[:split], **options), gradients[split:]))
    kept = np.abs(feed(imported(adam, options=options), gradients[split:]))
    scaled = np.abs(feed(imported(adam, options=options, exp_avg_sq="scale"), gradients[split:]))
    assume((own > 1e-6).all())  # below, the first moments differ by rounding
    assert (kept <= 1.0046 * own).all()
    assert (kept >= own / 19.005).all()
    ratio = adam_ratio(split, 0.9, 0.999)
    assert (scaled <= 1.0046 / ratio**0.5 * own).all()
    assert (scaled >= own / 19.005 / ratio**0.5).all()


def rms_ratio_in_noise(exp_avg_sq, after, amsgrad=False):
    """Length of imported steps over AdaMomentum's own, in white noise, ``after`` steps after the import."""
    betas = (0.9, 0.99)
    rng = np.random.default_rng(4)
    past, future = rng.normal(size=(1000, 2000)), rng.normal(size=(after, 2000))
    adam = run_adam(past, betas=betas, amsgrad=False).state_dict()
    options = {"lr": 1.0, "betas": betas, "amsgrad": amsgrad}
    own = feed(run_own(past, **{**options, "amsgrad": False}), future)
    steps = feed(imported(adam, options=options, exp_avg_sq=exp_avg_sq), future)
    return (np.square(steps).mean() / np.square(own).mean()) ** 0.5


@pytest.mark.parametrize("after", [1, 100, 300])
def test_kept_second_moment_fades_as_documented(after):
    expected = (1 + (1 / ATTENUATION - 1) * 0.99**after) ** -0.5
    assert rms_ratio_in_noise("keep", after) == pytest.approx(expected, rel=0.05)


def test_documented_fading():
    documented = [(0, 0.23), (1000, 0.36), (3000, 0.73)]
    for k, value in documented:
        ratio = (1 + (1 / ATTENUATION - 1) * 0.999**k) ** -0.5
        assert ratio == pytest.approx(value, abs=0.006)
    assert pytest.approx(4.36, abs=0.002) == ATTENUATION**-0.5


def test_scaled_second_moment_fits_white_noise_at_once():
    assert rms_ratio_in_noise("scale", 1) == pytest.approx(1, rel=0.05)


def test_amsgrad_keeps_what_it_imports():
    assert rms_ratio_in_noise("keep", 300, amsgrad=True) < 0.3
    assert rms_ratio_in_noise("scale", 300, amsgrad=True) == pytest.approx(1, rel=0.25)


def test_scaled_import_goes_on_with_adams_steps():
    rng = np.random.default_rng(5)
    past, future = rng.normal(size=(3000, 500)), rng.normal(size=(1, 500))
    adam = run_adam(past)
    optimizer = imported(adam.state_dict(), options={"lr": ATTENUATION**0.5}, exp_avg_sq="scale")
    adam.param_groups[0]["lr"] = 1.0
    np.testing.assert_allclose(feed(optimizer, future), feed(adam, future), rtol=0.01)


@pytest.mark.parametrize("before", [20, 1000])
@pytest.mark.parametrize("form", [{}, {"second_moment": "momentum"}, {"betas": (0.8, 0.95)}])
def test_a_drop_in_goes_on_with_adams_steps_at_adams_lr(before, form):
    rng = np.random.default_rng(12)
    past, future = rng.normal(size=(before, 2000)), rng.normal(size=(50, 2000))
    adam = run_adam(past, betas=form.get("betas", (0.9, 0.999)))
    drop_in = imported(adam.state_dict(), options={"lr": 1.0, "adjust_lr": "match_rms_adamw", **form})
    adam.param_groups[0]["lr"] = 1.0
    for k, g in enumerate(future):
        ours, theirs = feed(drop_in, g[None]), feed(adam, g[None])
        ratio = (np.square(ours).mean() / np.square(theirs).mean()) ** 0.5
        assert ratio == pytest.approx(1, abs=0.1), f"step {k} after the switch"


def test_a_dropped_second_moment_would_throw_the_parameters():
    adam = run_adam(np.random.default_rng(6).normal(size=(5000, 100))).state_dict()
    adam["state"][0]["exp_avg_sq"].zero_()
    steps = feed(imported(adam, options={"lr": 1.0}), np.zeros((1, 100)))
    np.testing.assert_allclose(np.abs(steps), 31.6, rtol=5e-3)


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RAdam])
def test_moments_of_adam_carry_over(cls):
    adam = run_adam(np.random.default_rng(7).normal(size=(20, 3)), cls)
    state = state_of(imported(adam.state_dict()))
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    assert state["step"].dtype == torch.float64
    assert state["step"].shape == ()
    assert state["step"] == 20
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(state[key], state_of(adam)[key])


@pytest.mark.parametrize("exp_avg_sq", ["keep", "scale"])
def test_maximum_of_adam(exp_avg_sq):
    gradients = np.random.default_rng(8).normal(size=(20, 3)) * np.geomspace(1, 1e-3, 20)[:, None]
    factor = 1.0 if exp_avg_sq == "keep" else adam_ratio(20, 0.9, 0.999)
    accumulated = 1e-4 * (1 - 0.999**20) / (1 - 0.999)
    options = {"amsgrad": True, "eps": 1e-4}
    for amsgrad, key in ((True, "max_exp_avg_sq"), (False, "exp_avg_sq")):
        adam = run_adam(gradients, amsgrad=amsgrad)
        state = state_of(imported(adam.state_dict(), options=options, exp_avg_sq=exp_avg_sq))
        expected = factor * state_of(adam)[key] + accumulated
        torch.testing.assert_close(state["max_exp_avg_sq"], expected, rtol=1e-14, atol=0)
    assert "max_exp_avg_sq" not in state_of(imported(run_adam(gradients, amsgrad=True).state_dict()))


@pytest.mark.parametrize("convert", [from_adam, from_adam3])
def test_other_betas_leave_the_bias_corrected_moments(convert):
    gradients = np.random.default_rng(9).normal(size=(7, 3))
    if convert is from_adam:
        state_dict = run_adam(gradients).state_dict()
        m, v = state_dict["state"][0]["exp_avg"].numpy(), state_dict["state"][0]["exp_avg_sq"].numpy()
    else:
        run = AdaM3(np.zeros(3), 1.0, (0.9, 0.999), 1e-2, False)
        for g in gradients:
            run.step(g)
        state_dict, m, v = adam3_state_dict(run), run.m, run.v - 1e-2 * (1 - 0.999**7) / (1 - 0.999)
    state = state_of(imported(state_dict, convert, options={"betas": (0.8, 0.99)}))
    np.testing.assert_allclose(state["exp_avg"] / (1 - 0.8**7), m / (1 - 0.9**7), rtol=1e-13)
    np.testing.assert_allclose(state["exp_avg_sq"] / (1 - 0.99**7), v / (1 - 0.999**7), rtol=1e-12)


@pytest.mark.parametrize(
    ("param", "state_dtype", "expected"),
    [
        (torch.bfloat16, None, torch.float32),
        (torch.float16, None, torch.float32),
        (torch.float32, None, torch.float32),
        (torch.bfloat16, torch.float64, torch.float64),
        (torch.complex64, None, torch.complex64),
        (torch.complex64, torch.float64, torch.complex128),
    ],
)
def test_dtypes(param, state_dtype, expected):
    p = torch.zeros(3, 2, dtype=param, requires_grad=True)
    adam = torch.optim.Adam([p], amsgrad=True)
    p.grad = torch.randn(3, 2, dtype=torch.promote_types(param, torch.float32)).to(param)
    adam.step()
    optimizer = AdaMomentum([p], amsgrad=True, eps=1e-8, state_dtype=state_dtype)
    optimizer.load_state_dict(from_adam(adam.state_dict(), optimizer))
    state, saved = optimizer.state[p], adam.state[p]
    assert {state[key].dtype for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")} == {expected}
    assert torch.equal(state["exp_avg"], saved["exp_avg"].to(expected))
    eps = 1e-8 * (1 + 1j) if param.is_complex else 1e-8  # a complex parameter is two real ones
    torch.testing.assert_close(state["max_exp_avg_sq"], saved["max_exp_avg_sq"].to(expected) + eps)
    optimizer.step()
    assert torch.isfinite(torch.view_as_real(p) if param.is_complex else p).all()


# Matching


def trained_adamw(params, model):
    adamw = torch.optim.AdamW(params)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    adamw.step()
    return adamw


def model_of_equal_shapes():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))


def assert_state_follows_the_parameters(optimizer, adamw):
    assert len(optimizer.state) == len(adamw.state) > 0
    for p, saved in adamw.state.items():
        assert torch.equal(optimizer.state[p]["exp_avg"], saved["exp_avg"])


def test_regrouped_parameters_are_matched_by_name():
    model = model_of_equal_shapes()
    adamw = trained_adamw(model.named_parameters(), model)
    optimizer = AdaMomentum(param_groups(model))
    optimizer.load_state_dict(from_adam(saved_and_loaded(adamw.state_dict()), optimizer))
    assert_state_follows_the_parameters(optimizer, adamw)


def test_names_can_be_added_to_a_checkpoint_without():
    model = model_of_equal_shapes()
    adamw = trained_adamw(model.parameters(), model)
    optimizer, state_dict = AdaMomentum(param_groups(model)), adamw.state_dict()
    with pytest.raises(ValueError, match=r"groups have \[6\] parameters, the optimizer's \[2, 4\].*param_names"):
        from_adam(state_dict, optimizer)
    state_dict["param_groups"][0]["param_names"] = [name for name, _ in model.named_parameters()]
    optimizer.load_state_dict(from_adam(state_dict, optimizer))
    assert_state_follows_the_parameters(optimizer, adamw)


@pytest.mark.parametrize("named", [(False, False), (True, False), (False, True)])
def test_equal_groups_are_matched_by_order(named):
    model = model_of_equal_shapes()
    source, target = (model.named_parameters() if n else model.parameters() for n in named)
    adamw, optimizer = trained_adamw(source, model), AdaMomentum(target)
    optimizer.load_state_dict(from_adam(adamw.state_dict(), optimizer))
    assert_state_follows_the_parameters(optimizer, adamw)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_names_match_whatever_wraps_the_model(prefix):
    model = model_of_equal_shapes()
    adamw = trained_adamw([(prefix + name, p) for name, p in model.named_parameters()], model)
    optimizer = AdaMomentum(reversed(list(model.named_parameters())))
    optimizer.load_state_dict(from_adam(adamw.state_dict(), optimizer))
    for p in model.parameters():
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], adamw.state[p]["exp_avg"])


def test_other_names_are_an_error():
    model = model_of_equal_shapes()
    adamw = trained_adamw([(f"model.{name}", p) for name, p in model.named_parameters()], model)
    message = r"missing: '0.bias', '0.weight', '1.bias', '1.weight' and 2 more; unexpected: 'model.0.bias'"
    with pytest.raises(ValueError, match=message):
        from_adam(adamw.state_dict(), AdaMomentum(model.named_parameters()))


def test_parameters_without_saved_state_start_fresh():
    model = model_of_equal_shapes()
    adamw = torch.optim.AdamW(model.parameters())
    model[0].weight.grad = torch.ones(3, 3)
    adamw.step()
    optimizer = AdaMomentum(model.parameters())
    optimizer.load_state_dict(from_adam(adamw.state_dict(), optimizer))
    assert list(optimizer.state) == [model[0].weight]


def test_states_under_the_text_of_their_numbers():
    """As files have them that torch.distributed.checkpoint makes of a folder."""
    model = model_of_equal_shapes()
    adamw = trained_adamw(model.parameters(), model)
    saved = adamw.state_dict()
    saved["state"] = {str(i): state for i, state in saved["state"].items()}
    optimizer = AdaMomentum(model.parameters())
    optimizer.load_state_dict(from_adam(saved, optimizer))
    assert_state_follows_the_parameters(optimizer, adamw)
    saved["state"]["99"] = saved["state"]["0"]
    with pytest.raises(ValueError, match="state '99' is of no parameter"):
        from_adam(saved, optimizer)


@pytest.mark.distributed
def test_sharded_parameters(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = model_of_equal_shapes()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        adamw = trained_adamw(model.named_parameters(), model)
        optimizer = AdaMomentum(param_groups(model))
        optimizer.load_state_dict(from_adam(adamw.state_dict(), optimizer))
        assert_state_follows_the_parameters(optimizer, adamw)
        optimizer.step()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("convert", [from_adam, from_adam3])
def test_nothing_is_changed_or_shared(convert):
    if convert is from_adam:
        state_dict = run_adam(np.ones((3, 2)), amsgrad=True).state_dict()
    else:
        run = AdaM3(np.zeros(2), 1e-3, (0.9, 0.999), 1e-8, True)
        run.step(np.ones(2))
        state_dict = adam3_state_dict(run)
    untouched = copy.deepcopy(state_dict)
    optimizer = run_own(np.ones((2, 2)), amsgrad=True)
    own = copy.deepcopy(optimizer.state_dict())
    result = convert(state_dict, optimizer)
    tensors = {id(t.untyped_storage()) for t in result["state"][0].values()}
    for value in result["state"][0].values():
        value.fill_(7)
    torch.testing.assert_close(state_dict, untouched, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict()["state"], own["state"], rtol=0, atol=0)
    assert len(tensors) == 4


# Errors


def adam_dict(**changes):
    state_dict = run_adam(np.ones((3, 2))).state_dict()
    state_dict["state"][0].update(changes)
    return state_dict


def without(state_dict, *path):
    *path, last = path
    inner = state_dict
    for key in path:
        inner = inner[key]
    del inner[last]
    return state_dict


def adam3_dict(**changes):
    run = AdaM3(np.zeros(2), 1e-3, (0.9, 0.999), 1e-8, False)
    run.step(np.ones(2))
    state_dict = adam3_state_dict(run)
    state_dict["state"][0].update(changes)
    return state_dict


def grouped(state_dict, **changes):
    state_dict["param_groups"][0].update(changes)
    return state_dict


@pytest.mark.parametrize(
    ("convert", "state_dict", "message"),
    [
        (from_adam, adam3_dict(), "looks like the state of AdaM3: use from_adam3"),
        (from_adam3, adam_dict(), "looks like the state of Adam: use from_adam"),
        (from_adam, nn.Linear(2, 2).state_dict(), "with 'state' and 'param_groups', got 'bias', 'weight'"),
        (from_adam, run_own(np.ones((1, 2))).state_dict(), "written by AdaMomentum: load it as it is"),
        (from_adam3, run_own(np.ones((1, 2))).state_dict(), "written by AdaMomentum: load it as it is"),
        (from_adam, torch.optim.Adam([torch.zeros(2)]).state_dict(), "holds no state"),
        (
            from_adam,
            without(adam_dict(), "state", 0, "exp_avg"),
            "parameter 0 must have .* missing: 'exp_avg'",
        ),
        (from_adam, without(adam_dict(), "state", 0, "step"), "missing: 'step'"),
        (from_adam3, without(adam3_dict(), "state", 0, "exp_avg_var"), "missing: 'exp_avg_var'"),
        (from_adam, grouped(adam_dict(), amsgrad=True), "missing: 'max_exp_avg_sq'"),
        (from_adam, adam_dict(mu_product=torch.ones(())), "unknown: 'mu_product'"),
        (from_adam, without(adam_dict(), "param_groups", 0, "betas"), "parameter group 0 has no 'betas'"),
        (from_adam3, without(adam3_dict(), "param_groups", 0, "eps"), "group of parameter 0 has no 'eps'"),
        (from_adam, grouped(adam_dict(), betas=(0.9, 1.0)), r"betas must be in \[0, 1\)"),
        (from_adam, grouped(adam_dict(), maximize=True), "maximize differs for parameter 0"),
        (from_adam, grouped(adam_dict(), param_names=["a", "b"]), "group 0 has 2 param_names for 1 params"),
        (from_adam, adam_dict(exp_avg=torch.zeros(3)), r"'exp_avg' of parameter 0 is .* \(3,\), .* \(2,\)"),
        (from_adam, adam_dict(exp_avg_sq=torch.zeros(2, dtype=torch.complex64)), "'exp_avg_sq' .*complex64 of shape"),
        (from_adam, adam_dict(exp_avg_sq=[0.0, 0.0]), "'exp_avg_sq' of parameter 0 must be a tensor"),
        (
            from_adam,
            adam_dict(exp_avg=torch.tensor([0.0, torch.nan])),
            "'exp_avg' of parameter 0 is not finite",
        ),
        (from_adam3, adam3_dict(exp_avg_var=torch.tensor([0.0, torch.inf])), "'exp_avg_var' .* not finite"),
        (from_adam, adam_dict(step=-1), "'step' of parameter 0 must be a whole number >= 0, got -1"),
        (from_adam, adam_dict(step=torch.tensor(1.5)), "'step' .* got tensor"),
        (from_adam, adam_dict(step=torch.ones(2)), "'step' .* got tensor"),
        (from_adam, adam_dict(step=None), "'step' .* got None"),
        (from_adam, adam_dict(step=float("inf")), "'step' .* got inf"),
    ],
)
def test_what_can_not_be_converted(convert, state_dict, message):
    optimizer = AdaMomentum([torch.zeros(2, dtype=torch.float64, requires_grad=True)])
    with pytest.raises(ValueError, match=message):
        convert(state_dict, optimizer)


def test_wrong_arguments():
    p = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(TypeError, match="optimizer must be an AdaMomentum, got Adam"):
        from_adam(adam_dict(), torch.optim.Adam([p]))
    with pytest.raises(TypeError, match="state_dict must be a mapping, got list"):
        from_adam([], AdaMomentum([p]))
    with pytest.raises(ValueError, match="exp_avg_sq must be 'keep', 'scale' or None, got 'reset'"):
        from_adam(adam_dict(), AdaMomentum([p]), exp_avg_sq="reset")
    with pytest.raises(ValueError, match="complex, which AdaM3 gets wrong"):
        from_adam3(adam3_dict(), AdaMomentum([p.detach().to(torch.complex128).requires_grad_()]))
