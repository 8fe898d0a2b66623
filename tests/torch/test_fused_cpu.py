"""The native CPU kernels: nothing stale, nothing lost, the same numbers whatever runs them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from lockstep import SWITCHES

from adamomentum import AdaMomentum
from adamomentum.torch import fused_cpu
from adamomentum.torch.functional import adamomentum

pytestmark = pytest.mark.skipif(fused_cpu.why_not() is not None, reason=str(fused_cpu.why_not()))

SHAPES = [(5, 3), (), (0,), (7,), (300, 5)]
STATES = [None, torch.bfloat16, "8bit", ("float32", "8bit"), ("8bit", "bfloat16")]


# Tests of what the kernels do not take.
WITHOUT_KERNELS = (
    "modes_that_watch",
    "devices_without",
    "without_kernels",
    "bad_max_norm",
    "no_gradients",
    "norm_of_every",
    "negated",
    "another_dtype",
    "several_kinds",
)


@pytest.fixture(autouse=True)
def kernels_ran(request, monkeypatch):
    """Fails a test in which the kernels updated nothing: it would compare the for-loop with itself."""
    if any(name in request.node.name for name in WITHOUT_KERNELS):
        yield
        return
    counts, run = [], fused_cpu.run
    monkeypatch.setattr(fused_cpu, "run", lambda batch, rule: (counts.append(len(batch)), run(batch, rule)))
    yield
    if "instruction_sets" not in request.node.name:  # in processes of their own
        assert sum(counts), "no parameter was updated by the kernels"


@pytest.fixture
def many_threads():
    """Two threads however small the tensors."""
    before = fused_cpu._load()[0].serial_below(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
    fused_cpu._load()[0].serial_below(before)


def parameters(shapes=SHAPES, dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]


def gradients(*lists):
    for params in zip(*lists, strict=True):
        grad = torch.randn(params[0].shape)
        for p in params:
            p.grad = grad.to(p.dtype, copy=True)


def step_pair(ours, opt, theirs, other, steps=3):
    """Steps on the kernels and on the for-loop, then compares."""
    for _ in range(steps):
        gradients(ours, theirs)
        opt.step()
        other.step()
    assert_close(ours, opt, theirs, other)


def assert_close(ours, opt, theirs, other):
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(dict(opt.state[p]), dict(other.state[q]), rtol=1e-5, atol=1e-6)


def pair(**options):
    ours, theirs = parameters(), parameters()
    return ours, AdaMomentum(ours, fused=True, **options), theirs, AdaMomentum(theirs, foreach=False, **options)


def taken(opt, monkeypatch):
    """How many parameters the kernels update in one step."""
    counts = []
    run = fused_cpu.run
    monkeypatch.setattr(fused_cpu, "run", lambda batch, rule: (counts.append(len(batch)), run(batch, rule)))
    opt.step()
    return sum(counts)


# ---- nothing stale ----


def test_replaced_storage_of_parameters():
    ours, opt, theirs, other = pair(weight_decay=0.1)
    step_pair(ours, opt, theirs, other)
    old = [p.data for p in ours]
    before = [p.clone() for p in old]
    for p, q in zip(ours, theirs, strict=True):
        p.data = p.data.clone() + 1
        q.data = q.data.clone() + 1
    step_pair(ours, opt, theirs, other)
    assert all(torch.equal(a, b) for a, b in zip(old, before, strict=True))


def test_same_memory_with_another_layout():
    p = torch.nn.Parameter(torch.arange(9.0).reshape(3, 3))
    q = torch.nn.Parameter(p.detach().clone())
    opt, other = AdaMomentum([p], fused=True), AdaMomentum([q], foreach=False)
    step_pair([p], opt, [q], other)
    p.data, q.data = p.data.t(), q.data.t()
    p.grad = q.grad = None
    step_pair([p], opt, [q], other)


def test_resized_parameter_is_refused_in_words():
    p = torch.nn.Parameter(torch.ones(6))
    opt = AdaMomentum([p], fused=True)
    p.grad = torch.ones(6)
    opt.step()
    p.grad = None
    p.data = p.data[:4]
    p.grad = torch.ones(4)
    with pytest.raises(ValueError, match="the state no longer fits its parameter"):
        opt.step()


def test_conversion_of_the_module():
    model, twin = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    opt, other = AdaMomentum(model.parameters(), fused=True), AdaMomentum(twin.parameters(), foreach=False)
    step_pair(list(model.parameters()), opt, list(twin.parameters()), other)
    for module in (model, twin):
        module.to(torch.float64)
        module.zero_grad()
    step_pair(list(model.parameters()), opt, list(twin.parameters()), other)  # float32 state: not for the kernels
    for module in (model, twin):
        module.to(torch.float32)
        module.zero_grad()
    step_pair(list(model.parameters()), opt, list(twin.parameters()), other)


def test_replaced_state():
    ours, opt, theirs, other = pair(amsgrad=True)
    step_pair(ours, opt, theirs, other)
    saved = deepcopy(opt.state_dict())
    step_pair(ours, opt, theirs, other)
    for o in (opt, other):
        o.load_state_dict({**deepcopy(saved), "param_groups": o.state_dict()["param_groups"]})
    step_pair(ours, opt, theirs, other)
    for o, params in ((opt, ours), (other, theirs)):
        o.state[params[0]]["exp_avg"] = torch.ones(5, 3)
        o.state[params[4]] = {k: v.clone() * 2 for k, v in o.state[params[4]].items()}
    step_pair(ours, opt, theirs, other)
    for o, params in ((opt, ours), (other, theirs)):
        del o.state[params[3]]
    step_pair(ours, opt, theirs, other)


def test_groups_added_and_gradients_that_come_and_go():
    ours, opt, theirs, other = pair()
    step_pair(ours, opt, theirs, other)
    more, also = parameters([(4,)]), parameters([(4,)])
    opt.add_param_group({"params": more, "lr": 0.1, "fused": True})
    other.add_param_group({"params": also, "lr": 0.1, "foreach": False})
    ours, theirs = ours + more, theirs + also
    for missing in ([0], [1, 5], [], [0, 1, 2, 3, 4]):
        gradients(ours, theirs)
        for i in missing:
            ours[i].grad = theirs[i].grad = None
        opt.step()
        other.step()
    assert_close(ours, opt, theirs, other)


def test_options_that_change():
    ours, opt, theirs, other = pair()
    for change in ({"amsgrad": True}, {"rectify": True}, {"maximize": True}, {"decoupled_weight_decay": False}, {}):
        for o in (opt, other):
            o.param_groups[0].update(weight_decay=0.1, **change)
        step_pair(ours, opt, theirs, other)


def test_swapped_tensors():
    ours, opt, theirs, other = pair()
    step_pair(ours, opt, theirs, other)
    for params in (ours, theirs):
        for p in params:
            p.grad = None
        torch.utils.swap_tensors(params[0], torch.nn.Parameter(torch.full((5, 3), 2.0)))
    step_pair(ours, opt, theirs, other)


# ---- what the kernels take ----


def test_unsuitable_tensors_go_another_way_alone(monkeypatch):
    base = torch.randn(6, 8)
    params = [
        torch.randn(4),
        base[:, ::2],  # gaps
        torch.randn(3, 4).t(),  # dense in another order
        torch.randn(3).bfloat16(),
        torch.randn(2, dtype=torch.complex64),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ]
    opt = AdaMomentum(params, fused=True)
    for p in params:
        p.grad = torch.ones_like(p)
    params[5].grad = torch.ones(2, 3, 4, 5)  # another order than its parameter's
    before = [p.clone() for p in params]
    assert taken(opt, monkeypatch) == 4
    for p, b in zip(params, before, strict=True):
        torch.testing.assert_close(p, (b - 0.01).to(b), rtol=1e-2, atol=1e-6)  # the first step: 10 lr


def test_negated_gradients():
    p = torch.zeros(1)
    p.grad = torch.tensor([1j]).conj().imag
    assert p.grad.is_neg() and p.grad.is_contiguous()
    AdaMomentum([p], fused=True).step()
    assert p > 0


def test_gradients_in_another_dtype_or_sparse():
    p = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    p.grad_dtype = None
    p.grad = torch.ones(3)
    AdaMomentum([p], fused=True).step()
    torch.testing.assert_close(p.float(), torch.full((3,), -0.01), rtol=1e-2, atol=0)
    p = torch.zeros(3)
    p.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        AdaMomentum([p], fused=True).step()


def test_modes_that_watch_operations_see_them():
    from torch.utils.flop_counter import FlopCounterMode

    assert not fused_cpu.watched()
    with FlopCounterMode(display=False):
        assert fused_cpu.watched()
        p = torch.ones(3)
        p.grad = torch.ones(3)
        AdaMomentum([p], fused=True).step()
    torch.testing.assert_close(p, torch.full((3,), 0.99))


def test_parameters_on_meta_wait_for_values():
    with torch.device("meta"):
        model = torch.nn.Linear(3, 2)
    opt = AdaMomentum(model.parameters(), fused=True)
    before = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.raises(RuntimeError, match="fused=True cannot step parameters on the meta device"):
        opt.step()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with pytest.raises(RuntimeError, match=r"fused=True cannot step parameters on the meta device.*to_empty"):
        opt.step()
    assert not opt.state
    for p in model.parameters():
        p.grad = None
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.to_empty(device="cpu")
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    torch.nn.init.ones_(model.weight), torch.nn.init.zeros_(model.bias)
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    assert torch.equal(model.weight, torch.full((2, 3), 1 - 1e-2))  # the first step is 10 lr
    assert opt.state[model.weight]["exp_avg"].device.type == "cpu"


def test_a_module_moved_from_meta_to_a_device_is_stepped_like_any_other():
    with torch.device("meta"):
        p = torch.nn.Parameter(torch.empty(5))
    opt = AdaMomentum([p], fused=True)
    torch.utils.swap_tensors(p, torch.nn.Parameter(torch.ones(5)))
    p.grad = torch.ones(5)
    opt.step()
    q = torch.nn.Parameter(torch.ones(5))
    other = AdaMomentum([q], fused=True)
    q.grad = torch.ones(5)
    other.step()
    assert torch.equal(p, q)


def test_devices_without_kernels():
    elsewhere = torch.nn.Parameter(torch.ones(2))
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(RuntimeError, match=r"fused=True needs the native kernels: .*\['xpu'\]; leave fused=None"),
    ):
        patch.setattr(torch.nn.Parameter, "device", torch.device("xpu"))
        AdaMomentum([elsewhere], fused=True)


def test_an_installation_without_kernels_says_so(monkeypatch):
    monkeypatch.setattr(fused_cpu, "_load", lambda: (None, "this installation has none"))
    p = torch.ones(2)
    with pytest.raises(RuntimeError, match="fused=True needs the native kernels: this installation has none; leave"):
        AdaMomentum([p], fused=True)
    p.grad = torch.ones(2)
    AdaMomentum([p], state_dtype="8bit").step()
    AdaMomentum([p]).step()
    assert p.allclose(torch.tensor(0.98))


def test_autograd_notices_the_update():
    p = torch.nn.Parameter(torch.ones(3))
    loss = p.square().sum()
    p.grad = torch.ones(3)
    AdaMomentum([p], fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_functional_form():
    ours, opt, theirs, other = pair(weight_decay=0.1)
    step_pair(ours, opt, theirs, other, 2)
    gradients(ours, theirs)
    columns = [[opt.state[p][key] for p in ours] for key in ("exp_avg", "exp_avg_sq")]
    with torch.no_grad():
        adamomentum(
            ours, [p.grad * 8 for p in ours], *columns, [], [opt.state[p]["step"] for p in ours],
            lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-16, weight_decay=0.1, fused=True, grad_scale=8.0,
        )  # fmt: skip
    other.step()
    assert_close(ours, opt, theirs, other)


# ---- the same numbers whatever runs them ----


def train(switches, dtype, state_dtype, threads, steps=5):
    torch.set_num_threads(threads)
    params = parameters([(100_003,), (33, 7), (5,), (70_000,), (1,)], dtype)
    opt = AdaMomentum(params, fused=True, state_dtype=state_dtype, lr=0.01, **SWITCHES[switches])
    for _ in range(steps):
        gradients(params)
        opt.step()
    return [p.detach() for p in params], [opt.state[p] for p in params]


@pytest.mark.usefixtures("many_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state_dtype", STATES)
@pytest.mark.parametrize("switches", ["plain", "l2", "rectify", "drop-in"])
def test_threads_change_nothing(switches, dtype, state_dtype):
    one, two = train(switches, dtype, state_dtype, 1), train(switches, dtype, state_dtype, 2)
    torch.testing.assert_close(one, two, rtol=0, atol=0)


# A process for each instruction set, forked off one that has imported torch, which takes most of the time.
CHECKSUM = """
import hashlib, itertools, os, sys, torch, torch._dynamo
for os.environ["ADAMOMENTUM_ISA"] in ("", "avx2", "base"):
    child = os.fork()
    if child == 0:
        break
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(1)
else:
    sys.exit()
from adamomentum import AdaMomentum, _native
from adamomentum.torch import fused_cpu
from adamomentum.torch.fold import fold
digest = hashlib.sha256()
forms = ({}, {"decoupled_weight_decay": False}, {"adjust_lr": "match_rms_adamw"}, {"nesterov": True}, {"amsgrad": True})
roundings = ("nearest", "stochastic", "kahan", "master")
kinds = ("float32", "bfloat16", "8bit")
for dtype, m, v, form, rounding in itertools.product(
    (torch.float32, torch.bfloat16, torch.float16, torch.float64), kinds, kinds, forms, roundings
):
    state = None if dtype == torch.float64 else (m, v)
    if dtype == torch.float64 and (m, v) != kinds[:1] * 2 or rounding != "nearest" and form.get("nesterov"):
        continue
    if m != v and form.get("nesterov") or form.get("amsgrad") and {m, v} != {"float32"}:
        continue
    if rounding != "nearest" and dtype.itemsize > 2 or rounding == "stochastic" and dtype == torch.float16:
        continue
    torch.manual_seed(0)
    params = [torch.randn(n).to(dtype) for n in (1000, 77, 1)]
    opt = AdaMomentum(params, state_dtype=state, weight_decay=0.1, rectify=True, rounding=rounding, **form)
    for t in range(20):
        for p in params:
            p.grad = (torch.randn(p.shape) * 10.0 ** (t % 7 - 6)).to(dtype)
        opt.step()
    fold([(p, p.grad, opt.state[p]) for p in params], 0.1, native=True)
    for t in [*params, *(x for p in params for x in opt.state[p].values())]:
        digest.update(t.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    params[0].grad[[40, 700]] = torch.tensor([torch.nan, torch.inf], dtype=dtype)  # for its neighbours in a vector
    opt.step()
    kept = [opt.state[params[0]][key] for key in ("compensation", "master") if key in opt.state[params[0]]]
    for t in [params[0], *kept]:
        digest.update(t.nan_to_num(5.0).view(torch.uint8).numpy().tobytes())
print(_native.isa, digest.hexdigest(), fused_cpu.norm(params[1:])[0].item().hex(), _native.compiler, sep=", ")
"""


def checksums(python=sys.executable, **variables):
    """A checksum of what the kernels compute by instruction set, and what compiled them."""
    environment = {**os.environ, **variables}
    run = subprocess.run([python, "-c", CHECKSUM], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    seen = {}
    for line in run.stdout.splitlines():
        isa, *rest, compiler = line.split(", ", 3)
        seen[isa] = tuple(rest)
    return seen, compiler


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@needs_fork
def test_instruction_sets_agree_bit_for_bit():
    seen, _ = checksums()
    if len(seen) < 2:
        pytest.skip(f"this processor has the {next(iter(seen))} kernels only")
    assert len(set(seen.values())) == 1


@pytest.mark.slow
@needs_fork
def test_compilers_agree_bit_for_bit_in_instruction_sets(tmp_path):
    """Clang builds the kernels, all of them, and they compute what GCC's do; or the other way round."""
    here, compiler = checksums()
    other = "g++" if compiler.startswith("Clang") else "clang++"
    if shutil.which(other) is None:
        pytest.skip(f"the kernels are by {compiler}, and {other} is not installed")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", tmp_path / "site", "-v"]
    built = subprocess.run(
        [*install, "-C", f"build-dir={tmp_path / 'build'}", Path(__file__).parents[2]],
        env={**os.environ, "CXX": other},
        capture_output=True,
        text=True,
    )
    assert "WITHOUT" not in built.stdout, built.stdout
    assert built.returncode == 0, built.stderr
    # The interpreter itself, with the packages of the environment but without its link to the installed kernels.
    packages = [path for path in sys.path if path.endswith("site-packages")]
    there, by = checksums(sys._base_executable, PYTHONPATH=os.pathsep.join([str(tmp_path / "site"), *packages]))
    assert by.split()[0] != compiler.split()[0]
    assert there == here


@pytest.mark.slow
@pytest.mark.usefixtures("many_threads")
def test_many_parallel_regions():
    params = parameters([(1 + 997 * i,) for i in range(60)])
    twins = parameters([(1 + 997 * i,) for i in range(60)])
    opt, other = AdaMomentum(params, fused=True), AdaMomentum(twins, foreach=False)
    for i in range(300):
        torch.set_num_threads(1 + i % 4)
        gradients(params, twins)
        opt.clip_grad_norm_(torch.inf)
        opt.step()
        other.step()
    assert_close(params, opt, twins, other)


@needs_fork
@pytest.mark.usefixtures("many_threads")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_child_steps():
    native = fused_cpu._load()[0]
    p = torch.zeros(1_000_000)
    p.grad = torch.ones_like(p)
    opt = AdaMomentum([p], fused=True)

    def steps(source):
        opt.step()
        # No operation that uses torch's pool.
        return all(p[i].item() < -0.005 * opt.state[p]["step"].item() for i in range(0, 1_000_000, 9973)) and (
            native.thread_source() == source
        )

    assert steps("torch")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = not steps("own")  # torch's own pool would hang here, for want of the parent's threads
        finally:
            os._exit(code)
    assert steps("torch")
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def test_subnormal_mode_is_restored():
    p = torch.full((1000,), 1e-30)
    p.grad = torch.full((1000,), 1e-30)
    AdaMomentum([p], fused=True).step()
    assert (torch.tensor(1e-38) / 100) > 0


def test_parameters_that_share_memory():
    shared = torch.zeros(200_000)
    params = [torch.nn.Parameter(shared) for _ in range(4)]
    for p in params:
        p.grad = torch.ones(200_000)
    opt = AdaMomentum(params, fused=True)
    for t in range(1, 6):
        opt.step()
        assert shared.unique().numel() == 1, f"step {t}"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_default_device_changes_nothing(device):
    ours, opt, theirs, other = pair()
    with torch.device(device):
        assert not fused_cpu.watched()
        for params, o in ((ours, opt), (theirs, other)):
            for p in params:
                p.grad = torch.ones(p.shape, device="cpu")
            assert o.clip_grad_norm_(1e9).item() > 0
            o.step()
            o.step()
    assert_close(ours, opt, theirs, other)
    assert all(o.state[p]["step"] == 2 for o, params in ((opt, ours), (other, theirs)) for p in params)


@pytest.mark.filterwarnings("ignore:overflow")
def test_an_infinite_second_moment_stops_instead_of_spoiling():
    p = torch.zeros(3)
    opt = AdaMomentum([p], fused=True)
    for g in (1e25, 1.0, 1.0):
        p.grad = torch.full((3,), g)
        opt.step()
    assert p.isfinite().all()
    assert opt.state[p]["exp_avg_sq"].isinf().all()


@pytest.mark.parametrize("first", [None, "8bit", torch.bfloat16])
@pytest.mark.parametrize("later", [None, "8bit", torch.bfloat16])
@pytest.mark.parametrize("options", [{"foreach": False}, {}])
def test_states_of_several_kinds_in_one_group(first, later, options):
    p, q = torch.zeros(300), torch.zeros(300)
    opt = AdaMomentum([p, q], state_dtype=first, **options)
    p.grad = torch.ones(300)
    opt.step()
    opt.param_groups[0]["state_dtype"] = later
    q.grad = torch.ones(300)
    opt.step()
    torch.testing.assert_close(q, torch.full((300,), -0.01), rtol=1e-5, atol=0)
    assert (opt.state[p]["step"], opt.state[q]["step"]) == (2, 1)
    kinds = {None: torch.float32, "8bit": torch.uint8}
    assert opt.state[p]["exp_avg"].dtype == kinds.get(first, first)
    assert opt.state[q]["exp_avg"].dtype == kinds.get(later, later)


# ---- clipping and loss scaling ----


@pytest.mark.usefixtures("many_threads")
@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"foreach": True}])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e9])
def test_clipping_equals_torchs(options, max_norm):
    ours, theirs = parameters([(100, 30), (7,), ()]), parameters([(100, 30), (7,), ()])
    opt, other = AdaMomentum(ours, lr=0.1, weight_decay=0.1, **options), AdaMomentum(theirs, lr=0.1, weight_decay=0.1)
    for _ in range(3):
        gradients(ours, theirs)
        kept = [p.grad.clone() for p in ours]
        norm = opt.clip_grad_norm_(max_norm)
        torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, max_norm), rtol=1e-5, atol=0)
        opt.step()
        other.step()
        assert all(torch.equal(p.grad, k) for p, k in zip(ours, kept, strict=True))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_clipping_is_for_one_step_and_zero_grad_forgets_it():
    p = torch.zeros(1)
    opt = AdaMomentum([p], betas=(0.0, 0.0))
    p.grad = torch.ones(1)
    opt.clip_grad_norm_(0.25)
    opt.step()
    torch.testing.assert_close(opt.state[p]["exp_avg"].item(), 0.25, rtol=1e-5, atol=0)
    opt.step()
    assert opt.state[p]["exp_avg"] == 1
    opt.clip_grad_norm_(0.25)
    opt.zero_grad()
    p.grad = torch.ones(1)
    opt.step()
    assert opt.state[p]["exp_avg"] == 1


def test_clipping_twice_is_clipping_what_is_left():
    p, q = torch.zeros(1), torch.zeros(1)
    opt = AdaMomentum([p], betas=(0.0, 0.0))
    for limits in ((1.0, torch.inf), (0.5, 1.0), (1.0, 0.5)):
        p.grad, q.grad = torch.full((1,), 100.0), torch.full((1,), 100.0)
        for limit in limits:
            ours, theirs = opt.clip_grad_norm_(limit), torch.nn.utils.clip_grad_norm_([q], limit)
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
        opt.step()
        torch.testing.assert_close(opt.state[p]["exp_avg"], q.grad, rtol=1e-5, atol=0)


def test_a_step_that_raises_leaves_the_clipping_for_the_next():
    p = torch.zeros(1)
    opt = AdaMomentum([p], betas=(0.0, 0.0))
    p.grad = torch.ones(1)
    opt.clip_grad_norm_(0.25)
    opt.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be >= 0"):
        opt.step()
    opt.param_groups[0]["lr"] = 1.0
    opt.step()
    torch.testing.assert_close(opt.state[p]["exp_avg"].item(), 0.25, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_norm_of_every_dtype(dtype):
    params = [torch.zeros(n, dtype=dtype) for n in (3, 1000)] + [torch.zeros(4, 6, dtype=dtype)[:, ::2]]
    for p in params:
        p.grad = torch.randn_like(p)
    norm = AdaMomentum(params).clip_grad_norm_(1.0)
    assert norm.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = sum(p.grad.to(torch.complex128).abs().square().sum() for p in params).sqrt()
    torch.testing.assert_close(norm.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_norms_that_are_not_finite(bad):
    p = torch.zeros(3)
    opt = AdaMomentum([p])
    p.grad = torch.tensor([1.0, bad, 1.0])
    with pytest.raises(RuntimeError, match=r"the total norm of the gradients is (inf|nan), so they cannot be clipped"):
        opt.clip_grad_norm_(1.0, error_if_nonfinite=True)
    assert not opt.clip_grad_norm_(1.0).isfinite()
    opt.step()
    q = torch.zeros(3)
    q.grad = p.grad.clone()
    torch.nn.utils.clip_grad_norm_([q], 1.0)
    AdaMomentum([q]).step()
    torch.testing.assert_close(p, q, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("value", "error"), [(-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError)])
def test_bad_max_norm(value, error):
    p = torch.zeros(3)
    p.grad = torch.ones(3)
    with pytest.raises(error, match="max_norm must be"):
        AdaMomentum([p]).clip_grad_norm_(value)


def test_no_gradients_have_norm_zero():
    assert AdaMomentum([torch.zeros(3)]).clip_grad_norm_(1.0) == 0


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler(fused, unscale):
    scaled, plain = (torch.nn.Parameter(torch.ones(4)) for _ in range(2))
    opt, other = AdaMomentum([scaled], lr=0.1, fused=fused), AdaMomentum([plain], lr=0.1)
    assert opt._step_supports_amp_scaling == bool(fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(10):
        for p, o in ((scaled, opt), (plain, other)):
            o.zero_grad()
            loss = (p * torch.arange(4.0)).square().sum()
            (scaler.scale(loss) if p is scaled else loss).backward()
        if t == 5:
            scaled.grad[0] = torch.inf
        if unscale:
            scaler.unscale_(opt)
            opt.clip_grad_norm_(1e9)
        scaler.step(opt)
        scaler.update()
        if t != 5:
            other.step()
    assert opt.state[scaled]["step"] == 9
    torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=0)
