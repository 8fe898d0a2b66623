"""The stream on which Adam goes the wrong way, and an optimizer without amsgrad."""

from __future__ import annotations

import pytest
from theory.faults import WithoutMaximum, install

from adamomentum.theory.experiments import counterexample


@pytest.mark.slow
def test_an_optimizer_without_the_maximum_is_found_out(monkeypatch) -> None:
    install(monkeypatch, WithoutMaximum)
    (claim,) = counterexample.run("quick", 0)
    assert claim.fault


def test_critical_gradient_grows_with_the_period() -> None:
    """And is AdaMomentum's own: smaller than Adam's."""
    limits = [counterexample.critical("adamomentum", period, (0.5, 0.9)) for period in (3, 11)]
    assert 1 < limits[0] < limits[1] < counterexample.critical("adam", 11, (0.5, 0.9))
