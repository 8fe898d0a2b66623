"""What is measured in a network."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from theory.faults import assert_drawn
from torch import nn

import adamomentum
from adamomentum.study import work
from adamomentum.study.data.base import DataError
from adamomentum.theory import sharpness
from adamomentum.theory.experiments import network


def test_signal_of_equal_and_of_opposite_batches() -> None:
    """The gradient of the whole is all signal where batches agree, and none where they cancel."""
    model = nn.Linear(1, 1, bias=False)
    for signs, expected in (((1, 1, 1, 1), 1.0), ((1, -1, 1, -1), 0.0)):

        def loss(rows, signs=signs):
            return signs[int(rows[0]) // network.BATCH] * model.weight.sum()

        assert network._signal(model, loss, 4 * network.BATCH) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_what_full_adds(monkeypatch) -> None:
    monkeypatch.setattr(sharpness, "top_eigenvalue", partial(sharpness.top_eigenvalue, iterations=10))
    claims = {claim.key: claim for claim in network.run("full", 0)}
    assert set(claims) == {"network-noise", "network-flatness"}
    assert not claims["network-flatness"].control.holds
    assert_drawn(network.DRAWINGS, claims)


def test_without_the_data_the_claims_are_undecided(monkeypatch) -> None:
    def unreachable(*arguments):
        raise DataError("no network, no MNIST-1D")

    monkeypatch.setattr(work, "load", unreachable)
    for profile, keys in (("quick", ["network-noise"]), ("full", ["network-noise", "network-flatness"])):
        claims = network.run(profile, 0)
        assert [claim.key for claim in claims] == keys
        for claim in claims:
            assert (claim.verdict, claim.missing, claim.fault) == ("undecided", "no network, no MNIST-1D", False)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_an_optimizer_with_the_square_of_the_gradient_in_v_is_found_out(monkeypatch) -> None:
    """It is AdamW."""
    monkeypatch.setattr(adamomentum, "AdaMomentum", torch.optim.AdamW)
    (claim,) = network.run("quick", 0)
    assert claim.fault
