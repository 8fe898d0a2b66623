"""Gradients that go into the first moment before the last pass: exact in float32, unbiased below, always repeatable."""

import copy
import io
import itertools

import pytest
import torch
from torch import Tensor, nn

from adamomentum import AdaMomentum
from adamomentum.torch import fused_cpu, pieces, release_gradients
from adamomentum.torch.fold import fold
from adamomentum.torch.precision import dither, unpack
from adamomentum.torch.state import scale_of

CPU = torch.device("cpu")
KERNELS = fused_cpu.why_not() is None
PATHS = [{"fused": False}, {"fused": True}] if KERNELS else [{"fused": False}]
needs_kernels = pytest.mark.skipif(not KERNELS, reason="no native kernels here")
FORMATS = ("float32", "bfloat16", "8bit")
MODES = [*itertools.product(FORMATS, FORMATS)]  # of exp_avg and exp_avg_sq
REDUCED = ["bfloat16", "8bit"]


def spread_out(n: int, seed: int = 0) -> Tensor:
    """Numbers of many sizes, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator) * 10 ** (3 * torch.rand(n, generator=generator) - 3)


def started(state_dtype, *shapes, dtype=torch.float32, **options) -> tuple[list[nn.Parameter], AdaMomentum]:
    """Parameters that have taken a step, with another gradient."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    opt = AdaMomentum(params, state_dtype=state_dtype, **options)
    for p in params:
        p.grad = spread_out(p.numel()).reshape(p.shape).to(dtype)
    opt.step()
    for p in params:
        p.grad = spread_out(p.numel(), 1).reshape(p.shape).to(dtype)
    return params, opt


def first_moment(opt: AdaMomentum, p: Tensor) -> Tensor:
    state = opt.state[p]
    return unpack(state["exp_avg"], state.get("exp_avg_scale"), "m")


def rows(opt: AdaMomentum) -> list:
    return [(p, p.grad, opt.state[p]) for group in opt.param_groups for p in group["params"]]


# ---- the random bits ----


def test_bits_are_uniform_and_independent_of_the_last_passs() -> None:
    steps = range(1, 4001)
    last = torch.cat([dither(1, t, "m", CPU) for t in steps])
    for number in (1, 2, 15):
        bits = torch.cat([dither(1, t, "m", CPU, fold=number) for t in steps])
        cells = ((bits >> 29) + 4) * 8 + (last >> 29) + 4
        shares = torch.bincount(cells, minlength=64).double() / len(cells)
        torch.testing.assert_close(shares, torch.full((64,), 1 / 64, dtype=torch.float64), rtol=0, atol=4e-3)
    # The passes of a step spread over the whole range: no rounding is repeated.
    numbers = torch.tensor([dither(1, 7, "m", CPU, fold=k).item() for k in range(1, 17)], dtype=torch.float64)
    gaps = numbers.sort().values.diff() / 2**32
    assert gaps.min() > 0.5 / 16
    assert gaps.max() < 2 / 16


def test_bits_of_a_piece_are_those_of_the_whole() -> None:
    whole = dither(2048, 5, "m", CPU, fold=3)
    assert torch.equal(whole[512:], dither(1536, 5, "m", CPU, first=512, fold=3))
    assert torch.equal(whole, dither(2048, torch.tensor(5.0), "m", CPU, fold=3))


# ---- the sum ----


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("state_dtype", REDUCED)
def test_it_is_unbiased(state_dtype, path) -> None:
    (p,), opt = started(state_dtype, (512,), **path)
    before = copy.deepcopy(dict(opt.state[p]))
    exact = first_moment(opt, p) + 0.1 * p.grad
    total, count = torch.zeros(512, dtype=torch.float64), 2000
    for t in range(count):
        opt.state[p].update(copy.deepcopy(before))
        opt.state[p]["step"].fill_(t)
        opt.state[p]["accumulated"] = torch.tensor(float(t % 3))
        fold(rows(opt), 0.1, native="fused" in path and path["fused"])
        total += first_moment(opt, p)
    low = exact.abs().max() * 2**-16
    inside = exact.abs() > low
    assert inside.sum() > 400
    assert ((total / count - exact).abs()[inside] <= 2e-3 * exact.abs()[inside]).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_float32_is_exact_beside_any_second_moment(dtype, path) -> None:
    for second in FORMATS:
        (p,), opt = started(("float32", second), (700,), dtype=dtype, **path)
        v = opt.state[p]["exp_avg_sq"].clone()
        exact = opt.state[p]["exp_avg"].double() + 0.25 * p.grad.double()
        fold(rows(opt), 0.25, native=path["fused"])
        assert torch.equal(opt.state[p]["exp_avg_sq"], v)
        assert ((opt.state[p]["exp_avg"] - exact).abs() <= 2**-24 * (exact.abs() + p.grad.double().abs())).all()
        assert opt.state[p]["accumulated"] == 1


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state_dtype", MODES)
def test_kernels_store_what_the_for_loop_stores(monkeypatch, state_dtype, dtype) -> None:
    taken, run = [], fused_cpu.fold
    monkeypatch.setattr(fused_cpu, "fold", lambda batch, *rest: (taken.append(len(batch)), run(batch, *rest)))
    shapes = (70_001,), (), (0,), (255,), (4, 9)
    (ours, opt), (theirs, other) = (started(state_dtype, *shapes, dtype=dtype) for _ in range(2))
    for _ in range(3):
        fold(rows(opt), 0.1, native=True)
        fold(rows(other), 0.1, native=False)
    assert taken == ([] if dtype == torch.float32 and state_dtype[0] == "float32" else [5] * 3)
    for p, q in zip(ours, theirs, strict=True):
        # Torch may round a product and a sum once, in float32.
        exact = {} if state_dtype[0] == "float32" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(dict(opt.state[p]), dict(other.state[q]), **exact)


@needs_kernels
def test_the_kernel_takes_what_a_step_takes() -> None:
    for dtype in (torch.float64, torch.float32):
        (p,), opt = started(None, (300,), dtype=dtype)
        exact = opt.state[p]["exp_avg"] + 0.1 * p.grad
        batch = fused_cpu.new_batch()
        assert fused_cpu.add(batch, p, p.grad, opt.state[p], amsgrad=False)
        fused_cpu.fold(batch, 0.1, [1])
        torch.testing.assert_close(opt.state[p]["exp_avg"], exact, rtol=2 * torch.finfo(dtype).eps, atol=0)
    with pytest.raises(ValueError, match="passes must be one number for each parameter"):
        fused_cpu.fold(batch, 0.1, [1, 2])


@needs_kernels
@pytest.mark.parametrize("state_dtype", FORMATS)
def test_threads_change_nothing(state_dtype) -> None:
    native = fused_cpu._load()[0]
    before, threads = native.serial_below(0), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            params, opt = started(state_dtype, (100_003,), (33, 7), (5,), (70_000,), dtype=torch.bfloat16)
            fold(rows(opt), 0.1, native=True)
            results.append([opt.state[p]["exp_avg"] for p in params])
    finally:
        torch.set_num_threads(threads)
        native.serial_below(before)
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("state_dtype", REDUCED)
@pytest.mark.parametrize("path", PATHS)
def test_pieces_and_layouts_change_nothing(monkeypatch, state_dtype, path) -> None:
    def folded(limit: int, like: Tensor) -> Tensor:
        monkeypatch.setattr(pieces, "PIECE_ELEMENTS", {"default": limit})
        torch.manual_seed(0)
        p = nn.Parameter(torch.empty_like(like).copy_(torch.randn(like.shape)))
        opt = AdaMomentum([p], state_dtype=state_dtype)
        p.grad = torch.randn(like.shape)  # contiguous, whatever p is
        opt.init_state()
        fold(rows(opt), 0.1, native=path["fused"])
        return opt.state[p]["exp_avg"]

    for like in (torch.empty(9, 4, 10, 10), torch.empty(9, 4, 10, 10).contiguous(memory_format=torch.channels_last)):
        assert torch.equal(folded(10**9, like), folded(512, like))


# ---- under release ----


class Model(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(20, 30, dtype=dtype), nn.Linear(30, 5, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x)))


def backward(model: Model, i: int, passes: int) -> None:
    """The backward pass number ``i`` of all."""
    generator = torch.Generator().manual_seed(i)
    x = torch.randn(8, 20, generator=generator).to(model.inner.weight.dtype)
    (model(x).square().sum() / passes).backward()


def state_of(model: nn.Module, opt: AdaMomentum) -> list:
    return [(p.detach(), dict(opt.state[p])) for p in model.parameters()]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("state_dtype", MODES)
@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
def test_a_run_goes_on_bit_for_bit_from_the_middle_of_a_step(rounding, state_dtype, path) -> None:
    passes, at, total = 4, 10, 19
    options = {"lr": 1e-2, "rounding": rounding, "state_dtype": state_dtype, "weight_decay": 0.1, **path}
    models, opts = [], []
    for stop in (None, at):
        model = Model(torch.bfloat16)
        opt = AdaMomentum(model.parameters(), **options)
        handle = release_gradients(opt, passes)
        for i in range(total):
            if i == stop:
                assert handle.accumulated == 2
                file = io.BytesIO()
                torch.save([model.state_dict(), opt.state_dict()], file)
                file.seek(0)
                saved = torch.load(file, weights_only=True)
                model = Model(torch.bfloat16)
                model.load_state_dict(saved[0])
                opt = AdaMomentum(model.parameters(), lr=1.0, **path)
                opt.load_state_dict(saved[1])
                handle = release_gradients(opt, passes)
            backward(model, i, passes)
        models.append(model)
        opts.append(opt)
    torch.testing.assert_close(state_of(models[0], opts[0]), state_of(models[1], opts[1]), rtol=0, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("second", FORMATS)
def test_a_float32_first_moment_is_that_of_summed_gradients(second, path) -> None:
    passes, kept = 5, []
    for released in (False, True):
        model = Model()
        opt = AdaMomentum(model.parameters(), lr=0.0, state_dtype=("float32", second), **path)
        handle = release_gradients(opt, passes) if released else None
        for i in range(15):
            backward(model, i, passes)
            if handle is None and (i + 1) % passes == 0:
                opt.step()
                opt.zero_grad()
        kept.append([opt.state[p]["exp_avg"] for p in model.parameters()])
    torch.testing.assert_close(*kept, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("state_dtype", [mode for mode in MODES if mode != ("float32", "float32")])
@pytest.mark.parametrize("options", [{}, {"adjust_lr": "match_rms_adamw"}, {"maximize": True, "betas": (0.5, 0.9)}])
def test_every_format_stays_near_summing_and_stepping(state_dtype, options) -> None:
    passes, models = 4, []
    for released in (False, True):
        model = Model()
        dtype = state_dtype if released else None
        opt = AdaMomentum(model.parameters(), lr=1e-3, state_dtype=dtype, **options)
        handle = release_gradients(opt, passes)
        for i in range(60):
            # In the first steps a look-ahead momentum of one of several gradients may be 0 where the momentum is not.
            opt.param_groups[0]["lr"] = 0.0 if i < 20 else 1e-3
            backward(model, i, passes)
        assert handle.accumulated == 0
        models.append(model)
    start = Model()
    for p, q, s in zip(*(m.parameters() for m in (*models, start)), strict=True):
        moved = (p - s).norm()
        assert 0 < (q - p).norm() < (0.25 if "8bit" in state_dtype else 0.06) * moved


@pytest.mark.parametrize("state_dtype", REDUCED)
def test_a_step_before_the_last_pass_and_a_parameter_without_a_gradient(state_dtype) -> None:
    model = Model()
    opt = AdaMomentum(model.parameters(), state_dtype=state_dtype)
    handle = release_gradients(opt, 3)
    backward(model, 0, 3)
    model.outer.requires_grad_(False)
    backward(model, 1, 3)
    counts = [int(opt.state[p]["accumulated"]) for p in model.parameters()]
    assert counts == [2, 2, 1, 1]
    opt.step()
    assert handle.accumulated == 0
    assert all(opt.state[p]["step"] == 1 and opt.state[p]["accumulated"] == 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("state_dtype", "limits"),
    [
        ("8bit", (0.05, 0.15)),
        (("bfloat16", "8bit"), (0.05, 0.08)),
        (("float32", "8bit"), (0.05, 0.08)),
        ("bfloat16", (0.01, 0.02)),
    ],
)
@needs_kernels
def test_travel_over_1000_steps_of_16_passes(state_dtype, limits) -> None:
    """The length of the way, the sum of |change| over all steps, is float32's to 5 %, and the way ends near its end."""
    passes, steps, size = 16, 1000, 1024
    generator = torch.Generator().manual_seed(1)
    scale = 10 ** (3 * torch.rand(size, generator=generator) - 3)
    mean = 0.1 * scale * torch.randn(size, generator=generator)
    params = [nn.Parameter(torch.zeros(size)) for _ in range(2)]
    opts = [AdaMomentum([p], state_dtype=f) for p, f in zip(params, (None, state_dtype), strict=True)]
    ways = [0.0, 0.0]
    for opt in opts:
        opt.init_state()
    for t in range(steps):
        drop = 0.1 if t >= steps // 2 else 1.0  # v has to fall by a factor of 100
        for k in range(passes):
            grad = (mean + 4 * scale * torch.randn(size, generator=generator)) * drop / passes
            for p, opt in zip(params, opts, strict=True):
                p.grad = grad
                if k < passes - 1:
                    fold(rows(opt), 0.1 / 0.9, native=True)
        for i, (p, opt) in enumerate(zip(params, opts, strict=True)):
            before = p.detach().clone()
            opt.step()
            opt.state[p]["accumulated"].zero_()
            ways[i] += (p - before).abs().sum().item()
    assert abs(ways[1] / ways[0] - 1) < limits[0]
    assert (params[1] - params[0]).norm() / params[0].norm() < limits[1]


def test_first_steps_with_the_lookahead_momentum_of_one_gradient_of_several() -> None:
    """That gradient may cancel the momentum, but what v takes in is then not below half of it, as docs say."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(10_000))
    opt = AdaMomentum([p], lr=1.0, adjust_lr="match_rms_adamw")
    release_gradients(opt, 8)
    lengths = []
    for _ in range(5):
        before = p.detach().clone()
        for _ in range(8):
            (p * torch.randn(len(p))).sum().backward()
        lengths.append((p.detach() - before).abs())
    assert lengths[0].max().item() == pytest.approx(2 * (1.9**2 + 7) ** 0.5, rel=1e-5)
    rms = [length.square().mean().sqrt().item() for length in lengths]
    assert rms[0] == pytest.approx(2.5, abs=0.2)
    assert all(length < most for length, most in zip(rms[1:], (1.2, 0.9, 0.7, 0.6), strict=True)), rms


def test_the_codes_are_of_the_first_moment_alone() -> None:
    (p,), opt = started("8bit", (600,))
    before = {key: value.clone() for key, value in opt.state[p].items()}
    fold(rows(opt), 0.1, native=False)
    changed = {key for key, value in opt.state[p].items() if key in before and not torch.equal(value, before[key])}
    assert changed <= {"exp_avg", scale_of("exp_avg")}
    assert "exp_avg" in changed
    assert opt.state[p].keys() - before.keys() == {"accumulated"}
