"""What the theory's tests share."""

from __future__ import annotations

import pytest

from adamomentum.theory.experiments import exits, floor, frequency, network, regret, selectivity, stationarity, trapping


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
        (network, "SIZES", (2, 2)),
    ):
        monkeypatch.setitem(getattr(module, name), "quick", size)
    monkeypatch.setitem(network.SIZES, "full", (3, 2))
