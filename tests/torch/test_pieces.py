"""Large parameters are worked on in pieces, which shows in the memory it takes and in nothing else."""

from __future__ import annotations

import pytest
import torch

from adamomentum import AdaMomentum
from adamomentum.bench.memory import peak_bytes
from adamomentum.torch import pieces

MODES = [
    (torch.float32, {"state_dtype": "8bit"}),
    (torch.float32, {"state_dtype": "bfloat16"}),
    (torch.float32, {"state_dtype": ("float32", "8bit")}),
    (torch.bfloat16, {"state_dtype": "8bit", "rounding": "stochastic"}),
    (torch.bfloat16, {"rounding": "kahan", "amsgrad": True}),
    (torch.bfloat16, {"rounding": "master", "weight_decay": 0.1, "decoupled_weight_decay": False}),
]


def of_layout(layout: str, dtype: torch.dtype) -> torch.nn.Parameter:
    whole = torch.linspace(-1, 1, 2 * 9 * 4 * 10 * 10).to(dtype)
    p = whole[: whole.numel() // 2].reshape(9, 4, 10, 10)
    if layout == "channels last":
        p = p.contiguous(memory_format=torch.channels_last)
    if layout == "not dense":
        p = whole.reshape(9, 4, 10, 20)[..., ::2]
    return torch.nn.Parameter(p)


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "not dense"])
@pytest.mark.parametrize(("dtype", "options"), MODES)
def test_pieces_make_no_difference(dtype, options, layout, monkeypatch) -> None:
    def trained(limit: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        monkeypatch.setattr(pieces, "PIECE_ELEMENTS", {"default": limit})
        p = of_layout(layout, dtype)
        optimizer = AdaMomentum([p], foreach=False, lr=1e-3, **options)
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)  # contiguous, whatever p is
            optimizer.step()
        return p.detach(), optimizer.state[p]

    cut = []
    original = pieces.in_memory_order
    monkeypatch.setattr(pieces, "in_memory_order", lambda t, like: (cut.append(t), original(t, like))[1])
    whole, small = trained(10**9), trained(512)
    assert cut
    torch.testing.assert_close(small, whole, rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "options"), MODES)
def test_a_large_parameter_needs_no_more_memory_than_a_piece(dtype, options, monkeypatch) -> None:
    def peak(limit: int) -> int:
        monkeypatch.setattr(pieces, "PIECE_ELEMENTS", {"default": limit})
        return peak_bytes(optimizer.step, torch.device("cpu"))

    p = torch.nn.Parameter(torch.zeros(1 << 20, dtype=dtype))
    optimizer = AdaMomentum([p], foreach=False, **options)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert peak(1 << 21) > 10 * p.numel()
    assert peak(1 << 14) < 0.06 * peak(1 << 21)
