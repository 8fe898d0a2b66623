from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from adamomentum.bench.measure import Measured, Settings, Times
from adamomentum.bench.page import Results, raw, render, tables
from adamomentum.bench.table import duration, ratio, significant
from adamomentum.bench.workloads import WORKLOADS
from adamomentum.files import markdown

REFERENCE, OURS, PEER = "torch AdamW fused", "AdaMomentum (default)", "a peer"


@pytest.fixture
def results() -> Results:
    names = [REFERENCE, OURS, PEER]
    gpt2 = WORKLOADS["gpt2"]
    seconds = {REFERENCE: [0.1, 0.2, 0.1], OURS: [0.05, 0.12, 0.06]}
    times = {n: Times(s, [a / b for a, b in zip(s, seconds[REFERENCE], strict=True)]) for n, s in seconds.items()}
    measured = [
        Measured(
            gpt2,
            names,
            {1: times},
            state={REFERENCE: 8.0, OURS: 2.03},
            peak={REFERENCE: 0.0, OURS: 4.0},
            separate=[OURS],
            missing={PEER: "not installed"},
        )
    ]
    return Results(
        settings=Settings(torch.device("cpu"), (1,), rounds=3),
        command="adamomentum bench --threads 1",
        date="2026-01-02 03:04",
        machine="a machine",
        versions={"torch": "2.13.0"},
        cache=32 * 2**20,
        bandwidth={1: {"a.copy_(b)": 20e9, "a.mul_(s)": 28e9}},
        streamed=256_000_000,
        measured=measured,
    )


def test_tables_state_ratios_memory_limit_and_who_is_missing(results) -> None:
    text = tables(results)
    assert "## Models, 1 thread\n" in text
    assert f"| {REFERENCE} | 1 (100 ms) |" in text
    assert f"| {OURS} * | 0.60 [0.55, 0.60] |" in text
    assert f"| {OURS} | 2.03 + 4.00 |" in text
    assert "- a peer: not installed" in text
    assert "| a peer" not in text
    # 28 bytes for each of 124,439,808 parameters at 28 GB/s.
    assert "| GPT-2 small, 148 tensors, 124 M, 1 thread | 124 ms | 100 ms (124%) | 60 ms (207%) | – |" in text
    assert "†" not in text


def test_what_fits_in_the_cache_is_marked(results) -> None:
    results.cache = 2**40
    assert "124 M, 1 thread † |" in tables(results)
    assert "† its 16 bytes a parameter fit" in tables(results)


def test_one_that_fails_somewhere_is_named_with_the_place(results) -> None:
    other = replace(results.measured[0], workload=WORKLOADS["resnet18"], missing={})
    other.times = {1: {**other.times[1], PEER: Times([0.3], [3.0])}}
    other.state = {**other.state, PEER: 8.0}
    results.measured.append(replace(other, peak={**other.peak, PEER: 0.0}))
    text = tables(results)
    assert "| a peer | – | 3.00 [3.00, 3.00] |" in text
    assert "- a peer (gpt2): not installed" in text


def test_the_page_says_how_it_was_made(results) -> None:
    page = render(results)
    for words in ("adamomentum bench --threads 1", "2026-01-02 03:04; a machine; torch 2.13.0", "In each of 3 rounds"):
        assert words in page
    assert "$" not in page
    assert "fresh sets" not in page
    assert "4 fresh sets" in render(replace(results, settings=replace(results.settings, allocations=4)))


def test_raw_numbers_survive_json(results) -> None:
    data = json.loads(json.dumps(raw(results)))
    [workload] = data["workloads"]
    assert workload["times"]["1"][OURS]["seconds"] == [0.05, 0.12, 0.06]
    assert workload["missing"] == {PEER: "not installed"}
    assert data["bandwidth_bytes_per_s"]["1"]["a.copy_(b)"] == 20e9


def test_numbers() -> None:
    assert [significant(x) for x in (0.914, 9.994, 9.996, 99.94, 99.96, 1234.5)] == [
        "0.91",
        "9.99",
        "10.0",
        "99.9",
        "100",
        "1234",
    ]
    assert [duration(x) for x in (0, 12.34e-6, 0.9996e-3, 1.5e-3, 0.2, 12.3, 1234)] == [
        "0 µs",
        "12.3 µs",
        "1 ms",
        "1.5 ms",
        "200 ms",
        "12.3 s",
        "1234 s",
    ]
    assert ratio([1.0, 2.0, 3.0]) == "2.00 [1.50, 2.50]"


def test_a_cell_cannot_break_the_table() -> None:
    assert markdown(["", "a"], [["x|y", "1\n2"]], numbers=True) == "|  | a |\n| --- | ---: |\n| x\\|y | 1 2 |"
