"""What the theory's tests share."""

from __future__ import annotations

import pytest

from adamomentum.theory.experiments import (
    exits,
    floor,
    frequency,
    network,
    noise,
    regret,
    selectivity,
    stationarity,
    trapping,
)


@pytest.fixture
def small(monkeypatch) -> None:
    """Experiments of sizes that take seconds and lead to the same verdicts."""
    for module, name, size in (
        (frequency, "BETA1S", (0.9,)),
        (floor, "RUNS", [((0.9, 0.99), 4000)]),
        (regret, "SEARCH", (20, 40)),
        (regret, "LONG", 25_000),
        (regret, "ROUNDS", 1024),
        (stationarity, "STEPS", (2048, 512)),
        (exits, "WALKERS", (300, 100)),
        (exits, "LIMIT", 6000),
        (selectivity, "SIZES", (100, 60, 120, (25.0,))),
        (trapping, "STARTS", 200),
        (network, "SIZES", (2, 1)),
        (noise, "SIGNAL", (250, 1000, 500)),
        (noise, "FLOOR", (1500, 700, 500)),
        (noise, "SEQUENCES", (200, 700)),
    ):
        monkeypatch.setitem(getattr(module, name), "quick", size)
    monkeypatch.setitem(network.SIZES, "full", (2, 1))
    monkeypatch.setattr(noise, "BETA1S", (0.5, 0.9, 0.99))
    # Every fourth learning rate.
    monkeypatch.setattr(trapping, "LRS", trapping.LRS[::4])
    monkeypatch.setattr(trapping, "EQUAL", trapping.EQUAL // 4)
    monkeypatch.setattr(trapping, "STEPS", 400)
