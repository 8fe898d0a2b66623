"""What tests of clients need."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


def need(*packages: str) -> None:
    """Skip the test without these packages, or fail it where they are promised to be there, as in CI."""
    for package in packages:
        if find_spec(package) is None:
            if os.environ.get("ADAMOMENTUM_REQUIRE_CLIENTS") == "1":
                pytest.fail(f"needs {package}, and ADAMOMENTUM_REQUIRE_CLIENTS=1 says that it is there")
            pytest.skip(f"needs {package}")
