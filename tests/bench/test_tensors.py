from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adamomentum.bench.memory import peak_bytes, state_bytes
from adamomentum.bench.peers import CLIP, STEP, Unavailable
from adamomentum.bench.tensors import SharedTensors, inner_tensors
from adamomentum.torch import AdaMomentum

SHAPES = ((300,), (20, 30), (4, 3, 2, 2))
CPU = torch.device("cpu")


def optimizer_of(contestant, shared):
    try:
        return contestant.create(shared.params)
    except Unavailable as error:
        pytest.skip(str(error))


def pointers(tensors: list[Tensor]) -> set[int]:
    return {t.data_ptr() for t in tensors}


@pytest.mark.parametrize("contestant", STEP, ids=lambda c: c.name)
def test_all_step_the_very_same_memory(contestant) -> None:
    shared = SharedTensors(SHAPES, CPU)
    optimizer = optimizer_of(contestant, shared)
    optimizer.step()
    before = pointers([*shared.params, *shared.grads, *shared.first, *shared.second])
    grads = [g.clone() for g in shared.grads]
    lent = shared.lend_moments(optimizer)
    params, moments = [p.detach().clone() for p in shared.params], [t.clone() for t in shared.first + shared.second]
    optimizer.step()

    assert pointers([*shared.params, *shared.grads, *shared.first, *shared.second]) == before
    assert all(not torch.equal(p, old) for p, old in zip(shared.params, params, strict=True))
    assert all(torch.equal(g, old) for g, old in zip(shared.grads, grads, strict=True))
    changed = [not torch.equal(t, old) for t, old in zip(shared.first + shared.second, moments, strict=True)]
    if not lent:
        assert not any(changed)
        return
    n = len(SHAPES)
    assert all(changed[:n])
    assert all(changed[n:]) or "SGD" in contestant.name  # which has one moment
    kept = {t.data_ptr() for s in optimizer.state.values() for v in s.values() for t in inner_tensors(v) if t.dim()}
    assert kept <= pointers(shared.first + shared.second)


def test_an_optimizer_that_keeps_its_own_moments_is_noticed() -> None:
    class Clinging(torch.optim.SGD):
        def step(self, closure=None):
            if not self.state:
                super().step()
                self.own = {p: s["momentum_buffer"] for p, s in self.state.items()}
            for p, buffer in self.own.items():
                p.data.add_(buffer.mul_(0.9).add_(p.grad), alpha=-1e-3)

    shared = SharedTensors(SHAPES, CPU)
    optimizer = Clinging(shared.params, momentum=0.9)
    optimizer.step()
    with pytest.raises(RuntimeError, match="moments of its own"):
        shared.lend_moments(optimizer)


def test_allocations_differ_in_size_and_are_no_larger_than_said() -> None:
    sizes = set()
    for seed in range(5):
        [p] = SharedTensors(((10_000,),), CPU, seed).params
        sizes.add(p.untyped_storage().nbytes() // 4)
    assert len(sizes) == 5
    assert all(10_000 < size <= 10_501 for size in sizes)


def test_second_moments_start_as_squares() -> None:
    shared = SharedTensors(SHAPES, CPU)
    assert all((t >= 0).all() for t in shared.second)
    assert shared.numel == 300 + 600 + 48


def test_state_bytes_counts_every_tensor_once() -> None:
    shared = SharedTensors(SHAPES, CPU)
    optimizer = torch.optim.AdamW(shared.params)
    optimizer.step()
    assert state_bytes(optimizer) == 8 * shared.numel + 4 * len(SHAPES)
    table = torch.zeros(256)
    for p in shared.params:
        optimizer.state[p]["table"] = table
    assert state_bytes(optimizer) == 8 * shared.numel + 4 * len(SHAPES) + 1024


def test_peak_bytes() -> None:
    def run() -> None:
        a = torch.empty(1000)
        del a
        b = torch.empty(500)
        c = torch.empty(700)
        del b, c

    assert peak_bytes(run, CPU) == pytest.approx(4 * 1200, abs=256)  # rounded up to cache lines
    shared = SharedTensors(SHAPES, CPU)
    optimizer = AdaMomentum(shared.params, foreach=False, fused=False)
    optimizer.step()
    assert 4 * 600 <= peak_bytes(optimizer.step, CPU) < 8 * 600  # a denominator as large as the largest parameter


def test_clipping_is_done_before_the_step() -> None:
    assert {c.clip for c in CLIP} == {"torch", "own"}
    assert {c.clip for c in STEP} == {None}
