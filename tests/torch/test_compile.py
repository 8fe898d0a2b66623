"""torch.compile of the step: one graph a group, the same numbers, no recompilation when hyperparameters move."""

import pytest
import torch
from lockstep import SWITCHES
from torch._dynamo.testing import CompileCounter

from adamomentum import AdaMomentum


def pair(**options):
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (5,), ()]]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    return (ours, AdaMomentum(ours, **options)), (theirs, AdaMomentum(theirs, **options))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("kind", ["floats", "tensors"])
def test_one_graph_whatever_lr_and_betas_do(foreach, switches, kind):
    as_kind = torch.tensor if kind == "tensors" else float
    options = {k: v for k, v in SWITCHES[switches].items() if k != "betas"}
    (params, opt), (others, eager) = pair(foreach=foreach, **options)
    counter = CompileCounter()
    step = torch.compile(opt.step, backend=counter)
    for t in range(6):
        for p, q in zip(params, others, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for o in (opt, eager):
            o.param_groups[0].update(
                lr=as_kind(0.1 / (t + 1)), betas=(as_kind(0.9 - 0.02 * t), as_kind(0.999 - 0.001 * t))
            )
        step()
        eager.step()
    assert counter.frame_count == 1
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(opt.state[p], eager.state[q], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("switches", ["plain", "l2", "all"])
def test_inductor_agrees(foreach, switches):
    (params, opt), (others, eager) = pair(foreach=foreach, **SWITCHES[switches])
    step = torch.compile(opt.step)
    for _ in range(10):
        for p, q in zip(params, others, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        step()
        eager.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_compiled_training_step():
    model = torch.nn.Linear(3, 1)
    opt = AdaMomentum(model.parameters(), lr=0.01)
    x, y = torch.randn(32, 3), torch.ones(32, 1)

    @torch.compile(backend="eager")
    def train():
        opt.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        return loss.detach()

    losses = [train().item() for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]


def test_errors_come_through_a_compiled_step():
    (params, opt), _ = pair()
    step = torch.compile(opt.step, backend="eager")
    for p in params:
        p.grad = torch.ones_like(p)
    step()
    opt.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="lr must be >= 0 and finite, got nan"):
        step()
