"""Every example runs; each one checks for itself that it learns."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clients import need

from adamomentum.torch import param_groups

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
}

# Functions for `adamomentum compare --train`, and what that needs to be told.
COMPARED = {
    "compare_own.py": ((), ()),
    "compare_own_lightning.py": (("lightning",), ()),
    "compare_own_trainer.py": (("transformers", "accelerate"), ()),
    "compare_own_accelerate.py": (("accelerate",), ()),
    "compare_own_ddp.py": ((), ("--processes", "2")),
}

DISTRIBUTED = ("ddp.py", "fsdp2.py", "deepspeed_zero.py")

pytestmark = [pytest.mark.slow, pytest.mark.clients]


def run(*command: str | Path, **variables: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    result = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


@pytest.mark.parametrize(("name", "packages"), PLAIN.items(), ids=PLAIN)
def test_example(name, packages) -> None:
    need(*packages)
    assert re.search(r"loss \d", run(FOLDER / name))


@pytest.mark.parametrize("name", COMPARED)
def test_a_function_to_compare_on(name, tmp_path) -> None:
    packages, options = COMPARED[name]
    need(*packages)
    command = ("-m", "adamomentum", "compare", "--train", f"{FOLDER / name}:train", "--out", tmp_path / "out")
    printed = run(*command, "--incumbent", "adamw:lr=1e-2", "--seeds", "2", "--workers", "1", *options)
    assert "5 trials trained" in printed
    assert re.search(r"Verdict on compare_own\w*: .*: loss \d\.\d{4} against \d\.\d{4} \(lower is better\)", printed)
    assert "the same numbers to the last bit" in printed
    assert printed.count("Note: ") == 1  # and nothing that would be unfair


def test_four_bytes(tmp_path) -> None:
    """Smaller than it is by default; that it keeps to the bytes is its own check."""
    need("matplotlib")
    few = ("--seeds", "2", "--steps", "20", "--layers", "4", "--rounds", "2")
    printed = run(FOLDER / "four_bytes.py", *few, "--picture", tmp_path / "four_bytes.png")
    taken = [float(number) for number in re.findall(r"loss \d.*, +([\d.]+) bytes a parameter", printed)]
    assert taken == [pytest.approx(4.2, abs=0.3), pytest.approx(16, abs=0.5), pytest.approx(16, abs=0.5)]
    assert (tmp_path / "four_bytes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_keras(backend) -> None:
    need("keras", backend)
    printed = run(FOLDER / "keras_fit.py", KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3")
    assert re.search(rf"{backend}: loss \d", printed)


@pytest.mark.parametrize("rule", ["BEiT", "timm"])
def test_layer_decay_is_the_published_rule(rule) -> None:
    """That of BEiT's optim_factory.py is the default; timm's group_matcher has the last norm in the last block."""

    def layer_of(name: str) -> int:
        if match := re.match(r"blocks\.(\d+)\.", name):
            return int(match[1]) + 1
        layers = {"patch_embed": 0, "pos_embed": 0, "norm": 3 if rule == "timm" else 4, "head": 4}
        return layers[name.split(".")[0]]

    model = runpy.run_path(str(FOLDER / "layer_decay.py"))["VisionTransformer"](depth=3)
    how = {"layer_of": layer_of} if rule == "timm" else {}
    groups = param_groups(model, weight_decay=0.2, layer_decay=0.75, lr=1e-3, **how)
    settings = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["param_names"]}
    expected = {}
    for name, p in model.named_parameters():
        spared = p.ndim == 1 or name.endswith(".bias") or name == "pos_embed"
        expected[name] = (pytest.approx(1e-3 * 0.75 ** (4 - layer_of(name))), 0.0 if spared else 0.2)
    assert settings == expected


STUDY = """
name = "tiny"
[tuning]
trials = 1
extension = 0
[default]
seeds = 0
[final]
seeds = 1
[optimizers]
adamomentum = {}
adamw = {}
[[tasks]]
name = "signals"
family = "image-classification"
params = { data = "mnist1d", model = "cnn1d" }
budget = { steps = 4, batch_size = 8, evaluations = 1 }
"""

# Stand for Slurm's command: run the jobs of an array one after the other, or none.
SBATCH = """#!/usr/bin/env bash
for last; do
  case $last in --array=*) jobs=${last#--array=1-}; jobs=${jobs%%%*};; esac
done
echo "array of $jobs: $*" >> "$(dirname "$0")/calls"
for ((SLURM_ARRAY_TASK_ID = 1; SLURM_ARRAY_TASK_ID <= jobs; SLURM_ARRAY_TASK_ID++)); do
  export SLURM_ARRAY_TASK_ID
  bash -c "$last" || exit 1
done
"""


@pytest.mark.parametrize("jobs_run", [True, False], ids=["runs", "fails"])
def test_slurm(tmp_path, jobs_run) -> None:
    """Array after array until nothing is open; where every job fails it ends, and says where to look."""
    (tmp_path / "sbatch").write_text(SBATCH if jobs_run else "#!/bin/sh\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    (tmp_path / "tiny.toml").write_text(STUDY)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, "DEVICE": "cpu"}
    command = ["bash", FOLDER / "slurm_study.sh", tmp_path / "tiny.toml", tmp_path / "out", "--time=5"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    if not jobs_run:
        assert result.returncode == 1
        assert re.search(rf"\d trials fail; their jobs' output is in {tmp_path}/out/slurm", result.stderr)
        return
    assert result.returncode == 0, result.stderr[-4000:]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) > 1, "final runs come after the tuning"
    assert all("--wait --array=1-" in call and "--time=5" in call for call in calls)
    assert "signals: AdaMomentum - AdamW" in result.stdout
    assert (tmp_path / "out" / "report" / "report.html").exists()


def on_processes(count: int, name: str | Path, *arguments: str | Path) -> str:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    return run(*launcher, FOLDER / name, *arguments)


@pytest.mark.distributed
# With three processes each has 171 examples an epoch, and batches of 21.
@pytest.mark.parametrize(("processes", "steps"), [(2, 30 * 8), (3, 30 * 9)])
@pytest.mark.parametrize("arguments", [(), ("--zero",)], ids=["ddp", "zero"])
def test_data_parallel(arguments, processes, steps, tmp_path) -> None:
    file = tmp_path / "checkpoint.pt"
    assert f"on {processes} processes" in on_processes(processes, "ddp.py", *arguments, "--checkpoint", file)
    saved = torch.load(file)
    assert len(saved["optimizer"]["state"]) == len(saved["model"]) == 4
    assert {state["step"].item() for state in saved["optimizer"]["state"].values()} == {steps}


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


# All stages in the same processes, which import for longer than they train. On Linux DeepSpeed would first compile an
# operation for its collectives; elsewhere it goes without, as here.
IN_EVERY_STAGE = """
import os, runpy, sys
import torch
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
ShareMemCommBuilder.is_compatible = lambda self, verbose=False: False
end, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, lambda: None
del sys.argv[0]
for stage in "0123":
    sys.argv[1:] = ["--stage", stage]
    runpy.run_path(sys.argv[0], run_name="__main__")
end()
sys.stdout.flush()
os._exit(0)  # several engines in one process, which no user has, do not always end their threads in an orderly way
"""


@pytest.mark.distributed
def test_deepspeed(tmp_path, monkeypatch) -> None:
    need("deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    script = tmp_path / "in_every_stage.py"
    script.write_text(IN_EVERY_STAGE)
    printed = on_processes(2, script, FOLDER / "deepspeed_zero.py")
    for stage in range(4):
        assert f"ZeRO stage {stage}, 2 processes" in printed


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_started_without_torchrun_it_says_how(name, tmp_path) -> None:
    need(*["deepspeed"] * (name == "deepspeed_zero.py"))
    arguments = ["--checkpoints", str(tmp_path)] if name == "fsdp2.py" else []
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    command = [sys.executable, str(FOLDER / name), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    assert result.returncode == 1
    start = "torchrun makes the processes: torchrun --standalone --nproc-per-node 2"
    assert result.stderr.splitlines()[-1] == " ".join([start, *command[1:]])


def test_none_is_left_out() -> None:
    tested = {*PLAIN, *DISTRIBUTED, *COMPARED, "four_bytes.py", "keras_fit.py"}
    assert {file.name for file in FOLDER.glob("*.py")} == tested
    listed = (FOLDER / "README.md").read_text()
    assert all(f"({file.name})" in listed for file in FOLDER.glob("*.py"))
