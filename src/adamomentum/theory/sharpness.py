"""The largest eigenvalue of a network's Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["top_eigenvalue"]


def top_eigenvalue(
    loss: Callable[[], Tensor],
    params: Sequence[Tensor],
    *,
    iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> float:
    """Return the eigenvalue of the Hessian that is largest in size, by power iteration on products with the Hessian.

    Args:
        loss: computes a loss from ``params``, the same each time: no dropout, no sampling.
        params: leaves that require gradients.
        iterations: at most so many products.
        tolerance: stop when the estimate changes by less than this share.
        seed: of the starting vector.

    Returns:
        The Rayleigh quotient of the last vector, in units of the loss over those of the parameters squared: negative if
        that eigenvalue is.

    Raises:
        ValueError: if ``params`` is empty or ``iterations`` is not positive.
    """
    if not params:
        raise ValueError("params must not be empty; pass the model's parameters")
    if iterations < 1:
        raise ValueError(f"iterations must be >= 1, got {iterations}")
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(), params, create_graph=True)
    generator = torch.Generator().manual_seed(seed)
    vector = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) for p in params]
    estimate = 0.0
    for _ in range(iterations):
        norm = torch.sqrt(sum((v.square().sum() for v in vector), torch.zeros(())))
        if norm == 0:  # the Hessian is 0 along the starting vector
            return 0.0
        vector = [v / norm for v in vector]
        product = torch.autograd.grad(gradients, params, vector, retain_graph=True, materialize_grads=True)
        previous, estimate = estimate, float(sum((v * h).sum() for v, h in zip(vector, product, strict=True)))
        if abs(estimate - previous) < tolerance * abs(estimate):
            break
        vector = list(product)
    return estimate
