"""The specification against values worked out by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest

from adamomentum import reference


def run(gradients, theta=0.0, **options):
    """The trajectory of one scalar parameter."""
    state = reference.State.zeros(theta)
    path = []
    for g in gradients:
        theta, state = reference.step(theta, g, state, **options)
        path.append(float(theta))
    return path, state


def test_three_steps_in_rational_arithmetic():
    # betas 1/2 and 1/4, eps 1/16: every line of Algorithm 1 by hand, in fractions.
    b1, b2, eps, lr = Fraction(1, 2), Fraction(1, 4), Fraction(1, 16), Fraction(1, 10)
    m = v = Fraction(0)
    theta = 1.0
    expected = []
    for t, g in enumerate([Fraction(1), Fraction(-2), Fraction(3)], start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * m * m + eps
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        theta -= float(lr * m_hat) / math.sqrt(v_hat)
        expected.append(theta)
    assert (m, v) == (Fraction(9, 8), Fraction(147, 128))
    path, state = run([1, -2, 3], 1.0, lr=0.1, betas=(0.5, 0.25), eps=1 / 16)
    np.testing.assert_allclose(path, expected, rtol=1e-15)
    np.testing.assert_allclose([float(state.m), float(state.v)], [9 / 8, 147 / 128], rtol=1e-15)


@pytest.mark.parametrize("g", [1e-3, 1.0, -1e20])
def test_first_step_is_ten_lr_whatever_the_gradient(g):
    path, _ = run([g], lr=0.01)
    assert path[0] == pytest.approx(-math.copysign(0.1, g), rel=1e-5)


def test_first_step_is_one_lr_with_full_bias_correction():
    path, _ = run([3.0], lr=0.01, full_bias_correction=True)
    assert path[0] == pytest.approx(-0.01, rel=1e-12)


def test_constant_gradient_closed_form():
    # m_hat is g at every step; v averages (1 - b1^k)^2 g^2, so the first steps are 10, 6.59, 5.01, ... lr.
    b1, b2, lr = 0.9, 0.999, 1e-3
    path, _ = run([2.5] * 100, lr=lr, betas=(b1, b2), eps=0.0)
    moves = -np.diff([0.0, *path]) / lr
    for t in (1, 2, 3, 5, 20, 100):
        v = (1 - b2) * sum(b2 ** (t - k) * (1 - b1**k) ** 2 for k in range(1, t + 1))
        assert moves[t - 1] == pytest.approx(math.sqrt((1 - b2**t) / v), rel=1e-9)
    np.testing.assert_allclose(moves[[0, 1, 2, 4, 19, 99]], [10, 6.59, 5.01, 3.51, 1.54, 1.07], atol=0.006)


def test_alternating_gradients_move_by_lr():
    # m settles at +-g (1 - b1) / (1 + b1); the second moment divides the attenuation out again.
    path, state = run([0.3 * (-1) ** t for t in range(8000)], lr=1e-3)
    assert abs(float(state.m)) == pytest.approx(0.3 / 19, rel=1e-6)
    assert abs(path[-1] - path[-2]) == pytest.approx(1e-3, rel=1e-3)


def test_no_step_is_longer_than_its_bound():
    # 1 / sqrt(1 - beta2) = 31.6 lr, approached by one gradient after a long silence.
    path, _ = run([0.0] * 5000 + [1.0] + [0.0] * 20, lr=1.0)
    longest = max(abs(np.diff(path)))
    assert 31.0 < longest <= 1 / math.sqrt(0.001)


@pytest.mark.parametrize(("beta1", "factor"), [(0.5, 1.7), (0.8, 3.0), (0.9, 4.4), (0.95, 6.2)])
def test_in_noise_it_moves_further_than_adam(beta1, factor):
    # RMS updates in pure noise: 1 lr, against Adam's sqrt((1 - beta1) / (1 + beta1)) lr.
    rng, n, steps, beta2 = np.random.default_rng(0), 400, 3000, 0.999
    theta, state = np.zeros(n), reference.State.zeros(np.zeros(n))
    m = v = np.zeros(n)
    ours, adams = [], []
    for t in range(1, steps + 1):
        g = rng.standard_normal(n)
        before = theta
        theta, state = reference.step(theta, g, state, lr=1.0, betas=(beta1, beta2))
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        if t > 2000:
            ours.append(np.mean((theta - before) ** 2))
            adams.append(np.mean((m / (1 - beta1**t)) ** 2 / (v / (1 - beta2**t))))
    assert math.sqrt(np.mean(ours)) == pytest.approx(1, rel=0.05)
    assert math.sqrt(np.mean(ours) / np.mean(adams)) == pytest.approx(factor, rel=0.05)
    assert factor == pytest.approx(math.sqrt((1 + beta1) / (1 - beta1)), rel=0.02)


def test_eps_sets_the_denominator_floor():
    # Gradients far below sqrt(eps / (1 - beta2)) = 3.2e-3 are divided by that floor: SGD with a fixed factor.
    path, _ = run([1e-6] * 20000, lr=1e-3, eps=1e-8)
    assert path[-2] - path[-1] == pytest.approx(1e-3 * 1e-6 / math.sqrt(1e-8 / 0.001), rel=1e-4)


def test_eps_accumulates_in_v():
    _, state = run([0.0] * 3, eps=1.0, betas=(0.9, 0.5))
    assert float(state.v) == 1.75


def test_amsgrad_keeps_the_largest_second_moment():
    gradients = [5.0, *[0.01] * 50]
    with_max, state = run(gradients, lr=1e-2, amsgrad=True, betas=(0.9, 0.5))
    without, _ = run(gradients, lr=1e-2, betas=(0.9, 0.5))
    assert float(state.v_max) > 10 * float(state.v)
    assert abs(with_max[-1] - with_max[-2]) < 0.2 * abs(without[-1] - without[-2])


@pytest.mark.parametrize(
    ("options", "shrink"),
    [
        ({}, 1 - 0.1 * 0.5),
        ({"fixed_decay": True}, 1 - 0.5),
        ({"decoupled_weight_decay": False}, None),
    ],
)
def test_kinds_of_weight_decay(options, shrink):
    path, state = run([0.0], theta=2.0, lr=0.1, weight_decay=0.5, **options)
    if shrink is None:  # the decay is the gradient
        assert float(state.m) == pytest.approx(0.1 * 0.5 * 2.0)
        assert path[0] == pytest.approx(2.0 - 1.0)
    else:
        assert float(state.m) == 0
        assert path[0] == pytest.approx(2.0 * shrink)


@pytest.mark.parametrize("fixed_decay", [False, True])
def test_a_step_of_lr_zero_moves_nothing(fixed_decay):
    path, _ = run([1.0], theta=2.0, lr=0.0, weight_decay=0.5, fixed_decay=fixed_decay)
    assert path == [2.0]


def test_maximize_mirrors_the_gradient_but_not_l2_decay():
    options = {"lr": 0.1, "weight_decay": 0.3, "decoupled_weight_decay": False}
    up, _ = run([1.0, 2.0], theta=1.0, maximize=True, **options)
    down, _ = run([-1.0, -2.0], theta=1.0, **options)
    assert up == down


def test_rectification_factor():
    # For beta2 = 0.999 the variance is intractable for 5 steps; then rho_6 = 5.9950 to four digits and r_6 from it.
    assert [reference.rectification(t, 0.999) is None for t in range(1, 8)] == [True] * 5 + [False] * 2
    rho_inf, rho = 1999.0, 1999 - 2 * 6 * 0.999**6 / (1 - 0.999**6)
    expected = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    assert reference.rectification(6, 0.999) == pytest.approx(expected, rel=1e-12)
    assert reference.rectification(10**6, 0.999) == pytest.approx(1, rel=1e-9)
    assert reference.rectification(10**6, 0.5) is None


def test_rectified_steps_start_as_plain_momentum():
    path, _ = run([4.0] * 6, lr=0.01, rectify=True)
    np.testing.assert_allclose(-np.diff([0.0, *path[:5]]), 0.01 * 4.0, rtol=1e-12)
    assert 0 < path[4] - path[5] < 0.01


def test_arguments_are_not_changed():
    theta, grad = np.ones(3), np.full(3, 2.0)
    state = reference.State.zeros(theta)
    reference.step(theta, grad, state, amsgrad=True, weight_decay=0.1)
    assert (theta == 1).all()
    assert (grad == 2).all()
    assert (state.m == 0).all()


def test_what_v_averages_of_the_last_micro_batch_is_not_below_half_the_momentum():
    """By hand: m = 1/2 and n = (1/2 - 1/2) / 2 = 0 in the first step, of which v takes (m / 2)^2."""
    options = {"betas": (0.5, 0.25), "eps": 0.0, "lr": 1.0, "second_moment": "lookahead"}
    theta, state = reference.step(0.0, 1.0, reference.State.zeros(0.0), last_grad=-0.25, passes=2, **options)
    assert (float(state.m), float(state.v)) == (0.5, 0.75 / 16)
    assert float(theta) == -1 / 0.25
    # Above it: n = 3/4 of m's sign; and of a whole step's gradient n is what it is.
    _, state = reference.step(0.0, 1.0, reference.State.zeros(0.0), last_grad=0.5, passes=2, **options)
    assert float(state.v) == 0.75 * 0.75**2
    _, state = reference.step(0.0, -2.0, reference.State(1, np.array(1.0), np.array(0.0), np.array(0.0)), **options)
    assert (float(state.m), float(state.v)) == (-0.5, 0.75 * 1.25**2)


@pytest.mark.parametrize("passes", [2, 8, 64])
@pytest.mark.parametrize("beta1", [0.5, 0.9, 0.98])
def test_the_floor_bounds_the_first_step_and_hardly_moves_the_mean(beta1, passes):
    rng, n = np.random.default_rng(0), 200_000
    betas, options = (beta1, 0.0), {"adjust_lr": "match_rms_adamw", "eps": 0.0, "lr": 1.0}
    last = rng.standard_normal(n)
    rest = rng.standard_normal(n) * (passes - 1) ** 0.5
    first, _ = reference.step(
        np.zeros(n), last + rest, reference.State.zeros(last), betas=betas, last_grad=last, passes=passes, **options
    )
    bound = 2 * ((1 + beta1) ** 2 + passes - 1) ** 0.5
    assert 0.9 * bound < np.abs(first).max() <= bound * (1 + 1e-12)
    # With beta2 = 0, v is what a step adds to it; m in the long run of the sums' noise, of variance `passes`.
    m = rng.standard_normal(n) * ((1 - beta1) / (1 + beta1) * passes) ** 0.5
    _, state = reference.step(
        np.zeros(n), last + rest, reference.State(999, m, m, m), betas=betas, last_grad=last, passes=passes, **options
    )
    mean = reference.white_noise_mean(1000, betas, lookahead=True, passes=passes)
    assert 0 < state.v.mean() / passes / mean - 1 < 0.02
