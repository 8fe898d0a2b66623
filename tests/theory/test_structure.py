"""Promises about the source: what importing an experiment costs, what it draws from."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from adamomentum import theory
from adamomentum.theory import experiments

ROOT = Path(__file__).parents[2]
SOURCE = Path(theory.__file__).parent
MODULES = [path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]


def test_an_experiment_is_a_file_of_its_name() -> None:
    assert {module.stem for module in MODULES if module.parent.name == "experiments"} == set(experiments.NAMES)


def test_importing_experiments_imports_neither_matplotlib_nor_torch() -> None:
    code = "import sys; from adamomentum.theory import experiments; experiments.by_name(), experiments.drawings()"
    code += "; print(*{name.split('.')[0] for name in sys.modules})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "numpy" in printed.split()
    assert not {"matplotlib", "PIL", "torch", "scipy"} & set(printed.split())


def test_no_two_experiments_draw_the_same_numbers() -> None:
    numbers = [
        number
        for name in experiments.NAMES
        for number in re.findall(r"default_rng\(\[seed, (\d+)\]\)", (SOURCE / "experiments" / f"{name}.py").read_text())
    ]
    assert len(numbers) == len(set(numbers)) == 12


def test_the_type_of_arrays_is_written_once() -> None:
    writing = [module for module in MODULES if "NDArray[np.float64]" in (SOURCE / module).read_text()]
    assert writing == [Path("common.py")]
