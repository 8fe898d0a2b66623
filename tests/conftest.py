"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# One thread a worker, unless a test asks for more: on few cores OpenMP's threads wait for one another by spinning, and
# small tensors took ten times as long. It is read when torch is imported; the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A deadline measures the machine: under load it fails what is right.
settings.register_profile("adamomentum", deadline=None)
settings.load_profile("adamomentum")
