"""Optuna finds lr and weight_decay.

python examples/tune_with_optuna.py
"""

from __future__ import annotations

import optuna
import torch
from torch import nn

from adamomentum import AdaMomentum


def validation_loss(trial: optuna.Trial) -> float:
    # In AdamW's ranges.
    lr = trial.suggest_float("lr", 1e-4, 0.4, log=True)
    weight_decay = trial.suggest_float("weight_decay", 1e-3, 1.0, log=True)
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    y = (x[:, :1] - x[:, 1:2].abs()).tanh() + 0.1 * torch.randn(512, 1)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = AdaMomentum(model.parameters(), lr=lr, weight_decay=weight_decay, adjust_lr="match_rms_adamw")
    # It would move beta1 as well, and the length of steps with it.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=100, cycle_momentum=False)
    for _ in range(100):
        loss = nn.functional.mse_loss(model(x[:384]), y[:384])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return nn.functional.mse_loss(model(x[384:]), y[384:]).item()


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(validation_loss, n_trials=20)
    settings = ", ".join(f"{name} {value:.2g}" for name, value in study.best_params.items())
    print(f"best of {len(study.trials)}: {settings}, validation loss {study.best_value:.4f}")
    worst = max(trial.value for trial in study.trials if trial.value is not None)
    assert study.best_value < 0.5 * worst


if __name__ == "__main__":
    main()
