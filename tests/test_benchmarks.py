"""The benchmarks that pages quote run, at a tiny size, and print the rows that the pages have."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
SMALL = {
    "accumulation_accuracy": (["--steps", "20", "--passes", "1", "2", "--seeds", "1"], "precision.md"),
    "bf16_parameters": (
        ["--seeds", "1", "--steps", "20", "--units", "4", "--streams", "1", "--evaluated", "200"],
        "precision.md",
    ),
    "cuda_host_time": (["--tensors", "3", "--rounds", "2"], None),
    "cuda_step_time": (["--device", "cpu", "--quick", "--rounds", "2"], None),
    "drop_in_time": (["--elements", "2000", "--rounds", "2"], "how-it-works.md"),
    "keras_accumulation": (["--parameters", "4000"], "keras.md"),
    "keras_step": (["--rounds", "2", "--scale", "0.01"], "keras.md"),
    "optax_accumulation": (["--parameters", "4000", "--rounds", "2"], "optax.md"),
    "optax_step": (["--parameters", "4000", "--rounds", "2"], "optax.md"),
    "reduced_state_accuracy": (["--seeds", "2", "--epochs", "1"], "precision.md"),
    "release_checks": (["--passes", "1"], None),
    "release_time": (["--rounds", "1", "--more"], "precision.md"),
    "release_memory": (["--rounds", "1", "--width", "8", "--blocks", "1"], "precision.md"),
    "swap_one_line": (["--seeds", "2", "--steps", "4", "--rates", "0.01", "0.1"], "coming-from-adam.md"),
    "update_length": (["--seeds", "1", "--steps", "3"], "coming-from-adam.md"),
    "rounding_time": (["--elements", "2000", "--rounds", "2"], "precision.md"),
    "rounding_time --float32": (["--elements", "2000", "--rounds", "2"], "precision.md"),
}
# What one needs beside torch and the study.
NEEDS = {
    "keras_accumulation": "keras",
    "keras_step": "keras",
    "optax_accumulation": "optax",
    "optax_step": "optax",
    "swap_one_line": "transformers",
}


def test_each_benchmark_is_here() -> None:
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == {name.split()[0] for name in SMALL}


def labels(text: str) -> set[str]:
    """What stands in the first columns, up to the first number, of the rows of tables."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)
    ]
    return {row[1] if re.fullmatch(r"\d+", row[0]) else row[0] for row in rows if not set(row[0]) <= set("-: ")}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name) -> None:
    arguments, page = SMALL[name]
    pytest.importorskip(NEEDS.get(name, "torch"), reason=f"needs {NEEDS.get(name)}")
    script, *options = name.split()
    command = [sys.executable, ROOT / "benchmarks" / f"{script}.py", *options, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "nan" not in done.stdout.lower()
    if page:
        printed = labels(done.stdout)
        assert len(printed) > 3, done.stdout
        assert printed <= labels((ROOT / "docs" / page).read_text()), printed


@pytest.fixture(scope="module")
def swap():
    """The names in benchmarks/swap_one_line.py."""
    return runpy.run_path(str(ROOT / "benchmarks" / "swap_one_line.py"))


@pytest.mark.parametrize(("longer", "above"), [(0.09, "no"), (0.11, "yes")])
def test_swap_compares_at_adamws_best_rate(swap, longer, above) -> None:
    spread = np.array([-0.1, 0.0, 0.1])  # a standard deviation of 0.1

    def run(name: str, optimizer: str, lr: float) -> np.ndarray:
        ours = {"AdamW": 0.0, "drop-in": longer, "with Nesterov": 2 * longer}[optimizer]
        return 1 + (lr - 0.1) ** 2 + ours + spread

    cells = swap["row"]("a problem", [0.01, 0.1, 1.0], run)
    assert cells[:5] == ["a problem", "0.1", "1.0000 ± 0.1000", f"{1 + longer:.4f}", f"{1 + 2 * longer:.4f}"]
    assert cells[5:] == [above, f"+{longer:.4f} (+{longer:.4f} to +{longer:.4f})"]
    assert "an end of the grid" in swap["row"]("a problem", [0.1, 1.0], run)[1]


def test_swap_gives_all_optimizers_the_same_start_and_batches(swap) -> None:
    first = {swap["loss_at_end"]("deepspeed_zero", name, 0.01, 0, steps=1) for name in swap["OPTIMIZERS"]}
    later = {swap["loss_at_end"]("deepspeed_zero", name, 0.01, 0, steps=3) for name in swap["OPTIMIZERS"]}
    assert len(first) == 1
    assert len(later) == 3
    # The optimizers draw no random numbers, or the batches after a step would differ.
    torch.manual_seed(0)
    drawn = []
    for optimizer in swap["OPTIMIZERS"].values():
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        before = torch.get_rng_state()
        optimizer([p], lr=0.1, weight_decay=0.1).step()
        drawn.append(not torch.equal(before, torch.get_rng_state()))
    assert drawn == [False] * 3


def test_swap_schedules(swap) -> None:
    rates = {name: [factor(t, 100) for t in range(100)] for name, factor in swap["SCHEDULES"].items()}
    assert set(rates["constant"]) == {1.0}
    assert rates["cosine"][0] == 1.0
    assert rates["cosine"] == sorted(rates["cosine"], reverse=True)
    assert rates["warmup-cosine"][:9] == pytest.approx([0.1 * k for k in range(1, 10)])
    assert rates["warmup-cosine"][10:] == rates["cosine"][10:]


def test_swap_at_what_is_written_in_the_examples(swap) -> None:
    for name, (lr, schedule) in swap["WRITTEN"].items():
        code = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        assert lr in map(float, re.findall(r"(?:\blr=|warmup_target=)([\d.]+(?:e-\d+)?)", code)), name
        assert ("warm" in code.lower()) == (schedule != "cosine"), name


def test_swap_tables_agree_with_themselves(swap) -> None:
    """What each row and the text conclude follows from the numbers in the rows."""
    page = (ROOT / "docs" / "coming-from-adam.md").read_text(encoding="utf-8")
    section = page.split("## At AdamW's best rate")[1].split("\n## ")[0]
    names = list(swap["PROBLEMS"])
    assert {f"{name}.py" for name in names} <= {path.name for path in (ROOT / "examples").glob("*.py")}
    number = r"([+-]?[\d.]+)"
    rows = re.findall(
        rf"^\| (\w+) \| ([\d.]+) \| {number} ± {number} \| {number} \| {number} \| (yes|no) \| "
        rf"{number} \({number} to {number}\) \|$",
        section,
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == names * 2
    for row in rows:
        lr, theirs, spread, ours, _, difference, low, high = (float(cell) for cell in (*row[1:6], *row[7:]))
        assert lr in swap["RATES"]
        assert difference == pytest.approx(ours - theirs, abs=2e-4)
        assert low < difference < high
        if abs(difference - spread) > 2e-4:  # more than rounding can hide
            assert row[6] == ("yes" if difference > spread else "no"), row
    constant, cosine = rows[: len(names)], rows[len(names) :]
    text, words = " ".join(section.split()), ["none", "one", "two", "three", "four", "five", "six", "seven", "eight"]
    higher = [sum(row[6] == "yes" for row in part) for part in (constant, cosine)]
    certain = [sum(float(row[8]) > 0 for row in part) for part in (constant, cosine)]
    said = re.search(r"constant rate .*? on (\w+) of eight, .*? on (\w+) of eight", text).groups()
    assert [words.index(word) for word in said] == higher
    said = re.search(r"above 0 on (\w+) of these and on (\w+),", text).groups()
    assert [words.index(word) for word in said] == certain
    assert [row[0] for row in constant if float(row[9]) < 0] == []
    assert [row[0] for row in cosine if float(row[9]) < 0] == ["compiled_step"]  # as the text says
    assert all(float(row[5]) > 4 * float(row[2]) for row in rows if row[0] in ("mixed_precision", "hf_trainer"))


def test_swap_runs_are_as_long_as_the_page_says(swap) -> None:
    pytest.importorskip("transformers", reason="needs transformers")
    steps = [problem().steps for problem in swap["PROBLEMS"].values()]
    page = (ROOT / "docs" / "coming-from-adam.md").read_text(encoding="utf-8")
    assert f"runs of {min(steps)} to {max(steps)} steps" in page
