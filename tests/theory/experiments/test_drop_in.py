"""What the drop-in's experiments conclude of a wrong divisor of v, and of a wrong optimizer."""

from __future__ import annotations

import numpy as np
import pytest
from theory.faults import WithoutMaximum, install, too_long
from theory.verdicts import VERDICTS

from adamomentum.theory.drop_in import white_noise_share
from adamomentum.theory.experiments import drop_in, drop_in_bounds
from adamomentum.torch import scalars

RIGHT = scalars.white_noise_mean_at


def later(t, betas, *, lookahead, passes):
    """kappa of the next step."""
    return RIGHT(t + 1, betas, lookahead=lookahead)


def stationary(t, betas, *, lookahead, passes):
    """The limit times 1 - beta2^t: as if m had its size from the start."""
    return white_noise_share(betas[0], "lookahead" if lookahead else "momentum") * (1 - betas[1] ** t)


def printed(t, betas, *, lookahead, passes):
    """Algorithm 1's."""
    return 1 - betas[1] ** t


def other(t, betas, *, lookahead, passes):
    """The other form's kappa."""
    return RIGHT(t, betas, lookahead=not lookahead)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("wrong", [later, stationary, printed, other])
def test_a_wrong_divisor_is_found_out(wrong, monkeypatch) -> None:
    monkeypatch.setattr(scalars, "white_noise_mean_at", wrong)
    rng = np.random.default_rng(0)
    assert drop_in._unbiased("quick", rng).fault
    assert drop_in._first_step("quick", rng).fault
    if wrong is not later:  # whose error is gone by step 5
        assert drop_in._length("quick", rng).fault


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_wrong_average_is_found_out(monkeypatch) -> None:
    """The momentum where the look-ahead momentum belongs, with its own divisor."""
    monkeypatch.setattr(
        drop_in, "options_of", lambda averaged: {"adjust_lr": "match_rms_adamw", "second_moment": "momentum"}
    )
    rng = np.random.default_rng(0)
    assert drop_in._signal("quick", rng).fault
    assert drop_in._alternating("quick", rng).fault


@pytest.mark.parametrize("averaged", drop_in.FORMS)
def test_the_extremal_gradients_are_the_longest(averaged) -> None:
    """To 1e-9 of what Cauchy and Schwarz allow, but for kappa_t, which is 0.2 % below its limit at step 6000."""
    gradients = drop_in.extremal(averaged, (0.9, 0.99), 3000)[:, None]
    *_, (last,) = drop_in.responses([drop_in.drop_in(averaged, (1,), betas=(0.9, 0.99))], gradients)
    assert float(last[0]) == pytest.approx(drop_in.longest_update((0.9, 0.99), averaged), rel=1e-9)


def test_the_measured_divisor_is_the_optimizers() -> None:
    means, divisors = drop_in.mean_second_moments("gradient", (0.9, 0.99), 40)
    np.testing.assert_allclose(divisors, 1 - 0.99 ** np.arange(1, 41), rtol=1e-9)
    np.testing.assert_allclose(means, divisors, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_other_random_numbers_lead_to_the_same() -> None:
    for name, run in (("drop_in", drop_in.run), ("drop_in_bounds", drop_in_bounds.run)):
        assert {claim.key: claim.verdict for claim in run("quick", 1)} == VERDICTS[name]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("faulty", [WithoutMaximum, too_long(1000)], ids=["without the maximum", "steps too long"])
def test_what_the_bounds_need_is_found_out(faulty, monkeypatch) -> None:
    install(monkeypatch, faulty)
    # After few steps the bound is still larger than any gradient.
    monkeypatch.setitem(drop_in_bounds.STEPS, "quick", 16384)
    claims = {claim.key: claim for claim in drop_in_bounds.run("quick", 0)}
    assert claims["drop-in-regret"].fault
    # Theorem 1 says nothing of a maximum.
    assert claims["drop-in-stationarity"].fault == (faulty is not WithoutMaximum)
