"""Distances between sets of features whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from adamomentum.study.tasks.gan import distances
from adamomentum.study.tasks.gan.distances import frechet_distance, precision_recall


def test_the_frechet_distance_of_two_gaussians_is_known() -> None:
    # Commuting covariances: |mean|^2 + sum (sqrt a - sqrt b)^2. Samples that have exactly these moments.
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(400, 5))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(scipy.linalg.sqrtm(np.cov(raw.T)))
    a, b = np.array([1.0, 2, 3, 4, 5]), np.array([4.0, 1, 3, 9, 2])
    shift = np.arange(5.0)
    first, second = torch.from_numpy(white * np.sqrt(a)), torch.from_numpy(white * np.sqrt(b) + shift)
    expected = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [70, 4], ids=["regular", "singular"])
def test_the_frechet_distance_against_scipy(count) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))
    y = rng.normal(size=(count, 6)) @ rng.normal(size=(6, 6)) + 1
    c, d = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(c @ d).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + d - 2 * root)
    distance = frechet_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert distance == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(torch.from_numpy(y), torch.from_numpy(x)) == pytest.approx(distance, rel=1e-6)


def test_single_precision_features_are_compared_in_double() -> None:
    # Far from zero a covariance in float32 would lose all its digits.
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.normal(size=(500, 3)) + 1000).float()
    y = torch.from_numpy(2 * rng.normal(size=(500, 3)) + 1000).float()
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(x.double() - 1000, y.double() - 1000), rel=1e-8)


def test_a_network_that_blew_up_has_no_distance() -> None:
    assert np.isnan(frechet_distance(torch.full((9, 2), torch.nan), torch.rand(9, 2)))
    assert np.isnan(frechet_distance(torch.rand(9, 2), torch.full((9, 2), torch.inf)))


def test_precision_and_recall_of_points_whose_answer_is_plain() -> None:
    real = torch.arange(10.0)[:, None]
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 1000) == (0.0, 0.0)
    # One tight spot among the reals: all of it is real, next to nothing of the reals is covered.
    spot = 5 + torch.linspace(0, 1e-3, 10)[:, None]
    precision, recall = precision_recall(real, spot)
    assert precision == 1.0
    assert recall <= 0.1
    # Half of the fakes far away.
    half = torch.cat([real, real + 1000])
    assert precision_recall(real, half) == (0.5, 1.0)


def test_the_neighbour_that_counts() -> None:
    # Within the reals the third neighbour of 0 is 3 away, that of the far point 97: 3.5 is within both, -3.5 in none.
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]])
    fake = torch.tensor([[-3.5], [-3.0], [3.5], [50.0], [300.0]])
    assert precision_recall(real, fake)[0] == pytest.approx(3 / 5)
    assert precision_recall(real, fake, k=1)[0] == pytest.approx(2 / 5)


def test_in_parts_as_in_one(monkeypatch) -> None:
    rng = np.random.default_rng(3)
    real, fake = torch.from_numpy(rng.normal(size=(60, 2))), torch.from_numpy(0.5 + rng.normal(size=(75, 2)))
    whole = precision_recall(real, fake)
    assert 0 < whole[0] < 1
    assert 0 < whole[1] < 1
    monkeypatch.setattr(distances, "ROWS", 7)
    assert precision_recall(real, fake) == whole


def test_too_few_points_are_an_error() -> None:
    with pytest.raises(ValueError, match="more than k = 3 points each, got 3 and 9"):
        precision_recall(torch.rand(3, 2), torch.rand(9, 2))
