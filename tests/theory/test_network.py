"""Sharpness, and what is measured in a network."""

from __future__ import annotations

import pytest
import torch
from theory_faults import assert_drawn
from theory_verdicts import VERDICTS
from torch import nn

import adamomentum
from adamomentum.study import work
from adamomentum.study.data.base import DataError
from adamomentum.theory.drawings import network as drawings
from adamomentum.theory.experiments import network
from adamomentum.theory.sharpness import top_eigenvalue


@pytest.mark.parametrize("eigenvalues", [(1.0, 3.0, 2.0), (-5.0, 1.0, 2.0), (4.0, 0.0, 0.0)])
def test_eigenvalue_of_a_quadratic(eigenvalues) -> None:
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    matrix = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    found = top_eigenvalue(lambda: 0.5 * x @ matrix @ x, [x], tolerance=1e-9, iterations=500)
    assert found == pytest.approx(max(eigenvalues, key=abs), rel=1e-6)


def test_eigenvalue_of_a_network_is_that_of_its_hessian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randint(0, 2, (20,))
    params = dict(model.named_parameters())

    def loss_of(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([p.numel() for p in params.values()])
        shaped = {name: part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, shaped, x), y)

    flat = torch.cat([p.detach().flatten() for p in params.values()])
    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss_of, flat))
    found = top_eigenvalue(
        lambda: nn.functional.cross_entropy(model(x), y), list(params.values()), tolerance=1e-8, iterations=2000
    )
    assert found == pytest.approx(eigenvalues[eigenvalues.abs().argmax()].item(), rel=1e-5)
    assert all(p.grad is None for p in params.values())


def test_flat_and_wrong_arguments() -> None:
    x = torch.ones(2, requires_grad=True)
    assert top_eigenvalue(lambda: (x * 0).pow(2).sum(), [x]) == 0
    with pytest.raises(ValueError, match="params must not be empty"):
        top_eigenvalue(lambda: x.sum(), [])
    with pytest.raises(ValueError, match="iterations must be >= 1, got 0"):
        top_eigenvalue(lambda: x.pow(2).sum(), [x], iterations=0)


def test_signal_of_equal_and_of_opposite_batches() -> None:
    """The gradient of the whole is all signal where batches agree, and none where they cancel."""
    model = nn.Linear(1, 1, bias=False)
    for signs, expected in (((1, 1, 1, 1), 1.0), ((1, -1, 1, -1), 0.0)):

        def loss(rows, signs=signs):
            return signs[int(rows[0]) // network.BATCH] * model.weight.sum()

        assert network._signal(model, loss, 4 * network.BATCH) == pytest.approx(expected)


@pytest.mark.slow
def test_claims(monkeypatch) -> None:
    monkeypatch.setattr(network, "SIZES", {"quick": (2, 2), "full": (3, 2)})
    (quick,) = network.run("quick", 0)
    assert (quick.key, quick.verdict) == ("network-noise", VERDICTS["network"]["network-noise"])
    found = {claim.key: claim for claim in network.run("full", 0)}
    assert set(found) == {"network-noise", "network-flatness"}
    assert not found["network-flatness"].control.holds
    assert_drawn(drawings.PANELS, found)


def test_without_the_data_the_claims_are_undecided(monkeypatch) -> None:
    def unreachable(*arguments):
        raise DataError("no network, no MNIST-1D")

    monkeypatch.setattr(work, "load", unreachable)
    for profile, keys in (("quick", ["network-noise"]), ("full", ["network-noise", "network-flatness"])):
        found = network.run(profile, 0)
        assert [claim.key for claim in found] == keys
        for claim in found:
            assert (claim.verdict, claim.missing, claim.fault) == ("undecided", "no network, no MNIST-1D", False)


@pytest.mark.slow
def test_an_optimizer_with_the_square_of_the_gradient_in_v_is_found_out(monkeypatch) -> None:
    """It is AdamW."""
    monkeypatch.setattr(network, "SIZES", {"quick": (2, 2)})
    monkeypatch.setattr(adamomentum, "AdaMomentum", torch.optim.AdamW)
    (claim,) = network.run("quick", 0)
    assert claim.fault
