"""Promises about the source: what stands in one place only, and that imports do not go round."""

import ast
import re
from pathlib import Path

import pytest

import adamomentum.torch
from adamomentum.torch import state

FOLDER = Path(adamomentum.torch.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text()) for path in FOLDER.glob("*.py") if path.stem != "__init__"}
KEYS = {state.STEP, *state.SHAPED, *state.SCALES, state.PASSES, state.PASSES_BETA1}
# Words that are more than the key of a state: a column of the CUDA kernel's table, and a value of an option.
OTHERS = {("fused_cuda_kernel", "step"), ("rounding", "master")}


def imported(tree: ast.Module) -> set[str]:
    """The modules of the folder that one of them imports, also late and for types alone."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "adamomentum.torch":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").removeprefix("adamomentum.torch."))
    return names & MODULES.keys()


def test_imports_do_not_go_round():
    arrows = {name: imported(tree) for name, tree in MODULES.items()}
    assert "state" in arrows["optimizer"]
    while leaves := [name for name, targets in arrows.items() if not targets]:
        arrows = {name: targets.difference(leaves) for name, targets in arrows.items() if name not in leaves}
    assert not arrows


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"state"}))
def test_no_other_module_spells_a_key_of_the_state(name):
    spelled = {node.value for node in ast.walk(MODULES[name]) if isinstance(node, ast.Constant)}
    assert not {key for key in KEYS & spelled if (name, key) not in OTHERS}


def test_scales_are_called_after_their_moments():
    assert tuple(state.scale_of(key) for key, _ in state.CODED) == state.SCALES


def test_cpp_has_the_same_keys():
    source = FOLDER.parents[2] / "native" / "batch.cpp"
    if not source.exists():
        pytest.skip("needs the repository, got an installed package")
    keys = set(re.findall(r'PyUnicode_InternFromString\("(\w+)"\)', source.read_text()))
    assert keys - {"grad", "is_neg"} == {state.STEP, *state.MOMENTS, *state.SCALES}
