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
        optimizer = AdaMomentum(self.parameters(), lr=2e-3)
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, total_iters=50)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warmup, "interval": "step"}}


class Manual(Automatic):
    """You do."""

    automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:  # type: ignore[override]
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        optimizer.step()
        schedule.step()


def main() -> None:
    warnings.filterwarnings("ignore", module="lightning")
    for kind in (Automatic, Manual):
        lightning.seed_everything(0, verbose=False)
        x = torch.randn(512, 8)
        loader = DataLoader(TensorDataset(x, (x[:, :1] - x[:, 1:2].abs()).tanh()), batch_size=32)
        with tempfile.TemporaryDirectory() as folder:
            trainer = lightning.Trainer(
                max_epochs=12,
                accelerator="auto",
                gradient_clip_val=1.0 if kind is Automatic else None,
                default_root_dir=folder,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            module = kind()
            trainer.fit(module, loader)
            # What a checkpoint holds of the optimizer is taken up by another run.
            trainer.save_checkpoint(f"{folder}/last.ckpt")
            other = kind()
            trainer.fit_loop.max_epochs = 14
            trainer.fit(other, loader, ckpt_path=f"{folder}/last.ckpt")
        print(f"{kind.__name__}: loss {module.losses[0]:.3f} -> {other.losses[-1]:.3f}")
        assert other.losses[-1] < 0.5 * module.losses[0]


if __name__ == "__main__":
    main()
