"""Half-precision parameters that keep learning: no update is lost, training goes on bit for bit, errors are clear."""

from __future__ import annotations

import copy
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adamomentum import AdaMomentum
from adamomentum.torch import fused_cpu
from adamomentum.torch.precision import dither, round_to_bfloat16
from adamomentum.torch.rounding import narrowed, widened
from adamomentum.torch.state import ROUNDING_STATE

KEPT = ["stochastic", "kahan", "master"]
KINDS = [
    ("stochastic", torch.bfloat16),
    *((r, d) for r in ("kahan", "master") for d in (torch.bfloat16, torch.float16)),
]
HAS_KERNELS = fused_cpu.why_not() is None
PATHS = [{"foreach": False, "fused": False}, *[{"fused": True}] * HAS_KERNELS]
DRAWS = 100_000
SWITCHES = [
    {},
    {"amsgrad": True},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": False},
    {"rectify": True, "maximize": True},
    {"full_bias_correction": True, "eps": 1e-8},
    {"adjust_lr": "match_rms_adamw"},
    {"nesterov": True},
]


def parameters(dtype=torch.bfloat16, sizes=((5, 300), (7,), ())):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in sizes]


def train(params, opt, steps, seed=0):
    """Steps on gradients that are exact in bfloat16, so that every precision sees the same."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).bfloat16().to(p.dtype)
        opt.step()


def assert_same(params, opt, others, other):
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        assert opt.state[p].keys() == other.state[q].keys()
        for key, value in opt.state[p].items():
            assert torch.equal(value, other.state[q][key]), key


@pytest.mark.parametrize("value", [1.0, 1.003, 3e-5, -0.7])
def test_rounding_of_parameters_is_unbiased_over_positions_and_over_steps(value):
    spacing = 2.0 ** (math.floor(math.log2(abs(value))) - 7)
    x = torch.full((DRAWS,), value)
    by_position = dither(DRAWS, 7, "theta", torch.device("cpu"))
    by_step = torch.cat([dither(4, t, "theta", torch.device("cpu"))[3:] for t in range(20_000)])
    for random, bound in ((by_position, 1e-4), (by_step, 1e-3)):
        y = round_to_bfloat16(x[: len(random)], random).double()
        assert ((y - value).abs() < spacing).all()
        assert abs(y.mean() - value) < bound * spacing


@pytest.mark.parametrize("rounding", ["nearest", *KEPT])
def test_updates_far_below_the_spacing_add_up(rounding):
    # Each is a 200th of the spacing of bfloat16 numbers just below 1.
    p = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
    exact = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    opt = AdaMomentum([p], lr=2e-5, rounding=rounding)
    other = AdaMomentum([exact], lr=2e-5)
    for _ in range(2000):
        p.grad, exact.grad = torch.ones_like(p), torch.ones_like(exact)
        opt.step()
        other.step()
    moved = 1 - exact.item()
    assert 10 * 2**-8 < moved < 12 * 2**-8
    mean = 1 - p.double().mean().item()
    if rounding == "nearest":
        assert mean < 0.2 * moved  # the first steps alone are long enough
    else:
        assert abs(mean - moved) < (0.02 * moved if rounding == "stochastic" else 2**-9)


def test_nearest_is_the_default_and_unchanged():
    params, others = parameters(), parameters()
    train(params, AdaMomentum(params, foreach=False, fused=False), 5)
    train(others, AdaMomentum(others, foreach=False, fused=False, rounding="nearest"), 5)
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", SWITCHES)
@pytest.mark.parametrize("path", PATHS)
def test_a_master_is_a_float32_run(path, options, dtype):
    params = parameters(dtype)
    wide = [torch.nn.Parameter(p.detach().float()) for p in params]
    opt = AdaMomentum(params, rounding="master", lr=1e-2, **options, **path)
    other = AdaMomentum(wide, lr=1e-2, **options, **path)
    train(params, opt, 20)
    train(wide, other, 20)
    for p, q in zip(params, wide, strict=True):
        assert torch.equal(opt.state[p]["master"], q)
        assert torch.equal(p, q.to(dtype))
        assert torch.equal(opt.state[p]["exp_avg_sq"], other.state[q]["exp_avg_sq"])


@pytest.mark.skipif(not HAS_KERNELS, reason="no native kernels here")
@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16, "8bit"])
@pytest.mark.parametrize(("rounding", "dtype"), KINDS)
def test_kernels_round_as_the_for_loop_does(rounding, dtype, state_dtype):
    layouts = (torch.contiguous_format, torch.channels_last)
    differ, total, kept = 0, 0, ROUNDING_STATE.get(rounding)
    for options in [o for o in SWITCHES if not (state_dtype and o.get("amsgrad"))]:
        params, others = (
            [
                *parameters(dtype, ((70_001,), (255,), (), (0,))),
                *(p.detach().to(memory_format=form) for p in parameters(dtype, ((4, 5, 6, 7),)) for form in layouts),
            ]
            for _ in range(2)
        )
        how = {"rounding": rounding, "state_dtype": state_dtype, "lr": 1e-2, **options}
        opt = AdaMomentum(params, fused=True, **how)
        other = AdaMomentum(others, foreach=False, fused=False, **how)
        for t in range(8):  # rectify takes its other branch from step 6
            train(params, opt, 1, seed=t)
            train(others, other, 1, seed=t)
            for p, q in zip(params, others, strict=True):
                differ += int((p != q).sum())  # where the last bit of float32 arithmetic tips a rounding
                total += p.numel()
                torch.testing.assert_close(p, q, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
                if kept == "master":
                    torch.testing.assert_close(opt.state[p][kept], other.state[q][kept], rtol=1e-6, atol=1e-7)
                with torch.no_grad():
                    q.copy_(p)
                for key, value in opt.state[p].items():
                    other.state[q][key].copy_(value)
    assert differ <= 1e-4 * total


@pytest.mark.skipif(not HAS_KERNELS, reason="no native kernels here")
@pytest.mark.parametrize(("rounding", "dtype"), KINDS)
def test_kernels_take_every_rounding(monkeypatch, rounding, dtype):
    taken = []
    run = fused_cpu.run
    monkeypatch.setattr(fused_cpu, "run", lambda batch, rule: (taken.append(len(batch)), run(batch, rule)))
    for state_dtype in (None, torch.bfloat16, "8bit"):
        params = parameters(dtype)
        train(params, AdaMomentum(params, rounding=rounding, state_dtype=state_dtype), 2)
    assert taken == [3] * 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", SWITCHES)
def test_kahan_follows_a_float32_run(options, dtype):
    params = parameters(dtype)
    wide = [torch.nn.Parameter(p.detach().float()) for p in params]
    opt = AdaMomentum(params, rounding="kahan", lr=1e-2, **options)
    other = AdaMomentum(wide, foreach=False, fused=False, lr=1e-2, **options)
    train(params, opt, 20)
    train(wide, other, 20)
    for p, q in zip(params, wide, strict=True):
        # Twice 8 bits of mantissa, or 11 more for float16; 20 steps, and L2 decay feeds the error back.
        torch.testing.assert_close(
            widened(p, opt.state[p]["compensation"], "kahan"), q, rtol=40 * 2**-17, atol=40 * 2**-20
        )


@pytest.mark.parametrize("options", SWITCHES)
def test_stochastic_rounding_follows_a_float32_run_on_average(options):
    p = torch.nn.Parameter(torch.full((20_000,), 0.7).bfloat16())
    q = torch.nn.Parameter(p.detach()[:1].float())
    opt, other = (AdaMomentum([x], rounding="stochastic", lr=1e-4, **options) for x in (p, q))
    for t in range(60):
        for x in (p, q):
            x.grad = torch.full_like(x, 1.0 if t % 3 else -0.5)
        opt.step()
        other.step()
    assert p.double().mean().item() == pytest.approx(q.item(), abs=2e-5)
    assert p.double().std() > 1e-4


@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16, "8bit"])
@pytest.mark.parametrize("rounding", KEPT)
def test_resume_and_copies_are_bitwise(rounding, state_dtype):
    params = parameters()
    opt = AdaMomentum(params, rounding=rounding, state_dtype=state_dtype, weight_decay=0.1, lr=1e-3)
    train(params, opt, 5)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = AdaMomentum(others, lr=0.5)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(params, opt, others, other)
    copied = copy.deepcopy(opt)
    for x in ((params, opt), (others, other), (copied.param_groups[0]["params"], copied)):
        train(*x, 5, seed=1)
    assert_same(params, opt, others, other)
    assert_same(params, opt, copied.param_groups[0]["params"], copied)


@pytest.mark.parametrize(("rounding", "size"), [("nearest", 8), ("stochastic", 8), ("kahan", 10), ("master", 12)])
def test_bytes_of_state(rounding, size):
    p = torch.nn.Parameter(torch.zeros(1000, 100, dtype=torch.bfloat16))
    opt = AdaMomentum([p], rounding=rounding)
    opt.init_state()
    assert sum(t.numel() * t.element_size() for t in opt.state[p].values()) / p.numel() == pytest.approx(size, abs=1e-3)


@pytest.mark.parametrize("rounding", KEPT)
def test_a_parameter_changed_from_outside_is_taken_up(rounding):
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    opt = AdaMomentum([p], rounding=rounding, lr=1e-3)
    train([p], opt, 3)
    before = opt.state[p]["master"][1:].clone() if rounding == "master" else None
    with torch.no_grad():
        p[0] = 5.0
    p.grad = torch.zeros_like(p)
    opt.step()
    assert p[0].item() == pytest.approx(5.0, abs=0.04)
    if before is not None:
        assert torch.allclose(opt.state[p]["master"][1:], before, atol=5e-3)
        assert opt.state[p]["master"][0].item() == pytest.approx(5.0, abs=5e-3)


@pytest.mark.parametrize("rounding", KEPT)
def test_wider_parameters_in_the_same_group_are_left_alone(rounding):
    def made(**options):
        params = [*parameters(), *parameters(torch.float32), torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))]
        opt = AdaMomentum(params, **options)
        train(params, opt, 5)
        return params, opt

    params, opt = made(rounding=rounding)
    plain, _ = made()
    assert all(not (opt.state[p].keys() & set(ROUNDING_STATE.values())) for p in params[3:])
    for p, q in zip(params[3:], plain[3:], strict=True):
        torch.testing.assert_close(p, q)
    assert not torch.equal(params[0], plain[0])


def test_a_mode_can_be_turned_on_later_and_another_one_loaded():
    params = parameters()
    opt = AdaMomentum(params)
    train(params, opt, 3)
    for rounding in ("kahan", "master", "stochastic", "nearest"):
        opt.param_groups[0]["rounding"] = rounding
        train(params, opt, 3)
        saved = copy.deepcopy(opt.state_dict())
        other = AdaMomentum(parameters())
        other.load_state_dict(saved)
        assert other.param_groups[0]["rounding"] == rounding
    older = opt.state_dict()
    del older["param_groups"][0]["rounding"]  # written before there was such an option
    opt.load_state_dict(older)
    assert opt.param_groups[0]["rounding"] == "nearest"


@pytest.mark.parametrize("rounding", KEPT)
def test_layouts_and_capturable(rounding):
    dense = torch.nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).bfloat16())
    turned = torch.nn.Parameter(dense.detach().t().contiguous().t())
    every_other = torch.nn.Parameter(torch.cat([dense.detach(), dense.detach()], 1)[:, :4])
    assert not turned.is_contiguous() and not every_other.is_contiguous()
    for p in (dense, turned, every_other):
        opt = AdaMomentum([p], rounding=rounding, lr=1e-2, capturable=p is every_other)
        train([p], opt, 4)
    if rounding != "stochastic":  # its random numbers go by the place in memory
        assert torch.equal(dense, turned)
        assert torch.equal(dense, every_other)
    else:
        torch.testing.assert_close(dense, turned, rtol=0.02, atol=0.02)
        torch.testing.assert_close(dense, every_other, rtol=0.02, atol=0.02)


def test_errors_come_early():
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="must be one of 'nearest', 'stochastic', 'kahan', 'master', got 'up'"):
        AdaMomentum([p], rounding="up")
    with pytest.raises(ValueError, match="foreach=True does not go with rounding='kahan': the foreach path rounds"):
        AdaMomentum([p], rounding="kahan", foreach=True)
    with pytest.raises(ValueError, match="differentiable=True does not go with rounding='master'"):
        AdaMomentum([p], rounding="master", differentiable=True)
    half = torch.nn.Parameter(torch.zeros(2, dtype=torch.float16))
    with pytest.raises(TypeError, match="must not be float16 with rounding='stochastic', which is"):
        AdaMomentum([half], rounding="stochastic")
    opt = AdaMomentum([p], rounding="kahan")
    train([p], opt, 1)
    saved = opt.state_dict()
    saved["state"][0]["compensation"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"state 0, 'compensation' must be a dense real.*shape \(2,\)"):
        AdaMomentum([p], rounding="kahan").load_state_dict(saved)
    opt.state[p]["compensation"] = torch.zeros(3)
    p.grad = torch.zeros_like(p)
    with pytest.raises(ValueError, match="no longer fits its parameter: 'compensation'"):
        opt.step()


@pytest.mark.slow
def test_a_bfloat16_language_model_learns_as_a_float32_one(tmp_path):
    pytest.importorskip("pandas", reason="needs the study extra")
    script = Path(__file__).parents[2] / "benchmarks" / "bf16_parameters.py"
    file = tmp_path / "found.json"
    # Small: without instructions for it, bfloat16 is ten times as slow as float32.
    small = ["--seeds", "1", "--steps", "200", "--units", "48", "--streams", "6"]
    subprocess.run([sys.executable, script, *small, "--json", file], check=True)
    found = json.loads(file.read_text())
    for rounding in KEPT:
        ours = found[f"bfloat16, {rounding}"]
        assert max(map(abs, ours["difference"])) < 0.002
        assert ours["curve"] < 0.003
    nearest = found["bfloat16, nearest"]  # what the others are for
    assert min(nearest["difference"]) > 0.004
    assert nearest["curve"] > 0.004


CHANGES = {
    "zeros": torch.zeros_like,
    "other weights": lambda p: torch.randn(p.shape, generator=torch.Generator().manual_seed(9)).to(p.dtype),
    "a half of them": lambda p: torch.where(torch.arange(p.numel()) % 2 == 0, p, -3 * p),
    "their neighbours": lambda p: torch.nextafter(p, torch.full_like(p, 9)),
    "half as large": lambda p: p / 2,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rounding", ["kahan", "master"])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_set_from_outside_are_taken_up_exactly(change, rounding, dtype):
    [p] = parameters(dtype, [(20_000,)])
    opt = AdaMomentum([p], lr=1e-2, rounding=rounding)
    train([p], opt, 20)
    with torch.no_grad():
        p.copy_(CHANGES[change](p.detach()))
    loaded = p.detach().clone()
    opt.param_groups[0]["lr"] = 0.0
    train([p], opt, 3)
    assert torch.equal(p, loaded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_kahan_keeps_is_never_taken_for_a_change(dtype):
    # A compensation is rounded itself, and may then be half a spacing exactly: a tie, which can round away from p.
    theta = torch.linspace(1, 2, 1_000_001)
    p, lost = torch.empty_like(theta, dtype=dtype), torch.empty_like(theta, dtype=dtype)
    narrowed(theta.clone(), p, lost, "kahan", 1)
    spacing = torch.finfo(dtype).eps
    assert ((widened(p, lost, "kahan") - theta).abs() <= 2**-8 * spacing).all()
