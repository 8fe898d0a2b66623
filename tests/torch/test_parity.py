"""Every path against the reference, parameters and state, in lockstep."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lockstep import GRADIENTS, PATHS, SWITCHES, WRONG_MEANS, Lockstep

from adamomentum import reference
from adamomentum.torch import foreach, scalars
from adamomentum.torch.functional import adamomentum

SHAPES = [(4, 3), ()]
# The default path is one of them: which one, tests/torch/test_generic.py says.
DISTINCT = [name for name in PATHS if name != "default"]


def each_kind_of_gradients(switches, path, dtype=torch.float64):
    """An optimizer with parameters of both shapes for every kind of gradients, and what makes their gradients."""
    # 1e20 squared overflows float32.
    kinds = [kind for kind in GRADIENTS if dtype == torch.float64 or kind != "huge"]
    # Tiny gradients would not move parameters of size 1 at all.
    starts = [0.0 if kind == "tiny" else 1.0 for kind in kinds for _ in SHAPES]
    run = Lockstep(SHAPES * len(kinds), SWITCHES[switches], PATHS[path], start=starts, dtype=dtype)
    return run, lambda t: [GRADIENTS[kind](run.rng, shape, t) for kind in kinds for shape in SHAPES]


@pytest.mark.parametrize("path", DISTINCT)
@pytest.mark.parametrize("switches", SWITCHES)
def test_float64_to_1e_12(path, switches):
    run, gradients = each_kind_of_gradients(switches, path)
    for t in range(60):
        run.step(gradients(t))
        if t < 10 or t % 10 == 9:
            run.check(1e-12)


@pytest.mark.parametrize("switches", ["drop-in", "drop-in-momentum"])
@pytest.mark.parametrize("path", ["for-loop", "foreach-capturable"])
@pytest.mark.parametrize("wrong", WRONG_MEANS)
def test_a_wrong_mean_in_noise_shows(monkeypatch, wrong, path, switches):
    mean = WRONG_MEANS[wrong]
    monkeypatch.setattr(scalars, "white_noise_mean_at", lambda t, betas, **how: mean(t, *betas, **how))
    monkeypatch.setattr(scalars, "white_noise_mean", lambda t, b1, b2, *_, **how: mean(t, b1, b2, **how))
    run, gradients = each_kind_of_gradients(switches, path)
    with pytest.raises(AssertionError, match="parameter 0 at step 1"):
        run.step(gradients(0))
        run.check(1e-12)


@pytest.mark.parametrize("path", DISTINCT)
@pytest.mark.parametrize("switches", SWITCHES)
def test_float32_to_1e_5(path, switches):
    run, gradients = each_kind_of_gradients(switches, path, torch.float32)
    for t in range(60):
        # The moments run freely; the parameters start each step together, since L2 decay feeds their rounding back.
        run.theta = [p.detach().double().numpy().copy() for p in run.params]
        run.step(gradients(t))
        if t < 10 or t % 10 == 9:
            run.check(1e-5)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=4).map(tuple), min_size=1, max_size=4),
    options=st.fixed_dictionaries(
        {
            "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
            "eps": st.floats(1e-30, 1.0),
            "weight_decay": st.sampled_from([0.0, 1e-4, 0.5]),
            "amsgrad": st.booleans(),
            "rectify": st.booleans(),
            "maximize": st.booleans(),
        }
    ),
    form=st.sampled_from(
        [
            {},
            {"full_bias_correction": True},
            *(
                {"adjust_lr": adjust, "second_moment": second_moment, "nesterov": nesterov}
                for adjust in (None, "match_rms_adamw")
                for second_moment in ("momentum", "lookahead")
                for nesterov in (False, True)
            ),
        ]
    ),
    decay=st.sampled_from([{}, {"fixed_decay": True}, {"decoupled_weight_decay": False}]),
    path=st.sampled_from(sorted(PATHS)),
    lr=st.floats(1e-6, 0.5),
    scale=st.floats(-12, 6).map(lambda x: 10**x),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_and_hyperparameter(shapes, options, form, decay, path, lr, scale, seed):
    run = Lockstep(shapes, {**options, **form, **decay}, PATHS[path], lr=lr, seed=seed)
    for _ in range(12):
        run.step([scale * run.rng.standard_normal(shape) for shape in shapes])
        run.check(1e-11)


@pytest.mark.parametrize("limit", [1, 5, 7, 64])
def test_foreach_chunks_do_not_change_the_numbers(monkeypatch, limit):
    # Shapes that are split along each dimension, joined with others, and neither.
    shapes = [(3, 5), (40,), (2, 3, 4), (), (1, 17), (0,), (6,)]
    monkeypatch.setitem(foreach.CHUNK_ELEMENTS, "cpu", limit)
    run = Lockstep(shapes, SWITCHES["all"], PATHS["foreach"])
    for _ in range(20):
        run.step([run.rng.standard_normal(shape) for shape in shapes])
        run.check(1e-12)


@pytest.mark.parametrize("switches", ["plain", "drop-in"])
@pytest.mark.parametrize("path", PATHS)
def test_hyperparameters_that_change_every_step(path, switches):
    run = Lockstep(SHAPES, SWITCHES[switches], PATHS[path])
    for t in range(100):
        run.options.update(lr=0.1 / (t + 1), betas=(0.95 - 0.3 * abs(t - 50) / 50, 0.999), weight_decay=0.01 * (t % 3))
        run.opt.param_groups[0].update(run.options)
        run.step([run.rng.standard_normal(shape) for shape in SHAPES])
        run.check(1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("switches", ["plain", "drop-in"])
def test_tensor_hyperparameters(path, dtype, switches):
    lr, beta1, beta2 = (torch.tensor([[x]], dtype=dtype) for x in (0.01, 0.875, 0.984375))
    run = Lockstep(SHAPES, {**SWITCHES[switches], "betas": (0.875, 0.984375)}, PATHS[path], lr=float(lr))
    run.opt.param_groups[0].update(lr=lr, betas=(beta1, beta2))
    for t in range(30):
        lr.fill_(0.5 ** (t % 4))
        run.options["lr"] = 0.5 ** (t % 4)
        run.step([run.rng.standard_normal(shape) for shape in SHAPES])
        run.check(1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_a_state_goes_on_under_the_drop_ins_switches(path):
    # As one from a checkpoint that was written without them: v is what it was, and is divided by another number.
    run = Lockstep(SHAPES, {}, PATHS[path])
    for form in ({}, {"adjust_lr": "match_rms_adamw"}, {"adjust_lr": None, "nesterov": True}):
        run.options.update(form)
        run.opt.param_groups[0].update(form)
        for _ in range(10):
            run.step([run.rng.standard_normal(shape) for shape in SHAPES])
            run.check(1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("switches", SWITCHES)
def test_the_functional_form(switches, path):
    run = Lockstep(SHAPES, SWITCHES[switches], PATHS[path])
    options = {"eps": 1e-16, "weight_decay": 0.0, **run.options, **PATHS[path]}
    beta1, beta2 = options.pop("betas", (0.9, 0.999))
    moments = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    for p in run.params:
        run.opt.state[p].update({key: torch.zeros_like(p) for key in moments}, step=torch.zeros((), dtype=p.dtype))
    columns = [[run.opt.state[p][key] for p in run.params] for key in (*moments, "step")]

    def step():
        adamomentum(run.params, [p.grad for p in run.params], *columns, beta1=beta1, beta2=beta2, **options)

    run.opt.step = step
    for _ in range(10):
        run.step([run.rng.standard_normal(shape) for shape in SHAPES])
        run.check(1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("switches", ["plain", "amsgrad", "l2", "all"])
def test_complex_is_two_real_parameters(path, dtype, switches):
    torch.manual_seed(0)
    p = torch.randn(3, 4, dtype=dtype)
    run = Lockstep([(3, 4, 2)], SWITCHES[switches], PATHS[path])
    run.theta = [torch.view_as_real(p).double().numpy().copy()]
    opt = type(run.opt)([p], **run.options, **PATHS[path])
    for _ in range(20):
        g = run.rng.standard_normal((3, 4, 2)).astype(np.float32).astype(np.float64)
        p.grad = torch.view_as_complex(torch.tensor(g)).to(dtype).conj().resolve_conj().conj()  # lazily conjugated
        run.theta[0], run.states[0] = reference.step(run.theta[0], g, run.states[0], **run.options)
        opt.step()
    rtol = 1e-12 if dtype == torch.complex128 else 1e-5
    np.testing.assert_allclose(torch.view_as_real(p).detach().numpy(), run.theta[0], rtol=rtol, atol=rtol)
    m = torch.view_as_real(opt.state[p]["exp_avg"]).detach().numpy()
    np.testing.assert_allclose(m, run.states[0].m, rtol=rtol, atol=rtol)


HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("path", ["for-loop", "foreach", "for-loop-capturable", "foreach-capturable"])
def test_half_precision_parameters_are_rounded_once(dtype, switches, path):
    # From the same parameter and state, one step equals the reference's, rounded to the nearest half-precision number.
    run = Lockstep([(64,)], SWITCHES[switches], PATHS[path], dtype=dtype)
    (p,) = run.params
    for t in range(20):
        run.theta[0] = p.double().numpy().copy()
        run.step([run.rng.standard_normal((64,)) * 10.0 ** (t % 5 - 3)])
        exact = torch.tensor(run.theta[0])
        binade = 2.0 ** torch.floor(torch.log2(exact.abs()))
        spacing = torch.finfo(dtype).eps * binade.clamp(min=torch.finfo(dtype).smallest_normal)
        assert ((p.double() - exact).abs() <= 0.51 * spacing).all()
        assert run.opt.state[p]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("path", ["for-loop", "foreach"])
def test_half_precision_stays_finite(dtype, switches, path):
    scales = (0.0, 1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e3)
    run = Lockstep([(50,)] * len(scales), SWITCHES[switches], PATHS[path], lr=1e-3, dtype=dtype)
    for t in range(30):
        run.step([scale * run.rng.standard_normal((50,)) * (t % 7 != 3) for scale in scales])
        for scale, p in zip(scales, run.params, strict=True):
            assert p.isfinite().all(), scale
            assert all(value.isfinite().all() for value in run.opt.state[p].values()), scale


@pytest.mark.parametrize("foreach_path", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.float64])
def test_state_dtype(foreach_path, dtype, state_dtype):
    options = {**SWITCHES["all"], "state_dtype": state_dtype}
    p = torch.ones(10, dtype=dtype)
    opt = type(Lockstep([()], {}, {}).opt)([p], foreach=foreach_path, **options)
    theta, state = np.ones(10), reference.State.zeros(np.ones(10))
    for t in range(20):
        g = np.linspace(-1, 1, 10).astype(np.float16) * (1 + t)
        p.grad = torch.tensor(g, dtype=dtype)
        opt.step()
        theta, state = reference.step(theta, g, state, **SWITCHES["all"])
    assert {opt.state[p][key].dtype for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")} == {state_dtype}
    exact = dtype == state_dtype == torch.float64
    np.testing.assert_allclose(opt.state[p]["exp_avg"], state.m, rtol=1e-12 if exact else 1e-5, atol=1e-7)
    tolerance = {torch.float16: 5e-3, torch.float32: 1e-5, torch.float64: 1e-12 if exact else 1e-5}[dtype]
    np.testing.assert_allclose(p.double(), theta, rtol=tolerance)
