"""The Triton kernel in Triton's interpreter, on the CPU. test_fused_cuda.py runs this file in a process of its own."""

import os

import pytest
import torch
from fused_steps import Compared, FusedCuda, rule_of
from lockstep import GRADIENTS, SWITCHES, Lockstep

from adamomentum import AdaMomentum, reference
from adamomentum.torch import fused_cuda, release_gradients
from adamomentum.torch.fused_cuda import fused_cuda_update, why_not, why_not_update
from adamomentum.torch.precision import dither, encode_m, encode_v, round_to_bfloat16
from adamomentum.torch.scalars import ENTRY, MATRIX_COLUMNS, numbers_matrix
from adamomentum.torch.state import CODED, SCALES, scale_of

pytest.importorskip("triton")
assert os.environ.get("TRITON_INTERPRET") == "1", "run test_fused_cuda.py instead"

SIZES = [(0,), (1,), (255,), (256,), (257,), (1000,), (5000,)]
STATES = [torch.float32, torch.bfloat16, torch.uint8, (torch.float32, torch.uint8), (torch.uint8, torch.bfloat16)]
CPU = torch.device("cpu")


def lockstep(shapes, options, dtype=torch.float32, **kwargs):
    run = Lockstep(shapes, options, {}, dtype=dtype, **kwargs)
    run.opt = FusedCuda(run.params, **run.options)
    return run


def test_it_is_available():
    assert why_not() is None


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("gradients", ["noise", "tiny", "sparse"])
def test_float32_to_1e_5_of_the_reference(switches, gradients):
    shapes = [(4, 3), (), (300,)]
    run = lockstep(shapes, SWITCHES[switches], start=0.0 if gradients == "tiny" else 1.0)
    for _ in range(5 if gradients == "tiny" else 25):
        run.theta = [p.double().numpy().copy() for p in run.params]
        run.step([GRADIENTS[gradients](run.rng, shape, run.states[0].step) for shape in shapes])
        run.check(1e-5)


def test_many_tensors_of_odd_sizes():
    run = lockstep(SIZES * 2, SWITCHES["all"])
    for _ in range(8):
        run.theta = [p.double().numpy().copy() for p in run.params]
        run.step([run.rng.standard_normal(shape) for shape in SIZES * 2])
        run.check(1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("switches", ["plain", "l2", "all"])
def test_half_precision_parameters_are_rounded_once(dtype, switches):
    run = lockstep([(300,)], SWITCHES[switches], dtype)
    (p,) = run.params
    for t in range(25):
        run.theta[0] = p.double().numpy().copy()
        run.step([run.rng.standard_normal((300,)) * 10.0 ** (t % 5 - 3)])
        exact = torch.tensor(run.theta[0])
        binade = 2.0 ** torch.floor(torch.log2(exact.abs()))
        spacing = torch.finfo(dtype).eps * binade.clamp(min=torch.finfo(dtype).smallest_normal)
        assert ((p.double() - exact).abs() <= 0.51 * spacing).all()


def expected_step(opt, i, g, t):
    """Parameter and stored moments after a step, from precision.py and the rule written out."""
    p = opt.params[i]
    m, v = opt.moments(i)
    [numbers] = numbers_matrix([torch.tensor(float(t))], rule_of(**opt.options), CPU)
    n = dict(zip(MATRIX_COLUMNS, numbers, strict=True))
    m = m + n["m_weight"] * (g.float() - m)
    v = (v - v * n["v_decay"]) + n["v_weight"] * m * m
    theta = p.float() * n["shrink"] + n["factor"] * (m / (v + n["eps_sum"]).sqrt() if n["adapt"] else m)
    stored = {}
    for x, (key, moment), encode in zip((m, v), CODED, (encode_m, encode_v), strict=True):
        dtype, random = opt.state[p][key].dtype, dither(p.numel(), t, moment, CPU)
        if dtype == torch.uint8:
            stored[key], stored[scale_of(key)] = encode(x, random)
        else:
            stored[key] = round_to_bfloat16(x, random) if dtype == torch.bfloat16 else x
    return theta.to(p.dtype), stored


def as_codes(t):
    return t.view(torch.int16).int() if t.dtype == torch.bfloat16 else t.int()


@pytest.mark.parametrize(
    ("state_dtype", "dtype", "options", "steps_on_device"),
    [
        (torch.bfloat16, torch.float32, {}, True),
        (torch.bfloat16, torch.bfloat16, {"rectify": True, "weight_decay": 0.1}, False),
        (torch.uint8, torch.float32, {"rectify": True, "weight_decay": 0.1}, False),
        (torch.uint8, torch.bfloat16, {}, True),
        ((torch.float32, torch.uint8), torch.bfloat16, {}, True),
        ((torch.bfloat16, torch.uint8), torch.float32, {"weight_decay": 0.1}, False),
        ((torch.uint8, torch.float32), torch.float32, {}, False),
    ],
)
def test_reduced_state_is_stored_as_specified(monkeypatch, state_dtype, dtype, options, steps_on_device):
    monkeypatch.setattr(fused_cuda, "_steps_on_device", lambda step, device: steps_on_device)
    torch.manual_seed(0)
    opt = FusedCuda([torch.randn(shape).to(dtype) for shape in SIZES], state_dtype, lr=1e-2, **options)
    elements = off_by_one = 0
    for t in range(1, 16):
        for p in opt.params:  # magnitudes far apart within a block, a block of zeros, and a sudden drop
            p.grad = (torch.randn_like(p) * 10 ** torch.empty_like(p).uniform_(-6, 0)) * (1e-3 if t > 10 else 1)
            p.grad[512:768] = 0
        expected = [expected_step(opt, i, p.grad, t) for i, p in enumerate(opt.params)]
        opt.step()
        for p, (theta, stored) in zip(opt.params, expected, strict=True):
            torch.testing.assert_close(p, theta, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-7)
            assert opt.state[p].keys() == {"step", *stored}
            for key, b in stored.items():
                a = opt.state[p][key]
                if a.dtype == torch.float32:
                    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)
                    continue
                if key in SCALES:
                    assert torch.equal(a, b)
                    continue
                difference = (as_codes(a) - as_codes(b)).abs()
                assert not p.numel() or difference.max() <= 1
                elements += p.numel()
                off_by_one += int(difference.sum())
    print(f"{off_by_one} of {elements} codes off by one")
    assert off_by_one < 0.005 * elements


@pytest.mark.parametrize("state_dtype", STATES)
def test_infinity_and_nan_show(state_dtype):
    torch.manual_seed(0)
    p = torch.randn(3000)
    opt = FusedCuda([p], state_dtype)
    for t in range(3):
        p.grad = torch.randn(3000)
        if t == 1:
            p.grad[300], p.grad[2700] = torch.inf, torch.nan
        opt.step()
    spoiled = torch.zeros(3000, dtype=torch.bool)
    spoiled[300] = spoiled[2700] = True
    for x, (key, _) in zip(opt.moments(0), CODED, strict=True):
        if opt.state[p][key].dtype == torch.uint8:  # the whole of blocks 1 and 10; of the second moment in its turn too
            spoiled[256:512] = spoiled[2560:2816] = True
        assert torch.equal(~x.isfinite(), spoiled)
    assert torch.equal(p.isnan(), spoiled)


def test_amsgrad_keeps_nan():
    p = torch.ones(3)
    opt = FusedCuda([p], amsgrad=True)
    p.grad = torch.tensor([1.0, torch.nan, 1.0])
    opt.step()
    assert opt.state[p]["max_exp_avg_sq"].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("state_dtype", STATES)
def test_found_inf_leaves_everything_alone(state_dtype):
    torch.manual_seed(0)
    params = [torch.randn(shape) for shape in SIZES]
    opt = FusedCuda(params, state_dtype, weight_decay=0.1, amsgrad=state_dtype == torch.float32)
    for infinite in (0.0, 1.0, 0.0):
        for p in params:
            p.grad = torch.randn_like(p) + (torch.nan if infinite else 0.0)
        before = opt.everything()
        opt.step(found_inf=torch.tensor([infinite]))
        same = [torch.equal(a, b) for a, b in zip(before, opt.everything(), strict=True) if a.numel()]
        assert all(same) if infinite else not any(same[: len(SIZES) - 1])
        if infinite:
            torch._foreach_sub_(opt.column("step"), 1)


@pytest.mark.parametrize("state_dtype", STATES)
@pytest.mark.parametrize(
    ("rounding", "dtype"),
    [("stochastic", torch.bfloat16), *((r, d) for r in ("kahan", "master") for d in (torch.bfloat16, torch.float16))],
)
def test_every_rounding_as_the_for_loop_does_it(rounding, dtype, state_dtype):
    torch.manual_seed(0)
    starts = [torch.randn(shape).to(dtype) for shape in SIZES]
    options = {"rounding": rounding, "lr": 1e-2, "weight_decay": 0.1}
    ours = FusedCuda([p.clone() for p in starts], state_dtype, **options)
    pair = state_dtype if isinstance(state_dtype, tuple) else (state_dtype, state_dtype)
    name = tuple("8bit" if dtype == torch.uint8 else dtype for dtype in pair)
    theirs = AdaMomentum(starts, foreach=False, fused=False, state_dtype=name, **options)
    compared = Compared()
    for _ in range(12):
        for p, q in zip(ours.params, starts, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
        for p, q in zip(ours.params, starts, strict=True):
            compared.add(p, ours.state[p], q, theirs.state[q])
    compared.check()


def test_grad_factor_scales_the_gradients_it_never_writes():
    torch.manual_seed(0)
    a, b = (FusedCuda([torch.ones(300)]) for _ in range(2))
    for _ in range(3):
        g = torch.randn(300)
        a.params[0].grad, b.params[0].grad = g, 1024 * g
        kept = b.params[0].grad.clone()
        a.step()
        b.step(factor=1 / 1024)
        assert torch.equal(b.params[0].grad, kept)
    assert torch.equal(a.params[0], b.params[0])


def test_dtypes_share_a_call():
    torch.manual_seed(0)
    states = (torch.float32, torch.bfloat16, (torch.float32, torch.bfloat16))
    kinds = [(p, s) for p in (torch.float32, torch.bfloat16, torch.float16) for s in states]
    starts = [torch.randn(300).to(dtype) for dtype, _ in kinds]
    together = FusedCuda([p.clone() for p in starts], [s for _, s in kinds])
    alone = [FusedCuda([p.clone()], s) for p, (_, s) in zip(starts, kinds, strict=True)]
    for _ in range(3):
        for p, opt in zip(together.params, alone, strict=True):
            p.grad = opt.params[0].grad = torch.randn(300).to(p.dtype)
            opt.step()
        together.step()
    for p, opt in zip(together.params, alone, strict=True):
        assert torch.equal(p, opt.params[0])


@pytest.mark.parametrize("state_dtype", STATES)
def test_addresses_that_are_not_multiples_of_16(state_dtype):
    torch.manual_seed(0)
    start = torch.randn(5000)
    aligned, shifted = start.clone(), torch.empty(5003)[3:].copy_(start)
    a, b = FusedCuda([aligned], state_dtype), FusedCuda([shifted], state_dtype)
    for _ in range(2):
        aligned.grad = shifted.grad = torch.randn(5000)
        a.step()
        b.step()
    assert all(torch.equal(x, y) for x, y in zip(a.everything(), b.everything(), strict=True))


@pytest.mark.parametrize("like", [torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.empty(7, 60).T])
def test_any_dense_layout(like):
    run = lockstep([tuple(like.shape)], {"weight_decay": 0.1})
    p = torch.empty_like(like).copy_(run.params[0])
    run.params = [p]
    run.opt = FusedCuda([p], **run.options)
    assert not p.is_contiguous()
    for _ in range(3):
        p.grad = torch.empty_like(like).normal_()
        state = run.opt.state[p]
        assert why_not_update(p, p.grad, state["exp_avg"], state["exp_avg_sq"]) is None
        g = p.grad.double().numpy()
        run.opt.step()
        run.theta[0], run.states[0] = reference.step(run.theta[0], g, run.states[0], **run.options)
    torch.testing.assert_close(p.double(), torch.tensor(run.theta[0]), rtol=1e-5, atol=1e-6)


def test_steps_that_differ_and_nothing_to_do():
    params = [torch.ones(5), torch.ones(5)]
    opt = FusedCuda(params, lr=0.1)
    opt.state[params[1]]["step"] += 100
    for p in params:
        p.grad = torch.ones(5)
    opt.step()
    assert params[0][0] != params[1][0]
    empty = {
        "numbers": torch.empty(0, len(MATRIX_COLUMNS)),
        "grad_factor": torch.tensor(1.0),
        "rule": rule_of(),
        "found_inf": None,
    }
    fused_cuda_update([], **empty)


@pytest.mark.parametrize("steps_apart", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"amsgrad": True},
        {"rounding": "stochastic", "maximize": True},
        {"rounding": "kahan", "rectify": True},
        {"rounding": "master", "adjust_lr": "match_rms_adamw"},
    ],
)
def test_native_tables_give_the_same_bits(options, steps_apart):
    pytest.importorskip("adamomentum._native")
    torch.manual_seed(0)
    kinds = [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)]
    if "amsgrad" not in options:
        kinds += [(torch.bfloat16, torch.uint8), (torch.float32, (torch.float32, torch.uint8))]
    starts = [torch.randn(shape).to(dtype) for dtype, _ in kinds for shape in [(0,), (257,), (3000,)]]
    states = [state for _, state in kinds for _ in range(3)]
    shared = {"lr": 1e-2, "weight_decay": 0.1, **options}
    ours, theirs = (FusedCuda([p.clone() for p in starts], states, native=x, **shared) for x in (True, False))
    for opt in (ours, theirs):
        for i, step in enumerate(opt.column("step")):
            step += 7 * (i % 2) if steps_apart else 0
    for t in range(4):
        for p, q in zip(ours.params, theirs.params, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        version = ours.params[1]._version
        factor = torch.tensor(0.5) if t == 3 else 0.5
        ours.step(factor)
        theirs.step(factor)
        assert ours.params[1]._version > version
        assert all(torch.equal(a, b) for a, b in zip(ours.everything(), theirs.everything(), strict=True))
        assert ours.column("step") == theirs.column("step")


def test_what_native_tables_leave():
    pytest.importorskip("adamomentum._native")
    p = torch.zeros(4, dtype=torch.float64)
    batch = fused_cuda.new_batch("nearest", p)
    state = {"step": torch.tensor(0.0), "exp_avg": p.clone(), "exp_avg_sq": p.clone()}
    assert not batch.add(p, p.clone(), state, False)  # Triton's kernel has no float64
    state = {key: t.to("meta", torch.float32) for key, t in state.items()}
    assert not batch.add(p.float(), p.float(), state, False)
    assert len(batch) == 0
    assert batch.tables(2048, ENTRY) == []


@pytest.mark.parametrize("state_dtype", [None, "8bit"])
def test_the_optimizers_way_to_native_tables(monkeypatch, state_dtype):
    pytest.importorskip("adamomentum._native")
    torch.manual_seed(0)
    dtypes = [torch.float32, torch.bfloat16, torch.float64] + ([torch.complex64] if state_dtype is None else [])
    ours = [torch.randn(300, dtype=dtype) for dtype in dtypes]
    theirs = [p.clone() for p in ours]
    options = {"weight_decay": 0.1, "state_dtype": state_dtype, "lr": 1e-2}
    opt, other = AdaMomentum(ours, **options), AdaMomentum(theirs, foreach=False, fused=False, **options)
    launched = []
    launch = fused_cuda._launch
    monkeypatch.setattr(
        "adamomentum.torch.optimizer.choose_kernels",
        lambda *args, fused, **kwargs: None if fused is False else "triton",
    )
    monkeypatch.setattr(
        fused_cuda, "_launch", lambda kind, *args: (launched.append(kind.dtypes[0]), launch(kind, *args))
    )
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        opt.step()
        other.step()
    assert set(launched) == {"float32", "bfloat16"}
    assert len(launched) == 6
    for p, q in zip(ours, theirs, strict=True):
        assert opt.state[p]["step"] == other.state[q]["step"] == 3
        rtol = 1e-2 if p.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(p, q, rtol=rtol, atol=1e-5 if state_dtype is None else 1e-3)


def test_native_tables_hold_what_this_process_has_of_dtensors(monkeypatch):
    pytest.importorskip("adamomentum._native")
    distributed = pytest.importorskip("torch.distributed.tensor")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        whole = torch.nn.Parameter(torch.randn(30, 10))
        p = torch.nn.Parameter(distributed.distribute_tensor(whole.detach().clone(), mesh, [distributed.Shard(0)]))
        opt, other = AdaMomentum([p]), AdaMomentum([whole], foreach=False, fused=False)
        monkeypatch.setattr(
            "adamomentum.torch.optimizer.choose_kernels", lambda *_, fused, **__: "triton" if fused is None else None
        )
        launched = []
        launch = fused_cuda._launch
        monkeypatch.setattr(fused_cuda, "_launch", lambda *args: (launched.append(int(args[2].max())), launch(*args)))
        for _ in range(3):
            whole.grad = torch.randn(30, 10)
            p.grad = distributed.distribute_tensor(whole.grad.clone(), mesh, [distributed.Shard(0)])
            version = p._version
            opt.step()
            other.step()
            assert p._version > version
        assert launched == [1, 1, 1]
        torch.testing.assert_close(p.full_tensor(), whole, rtol=1e-5, atol=1e-6)
    finally:
        torch.distributed.destroy_process_group()


def test_random_bits_of_a_part_are_those_of_its_place_in_the_whole():
    pytest.importorskip("adamomentum._native")
    torch.manual_seed(0)
    whole, grad = torch.randn(3000).bfloat16(), torch.randn(3000).bfloat16()
    options = {"rounding": "stochastic", "lr": 1e-2}
    opt = FusedCuda([whole], torch.bfloat16, **options)
    part = FusedCuda([whole[700:].clone()], torch.bfloat16, **options)
    whole.grad, part.params[0].grad = grad, grad[700:].clone()
    opt.step()
    rule = rule_of(**options)
    batch = fused_cuda.new_batch(rule.rounding, part.params[0])
    assert batch.add(part.params[0], part.params[0].grad, part.state[part.params[0]], False, 700)
    fused_cuda.run_batch(batch, rule)
    assert torch.equal(part.params[0], whole[700:])
    assert torch.equal(part.column("exp_avg")[0], opt.column("exp_avg")[0][700:])


@pytest.mark.parametrize("adjust_lr", [None, "match_rms_adamw"])
@pytest.mark.parametrize("passes", [1, 2])
def test_release_with_clipping_reaches_the_kernel(monkeypatch, passes, adjust_lr):
    """Also the last gradient of two for both in the look-ahead momentum, and what of it may cancel the momentum."""
    torch.manual_seed(0)
    start, sides = torch.randn(3, 400), []
    for fused in (None, False):
        p = torch.nn.Parameter(start.clone())
        opt = AdaMomentum([p], lr=1e-2, adjust_lr=adjust_lr, foreach=None if fused is None else False, fused=fused)
        release_gradients(opt, passes, clip=0.5)
        sides.append((p, opt))
    launched, launch = [], fused_cuda._launch
    for module in ("optimizer", "release"):
        monkeypatch.setattr(
            f"adamomentum.torch.{module}.choose_kernels", lambda *_, fused, **__: "triton" if fused is None else None
        )
    monkeypatch.setattr(fused_cuda, "_launch", lambda *args: (launched.append(int(args[2].max())), launch(*args)))
    for _ in range(3):
        for _ in range(passes):
            g = torch.randn(3, 400)
            for p, _ in sides:
                (p * g).sum().backward()
    (p, opt), (q, other) = sides
    assert launched == [1, 1, 1]
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(opt.state[p][key], other.state[q][key], rtol=1e-5, atol=1e-9)
    assert opt.state[p]["exp_avg"].norm() < 0.5


@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16, "8bit", ("float32", "8bit")])
def test_the_optimizers_way_to_the_kernel(state_dtype):
    # On CUDA the optimizer ends in this call; here its rows are on the CPU, and one of them is not for the kernel.
    from adamomentum import AdaMomentum
    from adamomentum.torch.functional import take_step
    from adamomentum.torch.optimizer import _rule_of

    torch.manual_seed(0)
    ours = [torch.randn(300), torch.randn(4, 6)[:, ::2], torch.randn(())]
    theirs = [p.clone() for p in ours]
    theirs[1] = torch.randn(4, 6)[:, ::2].copy_(ours[1])
    options = {"weight_decay": 0.1, "state_dtype": state_dtype, "foreach": False}
    opt, other = AdaMomentum(ours, **options), AdaMomentum(theirs, **options)
    for p in ours:
        p.grad = torch.zeros_like(p)
    opt.init_state()
    for t in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        skip = torch.tensor([1.0 if t == 2 else 0.0])
        rows = [(p, p.grad, opt.state[p]) for p in ours]
        rule = _rule_of(opt.param_groups[0], False, 0.5, 1)
        with pytest.raises(RuntimeError, match="a captured step with a GradScaler needs the fused kernel for every"):
            take_step(rows, None, rule, "triton", capturable=True, found_inf=skip)
        found_inf = skip if t % 2 == 0 else None
        take_step([rows[0], rows[2]], None, rule, "triton", capturable=True, found_inf=found_inf)
        if t != 2:
            take_step([rows[1]], None, rule, "triton")
            for q in theirs:
                q.grad *= 0.5
            other.step()
    for p, q in zip(ours, theirs, strict=True):
        assert opt.state[p]["step"] == other.state[q]["step"] == 3
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5 if state_dtype is None else 1e-3)
