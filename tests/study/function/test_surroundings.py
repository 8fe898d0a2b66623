"""What one trial's function sets for the whole process, the next one does not find."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from study.function.functions import script, spec_of, trained

from adamomentum.study.trial import run_trial


def state() -> dict[str, object]:
    return {
        "argv": list(sys.argv),
        "folder": Path.cwd(),
        "numpy": np.geterr(),
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device,
        "grad": torch.is_grad_enabled(),
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "threads": torch.get_num_threads(),
        "products": (torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision),
        "precision": torch.get_float32_matmul_precision(),
    }


IMPORTS = "import os, sys, torch, numpy as np\n"
SETTINGS = [
    "os.chdir('/')",
    "sys.argv.append('--fast')",
    "sys.argv = ['x', 'y']",
    "np.seterr(all='ignore')",
    "torch.set_default_dtype(torch.float64)",
    "torch.set_default_device('meta')",
    "torch.set_grad_enabled(False)",
    "torch.autograd.set_detect_anomaly(True, check_nan=False)",
    "torch.use_deterministic_algorithms(True, warn_only=True)",
    "torch.backends.cudnn.benchmark = True; torch.backends.cudnn.deterministic = True",
    "torch.set_num_threads(torch.get_num_threads() + 1)",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
]


# Torch's helpers for tests, which others of ours import, let nobody set the flags of cuDNN in the whole process.
FLAGS_MAY_BE_SET = "__allow_nonbracketed_mutation_flag"


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_script_sets_is_put_back(tmp_path, monkeypatch, setting) -> None:
    """Also where the trial fails in the middle of it."""
    monkeypatch.setitem(torch.backends.flags_frozen.__globals__, FLAGS_MAY_BE_SET, True)
    before = state()
    with pytest.raises(KeyError, match="enough"):
        trained(tmp_path, f"{IMPORTS}def train(trial):\n    {setting}\n    raise KeyError('enough')\n")
    assert state() == before
    with pytest.raises(KeyError, match="enough"):  # while the script itself is run
        trained(tmp_path, f"{IMPORTS}{setting}\nraise KeyError('enough')\n")
    assert state() == before


def test_the_command_line_is_that_of_the_script_alone(tmp_path) -> None:
    text = "import sys\nLINE = sys.argv\ndef train(trial):\n    raise KeyError(f'{LINE} {sys.argv}')\n"
    data = script(tmp_path, text)
    with pytest.raises(KeyError) as caught:
        run_trial(spec_of(data), data)
    line = [str(tmp_path / "my_train.py")]
    assert caught.value.args == (f"{line} {line}",)


def test_flags_that_nobody_may_set_are_left_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(torch.backends.flags_frozen.__globals__, FLAGS_MAY_BE_SET, False)
    with pytest.raises(KeyError, match="enough"):
        trained(tmp_path, "def train(trial):\n    raise KeyError('enough')\n")
