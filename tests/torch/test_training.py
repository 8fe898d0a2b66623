"""The optimizer as training code uses it."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from lockstep import PATHS, SWITCHES, Lockstep
from torch.utils._python_dispatch import TorchDispatchMode

from adamomentum import AdaMomentum, reference
from adamomentum.torch import foreach as foreach_path

torch.manual_seed(0)


class NoHostReads(TorchDispatchMode):
    """Fails where a tensor is read on the host: what a CUDA graph cannot capture."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal"), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("switches", [*SWITCHES, "tensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_capturable_never_waits_for_the_device(foreach, switches, dtype):
    if switches == "tensors":
        options = {"lr": torch.tensor(0.1), "betas": (torch.tensor(0.9), torch.tensor(0.99)), "weight_decay": 0.1}
    else:
        options = SWITCHES[switches]
    params = [torch.nn.Parameter(torch.randn(3, 2, dtype=dtype)), torch.nn.Parameter(torch.randn((), dtype=dtype))]
    opt = AdaMomentum(params, foreach=foreach, capturable=True, **options)
    opt.init_state()  # before the first step an lr on the CPU may be read
    for _ in range(3):
        for p in params:
            p.grad = torch.randn_like(p)
        with NoHostReads():
            opt.step()


def test_the_guard_against_host_reads_works():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    opt = AdaMomentum([p])
    with NoHostReads(), pytest.raises(AssertionError, match="waits for the device"):
        opt.step()


def layouts():
    base = torch.randn(6, 8, dtype=torch.float64)
    yield "transposed", base.clone().t()
    yield "strided", base.clone()[::2, 1::3]
    yield "channels last", torch.randn(2, 3, 4, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    yield "channels last 3d", torch.randn(1, 2, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last_3d)
    yield "row of a matrix", base.clone()[2]
    yield "not dense", torch.randn(40, dtype=torch.float64).as_strided((3, 4), (10, 2))
    yield "empty", torch.empty(0, 3, dtype=torch.float64)


@pytest.mark.parametrize(("name", "p"), list(layouts()))
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("grad_layout", ["like the parameter", "contiguous", "expanded"])
@pytest.mark.parametrize("limit", [4, 2**18])
def test_memory_layouts(monkeypatch, name, p, path, grad_layout, limit):
    monkeypatch.setitem(foreach_path.CHUNK_ELEMENTS, "cpu", limit)
    p = p.detach()
    theta, state = p.numpy().copy(), reference.State.zeros(p.numpy())
    opt = AdaMomentum([p], **SWITCHES["all"], **PATHS[path])
    for t in range(5):
        g = {
            "like the parameter": torch.empty_like(p).normal_(),
            "contiguous": torch.randn(p.shape, dtype=torch.float64),
            "expanded": torch.full((1,) * p.dim(), float(t), dtype=torch.float64).expand(p.shape),
        }[grad_layout]
        p.grad = g
        theta, state = reference.step(theta, g.numpy(), state, **SWITCHES["all"])
        opt.step()
    np.testing.assert_allclose(p, theta, rtol=1e-12, atol=1e-13)


def test_groups_with_every_option_differing():
    # Each group goes its own way, as it would in an optimizer of its own.
    cases = [*SWITCHES.values(), {"foreach": False}, {"capturable": True}, {"differentiable": True}]
    start = torch.randn(5, dtype=torch.float64)
    together = [start.clone() for _ in cases]
    apart = [start.clone() for _ in cases]
    groups = [{"params": [p], **case} for p, case in zip(together, cases, strict=True)]
    optimizers = [AdaMomentum(groups), *[AdaMomentum([p], **case) for p, case in zip(apart, cases, strict=True)]]
    for _ in range(10):
        g = torch.randn(5, dtype=torch.float64)
        for p in together + apart:
            p.grad = g.clone()
        for opt in optimizers:
            opt.step()
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_parameters_that_miss_gradients_count_their_own_steps():
    for foreach in (False, True):
        run = Lockstep([(3,), (2,)], {"rectify": True}, {"foreach": foreach})
        lonely = Lockstep([(2,)], {"rectify": True}, {"foreach": foreach})
        lonely.params[0].copy_(run.params[1])
        for t in range(12):
            g = [np.ones(3), np.full(2, 0.5 + t)]
            run.params[0].grad = torch.tensor(g[0])
            run.params[1].grad = torch.tensor(g[1]) if t % 3 == 0 else None
            run.opt.step()
            if t % 3 == 0:
                lonely.params[0].grad = torch.tensor(g[1])
                lonely.opt.step()
        assert run.opt.state[run.params[1]]["step"] == 4
        torch.testing.assert_close(run.params[1], lonely.params[0], rtol=0, atol=0)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("switches", ["full-bias", "amsgrad-large-eps", "rectify", "all"])
def test_foreach_gives_each_parameter_the_numbers_of_its_own_step(switches, capturable):
    options = {**SWITCHES[switches], "eps": 1e-2, "capturable": capturable}
    start = torch.randn(4, 3, dtype=torch.float64)
    both = [[start[i].clone() for i in range(4)] for _ in range(2)]
    optimizers = [
        AdaMomentum(params, foreach=foreach, **options) for params, foreach in zip(both, (False, True), strict=True)
    ]
    for t in range(10):
        g = torch.randn(4, 3, dtype=torch.float64)
        for params, opt in zip(both, optimizers, strict=True):
            for i, p in enumerate(params):  # the i-th misses more and more gradients
                p.grad = g[i].clone() if t % (i + 1) == 0 else None
            opt.step()
    for p, q in zip(*both, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("foreach", [False, True])
def test_kinds_of_tensors_mixed_in_one_group(foreach):
    # Dtypes of parameters, gradients and state that differ from tensor to tensor: each as if it were alone.
    def make():
        torch.manual_seed(1)
        single, half, brain = torch.float32, torch.float16, torch.bfloat16
        params = [torch.nn.Parameter(torch.randn(4).to(dtype)) for dtype in (single, single, single, brain, brain)]
        for p, dtype in zip(params, (single, half, single, brain, single), strict=True):
            p.grad_dtype = None
            p.grad = torch.randn(4).to(dtype)
        return params

    together, apart = make(), make()
    optimizers = [AdaMomentum(together, foreach=foreach), *[AdaMomentum([p], foreach=foreach) for p in apart]]
    for opt in optimizers:
        opt.init_state()
    for opt, p in ((optimizers[0], together[2]), (optimizers[3], apart[2])):
        opt.state[p].update({k: v.double() for k, v in opt.state[p].items() if k != "step"})
    for _ in range(3):
        for opt in optimizers:
            opt.step()
    for p, q, opt in zip(together, apart, optimizers[1:], strict=True):
        assert torch.equal(p, q)
        assert optimizers[0].state[p]["exp_avg_sq"].dtype == opt.state[q]["exp_avg_sq"].dtype


@pytest.mark.parametrize("kind", [np.float32, np.float64, Fraction])
@pytest.mark.parametrize("path", PATHS)
def test_numbers_of_other_kinds(kind, path):
    options = {"weight_decay": kind(0.25), "eps": kind(0.125), "betas": (kind(0.5), kind(0.75))}
    for decoupled in (True, False):
        run = Lockstep([(3,)], {**options, "decoupled_weight_decay": decoupled}, PATHS[path])
        run.options.update(weight_decay=0.25, eps=0.125, betas=(0.5, 0.75), lr=0.5)
        run.opt.param_groups[0]["lr"] = kind(0.5)
        for _ in range(3):
            run.step([run.rng.standard_normal(3)])
            run.check(1e-12)


@pytest.mark.parametrize("limit", [8, 100])
def test_foreach_memory_is_bounded_by_its_chunks(monkeypatch, limit):
    # The temporaries of a chunk are as large as the chunk: count the elements of each.
    sizes = []
    update = foreach_path._update_chunk

    def counted(columns, numbers, rule):
        sizes.append(sum(p.numel() for p in columns[0]))
        update(columns, numbers, rule)

    monkeypatch.setitem(foreach_path.CHUNK_ELEMENTS, "cpu", limit)
    monkeypatch.setattr(foreach_path, "_update_chunk", counted)
    params = [torch.zeros(shape) for shape in [(3,), (50, 2), (1, 7), (200,), ()]]
    opt = AdaMomentum(params, foreach=True)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    assert sum(sizes) == sum(p.numel() for p in params)
    assert max(sizes) <= limit


def test_closure_and_a_loss_that_falls():
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x = torch.randn(64, 4)
    y = x[:, :1] * x[:, 1:2]
    opt = AdaMomentum(model.parameters(), lr=3e-3)

    def closure():
        opt.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    with torch.no_grad():  # a closure gets its gradients all the same
        losses = [opt.step(closure).item() for _ in range(200)]
    assert losses[-1] < 0.2 * losses[0]


def test_one_cycle_moves_lr_and_beta1():
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    opt = AdaMomentum([p], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=50)
    theta, state, seen = np.zeros(3), reference.State.zeros(np.zeros(3)), set()
    for t in range(50):
        lr, betas = opt.param_groups[0]["lr"], opt.param_groups[0]["betas"]
        seen.add(betas)
        g = np.sin(np.arange(3) + t)
        p.grad = torch.tensor(g)
        opt.step()
        theta, state = reference.step(theta, g, state, lr=lr, betas=betas)
        if t < 49:
            scheduler.step()
    assert len(seen) > 20
    np.testing.assert_allclose(p.detach(), theta, rtol=1e-12)


def test_grad_scaler_gives_the_unscaled_steps_and_skips_infinities():
    scaled, plain = (torch.nn.Parameter(torch.ones(4)) for _ in range(2))
    opt, other = AdaMomentum([scaled], lr=0.1), AdaMomentum([plain], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(10):
        for p, o in ((scaled, opt), (plain, other)):
            o.zero_grad()
            loss = (p * torch.arange(4.0)).square().sum()
            if p is scaled:
                loss = scaler.scale(loss)
            loss.backward()
        if t == 5:
            scaled.grad[0] = torch.inf
        scaler.step(opt)
        scaler.update()
        if t != 5:
            other.step()
    assert opt.state[scaled]["step"] == 9
    torch.testing.assert_close(scaled, plain, rtol=0, atol=0)


def test_add_param_group_during_training():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    opt = AdaMomentum([first], lr=0.1)
    first.grad = torch.ones(2)
    opt.step()
    opt.add_param_group({"params": [second], "lr": 0.2})
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    opt.step()
    assert (opt.state[first]["step"], opt.state[second]["step"]) == (2, 1)
    torch.testing.assert_close(second.detach(), torch.full((2,), -1.0))  # its own first step: 10 lr


@pytest.mark.parametrize("foreach", [False, True])
def test_gradients_in_another_dtype_than_their_parameter(foreach):
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    p.grad_dtype = None
    p.grad = torch.tensor([1e-9, 1.0, -3.0])
    opt = AdaMomentum([p], lr=0.01, foreach=foreach)
    opt.step()
    torch.testing.assert_close(opt.state[p]["exp_avg"], 0.1 * p.grad)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("switches", SWITCHES)
def test_gradients_are_never_written(path, switches):
    params = [torch.randn(3, 4), torch.randn(()), torch.randn(5).half(), torch.randn(2, dtype=torch.complex64)]
    opt = AdaMomentum(params, **SWITCHES[switches], **PATHS[path])
    for _ in range(3):
        for p in params:
            p.grad = torch.randn_like(p)
        before = [(p.grad, p.grad.clone(), p.grad._version) for p in params]
        opt.step()
        for p, (grad, copy, version) in zip(params, before, strict=True):
            assert p.grad is grad
            assert grad._version == version
            assert torch.equal(grad, copy)


def test_nothing_is_printed(capfd):
    p = torch.nn.Parameter(torch.ones(2))
    opt = AdaMomentum([p], rectify=True, amsgrad=True)
    p.grad = torch.ones(2)
    opt.step()
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("foreach", [False, True])
def test_cuda_graph_replays_the_step(foreach):
    p = torch.nn.Parameter(torch.ones(1000, device="cuda"))
    q = torch.nn.Parameter(torch.ones(1000, device="cuda"))
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    captured = AdaMomentum([p], lr=torch.tensor(0.01, device="cuda"), foreach=foreach, capturable=True)
    eager = AdaMomentum([q], lr=0.01, foreach=foreach)
    captured.init_state()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for _ in range(5):
        p.grad.normal_()
        q.grad.copy_(p.grad)
        graph.replay()
        eager.step()
    torch.testing.assert_close(p, q)
