"""A file an experiment: what is claimed, how it is tested, how it is drawn.

Its ``run`` returns the claims that share its runs, and ``DRAWINGS`` has their figures, by the key of the claim. Each
draws its random numbers from ``default_rng([seed, number])`` with a number of its own, so that no two see the same.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from adamomentum.theory.claims import Drawing, Experiment

# In the order of the page.
NAMES = (
    "algorithm",
    "frequency",
    "sandwich",
    "noise",
    "startup",
    "floor",
    "drop_in",
    "regret",
    "counterexample",
    "stationarity",
    "drop_in_bounds",
    "exits",
    "selectivity",
    "trapping",
    "network",
)


def by_name() -> dict[str, Experiment]:
    """Return every experiment by name, in the order of the page."""
    return {name: _module(name).run for name in NAMES}


def drawings() -> dict[str, Drawing]:
    """Return every figure by the key of its claim."""
    return {key: drawing for name in NAMES for key, drawing in getattr(_module(name), "DRAWINGS", {}).items()}


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")
