"""torch.compile of the step: one graph a group, the same numbers, no recompilation when hyperparameters move."""

import pytest
import torch
from lockstep import SWITCHES, Lockstep
from torch._dynamo.testing import CompileCounter

from adamomentum import AdaMomentum
from adamomentum.torch.functional import adamomentum
from adamomentum.torch.precision import empty_scales
from adamomentum.torch.rounding import nearest


def pair(**options):
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (5,), ()]]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    return (ours, AdaMomentum(ours, **options)), (theirs, AdaMomentum(theirs, **options))


def train(compiled, eager, steps, shift=0.0, before_step=lambda opt, t: None):
    """Take the same steps with both (parameters, optimizer): compiled ones, and eager ones.

    Args:
        compiled: parameters, their optimizer, and what ``torch.compile`` has made of its ``step``.
        eager: the same parameters, and their optimizer.
        steps: how many.
        shift: mean of the gradients.
        before_step: called with each optimizer and the number of the step when gradients are there.
    """
    (params, opt, step), (others, other) = compiled, eager
    for t in range(steps):
        for p, q in zip(params, others, strict=True):
            p.grad = torch.randn_like(p) + shift
            q.grad = p.grad.clone()
        for o in (opt, other):
            before_step(o, t)
        step()
        other.step()


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# Those that exclude one another; "all" has the others that change the code of the graph.
GRAPHS = ("plain", "l2", "fixed", "all", "drop-in", "drop-in-all")


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    ("kind", "switches"),
    [*(("floats", s) for s in GRAPHS), *(("tensors", s) for s in ("plain", "all", "drop-in", "drop-in-all"))],
)
def test_one_graph_whatever_lr_and_betas_do(foreach, switches, kind):
    as_kind = torch.tensor if kind == "tensors" else float
    options = {k: v for k, v in SWITCHES[switches].items() if k != "betas"}
    (params, opt), (others, eager) = pair(foreach=foreach, **options)
    counter = CompileCounter()

    def move(o, t):
        o.param_groups[0].update(lr=as_kind(0.1 / (t + 1)), betas=(as_kind(0.9 - 0.02 * t), as_kind(0.999 - 0.001 * t)))

    train((params, opt, torch.compile(opt.step, backend=counter)), (others, eager), 6, before_step=move)
    assert counter.frame_count == 1
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(opt.state[p], eager.state[q], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("switches", ["plain", "l2", "all", "drop-in", "drop-in-all"])
def test_inductor_agrees(foreach, switches):
    (params, opt), (others, eager) = pair(foreach=foreach, **SWITCHES[switches])
    train((params, opt, torch.compile(opt.step)), (others, eager), 10)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    ("switches", "backend"),
    [
        *((name, "aot_eager") for name in ("plain", "drop-in", "drop-in-momentum", "drop-in-all")),
        pytest.param("drop-in", "inductor", marks=pytest.mark.slow),
    ],
)
def test_float64_to_1e_12_of_the_reference(switches, backend, foreach):
    # No shape is (): torch's compiler loses what is written into such float64 tensors on a CPU, AdamW's state too.
    run = Lockstep([(4, 3), (5,)], {**SWITCHES[switches], "eps": 1e-16}, {"foreach": foreach})
    run.opt.step = torch.compile(run.opt.step, backend=backend)
    for t in range(8):
        run.options["betas"] = (0.9 - 0.02 * t, 0.999 - 0.001 * t)
        run.opt.param_groups[0]["betas"] = run.options["betas"]
        run.step([run.rng.standard_normal(p.shape) for p in run.params])
        run.check(1e-12)


# In each the parameters' dtypes that the rounding is for.
ROUNDINGS = {
    "nearest": (torch.float32,),
    "stochastic": (torch.bfloat16,),
    "kahan": (torch.bfloat16, torch.float16),
    "master": (torch.bfloat16, torch.float16),
}
ODD = [(1,), (255,), (257,), (300,), (640,), (1000,), (30, 20)]


def in_every_rounding(state_dtype, shapes):
    """An optimizer with a group for each rounding and dtype, and its parameters."""
    generator = torch.Generator().manual_seed(0)
    groups = [
        {
            "params": [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes],
            "rounding": rounding,
        }
        for rounding, dtypes in ROUNDINGS.items()
        for dtype in dtypes
    ]
    opt = AdaMomentum(groups, lr=1e-3, weight_decay=0.1, state_dtype=state_dtype)
    return [p for group in groups for p in group["params"]], opt


@pytest.mark.slow
@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16])
def test_every_rounding_and_state_agrees_on_inductor(state_dtype):
    # Two lengths of ODD stand for all, which compile for minutes: one with a rest after whole vectors, and a matrix.
    shapes = [(641,), (30, 20)]
    (params, opt), (others, eager) = in_every_rounding(state_dtype, shapes), in_every_rounding(state_dtype, shapes)
    before = [p.detach().clone() for p in params]
    train((params, opt, torch.compile(opt.step)), (others, eager), 12, shift=1.0)
    for p, q, start in zip(params, others, before, strict=True):
        # Where the last bit of float32 arithmetic tips a rounding, a stored number is the next one: 2^-7 in bfloat16.
        for a, b in ((p, q), *((opt.state[p][key], value) for key, value in eager.state[q].items())):
            assert a.dtype == b.dtype
            a, b = a.double(), b.double()
            error = (a - b).abs()
            assert (error > 2e-6 + 1e-5 * b.abs()).double().mean() <= 0.02
            assert (error <= 2e-6 + 2**-7 * b.abs()).all()
        moved = (p != start).double().mean()
        assert abs(moved - (q != start).double().mean()) <= 0.02


def test_moments_in_8_bits_agree_bit_for_bit_on_inductor():
    # They are updated outside of the compiled code, which leaves the compiler nothing to do.
    (params, opt), (others, eager) = in_every_rounding("8bit", ODD), in_every_rounding("8bit", ODD)
    train((params, opt, torch.compile(opt.step)), (others, eager), 12)
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(opt.state[p][key], value) for key, value in eager.state[q].items())


@pytest.mark.parametrize("clipped", [False, True])
def test_a_compiled_step_of_8_bit_moments_beside_others(clipped):
    (params, opt), (others, eager) = pair(lr=1e-2)
    for o, group in ((opt, params), (eager, others)):
        o.param_groups[0]["params"] = group[:1]
        o.add_param_group({"params": group[1:], "state_dtype": "8bit", "maximize": True})

    def move(o, t):
        o.param_groups[1]["lr"] = 1e-2 / (t + 1)
        if clipped:
            o.clip_grad_norm_(0.1)

    train((params, opt, torch.compile(opt.step, backend="eager")), (others, eager), 5, shift=1.0, before_step=move)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(opt.state[p], eager.state[q], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_functional_form_compiles_with_moments_in_8_bits(backend):
    def run(compiled):
        torch.manual_seed(0)
        p, g = torch.randn(300), torch.randn(300)
        m, v = torch.zeros(2, 300, dtype=torch.uint8)
        scales = empty_scales(p, "m"), empty_scales(p, "v")
        step = torch.tensor(0.0, dtype=torch.float64)
        options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-16, "weight_decay": 0.0}

        def take():
            adamomentum(
                [p], [g], [m], [v], [], [step], exp_avg_scales=[scales[0]], exp_avg_sq_scales=[scales[1]], **options
            )

        take = torch.compile(take, backend=backend) if compiled else take
        for _ in range(5):
            take()
        return p, m, v, *scales, step

    assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_on_bits_is_that_of_a_cast(dtype, monkeypatch):
    bits = torch.arange(-(2**31), 2**31, 9973, dtype=torch.int64)
    edges = [65519.9, 65520.0, 2**-24, 2**-25, 3 * 2**-26, 2**-14, 1e-5, 0.0, -0.0, 3.4e38, torch.inf, torch.nan]
    x = torch.cat([bits.to(torch.int32).view(torch.float32), torch.tensor(edges), -torch.tensor(edges)])
    expected = nearest(x, dtype)
    assert torch.equal(expected.isnan(), x.isnan())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    got = nearest(x, dtype)
    kept = ~x.isnan()
    assert torch.equal(got[kept].view(torch.int32), expected[kept].view(torch.int32))
    assert got[~kept].isnan().all()


def test_a_compiled_training_step():
    model = torch.nn.Linear(3, 1)
    opt = AdaMomentum(model.parameters(), lr=0.01)
    x, y = torch.randn(32, 3), torch.ones(32, 1)

    @torch.compile(backend="eager")
    def take():
        opt.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        return loss.detach()

    losses = [take().item() for _ in range(60)]
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
