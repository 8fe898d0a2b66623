"""AdaMomentum: Adam whose second moment averages the square of the momentum (arXiv 2106.11514).

Importing this package imports no framework; each name below is loaded on first use.

* ``adamomentum.AdaMomentum``: the PyTorch optimizer; the rest is in ``adamomentum.torch``.
* ``adamomentum.optax``: the transformation for JAX.
* ``adamomentum.keras``: the optimizer for Keras 3.
* ``adamomentum.memory``: what training takes, in bytes, and the largest model that fits.
* ``adamomentum.reference``: Algorithm 1 in NumPy, the specification every path is tested against.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adamomentum.torch import AdaMomentum

__all__ = ["AdaMomentum", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("adamomentum")
    if name == "AdaMomentum":
        return import_module("adamomentum.torch").AdaMomentum
    if name in ("reference", "memory", "torch", "optax", "keras"):
        return import_module(f"adamomentum.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
