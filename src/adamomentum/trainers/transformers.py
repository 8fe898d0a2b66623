"""Gradient release in the Trainer of Hugging Face's transformers, by a callback."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from adamomentum.torch import AdaptiveClip, release_gradients
from adamomentum.torch.clip_each import check_clip
from adamomentum.torch.release import GradientRelease
from adamomentum.trainers.accelerate import inner

__all__ = ["ReleaseGradients"]


class ReleaseGradients(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Train without gradient buffers, as :func:`adamomentum.torch.release_gradients` does.

    ``Trainer(..., callbacks=[ReleaseGradients()])``, with ``max_grad_norm=0`` in its arguments, where the default would
    clip. Passes a step are the arguments' ``gradient_accumulation_steps``. The Trainer then logs 0 as ``grad_norm``.

    Args:
        clip: as of ``release_gradients``.
        local_gradients: as of ``release_gradients``.
    """

    def __init__(self, *, clip: float | AdaptiveClip | None = None, local_gradients: bool = False) -> None:
        self._clip = check_clip(clip)
        self._local_gradients = local_gradients
        self._handle: GradientRelease | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Begin the release; the Trainer calls this.

        Raises:
            ValueError: if the arguments ask for clipping or for float16 with a GradScaler.
        """
        self._remove()  # of a training that failed
        _check_no_clipping(args)
        if args.fp16:
            raise ValueError("ReleaseGradients does not go with fp16=True, which scales gradients; set bf16=True")
        self._handle = release_gradients(
            inner(others["optimizer"]),
            args.gradient_accumulation_steps,
            clip=self._clip,
            local_gradients=self._local_gradients,
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Check that there is still no clipping and a step has as many passes; the Trainer calls this.

        Raises:
            ValueError: if another callback has set ``max_grad_norm`` or ``gradient_accumulation_steps`` since.
        """
        _check_no_clipping(args)
        if self._handle is not None and self._handle.accumulation_steps != args.gradient_accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps changed from {self._handle.accumulation_steps} to "
                f"{args.gradient_accumulation_steps}, which ReleaseGradients cannot follow; leave it as it is"
            )

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Check that the step that ends was not to be clipped; the Trainer calls this.

        Raises:
            ValueError: if another callback has set ``max_grad_norm`` since the step began.
        """
        _check_no_clipping(args)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """End the release; the Trainer calls this."""
        self._remove()

    def _remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = None


def _check_no_clipping(args: Any) -> None:
    if args.max_grad_norm:
        raise ValueError(
            f"ReleaseGradients does not go with max_grad_norm={args.max_grad_norm}, which would clip nothing: the "
            "norm of all gradients is not known before the update; set TrainingArguments(max_grad_norm=0), and "
            "limit the norm of each by ReleaseGradients(clip=...)"
        )
