"""What the benchmark's tests share."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def without_deepspeed(monkeypatch) -> None:
    """Where it is installed it compiles its kernel for minutes."""
    monkeypatch.setitem(sys.modules, "deepspeed", None)
