"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A deadline measures the machine: under load it fails what is right.
settings.register_profile("adamomentum", deadline=None)
settings.load_profile("adamomentum")
