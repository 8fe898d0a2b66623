"""What this installation can do, and why not where it can't: ``adamomentum doctor``."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

__all__ = ["report"]


def report() -> str:
    """The versions in use and the paths of the optimizer, each with the reason where it is not available.

    Needs nothing beyond the base install.
    """
    rows = [("adamomentum", f"{version('adamomentum')} on Python {platform.python_version()}, {platform.platform()}")]
    rows += [(name, _version(name)) for name in ("numpy", "torch", "triton", "jax", "optax", "keras")]
    rows += [("", ""), *_paths()]
    return "\n".join(f"{name:<28}{text}".rstrip() for name, text in rows)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _paths() -> list[tuple[str, str]]:
    return [*_in_torch(), ("optax transformation", _in_optax()), ("Keras optimizer", _in_keras())]


def _in_torch() -> list[tuple[str, str]]:
    if find_spec("torch") is None:
        return [("PyTorch optimizer", 'not available: run pip install "adamomentum[torch]"')]
    from adamomentum.torch import fused_cpu, fused_cuda

    reason, on_cuda = fused_cpu.why_not(), fused_cuda.available()
    return [
        ("for-loop, foreach", "available"),
        ("fused on a CPU", f"not available: {reason}" if reason else f"available: {fused_cpu.details()}"),
        ("fused on CUDA", f"not available: {on_cuda}" if on_cuda else "available, with fused=True"),
    ]


def _in_optax() -> str:
    if find_spec("jax") is None or find_spec("optax") is None:
        return 'not available: run pip install "adamomentum[jax]"'
    return "available"


def _in_keras() -> str:
    if find_spec("keras") is None:
        return 'not available: run pip install "adamomentum[keras]", and a backend: torch, jax or tensorflow'
    if int(version("keras").partition(".")[0]) < 3:
        return 'not available: it is for Keras 3, run pip install "adamomentum[keras]"'
    backends = [name for name in ("torch", "jax", "tensorflow") if find_spec(name)]
    return f"available, with {' or '.join(backends)}" if backends else "not available: install torch, jax or tensorflow"
