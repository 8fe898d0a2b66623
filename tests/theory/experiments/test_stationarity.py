"""The gradient norm beside its bound, of an optimizer whose steps are too long."""

from __future__ import annotations

import pytest
from theory.faults import install, too_long

from adamomentum.theory.experiments import stationarity


@pytest.mark.usefixtures("small")
def test_steps_that_are_too_long_are_found_out(monkeypatch) -> None:
    install(monkeypatch, too_long(100))
    claims = {claim.key: claim for claim in stationarity.run("quick", 0)}
    assert claims["stationarity"].verdict == "not confirmed"
