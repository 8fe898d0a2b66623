"""How far generated images are from real ones, given the features of both.

Tested in tests/study/test_gan_distances.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 2000
"""Points compared at a time: the table of distances of 50,000 points would take 20 GB."""


def _exact(features: Tensor) -> Tensor:
    # Apple's GPUs have no float64.
    return (features.cpu() if features.device.type == "mps" else features).double()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared Fréchet distance of the Gaussians fitted to two sets of features, [n, k] and [m, k].

    |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017), in float64.
    The trace of the root comes from the symmetric matrix C_a^(1/2) C_b C_a^(1/2), whose eigenvalues are the same.
    NaN if a feature is not finite.
    """
    a, b = _exact(a), _exact(b)
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return float("nan")
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    return float((mean + cov_a.trace() + cov_b.trace() - 2 * cross).clamp_min(0))


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Return the share of fakes within the reals' manifold and of reals within the fakes' (arXiv 1904.06991).

    A point lies within a set's manifold if it is as near to one of its points as that one's k-th neighbour is.

    Args:
        real: features [n, d].
        fake: features [m, d].
        k: which neighbour.

    Raises:
        ValueError: if a set has not more than ``k`` points.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"real and fake must have more than k = {k} points each, got {len(real)} and {len(fake)}")
    real, fake = _exact(real), _exact(fake)

    def radii(points: Tensor) -> Tensor:
        # The nearest is the point itself.
        return torch.cat([torch.cdist(part, points).kthvalue(k + 1, 1).values for part in points.split(ROWS)])

    real_radii = radii(real)
    precise: list[Tensor] = []
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for part, part_radii in zip(fake.split(ROWS), radii(fake).split(ROWS), strict=True):
        distances = torch.cdist(part, real)
        precise.append((distances <= real_radii).any(1))
        recalled |= (distances <= part_radii[:, None]).any(0)
    return float(torch.cat(precise).double().mean()), float(recalled.double().mean())
