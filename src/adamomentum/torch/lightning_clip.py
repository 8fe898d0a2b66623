"""Lightning's own clipping, which finds no gradients under release and would do nothing: made an error.

It is here and not in ``adamomentum.trainers``, as manual optimization and Fabric call ``release_gradients`` themselves.
Lightning is not imported. All clipping of a ``Trainer`` goes through its strategy's precision plugin, with the value;
that of a ``Fabric`` through two methods of its strategy.

Tested in tests/trainers/test_lightning.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from adamomentum.torch.optimizer import AdaMomentum

__all__ = ["guard", "guard_strategy"]


def guard(plugin: Any) -> None:
    """Have a precision plugin refuse to clip for an optimizer as long as that releases its gradients.

    Args:
        plugin: the trainer's ``precision_plugin``.
    """
    _wrap(plugin, "clip_gradients", _clip)


def guard_strategy(strategy: Any) -> None:
    """Have a strategy refuse to clip for an optimizer as long as that releases its gradients.

    Args:
        strategy: that of a ``Trainer`` or a ``Fabric``, which an optimizer that one of them has wrapped holds.
    """
    if hasattr(strategy, "precision_plugin"):
        guard(strategy.precision_plugin)
        return
    for name in ("clip_gradients_norm", "clip_gradients_value"):
        _wrap(strategy, name, _clip_of_fabric)


def _wrap(owner: Any, name: str, by: Callable[..., Any]) -> None:
    method = getattr(owner, name)
    if getattr(method, "func", None) is not by:
        setattr(owner, name, partial(by, method))


def _clip(clip: Any, optimizer: Any, clip_val: float = 0.0, *args: Any, **options: Any) -> None:
    if clip_val > 0:  # Lightning calls this with 0 in every step
        _check(optimizer, f"clip_gradients(gradient_clip_val={clip_val})")
    clip(optimizer, clip_val, *args, **options)


def _clip_of_fabric(clip: Any, module: Any, optimizer: Any, *args: Any, **options: Any) -> Any:
    _check(optimizer, "fabric.clip_gradients")
    return clip(module, optimizer, *args, **options)


def _check(optimizer: Any, what: str) -> None:
    inside = getattr(optimizer, "optimizer", optimizer)
    if isinstance(inside, AdaMomentum):
        inside._check_not_released(
            f"{what}, which finds no gradients: leave it out, clip each by the clip=... of release_gradients or "
            "ReleaseGradients"
        )
