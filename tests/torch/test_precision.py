"""Moments in bfloat16 and 8 bits: rounded without bias, stored as specified, and training that does not notice."""

import copy
import io

import pytest
import torch
from lockstep import SWITCHES

from adamomentum import AdaMomentum
from adamomentum.torch import fused_cpu, precision
from adamomentum.torch.precision import decode_m, decode_v, dither, encode_m, encode_v, round_to_bfloat16

CPU = torch.device("cpu")
REDUCED = [torch.bfloat16, "8bit"]
DRAWS = 100_000
PATHS = [{"foreach": False}, {"fused": True}] if fused_cpu.why_not() is None else [{"foreach": False}]


def spread_out(n, seed=0):
    """Numbers of many sizes, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator) * 10 ** (3 * torch.rand(n, generator=generator) - 3)


# ---- rounding ----


@pytest.mark.parametrize("value", [1.0, 1.003, 3e-5, -0.7, 1e-30])
def test_bfloat16_rounding_is_unbiased(value):
    x = torch.full((DRAWS,), value)
    for moment in ("m", "v"):
        y = round_to_bfloat16(x, dither(DRAWS, 7, moment, CPU)).double()
        spacing = abs(value) * 2**-7
        assert ((y - value).abs() < spacing).all()
        assert abs(y.mean() - value) < 1e-4 * spacing + 1e-40


@pytest.mark.parametrize(("encode", "decode", "moment"), [(encode_m, decode_m, "m"), (encode_v, decode_v, "v")])
def test_codes_are_unbiased(encode, decode, moment):
    x = spread_out(256) if moment == "m" else spread_out(256).square()
    total = torch.zeros(256, dtype=torch.float64)
    for t in range(1, DRAWS // 256 * 8):
        total += decode(*encode(x, dither(256, t, moment, CPU)))
    mean = total / (DRAWS // 256 * 8 - 1)
    low = x.abs().max() * (2**-16 if moment == "m" else 2**-30)
    inside = x.abs() > low
    assert inside.sum() > 200
    assert ((mean - x).abs()[inside] <= 1e-3 * x.abs()[inside]).all()


def test_random_bits_are_uniform_over_positions_and_over_steps():
    for moment in "mv":
        for bits in (dither(DRAWS, 3, moment, CPU), torch.cat([dither(3, t, moment, CPU)[2:] for t in range(4000)])):
            shares = torch.bincount((bits >> 28) + 8, minlength=16).double() / len(bits)
            torch.testing.assert_close(shares, torch.full((16,), 1 / 16, dtype=torch.float64), rtol=0, atol=3e-3)
    m, v = (dither(DRAWS, 3, moment, CPU).double() for moment in "mv")
    assert not torch.equal(m, v)


def test_the_step_may_be_a_tensor():
    for t in (1, 1000, 2**24 - 1):
        assert torch.equal(dither(50, t, "m", CPU), dither(50, torch.tensor(float(t)), "m", CPU))


@pytest.mark.parametrize(
    ("encode", "decode", "exponent"),
    [(encode_m, decode_m, e) for e in (16, 17, 100, 254)] + [(encode_v, decode_v, e) for e in (32, 33, 100, 254)],
)
@pytest.mark.parametrize("random", [0, -1])
def test_every_code_is_kept(encode, decode, exponent, random):
    codes, scale = torch.arange(256, dtype=torch.uint8), torch.tensor([exponent], dtype=torch.uint8)
    again = encode(decode(codes, scale), torch.full((256,), random, dtype=torch.int32))
    assert torch.equal(again[0], codes)
    assert torch.equal(again[1], scale)


def test_format_as_documented():
    scale = torch.tensor([127], dtype=torch.uint8)
    m = decode_m(torch.arange(128, dtype=torch.uint8), scale)
    low = 2.0 ** (127 - 141)
    expected = [k / 8 * low for k in range(8)] + [(1 + f / 8) * low * 2**e for e in range(15) for f in range(8)]
    assert m.tolist() == expected
    v = decode_v(torch.arange(256, dtype=torch.uint8), scale)
    assert v.tolist() == [(1 + f / 8) * 2.0 ** (127 - 158 + e) for e in range(32) for f in range(8)]


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_shows_in_its_block(bad):
    x = torch.ones(600)
    x[300] = bad
    m, v = decode_m(*encode_m(x, dither(600, 1, "m", CPU))), decode_v(*encode_v(x.abs(), dither(600, 1, "v", CPU)))
    for y in (m, v):
        assert y[256:512].isnan().all()
        assert y[:256].isfinite().all() and y[512:].isfinite().all()
    assert str(round_to_bfloat16(x, dither(600, 1, "m", CPU))[300].float()) == str(x[300])


# ---- the optimizer ----


def parameters(dtype=torch.float32, shapes=((300, 5), (), (0,), (7,), (256,), (2, 3, 4, 5))):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    if len(shapes) > 5:
        params[5] = torch.nn.Parameter(params[5].detach().to(memory_format=torch.channels_last))
    return params


def train(params, opt, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
        opt.step()


def assert_same(params, opt, others, other):
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        torch.testing.assert_close(dict(opt.state[p]), dict(other.state[q]), rtol=0, atol=0)


def decoded(opt, p):
    state = opt.state[p]
    return [precision.unpack(state[k], state.get(f"{k}_scale"), m) for k, m in (("exp_avg", "m"), ("exp_avg_sq", "v"))]


@pytest.mark.skipif(len(PATHS) < 2, reason="no native kernels here")
@pytest.mark.parametrize("state_dtype", REDUCED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("switches", sorted(k for k, v in SWITCHES.items() if not v.get("amsgrad")))
def test_kernels_store_what_the_for_loop_stores(switches, dtype, state_dtype):
    ours, theirs = parameters(dtype), parameters(dtype)
    opt = AdaMomentum(ours, fused=True, state_dtype=state_dtype, **SWITCHES[switches])
    other = AdaMomentum(theirs, foreach=False, state_dtype=state_dtype, **SWITCHES[switches])
    differ = total = 0
    for t in range(10):  # rectify takes its other branch from step 6
        train(ours, opt, 1, seed=t)
        train(theirs, other, 1, seed=t)
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=2 * torch.finfo(dtype).eps + 1e-5, atol=1e-6)
            relative = 0.13 if state_dtype == "8bit" else 2**-7
            for a, b, atol in zip(decoded(opt, p), decoded(other, q), (1e-6, 1e-12), strict=True):
                torch.testing.assert_close(a, b, rtol=relative, atol=atol)
            for key in ("exp_avg", "exp_avg_sq"):
                # The last bit of float32 arithmetic may tip a rounding, and only that.
                differ += (opt.state[p][key] != other.state[q][key]).sum().item()
                total += p.numel()
            for key, value in opt.state[p].items():
                other.state[q][key].copy_(value)
            with torch.no_grad():
                q.copy_(p)
    assert differ <= 5e-3 * total


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("state_dtype", REDUCED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_resume_is_bitwise(path, state_dtype, dtype):
    params = parameters(dtype)
    opt = AdaMomentum(params, state_dtype=state_dtype, weight_decay=0.1, **path)
    train(params, opt, 5)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = AdaMomentum(others, lr=0.5)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(params, opt, others, other)
    train(params, opt, 5, seed=1)
    train(others, other, 5, seed=1)
    assert_same(params, opt, others, other)
    copied = copy.deepcopy(opt)
    train(params, opt, 2, seed=2)
    train(copied.param_groups[0]["params"], copied, 2, seed=2)
    assert_same(params, opt, copied.param_groups[0]["params"], copied)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("state_dtype", REDUCED)
def test_runs_repeat(path, state_dtype):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.rand(3)
        params = parameters()
        opt = AdaMomentum(params, state_dtype=state_dtype, **path)
        torch.manual_seed(seed)
        train(params, opt, 5)
        runs.append((params, opt))
    assert_same(*runs[0], *runs[1])


@pytest.mark.parametrize("state_dtype", REDUCED)
def test_bytes_of_state(state_dtype):
    p = torch.nn.Parameter(torch.zeros(1000, 1000))
    opt = AdaMomentum([p], state_dtype=state_dtype)
    opt.init_state()
    size = sum(t.numel() * t.element_size() for t in opt.state[p].values()) / p.numel()
    assert size <= (2.1 if state_dtype == "8bit" else 4.0001)
    assert {t.dtype for k, t in opt.state[p].items() if k != "step"} == {
        torch.uint8 if state_dtype == "8bit" else torch.bfloat16
    }


@pytest.mark.parametrize("state_dtype", REDUCED)
@pytest.mark.parametrize("saved_dtype", [None, torch.float64])
def test_wider_state_is_converted_on_load(state_dtype, saved_dtype):
    params = parameters()
    opt = AdaMomentum(params, state_dtype=saved_dtype)
    train(params, opt, 3)
    saved = opt.state_dict()
    saved["param_groups"][0]["state_dtype"] = state_dtype
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = AdaMomentum(others)
    other.load_state_dict(saved)
    for p, q in zip(params, others, strict=True):
        m, v = decoded(other, q)
        relative = 0.13 if state_dtype == "8bit" else 2**-7
        torch.testing.assert_close(m, opt.state[p]["exp_avg"].float(), rtol=relative, atol=1e-4)
        torch.testing.assert_close(v, opt.state[p]["exp_avg_sq"].float(), rtol=relative, atol=1e-9)
    train(others, other, 2)


def test_import_from_adam_into_reduced_state():
    from adamomentum.torch import from_adam

    params = parameters()
    adam = torch.optim.AdamW(params)
    train(params, adam, 3)
    for state_dtype in REDUCED:
        opt = AdaMomentum(params, state_dtype=state_dtype)
        opt.load_state_dict(from_adam(adam.state_dict(), opt))
        torch.testing.assert_close(
            decoded(opt, params[0])[1], adam.state[params[0]]["exp_avg_sq"], rtol=0.13, atol=1e-9
        )


def test_codes_of_another_size_are_refused():
    p = torch.nn.Parameter(torch.zeros(600))
    opt = AdaMomentum([p], state_dtype="8bit")
    train([p], opt, 1)
    saved = opt.state_dict()
    saved["state"][0]["exp_avg_scale"] = torch.zeros(2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"'exp_avg_scale' must be a torch.uint8 tensor of shape \(3,\)"):
        opt.load_state_dict(saved)


def test_codes_that_a_loader_cast_to_floats_are_refused():
    p = torch.nn.Parameter(torch.randn(600))
    opt = AdaMomentum([p], state_dtype="8bit")
    train([p], opt, 1)
    saved = opt.state_dict()
    state = {k: v.float() for k, v in saved["state"][0].items() if not k.endswith("scale")}
    with pytest.raises(ValueError, match="'exp_avg' looks like 8-bit codes that were cast to"):
        opt.load_state_dict({**saved, "state": {0: state}})


def test_complex_parameters_are_refused():
    for state_dtype in REDUCED:
        with pytest.raises(TypeError, match="params must be real with state_dtype"):
            AdaMomentum([torch.zeros(2, dtype=torch.complex64)], state_dtype=state_dtype)


@pytest.mark.parametrize("state_dtype", REDUCED)
def test_compiled_and_capturable(state_dtype):
    params, others = parameters(), parameters()
    opt = AdaMomentum(params, state_dtype=state_dtype, capturable=True, foreach=False)
    other = AdaMomentum(others, state_dtype=state_dtype, foreach=False)
    step = torch.compile(opt.step, backend="eager")
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for p, q in zip(params, others, strict=True):
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
            q.grad = p.grad.clone()
        step()
        other.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("state_dtype", REDUCED)
def test_a_nan_gradient_shows(path, state_dtype):
    p = torch.nn.Parameter(torch.zeros(600))
    opt = AdaMomentum([p], state_dtype=state_dtype, **path)
    train([p], opt, 1)
    p.grad[300] = torch.nan
    opt.step()
    assert p[300].isnan()
    assert p[:256].isfinite().all() and p[512:].isfinite().all()
    p.grad = torch.ones(600)
    opt.step()
    assert p[256:512].isnan().all() == (state_dtype == "8bit")


def travel_error(steps, drop, size=4096, **options):
    """How far training with reduced moments leads from where float32 leads, over how far that is from the start."""
    generator = torch.Generator().manual_seed(1)
    scale = 10 ** (3 * torch.rand(size, generator=generator) - 3)
    mean = scale * 0.1 * torch.randn(size, generator=generator)
    p, exact = torch.nn.Parameter(torch.zeros(size)), torch.nn.Parameter(torch.zeros(size))
    opt, other = AdaMomentum([p], **options), AdaMomentum([exact])
    for t in range(steps):
        p.grad = (mean + scale * torch.randn(size, generator=generator)) * (0.1 if t >= drop else 1)
        exact.grad = p.grad
        opt.step()
        other.step()
    return ((p - exact).norm() / exact.norm()).item()


@pytest.mark.skipif(len(PATHS) < 2, reason="takes long without the native kernels")
@pytest.mark.parametrize(("state_dtype", "limit"), [(torch.bfloat16, 0.01), ("8bit", 0.05)])
def test_travel_over_3000_steps_with_a_drop_of_the_gradients(state_dtype, limit):
    # A block holds gradients from 1e-3 to 1; after the drop v has to fall by a factor of 100.
    assert travel_error(3000, 1500, state_dtype=state_dtype) < limit


def test_why_v_is_not_rounded_to_nearest():
    v = torch.ones(1, dtype=torch.bfloat16)
    nearest, random = v.clone(), v.clone()
    for t in range(1, 3001):
        nearest = (nearest.float() * 0.999).bfloat16()
        random = round_to_bfloat16(random.float() * 0.999, dither(1, t, "v", CPU))
    assert nearest == 1
    assert 0.045 < random < 0.055
