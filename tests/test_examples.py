"""Every example runs; each one checks for itself that it learns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SECONDS = 240

# What each needs beside torch, and how it is started.
PLAIN = {
    "training_loop.py": (),
    "mixed_precision.py": (),
    "layer_decay.py": (),
    "compiled_step.py": (),
    "hf_trainer.py": ("transformers", "accelerate"),
    "accelerate_loop.py": ("accelerate",),
    "lightning_module.py": ("lightning",),
    "lora.py": ("peft", "transformers"),
    "tune_with_optuna.py": ("optuna",),
}

pytestmark = [pytest.mark.slow, pytest.mark.clients]


def run(*command: str | Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return found.stdout


@pytest.mark.parametrize(("name", "packages"), PLAIN.items(), ids=PLAIN)
def test_example(name, packages) -> None:
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    assert re.search(r"loss \d", run(FOLDER / name))


def test_none_is_left_out() -> None:
    assert {file.name for file in FOLDER.glob("*.py")} == {*PLAIN}
    listed = (FOLDER / "README.md").read_text()
    assert all(f"({file.name})" in listed for file in FOLDER.glob("*.py"))
