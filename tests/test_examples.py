"""Every example runs; each one checks for itself that it learns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

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
    "optax_loop.py": ("optax",),
    "flax_nnx.py": ("flax", "optax"),
    "equinox_loop.py": ("equinox", "optax"),
    "keras_fit.py": ("keras",),
}

DISTRIBUTED = ("ddp.py", "fsdp2.py", "deepspeed_zero.py")

pytestmark = [pytest.mark.slow, pytest.mark.clients]


def run(*command: str | Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "KERAS_BACKEND": "torch"}
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


def on_processes(count: int, name: str, *arguments: str | Path) -> str:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    return run(*launcher, FOLDER / name, *arguments)


@pytest.mark.distributed
@pytest.mark.parametrize("arguments", [(), ("--zero",)], ids=["ddp", "zero"])
def test_data_parallel(arguments, tmp_path) -> None:
    file = tmp_path / "checkpoint.pt"
    assert "on 2 processes" in on_processes(2, "ddp.py", *arguments, "--checkpoint", file)
    saved = torch.load(file)
    assert len(saved["optimizer"]["state"]) == len(saved["model"]) == 4
    assert {state["step"].item() for state in saved["optimizer"]["state"].values()} == {240.0}


@pytest.mark.distributed
def test_sharded_checkpoints_go_on_with_other_numbers_of_processes(tmp_path) -> None:
    """Two processes, then three, then one, with stored gradients and without, end where one process alone does."""
    ends = []
    for folder, parts in {
        "changing": ((2, 20, ()), (3, 30, ("--release",)), (1, 40, ())),
        "one": ((1, 40, ()),),
    }.items():
        for processes, steps, arguments in parts:
            place = ("--checkpoints", tmp_path / folder, "--steps", str(steps))
            printed = on_processes(processes, "fsdp2.py", *place, *arguments)
        ends.append(float(re.search(r"-> ([\d.]+)", printed)[1]))
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


@pytest.mark.distributed
@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_deepspeed(stage) -> None:
    if find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    assert f"ZeRO stage {stage}, 2 processes" in on_processes(2, "deepspeed_zero.py", "--stage", stage)


def test_none_is_left_out() -> None:
    assert {file.name for file in FOLDER.glob("*.py")} == {*PLAIN, *DISTRIBUTED}
    listed = (FOLDER / "README.md").read_text()
    assert all(f"({file.name})" in listed for file in FOLDER.glob("*.py"))
