"""The fused path on CUDA. Without a GPU its kernel runs in Triton's interpreter, in a process of its own."""

import gc
import importlib.util
import os
import subprocess
import sys
import weakref
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fused_steps import Compared, FusedCuda, rule_of
from lockstep import SWITCHES
from torch.utils._python_dispatch import TorchDispatchMode

from adamomentum import AdaMomentum
from adamomentum.torch import fused_cpu, fused_cuda
from adamomentum.torch.fused_cuda import fused_cuda_update, why_not_update
from adamomentum.torch.scalars import ENTRY, MATRIX_COLUMNS, numbers_at, numbers_matrix

CPU = torch.device("cpu")
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: it comes with CUDA builds of torch")


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("file", ["fused_cuda_interpreted.py", "test_configurations.py"])
def test_the_kernel_in_the_interpreter(file):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow"]
    run = subprocess.run(
        [*command, str(Path(__file__).with_name(file))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


compiles = [
    pytest.mark.slow,
    needs_triton,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton is set to interpret"),
    pytest.mark.parametrize("capability", [80, 90]),
]


class TestCompiledWithoutAGpu:
    pytestmark = compiles

    @pytest.fixture(autouse=True)
    def own_cache(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    @pytest.mark.parametrize(
        ("dtypes", "rounding", "switches"),
        [
            (("f32", "f32", "f32"), "nearest", {"amsgrad": True}),
            (("bf16", "f32", "f32"), "master", {"lookahead": True, "found_inf": True}),
            (("f16", "bf16", "bf16"), "kahan", {"lookahead": True, "nesterov": True, "found_inf": True}),
        ],
    )
    def test_what_its_accesses_roots_and_roundings_become(self, dtypes, rounding, switches, capability):
        from compiled_cuda import Variant, compiled

        ptx = compiled(Variant(*dtypes, rounding, l2=True, step="float64", **switches), capability).asm["ptx"]
        # Loads of four numbers at once, 16 bytes of float32: what memory bandwidth hangs on.
        assert "ld.global.v4.b32" in ptx
        # Exact where the second moment is in float32.
        assert ("sqrt.rn.f32" in ptx) == ("div.rn.f32" in ptx) == (dtypes[2] == "f32")
        assert ("rsqrt.approx" in ptx) == (dtypes[2] != "f32")
        # In the interpreter it is done in integers.
        assert ("cvt.rn.bf16x2.f32" in ptx) == (dtypes[0] == "bf16")

    # Registers decide how many programs a multiprocessor holds: up to 64 four of them, up to 80 three, up to 128 two.
    @pytest.mark.parametrize(("usual", "registers"), list(enumerate([64, 64, 48, 64, 64])))
    def test_registers_of_usual_variants(self, usual, registers, capability):
        from compiled_cuda import USUAL, resources

        needs = resources(USUAL[usual], capability)
        assert needs.registers <= registers
        assert needs.stack == needs.spills == 0


@needs_triton
def test_the_kernel_reads_each_number_from_its_column():
    kernel = fused_cuda._kernel()
    assert kernel._NUMBERS.value == len(MATRIX_COLUMNS)
    assert [getattr(kernel, f"_{name.upper()}").value for name in MATRIX_COLUMNS] == list(range(len(MATRIX_COLUMNS)))


def test_native_tables_hold_what_is_named():
    pytest.importorskip("adamomentum._native")
    p = torch.zeros(5000)
    batch = fused_cpu.new_batch(table_device=int(p.__dlpack_device__()[0]))
    state = {"step": torch.tensor(6.0), "exp_avg": torch.zeros(5000), "exp_avg_sq": torch.zeros(5000)}
    assert fused_cpu.add(batch, p, p.clone(), state, False)
    batch.next_steps()
    for names in (ENTRY, ENTRY[::-1]):
        ((*_, tensors, chunks, cells),) = batch.tables(2048, names)
        *entry, start = torch.frombuffer(cells, dtype=torch.int64).tolist()
        of = dict(zip(names, entry, strict=True))
        assert (tensors, chunks, start, of["param"], of["numel"], of["step"]) == (1, 3, 0, p.data_ptr(), 5000, 7)
    with pytest.raises(ValueError, match="no 'numels'"):
        batch.tables(2048, ["numel", "numels"])


@pytest.mark.slow
def test_importing_the_library_does_not_import_triton():
    # Torch may have imported it already, so look whether it could be done without.
    code = "import sys; sys.modules['triton'] = None; import adamomentum.torch.fused_cuda"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_triton_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "adamomentum.torch.fused_cuda_kernel", raising=False)
    caches = (fused_cuda.why_not, fused_cuda._kernel)
    for function in caches:
        function.cache_clear()
    try:
        assert "pip install triton" in fused_cuda.why_not()
        options = {
            "numbers": torch.empty(0, len(MATRIX_COLUMNS)),
            "grad_factor": torch.tensor(1.0),
            "rule": rule_of(),
            "found_inf": None,
        }
        with pytest.raises(RuntimeError, match=r"fused=True on CUDA needs Triton: .* pip install triton"):
            fused_cuda_update([], **options)
    finally:
        for function in caches:
            function.cache_clear()


@pytest.mark.skipif(not HAS_TRITON or torch.cuda.is_available(), reason="for machines with Triton and no GPU")
def test_why_not_asks_for_a_gpu():
    assert fused_cuda.why_not() == "fused=True on CUDA needs a CUDA device, and torch finds none"


class Recorder(TorchDispatchMode):
    """What would be captured, of a process without a GPU: operations on tensors and launches, but for those apart."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.captured, self.launches, self.uploads, self.apart = [], [], 0, False
        tl = SimpleNamespace(float32="fp32", float64="fp64", bfloat16="bf16", uint8="u8")
        kernel = SimpleNamespace(CHUNK=2048, WARPS=8, tl=tl, update_chunk=self)
        monkeypatch.setattr(fused_cuda, "_kernel", lambda: kernel)
        monkeypatch.setattr(fused_cuda, "_is_capturing", lambda device: True)
        monkeypatch.setattr(fused_cuda, "_apart_from_the_graph", self.work_apart)

    @contextmanager
    def work_apart(self, device):
        self.apart = True
        self.uploads += 1
        yield
        self.apart = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not self.apart:
            self.captured.append(func)
        return func(*args, **kwargs or {})

    def __getitem__(self, grid):
        return lambda table, owners, *_, **__: self.launches.append((table, owners))


def captured_step(recorder, params, states):
    """The part of a step with the table; what the numbers are is of no matter."""
    numbers, grad_factor, rule = torch.zeros(len(params), len(MATRIX_COLUMNS)), torch.ones(()), rule_of()
    rows = [(p, p.grad, state) for p, state in zip(params, states, strict=True)]
    with recorder:
        fused_cuda_update(rows, numbers=numbers, grad_factor=grad_factor, rule=rule, found_inf=None)


def test_a_graph_reads_a_table_that_was_uploaded_once_and_lives_as_long_as_the_moments(monkeypatch):
    params = [torch.zeros(5000), torch.zeros(3), torch.zeros(0), torch.zeros(7, dtype=torch.bfloat16)]
    opt = FusedCuda(params, steps_on=CPU)
    states = [opt.state[p] for p in params]
    recorder = Recorder(monkeypatch)
    for p in params:
        p.grad = torch.ones_like(p)
    captured_step(recorder, params, states)
    # Two dtypes are two launches, and nothing else is in the graph.
    assert recorder.uploads == len(recorder.launches) == 2
    assert recorder.captured == []
    (table, owners), _ = recorder.launches
    assert owners.tolist() == [1, 1, 1, 2]
    entries = table[: 2 * 13].view(2, 13)
    assert entries[:, 0].tolist() == [5000, 3]
    assert entries[:, 6].tolist() == [p.grad.data_ptr() for p in params[:2]]
    assert entries[:, 7].tolist() == [state["exp_avg"].data_ptr() for state in states[:2]]

    # A second capture, of other gradients, leaves the first graph its table.
    first, before = weakref.ref(table), table.clone()
    old = [p.grad for p in params]
    for p in params:
        p.grad = torch.ones_like(p)
    captured_step(recorder, params, states)
    assert recorder.uploads == 4
    assert torch.equal(table, before)
    second = weakref.ref(recorder.launches[2][0])
    assert second()[6] == params[0].grad.data_ptr() != old[0].data_ptr()
    recorder.launches.clear()
    del table, owners, entries
    gc.collect()
    assert first() is not None and second() is not None
    del opt, states
    gc.collect()
    assert first() is None and second() is None


class Driver:
    """The part of CUDA's driver that tells threads what they may do during a capture."""

    def __init__(self, code=0):
        self.mode, self.modes, self.code = 0, [], code

    def cuThreadExchangeStreamCaptureMode(self, reference):
        if not self.code:
            self.mode, reference._obj.value = reference._obj.value, self.mode
            self.modes.append(self.mode)
        return self.code


def test_the_thread_may_wait_while_it_uploads_and_not_afterwards(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(fused_cuda.ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr(torch.version, "hip", None)
    with fused_cuda._relaxed():
        assert driver.modes == [2]
    assert driver.modes == [2, 0]
    with pytest.raises(ZeroDivisionError), fused_cuda._relaxed():
        1 / 0  # noqa: B018
    assert driver.mode == 0


def test_a_driver_that_can_not_be_told_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(fused_cuda.ctypes, "CDLL", lambda name: Driver(code=1))
    with pytest.raises(RuntimeError, match=r"ExchangeStreamCaptureMode failed with code 1; use foreach=True"):
        fused_cuda._relaxed().__enter__()
    monkeypatch.setattr(fused_cuda.ctypes, "CDLL", lambda name: object())
    with pytest.raises(RuntimeError, match=r"needs cuThreadExchangeStreamCaptureMode of .*; use foreach=True"):
        fused_cuda._relaxed().__enter__()


def test_work_apart_from_a_graph_is_on_a_stream_that_is_not_captured(monkeypatch):
    """Streams of the pool may be the graph's own."""
    current, log = ["graph"], []
    streams = iter(["graph", "also the graph's", "free"])

    class Stream:
        def __init__(self, name):
            self.name = name

        def synchronize(self):
            log.append(("waited for", self.name))

    @contextmanager
    def stream(s):
        current.append(s.name)
        yield
        current.pop()

    monkeypatch.setattr(fused_cuda, "_relaxed", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(current[-1]))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(next(streams)))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: "graph" in current[-1])
    with fused_cuda._apart_from_the_graph(torch.device("cuda")):
        log.append(("work on", current[-1]))
    assert log == [("work on", "free"), ("waited for", "free")]
    assert current == ["graph"]


def on_meta(dtype=torch.float32, shape=(4, 6)):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"p": torch.zeros(4, 6)}, "gradient is on meta"),
        ({"p": on_meta(torch.float64), "g": on_meta(torch.float64)}, "parameter's dtype is torch.float64"),
        ({"g": on_meta(torch.bfloat16)}, "gradient's dtype is torch.bfloat16"),
        ({"m": on_meta(torch.float16)}, "dtypes of the moments"),
        ({"m": on_meta(torch.float64), "v": on_meta(torch.float64)}, "dtypes of the moments"),
        ({"g": on_meta(shape=(6, 4)).T}, "gradient has another shape or memory layout"),
        ({"v": on_meta(shape=(4,))}, "exp_avg_sq has another shape"),
        ({"m": on_meta(torch.uint8, (24,)), "v": on_meta(torch.uint8, (24,))}, None),
        ({"m": on_meta(torch.uint8, (23,)), "v": on_meta(torch.uint8, (24,))}, "exp_avg has another shape"),
        (dict.fromkeys("pgmv", on_meta(shape=(4, 12))[:, ::2]), "do not lie together"),
        (dict.fromkeys("pgmv", on_meta(shape=(6, 4)).T), None),
        (dict.fromkeys("pgmv", on_meta(shape=(0, 3)).T), None),
        (dict.fromkeys("pgmv", on_meta(shape=(1, 6)).expand(4, 6)), "do not lie together"),
        ({"g": torch.eye(4, 6).to_sparse()}, "gradient is not a plain dense tensor"),
    ],
)
def test_why_not_update(monkeypatch, change, reason):
    tensors = {name: on_meta() for name in "pgmv"} | change
    refusal = why_not_update(*[tensors[name] for name in "pgmv"])
    if not change:
        assert refusal == "the parameter is on meta, not on a CUDA device"
    monkeypatch.setattr(fused_cuda, "_on_unusable_device", lambda p: None)
    refusal = why_not_update(*[tensors[name] for name in "pgmv"])
    assert refusal is None if reason is None else reason in refusal


@pytest.mark.parametrize("switches", SWITCHES)
def test_numbers_matrix(switches):
    options = {"lr": 0.01, **SWITCHES[switches]}
    rule = rule_of(**options)
    steps = [torch.tensor(float(t)) for t in (1, 2, 6, 6, 1000)]
    matrix = numbers_matrix(steps, rule, CPU)
    for row, t in zip(matrix, steps, strict=True):
        n = numbers_at(t.item(), rule)
        expected = {**n._asdict(), "v_decay": 1 - n.beta2}
        assert torch.equal(row, torch.tensor([float(expected[name]) for name in MATRIX_COLUMNS]))
    lr, beta1, beta2 = (torch.tensor(x, dtype=torch.float64) for x in (rule.lr, rule.beta1, rule.beta2))
    for tensors in ({"lr": lr}, {"beta1": beta1, "beta2": beta2}):
        torch.testing.assert_close(numbers_matrix(steps, rule._replace(**tensors), CPU), matrix, rtol=1e-6, atol=0)
    assert numbers_matrix([], rule, CPU).shape == (0, len(MATRIX_COLUMNS))


# On the device.

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    needs_triton,
]
SHAPES = [(0,), (1,), (255,), (257,), (2048,), (5000,), (300, 1000)]
STATES = [torch.float32, torch.bfloat16, torch.uint8]


def cuda_params(dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(shape, device="cuda").to(dtype) for shape in SHAPES]


class TestOnTheDevice:
    pytestmark = gpu

    @pytest.mark.parametrize("steps_on", ["cpu", "cuda"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("switches", SWITCHES)
    def test_it_agrees_with_the_for_loop(self, switches, dtype, steps_on):
        options = {"lr": 1e-2, **SWITCHES[switches]}
        ours, theirs = cuda_params(dtype), cuda_params(dtype)
        fused = FusedCuda(ours, steps_on=torch.device(steps_on), **options)
        loop = AdaMomentum(theirs, foreach=False, **options)
        for _ in range(20):
            for p, q in zip(ours, theirs, strict=True):
                q.copy_(p)
                p.grad = q.grad = torch.randn_like(p)
                assert why_not_update(p, p.grad, *[fused.state[p][key] for key in ("exp_avg", "exp_avg_sq")]) is None
            fused.step()
            loop.step()
            for p, q in zip(ours, theirs, strict=True):
                spacing = 2 * torch.finfo(dtype).eps  # a half-precision number may round to either side
                torch.testing.assert_close(p, q, rtol=spacing if dtype != torch.float32 else 1e-5, atol=1e-6)
                for key in loop.state[q].keys() - {"step"}:
                    torch.testing.assert_close(fused.state[p][key], loop.state[q][key], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("state_dtype", STATES)
    def test_a_graph_replays_with_other_gradients(self, state_dtype):
        captured, plain = (FusedCuda(cuda_params(), state_dtype, weight_decay=0.1) for _ in range(2))
        sources = [torch.empty_like(p) for p in captured.params]
        found_inf = torch.zeros(1, device="cuda")

        def step():
            for p, source in zip(captured.params, sources, strict=True):
                p.grad = 2 * source  # made anew, in the graph's memory
            captured.step(factor=torch.full((), 0.5, device="cuda"), found_inf=found_inf)

        def step_both(do):
            for p, source in zip(plain.params, sources, strict=True):
                p.grad = source.normal_()
            plain.step()
            do()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                step_both(step)
        torch.cuda.current_stream().wait_stream(side)
        for p in captured.params:
            p.grad = None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        for p in captured.params:
            p.grad = None
        for _ in range(10):
            step_both(graph.replay)
            # Whatever memory the graph does not own is written over.
            garbage = [torch.full((n,), -1, dtype=torch.int64, device="cuda") for n in (10, 100, 1000, 10**6)]
            assert all(torch.equal(a, b) for a, b in zip(captured.everything(), plain.everything(), strict=True))
            del garbage
        # A second graph of the same step has another table, and leaves the first its own.
        second = torch.cuda.CUDAGraph()
        with torch.cuda.graph(second):
            step()
        for p in captured.params:
            p.grad = None
        for replay in (graph.replay, second.replay, graph.replay):
            step_both(replay)
            assert all(torch.equal(a, b) for a, b in zip(captured.everything(), plain.everything(), strict=True))
        before = captured.everything()
        found_inf.fill_(1)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(before, captured.everything(), strict=True))

    @pytest.mark.parametrize("state_dtype", STATES)
    def test_another_stream(self, state_dtype):
        a, b = (FusedCuda(cuda_params(), state_dtype) for _ in range(2))
        side = torch.cuda.Stream()
        for _ in range(20):
            for p, q in zip(a.params, b.params, strict=True):
                p.grad = q.grad = torch.randn_like(p)
            a.step()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                torch.cuda._sleep(1_000_000)  # the host runs ahead, and reuses its pinned memory if it may
                b.step()
            torch.cuda.current_stream().wait_stream(side)
        assert all(torch.equal(x, y) for x, y in zip(a.everything(), b.everything(), strict=True))

    def test_the_host_never_waits(self):
        opt = FusedCuda(cuda_params())
        for p in opt.params:
            p.grad = torch.randn_like(p)
        opt.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            opt.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_the_interpreter_is_off(self):
        assert fused_cuda.why_not() is None


class TestTheOptimizerOnTheDevice:
    pytestmark = gpu

    FORMATS = (
        (torch.bfloat16, "nearest"),
        (torch.bfloat16, "stochastic"),
        *((dtype, rounding) for dtype in (torch.bfloat16, torch.float16) for rounding in ("kahan", "master")),
    )

    @pytest.mark.parametrize("capturable", [False, True])
    @pytest.mark.parametrize("state_dtype", [None, "bfloat16", "8bit", ("float32", "8bit")])
    @pytest.mark.parametrize(("dtype", "rounding"), FORMATS)
    def test_every_format_agrees_with_the_for_loop(self, dtype, rounding, state_dtype, capturable):
        options = {"rounding": rounding, "state_dtype": state_dtype, "lr": 1e-2, "weight_decay": 0.1}
        options["capturable"] = capturable
        ours, theirs = cuda_params(dtype), cuda_params(dtype)
        opt = AdaMomentum(ours, fused=True, **options)
        loop = AdaMomentum(theirs, fused=False, foreach=False, **options)
        compared = Compared()
        for _ in range(12):
            for p, q in zip(ours, theirs, strict=True):
                p.grad = torch.randn_like(p)
                q.grad = p.grad.clone()
            opt.step()
            loop.step()
            for p, q in zip(ours, theirs, strict=True):
                compared.add(p, opt.state[p], q, loop.state[q])
        compared.check()

    @pytest.mark.parametrize("capturable", [False, True])
    @pytest.mark.parametrize("state_dtype", [None, "8bit"])
    def test_it_never_waits_and_leaves_gradients_alone(self, state_dtype, capturable):
        params = cuda_params()
        opt = AdaMomentum(params, fused=True, capturable=capturable, state_dtype=state_dtype)
        for p in params:
            p.grad = torch.randn_like(p)
        kept = [p.grad.clone() for p in params]
        opt.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            opt.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.equal(p.grad, g) for p, g in zip(params, kept, strict=True))

    @pytest.mark.parametrize("state_dtype", [None, "8bit"])
    def test_it_goes_on_from_a_state_dict_bit_for_bit(self, state_dtype):
        gradients = [[torch.randn_like(p) for p in cuda_params()] for _ in range(6)]

        def trained(params, opt, steps):
            for grads in steps:
                for p, g in zip(params, grads, strict=True):
                    p.grad = g
                opt.step()
            return opt

        def make(params):
            return AdaMomentum(params, fused=True, state_dtype=state_dtype)

        through, first = cuda_params(), cuda_params()
        trained(through, make(through), gradients)
        saved = trained(first, make(first), gradients[:3]).state_dict()
        second = [p.clone() for p in first]
        opt = make(second)
        opt.load_state_dict(saved)
        trained(second, opt, gradients[3:])
        assert all(torch.equal(p, q) for p, q in zip(through, second, strict=True))

    def test_native_tables_give_the_same_bits(self):
        if fused_cpu.why_not():
            pytest.skip("needs the native kernels")
        steps_on = torch.device("cpu")
        ours, theirs = (
            FusedCuda(cuda_params(torch.bfloat16), torch.uint8, steps_on, native=x, rounding="stochastic")
            for x in (True, False)
        )
        for _ in range(5):
            for p, q in zip(ours.params, theirs.params, strict=True):
                p.grad = q.grad = torch.randn_like(p)
            ours.step()
            theirs.step()
            assert all(torch.equal(a, b) for a, b in zip(ours.everything(), theirs.everything(), strict=True))
