"""A script in a package, and one beside packages: as what it is run, and which modules are part of its trials."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adamomentum.study.tasks.function.script import Script, read

PACKAGE = {
    "pkg/__init__.py": "from pkg import names\n",
    "pkg/names.py": "NAME = 'pkg'\n",
    "pkg/net.py": "from . import layers\nSEEN = []\n",
    "pkg/layers.py": "import pkg.deep.block\n",
    "pkg/deep/__init__.py": "",
    "pkg/deep/block.py": "from ..data import SIZE\n",
    "pkg/data.py": "SIZE = 3\n",
    "pkg/unused.py": "X = 1\n",
}
MEMBERS = tuple(sorted(name for name in PACKAGE if name != "pkg/unused.py"))
SHOW = "def train(trial):\n    net.SEEN.append(trial)\n    return __name__, __package__, net.__name__, net.SEEN\n"


def written(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def read_in(folder: Path, file: str = "pkg/train.py", **files: str) -> Script:
    path = folder / file
    written(folder, files)
    return read({"train": f"{path.name}:train"}, path.parent)


@pytest.mark.parametrize("layout", [".", "src"])
@pytest.mark.parametrize("line", ["from . import net", "from pkg import net", "import pkg.net as net"])
def test_a_script_that_imports_from_its_package_is_a_module_of_it(tmp_path, layout, line) -> None:
    root = tmp_path / layout
    written(root, {**PACKAGE, "pkg/train.py": f"{line}\n{SHOW}"})
    data = read_in(root)
    assert (data.root, data.module, data.helpers) == (root, "pkg.train", MEMBERS)
    assert [data.function()(k) for k in range(2)] == [("pkg.train", "pkg", "pkg.net", [k]) for k in range(2)]
    assert sys.modules["pkg"].train is sys.modules["pkg.train"]
    # What Python itself makes of it.
    code = "import sys; sys.argv = ['x']; from pkg.train import train; print(train(0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "('pkg.train', 'pkg', 'pkg.net', [0])", done.stderr


def test_the_fingerprint_is_of_what_is_imported_of_the_package(tmp_path) -> None:
    written(tmp_path, {**PACKAGE, "pkg/train.py": f"from pkg import net\n{SHOW}"})
    before = read_in(tmp_path).fingerprint
    written(tmp_path, {"pkg/unused.py": "X = 2\n", "pkg/new.py": ""})
    assert read_in(tmp_path).fingerprint == before
    for name in (*MEMBERS, "pkg/train.py"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text + "\n")
        assert read_in(tmp_path).fingerprint != before, name
        (tmp_path / name).write_text(text)
    assert read_in(tmp_path).fingerprint == before


def test_modules_that_are_imported_by_a_name_of_the_moment_are_all_part_of_it(tmp_path) -> None:
    load = "from importlib import import_module\ndef load(name):\n    return import_module(name)\n"
    written(tmp_path, {**PACKAGE, "pkg/net.py": load, "pkg/train.py": f"from pkg import net\n{SHOW}"})
    assert set(read_in(tmp_path).helpers) == PACKAGE.keys()
    written(tmp_path, {"pkg/net.py": "from pkg.deep import *\n", "pkg/deep/block.py": "", "pkg/deep/more/far.py": ""})
    assert read_in(tmp_path).helpers == (
        "pkg/__init__.py",
        "pkg/deep/__init__.py",
        "pkg/deep/block.py",
        "pkg/names.py",
        "pkg/net.py",
    )


def test_what_lies_beside_the_package_is_there_too(tmp_path) -> None:
    written(tmp_path, {"tools/__init__.py": "", "models/__init__.py": "", "models/net.py": "SEEN = []\n"})
    written(tmp_path, {"tools/train.py": f"from models import net\n{SHOW}"})
    for _ in range(2):  # the first puts the folder on the path
        data = read_in(tmp_path, "tools/train.py")
        assert data.helpers == ("models/__init__.py", "models/net.py", "tools/__init__.py")
        assert data.function()(0) == ("tools.train", "tools", "models.net", [0])


@pytest.mark.parametrize("line", ["from . import net", "from pkg import net", "import pkg.net as net"])
def test_a_repository_whose_root_has_an_init(tmp_path, line) -> None:
    written(tmp_path, {"repo/__init__.py": "", **{f"repo/{name}": text for name, text in PACKAGE.items()}})
    written(
        tmp_path / "repo", {"pkg/net.py": "SEEN = []\n", "pkg/train.py": f"from pkg.data import SIZE\n{line}\n{SHOW}"}
    )
    data = read_in(tmp_path / "repo")
    assert (data.root, data.module) == (tmp_path / "repo", "pkg.train")
    assert data.helpers == ("pkg/__init__.py", "pkg/data.py", "pkg/names.py", "pkg/net.py")
    assert data.function()(0) == ("pkg.train", "pkg", "pkg.net", [0])


def test_a_repository_whose_root_has_an_init_and_a_script_that_imports_what_lies_beside_its_package(tmp_path) -> None:
    written(tmp_path / "repo", {"__init__.py": "", "tools/__init__.py": "", "models/net.py": "SEEN = []\n"})
    written(tmp_path / "repo", {"tools/train.py": f"from models import net\n{SHOW}"})
    data = read_in(tmp_path / "repo", "tools/train.py")
    assert (data.root, data.helpers) == (tmp_path / "repo", ("models/net.py", "tools/__init__.py"))
    assert data.function()(0) == ("tools.train", "tools", "models.net", [0])


@pytest.mark.parametrize("init", [(), ("models/__init__.py",)])
def test_a_package_without_init_is_known_by_what_is_imported_from_it(tmp_path, init) -> None:
    """As ``python -m src.models.train`` has it."""
    written(tmp_path / "src", {"models/net.py": "SEEN = []\n", "data.py": "X = 1\n", **dict.fromkeys(init, "")})
    written(tmp_path / "src", {"models/train.py": f"import src.data\nfrom src.models import net\n{SHOW}"})
    data = read_in(tmp_path / "src", "models/train.py")
    assert (data.root, data.module) == (tmp_path, "src.models.train")
    assert data.helpers == ("src/data.py", *(f"src/{name}" for name in init), "src/models/net.py")
    assert [data.function()(k) for k in range(2)] == [
        ("src.models.train", "src.models", "src.models.net", [k]) for k in range(2)
    ]
    # What lies beside the script comes first, and a name that is there for something else says nothing.
    for line in ("import src.data", "from src import data"):
        (tmp_path / "src" / "models" / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / "models" / "src" / "data.py").touch()
        written(tmp_path / "src", {"models/train.py": f"{line}\nfrom net import SEEN\ndef train(trial):\n    pass\n"})
        assert read_in(tmp_path / "src", "models/train.py").root == tmp_path / "src" / "models"


def test_a_part_of_a_package_hides_no_package_that_is_installed(tmp_path) -> None:
    written(tmp_path, {**PACKAGE, "pkg/numpy/__init__.py": "", "pkg/net.py": "SEEN = []\n"})
    written(tmp_path, {"pkg/numpy/train.py": f"import numpy\nfrom pkg import net\n{SHOW}"})
    data = read_in(tmp_path, "pkg/numpy/train.py")
    assert (data.root, data.module) == (tmp_path, "pkg.numpy.train")
    assert data.function()(0) == ("pkg.numpy.train", "pkg.numpy", "pkg.net", [0])


def test_a_script_in_a_package_that_imports_what_lies_beside_it_is_a_script(tmp_path) -> None:
    """A stray __init__.py changes nothing: ``python pkg/train.py`` works, and ``python -m pkg.train`` does not."""
    written(tmp_path, {**PACKAGE, "pkg/net.py": "SEEN = []\n", "pkg/train.py": f"import math, net\n{SHOW}"})
    data = read_in(tmp_path)
    assert (data.root, data.module, data.helpers) == (tmp_path / "pkg", "train", ("net.py",))
    assert data.function()(0) == ("train", None, "net", [0])


def test_a_folder_without_init_is_no_package(tmp_path) -> None:
    written(tmp_path, {"pkg/net.py": "SEEN = []\n", "pkg/train.py": f"import net\n{SHOW}"})
    data = read_in(tmp_path)
    assert (data.root, data.module, data.helpers) == (tmp_path / "pkg", "train", ("net.py",))


def test_a_folder_hides_no_package_that_is_installed(tmp_path) -> None:
    """As W&B makes one: with copies of scripts, under the name of what is imported."""
    written(
        tmp_path, {"numpy/run/train.py": "X = 1\n", "own/part.py": "Y = 1\n", "train.py": "import numpy, own.part\n"}
    )
    assert read_in(tmp_path, "train.py").helpers == ("own/part.py",)


def test_two_packages_of_one_name(tmp_path) -> None:
    scripts = []
    for name in ("a", "b"):
        files = {**PACKAGE, "pkg/names.py": f"NAME = {name!r}\n"}
        written(
            tmp_path / name, {**files, "pkg/train.py": "from .names import NAME\ndef train(trial):\n    return NAME\n"}
        )
        scripts.append(read_in(tmp_path / name))
    assert [data.function()(None) for data in (*scripts, scripts[0])] == ["a", "b", "a"]


TRAINED = """
import torch

def train(trial):
    p = torch.nn.Parameter(net.start())
    optimizer = trial.optimizer([p])
    for _ in range(3):
        optimizer.zero_grad()
        p.square().sum().backward()
        optimizer.step()
    trial.report(loss=p.detach().square().sum())
    return {"loss": float(p.detach().square().sum())}
"""


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_workers_find_the_package(tmp_path, executor) -> None:
    if executor == "ray":
        pytest.importorskip("ray")
    files = {"pkg/__init__.py": "", "pkg/net.py": "import torch\n\ndef start():\n    return torch.ones(3)\n"}
    written(tmp_path / "src", {**files, "pkg/train.py": f"from . import net\n{TRAINED}"})
    command = [sys.executable, "-m", "adamomentum", "compare", "--train", "src/pkg/train.py:train", "--trials", "1"]
    command += ["--seeds", "2", "--workers", "2", "--executor", executor, "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report" / "report.html").exists() and "Verdict on train" in done.stdout
