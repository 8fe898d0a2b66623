"""Gradient release with Accelerate: the same training, and no silent loss of clipping."""

from __future__ import annotations

import pytest
import torch
from clients import need
from torch import nn

from adamomentum import AdaMomentum
from adamomentum.torch import AdaptiveClip

pytestmark = [pytest.mark.slow, pytest.mark.clients]


def train(released: bool, prepared_first: bool = True, clip=None):
    from accelerate import Accelerator

    from adamomentum.trainers.accelerate import release_gradients

    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    own = optimizer = AdaMomentum(model.parameters(), lr=1e-2)
    loader = torch.utils.data.DataLoader(torch.randn(22, 4), batch_size=2)  # 11 batches: the last step has three
    handle = release_gradients(accelerator, optimizer, clip=clip) if released and not prepared_first else None
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if released and prepared_first:
        handle = release_gradients(accelerator, optimizer, clip=clip)
    for _ in range(2):
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(batch).square().mean())
                assert all((p.grad is None) == released for p in model.parameters())
                optimizer.step()
                optimizer.zero_grad()
    return accelerator, own, list(model.parameters()), handle


@pytest.mark.parametrize("prepared_first", [True, False])
def test_it_trains_as_without_release(prepared_first) -> None:
    need("accelerate")
    (_, _, plain, _), (_, own, released, _) = train(False), train(True, prepared_first)
    assert {state["step"].item() for state in own.state.values()} == {6}
    for p, q in zip(plain, released, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_each_gradient_is_clipped() -> None:
    need("accelerate")
    _, own, _, _ = train(True, clip=AdaptiveClip(warmup=2))
    assert all(state["grad_norm"][1] == 22 for state in own.state.values())


def test_clipping_is_an_error_until_the_release_ends() -> None:
    need("accelerate")
    accelerator, _, params, handle = train(True)
    for clip in (accelerator.clip_grad_norm_, accelerator.clip_grad_value_):
        with pytest.raises(RuntimeError, match=r"accelerator.clip_grad_\w+, which finds no gradients"):
            clip(params, 1.0)
        with pytest.raises(RuntimeError, match="finds no gradients"):
            clip(iter(params), 1.0)
    other = nn.Linear(2, 2)
    other.weight.grad = torch.full_like(other.weight, 10.0)
    accelerator.clip_grad_norm_(other.parameters(), 1.0)
    assert other.weight.grad.norm() == pytest.approx(1.0)
    handle.remove()
    params[0].grad = torch.full_like(params[0], 10.0)
    accelerator.clip_grad_norm_(params, 1.0)
    assert params[0].grad.norm() == pytest.approx(1.0)
    accelerator.clip_grad_value_(params[0], 1e-3)
    assert params[0].grad.abs().max() == pytest.approx(1e-3)


def test_another_number_of_passes_is_an_error_until_the_release_ends() -> None:
    need("accelerate")
    accelerator, _, params, handle = train(True)
    before = [p.detach().clone() for p in params]
    accelerator.gradient_accumulation_steps = 2
    with pytest.raises(ValueError, match=r"gradient_accumulation_steps changed from 4 to 2.*leave it as it is"):
        accelerator.backward(sum(p.sum() for p in params))
    assert handle.accumulated == 0
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    handle.remove()
    accelerator.backward(sum(p.sum() for p in params))
    assert all((p.grad == 0.5).all() for p in params)


def test_another_accelerator_clips_nothing_and_is_no_error() -> None:
    """As docs/optimizer.md says; but all share a number of passes, and that one changes it for the first."""
    need("accelerate")
    from accelerate import Accelerator

    accelerator, _, params, _ = train(True)
    assert Accelerator(cpu=True).clip_grad_norm_(params, 1.0) == 0
    with pytest.raises(ValueError, match="gradient_accumulation_steps changed from 4 to 1"):
        accelerator.backward(sum(p.sum() for p in params))


def test_scaled_gradients_are_an_error() -> None:
    need("accelerate")
    from adamomentum.trainers.accelerate import release_gradients

    class Scaling:
        scaler, mixed_precision, gradient_accumulation_steps = object(), "fp16", 1

    with pytest.raises(ValueError, match="mixed_precision='fp16', which scales gradients"):
        release_gradients(Scaling(), AdaMomentum([torch.nn.Parameter(torch.ones(1))]))


def test_another_optimizer_is_an_error() -> None:
    need("accelerate")
    from accelerate import Accelerator

    from adamomentum.trainers.accelerate import release_gradients

    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]))
    with pytest.raises(TypeError, match=r"must be an adamomentum.AdaMomentum, got SGD"):
        release_gradients(accelerator, optimizer)
