"""Gradient release with Hugging Face's Accelerate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from adamomentum import torch as adamomentum_torch
from adamomentum.torch import AdaMomentum
from adamomentum.torch.release import GradientRelease

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["release_gradients"]


def release_gradients(
    accelerator: Accelerator,
    optimizer: Any,
    *,
    clip: float | adamomentum_torch.AdaptiveClip | None = None,
    local_gradients: bool = False,
) -> GradientRelease:
    """Train without gradient buffers, as :func:`adamomentum.torch.release_gradients` does.

    Passes a step are the accelerator's ``gradient_accumulation_steps``; its ``backward`` raises once that is another
    number, by which it would divide losses. Its ``clip_grad_norm_`` and ``clip_grad_value_``, which would find no
    gradients and do nothing, raise for these parameters. Both until the handle's ``remove()``, and for the accelerator
    passed alone: another ``Accelerator`` of the process clips nothing and says nothing.

    Args:
        accelerator: what runs the training.
        optimizer: an AdaMomentum, or what ``accelerator.prepare`` has made of one.
        clip: as of ``adamomentum.torch.release_gradients``.
        local_gradients: as of ``adamomentum.torch.release_gradients``.

    Returns:
        The handle.

    Raises:
        ValueError: if the accelerator scales gradients.
    """
    if accelerator.scaler is not None:
        raise ValueError(
            f"release_gradients does not go with mixed_precision={accelerator.mixed_precision!r}, which scales "
            'gradients; set mixed_precision="bf16"'
        )
    inside = inner(optimizer)
    handle = adamomentum_torch.release_gradients(
        inside, accelerator.gradient_accumulation_steps, clip=clip, local_gradients=local_gradients
    )
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        setattr(accelerator, name, _guarded(getattr(accelerator, name), name, inside))
    accelerator.backward = _with_its_passes(accelerator, handle, inside)  # type: ignore[method-assign, unused-ignore]
    return handle


def inner(optimizer: Any) -> Any:
    """Return the optimizer inside of wrappers such as that of ``accelerator.prepare``."""
    while not isinstance(optimizer, AdaMomentum) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _guarded(clip: Callable[..., Any], name: str, optimizer: AdaMomentum) -> Callable[..., Any]:
    def guarded(parameters: Any, *args: Any, **options: Any) -> Any:
        clipped = [parameters] if hasattr(parameters, "grad") else list(parameters)
        ours = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(p) in ours for p in clipped):
            optimizer._check_not_released(
                f"accelerator.{name}, which finds no gradients: leave it out, clip each by release_gradients(clip=...)"
            )
        return clip(clipped, *args, **options)

    return guarded


def _with_its_passes(accelerator: Accelerator, handle: GradientRelease, optimizer: AdaMomentum) -> Callable[..., Any]:
    backward = accelerator.backward

    def checked(*args: Any, **options: Any) -> Any:
        passes = accelerator.gradient_accumulation_steps
        if optimizer._pending.release is handle and passes != handle.accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps changed from {handle.accumulation_steps} to {passes}, which "
                "release_gradients cannot follow; leave it as it is, or call remove() on its handle and "
                "release_gradients again"
            )
        return backward(*args, **options)

    return checked
