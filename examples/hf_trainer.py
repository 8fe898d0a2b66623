"""Hugging Face Trainer: AdaMomentum by class, and ready-made with groups and a schedule of one's own.

python examples/hf_trainer.py
"""

from __future__ import annotations

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, get_cosine_schedule_with_warmup

from adamomentum import AdaMomentum
from adamomentum.torch import param_groups

STEPS = 60


class Counting(torch.utils.data.Dataset):
    """Numbers that count up from a random one, modulo 16."""

    def __len__(self) -> int:
        return 512

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        words = (torch.arange(12) + k * 7) % 16
        return {"input_ids": words, "labels": words}


def arguments(folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        max_steps=STEPS,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        warmup_steps=20,
        lr_scheduler_type="cosine",
        weight_decay=0.1,
        max_grad_norm=1.0,
        logging_steps=10,
        save_steps=STEPS,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        seed=0,
        disable_tqdm=True,
    )


def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=16, n_embd=32, n_layer=2, n_head=2))


def by_class(folder: str) -> Trainer:
    """The Trainer makes groups (no decay on biases and norms), takes lr and decay from its arguments, and schedules."""
    args = arguments(folder)
    return Trainer(
        model=model(),
        args=args,
        train_dataset=Counting(),
        optimizer_cls_and_kwargs=(AdaMomentum, {"lr": args.learning_rate, "betas": (0.9, 0.999), "eps": 1e-16}),
    )


def ready_made(folder: str) -> Trainer:
    """Optimizer and schedule are your own."""
    network = model()
    optimizer = AdaMomentum(param_groups(network, weight_decay=0.1), lr=1e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, 20, STEPS)
    return Trainer(model=network, args=arguments(folder), train_dataset=Counting(), optimizers=(optimizer, schedule))


def main() -> None:
    for make in (by_class, ready_made):
        with tempfile.TemporaryDirectory() as folder:
            trainer = make(folder)
            trainer.train()
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            # A checkpoint is taken up again, moments and all.
            again = make(folder)
            again.args.max_steps = STEPS + 10
            again.train(resume_from_checkpoint=True)
            assert isinstance(getattr(again.optimizer, "optimizer", again.optimizer), AdaMomentum)
        first, last = float(losses[0]), float(losses[-1])
        print(f"{make.__name__}: loss {first:.2f} -> {last:.2f}, resumed to step {again.state.global_step}")
        assert last < 0.8 * first
        assert again.state.global_step == STEPS + 10


if __name__ == "__main__":
    main()
