"""Clipping within the step: for the gradients that were measured, and for no others."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from adamomentum import AdaMomentum
from adamomentum.torch import release_gradients

LIMIT = 0.25


@pytest.fixture
def p() -> torch.Tensor:
    return torch.nn.Parameter(torch.zeros(2))


@pytest.fixture
def optimizer(p) -> AdaMomentum:
    """With the momentum equal to the gradient as it was clipped."""
    return AdaMomentum([p], betas=(0.0, 0.0))


def backward(p: torch.Tensor, gradient: float) -> None:
    (gradient * p[0]).backward()


def seen(optimizer: AdaMomentum, p: torch.Tensor) -> float:
    """What the last step took for the gradient."""
    return optimizer.state[p]["exp_avg"][0].item()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_left_out_leaves_nothing_behind(p, optimizer, bad) -> None:
    """As training loops do: look at the norm, and let the model drop the gradients."""
    steps = 0
    for gradient in (1.0, bad, 2.0, 3.0):
        backward(p, gradient)
        norm = optimizer.clip_grad_norm_(LIMIT)
        if norm.isfinite():
            assert norm == gradient
            optimizer.step()
            assert seen(optimizer, p) == pytest.approx(LIMIT, rel=1e-5)
            steps += 1
        p.grad = None
    assert steps == 3


def test_new_gradients_are_not_clipped_to_what_the_old_ones_were(p, optimizer) -> None:
    backward(p, 1.0)
    optimizer.clip_grad_norm_(LIMIT)
    p.grad = None
    backward(p, 1.0)
    optimizer.step()
    assert seen(optimizer, p) == 1


def test_of_the_measured_ones_some_may_be_dropped(p) -> None:
    q = torch.nn.Parameter(torch.zeros(2))
    optimizer = AdaMomentum([p, q], betas=(0.0, 0.0))
    for each in (p, q):
        backward(each, 1.0)
    optimizer.clip_grad_norm_(LIMIT)
    q.grad = None
    optimizer.step()
    assert seen(optimizer, p) == pytest.approx(LIMIT / 2**0.5, rel=1e-5)


@pytest.mark.parametrize("change", ["accumulate", "write", "another parameter"])
def test_gradients_that_were_changed_are_an_error(p, change) -> None:
    q = torch.nn.Parameter(torch.zeros(2))
    optimizer = AdaMomentum([p, q], betas=(0.0, 0.0))
    backward(p, 1.0)
    optimizer.clip_grad_norm_(LIMIT)
    if change == "write":
        p.grad.mul_(2)
    else:
        backward(q if change == "another parameter" else p, 1.0)
    with pytest.raises(RuntimeError, match="changed after clip_grad_norm_ had measured them; clip after the last"):
        optimizer.step()
    assert p.eq(0).all()
    norm = optimizer.clip_grad_norm_(LIMIT)  # of what is there now
    assert norm == pytest.approx(2**0.5 if change == "another parameter" else 2)
    optimizer.step()
    assert seen(optimizer, p) == pytest.approx(LIMIT * p.grad[0].item() / norm.item(), rel=1e-5)


class LightningLike:
    """Wraps an optimizer in the way of ``lightning.pytorch.core.optimizer.LightningOptimizer``."""

    def __init__(self, optimizer: AdaMomentum) -> None:
        self.__dict__ = {key: value for key, value in optimizer.__dict__.items() if key != "step"}
        self.__class__ = type("LightningAdaMomentum", (LightningLike, AdaMomentum), {})
        self.optimizer = optimizer

    def step(self, closure=None):
        return self.optimizer.step(closure)


def test_clipping_through_a_wrapper_that_copies_the_attributes(p, optimizer) -> None:
    wrapper = LightningLike(optimizer)
    assert isinstance(wrapper, AdaMomentum)
    backward(p, 1.0)
    wrapper.clip_grad_norm_(LIMIT)
    wrapper.step()
    assert seen(optimizer, p) == pytest.approx(LIMIT, rel=1e-5)


def test_release_through_such_a_wrapper(p) -> None:
    optimizer = AdaMomentum([p], betas=(0.5, 0.0))
    optimizer.load_state_dict(optimizer.state_dict())
    wrapper = LightningLike(optimizer)
    handle = release_gradients(wrapper, accumulation_steps=2)
    optimizer.load_state_dict(optimizer.state_dict())
    backward(p, 1.0)
    with pytest.raises(RuntimeError, match="zero_grad cannot discard"):
        wrapper.zero_grad()
    wrapper.step()  # as at the end of an odd epoch
    assert optimizer.state[p]["step"] == 1
    assert seen(optimizer, p) == 0.5
    handle.remove()
    assert optimizer._pending.release is None


def test_a_compiled_step_is_not_compiled_again_when_the_factor_moves(p, optimizer) -> None:
    optimizer.init_state()
    counter = CompileCounter()
    torch._dynamo.reset()
    step = torch.compile(optimizer.step, backend=counter)
    for gradient in (1.0, 2.0, 5.0, 0.1, 3.0):
        optimizer.zero_grad()
        backward(p, gradient)
        optimizer.clip_grad_norm_(LIMIT)
        step()
        assert seen(optimizer, p) == pytest.approx(min(gradient, LIMIT), rel=1e-5)
    assert counter.frame_count == 1


def test_a_refused_state_dict_leaves_the_clipping_as_it_is(p, optimizer) -> None:
    backward(p, 1.0)
    optimizer.clip_grad_norm_(LIMIT)
    with pytest.raises(ValueError, match="must have the keys 'state' and 'param_groups'"):
        optimizer.load_state_dict({})
    optimizer.step()
    assert seen(optimizer, p) == pytest.approx(LIMIT, rel=1e-5)
