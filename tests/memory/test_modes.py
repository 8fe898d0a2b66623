"""The formats: ours beside the optimizer's own constants, those of others beside what was measured of them."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from adamomentum import AdaMomentum
from adamomentum.bench.memory import state_bytes
from adamomentum.bench.workloads import WORKLOADS
from adamomentum.memory import Sizes, modes, training_memory
from adamomentum.memory.modes import MODES
from adamomentum.torch import release_gradients
from adamomentum.torch.precision import BLOCK, unpack
from adamomentum.torch.rounding import ROUNDINGS
from adamomentum.torch.state import STATE_DTYPE_NAMES

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
OURS = [mode for mode in MODES if mode.options]


def test_ours_are_all_that_there_are() -> None:
    """But for float64, which saves nothing."""
    pairs = {("float32", "8bit"), ("bfloat16", "8bit")}  # of those the ones that save the most
    assert {mode.options["state_dtype"] for mode in OURS} == set(STATE_DTYPE_NAMES) - {"float64"} | pairs
    assert {mode.rounding for mode in OURS} == set(ROUNDINGS)
    assert {mode.optimizer for mode in OURS} == {"AdaMomentum"}
    assert modes.CODES.block == BLOCK


@pytest.mark.parametrize("mode", OURS, ids=lambda mode: f"{mode.parameter.name}-{mode.rounding}-{mode.moment_names}")
def test_passes_are_what_release_takes(mode) -> None:
    p = torch.nn.Parameter(torch.zeros(4, dtype=getattr(torch, mode.parameter.name)))
    optimizer = AdaMomentum([p], **mode.options)
    release_gradients(optimizer, 4)
    for _ in range(3):
        (p * 0.3).sum().backward()
    state = optimizer.state[p]
    summed = unpack(state["exp_avg"], state.get("exp_avg_scale"), "m").double()
    exact = 3 * (0.1 / 0.9) * torch.full_like(p, 0.3).double()
    assert mode.passes == ("exact" if torch.allclose(summed, exact, rtol=1e-6) else "unbiased")
    assert torch.allclose(summed, exact, rtol=0.2)


def test_every_other_library_has_a_source() -> None:
    others = {mode.optimizer for mode in MODES} - {"AdaMomentum"}
    assert all(any(name.startswith(source) for source in modes.SOURCES) for name in others)
    assert all(any(name.startswith(source) for name in others) for source in modes.SOURCES)


def of_float32(name: str):
    """A mode of another library on float32 parameters, as the bench measures it."""
    mode = next(mode for mode in MODES if mode.optimizer == name)
    small = replace(mode.moments[0], small=modes.FLOAT32)
    return replace(mode, parameter=modes.FLOAT32, gradient=modes.FLOAT32, moments=(small, small))


@pytest.mark.parametrize("name", ["torchao AdamW8bit", "bitsandbytes AdamW8bit"])
def test_others_take_what_was_measured(name) -> None:
    """The page has two digits, and in some of them step counts, 4 bytes a tensor, or two tables for all tensors."""
    if not PAGE.exists():
        pytest.skip("needs the repository, got an installed package")
    (line,) = re.findall(rf"^\| {name} \| (.*\+.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    measured = [float(cell.split(" + ")[0]) for cell in line.split(" | ")]
    workloads = [workload for workload in WORKLOADS.values() if workload.group != "clip"]
    for workload, value in zip(workloads, measured, strict=True):
        sizes = Sizes(tuple(torch.Size(shape).numel() for shape in workload.shapes), 0)
        (memory,) = training_memory(sizes, (of_float32(name),))
        counts = (0, 4 * len(sizes.trained), 4 * 2 * 256)
        assert any(f"{(memory.moments + n) / sizes.numel:.2f}" == f"{value:.2f}" for n in counts), (workload.key, value)


@pytest.mark.parametrize(
    "name", ["torchao AdamW4bit", "torchao AdamW8bit", "torchao AdamWFp8", "bitsandbytes AdamW8bit"]
)
def test_others_take_what_they_take_here(name) -> None:
    package, kind = name.split()
    optimizers = {"torchao": "torchao.optim", "bitsandbytes": "bitsandbytes.optim"}[package]
    pytest.importorskip(package)
    shapes = ((64, 512), (4096,), (4100,), (100,))
    params = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16)) for shape in shapes]
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer = getattr(import_module(optimizers), kind)(params)
    optimizer.step()
    (memory,) = training_memory(
        Sizes(tuple(p.numel() for p in params), 0), tuple(mode for mode in MODES if mode.optimizer == name)
    )
    once = 4 * (len(params) if package == "torchao" else 2 * 256)  # step counts, or two tables for all tensors
    assert state_bytes(optimizer) - memory.moments == once


def test_bytes_of_blocks_and_of_small_tensors() -> None:
    fmt = modes.Format("4bit", 0.5, 128, scale=4, table=64, whole=True, least=4096, small=modes.BFLOAT16)
    assert fmt.bytes_of(4096) == 2048 + 32 * 4 + 64
    assert fmt.bytes_of(4097) == 2 * 4097
    assert fmt.bytes_of(128) == 256
    assert modes.CODES.bytes_of(257) == 257 + 2
    assert modes.Format("half", 0.5).bytes_of(3) == 2
