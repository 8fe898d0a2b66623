"""Gradient release in the Trainer of transformers: the same training, and no silent loss of clipping."""

from __future__ import annotations

import pytest
import torch
from clients import need

from adamomentum import AdaMomentum
from adamomentum.torch import AdaptiveClip
from adamomentum.trainers.accelerate import inner

pytestmark = [pytest.mark.slow, pytest.mark.clients]


class Sequences(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 44

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        words = (torch.arange(8) + k * 7) % 16
        return {"input_ids": words, "labels": words}


def trainer_of(folder, *, callback=None, four_bytes=False, **arguments):
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(**sizes, **dropout, bos_token_id=0, eos_token_id=0))
    settings = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,  # 11 batches an epoch: the last step has three
        "gradient_accumulation_steps": 4,
        "learning_rate": 1e-2,
        "max_grad_norm": 0,
        "report_to": [],
        "use_cpu": True,
        "seed": 0,
        "disable_tqdm": True,
        "save_steps": 4,
        **arguments,
    }
    options = {"state_dtype": "8bit", "rounding": "stochastic"} if four_bytes else {}
    return Trainer(
        model=model.bfloat16() if four_bytes else model,
        args=TrainingArguments(output_dir=str(folder), **settings),
        train_dataset=Sequences(),
        optimizer_cls_and_kwargs=(AdaMomentum, {"lr": 1e-2, **options}),
        callbacks=[callback] if callback else None,
    )


@pytest.fixture
def release():
    need("transformers", "accelerate")
    from adamomentum.trainers.transformers import ReleaseGradients

    return ReleaseGradients


def test_it_trains_as_without_release(release, tmp_path) -> None:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.gradients = []

        def on_pre_optimizer_step(self, args, state, control, **others):
            self.gradients.append(sum(p.grad is not None for p in others["model"].parameters()))

    trained = []
    for callback in (None, release()):
        trainer, watch = trainer_of(tmp_path / str(len(trained)), callback=callback), Watch()
        trainer.add_callback(watch)
        trainer.train()
        assert watch.gradients == [0 if callback else len(list(trainer.model.parameters()))] * 6
        trained.append(trainer)
    plain, released = trained
    assert released.state.global_step == plain.state.global_step == 6
    for p, q in zip(plain.model.parameters(), released.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0.0, atol=1e-4)  # each has moved by up to 0.1
    assert released.optimizer.optimizer._pending.release is None  # it ends with the training


def test_four_bytes_a_parameter(release, tmp_path) -> None:
    """Parameters in bfloat16, moments in 8 bits, no gradients, four passes a step."""
    losses = []
    for callback in (None, release()):
        four = callback is not None
        trainer = trainer_of(
            tmp_path / str(four), callback=callback, four_bytes=four, num_train_epochs=20, logging_steps=60
        )
        trainer.train()
        losses.append(trainer.state.log_history[-1]["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] < 1.5  # it was 2.8
    state = trainer.optimizer.optimizer.state
    assert {p.dtype for p in state} == {torch.bfloat16}
    assert {s[key].dtype for s in state.values() for key in ("exp_avg", "exp_avg_sq")} == {torch.uint8}


def test_it_goes_on_from_a_checkpoint(release, tmp_path) -> None:
    whole = trainer_of(tmp_path, callback=release())
    whole.train()
    resumed = trainer_of(tmp_path, callback=release())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for p, q in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_each_gradient_is_clipped(release, tmp_path) -> None:
    trainer = trainer_of(tmp_path, callback=release(clip=AdaptiveClip(warmup=2)))
    trainer.train()
    states = inner(trainer.optimizer).state.values()
    assert states
    assert all(state["grad_norm"][1] == 22 for state in states)


def test_clipping_is_an_error(release, tmp_path) -> None:
    """Also where it is the default, 1.0; nothing has moved by then."""
    trainer = trainer_of(tmp_path, callback=release(), max_grad_norm=1.0)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(ValueError, match=r"max_grad_norm=1.0, which would clip nothing.*max_grad_norm=0"):
        trainer.train()
    assert all(torch.equal(p, q) for p, q in zip(trainer.model.parameters(), before, strict=True))
    trainer.args.max_grad_norm = 0
    trainer.train()
    assert trainer.state.global_step == 6


@pytest.mark.parametrize(
    ("event", "name", "value", "message"),
    [
        ("on_step_end", "max_grad_norm", 0.5, r"max_grad_norm=0.5, which would clip nothing.*ReleaseGradients\(clip="),
        ("on_substep_end", "max_grad_norm", 0.5, r"max_grad_norm=0.5, which would clip nothing"),
        ("on_step_end", "gradient_accumulation_steps", 2, "gradient_accumulation_steps changed from 4 to 2"),
    ],
)
def test_settings_changed_in_training_are_an_error(event, name, value, message, release, tmp_path) -> None:
    from transformers import TrainerCallback

    class Changes(TrainerCallback):
        pass

    def change(self, args, state, control, **others) -> None:
        setattr(args, name, value)

    setattr(Changes, event, change)
    trainer = trainer_of(tmp_path, callback=release())
    trainer.add_callback(Changes())
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == (1 if event == "on_step_end" else 0)  # at the next check


def test_scaled_gradients_are_an_error(release, tmp_path) -> None:
    trainer = trainer_of(tmp_path, callback=release())
    trainer.args.fp16 = True  # TrainingArguments themselves refuse it without a GPU
    with pytest.raises(ValueError, match=r"fp16=True.*bf16=True"):
        trainer.train()


def test_a_training_that_failed_leaves_nothing_behind(release, tmp_path) -> None:
    trainer = trainer_of(tmp_path, callback=release())
    step, trainer.training_step = trainer.training_step, lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    trainer.training_step = step
    trainer.train()
    assert trainer.state.global_step == 6


def test_another_optimizer_is_an_error(release, tmp_path) -> None:
    trainer = trainer_of(tmp_path, callback=release())
    trainer.optimizer_cls_and_kwargs = (torch.optim.AdamW, {"lr": 1e-3})
    with pytest.raises(TypeError, match=r"must be an adamomentum.AdaMomentum, got"):
        trainer.train()
