"""Small real inputs: every test of the study trains on images of a few pixels or not at all."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from study.arrays import make_arrays

from adamomentum.study import registry
from adamomentum.study.data.images import ImageData
from adamomentum.study.spec import Budget, TaskSpec, TrialSpec


@pytest.fixture(scope="session", autouse=True)
def quick_processes():
    """Processes that a test starts are forked off one that has imported torch: spawned, each imports it for seconds.

    Those of the command line, which tests start as a user would, are spawned.
    """
    real = multiprocessing.get_context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            multiprocessing, "get_context", lambda method=None: real({"spawn": "forkserver"}.get(method, method))
        )
        real("forkserver").set_forkserver_preload(["torch._dynamo", "adamomentum.torch", "adamomentum.study.trial"])
        forkserver.ensure_running()
        yield


@pytest.fixture(scope="session")
def tiny_data() -> ImageData:
    x, y = make_arrays()
    part = np.arange(len(y)) % 20
    rows = {"train": part < 12, "val": (part >= 12) & (part < 16), "test": part >= 16}
    return ImageData(
        name="tiny",
        x={split: x[mask] for split, mask in rows.items()},
        y={split: y[mask] for split, mask in rows.items()},
        classes=("a", "b", "c"),
    )


@pytest.fixture
def tiny_npz(tmp_path: Path) -> Path:
    x, y = make_arrays()
    path = tmp_path / "tiny.npz"
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture
def make_spec(tiny_data: ImageData):
    def make(
        optimizer: str = "adamw", lr: float = 1e-2, stage: str = "final", replicate: int = 0, epochs: int = 2
    ) -> TrialSpec:
        return TrialSpec(
            stage=stage,
            task=TaskSpec(family="image-classification", version=2, data_fingerprint=tiny_data.fingerprint),
            optimizer=registry.get(optimizer).spec(lr),
            budget=Budget(epochs=epochs, batch_size=8, evaluations=2),
            replicate=replicate,
        )

    return make


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No package index; what lies in the returned folder can be downloaded all the same."""
    shelf = tmp_path / "shelf"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    return shelf


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Writes a study file, and a module of the user's own beside it, where Python does not look by itself."""
    modules = []
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name: str, study: str, module: str, code: str) -> Path:
        folder = tmp_path / "here"
        folder.mkdir()
        (folder / f"{module}.py").write_text(code)
        modules.append(module)
        (folder / name).write_text(study)
        return folder / name

    yield write
    for module in modules:
        sys.modules.pop(module, None)
