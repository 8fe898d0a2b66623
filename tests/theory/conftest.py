"""What the theory's tests share."""

from __future__ import annotations

import pytest

from adamomentum.theory.experiments import (
    drop_in,
    drop_in_bounds,
    exits,
    floor,
    frequency,
    network,
    noise,
    regret,
    sandwich,
    selectivity,
    startup,
    stationarity,
    trapping,
)


@pytest.fixture
def small(monkeypatch) -> None:
    """Experiments of sizes that take seconds and lead to the same verdicts."""
    for module, name, size in (
        (frequency, "BETA1S", (0.9,)),
        (floor, "RUNS", [((0.9, 0.99), 4000)]),
        (sandwich, "STEPS", 400),
        (noise, "MEANS", (400, 800, 400)),
        (noise, "QUADRATIC", (3000, 500, 400)),
        (noise, "CORRELATED", (400, 200, 500)),
        (startup, "SEARCH", (60, 150)),
        (drop_in, "IMPULSES", 60),
        (drop_in, "NOISE", (20_000, 80)),
        (drop_in, "SEARCH", (60, 150)),
        (drop_in, "ALONE", 3000),
        (drop_in, "CORRELATED", (400, 1500, 1000)),
        (drop_in_bounds, "ROUNDS", 1024),
        (drop_in_bounds, "STEPS", 512),
        (regret, "SEARCH", (12, 60)),
        (regret, "LONG", 4000),
        (regret, "ROUNDS", 1024),
        (regret, "PICTURE", 600),
        (stationarity, "STEPS", (2048, 512)),
        (exits, "WALKERS", (300, 100)),
        (exits, "LIMIT", 6000),
        (selectivity, "SIZES", (100, 60, 120, (25.0,))),
        (trapping, "STARTS", 200),
        (network, "SIZES", (2, 1)),
    ):
        monkeypatch.setitem(getattr(module, name), "quick", size)
    monkeypatch.setitem(network.SIZES, "full", (2, 1))
    monkeypatch.setattr(noise, "BETA1S", (0.5, 0.9, 0.99))
    # Every fourth learning rate.
    monkeypatch.setattr(trapping, "LRS", trapping.LRS[::4])
    monkeypatch.setattr(trapping, "EQUAL", trapping.EQUAL // 4)
    monkeypatch.setattr(trapping, "STEPS", 400)
    # Streams that mislead sooner, at a smaller beta1.
    monkeypatch.setattr(regret, "LONG_BETAS", (0.8, 0.96))
    monkeypatch.setattr(regret, "LONG_PERIOD", 41)
    monkeypatch.setattr(regret, "LONG_RATIOS", (1.05, 1.1, 1.2))
    monkeypatch.setattr(startup, "BETAS", ((0.9, 0.999), (0.9, 0.98), (0.95, 0.9)))
