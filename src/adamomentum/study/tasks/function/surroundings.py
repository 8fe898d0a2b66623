"""What a script finds around it and may change for good: the same for each trial, and put back after it.

Tested in tests/study/function/test_surroundings.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HIGHEST = "highest"  # which torch begins with


@contextmanager
def surroundings(script: Path) -> Iterator[None]:
    """Give ``script`` a command line without options, and put back what it sets for the whole process.

    That is the command line, the current folder, NumPy's handling of floating-point errors, and of torch: default dtype
    and device, gradients on or off, anomaly detection, deterministic algorithms, precision of float32 products, cuDNN's
    benchmark and determinism. (The number of threads is put back for each task.)
    """
    undo = [_folder(), _command_line(), *_of_torch()]
    errors = np.geterr()
    sys.argv = [str(script)]
    try:
        yield
    finally:
        np.seterr(**errors)
        for put_back in undo:
            put_back()


def _folder() -> Callable[[], object]:
    folder = Path.cwd()
    return lambda: os.chdir(folder)


def _command_line() -> Callable[[], object]:
    line = sys.argv

    def put_back() -> None:
        sys.argv = line

    return put_back


def _of_torch() -> Iterator[Callable[[], object]]:
    import torch  # late: who asks for help alone does not wait for it

    dtype, device, grad = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    yield lambda: torch.set_default_dtype(dtype)
    # The device that there is without a default is the CPU; to say so would cost a look at each call.
    yield lambda: torch.set_default_device(None if device.type == "cpu" else device)
    yield lambda: torch.set_grad_enabled(grad)
    anomalies = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    yield lambda: torch.autograd.set_detect_anomaly(*anomalies)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    yield lambda: torch.use_deterministic_algorithms(deterministic, warn_only=warn)
    cudnn = torch.backends.cudnn
    chosen = cudnn.benchmark, cudnn.deterministic

    def put_back_cudnn() -> None:
        if chosen != (cudnn.benchmark, cudnn.deterministic):  # torch may have been told to let nobody set them
            cudnn.benchmark, cudnn.deterministic = chosen

    yield put_back_cudnn
    yield _precision()


def _precision() -> Callable[[], object]:
    """Return what puts back the precision of products, which torch sets in two ways that do not know of each other."""
    import torch

    try:
        old = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer way was taken already
        old = HIGHEST
    mkldnn: Any = torch.backends.mkldnn
    backends = torch.backends, torch.backends.cuda.matmul, mkldnn.matmul
    new = [backend.fp32_precision for backend in backends]

    def put_back() -> None:
        torch.set_float32_matmul_precision(old)
        for backend, precision in zip(backends, new, strict=True):
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision

    return put_back
