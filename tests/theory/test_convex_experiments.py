"""What the experiments on convex streams conclude, and that they conclude otherwise of a wrong optimizer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from theory_faults import assert_drawn, install, too_long
from theory_verdicts import VERDICTS

from adamomentum import AdaMomentum
from adamomentum.theory import page
from adamomentum.theory.drawings import convex as drawings
from adamomentum.theory.experiments import counterexample, regret

EXPERIMENTS = {"regret": regret, "counterexample": counterexample}


@pytest.fixture
def few_games(monkeypatch):
    monkeypatch.setattr(regret, "SEARCH", {"quick": (20, 40)})
    monkeypatch.setattr(regret, "LONG", {"quick": 25_000})
    monkeypatch.setattr(regret, "ROUNDS", {"quick": 1024})


def claims(name: str, seed: int = 0) -> dict:
    return {claim.key: claim for claim in EXPERIMENTS[name].run("quick", seed)}


@pytest.mark.usefixtures("few_games")
@pytest.mark.parametrize("name", ["regret", pytest.param("counterexample", marks=pytest.mark.slow)])
def test_verdicts(name) -> None:
    found = claims(name)
    assert {key: claim.verdict for key, claim in found.items()} == VERDICTS[name]
    for claim in found.values():
        assert not claim.fault
        json.dumps(page._plain(claim.data), allow_nan=False)
    assert_drawn([panel for panel in drawings.PANELS if panel.claim in found], found)


def test_every_figure_has_its_claim() -> None:
    assert {panel.claim for panel in drawings.PANELS} <= {key for name in EXPERIMENTS for key in VERDICTS[name]}


class WithoutMaximum(AdaMomentum):
    """amsgrad is not done."""

    def step(self, closure=None):
        for state in self.state.values():
            if "max_exp_avg_sq" in state:
                state["max_exp_avg_sq"].zero_()
        return super().step(closure)


@pytest.mark.slow
@pytest.mark.usefixtures("few_games")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_optimizer_without_the_maximum_is_found_out(monkeypatch, name) -> None:
    install(monkeypatch, WithoutMaximum)
    found = claims(name)
    assert {key for key, claim in found.items() if claim.verdict != VERDICTS[name][key]} == VERDICTS[name].keys()
    assert name != "regret" or found["constant-beta1"].fault


@pytest.mark.slow
@pytest.mark.usefixtures("few_games")
def test_steps_that_are_too_long_are_found_out(monkeypatch) -> None:
    install(monkeypatch, too_long(10))
    assert claims("regret")["constant-beta1"].fault


@pytest.mark.slow
@pytest.mark.usefixtures("few_games")
def test_other_random_numbers_lead_to_the_same() -> None:
    """Of the counterexample nothing is random."""
    assert {key: claim.verdict for key, claim in claims("regret", seed=1).items()} == VERDICTS["regret"]


def test_critical_gradient_grows_with_the_period() -> None:
    """And is AdaMomentum's own: smaller than Adam's."""
    found = [counterexample.critical("adamomentum", period, (0.5, 0.9)) for period in (3, 11)]
    assert 1 < found[0] < found[1] < counterexample.critical("adam", 11, (0.5, 0.9))


def test_regret_of_a_game_by_hand() -> None:
    """Gradients 1, -3 at theta 1, 0.5: pays -0.5; the best point of the box, 1, pays -2."""
    gradients = np.array([[1.0], [-3.0]])
    losses = gradients[0] * 1 + gradients[1] * 0.5
    assert regret.linear_regret(gradients, losses) == pytest.approx([1.5])
