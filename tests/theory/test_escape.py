"""Heavy-tailed noise, exit times, landscapes, and what the experiments on them conclude."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kstest, levy_stable
from theory_faults import assert_drawn
from theory_verdicts import VERDICTS

from adamomentum.theory import escape, steppers
from adamomentum.theory.drawings import escape as drawings
from adamomentum.theory.escape import (
    Exits,
    assumption5,
    exit_times,
    frozen_exit_steps,
    sample_stable,
    stable_tail_constant,
)
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


def test_the_stopwatch_waits_until_enough_have_left() -> None:
    make = lambda theta: Stepper("sgdm", theta, lr=0.1, momentum=0.0)
    # Walker i is pushed by i: it leaves in step 12 / i, rounded up. The last ones never do.
    pushes = np.array([3.0, 2.0, 1.0, 0.0])[:, None]

    def push(x):
        return -pushes[: len(x)] if len(x) == 4 else -pushes[4 - len(x) :]

    found = exit_times(make, push, 1.15, np.zeros, walkers=4, limit=4)
    assert (found.times.tolist(), found.censored, found.limit) == ([4], 3, 4)
    found = exit_times(make, push, 1.15, np.zeros, walkers=4, limit=4, enough=3)
    assert (found.times.tolist(), found.censored, found.limit) == ([4, 6, 12], 1, 12)
    found = exit_times(make, push, 1.15, np.zeros, walkers=4, limit=20, enough=3)
    assert (found.times.tolist(), found.censored, found.limit) == ([4, 6, 12], 1, 20)
    found = exit_times(make, push, 1.15, np.zeros, walkers=4, limit=4, enough=4)
    assert (found.censored, found.limit) == (1, 4 * escape.PATIENCE)


def exits_of(mean: float, count: int = 1000, censored: int = 0) -> Exits:
    return Exits(np.full(count, mean), censored, int(mean))


def test_sharp_basins_left_sooner() -> None:
    def cell(flat: float, sharp: float, thrown: float = 0.0, count: int = 1000) -> selectivity.Cell:
        return selectivity.Cell(25.0, exits_of(flat, count), exits_of(sharp, count), thrown)

    assert selectivity.left_sooner("x", [cell(200, 100)]).holds
    assert not selectivity.left_sooner("x", [cell(100, 200)]).holds
    # Three standard errors of the ratio of two means of 1,000 are 13 %.
    assert cell(200, 100).error == pytest.approx(math.sqrt(2 / 1000))
    assert not selectivity.left_sooner("x", [cell(113, 100)]).holds
    assert selectivity.left_sooner("x", [cell(116, 100)]).holds
    assert not selectivity.left_sooner("x", [cell(200, 100), cell(113, 100)]).holds
    # Nobody left the sharp basin.
    assert not selectivity.left_sooner("x", [selectivity.Cell(25.0, exits_of(10), Exits(np.zeros(0), 9, 99), 0)]).holds
    # What leaves without noise does not count, for or against; it is not enough alone.
    thrown = selectivity.left_sooner("x", [cell(200, 100), cell(50, 100, thrown=1.0)])
    assert thrown.holds
    assert "0.50 ± 0.02 (h = 25, leaves without noise)" in thrown.text
    assert not selectivity.left_sooner("x", [cell(200, 100, thrown=1.0)]).holds


@pytest.mark.parametrize(("product", "thrown"), [(2.5, 0.0), (4.0, 1.0)])
def test_who_is_thrown_out_of_a_basin(product, thrown) -> None:
    """SGD with momentum 0.9 is stable in a quadratic as long as lr times curvature is below 2 (1 + 0.9) = 3.8."""
    h, noise, rng = 25.0, selectivity.Noise("none"), np.random.default_rng(0)
    assert selectivity.thrown_out("sgdm", product / h, selectivity.SHAPES[0], h, noise, rng, walkers=5) == thrown


def test_noise_that_grows_with_sharpness() -> None:
    def scale(noise: selectivity.Noise, h: float) -> float:
        return float(noise.draw(np.random.default_rng(0), h)((100_000,)).std())

    assert scale(selectivity.GAUSSIAN, 25.0) == pytest.approx(1, rel=0.01)
    assert scale(selectivity.GROWING, 25.0) == pytest.approx(5, rel=0.01)


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
    monkeypatch.setattr(selectivity, "SIZES", {"quick": (100, 60, 120, (25.0,))})
    monkeypatch.setattr(trapping, "STARTS", {"quick": 200})


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_an_optimizer_with_the_square_of_the_gradient_in_v_is_not_selective(monkeypatch) -> None:
    """It is Adam."""
    real = steppers._build
    monkeypatch.setattr(steppers, "_build", lambda name: real("adam" if name == "adamomentum" else name))
    (claim,) = selectivity.run("quick", 0)
    assert claim.fault
    assert not claim.control.holds


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("module", [exits, selectivity, trapping])
def test_verdicts(module) -> None:
    found = {claim.key: claim for claim in module.run("quick", 0)}
    assert {key: claim.verdict for key, claim in found.items()} == VERDICTS[module.EXPERIMENTS[0].name]
    assert_drawn([panel for panel in drawings.PANELS if panel.claim in found], found)
