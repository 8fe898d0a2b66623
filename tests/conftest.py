"""What holds for all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# One thread a worker, unless a test asks for more: on few cores OpenMP's threads wait for one another by spinning, and
# small tensors took ten times as long. It is read when torch is imported; the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A deadline measures the machine: under load it fails what is right.
settings.register_profile("adamomentum", deadline=None)
settings.load_profile("adamomentum")


def pytest_collection_finish() -> None:
    """Spare the garbage collector the modules: going through millions of objects took longer than many a test."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else what nanobind counts at the end looks leaked


@pytest.fixture
def x64() -> Iterator[None]:
    """JAX counts in float64."""
    import jax

    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # from 0.8, and before
    with enable():
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_files():
    """What tests write need not outlive a power cut: for each file that a run keeps, the disk was waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def unrendered(monkeypatch) -> None:
    """Figures are drawn and saved without what is in them: rendering is most of what a report costs."""
    from matplotlib.figure import Figure
    from unrendered import savefig

    monkeypatch.setattr(Figure, "savefig", savefig)
