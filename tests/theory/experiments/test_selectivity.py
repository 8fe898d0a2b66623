"""Basins of one height, who is thrown out of them, and what counts as left sooner."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adamomentum.theory import steppers
from adamomentum.theory.escape import Exits
from adamomentum.theory.experiments import selectivity


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


@pytest.mark.parametrize("shape", selectivity.SHAPES, ids=lambda shape: shape.label)
@pytest.mark.parametrize("sharpness", [1.0, 25.0])
def test_basins_have_one_height(shape, sharpness) -> None:
    width = shape.width(sharpness)
    x = np.linspace(0, width, 20001)[:, None]
    slope = shape.slope(x, width)[:, 0]
    assert np.trapezoid(slope, x[:, 0]) == pytest.approx(selectivity.HEIGHT, rel=1e-6)
    assert shape.slope(-x, width)[:, 0] == pytest.approx(-slope)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_an_optimizer_with_the_square_of_the_gradient_in_v_is_not_selective(monkeypatch) -> None:
    """It is Adam."""
    real = steppers._build
    monkeypatch.setattr(steppers, "_build", lambda name: real("adam" if name == "adamomentum" else name))
    (claim,) = selectivity.run("quick", 0)
    assert claim.fault
    assert not claim.control.holds
