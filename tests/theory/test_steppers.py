"""The steppers are the libraries' optimizers, no copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adamomentum import reference
from adamomentum.theory.steppers import Stepper

NAMES = ("adamomentum", "adam", "adamw", "sgdm", "adabelief")


@pytest.fixture
def gradients():
    return np.random.default_rng(0).normal(size=(20, 7))


@pytest.mark.parametrize("switches", [{}, {"amsgrad": True}, {"full_bias_correction": True}, {"eps": 1e-4}])
def test_adamomentum_is_algorithm_1(gradients, switches) -> None:
    theta, state = np.full(7, 3.0), reference.State.zeros(np.ones(7))
    stepper = Stepper("adamomentum", theta, lr=0.1, **switches)
    for t, gradient in enumerate(gradients):
        stepper.set(lr=0.1 / (t + 1))
        stepper.step(gradient)
        theta, state = reference.step(theta, gradient, state, lr=0.1 / (t + 1), **switches)
        np.testing.assert_allclose(stepper.theta, theta, rtol=1e-12)
    np.testing.assert_allclose(stepper.state["exp_avg"], state.m, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01)),
        ("sgdm", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
    ],
)
def test_the_others_are_torchs(gradients, name, build) -> None:
    parameter = torch.nn.Parameter(torch.ones(7, dtype=torch.float64))
    optimizer, stepper = build([parameter]), Stepper(name, np.ones(7), lr=0.01)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        stepper.step(gradient)
    np.testing.assert_allclose(stepper.theta, parameter.detach().numpy(), rtol=1e-12)


def test_adabelief_is_its_papers_update(gradients) -> None:
    stepper = Stepper("adabelief", np.zeros(7), lr=0.01)
    m = s = theta = np.zeros(7)
    for t, g in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * g
        s = 0.999 * s + 0.001 * (g - m) ** 2 + 1e-16
        theta = theta - 0.01 * m / (1 - 0.9**t) / (np.sqrt(s / (1 - 0.999**t)) + 1e-16)
        stepper.step(g)
    np.testing.assert_allclose(stepper.theta, theta, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_dropping_rows_changes_nothing_for_the_others(gradients, name) -> None:
    whole, part = (Stepper(name, np.ones(7), lr=0.01) for _ in range(2))
    rows = np.array([True, False, True, True, False, False, True])
    for t, gradient in enumerate(gradients):
        if t == 5:
            part.keep(rows)
        whole.step(gradient)
        part.step(gradient[rows] if t >= 5 else gradient)
    np.testing.assert_array_equal(part.theta, whole.theta[rows])


@pytest.mark.parametrize("name", NAMES)
def test_rows_can_be_dropped_before_the_first_step_and_all_of_them(name) -> None:
    stepper = Stepper(name, np.ones(3), lr=0.01)
    assert stepper.state == {}
    stepper.keep(np.array([True, False, False]))
    stepper.step(np.ones(1))
    stepper.keep(np.array([False]))
    assert stepper.theta.shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_may_be_projected_between_steps(name) -> None:
    stepper = Stepper(name, np.full(2, 0.5), lr=10.0)
    stepper.step(np.ones(2))
    stepper.theta.clip(-1, 1, out=stepper.theta)
    before = stepper.theta.copy()
    assert (before == -1).all()
    stepper.step(-np.ones(2))
    assert np.isfinite(stepper.theta).all()
    assert (stepper.theta != before).any()


def test_the_callers_array_is_left_alone() -> None:
    theta, gradient = np.ones(3), np.ones(3)
    Stepper("adamomentum", theta, lr=0.1).step(gradient)
    assert (theta == 1).all()
    assert (gradient == 1).all()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="no stepper is called 'lion'"):
        Stepper("lion", np.ones(1))
    with pytest.raises(ValueError, match="has no option learning_rate"):
        Stepper("adam", np.ones(1), lr=0.1).set(learning_rate=1.0)
    with pytest.raises(ValueError, match="lr"):
        Stepper("adamomentum", np.ones(1), lr=-1.0)
