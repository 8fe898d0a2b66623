"""What is computed is what is there: state by its tensors, gradients by the allocator."""

from __future__ import annotations

import pytest
import torch

from adamomentum import AdaMomentum
from adamomentum.bench.memory import peak_bytes, state_bytes
from adamomentum.memory import largest_model, training_memory
from adamomentum.memory.modes import MODES
from adamomentum.torch import fused_cpu, release_gradients

OURS = [mode for mode in MODES if mode.options]
CPU = torch.device("cpu")
STEP = 8  # bytes of a step count, which are left out
SLACK = 4096  # what is rounded up to cache lines, and small tensors of the step


def named(mode) -> str:
    return f"{mode.optimizer}-{mode.parameter.name}-{mode.rounding}-{mode.moment_names}"


def model_of(mode, shapes) -> torch.nn.ParameterList:
    dtype = getattr(torch, mode.parameter.name)
    return torch.nn.ParameterList(torch.zeros(shape, dtype=dtype) for shape in shapes)


class OnlyGradient(torch.autograd.Function):
    """A layer that takes no memory but for its parameter's gradient."""

    @staticmethod
    def forward(ctx, x, p):
        ctx.p = p
        return x + 1

    @staticmethod
    def backward(ctx, g):
        return g, torch.full_like(ctx.p, 0.01)


def backward(model) -> None:
    x = torch.ones(1, requires_grad=True)
    for p in model:
        x = OnlyGradient.apply(x, p)
    x.sum().backward()


@pytest.mark.parametrize("mode", OURS, ids=named)
def test_state_is_what_is_computed(mode) -> None:
    model = model_of(mode, ((300,), (64, 64), (257,), (3, 5, 7), (1,)))
    optimizer = AdaMomentum(model.parameters(), **mode.options)
    optimizer.init_state()
    (memory,) = training_memory(model, (mode,))
    assert state_bytes(optimizer) == memory.moments + memory.rounding + STEP * len(model)
    assert memory.parameters == sum(p.nbytes for p in model)
    backward(model)
    assert memory.gradients == sum(p.grad.nbytes for p in model)
    assert memory.total == memory.parameters + memory.gradients + memory.moments + memory.rounding


@pytest.mark.skipif(fused_cpu.why_not() is not None, reason="the for-loop path needs memory to work in")
@pytest.mark.parametrize("released", [False, True], ids=["all gradients", "released"])
@pytest.mark.parametrize("mode", OURS, ids=named)
def test_a_training_step_takes_no_more(mode, released) -> None:
    """The largest tensor comes last, when others have filled half of a bucket."""
    model = model_of(mode, ((2**20,), *[(2**17,)] * 12))
    optimizer = AdaMomentum(model.parameters(), lr=1e-3, **mode.options)
    if released:
        release_gradients(optimizer)

    def step() -> None:
        backward(model)
        optimizer.step()
        optimizer.zero_grad()

    step()
    held = peak_bytes(step, CPU)
    (memory,) = training_memory(model, (mode,))
    whole = sum(p.nbytes for p in model) + state_bytes(optimizer) - STEP * len(model) + held
    assert (memory.released if released else memory.total) * 0.75 < whole
    assert whole <= (memory.released if released else memory.total) + SLACK


class Tied(torch.nn.Module):
    """Embeddings tied to their heads, a layer between them, and one token."""

    def __init__(self, rows: tuple[int, ...], between: int) -> None:
        super().__init__()
        self.embeddings = torch.nn.ModuleList(torch.nn.Embedding(n, 64) for n in rows)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(64, n, bias=False) for n in rows)
        for embedding, head in zip(self.embeddings, self.heads, strict=True):
            head.weight = embedding.weight
        self.between = torch.nn.ParameterList([torch.zeros(between)])

    def forward(self) -> torch.Tensor:
        inside = sum(embedding(torch.tensor([1])) for embedding in self.embeddings)
        inside = OnlyGradient.apply(inside, self.between[0])
        return sum(head(inside).sum() for head in self.heads)


@pytest.mark.skipif(fused_cpu.why_not() is not None, reason="the for-loop path needs memory to work in")
@pytest.mark.parametrize(
    ("rows", "between"),
    [((2**15,), 2**10), ((2**15,), 2**23), ((2**15, 2**14, 2**14), 2**10)],
    ids=["tied", "a larger layer between", "three tied"],
)
def test_a_weight_used_twice_is_held_until_both_its_gradients_are_added(rows, between) -> None:
    [mode] = [m for m in OURS if (m.parameter.name, m.rounding, m.moment_names) == ("bfloat16", "stochastic", "8bit")]
    model = Tied(rows, between).bfloat16()
    optimizer = AdaMomentum(model.parameters(), lr=1e-3, **mode.options)
    release_gradients(optimizer, 2)

    def step() -> None:
        for _ in range(2):
            model().backward()

    step()
    (memory,) = training_memory(model, (mode,))
    logits = 3 * 2 * sum(rows)
    assert 0.75 * memory.held < peak_bytes(step, CPU) <= memory.held + SLACK + logits
    untied = 2 * min(sum(p.numel() for p in model.parameters()), 2**20 + max(p.numel() for p in model.parameters()))
    assert memory.held > 1.2 * untied


def adamw(model) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    return torch.optim.AdamW(model.parameters(), fused=True), []


def adamw_on_copies(model) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    copies = [torch.nn.Parameter(p.detach().float()) for p in model.parameters()]
    return torch.optim.AdamW(copies, fused=True), copies


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.optimizer == "torch AdamW"], ids=named)
def test_torch_adamw_takes_what_is_computed(mode) -> None:
    model = model_of(mode, [(2**16,)] * 32)
    optimizer, copies = (adamw if mode.kept is None else adamw_on_copies)(model)

    def step() -> None:
        backward(model)
        for p, copy in zip(model, copies, strict=False):
            copy.grad, p.grad = p.grad.float(), None
        optimizer.step()
        for p, copy in zip(model, copies, strict=False):
            p.detach().copy_(copy)
        optimizer.zero_grad()

    step()
    held = peak_bytes(step, CPU)
    (memory,) = training_memory(model, (mode,))
    steps = 4 * len(model)
    assert state_bytes(optimizer) == memory.moments + steps
    assert sum(copy.nbytes for copy in copies) == memory.rounding
    assert memory.gradients <= held <= memory.gradients * 1.05


def test_four_bytes_a_parameter() -> None:
    by_name = {named(memory.mode): memory for memory in training_memory("7B")}
    four = by_name["AdaMomentum-bfloat16-stochastic-8bit"]
    assert four.released / 7e9 == pytest.approx(2 + 2 + 2 / 256, abs=1e-3)
    assert four.held == 2 * 2**20
    assert by_name["torch AdamW-float32-nearest-float32"].total == 16 * 7_000_000_000
    flash = by_name["FlashAdamW-bfloat16-24 bits-8bit"]
    assert (flash.total / 7e9, flash.released / 7e9) == (pytest.approx(7.125), pytest.approx(5.125))


def test_the_largest_gradient_and_a_bucket_are_what_is_held() -> None:
    sizes = (3 * 2**20, 2**21)
    for mode in MODES:
        (memory,) = training_memory(model_of(mode, [(n,) for n in sizes]), (mode,))
        assert memory.held == memory.gradients // sum(sizes) * (sizes[0] + mode.bucket)
        (small,) = training_memory(model_of(mode, [(100,), (300,)]), (mode,))
        assert small.held == small.gradients // 400 * (400 if mode.bucket else 300)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("mode", MODES, ids=named)
def test_the_largest_model_fits_and_no_larger_one(mode, released) -> None:
    def taken(numel: int) -> int:
        (memory,) = training_memory(numel, (mode,))
        return memory.released if released else memory.total

    for capacity in (10**7, 16 * 10**9, 141 * 10**9):
        largest = largest_model(mode, capacity, released=released)
        assert taken(largest) <= capacity < taken(largest + 512)
    assert largest_model(mode, 0, released=released) == 0
