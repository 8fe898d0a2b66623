"""Heavy-tailed noise, Assumption 5, and the stopwatch of exit times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kstest, levy_stable

from adamomentum.theory import escape
from adamomentum.theory.escape import (
    Exits,
    assumption5,
    exit_times,
    frozen_exit_steps,
    sample_stable,
    stable_tail_constant,
)
from adamomentum.theory.steppers import Stepper


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.5, 2.0])
def test_stable_numbers_are_scipys(alpha) -> None:
    drawn = sample_stable(alpha, (2000,), np.random.default_rng(0))
    assert kstest(drawn, lambda x: levy_stable.cdf(x, alpha, 0)).pvalue > 0.01


@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.8])
def test_tail_constant(alpha) -> None:
    x = 100.0  # farther out scipy's integral is 0
    assert levy_stable.sf(x, alpha, 0) * x**alpha == pytest.approx(stable_tail_constant(alpha), rel=0.005)


def test_tail_constant_by_hand() -> None:
    assert stable_tail_constant(1.0) == pytest.approx(1 / math.pi)  # Cauchy
    assert stable_tail_constant(2.0) == 0
    assert frozen_exit_steps(1.0, 2.0, 0.1, 0.5, 3.0) == pytest.approx(3 * 2 / 0.05 * math.pi / 2)
    # alpha 1.5: (R w / (lr sigma))^1.5 = 100^1.5 = 1000, and C = sin(3 pi / 4) Gamma(3 / 2) / pi = 1 / sqrt(8 pi).
    assert frozen_exit_steps(1.5, 2.5, 0.1, 0.5, 2.0) == pytest.approx(1000 * math.sqrt(8 * math.pi) / 2)


def test_assumption_5_by_hand() -> None:
    assert assumption5(0.9) == pytest.approx((1.1 / 0.9, 0.1 / 1.9, False))
    assert assumption5(0.5) == pytest.approx((3, 1 / 3, False))
    # Even a beta1 near to 1 does not help: it asks for more than any average has.
    assert 1 < assumption5(0.999).required < 1.01
    assert not assumption5(0.999).possible
    for beta1, message in ((0.0, r"beta1 must be finite and > 0, got 0"), (1.0, r"beta1 must be in \[0, 1\), got 1")):
        with pytest.raises(ValueError, match=message):
            assumption5(beta1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stable_tail_constant(0.0), r"alpha must be in \(0, 2\], got 0"),
        (lambda: sample_stable(2.1, (1,), np.random.default_rng()), r"alpha must be in \(0, 2\], got 2.1"),
        (lambda: frozen_exit_steps(2.0, 1, 1, 1), r"alpha must be in \(0, 2\), got 2.0"),
        (lambda: frozen_exit_steps(1.5, 0, 1, 1), "width must be finite and > 0, got 0"),
        (lambda: frozen_exit_steps(1.5, 1, 1, 1, -1), "preconditioner must be finite and > 0, got -1"),
    ],
)
def test_wrong_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_mean_of_censored_exits() -> None:
    exits = Exits(np.array([10.0, 20.0]), censored=2, limit=50)
    assert exits.mean == pytest.approx(65)
    assert exits.error == pytest.approx(1 / math.sqrt(2))
    nobody = Exits(np.zeros(0), censored=3, limit=50)
    assert math.isinf(nobody.mean)
    assert math.isinf(nobody.error)


def test_the_stopwatch() -> None:
    """Walkers pushed by the same constant gradient leave together, in the step that takes them past the edge."""
    pushed = {"walkers": 3, "limit": 100}
    make = lambda theta: Stepper("sgdm", theta, lr=0.1, momentum=0.0)
    exits = exit_times(make, lambda x: np.full_like(x, -1.0), 0.35, np.zeros, **pushed)
    assert exits.times.tolist() == [4, 4, 4]
    assert (exits.censored, exits.limit) == (0, 4)
    # In two dimensions the distance counts; those that leave in the burn-in are put back.
    exits = exit_times(make, lambda x: np.full_like(x, -1.0), 0.35, np.zeros, burn=3, dimensions=2, **pushed)
    assert exits.times.tolist() == [3, 3, 3]
    nobody = exit_times(make, lambda x: x, 0.35, np.zeros, **pushed)
    assert (nobody.times.size, nobody.censored) == (0, 3)


def test_the_stopwatch_waits_until_enough_have_left() -> None:
    make = lambda theta: Stepper("sgdm", theta, lr=0.1, momentum=0.0)
    # Walker i is pushed by i: it leaves in step 12 / i, rounded up. The last ones never do.
    pushes = np.array([3.0, 2.0, 1.0, 0.0])[:, None]

    def push(x):
        return -pushes[: len(x)] if len(x) == 4 else -pushes[4 - len(x) :]

    exits = exit_times(make, push, 1.15, np.zeros, walkers=4, limit=4)
    assert (exits.times.tolist(), exits.censored, exits.limit) == ([4], 3, 4)
    exits = exit_times(make, push, 1.15, np.zeros, walkers=4, limit=4, enough=3)
    assert (exits.times.tolist(), exits.censored, exits.limit) == ([4, 6, 12], 1, 12)
    exits = exit_times(make, push, 1.15, np.zeros, walkers=4, limit=20, enough=3)
    assert (exits.times.tolist(), exits.censored, exits.limit) == ([4, 6, 12], 1, 20)
    exits = exit_times(make, push, 1.15, np.zeros, walkers=4, limit=4, enough=4)
    assert (exits.censored, exits.limit) == (1, 4 * escape.PATIENCE)


def test_walkers_that_leave_do_not_disturb_the_others() -> None:
    """The moments of those that stay go on."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=(50, 1)) for _ in range(200)]
    stepper, theta = Stepper("adamomentum", np.zeros((50, 1)), lr=0.05), []
    for g in noise:
        stepper.step(g + stepper.theta)
        theta.append(np.abs(stepper.theta[:, 0].copy()) > 0.3)
    first = np.where(np.any(theta, axis=0), np.argmax(theta, axis=0) + 1, 0)

    alive = np.arange(50)
    stepper, times = Stepper("adamomentum", np.zeros((50, 1)), lr=0.05), np.zeros(50)
    for t, g in enumerate(noise, 1):
        stepper.step(g[alive] + stepper.theta)
        left = np.abs(stepper.theta[:, 0]) > 0.3
        times[alive[left]] = t
        stepper.keep(~left)
        alive = alive[~left]
    np.testing.assert_array_equal(times, first)
