"""Lightning, with automatic and with manual optimization.

python examples/lightning_module.py
"""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from adamomentum import AdaMomentum

EPOCHS, MORE, LIMIT = 12, 2, 0.1
STEPS = 16 * (EPOCHS + MORE)


class Automatic(lightning.LightningModule):
    """Lightning calls backward, clips and steps."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
        self.losses: list[float] = []

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.network(x), y)
        self.losses.append(loss.item())
        return loss

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        # It was torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.01).
        optimizer = AdaMomentum(self.parameters(), lr=0.1, weight_decay=0.01, adjust_lr="match_rms_adamw")
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


class Manual(Automatic):
    """You do."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []  # of the gradients before clipping

    def training_step(self, batch: Any, index: int) -> None:  # type: ignore[override]
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        # The optimizer's own, which leaves the gradients alone and clips within the step.
        self.norms.append(optimizer.clip_grad_norm_(LIMIT).item())
        optimizer.step()
        schedule.step()


def fit(kind: type[Automatic], epochs: int, folder: str, checkpoint: str | None = None) -> lightning.Trainer:
    """A trainer that has trained a model of this kind, from the start or on from a checkpoint."""
    lightning.seed_everything(0, verbose=False)
    x = torch.randn(512, 8)
    loader = DataLoader(TensorDataset(x, (x[:, :1] - x[:, 1:2].abs()).tanh()), batch_size=32)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        gradient_clip_val=LIMIT if kind is Automatic else None,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(kind(), loader, ckpt_path=checkpoint)
    return trainer


def main() -> None:
    warnings.filterwarnings("ignore", module="lightning")
    ends = []
    for kind in (Automatic, Manual):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = f"{folder}/last.ckpt"
            first = fit(kind, EPOCHS, folder)
            first.save_checkpoint(checkpoint)
            resumed = fit(kind, EPOCHS + MORE, folder, checkpoint)
            unstopped = fit(kind, EPOCHS + MORE, folder)
        module, other = resumed.lightning_module, unstopped.lightning_module
        losses = first.lightning_module.losses
        print(f"{kind.__name__}: loss {losses[0]:.3f} -> {module.losses[-1]:.3f}")
        assert module.losses[-1] < 0.5 * losses[0]
        # What a checkpoint holds of the optimizer was taken up: the run ends as the one that was not stopped.
        (optimizer,), (expected,) = resumed.optimizers, unstopped.optimizers
        for p, q in zip(module.parameters(), other.parameters(), strict=True):
            assert optimizer.state[p]["step"] == resumed.global_step == STEPS
            torch.testing.assert_close(optimizer.state[p], expected.state[q])
            torch.testing.assert_close(p, q)
        ends.append(torch.nn.utils.parameters_to_vector(module.parameters()))
        if kind is Manual:
            assert max(module.norms) > LIMIT
    # Clipped by Lightning or by the optimizer, it is the same run.
    torch.testing.assert_close(*ends, rtol=0.0, atol=1e-3)


if __name__ == "__main__":
    main()
