"""Hugging Face Trainer: AdaMomentum by class, and ready-made with groups and a schedule of one's own.

python examples/hf_trainer.py
"""

from __future__ import annotations

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, get_cosine_schedule_with_warmup

from adamomentum import AdaMomentum
from adamomentum.torch import param_groups

STEPS, MORE, WARMUP = 60, 10, 7


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
        max_steps=STEPS + MORE,
        per_device_train_batch_size=16,
        learning_rate=3.2e-2,  # this and what follows is AdamW's
        warmup_steps=WARMUP,
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
    """The Trainer makes groups (no decay on biases and norms), takes decay from its arguments, and schedules."""
    args = arguments(folder)
    # eps stays AdaMomentum's own: args.adam_epsilon, 1e-8, is what Adam adds to the root. Added to the second moment at
    # every step, as here, it would keep the denominator above 3e-3, more than many gradients.
    return Trainer(
        model=model(),
        args=args,
        train_dataset=Counting(),
        optimizer_cls_and_kwargs=(AdaMomentum, {"lr": args.learning_rate, "adjust_lr": "match_rms_adamw"}),
    )


def ready_made(folder: str) -> Trainer:
    """Optimizer and schedule are your own."""
    network = model()
    # It was torch.optim.AdamW(param_groups(network, weight_decay=0.1), lr=3.2e-2).
    optimizer = AdaMomentum(param_groups(network, weight_decay=0.1), lr=3.2e-2, adjust_lr="match_rms_adamw")
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP, STEPS + MORE)
    return Trainer(model=network, args=arguments(folder), train_dataset=Counting(), optimizers=(optimizer, schedule))


def inner(trainer: Trainer) -> AdaMomentum:
    """The optimizer, out of the wrapper that Accelerate puts around it."""
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    assert isinstance(optimizer, AdaMomentum)
    return optimizer


def main() -> None:
    for make in (by_class, ready_made):
        with tempfile.TemporaryDirectory() as folder:
            trainer = make(folder)
            trainer.train()
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            # A checkpoint is taken up again, moments and all: the run ends as the one that was not stopped.
            again = make(folder)
            again.train(resume_from_checkpoint=f"{folder}/checkpoint-{STEPS}")
        optimizer, resumed = inner(trainer), inner(again)
        for p, q in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
            assert resumed.state[q]["step"] == STEPS + MORE
            for key, value in optimizer.state[p].items():
                torch.testing.assert_close(resumed.state[q][key], value)
            torch.testing.assert_close(q, p)
        first, last = float(losses[0]), float(losses[-1])
        print(f"{make.__name__}: loss {first:.2f} -> {last:.2f}, resumed to step {again.state.global_step}")
        assert last < 0.8 * first


if __name__ == "__main__":
    main()
