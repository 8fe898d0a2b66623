"""Heavy-tailed noise, exit times, landscapes, and what the experiments on them conclude."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kstest, levy_stable
from theory_faults import assert_drawn
from theory_verdicts import VERDICTS

from adamomentum.theory.drawings import escape as drawings
from adamomentum.theory.escape import Exits, exit_times, frozen_exit_steps, sample_stable, stable_tail_constant
from adamomentum.theory.experiments import exits, selectivity, trapping
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
    found = Exits(np.array([10.0, 20.0]), censored=2, limit=50)
    assert found.mean == pytest.approx(65)
    assert found.error == pytest.approx(1 / math.sqrt(2))
    nobody = Exits(np.zeros(0), censored=3, limit=50)
    assert math.isinf(nobody.mean)
    assert math.isinf(nobody.error)


def test_the_stopwatch() -> None:
    """Walkers pushed by the same constant gradient leave together, in the step that takes them past the edge."""
    pushed = {"walkers": 3, "limit": 100}
    make = lambda theta: Stepper("sgdm", theta, lr=0.1, momentum=0.0)
    found = exit_times(make, lambda x: np.full_like(x, -1.0), 0.35, np.zeros, **pushed)
    assert found.times.tolist() == [4, 4, 4]
    assert (found.censored, found.limit) == (0, 4)
    # In two dimensions the distance counts; those that leave in the burn-in are put back.
    found = exit_times(make, lambda x: np.full_like(x, -1.0), 0.35, np.zeros, burn=3, dimensions=2, **pushed)
    assert found.times.tolist() == [3, 3, 3]
    nobody = exit_times(make, lambda x: x, 0.35, np.zeros, **pushed)
    assert (nobody.times.size, nobody.censored) == (0, 3)


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
    stepper, found = Stepper("adamomentum", np.zeros((50, 1)), lr=0.05), np.zeros(50)
    for t, g in enumerate(noise, 1):
        stepper.step(g[alive] + stepper.theta)
        left = np.abs(stepper.theta[:, 0]) > 0.3
        found[alive[left]] = t
        stepper.keep(~left)
        alive = alive[~left]
    np.testing.assert_array_equal(found, first)


@pytest.mark.parametrize("shape", selectivity.SHAPES, ids=lambda shape: shape.label)
@pytest.mark.parametrize("sharpness", [1.0, 25.0])
def test_basins_have_one_height(shape, sharpness) -> None:
    width = shape.width(sharpness)
    x = np.linspace(0, width, 20001)[:, None]
    slope = shape.slope(x, width)[:, 0]
    assert np.trapezoid(slope, x[:, 0]) == pytest.approx(selectivity.HEIGHT, rel=1e-6)
    assert shape.slope(-x, width)[:, 0] == pytest.approx(-slope)


@pytest.mark.parametrize("landscape", trapping.LANDSCAPES, ids=lambda landscape: landscape.label)
def test_the_best_minimum_is_where_it_is_said_to_be(landscape) -> None:
    x = np.linspace(-10, 10, 400_001)
    slope = landscape.slope(x)
    height = np.concatenate([[0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(x))])
    if landscape.label == "sharp hole":
        # The hole itself is lower at its bottom than its surroundings, and higher than the bowl's.
        assert height[np.abs(x - 3).argmin()] > height.min()
    assert x[height.argmin()] == pytest.approx(landscape.best, abs=0.02)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(exits, "WALKERS", {"quick": (300, 100)})
    monkeypatch.setattr(exits, "LIMIT", {"quick": 6000})
    monkeypatch.setattr(selectivity, "SIZES", {"quick": (100, 120, (25.0,))})
    monkeypatch.setattr(trapping, "STARTS", {"quick": 200})


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("module", [exits, selectivity, trapping])
@pytest.mark.parametrize("seed", [0, 1])
def test_verdicts(module, seed) -> None:
    found = {claim.key: claim for claim in module.run("quick", seed)}
    assert {key: claim.verdict for key, claim in found.items()} == VERDICTS[module.EXPERIMENTS[0].name]
    assert_drawn([panel for panel in drawings.PANELS if panel.claim in found], found)
