"""Every closed form against a computation that does not use it: Algorithm 1 itself, linear algebra, or a search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adamomentum import reference
from adamomentum.theory import moments as mo
from adamomentum.theory import transients

beta1s = st.floats(0, 0.99)
beta2s = st.floats(0.5, 0.9999)
TINY = 1e-300  # an eps that is negligible


def filter_matrix(beta1, steps):
    """m = M g, from m_t = beta1 m_(t-1) + (1 - beta1) g_t."""
    lag = np.subtract.outer(np.arange(steps), np.arange(steps))
    return np.where(lag >= 0, (1 - beta1) * beta1 ** np.maximum(lag, 0), 0)


def updates(gradients, betas, eps=TINY):
    """Algorithm 1's updates, in lr."""
    theta, state, changes = np.zeros(np.shape(gradients[0])), reference.State.zeros(gradients[0]), []
    for g in gradients:
        changes.append(theta - reference.step(theta, g, state, lr=1.0, betas=betas, eps=eps)[0])
        _, state = reference.step(theta, g, state, lr=1.0, betas=betas, eps=eps)
    return np.array(changes)


def adams_v(gradients, beta2):
    """Adam's second moment at each step, not corrected."""
    v, all_v = 0.0, []
    for g in gradients:
        v = beta2 * v + (1 - beta2) * g**2
        all_v.append(v)
    return np.array(all_v)


# Gain and noise


@given(beta1s, st.floats(0, math.pi))
def test_gain_is_that_of_the_moving_average(beta1, omega) -> None:
    k = np.arange(4000)
    response = ((1 - beta1) * beta1**k * np.exp(-1j * omega * k)).sum()
    assert mo.ema_gain(omega, beta1) == pytest.approx(abs(response), rel=1e-9)
    assert mo.restoration_factor(omega, beta1) == pytest.approx(1 / abs(response), rel=1e-9)


def test_gain_at_the_ends() -> None:
    np.testing.assert_allclose(mo.ema_gain([0, math.pi]), [1, 1 / 19], rtol=1e-14)
    assert mo.ema_gain(np.ones((2, 3))).shape == (2, 3)


@given(beta1s, st.floats(-0.95, 0.95))
def test_momentum_in_correlated_noise(beta1, phi) -> None:
    steps = 250
    assume(beta1**steps < 1e-3)
    weights = filter_matrix(beta1, steps)[-1]
    covariance = phi ** np.abs(np.subtract.outer(np.arange(steps), np.arange(steps))) if phi else np.eye(steps)
    assert mo.ar1_momentum_ratio(phi, beta1) == pytest.approx(weights @ covariance @ weights, rel=1e-2)
    assert mo.ar1_momentum_ratio(phi, beta1) <= 1
    assert mo.ar1_momentum_ratio(0.0, beta1) == pytest.approx(mo.noise_attenuation(beta1))


def test_step_in_noise_against_moments_of_a_sample() -> None:
    """With v at its mean, mean and RMS of the update are ratios of plain moments of g, m and g - m."""
    rng = np.random.default_rng(0)
    rho, beta1, rows = 0.7, 0.8, 400_000
    g = rho + rng.normal(size=(60, rows))
    m = np.full(rows, rho)
    for row in g:
        before, m = m, beta1 * m + (1 - beta1) * row
    assert before.shape == m.shape
    v = {"adam": (g[-1] ** 2).mean(), "adamomentum": (m**2).mean(), "adabelief": ((g[-1] - m) ** 2).mean()}
    for kind, second in v.items():
        drift, rms = mo.snr_step(rho, beta1, kind)
        assert drift == pytest.approx(m.mean() / math.sqrt(second), rel=0.01)
        assert rms == pytest.approx(math.sqrt((m**2).mean() / second), rel=0.01)


@given(beta1s, st.floats(0, 100))
def test_equivalent_lr_is_the_ratio_of_the_steps(beta1, rho) -> None:
    ours, adams = mo.snr_step(rho, beta1, "adamomentum"), mo.snr_step(rho, beta1, "adam")
    factor = mo.adam_equivalent_lr(1.0, beta1, rho)
    assert ours[1] == pytest.approx(1)
    assert factor * adams[1] == pytest.approx(ours[1])
    assert factor * adams[0] == pytest.approx(ours[0])


def test_equivalent_lr_at_the_ends() -> None:
    assert mo.adam_equivalent_lr(1.0) == pytest.approx(math.sqrt(19))
    assert mo.adam_equivalent_lr(0.3, rho=math.inf) == 0.3
    factors = [mo.adam_equivalent_lr(1.0, b) for b in (0.5, 0.8, 0.9, 0.95, 0.99)]
    assert [round(f, 1) for f in factors] == [1.7, 3.0, 4.4, 6.2, 14.1]


# The sandwich


def roots(gradients, betas):
    """sqrt(v) of Adam and of AdaMomentum after the last gradient."""
    state = reference.State.zeros(gradients[0])
    for g in gradients:
        _, state = reference.step(np.zeros(np.shape(g)), g, state, betas=betas, eps=0)
    return math.sqrt(adams_v(gradients, betas[1])[-1]), math.sqrt(state.v)


sequences = st.lists(st.floats(-1e3, 1e3).map(lambda g: round(g, 6)), min_size=1, max_size=30)


@given(sequences, beta1s, beta2s, st.floats(0, 1e3))
@settings(max_examples=300)
def test_no_sequence_leaves_the_sandwich(gradients, beta1, beta2, floor) -> None:
    betas = (beta1, beta2)
    assume(any(gradients))
    with np.errstate(invalid="ignore", divide="ignore"):
        adam, ours = roots(gradients, betas)
    for steps in (None, len(gradients)):
        low, high = mo.v_sandwich(betas, steps)
        assert low * ours <= adam * (1 + 1e-9) + 1e-12
        assert adam <= high * ours * (1 + 1e-9) + 1e-12
    # The same number added to both second moments.
    low, high = mo.v_sandwich(betas)
    ours, adam = math.sqrt(ours**2 + floor), math.sqrt(adam**2 + floor)
    assert low * ours <= adam * (1 + 1e-9) + 1e-12
    assert adam <= high * ours * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.95, 0.95), (0.0, 0.99)])
def test_sandwich_is_sharp(betas) -> None:
    """The exact extremes over all sequences of T gradients are singular values; they tend to the limits."""
    gamma = betas[0] / math.sqrt(betas[1])
    gaps = []
    for steps in (100, 400):
        # From g to m, with the weights of Adam's v taken into both.
        values = np.linalg.svd(filter_matrix(gamma, steps) * (1 - betas[0]) / (1 - gamma), compute_uv=False)
        low, high = mo.v_sandwich(betas)
        assert low <= 1 / values.max() * (1 + 1e-12)
        assert 1 / values.min() <= high * (1 + 1e-12)
        gaps.append(1 / values.max() / low - 1 + high * values.min() - 1)
    assert gaps[1] < 0.3 * gaps[0] + 1e-12


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_extremal_sequences_in_closed_form(betas) -> None:
    """The two of docs/theory/sandwich.md."""
    steps, gamma = 300, betas[0] / math.sqrt(betas[1])
    s = np.arange(1, steps + 1)
    fading = betas[1] ** (s / 2)
    low, high = mo.v_sandwich(betas)
    adam, ours = roots(fading, betas)
    assert (adam / ours) ** 2 == pytest.approx(low**2 * steps / ((1 - gamma**s) ** 2).sum(), rel=1e-9)
    m = (-1.0) ** s * fading
    adam, ours = roots((m - betas[0] * np.append(0, m[:-1])) / (1 - betas[0]), betas)
    exact = ((1 + gamma) ** 2 * (steps - 1) + 1) / ((1 - betas[0]) ** 2 * steps)
    assert (adam / ours) ** 2 == pytest.approx(exact, rel=1e-9)
    assert exact == pytest.approx(high**2, rel=1 / steps)


@given(sequences, beta1s, beta2s)
def test_sandwich_of_running_maxima(gradients, beta1, beta2) -> None:
    assume(any(gradients))
    state = reference.State.zeros(0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        for g in gradients:
            _, state = reference.step(0.0, g, state, betas=(beta1, beta2), eps=0, amsgrad=True)
    adam, ours = math.sqrt(adams_v(gradients, beta2).max()), math.sqrt(state.v_max)
    low, high = mo.v_sandwich((beta1, beta2))
    assert low * ours <= adam * (1 + 1e-9) + 1e-12
    assert adam <= high * ours * (1 + 1e-9) + 1e-12


def test_sandwich_at_the_defaults_and_beyond() -> None:
    assert [round(limit, 4) for limit in mo.v_sandwich()] == [0.9955, 19.0045]
    low, high = mo.v_sandwich((0.9, 0.5))
    assert low == 0
    assert math.isfinite(high)
    # One step: v is (1 - beta2) g^2 and (1 - beta2) (1 - beta1)^2 g^2.
    assert mo.v_sandwich(steps=1)[0] == pytest.approx(10)
    assert mo.v_sandwich((0.9, 0.81), steps=5)[0] == pytest.approx(2)  # gamma = 1
    assert mo.v_sandwich(steps=10**6) == pytest.approx(mo.v_sandwich())


# The start and the longest update


@given(beta1s, st.floats(0, 0.9999), st.integers(1, 60), st.floats(0.1, 1e6))
def test_startup_is_algorithm_1s(beta1, beta2, steps, size) -> None:
    lengths = updates([np.float64(size)] * steps, (beta1, beta2))
    np.testing.assert_allclose(transients.startup_profile(steps, (beta1, beta2)), lengths, rtol=1e-7)
    assert lengths[0] == pytest.approx(1 / (1 - beta1))


def test_startup_at_the_defaults() -> None:
    profile = transients.startup_profile(100)
    assert [round(profile[t - 1], 2) for t in (1, 2, 3, 5, 20, 100)] == [10.0, 6.59, 5.01, 3.51, 1.54, 1.07]
    assert profile.sum() == pytest.approx(154, abs=0.5)


@given(st.floats(0.01, 0.99), st.floats(0, 0.9999))
def test_startup_falls(beta1, beta2) -> None:
    profile = transients.startup_profile(200, (beta1, beta2))
    assert (np.diff(profile) <= 1e-12).all()
    assert (profile >= 1 - 1e-12).all()


@given(beta1s, beta2s, st.integers(1, 40))
def test_warmup_peak_is_the_longest_step(beta1, beta2, warmup) -> None:
    lengths = updates([np.float64(2.0)] * 80, (beta1, beta2)) * np.minimum(1, np.arange(1, 81) / warmup)
    assert transients.warmup_peak(warmup, (beta1, beta2)) == pytest.approx(lengths.max(), rel=1e-7)
    assert transients.warmup_peak(warmup + 1, (beta1, beta2)) <= transients.warmup_peak(warmup, (beta1, beta2)) + 1e-12


@given(beta1s, st.floats(0, 0.9999))
def test_largest_update_is_the_supremum_over_all_steps(beta1, beta2) -> None:
    at = [transients.max_update_at(t, (beta1, beta2)) for t in (*range(1, 200), 1000, 10**4, 10**6)]
    largest = transients.max_update((beta1, beta2))
    assert max(at) <= largest * (1 + 1e-12)
    assert max(at) == pytest.approx(largest, rel=1e-4)


@given(sequences, beta1s, beta2s)
def test_no_update_is_longer(gradients, beta1, beta2) -> None:
    lengths = np.abs(updates(np.array(gradients), (beta1, beta2)))
    for t, length in enumerate(lengths, 1):
        assert length <= transients.max_update_at(t, (beta1, beta2)) * (1 + 1e-9)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.5, 0.99)])
def test_adams_largest_update(betas) -> None:
    """The largest of <w, g> at sum of v's weights times g^2 = 1 is the norm of w over the roots of the weights."""
    k = np.arange(3000)
    weights = (1 - betas[1]) * betas[1] ** k
    exact = math.sqrt((((1 - betas[0]) * betas[0] ** k) ** 2 / weights).sum())
    assert transients.max_update(betas, "adam") == pytest.approx(exact, rel=1e-9)
    assert transients.max_update((0.9, 0.8), "adam") == math.inf
    assert transients.max_update((0.0, 0.0), "adam") == 1  # the sign of the gradient


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.5, 0.99), (0.0, 0.9)])
@pytest.mark.parametrize("step", [1, 7, 300])
def test_outlier_is_algorithm_1s(betas, step) -> None:
    gradients = np.zeros(step + 700)
    gradients[step - 1] = 1e5
    expected = transients.outlier_displacement(betas, step=step)
    assert updates(gradients, betas).sum() == pytest.approx(expected, rel=1e-7)
    t = np.arange(1, gradients.size + 1)
    m = filter_matrix(betas[0], gradients.size) @ gradients / (1 - betas[0] ** t)
    v = adams_v(gradients, betas[1]) / (1 - betas[1] ** t)
    adam = (m[step - 1 :] / np.sqrt(v[step - 1 :])).sum()
    assert transients.outlier_displacement(betas, "adam", step=step) == pytest.approx(adam, rel=1e-7)


def test_outlier_late_in_training() -> None:
    for kind, limit in (("adamomentum", 180.47), ("adam", 31.77)):
        assert transients.outlier_displacement(kind=kind) == pytest.approx(limit, abs=0.01)
        assert transients.outlier_displacement(kind=kind, step=10**6) == pytest.approx(limit, abs=0.01)
        assert transients.outlier_displacement((0.9, 0.8), kind) == math.inf


# eps


@pytest.mark.parametrize(("eps", "betas"), [(1e-8, (0.9, 0.999)), (1e-3, (0.5, 0.9))])
def test_floor_is_algorithm_1s(eps, betas) -> None:
    floor = mo.denominator_floor(eps, betas[1])
    small = 1e-6 * floor
    np.testing.assert_allclose(updates([np.float64(small)] * 30, betas, eps), small / floor, rtol=1e-9)
    for omega, g in ((0.0, np.ones(4000)), (math.pi, (-1.0) ** np.arange(4000))):
        at = mo.crossover_gradient(eps, betas, omega)
        assert abs(updates(at * g, betas, eps)[-1]) == pytest.approx(math.sqrt(0.5), rel=1e-3)


def test_floor_at_the_defaults() -> None:
    assert mo.denominator_floor() == pytest.approx(3.2e-7, rel=0.02)
    assert mo.denominator_floor(1e-8) == pytest.approx(3.2e-3, rel=0.02)
    assert mo.crossover_gradient(1e-8) == pytest.approx(0.0600833, rel=1e-6)


@given(st.floats(0, 0.98), st.floats(0.5, 0.9999), st.floats(-12, -2), st.floats(1e-3, 1e3))
def test_stability_limit_is_the_spectral_radius(beta1, beta2, digits, curvature) -> None:
    eps = 10**digits
    limit = mo.stable_lr(curvature, eps, (beta1, beta2))

    def radius(lr):
        # (x, m) -> (x - lr m' / floor, m'), m' = beta1 m + (1 - beta1) curvature x
        s, c = lr / mo.denominator_floor(eps, beta2), (1 - beta1) * curvature
        return np.abs(np.linalg.eigvals([[1 - s * c, -s * beta1], [c, beta1]])).max()

    assert radius(0.99 * limit) < 1 < radius(1.01 * limit)


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["adam", "adamomentum", "adabelief"])
def test_noise_floor_is_the_stationary_variance(beta1, kind) -> None:
    """Of x in (x, m), at the step size lr over the root of V; exact for small steps."""
    from scipy.linalg import solve_discrete_lyapunov

    if kind == "adabelief" and beta1 == 0:
        return
    lr, sigma, h = 1e-4, 2.0, 0.7
    root = {
        "adam": 1,
        "adamomentum": math.sqrt((1 - beta1) / (1 + beta1)),
        "adabelief": math.sqrt(2 * beta1**2 / (1 + beta1)),
    }
    s = lr / (sigma * root[kind])
    move = np.array([[1 - s * (1 - beta1) * h, -s * beta1], [(1 - beta1) * h, beta1]])
    kick = sigma * (1 - beta1) * np.array([[-s], [1]])
    exact = solve_discrete_lyapunov(move, kick @ kick.T)[0, 0]
    assert mo.noise_floor(lr, sigma, h, beta1, kind) == pytest.approx(exact, rel=1e-3)


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mo.ema_gain(1.0, 1.2), r"beta1 must be in \[0, 1\), got 1.2"),
        (lambda: mo.noise_attenuation(math.nan), "beta1 must be in .* got nan"),
        (lambda: mo.v_sandwich((0.9, 1.0)), r"beta2 must be in \[0, 1\), got 1.0"),
        (lambda: mo.v_sandwich((0.9, 0.0)), "beta2 must be > 0, got 0"),
        (lambda: mo.v_sandwich((0.9, 0.99, 1)), "betas must be a pair"),
        (lambda: mo.v_sandwich(steps=0), "steps must be a whole number >= 1, got 0"),
        (lambda: mo.ar1_momentum_ratio([0.5, 1.0]), r"phi must be in \(-1, 1\)"),
        (lambda: mo.snr_step(1.0, kind="sgd"), "kind must be .* got 'sgd'"),
        (lambda: mo.snr_step(1.0, 0.0, "adabelief"), "beta1 must be > 0 for kind='adabelief'"),
        (lambda: mo.noise_floor(0.1, beta1=0.0, kind="adabelief"), "beta1 must be > 0 for kind='adabelief'"),
        (lambda: mo.adam_equivalent_lr(-1.0), "lr must be finite and >= 0, got -1.0"),
        (lambda: mo.adam_equivalent_lr(1.0, rho=math.nan), "rho must be a number"),
        (lambda: mo.denominator_floor(-1e-8), "eps must be finite and >= 0"),
        (lambda: mo.stable_lr(0.0, 1e-8), "curvature must be finite and > 0, got 0.0"),
        (lambda: mo.noise_floor(0.1, sigma=math.inf), "sigma must be finite and > 0"),
        (lambda: transients.startup_profile(0), "steps must be a whole number >= 1, got 0"),
        (lambda: transients.warmup_peak(2.5), "warmup must be a whole number >= 1, got 2.5"),
        (lambda: transients.max_update(kind="adabelief"), "kind must be 'adamomentum' or 'adam'"),
        (lambda: transients.outlier_displacement(step=0), "step must be a whole number >= 1"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
