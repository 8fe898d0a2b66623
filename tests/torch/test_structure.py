"""Promises about the source: what stands in one place only."""

import ast
import re
from pathlib import Path

import pytest

import adamomentum.torch
from adamomentum.torch import state

FOLDER = Path(adamomentum.torch.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text()) for path in FOLDER.glob("*.py") if path.stem != "__init__"}
KEYS = {state.STEP, *state.SHAPED, *state.SCALES, *state.BLOCKS, state.PASSES, state.PASSES_BETA1, state.NORM}
# Words that are more than the key of a state: a column of the CUDA kernel's table, and values of an option.
OTHERS = {
    ("scalars", "step"),
    ("fused_cuda", "step"),
    ("fused_cuda_kernel", "step"),
    ("fused_cuda_kernel", "master"),
    ("rounding", "master"),
}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"state"}))
def test_no_other_module_spells_a_key_of_the_state(name):
    spelled = {node.value for node in ast.walk(MODULES[name]) if isinstance(node, ast.Constant)}
    assert not {key for key in KEYS & spelled if (name, key) not in OTHERS}


def test_what_goes_with_codes_is_called_after_their_moments():
    assert tuple(state.scale_of(key) for key, _ in state.CODED) == state.SCALES
    assert tuple(state.blocks_of(key) for key, _ in state.CODED) == state.BLOCKS


def test_cpp_has_the_same_keys():
    source = FOLDER.parents[2] / "native" / "batch.cpp"
    if not source.exists():
        pytest.skip("needs the repository, got an installed package")
    keys = set(re.findall(r'PyUnicode_InternFromString\("(\w+)"\)', source.read_text()))
    assert keys - {"grad", "is_neg"} == {state.STEP, *state.SHAPED, *state.SCALES}
