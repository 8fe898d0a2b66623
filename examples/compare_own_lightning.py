"""AdamW against AdaMomentum in a LightningModule.

adamomentum compare --train examples/compare_own_lightning.py:train
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Module(lightning.LightningModule):
    def __init__(self, trial: Any, steps: int) -> None:
        super().__init__()
        self.trial, self.steps = trial, steps
        self.network = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

    def loss(self, batch: Any) -> torch.Tensor:
        return nn.functional.mse_loss(self.network(batch[0]), batch[1])

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Any, index: int) -> None:
        self.log("test_loss", self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.trial.report(loss=self.trainer.callback_metrics["val_loss"])

    def configure_optimizers(self) -> Any:
        optimizer = self.trial.optimizer(self.parameters())  # it was torch.optim.AdamW(self.parameters(), lr=1e-2)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def train(trial: Any, epochs: int = 3) -> dict[str, float]:
    x = torch.randn(1200, 8, generator=torch.Generator().manual_seed(0))
    data = x, (x[:, :1] - x[:, 1:2].abs()).tanh()
    parts = [TensorDataset(*(t[rows] for t in data)) for rows in (slice(800), slice(800, 1000), slice(1000, 1200))]
    order = torch.Generator().manual_seed(trial.seed)
    loaders = [DataLoader(part, 40, shuffle=part is parts[0], generator=order) for part in parts]
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="auto" if trial.device.type == "cuda" else "cpu",
        devices=1,
        default_root_dir=trial.folder,
        num_sanity_val_steps=0,  # or a validation before the first step is reported, too
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module(trial, epochs * len(loaders[0]))
    trainer.fit(module, loaders[0], loaders[1])
    [tested] = trainer.test(module, loaders[2], verbose=False)
    return {"loss": tested["test_loss"]}
