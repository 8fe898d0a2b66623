"""Gradient release in Lightning: the same training, and no silent loss of clipping."""

from __future__ import annotations

import pytest
import torch
from clients import need
from torch import nn

from adamomentum import AdaMomentum
from adamomentum.torch import AdaptiveClip

pytestmark = [pytest.mark.slow, pytest.mark.clients, pytest.mark.filterwarnings("ignore::UserWarning")]


def fit(folder, *, released: bool, bases=(), more_callbacks=(), clip=None, **options):
    need("lightning")
    import lightning

    from adamomentum.trainers.lightning import ReleaseGradients

    class Steps(lightning.LightningModule):
        def training_step(self, batch, batch_idx):
            return self.net(batch).square().mean()

        def on_before_optimizer_step(self, optimizer) -> None:
            self.gradients.append(sum(p.grad is not None for p in self.parameters()))

    class Module(*bases, Steps):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
            self.gradients = []

        def configure_optimizers(self):
            return AdaMomentum(self.parameters(), lr=1e-2)

    torch.manual_seed(1)
    loader = torch.utils.data.DataLoader(torch.randn(22, 4), batch_size=2)  # 11 batches: the last step has three
    callbacks = [*more_callbacks, *([ReleaseGradients(clip=clip)] if released else [])]
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"accumulate_grad_batches": 4, **options},
    )
    module = Module()
    trainer.fit(module, loader)
    return trainer, module


@pytest.mark.parametrize("passes", [1, 4])
def test_it_trains_as_without_release(passes, tmp_path) -> None:
    _, plain = fit(tmp_path, released=False, accumulate_grad_batches=passes)
    trainer, released = fit(tmp_path, released=True, accumulate_grad_batches=passes)
    steps = 22 if passes == 1 else 6
    assert trainer.global_step == steps
    assert (plain.gradients, released.gradients) == ([4] * steps, [0] * steps)
    for p, q in zip(plain.parameters(), released.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    (optimizer,) = trainer.optimizers
    assert optimizer._pending.release is None  # it ends with the training


def test_each_gradient_is_clipped(tmp_path) -> None:
    trainer, _ = fit(tmp_path, released=True, clip=AdaptiveClip(warmup=2))
    assert all(state["grad_norm"][1] == 22 for state in trainer.optimizers[0].state.values())


def test_clipping_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"gradient_clip_val=0.5, which would clip nothing.*gradient_clip_val=None"):
        fit(tmp_path, released=True, gradient_clip_val=0.5)


def test_clipping_by_the_module_is_an_error(tmp_path) -> None:
    class Clips:
        def configure_gradient_clipping(self, optimizer, **_) -> None:
            self.clip_gradients(optimizer, gradient_clip_val=1.0)

    with pytest.raises(
        ValueError, match=r"Module\.configure_gradient_clipping, which would find no gradients; remove it"
    ):
        fit(tmp_path, released=True, bases=(Clips,))


def test_clipping_set_in_training_is_an_error(tmp_path) -> None:
    class Sets:
        def on_train_batch_end(self, *_) -> None:
            self.trainer.gradient_clip_val = 0.5

    with pytest.raises(ValueError, match=r"gradient_clip_val=0.5, which would clip nothing.*ReleaseGradients\(clip="):
        fit(tmp_path, released=True, bases=(Sets,))


def test_clipping_set_in_a_step_is_an_error(tmp_path) -> None:
    class Sets:
        def on_after_backward(self) -> None:
            self.trainer.gradient_clip_val = 0.5

    with pytest.raises(RuntimeError, match=r"gradient_clip_val=0.5\), which finds no gradients.*clip=\.\.\."):
        fit(tmp_path, released=True, bases=(Sets,), accumulate_grad_batches=1)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_in_a_hook_is_an_error(algorithm, tmp_path) -> None:
    class Clips:
        def on_before_optimizer_step(self, optimizer) -> None:
            self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm=algorithm)

    with pytest.raises(RuntimeError, match=r"gradient_clip_val=0.1\), which finds no gradients.*clip=\.\.\."):
        fit(tmp_path, released=True, bases=(Clips,))
    fit(tmp_path, released=False, bases=(Clips,))


@pytest.mark.parametrize("released", [True, False])
def test_clipping_in_manual_optimization_is_an_error_until_the_release_ends(released, tmp_path) -> None:
    need("lightning")
    from adamomentum.torch import release_gradients

    class Manual:
        automatic_optimization = property(lambda self: False, lambda self, value: None)

        def on_train_start(self) -> None:
            handle = release_gradients(self.optimizers())
            if not released:
                handle.remove()

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(100 * self.net(batch).square().mean())
            self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
            norms = [p.grad.norm() for p in self.parameters()]
            assert torch.stack(norms).norm() < 0.1001
            optimizer.step()

    if not released:
        fit(tmp_path, released=False, bases=(Manual,), accumulate_grad_batches=1)
        return
    with pytest.raises(RuntimeError, match=r"gradient_clip_val=0.1\), which finds no gradients.*clip=\.\.\."):
        fit(tmp_path, released=False, bases=(Manual,), accumulate_grad_batches=1)


def test_manual_optimization_is_an_error(tmp_path) -> None:
    class Manual:
        automatic_optimization = property(lambda self: False, lambda self, value: None)

    with pytest.raises(ValueError, match="for automatic optimization"):
        fit(tmp_path, released=True, bases=(Manual,), accumulate_grad_batches=1)


def test_scaled_gradients_are_an_error(tmp_path) -> None:
    need("lightning")
    from lightning.pytorch.plugins import MixedPrecision

    scaler = torch.amp.GradScaler("cpu")
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    with pytest.raises(ValueError, match="precision='16-mixed', which scales gradients"):
        fit(tmp_path, released=True, plugins=[plugin])


def test_another_number_of_passes_is_an_error(tmp_path) -> None:
    need("lightning")
    from lightning.pytorch.callbacks import GradientAccumulationScheduler

    scheduler = GradientAccumulationScheduler({0: 1, 1: 4})
    with pytest.raises(ValueError, match="accumulate_grad_batches changed from 1 to 4"):
        fit(tmp_path, released=True, more_callbacks=[scheduler], accumulate_grad_batches=1)


@pytest.mark.parametrize("limit", [{"max_norm": 0.1}, {"clip_val": 0.1}])
def test_clipping_by_fabric_is_an_error_until_the_release_ends(limit) -> None:
    need("lightning")
    from lightning.fabric import Fabric

    from adamomentum.torch import release_gradients

    def trained(*, released: bool) -> tuple:
        torch.manual_seed(0)
        fabric, net = Fabric(accelerator="cpu", devices=1), nn.Linear(4, 1)
        model, optimizer = fabric.setup(net, AdaMomentum(net.parameters(), lr=1e-2))
        handle = release_gradients(optimizer) if released else None
        for batch in torch.randn(5, 2, 4):
            fabric.backward(model(batch).square().mean())
            optimizer.step()
            optimizer.zero_grad()
        return fabric, model, optimizer, handle

    _, plain, _, _ = trained(released=False)
    fabric, model, optimizer, handle = trained(released=True)
    torch.testing.assert_close(list(model.parameters()), list(plain.parameters()), rtol=1e-5, atol=1e-7)
    with pytest.raises(RuntimeError, match=r"fabric\.clip_gradients, which finds no gradients.*clip=\.\.\."):
        fabric.clip_gradients(model, optimizer, **limit)
    handle.remove()
    fabric.backward(100 * model(torch.ones(2, 4)).square().mean())
    fabric.clip_gradients(model, optimizer, **limit)
    size = [torch.stack([each(p.grad) for p in model.parameters()]) for each in (torch.norm, lambda g: g.abs().max())]
    assert (size[0].norm() if "max_norm" in limit else size[1].max()) < 0.1001
