"""The drop-in's closed forms against computations that do not use them: the specification, linear algebra, a search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamomentum import reference
from adamomentum.theory import drop_in as di
from adamomentum.theory import moments as mo
from adamomentum.theory.transients import max_update

FORMS = ("momentum", "lookahead")
TINY = 1e-300  # an eps that is negligible
beta1s = st.floats(0, 0.99)
sequences = st.lists(st.floats(-1e3, 1e3).map(lambda g: round(g, 6)), min_size=1, max_size=30)


def updates(gradients, betas, averaged):
    """The specification's updates, in lr."""
    theta, state, changes = np.zeros(np.shape(gradients[0])), reference.State.zeros(gradients[0]), []
    for g in gradients:
        after, state = reference.step(
            theta, g, state, lr=1.0, betas=betas, eps=TINY, adjust_lr="match_rms_adamw", second_moment=averaged
        )
        changes.append(theta - after)
    return np.array(changes)


@given(beta1s, st.sampled_from(FORMS))
def test_the_share_is_the_limit_of_the_mean(beta1, averaged) -> None:
    mean = reference.white_noise_mean(10**7, (beta1, 0.999), lookahead=averaged == "lookahead")
    assert di.white_noise_share(beta1, averaged) == pytest.approx(mean, rel=1e-9)
    assert di.white_noise_share(beta1, "gradient") == 1


@pytest.mark.parametrize("averaged", FORMS)
@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_the_denominator_of_what_alternates_and_of_what_stays(beta1, averaged) -> None:
    """m^2 and n^2 are constant there, so that the last update is the formula's once the start is forgotten."""
    for omega in (0.0, math.pi):
        g = np.cos(omega * np.arange(1200))
        last = abs(updates(g, (beta1, 0.98), averaged)[-1])
        expected = mo.ema_gain(omega, beta1) / di.denominator(omega, beta1, averaged)
        assert last == pytest.approx(float(expected), rel=1e-8)


def test_denominators_at_the_defaults() -> None:
    """Those of the docstrings, and that at beta1 = 0 the drop-in is Adam."""
    both = {averaged: np.round(di.denominator([0, math.pi], 0.9, averaged), 3).tolist() for averaged in FORMS}
    assert both == {"momentum": [4.359, 0.229], "lookahead": [3.763, 0.555]}
    np.testing.assert_array_equal(di.denominator([0, 1, math.pi], 0.9, "gradient"), 1)
    for averaged in FORMS:
        np.testing.assert_allclose(di.denominator([0, 1, math.pi], 0.0, averaged), 1, rtol=1e-12)
    limits = [round(di.stable_lr(1.0, 0.9, averaged), 1) for averaged in (*FORMS, "gradient")]
    assert limits == [8.7, 21.1, 38.0]
    sizes = [round(1 / di.stable_lr(1.0, 0.9, averaged), 3) for averaged in ("gradient", "lookahead", "momentum")]
    assert sizes == [0.026, 0.047, 0.115]
    longest = [round(di.longest_update(averaged=averaged), 2) for averaged in (*FORMS, "gradient")]
    assert longest == [7.25, 5.02, 7.27]


@given(beta1s, st.sampled_from((*FORMS, "gradient")), st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_stable_range_is_the_spectral_radius(beta1, averaged, swing, curvature) -> None:
    """With the denominator that a swing of this size has made."""
    d = curvature * swing * float(di.denominator(math.pi, beta1, averaged))
    limit = di.stable_lr(swing, beta1, averaged)

    def radius(lr):
        # (x, m) -> (x - lr m' / d, m'), m' = beta1 m + (1 - beta1) curvature x
        s, c = lr / d, (1 - beta1) * curvature
        return np.abs(np.linalg.eigvals([[1 - s * c, -s * beta1], [c, beta1]])).max()

    assert radius(0.99 * limit) < 1 < radius(1.01 * limit)


@given(beta1s, st.floats(0.1, 0.9999), st.sampled_from(FORMS))
def test_a_signals_profile_is_the_specifications(beta1, beta2, averaged) -> None:
    lengths = updates([np.float64(-3.0)] * 40, (beta1, beta2), averaged)
    np.testing.assert_allclose(di.signal_profile(40, (beta1, beta2), averaged), -lengths, rtol=1e-7)


@given(st.floats(0, 0.95), st.floats(-0.95, 0.95))
def test_lengths_in_correlated_noise(beta1, phi) -> None:
    """As quadratic forms of the noise's covariance, with the weights of m and n."""
    k = np.arange(400)
    m = (1 - beta1) * beta1**k
    n = beta1 * m
    n[0] += 1 - beta1
    covariance = phi ** np.abs(np.subtract.outer(k, k)) if phi else np.eye(k.size)
    for averaged, weights in (("momentum", m), ("lookahead", n)):
        share = weights @ weights
        expected = math.sqrt((m @ covariance @ m) * share / (weights @ covariance @ weights))
        assert di.ar1_length(phi, beta1, averaged) == pytest.approx(expected, rel=1e-6)
    assert di.ar1_length(phi, beta1, "gradient") == pytest.approx(math.sqrt(m @ covariance @ m), rel=1e-6)


@given(sequences, beta1s, st.floats(0.3, 0.9999), st.sampled_from(FORMS))
@settings(max_examples=200)
def test_no_momentum_is_larger_and_no_update_longer(gradients, beta1, beta2, averaged) -> None:
    betas = (beta1, beta2)
    state = reference.State.zeros(0.0)
    for g in gradients:
        _, state = reference.step(0.0, g, state, betas=betas, eps=TINY, second_moment=averaged)
        limit = di.largest_momentum(betas, averaged) * math.sqrt(state.v / (1 - beta2))
        assert abs(state.m) <= limit * (1 + 1e-9) + 1e-12
    lengths = np.abs(updates(np.array(gradients), betas, averaged))
    assert lengths.max() <= di.longest_update(betas, averaged) * (1 + 1e-9)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.5, 0.9)])
def test_the_largest_momentum_is_attained(betas) -> None:
    """The largest of <w, x> at sum of v's weights times x^2 = 1 is the norm of w over the roots of the weights."""
    k, (beta1, beta2) = np.arange(300), betas
    of_n = (beta1 / (1 + beta1)) ** k / (1 + beta1)
    for averaged, weights in (("lookahead", of_n), ("gradient", (1 - beta1) * beta1**k)):
        exact = math.sqrt((weights**2 / beta2**k).sum())
        assert di.largest_momentum(betas, averaged) == pytest.approx(exact, rel=1e-12)
    assert di.largest_momentum((0.9, 0.2), "lookahead") == math.inf
    if 1 - beta2 <= (1 - beta1) ** 2:
        assert di.longest_update(betas, "gradient") == pytest.approx(max_update(betas, "adam"), rel=1e-9)


@given(st.floats(0, 0.98), st.floats(0, 1))
@settings(max_examples=50)
def test_the_momentums_largest_weight_is_the_last(beta1, part) -> None:
    """For 1 - beta2 <= (1 - beta1) / (1 + beta1), as docs/theory/regret.md proves; beyond, the first is larger."""
    a = mo.noise_attenuation(beta1)
    share = 0.001 + 0.999 * part
    assert di.largest_weight((beta1, 1 - share * a), "momentum") == pytest.approx(math.sqrt(a), rel=1e-9)
    if beta1 > 0.1:
        assert di.largest_weight((beta1, 1 - min(1.2 * a, 0.99)), "momentum") > math.sqrt(a) * 1.001


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.0, 0.9), (0.99, 0.9)])
def test_largest_weights_are_the_largest(betas) -> None:
    t = range(1, 12_000)
    for averaged in FORMS:
        each = [
            math.sqrt(reference.white_noise_mean(k, betas, lookahead=averaged == "lookahead")) / (1 - betas[0] ** k)
            for k in t
        ]
        assert di.largest_weight(betas, averaged) == pytest.approx(max(each), rel=1e-4)
        assert di.largest_weight(betas, averaged) >= max(each) * (1 - 1e-12)


@given(sequences, beta1s, st.floats(0.1, 0.9999), st.sampled_from(FORMS))
def test_step_sizes_and_what_they_leave_to_v(gradients, beta1, beta2, averaged) -> None:
    """The update is a_t m_t / sqrt(v_t / (1 - beta2^t)), and that root is at most the largest gradient."""
    betas, state = (beta1, beta2), reference.State.zeros(0.0)
    sizes, lengths = di.step_sizes(len(gradients), betas, averaged), updates(np.array(gradients), betas, averaged)
    for t, g in enumerate(gradients, 1):
        _, state = reference.step(0.0, g, state, betas=betas, eps=TINY, second_moment=averaged)
        root = math.sqrt(state.v / (1 - beta2**t))
        assert root <= max(map(abs, gradients)) * (1 + 1e-9) + 1e-140
        if root > 1e-100:
            assert lengths[t - 1] == pytest.approx(sizes[t - 1] * state.m / root, rel=1e-9, abs=1e-12)


def test_step_sizes_at_the_defaults() -> None:
    for averaged, first, least, at in (("momentum", 1.0, 0.220, 41), ("lookahead", 1.9, 0.260, 50)):
        sizes = di.step_sizes(20_000, averaged=averaged)
        assert sizes[0] == pytest.approx(first)
        assert (round(sizes.min(), 3), sizes.argmin() + 1) == (least, at)
        assert sizes[-1] == pytest.approx(math.sqrt(di.white_noise_share(0.9, averaged)), rel=1e-6)
    np.testing.assert_allclose(di.step_sizes(3, averaged="gradient"), 1 / (1 - 0.9 ** np.arange(1, 4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: di.white_noise_share(0.9, "nesterov"), "averaged must be .* got 'nesterov'"),
        (lambda: di.denominator(1.0, 1.0), r"beta1 must be in \[0, 1\), got 1.0"),
        (lambda: di.stable_lr(0.0), "swing must be finite and > 0, got 0.0"),
        (lambda: di.signal_profile(0), "steps must be a whole number >= 1, got 0"),
        (lambda: di.signal_profile(3, averaged="m"), "averaged must be .* got 'm'"),
        (lambda: di.ar1_length(1.0), r"phi must be in \(-1, 1\)"),
        (lambda: di.largest_momentum((0.9, 1.0)), r"beta2 must be in \[0, 1\), got 1.0"),
        (lambda: di.largest_weight((0.9,)), "betas must be a pair"),
        (lambda: di.step_sizes(2.5), "steps must be a whole number >= 1, got 2.5"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
