"""Clipping of each gradient by its own norm, under gradient release."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from lockstep import PATHS
from torch import Tensor, nn

from adamomentum import reference
from adamomentum.torch import AdaMomentum, AdaptiveClip, bucket, fused_cpu, release_gradients
from adamomentum.torch.bucket import Part
from adamomentum.torch.clip_each import factors_of
from adamomentum.torch.precision import unpack

RELEASABLE = {name: options for name, options in PATHS.items() if name != "differentiable"}
SHAPES = ((7, 5), (3,), (40, 30))
ADAPTIVE = AdaptiveClip(ratio=1.2, beta=0.9, warmup=4)


def gradient(shape: tuple[int, ...], i: int, dtype: torch.dtype) -> Tensor:
    """The gradient of pass i, of which the tenth is a spike."""
    generator = torch.Generator().manual_seed(100 * i + len(shape))
    scale = 1000.0 if i == 10 else 1.0
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def backward(params: list[nn.Parameter], i: int) -> None:
    """A backward pass that gives each parameter its gradient of pass i."""
    sum((p * gradient(tuple(p.shape), i, p.dtype)).sum() for p in params).backward()


def limits(norms: list[float], clip: AdaptiveClip | float, passes: int) -> list[float]:
    """The limits of a parameter's gradients that have these norms, one by one, as the docstrings say."""
    if not isinstance(clip, AdaptiveClip):
        return [clip / passes] * len(norms)
    average, count, result = math.inf, 0, []
    for norm in norms:
        limit = clip.max_norm / passes
        if count >= clip.warmup:
            limit = min(limit, clip.ratio * average)
        result.append(limit)
        clipped = min(norm, limit)
        if clipped == 0 or not math.isfinite(clipped):
            continue
        average = min(average, clipped) if count < clip.warmup else clip.beta * average + (1 - clip.beta) * clipped
        count += 1
    return result


def train_by_hand(
    params: list[nn.Parameter], optimizer: AdaMomentum, clip: AdaptiveClip | float, passes: int, count: int
) -> None:
    """Clip, sum and step, without release."""
    scaled = {}
    for p in params:
        grads = [gradient(tuple(p.shape), i, p.dtype) for i in range(count)]
        norms = [grad.double().norm().item() for grad in grads]
        scaled[p] = [
            grad * min(1.0, limit / norm)
            for grad, norm, limit in zip(grads, norms, limits(norms, clip, passes), strict=True)
        ]
    for step in range(count // passes):
        for p in params:
            p.grad = sum(scaled[p][passes * step : passes * (step + 1)])
        optimizer.step()


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]


@pytest.mark.parametrize("elements", [1, 2**20])
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize(
    "clip", [3.0, ADAPTIVE, AdaptiveClip(warmup=2, max_norm=20.0)], ids=["fixed", "adaptive", "both"]
)
@pytest.mark.parametrize("path", RELEASABLE)
def test_it_equals_clipping_each_gradient_by_hand(path: str, clip, passes: int, elements: int, monkeypatch) -> None:
    monkeypatch.setattr(bucket, "BUCKET_ELEMENTS", elements)
    ours, theirs = parameters(), parameters()
    options = {**RELEASABLE[path], "lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": False}
    optimizer, other = AdaMomentum(ours, **options), AdaMomentum(theirs, **options)
    release_gradients(optimizer, passes, clip=clip)
    for i in range(18):
        backward(ours, i)
    train_by_hand(theirs, other, clip, passes, 18)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-11)
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[p][key], other.state[q][key], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"foreach": True},
        {"maximize": True, "adjust_lr": "match_rms_adamw"},
        {"state_dtype": torch.bfloat16},
        {"state_dtype": "8bit"},
        {"state_dtype": ("float32", "8bit"), "foreach": False},
        {"rounding": "stochastic", "state_dtype": "8bit"},
        {"rounding": "kahan"},
        {"rounding": "master", "foreach": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_every_precision_it_is_the_clipped_gradient_that_is_used(
    dtype: torch.dtype, options: dict, passes: int
) -> None:
    """A limit of half the norm, a factor that is a power of two, gives the bits of gradients of half the size."""
    for shape in SHAPES:
        results = []
        grad = gradient(shape, 0, dtype)
        for half in (True, False):
            torch.manual_seed(0)
            p = nn.Parameter(torch.randn(shape, dtype=dtype))
            optimizer = AdaMomentum([p], lr=1e-2, **options)
            limit = grad.double().norm().item() / 2
            release_gradients(optimizer, passes, clip=None if half else limit * passes)
            for _ in range(4 * passes):
                (p * (grad / 2 if half else grad)).sum().backward()
            results.append([p, *optimizer.state[p].values()])
        # The norm is that of float64 but for its last bit, and so is the factor.
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


def test_a_gradient_within_the_limit_is_left_to_the_bit() -> None:
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    for params, clip in ((ours, 1e6), (theirs, None)):
        optimizer = AdaMomentum(params, lr=1e-2)
        release_gradients(optimizer, clip=clip)
        for i in range(5):
            backward(params, i)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


# ---- how far a step moves ----


def second_moment(state: dict[str, Tensor]) -> Tensor:
    """v, without what eps adds, which can only make the denominator larger."""
    return unpack(state["exp_avg_sq"], state.get("exp_avg_sq_scale"), "v")


def mean_of_v(step: int, options: dict, betas: tuple[float, float], passes: int) -> float:
    """What v is divided by."""
    if "adjust_lr" in options:
        return reference.white_noise_mean(step, betas, lookahead=True, passes=passes)
    return 1 - betas[1] ** step


SPIKE = 60
SETTINGS = {
    "fixed": (2.0, 1),
    "fixed, 4 passes": (2.0, 4),
    "adaptive": (AdaptiveClip(warmup=20), 1),
    "adaptive, 4 passes": (AdaptiveClip(warmup=20), 4),
    "none": (None, 1),
    "none, 4 passes": (None, 4),
}


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": True},
        {"adjust_lr": "match_rms_adamw"},
        {"adjust_lr": "match_rms_adamw", "betas": (0.5, 0.999)},  # several passes make kappa larger than 1 - beta2^t
        {"amsgrad": True, "foreach": True},
        {"full_bias_correction": True},
        {"state_dtype": "8bit"},
        {"state_dtype": torch.bfloat16},
    ],
    ids=str,
)
def test_a_spike_moves_a_parameter_by_no_more_than_the_bound(options: dict, how: str) -> None:
    """Of a thousand times the norm, in one gradient; without clipping it moves it by more."""
    clip, passes = SETTINGS[how]
    if passes > 1 and options.get("nesterov"):
        pytest.skip("nesterov is refused with several passes")
    torch.manual_seed(0)
    lr, betas, n = 1e-3, options.get("betas", (0.9, 0.999)), 256
    p = nn.Parameter(torch.zeros(n))
    optimizer = AdaMomentum([p], lr=lr, **options)
    release_gradients(optimizer, passes, clip=clip)
    limit = clip if isinstance(clip, float) else 1.06  # 1.05 times an average of 1, which noise has moved a little
    tolerance = 1.15 if options.get("state_dtype") else 1.001  # the moments are rounded
    exceeded = []
    for step in range(1, SPIKE + 30):
        before, v_before = p.detach().clone(), second_moment(optimizer.state[p]) if step > 1 else None
        for i in range(passes):
            grad = (1 + 0.01 * torch.randn(n)) / (
                16 * passes
            )  # of norm 1 / passes, and v is nearly the same everywhere
            if step == SPIKE and i == 0:
                grad = 1000 * torch.randn(n).sign() / (16 * passes)
            (p * grad).sum().backward()
        if step <= 20:  # the warm-up has no limit
            continue
        mean, moved = mean_of_v(step, options, betas, passes), (p.detach() - before).norm().item()
        d = (second_moment(optimizer.state[p]).min().item() / mean) ** 0.5
        at_least = (betas[1] * v_before.min().item() / mean) ** 0.5
        if moved > tolerance * lr * limit / d:
            exceeded.append(step)
        assert clip is None or moved <= tolerance * lr * limit / at_least
    assert bool(exceeded) == (clip is None), exceeded


def test_with_adjust_lr_the_bound_is_that_of_kappa() -> None:
    """Of equal gradients at the limit a step is as long as the bound, and longer than one with 1 - beta2^t."""
    lr, betas, passes, n = 1e-3, (0.5, 0.999), 8, 256
    options = {"adjust_lr": "match_rms_adamw"}
    p = nn.Parameter(torch.zeros(n, dtype=torch.float64))
    optimizer = AdaMomentum([p], lr=lr, betas=betas, **options)
    release_gradients(optimizer, passes, clip=1.0)
    for _ in range(50 * passes):
        before = p.detach().clone()
        p.sum().backward()
    moved, v = (p.detach() - before).norm().item(), second_moment(optimizer.state[p]).min().item()
    assert moved == pytest.approx(lr / (v / mean_of_v(50, options, betas, passes)) ** 0.5, rel=1e-6)
    assert moved / (lr / (v / (1 - betas[1] ** 50)) ** 0.5) == pytest.approx(1.53, abs=0.005)


# ---- norms and averages ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64])
@pytest.mark.parametrize("native", [True, False])
def test_norms_of_every_dtype(dtype: torch.dtype, native: bool, monkeypatch) -> None:
    if not native:
        monkeypatch.setattr(fused_cpu, "why_not", lambda: "a test")
    params = [torch.randn(shape).to(dtype) for shape in ((3, 4), (70000,), (), (0,))]
    params.append(torch.randn(6, 4).to(dtype)[:, ::2])  # which the kernels do not take
    part = Part({}, params, params)
    norms = [p.to(torch.complex128 if p.is_complex() else torch.float64).norm().item() for p in params]
    factors = factors_of([part], 1.5, 2, {})
    expected = [min(1.0, 0.75 / norm) if norm else 1.0 for norm in norms]
    assert [factors[id(p)] for p in params] == pytest.approx(expected, rel=1e-6)


def test_norms_do_not_depend_on_the_number_of_threads() -> None:
    p = torch.randn(1_000_003)
    threads, results = torch.get_num_threads(), set()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.add(factors_of([Part({}, [p], [p])], 1.0, 1, {})[id(p)])
    torch.set_num_threads(threads)
    assert len(results) == 1


def averages(norms: list[float], clip: AdaptiveClip) -> tuple[list[float], list[float]]:
    """The factors of a parameter's gradients that have these norms, and the average after each."""
    p, state = torch.zeros(1), {}
    factors, result = [], []
    for norm in norms:
        factors.append(factors_of([Part({}, [p], [torch.tensor([norm])])], clip, 1, {p: state})[id(p)])
        result.append(state["grad_norm"][0].item())
    return factors, result


def test_the_average_follows_what_is_clipped() -> None:
    factors, result = averages([4.0, 2.0, 3.0, 2.2, 1000.0, 1.0], AdaptiveClip(ratio=1.5, beta=0.75, warmup=3))
    assert factors == pytest.approx([1, 1, 1, 1, 1.5 * 2.05 / 1000, 1])
    after_spike = 0.75 * 2.05 + 0.25 * 1.5 * 2.05
    assert result == pytest.approx([4, 2, 2, 2.05, after_spike, 0.75 * after_spike + 0.25])


def test_gradients_that_say_nothing_do_not_count() -> None:
    """The first gradient of an adapter is 0, and one that is not finite is no norm to follow."""
    factors, result = averages(
        [0.0, math.inf, math.nan, 2.0, math.inf, 3.0, math.nan], AdaptiveClip(ratio=2.0, warmup=1)
    )
    assert factors[:4] == [1, 1, 1, 1]
    assert factors[4] == 0
    assert factors[6] == 1  # all elements stay what they are, some of them NaN
    assert result[:4] == [0, 0, 0, 2]
    assert result[4] == pytest.approx(0.98 * 2 + 0.02 * 4)
    assert math.isfinite(result[6])
    assert result[6] == result[5]


def test_the_fixed_limit_holds_from_the_first_gradient_on() -> None:
    factors, result = averages([1000.0, 3.0], AdaptiveClip(warmup=1, max_norm=2.0))
    assert factors == pytest.approx([2 / 1000, 2 / 3])
    assert result == pytest.approx([2, 2])


def test_gradients_are_read_and_not_written() -> None:
    params = parameters()
    optimizer = AdaMomentum(params, lr=1e-2)
    seen = []
    for p in params:
        p.register_hook(lambda grad: seen.append((grad, grad.clone())))
    release_gradients(optimizer, clip=1e-3)
    backward(params, 0)
    assert len(seen) == 3
    for grad, before in seen:
        assert torch.equal(grad, before)


def test_gradients_that_share_memory_are_clipped_each() -> None:
    class Both(torch.autograd.Function):
        @staticmethod
        def forward(ctx, p: Tensor, q: Tensor) -> Tensor:
            return p.sum() + q.sum()

        @staticmethod
        def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
            memory = torch.tensor([3.0, 4.0, 12.0])
            return memory[:2], memory[1:]

    for options in ({}, {"foreach": True}, {"foreach": False}):
        params = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
        optimizer = AdaMomentum(params, **options)
        release_gradients(optimizer, clip=1.0)
        Both.apply(*params).backward()
        for p, grad in zip(params, ([3.0, 4.0], [4.0, 12.0]), strict=True):
            grad = torch.tensor(grad)
            torch.testing.assert_close(optimizer.state[p]["exp_avg"], 0.1 * grad / grad.norm())


# ---- state ----


@pytest.mark.parametrize(
    "options", [{}, {"state_dtype": "8bit"}, {"rounding": "stochastic"}, {"foreach": True}], ids=str
)
@pytest.mark.parametrize("at", [3, 8, 11])
def test_resuming_changes_no_bit(at: int, options: dict, tmp_path) -> None:
    """Within the warm-up and after it, between two passes and between two steps, before and after a spike."""
    if "foreach" in options and at % 2:
        pytest.skip("one position is enough there")
    dtype = torch.bfloat16 if "rounding" in options else torch.float32
    clip = AdaptiveClip(warmup=6)
    params = parameters(dtype)
    optimizer = AdaMomentum(params, lr=1e-2, **options)
    release_gradients(optimizer, 2, clip=clip)
    for i in range(at):
        backward(params, i)
    torch.save((params, optimizer.state_dict()), tmp_path / "state.pt")
    for i in range(at, 20):
        backward(params, i)
    resumed, state = torch.load(tmp_path / "state.pt", weights_only=False)
    other = AdaMomentum(resumed, lr=1e-2, **options)
    release_gradients(other, 2, clip=clip)
    other.load_state_dict(state)
    for i in range(at, 20):
        backward(resumed, i)
    for p, q in zip(params, resumed, strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == other.state[q].keys()
        assert optimizer.state[p]["grad_norm"][1] == 20
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, other.state[q][key]), key
            assert value.dtype == other.state[q][key].dtype


def test_the_average_is_there_before_the_first_step_and_stays_without_clipping() -> None:
    """Distributed checkpoints load in place; a run without clipping goes on from one with it, and back."""
    params = parameters()
    optimizer = AdaMomentum(params, lr=1e-2)
    handle = release_gradients(optimizer, clip=AdaptiveClip(warmup=1))
    optimizer.init_state()
    assert all(optimizer.state[p]["grad_norm"].tolist() == [0, 0] for p in params)
    backward(params, 0)
    handle.remove()
    saved = deepcopy(optimizer.state_dict())
    backward(params, 1)
    optimizer.step()
    optimizer.zero_grad()
    for key, state in optimizer.state_dict()["state"].items():
        assert torch.equal(state["grad_norm"], saved["state"][key]["grad_norm"])
    release_gradients(optimizer, clip=AdaptiveClip(warmup=1))
    backward(params, 2)
    assert all(optimizer.state[p]["grad_norm"][1] == 2 for p in params)


@pytest.mark.parametrize("value", [1.0, torch.zeros(3), torch.tensor([1, 2]), torch.tensor([-1.0, 2.0])])
def test_a_saved_average_is_checked(value) -> None:
    params = parameters()
    optimizer = AdaMomentum(params)
    release_gradients(optimizer, clip=AdaptiveClip())
    backward(params, 0)
    saved = optimizer.state_dict()
    saved["state"][1]["grad_norm"] = value
    with pytest.raises(ValueError, match="'grad_norm' must be a tensor of two numbers >= 0"):
        AdaMomentum(parameters()).load_state_dict(saved)


# ---- arguments ----


@pytest.mark.parametrize(
    ("clip", "error", "message"),
    [
        (lambda: 0, ValueError, "clip must be > 0, got 0"),
        (lambda: -1.0, ValueError, "clip must be > 0, got -1.0: .*leave clip out"),
        (lambda: math.nan, ValueError, "clip must be > 0, got nan: .*leave clip out"),
        (lambda: True, TypeError, "clip must be a number, an AdaptiveClip or None, got True"),
        (lambda: "adaptive", TypeError, "clip must be a number, an AdaptiveClip or None, got 'adaptive'"),
        (lambda: AdaptiveClip(ratio=1.0), ValueError, "ratio must be > 1"),
        (lambda: AdaptiveClip(ratio="1.1"), TypeError, "ratio must be a number"),
        (lambda: AdaptiveClip(beta=1.0), ValueError, r"beta must be in \[0, 1\), got 1.0"),
        (lambda: AdaptiveClip(warmup=0), ValueError, "warmup must be >= 1, got 0"),
        (lambda: AdaptiveClip(warmup=2.0), TypeError, "warmup must be an integer"),
        (lambda: AdaptiveClip(max_norm=0.0), ValueError, "max_norm must be > 0, got 0.0: .*leave max_norm out"),
        (lambda: AdaptiveClip(max_norm=-1), ValueError, "max_norm must be > 0, got -1: .*leave max_norm out"),
        (lambda: AdaptiveClip(max_norm="1"), TypeError, "max_norm must be a number, got '1'"),
    ],
)
def test_wrong_arguments(clip, error, message) -> None:
    optimizer = AdaMomentum(parameters())
    with pytest.raises(error, match=message):
        release_gradients(optimizer, clip=clip())
    assert optimizer._pending.release is None


def test_what_the_handle_says() -> None:
    optimizer = AdaMomentum(parameters())
    assert release_gradients(optimizer, clip=2).clip == 2.0


def test_an_integer_of_numpy_is_one() -> None:
    assert AdaptiveClip(warmup=np.int64(3)).warmup == 3
