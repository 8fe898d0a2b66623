"""The benchmarks that pages quote run, at a tiny size, and print the rows that the pages have."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = {
    "bf16_parameters": (
        ["--seeds", "1", "--steps", "20", "--units", "4", "--streams", "1", "--evaluated", "200"],
        "precision.md",
    ),
    "keras_step": (["--rounds", "2", "--scale", "0.01"], "keras.md"),
    "optax_step": (["--parameters", "4000", "--rounds", "2"], "optax.md"),
    "reduced_state_accuracy": (["--seeds", "2", "--epochs", "1"], "precision.md"),
    "release_checks": (["--passes", "1"], None),
    "release_memory": (["--rounds", "1", "--width", "8", "--blocks", "1"], "precision.md"),
    "update_length": (["--seeds", "1", "--steps", "3"], "coming-from-adam.md"),
    "rounding_time": (["--elements", "2000", "--rounds", "2"], "precision.md"),
}


def test_each_benchmark_is_here() -> None:
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == SMALL.keys()


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
    if name in ("optax_step", "keras_step"):
        pytest.importorskip(name.removesuffix("_step"), reason=f"needs {name.removesuffix('_step')}")
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "nan" not in done.stdout.lower()
    if page:
        printed = labels(done.stdout)
        assert len(printed) > 3, done.stdout
        assert printed <= labels((ROOT / "docs" / page).read_text()), printed
