"""What this installation can do, and why not where it can't: ``adamomentum doctor``.

Tested in tests/test_cli.py.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

__all__ = ["report"]


def report() -> str:
    """Return the versions in use and the paths of the optimizer, each with the reason where it is not available.

    Needs nothing beyond the base install.
    """
    rows = [("adamomentum", f"{version('adamomentum')} on Python {platform.python_version()}, {platform.platform()}")]
    rows += [(name, _version(name)) for name in ("numpy", "torch", "triton", "jax", "optax", "keras")]
    rows += [("", ""), *_paths()]
    return "\n".join(f"{name:<28}{text}".rstrip() for name, text in rows)


def _installed(name: str) -> bool:
    """Return whether there is a package of this name; a folder that happens to be called so is none."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _paths() -> list[tuple[str, str]]:
    return [*_in_torch(), ("optax transformation", _in_optax()), ("Keras optimizer", _in_keras())]


def _in_torch() -> list[tuple[str, str]]:
    if not _installed("torch"):
        return [("PyTorch optimizer", 'not available: run pip install "adamomentum[torch]"')]
    from adamomentum.torch import fused_cpu, fused_cuda

    no_cpu, no_cuda = fused_cpu.why_not(), fused_cuda.why_not()
    return [
        ("for-loop, foreach", "available"),
        ("fused on a CPU", f"not available: {no_cpu}" if no_cpu else f"available: {fused_cpu.details()}"),
        ("fused on CUDA", f"not available: {no_cuda}" if no_cuda else "available, with fused=True"),
    ]


def _in_optax() -> str:
    if not (_installed("jax") and _installed("optax")):
        return 'not available: run pip install "adamomentum[jax]"'
    return "available"


def _in_keras() -> str:
    if not _installed("keras"):
        return 'not available: run pip install "adamomentum[keras]", and a backend: torch, jax or tensorflow'
    major = _version("keras").partition(".")[0]  # of a nightly build or a copy nothing is known
    if major.isdigit() and int(major) < 3:
        return 'not available: it is for Keras 3, run pip install "adamomentum[keras]"'
    backends = [name for name in ("torch", "jax", "tensorflow") if _installed(name)]
    return f"available, with {' or '.join(backends)}" if backends else "not available: install torch, jax or tensorflow"
