"""Scripts of tests leave neither modules nor folders behind."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def own_modules(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
