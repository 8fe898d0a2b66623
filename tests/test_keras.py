"""Runs keras_suite.py on each backend, which Keras fixes when it is imported: a process each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from clients import need

SUITE = Path(__file__).parent / "keras_suite.py"


@pytest.mark.slow
@pytest.mark.clients
@pytest.mark.parametrize("backend", ["jax", "torch", "tensorflow"])
def test_backend(backend: str, tmp_path) -> None:
    need("keras", backend)
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "JAX_ENABLE_X64": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        # Most of what jax takes is compiling, and many models are alike.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        SUITE,
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-o",
        "addopts=",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env=environment, cwd=SUITE.parent, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    # On torch all that is the same on each backend too.
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= (90 if backend == "torch" else 55)
