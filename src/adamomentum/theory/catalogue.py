"""All experiments and all figures, in the order of the page."""

from __future__ import annotations

from importlib import import_module

from adamomentum.theory.claims import Experiment
from adamomentum.theory.panel import Panel

EXPERIMENTS = (
    "algorithm",
    "frequency",
    "sandwich",
    "noise",
    "startup",
    "floor",
    "regret",
    "counterexample",
    "stationarity",
    "exits",
    "selectivity",
    "trapping",
    "network",
)
DRAWINGS = ("moments", "convex", "nonconvex", "escape", "network")


def experiments() -> dict[str, Experiment]:
    """Return every experiment by name."""
    found: dict[str, Experiment] = {}
    for module in EXPERIMENTS:
        for experiment in import_module(f"adamomentum.theory.experiments.{module}").EXPERIMENTS:
            if experiment.name in found:
                raise ValueError(f"two experiments are called {experiment.name!r}")
            found[experiment.name] = experiment
    return found


def panels() -> tuple[Panel, ...]:
    """Return every figure."""
    made: list[Panel] = []
    for module in DRAWINGS:
        made += import_module(f"adamomentum.theory.drawings.{module}").PANELS
    return tuple(made)
