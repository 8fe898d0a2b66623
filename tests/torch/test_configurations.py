"""Random configurations, whatever they combine: a step of the kernels is that of the for-loop.

The kernels are the native ones; in Triton's interpreter, in which test_fused_cuda.py runs this file, Triton's.
"""

import os
import random
from itertools import product

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from adamomentum import AdaMomentum
from adamomentum.torch import AdaptiveClip, fused_cpu, fused_cuda, release_gradients
from adamomentum.torch.precision import local_part, unpack
from adamomentum.torch.state import CODED, MAX_EXP_AVG_SQ, ROUNDING_STATE, scale_of

pytestmark = pytest.mark.skipif(fused_cpu.why_not() is not None, reason="no native kernels here")

IN_TRITON = os.environ.get("TRITON_INTERPRET") == "1"
FAST = 16 if IN_TRITON else 50  # of 200; the interpreter takes seconds for each
LR = 0.01
FORMATS = ("float32", "bfloat16", "8bit")
DECAYS = [
    {"weight_decay": 0.0},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": False},
    {"weight_decay": 0.01, "fixed_decay": True},
]
RULES = [
    {},
    {"adjust_lr": "match_rms_adamw"},
    {"adjust_lr": "match_rms_adamw", "second_moment": "momentum"},
    {"nesterov": True},
    {"rectify": True},
    {"full_bias_correction": True},
    {"maximize": True},
]
SHAPES = ((), (255,), (3, 700), (2, 3, 5, 4))
# To what decoded moments agree that the last bit of float32 arithmetic may have rounded to the next number.
RELATIVE = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.uint8: 0.13}


@pytest.fixture
def taken(monkeypatch):
    """How many parameters each call of the kernels takes."""
    taken: list[int] = []
    in_triton = [(fused_cuda, "run_batch"), (fused_cuda, "fused_cuda_update")]
    for module, name in in_triton if IN_TRITON else [(fused_cpu, "run")]:
        monkeypatch.setattr(module, name, _counted(getattr(module, name), taken))
    if IN_TRITON:  # where tensors are on a CPU, nothing else would lead to it
        for caller in ("optimizer", "release"):
            path = f"adamomentum.torch.{caller}.choose_kernels"
            monkeypatch.setattr(path, lambda *_, fused, **__: "triton" if fused is None else None)
    return taken


def _counted(function, taken: list[int]):
    def counted(some, *args, **kwargs):
        taken.append(len(some))
        return function(some, *args, **kwargs)

    return counted


@pytest.fixture
def sharded():
    """Two processes, of which this is the second, and that send nothing to each other."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    yield lambda t: distribute_tensor(t, mesh, [Shard(0)], src_data_rank=None) if t.dim() else t
    dist.destroy_process_group()


def configuration(number: int) -> dict:
    """A random one; the same for the same number."""
    choose = random.Random(number).choice
    dtype = choose([torch.float32, torch.bfloat16, torch.bfloat16, torch.float16])
    roundings = {torch.float32: ["nearest"], torch.float16: ["nearest", "kahan", "master"]}
    formats = choose(list(product(FORMATS, FORMATS)))
    passes = choose([None, None, 1, 3])  # None: no release
    rule = choose([r for r in RULES if not (r.get("nesterov") and passes == 3)])
    options = {
        "lr": LR,
        "state_dtype": formats,
        "rounding": choose(roundings.get(dtype, ["nearest", "stochastic", "kahan", "master"])),
        "amsgrad": formats == ("float32", "float32") and choose([True, False]),
        **choose(DECAYS),
        **rule,
    }
    clip = choose([None, 0.5] if passes is None else [None, 20.0, AdaptiveClip(warmup=2)])
    return {"dtype": dtype, "options": options, "passes": passes, "clip": clip, "shard": choose([False, False, True])}


@pytest.mark.parametrize("number", [*range(FAST), *(pytest.param(i, marks=pytest.mark.slow) for i in range(FAST, 200))])
def test_kernels_and_for_loop_agree(number, request, taken) -> None:
    chosen = configuration(number)
    shard = request.getfixturevalue("sharded") if chosen["shard"] else lambda t: t
    generator = torch.Generator().manual_seed(number)

    def random_like(shape: tuple[int, ...]) -> torch.Tensor:
        t = torch.randn(shape, generator=generator).to(chosen["dtype"])
        return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 and not chosen["shard"] else t

    start = [random_like(shape) for shape in SHAPES]
    sides = []
    # One pass and no limit: the for-loop needs no release to do the same, so that its bookkeeping is compared too.
    plain = chosen["passes"] == 1 and chosen["clip"] is None
    for path, released in (({}, True), ({"fused": False, "foreach": False}, not plain)):
        params = [torch.nn.Parameter(shard(t.clone(memory_format=torch.preserve_format))) for t in start]
        opt = AdaMomentum(params, **chosen["options"], **path)
        if chosen["passes"] and released:
            release_gradients(opt, chosen["passes"], clip=chosen["clip"], local_gradients=True)
        sides.append((params, opt))
    (ours, opt), (theirs, other) = sides
    for _ in range(7):  # rectify takes its other branch from step 6
        for _ in range(chosen["passes"] or 1):
            grads = [random_like(shape) for shape in SHAPES]
            for params, _ in sides:
                # A loss whose gradients are these numbers.
                sum(_loss(p, g, shard) for p, g in zip(params, grads, strict=True)).backward()
        for _, each in sides:
            if chosen["clip"] and not chosen["passes"]:
                each.clip_grad_norm_(chosen["clip"])
            each.step()
            each.zero_grad()
        for p, q in zip(ours, theirs, strict=True):
            _compare(p, q, opt.state[p], other.state[q], chosen["options"]["rounding"], chosen["passes"])
            with torch.no_grad():
                local_part(q).copy_(local_part(p))
            for key, value in opt.state[p].items():
                local_part(other.state[q][key]).copy_(local_part(value))
    # Triton's does not take the shards whose gradients a limit scales.
    left = IN_TRITON and chosen["shard"] and chosen["passes"] and chosen["clip"]
    assert sum(taken) == 7 * (1 if left else len(SHAPES))


def _loss(p: torch.Tensor, g: torch.Tensor, shard) -> torch.Tensor:
    own, weight = (p.to_local(), shard(g).to_local()) if hasattr(p, "placements") else (p, g)
    return (own * weight).sum(dtype=torch.float32)


def _compare(p, q, state, other, rounding, passes) -> None:
    eps = torch.finfo(p.dtype).eps
    _assert_close(local_part(p), local_part(q), passes, rtol=2 * eps + 1e-5, atol=1e-6)
    assert state.keys() == other.keys()
    for key, moment in CODED:
        a, b = (unpack(local_part(s[key]), s.get(scale_of(key)), moment) for s in (state, other))
        # The smallest codes of a block count from zero, in steps of 2^-17 of its largest binade.
        floor = 1e-12 if moment == "v" else 1e-6 + (a.abs().max() * 2**-16 if a.numel() else 0)
        torch.testing.assert_close(a, b, rtol=RELATIVE[state[key].dtype], atol=float(floor))
        if state[key].dtype != torch.float32:
            assert (a != b).sum() <= _few(a)
    if MAX_EXP_AVG_SQ in state:
        torch.testing.assert_close(local_part(state[MAX_EXP_AVG_SQ]), local_part(other[MAX_EXP_AVG_SQ]))
    if rounding in ROUNDING_STATE and p.dtype != torch.float32:
        key = ROUNDING_STATE[rounding]
        whole = [
            local_part(s[key]).float() + (local_part(x).float() if rounding == "kahan" else 0)
            for x, s in ((p, state), (q, other))
        ]
        _assert_close(*whole, passes, rtol=eps / 100, atol=1e-5)


def _few(t: torch.Tensor) -> float:
    return 2 + 5e-3 * t.numel()


def _assert_close(a: torch.Tensor, b: torch.Tensor, passes: int | None, *, rtol: float, atol: float) -> None:
    """All close; of several passes, all but a few elements, where their gradients cancel to what rounding has left."""
    if passes == 3:
        assert (~torch.isclose(a, b, rtol=rtol, atol=atol)).sum() <= _few(a)
        atol = LR
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
