"""Gradient release in Lightning's Trainer, with automatic optimization, by a callback."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden

from adamomentum.torch import AdaptiveClip, release_gradients
from adamomentum.torch.clip_each import check_clip
from adamomentum.torch.lightning_clip import guard
from adamomentum.torch.release import GradientRelease

__all__ = ["ReleaseGradients"]


class ReleaseGradients(Callback):  # type: ignore[misc, unused-ignore]
    """Train without gradient buffers, as :func:`adamomentum.torch.release_gradients` does.

    ``lightning.Trainer(..., callbacks=[ReleaseGradients()])``, without ``gradient_clip_val``; the module's
    ``clip_gradients`` raises. Passes a step are the trainer's ``accumulate_grad_batches``. With manual optimization,
    call ``release_gradients(self.optimizers())`` in the module's ``on_train_start`` instead.

    Args:
        clip: as of ``release_gradients``.
        local_gradients: as of ``release_gradients``.
    """

    def __init__(self, *, clip: float | AdaptiveClip | None = None, local_gradients: bool = False) -> None:
        self._clip = check_clip(clip)
        self._local_gradients = local_gradients
        self._handles: list[GradientRelease] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the release; Lightning calls this.

        Raises:
            ValueError: if the trainer or the module would clip or scale gradients, or optimization is manual.
        """
        self._remove()  # of a training that failed
        if not pl_module.automatic_optimization:
            raise ValueError(
                "ReleaseGradients is for automatic optimization; call adamomentum.torch.release_gradients("
                "self.optimizers()) in the module's on_train_start, and clip nothing"
            )
        _check_no_clipping(trainer)
        if is_overridden("configure_gradient_clipping", pl_module):
            raise ValueError(
                f"ReleaseGradients does not go with {type(pl_module).__name__}.configure_gradient_clipping, which "
                "would find no gradients; remove it"
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                f"ReleaseGradients does not go with precision={trainer.precision!r}, which scales gradients; set "
                'precision="bf16-mixed" or "bf16-true"'
            )
        self._handles = [
            release_gradients(
                optimizer, trainer.accumulate_grad_batches, clip=self._clip, local_gradients=self._local_gradients
            )
            for optimizer in trainer.optimizers
        ]
        guard(trainer.precision_plugin)  # the module may clip by itself

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Check that a step still has as many passes, and that there is still no clipping; Lightning calls this.

        Raises:
            ValueError: if it has not, as with GradientAccumulationScheduler, or ``gradient_clip_val`` was set.
        """
        _check_no_clipping(trainer)
        passes = {handle.accumulation_steps for handle in self._handles}
        if passes != {trainer.accumulate_grad_batches}:
            raise ValueError(
                f"accumulate_grad_batches changed from {passes.pop()} to {trainer.accumulate_grad_batches}, which "
                "ReleaseGradients cannot follow; leave it as it is"
            )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End the release; Lightning calls this."""
        self._remove()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the release of a training that fails; Lightning calls this."""
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _check_no_clipping(trainer: Any) -> None:
    if trainer.gradient_clip_val:
        raise ValueError(
            f"ReleaseGradients does not go with gradient_clip_val={trainer.gradient_clip_val}, which would clip "
            "nothing: the norm of all gradients is not known before the update; set gradient_clip_val=None, and "
            "limit the norm of each by ReleaseGradients(clip=...)"
        )
