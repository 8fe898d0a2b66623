"""What CONTRIBUTING.md says of the library's parts and words: who may import whom, where tests are, what is no name."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

import adamomentum
from adamomentum.study.spec import Stage
from adamomentum.study.stages import ROLES
from adamomentum.torch.functional import Kernels, Loop

ROOT = Path(adamomentum.__file__).parent
MODULES = {
    ".".join(("adamomentum", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
PAGE = ROOT.parents[1] / "CONTRIBUTING.md"
# What several parts use and what uses none; the front door, which uses the class.
SHARED = {"cores", "files", "devices", "terminal", "reference"}
DOORS = {"adamomentum", "__main__", "cli"}


def imported(path: Path) -> set[str]:
    """The modules of the library that one of them imports, also late and for types alone."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inside}
    return names & MODULES.keys()


ARROWS = {name: imported(path) - {name} for name, path in MODULES.items()}


def part(module: str) -> str:
    """The part of the library that a module belongs to, as the map calls it."""
    names = module.split(".")[1:]
    return names[0] if names else "adamomentum"


def drawn() -> dict[str, set[str]]:
    """The arrows of the map in CONTRIBUTING.md."""
    if not PAGE.exists():
        pytest.skip("needs the repository, got an installed package")
    lines = re.findall(r"^    (\w+(?:, \w+)*) +-> +(\w+(?:, \w+)*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: set(targets.split(", ")) for names, targets in lines for name in names.split(", ")}


def test_imports_do_not_go_round() -> None:
    # Packages only pass on what their modules hold.
    arrows = {a: {b for b in to if MODULES[b].name != "__init__.py"} for a, to in ARROWS.items()}
    while leaves := [name for name, targets in arrows.items() if not targets]:
        arrows = {name: targets.difference(leaves) for name, targets in arrows.items() if name not in leaves}
    assert not arrows


def test_the_map_is_true() -> None:
    arrows: dict[str, set[str]] = {}
    for module, targets in ARROWS.items():
        crossing = {part(target) for target in targets} - {part(module), "adamomentum"} - SHARED
        if part(module) not in DOORS and crossing:
            arrows.setdefault(part(module), set()).update(crossing)
    assert arrows == drawn()


def test_what_is_shared_uses_nothing() -> None:
    assert not {(a, b) for a, to in ARROWS.items() for b in to if part(a) in SHARED and part(b) != part(a)}


def _named(node: ast.AST) -> str:
    """The name that a node gives to something, empty for none."""
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.id if isinstance(node, ast.Name) else node.attr
    if isinstance(node, ast.arg):
        return node.arg
    return node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ""


def test_names_say_what_they_hold() -> None:
    files = [
        *MODULES.values(),
        *Path(__file__).parent.rglob("*.py"),
        *(path for name in ("benchmarks", "examples", "docs") for path in (PAGE.parent / name).rglob("*.py")),
    ]
    nodes = ((path, node) for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    places = [f"{path}:{node.lineno}" for path, node in nodes if _named(node) in ("made", "found")]
    assert len(files) > len(MODULES) + 100  # of the tests, too
    assert not places, f"made and found are no names, say what it holds: {', '.join(places)}"


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.name != "__init__.py"])
def test_the_way_from_a_module_to_its_tests(name) -> None:
    """A file of its name, in the folder that stands for its own, or else one that its docstring names."""
    tests, module = Path(__file__).parent, MODULES[name]
    own = tests / module.relative_to(ROOT).parent / f"test_{module.name}"
    said = re.search(r"Tested in tests/(\S+\.py)\.$", ast.get_docstring(ast.parse(module.read_text())) or "")
    assert own.exists() != bool(said), "one of the two"
    assert said is None or (tests / said[1]).exists()


def test_the_glossary_has_every_value_of_a_word() -> None:
    if not PAGE.exists():
        pytest.skip("needs the repository, got an installed package")
    page = PAGE.read_text(encoding="utf-8")
    roles, stages = (page.split(f"Its *{word}* ")[1].split(".")[0] for word in ("role", "stage"))
    assert set(re.findall(r"`(\w+)`", roles)) == {*ROLES, "track"}
    assert set(re.findall(r"`(\w+)`", stages)) == set(get_args(Stage))
    paths = page.split("A *path* ")[1].split(".")[0]
    assert set(re.findall(r'"([\w-]+)"', paths)) == {*get_args(Kernels), *get_args(Loop)}


def test_where_something_new_goes_is_there() -> None:
    if not PAGE.exists():
        pytest.skip("needs the repository, got an installed package")
    table = PAGE.read_text(encoding="utf-8").split("## Where something new goes")[1].split("\n## ")[0]
    named = re.findall(r"`((?:src|tests|native)/[\w./]+)`", table)
    assert len(named) >= 12
    assert not [path for path in named if not (PAGE.parent / path).exists()]
    for name, path in re.findall(r"`([A-Z]\w+)`[^|]*? in `(src/[\w./]+\.py)`", table):
        assert re.search(rf"^(class )?{name}\b", (PAGE.parent / path).read_text(), re.MULTILINE), (name, path)
