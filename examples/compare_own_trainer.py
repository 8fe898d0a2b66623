"""AdamW against AdaMomentum in the Hugging Face Trainer.

adamomentum compare --train examples/compare_own_trainer.py:train
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)


class Counting(torch.utils.data.Dataset):
    """Numbers that count up from a random one, modulo 16, one of them another."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(self.first + k)
        start, place, other = torch.randint(16, (3,), generator=draw).tolist()
        words = (torch.arange(12) + start) % 16
        words[place % 12] = other
        return {"input_ids": words, "labels": words}


class Report(TrainerCallback):
    """Passes what the Trainer evaluates on to the trial."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **rest: Any) -> None:
        if "eval_loss" in metrics:
            self.trial.report(loss=metrics["eval_loss"])


def train(trial: Any, steps: int = 20) -> dict[str, float]:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    optimizer = trial.optimizer(model.parameters())  # it was torch.optim.AdamW(model.parameters(), lr=1e-2)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(trial.folder),
            max_steps=steps,
            per_device_train_batch_size=16,
            eval_strategy="steps",
            eval_steps=steps // 2,
            save_strategy="no",
            report_to=[],
            use_cpu=trial.device.type == "cpu",
            seed=trial.seed,  # of the order of the examples
            disable_tqdm=True,
        ),
        train_dataset=Counting(0, 256),
        eval_dataset=Counting(256, 64),
        optimizers=(optimizer, get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)),
        callbacks=[Report(trial)],
    )
    trainer.train()
    return {"loss": trainer.evaluate(Counting(320, 64), metric_key_prefix="test")["test_loss"]}
