"""The largest eigenvalue, of Hessians that are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adamomentum.theory.sharpness import top_eigenvalue


@pytest.mark.parametrize("eigenvalues", [(1.0, 3.0, 2.0), (-5.0, 1.0, 2.0), (4.0, 0.0, 0.0)])
def test_eigenvalue_of_a_quadratic(eigenvalues) -> None:
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    matrix = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    eigenvalue = top_eigenvalue(lambda: 0.5 * x @ matrix @ x, [x], tolerance=1e-9, iterations=500)
    assert eigenvalue == pytest.approx(max(eigenvalues, key=abs), rel=1e-6)


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
    eigenvalue = top_eigenvalue(
        lambda: nn.functional.cross_entropy(model(x), y), list(params.values()), tolerance=1e-8, iterations=2000
    )
    assert eigenvalue == pytest.approx(eigenvalues[eigenvalues.abs().argmax()].item(), rel=1e-5)
    assert all(p.grad is None for p in params.values())


def test_flat_and_wrong_arguments() -> None:
    x = torch.ones(2, requires_grad=True)
    assert top_eigenvalue(lambda: (x * 0).pow(2).sum(), [x]) == 0
    with pytest.raises(ValueError, match="params must not be empty"):
        top_eigenvalue(lambda: x.sum(), [])
    with pytest.raises(ValueError, match="iterations must be >= 1, got 0"):
        top_eigenvalue(lambda: x.pow(2).sum(), [x], iterations=0)
