"""Lightning's own clipping, which finds no gradients under release and would do nothing: made an error.

It is here and not in ``adamomentum.trainers``, as manual optimization calls ``release_gradients`` itself. Lightning is
not imported: a strategy's precision plugin is where all clipping of its ``Trainer`` goes through, with the value.

Tested in tests/trainers/test_lightning.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from adamomentum.torch.optimizer import AdaMomentum

__all__ = ["guard"]


def guard(plugin: Any) -> None:
    """Have a precision plugin refuse to clip for an optimizer as long as that releases its gradients.

    Args:
        plugin: the trainer's ``precision_plugin``.
    """
    if getattr(plugin.clip_gradients, "func", None) is not _clip:
        plugin.clip_gradients = partial(_clip, plugin.clip_gradients)


def _clip(clip: Any, optimizer: Any, clip_val: float = 0.0, *args: Any, **options: Any) -> None:
    inside = getattr(optimizer, "optimizer", optimizer)
    if clip_val > 0 and isinstance(inside, AdaMomentum):  # Lightning calls this with 0 in every step
        inside._check_not_released(
            f"clip_gradients(gradient_clip_val={clip_val}), which finds no gradients: leave it out, clip each by the "
            "clip=... of release_gradients or ReleaseGradients"
        )
    clip(optimizer, clip_val, *args, **options)
