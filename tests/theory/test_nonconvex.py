"""The bound on the gradient norm: its numbers, and the inequalities that it follows from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adamomentum.theory.nonconvex import Constants, gradnorm_bound, preconditioner_bounds, step_limit

SIZE_1 = {"smoothness": 1.0, "variance": 1.0, "largest": 1.0, "gap": 1.0, "first_gradient": 1.0}


def test_by_hand() -> None:
    c = Constants(smoothness=2.0, variance=3.0, largest=3.0, gap=5.0, first_gradient=7.0, eps=4.0, beta2=0.75)
    assert preconditioner_bounds(c) == pytest.approx((0.2, 0.25))
    kappa = 1 / (2 * math.sqrt(2 * 0.2 * 0.25))
    alpha, one_minus = [0.1, 0.05], [0.5, 0.4, 0.3]
    bound = gradnorm_bound(c, alpha, one_minus)
    expected = 10 / 0.2 + kappa * (0.25 * 7 + 0.25 * 3 + 3 * (0.16 + 0.09))
    assert bound.value == pytest.approx(expected / (0.05 * 2))
    assert bound.applicable
    # What grows: the smallest counts.
    assert gradnorm_bound(c, [0.05, 0.1], one_minus).value == bound.value
    printed = 10 / 0.2 + kappa * (3 + 7) + math.sqrt(2 / (2 * 0.2 * 0.25)) * 3 * 0.25
    assert gradnorm_bound(c, alpha, one_minus, printed=True).value == pytest.approx(printed / 0.1)
    limit = min(0.4 * math.sqrt(0.2 / (2 * 4 * 0.25**3)), 0.2 / (2 * 2 * 0.25**2))
    assert step_limit(c, 0.4) == pytest.approx(limit)


def test_what_is_not_applicable_says_why() -> None:
    c = Constants(**SIZE_1, eps=1e-3)
    fine = gradnorm_bound(c, [0.1, 0.1], [0.5] * 3)
    assert fine.applicable
    assert fine.reason == ""
    assert "grew in step 2" in gradnorm_bound(c, [0.1, 0.11], [0.5] * 3, printed=True).reason
    assert "got 10" in gradnorm_bound(c, [10.0, 0.1], [0.5] * 3).reason
    default = gradnorm_bound(Constants(**SIZE_1), [1e-3], [0.1] * 2)
    assert default.value > 0
    assert not default.applicable
    assert "must be <= 5e-14 in step 1, got 0.001" in default.reason


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Constants(**{**SIZE_1, "smoothness": 0.0}), "smoothness must be finite and > 0, got 0"),
        (lambda: Constants(**SIZE_1, eps=0.0), "eps must be finite and > 0, got 0"),
        (lambda: Constants(**{**SIZE_1, "gap": -1.0}), "gap must be finite and >= 0, got -1"),
        (lambda: gradnorm_bound(Constants(**SIZE_1), [0.1], [0.1]), "one number more than alpha"),
        (lambda: gradnorm_bound(Constants(**SIZE_1), [0.1], [0.1, 0.0]), r"one_minus_beta1 must be in \(0, 1\]"),
        (lambda: gradnorm_bound(Constants(**SIZE_1), [0.0], [0.1, 0.1]), "alpha must be > 0"),
        (lambda: step_limit(Constants(**SIZE_1), 1.5), r"one_minus_beta1 must be in \(0, 1\], got 1.5"),
    ],
)
def test_wrong_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_inequalities_it_follows_from() -> None:
    """The three of the docstring, on random vectors; theta moves within the region where f is known to be smooth."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        d = int(rng.integers(1, 6))
        low, high = np.sort(10 ** rng.uniform(-1, 1, 2))
        p, beta1 = rng.uniform(low, high, d), rng.uniform(0, 1)
        theta, m = rng.uniform(-4, 4, d), rng.normal(size=d) * 10 ** rng.uniform(-2, 1)
        limit = min((1 - beta1) * math.sqrt(low / (2 * high**3)), low / (2 * high**2))
        a = limit * rng.uniform(0, 1)
        after = theta - a * p * m
        f, g, g_after = (lambda x: (1 - np.cos(x)).sum()), np.sin(theta), np.sin(after)
        off = ((m - g) ** 2).sum()
        descent = f(theta) + a * high * off / 2 - a * low * (g**2).sum() / 2 - a * low * (m**2).sum() / 4
        assert f(after) <= descent + 1e-9
        # The mean over the noise of the next gradient, of variance s.
        s = 10 ** rng.uniform(-2, 1)
        mean = ((beta1 * (m - g) + beta1 * (g - g_after)) ** 2).sum() + (1 - beta1) ** 2 * s
        moved = beta1**2 * a**2 * high**2 * (m**2).sum() / (1 - beta1)
        assert mean <= beta1 * off + moved + (1 - beta1) ** 2 * s + 1e-9
        # The terms in |m|^2 cancel.
        assert high * math.sqrt(low / (2 * high**3)) / 2 * moved <= a * low * (m**2).sum() / 4 + 1e-9
