"""The search for streams that break the bounds, on the right optimizer and on wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
from theory.faults import WithoutMaximum, install, too_long
from theory.verdicts import VERDICTS

from adamomentum.theory.experiments import regret


def claims(seed: int = 0) -> dict:
    return {claim.key: claim for claim in regret.run("quick", seed)}


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_an_optimizer_without_the_maximum_is_found_out(monkeypatch) -> None:
    install(monkeypatch, WithoutMaximum)
    faulty = claims()
    assert all(claim.verdict != VERDICTS["regret"][key] for key, claim in faulty.items())
    assert faulty["constant-beta1"].fault


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_steps_that_are_too_long_are_found_out(monkeypatch) -> None:
    install(monkeypatch, too_long(10))
    assert claims()["constant-beta1"].fault


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_other_random_numbers_lead_to_the_same() -> None:
    assert {key: claim.verdict for key, claim in claims(seed=1).items()} == VERDICTS["regret"]


def test_regret_of_a_game_by_hand() -> None:
    """Gradients 1, -3 at theta 1, 0.5: pays -0.5; the best point of the box, 1, pays -2."""
    gradients = np.array([[1.0], [-3.0]])
    losses = gradients[0] * 1 + gradients[1] * 0.5
    assert regret.linear_regret(gradients, losses) == pytest.approx([1.5])
