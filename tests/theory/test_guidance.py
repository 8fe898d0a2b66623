"""The numbers that users are given."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamomentum import reference
from adamomentum.theory import guidance, moments

beta1s = st.floats(0, 0.99)


def test_what_the_documentation_says() -> None:
    assert guidance.suggest_lr(1e-3) == pytest.approx(1e-3 / 4.4, rel=0.01)
    assert guidance.suggest_weight_decay(0.01) == pytest.approx(0.01 * 4.4, rel=0.01)
    assert guidance.eps_floor(1e-16) == pytest.approx(3.2e-7, rel=0.02)
    assert guidance.eps_floor(1e-8) == pytest.approx(3.2e-3, rel=0.02)
    assert 50 <= guidance.warmup_steps() <= 100
    assert guidance.warmup_steps(peak=1.075) <= 100


@given(st.floats(1e-6, 10), st.floats(0, 1), beta1s, st.floats(0, 1e3))
def test_decay_per_step_is_kept(lr, weight_decay, beta1, ratio) -> None:
    betas = (beta1, 0.999)
    rate = guidance.suggest_lr(lr, betas, signal_to_noise=ratio)
    decay = guidance.suggest_weight_decay(weight_decay, betas, signal_to_noise=ratio)
    assert rate * decay == pytest.approx(lr * weight_decay)
    assert rate <= lr * (1 + 1e-12)


@given(st.floats(0.01, 0.99), st.floats(0, 30))
def test_measured_in_stationary_noise_the_two_ways_agree(beta1, ratio) -> None:
    rms = float(moments.snr_step(ratio, beta1, "adam")[1])
    betas = (beta1, 0.999)
    assert guidance.suggest_lr(1.0, betas, update_rms=rms) == pytest.approx(
        guidance.suggest_lr(1.0, betas, signal_to_noise=ratio)
    )
    assert guidance.suggest_weight_decay(0.01, betas, update_rms=rms) == pytest.approx(
        guidance.suggest_weight_decay(0.01, betas, signal_to_noise=ratio)
    )


def test_updates_longer_than_lr_count_as_lr() -> None:
    assert guidance.suggest_lr(1e-3, update_rms=1.3) == 1e-3
    assert guidance.suggest_lr(1e-3, signal_to_noise=math.inf) == 1e-3


def lengths(gradient, betas=(0.9, 0.999), steps=6000) -> tuple[float, float]:
    """RMS update in units of lr, of Algorithm 1 and of Adam, at the end of a stream; gradient(t) is an array."""
    state, m, v, ours, adams = reference.State.zeros(gradient(1)), 0.0, 0.0, [], []
    for t in range(1, steps + 1):
        g = gradient(t)
        theta, state = reference.step(np.zeros_like(g), g, state, lr=1.0, betas=betas)
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        if t > steps - 200:
            ours.append(np.square(theta).mean())
            adams.append(np.square(m / (1 - betas[0] ** t)).mean() / (v / (1 - betas[1] ** t)).mean())
    return float(np.sqrt(np.mean(ours))), float(np.sqrt(np.mean(adams)))


@pytest.mark.parametrize("stream", ["alternating", "swinging", "noise", "steady"])
def test_without_noise_the_optimizers_need_not_be_close(stream) -> None:
    """What measured updates suggest makes AdaMomentum's as long as Adam's, also where no noise does."""
    rng = np.random.default_rng(0)
    gradient = {
        "alternating": lambda t: np.array([(-1.0) ** t]),
        "swinging": lambda t: np.array([math.cos(math.pi * t / 4)]),
        "noise": lambda t: rng.standard_normal(1000),
        "steady": lambda t: np.array([1.0]),
    }[stream]
    ours, adams = lengths(gradient)
    suggested = guidance.suggest_lr(1.0, update_rms=adams)
    assert suggested * ours == pytest.approx(adams, rel=0.1)
    farther = ours / adams  # at equal lr
    assert (farther > 5) if stream in ("alternating", "swinging") else (farther < 4.6)
    if stream == "alternating":
        assert suggested == pytest.approx(1 / 19, rel=0.01)  # and not 1 / 4.36, the least that noise explains


@given(beta1s, beta1s)
def test_another_beta1_keeps_the_noise_floor(old, new) -> None:
    lr = guidance.lr_at_beta1(0.01, old, new)
    assert moments.noise_floor(lr, beta1=new) == pytest.approx(moments.noise_floor(0.01, beta1=old))


@given(st.floats(0.01, 0.98), st.floats(0.5, 0.9995), st.floats(1.01, 3))
def test_warmup_is_the_shortest(beta1, beta2, peak) -> None:
    """Judged by Algorithm 1 on a constant gradient."""
    betas = (beta1, beta2)
    steps = guidance.warmup_steps(betas, peak=peak)

    def longest(warmup):
        theta, state, most = np.float64(0), reference.State.zeros(0.0), 0.0
        for t in range(1, warmup + 20):
            lr = min(1.0, t / warmup)
            new, state = reference.step(theta, 1.0, state, lr=lr, betas=betas, eps=1e-300)
            theta, most = new, max(most, float(theta - new))
        return most

    assert longest(max(1, steps)) <= peak * (1 + 1e-9)
    if steps > 0:
        assert longest(max(1, steps - 1)) > peak * (1 - 1e-9)


def test_warmup_that_is_not_needed() -> None:
    assert guidance.warmup_steps(peak=10.0) == 0
    assert guidance.warmup_steps((0.0, 0.999)) == 0
    assert guidance.warmup_steps((0.0, 0.999), peak=1.0) == 0


@given(st.floats(1e-12, 1e-3), st.floats(0, 0.9999))
def test_the_same_floor_as_adams(adam_eps, beta2) -> None:
    assert guidance.eps_floor(guidance.eps_like_adam(adam_eps, beta2), beta2) == pytest.approx(adam_eps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: guidance.suggest_lr(-1.0), "adam_lr must be finite and >= 0, got -1.0"),
        (lambda: guidance.suggest_lr(1e-3, (0.9, 1.0)), r"beta2 must be in \[0, 1\), got 1.0"),
        (lambda: guidance.suggest_lr(1e-3, signal_to_noise=-0.1), "signal_to_noise must be >= 0, got -0.1"),
        (lambda: guidance.suggest_lr(1e-3, signal_to_noise=math.nan), "signal_to_noise must be >= 0, got nan"),
        (lambda: guidance.suggest_weight_decay(math.inf), "adam_weight_decay must be finite"),
        (lambda: guidance.suggest_lr(1e-3, update_rms=0.0), "update_rms must be finite and > 0, got 0.0"),
        (lambda: guidance.suggest_weight_decay(1e-2, update_rms=math.nan), "update_rms must be finite and > 0"),
        (lambda: guidance.suggest_lr(1e-3, signal_to_noise=1, update_rms=0.2), "must not both be given, got 0.2 and 1"),
        (lambda: guidance.suggest_lr(1e-3, 0.9), r"betas must be a pair .* got 0.9"),
        (lambda: guidance.lr_at_beta1(1e-3, 0.9, 1.0), r"new_beta1 must be in \[0, 1\), got 1.0"),
        (lambda: guidance.warmup_steps(peak=1.0), "peak must be > 1, got 1.0; every step is"),
        (lambda: guidance.warmup_steps((0.9, 0.9999999), peak=1 + 1e-8), "peak must not be so near to 1"),
        (lambda: guidance.eps_floor(-1.0), "eps must be finite and >= 0"),
        (lambda: guidance.eps_like_adam(-1.0), "adam_eps must be finite and >= 0"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
