"""Gradient release: the same parameters as summing gradients and one step, without a place to sum them in."""

import gc
import io
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from lockstep import PATHS, SWITCHES, accumulated_eps
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.utils.checkpoint import checkpoint

from adamomentum import reference
from adamomentum.bench.memory import peak_bytes
from adamomentum.second_moment import looks_ahead
from adamomentum.torch import AdaMomentum, bucket, param_groups, passes, release_gradients

TIGHT = {"rtol": 1e-12, "atol": 1e-13}
NO_CHOICE = {"adjust_lr": None, "second_moment": None, "nesterov": False}
ACCUMULATING = {name: options for name, options in SWITCHES.items() if "no-momentum" not in name}
# Their second moment takes the last pass's gradient for all.
LOOKAHEAD = {name for name, options in ACCUMULATING.items() if looks_ahead({**NO_CHOICE, **options})}
RELEASABLE = {name: options for name, options in PATHS.items() if name != "differentiable"}


class Model(nn.Module):
    """An embedding tied to the output, a norm, and an expert that only some inputs meet."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 5, dtype=dtype)
        self.inner = nn.Linear(5, 5, dtype=dtype)
        self.norm = nn.LayerNorm(5, dtype=dtype)
        self.expert = nn.Linear(5, 5, dtype=dtype)

    def forward(self, tokens: Tensor, with_expert: bool = True) -> Tensor:
        x = self.norm(torch.tanh(self.inner(self.embedding(tokens))))
        if with_expert:
            x = x + self.expert(x)
        return F.linear(x, self.embedding.weight)


def loss_of(model: nn.Module, i: int, passes: int, with_expert: Callable[[int], bool] = lambda i: True) -> Tensor:
    """The loss of micro-batch i."""
    generator = torch.Generator().manual_seed(i)
    tokens, targets = torch.randint(0, 7, (2, 6), generator=generator)
    return F.cross_entropy(model(tokens, with_expert(i)), targets) / passes


def train(
    model: nn.Module,
    optimizer: AdaMomentum,
    passes: int,
    numbers: range,
    schedulers: tuple = (),
    with_expert: Callable[[int], bool] = lambda i: True,
) -> None:
    """A loop as people write it, with or without release."""
    for i in numbers:
        loss_of(model, i, passes, with_expert).backward()
        if (i + 1) % passes == 0:
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
            optimizer.zero_grad()


def assert_same(ours: AdaMomentum, theirs: AdaMomentum, **tolerance) -> None:
    """Compare parameters and state."""
    for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        for p, q in zip(group["params"], other["params"], strict=True):
            torch.testing.assert_close(p, q, **(tolerance or TIGHT))
            state = {key: value for key, value in ours.state[p].items() if key != "accumulated"}
            expected = {key: value for key, value in theirs.state[q].items() if key != "accumulated"}
            torch.testing.assert_close(state, expected, **(tolerance or TIGHT))


def pair(options: dict, passes: int, dtype: torch.dtype = torch.float64):
    """Two models with their optimizers, of which the first releases its gradients."""
    models = Model(dtype), Model(dtype)
    ours, theirs = (AdaMomentum(m.parameters(), **{"lr": 1e-2, **options}) for m in models)
    return models, (ours, theirs), release_gradients(ours, passes)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.fixture
def at_once(monkeypatch) -> None:
    """No gradient waits for another, as in a model whose parameters fill a bucket each."""
    monkeypatch.setattr(bucket, "BUCKET_ELEMENTS", 1)


# ---- the same numbers ----


@pytest.mark.parametrize("path", RELEASABLE)
@pytest.mark.parametrize(
    ("switches", "passes"),
    [
        (name, passes)
        for name, options in ACCUMULATING.items()
        for passes in (1, 3)
        if passes == 1 or not (name in LOOKAHEAD or options.get("nesterov"))
    ],
)
def test_it_equals_accumulating_and_stepping(switches: str, path: str, passes: int) -> None:
    models, optimizers, _ = pair({**RELEASABLE[path], **ACCUMULATING[switches]}, passes)
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, passes, range(8 * passes))  # rectify takes its other branch from step 6
    assert optimizers[0].state[models[0].norm.weight]["step"].item() == 8
    assert_same(*optimizers)


@pytest.mark.parametrize("path", RELEASABLE)
@pytest.mark.parametrize(
    "options",
    [
        {"adjust_lr": "match_rms_adamw", "weight_decay": 0.1},
        {"adjust_lr": "match_rms_adamw", "weight_decay": 0.1, "decoupled_weight_decay": False, "maximize": True},
        {"second_moment": "lookahead", "amsgrad": True, "betas": (0.7, 0.9)},
    ],
)
def test_the_lookahead_momentum_takes_the_last_gradient_for_all(options: dict, path: str) -> None:
    model = Model()
    optimizer = AdaMomentum(model.parameters(), lr=1e-2, **options, **RELEASABLE[path])
    release_gradients(optimizer, 3)
    other = Model()
    theta = [p.detach().numpy().copy() for p in other.parameters()]
    states = [reference.State.zeros(t) for t in theta]
    for step in range(8):
        parts: list[list[Tensor]] = []
        for i in range(3 * step, 3 * step + 3):
            other.zero_grad()
            loss_of(other, i, 3, lambda i: i % 3 != 1).backward()
            parts.append([torch.zeros_like(p) if p.grad is None else p.grad for p in other.parameters()])
            loss_of(model, i, 3, lambda i: i % 3 != 1).backward()
        for j, (name, p) in enumerate(other.named_parameters()):
            passes = 2 if "expert" in name else 3  # the expert met two of three batches
            whole, last = sum(part[j] for part in parts).numpy(), parts[-1][j].numpy()
            theta[j], states[j] = reference.step(
                theta[j], whole, states[j], lr=1e-2, last_grad=last, passes=passes, **options
            )
            with torch.no_grad():
                p.copy_(torch.from_numpy(theta[j]))
    for p, expected, state in zip(model.parameters(), theta, states, strict=True):
        torch.testing.assert_close(p.detach(), torch.from_numpy(expected), **TIGHT)
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.from_numpy(state.m), **TIGHT)
        eps = accumulated_eps(8, options)
        torch.testing.assert_close(optimizer.state[p]["exp_avg_sq"] + eps, torch.from_numpy(state.v), **TIGHT)


@pytest.mark.parametrize("passes", [1, 3])
def test_buckets_of_any_size_give_the_same_bits(passes: int, monkeypatch) -> None:
    """With groups of different paths and formats in one bucket, and a parameter that seldom has a gradient."""
    results = []
    for elements in (1, 30, 2**20):
        monkeypatch.setattr(bucket, "BUCKET_ELEMENTS", elements)
        model = Model(torch.float32)
        groups = [
            {"params": model.embedding.parameters(), "lr": 1e-2, "weight_decay": 0.1},
            {"params": model.inner.parameters(), "foreach": True, "maximize": True},
            {"params": model.norm.parameters(), "state_dtype": torch.float64},
            {"params": model.expert.parameters(), "foreach": False, "betas": (0.8, 0.9)},
        ]
        if passes == 1:
            groups[2]["state_dtype"] = "8bit"
        optimizer = AdaMomentum(groups, lr=1e-3)
        release_gradients(optimizer, passes)
        train(model, optimizer, passes, range(6 * passes), with_expert=lambda i: i % 3 == 1)
        results.append(optimizer)
    for other in results[:-1]:
        assert_same(results[-1], other, rtol=0, atol=0)


class TwoViews(torch.autograd.Function):
    """The sum of two vectors of one length, whose gradients overlap in memory."""

    @staticmethod
    def forward(ctx, p: Tensor, q: Tensor) -> Tensor:
        return torch.stack([p, q]).sum(0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        memory = torch.arange(grad.numel() + 1, dtype=grad.dtype)
        return memory[:-1], memory[1:]


@pytest.mark.parametrize("passes", [1, 2])
def test_gradients_that_share_memory(passes: int) -> None:
    results = []
    for release in (True, False):
        params = [nn.Parameter(torch.full((4,), float(i))) for i in range(2)]
        optimizer = AdaMomentum(params, lr=0.1)
        if release:
            release_gradients(optimizer, passes)
        else:  # or a second pass would add to both what it adds to one
            for p in params:
                p.register_hook(torch.clone)
        for i in range(4 * passes):
            TwoViews.apply(*params).sum().backward()
            if not release and (i + 1) % passes == 0:
                optimizer.step()
                optimizer.zero_grad()
        results.append(optimizer)
    assert_same(*results, rtol=1e-6, atol=1e-7)


def test_without_momentum_each_pass_is_a_step() -> None:
    models, optimizers, _ = pair({"betas": (0.0, 0.99)}, 1)
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 1, range(10))
    assert_same(*optimizers)


def test_groups_schedules_and_tensor_options() -> None:
    """lr and beta1 move between steps, groups differ, and betas are tensors in one run."""
    for tensors in (False, True):
        results = []
        for release in (True, False):
            model = Model()
            betas = (torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.99)) if tensors else (0.9, 0.99)
            groups = param_groups(model, weight_decay=0.1)
            groups[0]["eps"] = 1e-8
            lr = torch.tensor(1e-2, dtype=torch.float64) if tensors else 1e-2
            optimizer = AdaMomentum(groups, lr=lr, betas=betas)
            if release:
                release_gradients(optimizer, 3)
            if tensors:
                scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
            else:
                scheduler = OneCycleLR(optimizer, max_lr=[1e-2, 2e-2], total_steps=12, div_factor=2)  # cycles beta1
            train(model, optimizer, 3, range(30), (scheduler,))
            results.append(optimizer)
        assert_same(*results)


@pytest.mark.parametrize(
    "with_expert", [lambda i: i % 3 == 0, lambda i: i % 3 == 2, lambda i: i % 6 == 1, lambda i: i > 8]
)
def test_parameters_without_a_gradient_in_some_passes(with_expert) -> None:
    models, optimizers, _ = pair({"weight_decay": 0.1, "decoupled_weight_decay": False}, 3)
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 3, range(18), with_expert=with_expert)
    steps = [optimizer.state[model.expert.weight]["step"] for model, optimizer in zip(models, optimizers, strict=True)]
    assert steps[0] == steps[1]
    assert_same(*optimizers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    """More exact than sums in p.grad: nearer to training in float64."""
    models, optimizers, _ = pair({}, 8, dtype)
    exact = Model()
    exact_optimizer = AdaMomentum(exact.parameters(), lr=1e-2)
    for i in range(8):
        for p, q in zip(exact.parameters(), models[0].parameters(), strict=True):
            p.data.copy_(q)
        for model in (*models, exact):
            loss_of(model, i, 8).backward()
    for optimizer in (*optimizers, exact_optimizer):
        optimizer.step()
    errors = []
    for model, optimizer in zip(models, optimizers, strict=True):
        pairs = zip(model.parameters(), exact.parameters(), strict=True)
        errors.append(
            sum((optimizer.state[p]["exp_avg"] - exact_optimizer.state[q]["exp_avg"]).abs().sum() for p, q in pairs)
        )
    assert errors[0] <= 1.05 * errors[1]
    assert optimizers[0].state[models[0].norm.weight]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("options", [{"state_dtype": "8bit"}, {"state_dtype": torch.bfloat16}, {"rounding": "kahan"}])
def test_reduced_precision_of_state_and_parameters(options: dict) -> None:
    dtype = torch.bfloat16 if "rounding" in options else torch.float32
    models, optimizers, _ = pair(options, 1, dtype)
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 1, range(8))
    assert_same(*optimizers, rtol=0, atol=0)


def test_complex_parameters() -> None:
    params = [nn.Parameter(torch.full((3,), 1 + 2j, dtype=torch.complex128)) for _ in range(2)]
    optimizers = [AdaMomentum([p], lr=1e-2) for p in params]
    release_gradients(optimizers[0], 2)
    for p, optimizer in zip(params, optimizers, strict=True):
        for i in range(6):
            ((p * (1 + 1j * i)).abs() ** 2).sum().backward()
            if i % 2:
                optimizer.step()
                optimizer.zero_grad()
    assert_same(*optimizers)


def test_checkpointed_and_compiled_models() -> None:
    def checkpointed(model: Model, tokens: Tensor, with_expert: bool) -> Tensor:
        return checkpoint(Model.forward, model, tokens, with_expert, use_reentrant=False)

    for wrap in (lambda m: lambda *args: checkpointed(m, *args), lambda m: torch.compile(m, backend="aot_eager")):
        models, optimizers, _ = pair({}, 2)
        train(wrap(models[0]), optimizers[0], 2, range(8))
        train(models[1], optimizers[1], 2, range(8))
        assert_same(*optimizers)
        assert not gradients(models[0])


# ---- nothing is stored ----


@pytest.mark.parametrize("passes", [1, 4])
def test_a_gradient_is_freed_before_the_next_one_is_there(passes: int) -> None:
    model = nn.Sequential(*[nn.Linear(20, 20, bias=False) for _ in range(6)])
    optimizer = AdaMomentum(model.parameters())
    alive: list[int] = []
    for p in model.parameters():
        p.register_hook(lambda grad: alive.append(len(gradients(model))))
    release_gradients(optimizer, passes)
    for i in range(2 * passes):
        model(torch.ones(2, 20)).sum().backward()
        assert not gradients(model)
        if (i + 1) % passes == 0:
            optimizer.step()
            optimizer.zero_grad()
    assert alive == [0] * 6 * 2 * passes


@pytest.mark.parametrize("passes", [1, 2])
def test_peak_memory_has_no_more_than_a_bucket_of_gradients_in_it(passes: int, monkeypatch) -> None:
    size = 100 * 100

    def peak(release: bool) -> int:
        model = nn.Sequential(*[nn.Linear(100, 100, bias=False) for _ in range(10)])
        optimizer = AdaMomentum(model.parameters())
        if release:
            release_gradients(optimizer, passes)
        optimizer.init_state()
        x = torch.ones(1, 100)

        def step() -> None:
            for _ in range(passes):
                model(x).sum().backward()
            optimizer.step()

        step()
        optimizer.zero_grad()
        return peak_bytes(step, torch.device("cpu")) / (4 * size)

    assert peak(False) > 10
    for waiting in (1, 4):  # of the size of gradients; the last of them fills the bucket, and activations come on top
        monkeypatch.setattr(bucket, "BUCKET_ELEMENTS", waiting * size)
        assert waiting <= peak(True) < waiting + 1.5


# ---- what waits ----


def test_a_bucket_is_full_at_2_20_elements() -> None:
    params = [torch.zeros(2**10, 2**9) for _ in range(5)]
    waiting = bucket.Buckets()
    full = [waiting.put(p, torch.zeros_like(p)) for p in params]
    assert [each and len(each.params) for each in full] == [None, 2, None, 2, None]
    assert [len(each.params) for each in waiting.take_all()] == [1]
    assert waiting.take_all() == []


class Stream:
    """Stands for a stream of an accelerator."""

    current: list["Stream"]

    def __init__(self) -> None:
        self.waits_for: list[Stream] = []

    def __enter__(self) -> None:
        self.current.append(self)

    def __exit__(self, *error) -> None:
        self.current.pop()

    def wait_stream(self, other: "Stream") -> None:
        self.waits_for.append(other)


@pytest.mark.parametrize("fails", [False, True])
def test_gradients_are_read_on_the_stream_that_made_them(fails: bool, monkeypatch) -> None:
    """There is none on a CPU: with stand-ins, on tensors of a device without memory."""
    caller, side = Stream(), Stream()
    Stream.current = [caller]
    monkeypatch.setattr(bucket, "stream_of", lambda p: Stream.current[-1])
    params = [torch.empty(3, device="meta") for _ in range(4)]
    waiting = bucket.Buckets()
    for i, p in enumerate(params):
        with side if i % 2 else nullcontext():
            assert waiting.put(p, torch.empty_like(p)) is None
    buckets = waiting.take_all()
    assert len(buckets) == 2
    for each, stream, theirs in zip(buckets, (caller, side), (params[::2], params[1::2]), strict=True):
        with pytest.raises(ZeroDivisionError) if fails else nullcontext(), each.opened([{}, {}]) as parts:
            assert Stream.current[-1] is stream
            assert all(a is b for part, b in zip(parts, theirs, strict=True) for a in part.params)
            if fails:
                raise ZeroDivisionError
        assert Stream.current == [caller]
        assert not any(part.grads for part in parts)
    assert caller.waits_for == ([] if fails else [side])
    assert not side.waits_for


def test_threads_of_several_devices_may_put_gradients_at_once(monkeypatch) -> None:
    monkeypatch.setattr(bucket, "BUCKET_ELEMENTS", 10)
    waiting, full = bucket.Buckets(), []
    params = [torch.zeros(3) for _ in range(4000)]

    def put(some: list[Tensor]) -> None:
        full.extend(each for p in some if (each := waiting.put(p, p)) is not None)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=put, args=(params[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    put_in = [p for each in (*full, *waiting.take_all()) for p in each.params]
    assert sorted(map(id, put_in)) == sorted(map(id, params))
    assert all(len(each.params) == 4 for each in full)


def fail(grad: Tensor) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("passes", [1, 2])
def test_a_pass_that_fails_while_all_gradients_wait_has_changed_nothing(passes: int) -> None:
    (model, other), (optimizer, expected), handle = pair({}, passes)
    train(model, optimizer, passes, range(3 * passes - 1))
    before = deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    seen = []
    watch = model.norm.weight.register_hook(lambda grad: seen.append(weakref.ref(grad)))  # ready before the embedding's
    hook = model.embedding.weight.register_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        loss_of(model, 99, 1).backward()
    hook.remove()
    watch.remove()
    assert not gradients(model)
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()["state"]), before, rtol=0, atol=0)
    assert handle.accumulated == passes - 1
    train(model, optimizer, passes, range(3 * passes - 1, 4 * passes))
    gc.collect()
    assert [reference() for reference in seen] == [None]  # what had waited is freed
    train(other, expected, passes, range(4 * passes))
    assert_same(optimizer, expected)


@pytest.mark.parametrize("passes", [1, 2])
def test_all_gradients_that_wait_are_checked_before_any_is_taken(passes: int) -> None:
    """Also those of another group."""
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Linear(2, 2))
    optimizer = AdaMomentum([{"params": module.parameters(), "lr": 0.1} for module in reversed(model)])
    release_gradients(optimizer, passes)
    before = deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="sparse=False"):
        model(torch.tensor([1])).sum().backward()
    assert not any(state["exp_avg"].any() for state in optimizer.state.values())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not gradients(model)
    model[0].sparse = False
    for _ in range(passes):
        model(torch.tensor([1])).sum().backward()
    assert {state["step"].item() for state in optimizer.state.values()} == {1}


# ---- checkpoints ----


def through_a_file(state_dict: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer)


@pytest.mark.parametrize("load_first", [True, False])
@pytest.mark.parametrize("at", range(1, 7))
def test_resuming_between_any_two_passes_changes_nothing(at: int, load_first: bool) -> None:
    """Bit for bit, with a parameter whose only gradient of the step came before the save."""
    seldom = {"with_expert": lambda i: i % 3 == 0}
    (model, _), (optimizer, _), _ = pair({"weight_decay": 0.1}, 3)
    train(model, optimizer, 3, range(at), **seldom)
    saved = through_a_file(model.state_dict()), through_a_file(optimizer.state_dict())
    train(model, optimizer, 3, range(at, 12), **seldom)

    resumed = Model()
    resumed.load_state_dict(saved[0])
    other = AdaMomentum(resumed.parameters())
    if load_first:
        other.load_state_dict(saved[1])
    handle = release_gradients(other, 3)
    if not load_first:
        train(resumed, other, 3, range(1), **seldom)  # is overwritten by what is loaded
        resumed.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
    assert handle.accumulated == at % 3
    train(resumed, other, 3, range(at, 12), **seldom)
    assert_same(optimizer, other, rtol=0, atol=0)


def test_a_schedule_goes_on_after_loading() -> None:
    (model, _), (optimizer, _), _ = pair({}, 2)
    train(model, optimizer, 2, range(4))
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    before = deepcopy(model.state_dict())
    train(model, optimizer, 2, range(4, 8))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("copy", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_without_release_and_with_it(copy) -> None:
    """What is in exp_avg of unfinished passes counts in an ordinary step too."""
    (model, other), (optimizer, expected), _ = pair({}, 3)
    train(model, optimizer, 3, range(4))
    train(other, expected, 3, range(4))
    copies = [copy((model, optimizer)) for _ in range(2)]
    (plain, plain_optimizer), (_, released_optimizer) = copies
    release_gradients(released_optimizer, 3)
    for m, o in ((other, expected), (model, optimizer), *copies):
        train(m, o, 3, range(4, 9))
        assert_same(o, expected)
    assert released_optimizer._pending.release.accumulated == 0
    assert plain_optimizer.param_groups[0]["accumulated"] == 0
    # So that a later release does not take up a count of long ago.
    handle = release_gradients(plain_optimizer, 3)
    assert handle.accumulated == 0
    train(plain, plain_optimizer, 3, range(9, 12))
    train(other, expected, 3, range(9, 12))
    assert_same(plain_optimizer, expected)


# ---- early, late, never ----


def test_a_step_before_the_last_pass_takes_what_there_is() -> None:
    models, optimizers, handle = pair({"weight_decay": 0.1, "decoupled_weight_decay": False}, 4)
    for model, optimizer in zip(models, optimizers, strict=True):
        for i in range(6):
            loss_of(model, i, 4, lambda i: i == 4).backward()
            if i in (3, 5):
                optimizer.step()
                optimizer.zero_grad()
    assert handle.accumulated == 0
    assert_same(*optimizers)
    before = deepcopy(optimizers[0].state_dict())
    optimizers[0].step()
    torch.testing.assert_close(optimizers[0].state_dict()["state"], before["state"], rtol=0, atol=0)


def test_step_returns_the_loss_of_a_closure() -> None:
    models, optimizers, _ = pair({}, 1)

    def closure(model: nn.Module, optimizer: AdaMomentum) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 0, 1)
        loss.backward()
        return loss

    losses = [o.step(lambda m=m, o=o: closure(m, o)) for m, o in zip(models, optimizers, strict=True)]
    assert losses[0] == losses[1]
    assert_same(*optimizers)


def test_remove_in_the_middle() -> None:
    models, optimizers, handle = pair({}, 3)
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 3, range(5))
    handle.remove()
    handle.remove()
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 3, range(5, 12))
    assert optimizers[0]._pending.release is None
    assert_same(*optimizers)
    release_gradients(optimizers[0], 2)


def test_two_losses_in_one_step_are_two_passes() -> None:
    models, optimizers, _ = pair({}, 2)
    for model, optimizer in zip(models, optimizers, strict=True):
        for i in range(4):
            loss_of(model, i, 1).backward()
            loss_of(model, i + 10, 1, lambda i: False).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same(*optimizers)


def test_frozen_and_added_parameters() -> None:
    models = Model(), Model()
    optimizers = []
    for number, model in enumerate(models):
        model.inner.requires_grad_(False)
        optimizer = AdaMomentum([p for name, p in model.named_parameters() if "expert" not in name], lr=1e-2)
        if not number:
            release_gradients(optimizer, 2)
        train(model, optimizer, 2, range(4), with_expert=lambda i: False)
        optimizer.add_param_group({"params": list(model.expert.parameters()), "lr": 1e-3})
        model.inner.requires_grad_(True)  # has its gradients in p.grad
        train(model, optimizer, 2, range(4, 10))
        optimizers.append(optimizer)
    assert_same(*optimizers)


def test_asking_for_the_state_before_the_first_pass() -> None:
    """As torch.distributed.checkpoint does: lr 0, gradients 0, a step."""
    (model, _), (optimizer, _), _ = pair({"fixed_decay": True, "weight_decay": 0.1}, 2)
    before = deepcopy(model.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    assert {state["step"].item() for state in optimizer.state.values()} == {0.0}
    assert all("accumulated" in state for state in optimizer.state.values())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


# ---- what trains, and what does not ----


def networks(release: int) -> tuple[list[nn.Linear], list[AdaMomentum], list]:
    """A generator and a discriminator with their optimizers and, with ``release`` passes a step, their handles."""
    torch.manual_seed(0)
    modules = [nn.Linear(4, 6), nn.Linear(6, 1)]
    optimizers = [AdaMomentum(module.parameters(), lr=1e-2) for module in modules]
    return modules, optimizers, [release_gradients(o, release) for o in optimizers] if release else []


@pytest.mark.parametrize("short", [False, True], ids=["the loop as it was", "the loop of docs/precision.md"])
def test_a_generator_does_not_train_the_discriminator_in_a_pause(short: bool) -> None:
    def run(release: int) -> list:
        (g, d), (og, od), handles = networks(release)
        for _ in range(10):
            z = torch.randn(8, 4)
            if not (short and release):
                og.zero_grad()
            with handles[1].paused() if handles else nullcontext():
                (-d(g(z)).mean()).backward()
            if not (short and release):
                og.step()
                od.zero_grad()
            d(g(z).detach()).square().mean().backward()
            if not (short and release):
                od.step()
        assert {state["step"].item() for o in (og, od) for state in o.state.values()} == {10}
        return [*g.parameters(), *d.parameters()]

    torch.testing.assert_close(run(1), run(0), rtol=0, atol=0)


@pytest.mark.parametrize("what", ["a map of the input", "a gradient penalty"])
def test_a_pause_between_the_passes_of_a_step(what: str) -> None:
    """What is accumulated waits, the gradients of the pause can be read and are gone after it."""
    models, optimizers, handle = pair({}, 2)
    train(models[0], optimizers[0], 2, range(3))
    state = deepcopy(optimizers[0].state_dict()["state"])
    with handle.paused():
        loss = loss_of(models[0], 7, 1)
        if what == "a gradient penalty":
            norm = torch.autograd.grad(loss, models[0].embedding.weight, create_graph=True)[0].square().sum()
            norm.backward()
        else:
            loss.backward()
        with handle.paused():
            models[0].norm.bias.sum().backward()
        assert len(gradients(models[0])) == 7
        optimizers[0].zero_grad()
        assert not gradients(models[0])
        models[0].norm.bias.sum().backward()
    assert handle.accumulated == 1
    assert not gradients(models[0])
    torch.testing.assert_close(optimizers[0].state_dict()["state"], state, rtol=0, atol=0)
    train(models[0], optimizers[0], 2, range(3, 8))
    train(models[1], optimizers[1], 2, range(8))
    assert_same(*optimizers)


def test_a_pause_that_ends_with_an_error_ends() -> None:
    (model, _), (optimizer, _), handle = pair({}, 1)
    before = deepcopy(model.state_dict())
    with pytest.raises(ZeroDivisionError), handle.paused():
        loss_of(model, 0, 1).backward()
        raise ZeroDivisionError
    assert_untouched(model, optimizer, before)
    loss_of(model, 0, 1).backward()
    assert not torch.equal(model.inner.weight, before["inner.weight"])


def test_a_step_within_a_pause_is_an_ordinary_one() -> None:
    models, optimizers, handle = pair({}, 3)
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 3, range(4))
        with handle.paused() if model is models[0] else nullcontext():
            loss_of(model, 4, 3).backward()
            optimizer.step()
        optimizer.zero_grad()
        train(model, optimizer, 3, range(6, 9))
    assert_same(*optimizers)


@pytest.mark.parametrize("how", ["paused", "removed", "loaded"])
@pytest.mark.parametrize("path", RELEASABLE)
def test_a_step_that_the_release_does_not_take_counts_the_passes_too(path: str, how: str) -> None:
    """The look-ahead momentum takes the last gradient for all, above its floor, wherever the step comes from."""
    options = {"adjust_lr": "match_rms_adamw", "weight_decay": 0.1, **RELEASABLE[path]}
    models, optimizers, handles = (Model(), Model()), [], []
    for model in models:
        optimizers.append(AdaMomentum(model.parameters(), lr=1e-2, **options))
        handles.append(release_gradients(optimizers[-1], 3))
    for step in range(3):
        for i in range(3 * step, 3 * step + 2):
            for model in models:
                loss_of(model, i, 3).backward()
        loss_of(models[0], 3 * step + 2, 3).backward()
        other = optimizers[1]
        if how == "paused":
            with handles[1].paused():
                loss_of(models[1], 3 * step + 2, 3).backward()
                other.step()
        else:
            handles[1].remove()
            if how == "loaded":
                state = other.state_dict()
                other = AdaMomentum(models[1].parameters(), lr=1e-2, **options)
                other.load_state_dict(state)
            loss_of(models[1], 3 * step + 2, 3).backward()
            other.step()
            other.zero_grad()
            handles[1] = release_gradients(other, 3)
        optimizers[1] = other
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(p, q, **TIGHT)
    assert_same(*optimizers)


def test_a_step_within_a_pause_clips() -> None:
    p = nn.Parameter(torch.zeros(3))
    optimizer = AdaMomentum([p], lr=0.1)
    handle = release_gradients(optimizer, clip=1.0)
    for _ in range(2):
        with handle.paused():
            (1e3 * p).sum().backward()
            optimizer.step()
            assert p.grad is not None
    assert optimizer.state[p]["exp_avg"].norm().item() == pytest.approx(0.19, rel=1e-5)


def test_half_a_pass_is_not_forgotten() -> None:
    """Not by a new handle, nor in a copy or a checkpoint: what there is then is half a step."""

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            raise ZeroDivisionError

    layers = [nn.Linear(1100, 1100, bias=False) for _ in range(2)]
    optimizer = AdaMomentum([layer.weight for layer in layers], lr=1e-3)
    saved, weights = optimizer.state_dict(), [layer.weight.detach().clone() for layer in layers]
    handle = release_gradients(optimizer)
    with pytest.raises(ZeroDivisionError):
        layers[1](Fails.apply(layers[0](torch.ones(1, 1100)))).sum().backward()
    assert len(optimizer.state) == 1
    for forget in (optimizer.state_dict, lambda: deepcopy(optimizer), optimizer.step):
        with pytest.raises(RuntimeError, match="stopped half-way"):
            forget()
    handle.remove()
    with pytest.raises(RuntimeError, match="stopped half-way"):
        optimizer.step()
    release_gradients(optimizer)
    with pytest.raises(RuntimeError, match="stopped half-way"):
        layers[1](layers[0](torch.ones(1, 1100))).sum().backward()
    optimizer.load_state_dict(saved)
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data.copy_(weight)
    layers[1](layers[0](torch.ones(1, 1100))).sum().backward()
    assert [optimizer.state[layer.weight]["step"].item() for layer in layers] == [1, 1]


def test_what_a_pause_refuses() -> None:
    (model, _), (optimizer, _), handle = pair({}, 1)

    def within(grad: Tensor) -> None:
        with handle.paused():
            pass

    hook = model.embedding.weight.register_hook(within)
    with pytest.raises(RuntimeError, match="entered outside of backward passes"):
        loss_of(model, 0, 1).backward()
    hook.remove()
    optimizer.load_state_dict(optimizer.state_dict())
    model.inner.bias.grad = torch.ones_like(model.inner.bias)
    with pytest.raises(RuntimeError, match=r"call step\(\) or zero_grad\(\) before paused"), handle.paused():
        pass
    handle.remove()
    with handle.paused():  # nothing is released: nothing to pause
        loss_of(model, 0, 1).backward()
    assert len(gradients(model)) == 7


@pytest.mark.parametrize("passes", [1, 2])
def test_layers_that_are_thawed_train_without_step(passes: int) -> None:
    models, optimizers = (Model(), Model()), []
    for number, model in enumerate(models):
        model.inner.requires_grad_(False)
        model.expert.requires_grad_(False)
        optimizer = AdaMomentum(model.parameters(), lr=1e-2)
        if not number:
            release_gradients(optimizer, passes)
        for i in range(6 * passes):
            if i in (2 * passes, 4 * passes - 1):  # one of them between the passes of a step
                (model.inner if i == 2 * passes else model.expert).requires_grad_(True)
            loss_of(model, i, passes).backward()
            if number and (i + 1) % passes == 0:
                optimizer.step()
                optimizer.zero_grad()
        optimizers.append(optimizer)
    assert optimizers[0].state[models[0].inner.weight]["step"] == 4
    assert not gradients(models[0])
    assert_same(*optimizers)


def test_adapters_that_are_switched_train_without_step() -> None:
    """As PEFT does it: all are in the optimizer, those that are not in use are frozen, the base is always."""
    results = []
    for release in (True, False):
        torch.manual_seed(0)
        base = nn.Linear(4, 4).requires_grad_(False)
        adapters = [nn.Linear(4, 4, bias=False) for _ in range(3)]
        adapters[1].requires_grad_(False)
        adapters[2].requires_grad_(False)
        optimizer = AdaMomentum([p for module in (base, *adapters) for p in module.parameters()], lr=1e-2)
        if release:
            release_gradients(optimizer)
        for i in range(9):
            for number, adapter in enumerate(adapters):
                adapter.requires_grad_(number == i // 2 % 3)
            x = torch.randn(5, 4, generator=torch.Generator().manual_seed(i))
            (base(x) + adapters[i // 2 % 3](x)).square().mean().backward()
            if not release:
                optimizer.step()
                optimizer.zero_grad()
        assert not gradients(base)
        results.append([adapter.weight for adapter in adapters])
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("how", ["add_param_group", "by hand"])
@pytest.mark.parametrize("passes", [1, 2])
def test_parameters_that_are_added_train_without_step(how: str, passes: int) -> None:
    """Where they were put into a group by hand, their first gradient may be there before the pass is seen."""
    models, optimizers = (Model(), Model()), []
    for number, model in enumerate(models):
        optimizer = AdaMomentum([model.embedding.weight, *model.norm.parameters()], lr=1e-2)
        if not number:
            release_gradients(optimizer, passes)
        rest = [*model.inner.parameters(), *model.expert.parameters()]
        for i in range(4 * passes):
            if i == 2 * passes:
                for p in rest:
                    p.grad = None
                if how == "add_param_group":
                    optimizer.add_param_group({"params": rest})
                else:
                    optimizer.param_groups[0]["params"] += rest
            loss_of(model, i, passes).backward()
            if number and (i + 1) % passes == 0:
                optimizer.step()
                optimizer.zero_grad()
        optimizers.append(optimizer)
    assert optimizers[0].state[models[0].expert.weight]["step"] == 2
    assert not gradients(models[0])
    assert_same(*optimizers)


def test_lazy_parameters_train_without_step() -> None:
    """They have neither shape nor gradient when release begins."""
    results = []
    for release in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.LazyLinear(5), nn.LazyLinear(1))
        optimizer = AdaMomentum(model.parameters(), lr=1e-2)
        if release:
            release_gradients(optimizer)
        for _ in range(4):
            model(torch.randn(3, 4)).square().mean().backward()
            if not release:
                optimizer.step()
                optimizer.zero_grad()
        results.append(optimizer)
    assert_same(*results, rtol=0, atol=0)


def test_a_parameter_that_left_its_group_is_let_go() -> None:
    (model, _), (optimizer, _), _ = pair({}, 1)
    loss_of(model, 0, 1).backward()
    group = optimizer.param_groups[0]
    group["params"] = [p for p in group["params"] if p is not model.expert.weight]
    before = model.expert.weight.detach().clone()
    for _ in range(2):
        loss_of(model, 1, 1).backward()
    assert torch.equal(model.expert.weight, before)
    assert model.expert.weight.grad is not None
    assert optimizer.state[model.expert.bias]["step"] == 3


@pytest.mark.filterwarnings("error")
def test_a_schedule_in_the_loop_without_step_does_not_warn() -> None:
    (model, _), (optimizer, _), _ = pair({}, 1)
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    for i in range(3):
        loss_of(model, i, 1).backward()
        scheduler.step()


@pytest.mark.parametrize("how", ["trained", "failed", "refused", "paused"])
def test_model_and_optimizer_are_freed_without_remove(how: str) -> None:
    """At once, not when Python looks for circles, so that a sweep does not hold two models."""

    def trial() -> list:
        model = Model()
        optimizer = AdaMomentum(model.parameters())
        handle = release_gradients(optimizer, 2)
        train(model, optimizer, 2, range(2))
        if how == "paused":
            with handle.paused():
                loss_of(model, 0, 1).backward()
        elif how != "trained":
            optimizer.param_groups[0]["lr"] = -1.0 if how == "refused" else 1.0
            model.embedding.weight.register_hook(lambda grad: 1 / 0)
            with pytest.raises((ZeroDivisionError, ValueError)):
                loss_of(model, 0, 1).backward()
            torch.ones(1, requires_grad=True).sum().backward()  # until then autograd keeps what a failed pass left
        return [weakref.ref(x) for x in (model, optimizer, handle, model.inner.weight)]

    gc.collect()
    gc.disable()
    try:
        references = trial()
        if how in ("failed", "refused"):  # the error that pytest keeps is part of a circle
            gc.collect()
        assert [reference() for reference in references] == [None] * 4
    finally:
        gc.enable()


def test_who_keeps_whom() -> None:
    """The optimizer keeps the release; without it the parameters are left alone, with a warning."""
    model = Model()
    optimizer = AdaMomentum(model.parameters())
    release_gradients(optimizer)  # the handle is dropped
    gc.collect()
    loss_of(model, 0, 1).backward()
    assert optimizer.state[model.inner.weight]["step"] == 1
    del optimizer
    before = deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match="the optimizer that released these gradients no longer exists"):
        loss_of(model, 1, 1).backward()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    for p in model.parameters():
        p.grad = None
    again = AdaMomentum(model.parameters())
    release_gradients(again)
    with pytest.warns(UserWarning, match="no longer exists"):
        loss_of(model, 1, 1).backward()
    assert again.state[model.inner.weight]["step"] == 1


@pytest.mark.parametrize("copy", [deepcopy, lambda x: pickle.loads(pickle.dumps(x)), through_a_file])
def test_a_copied_model_is_not_released(copy) -> None:
    (model, _), (optimizer, _), _ = pair({}, 1)
    train(model, optimizer, 1, range(1))
    before = deepcopy(model.state_dict())
    copied = deepcopy(model) if copy is through_a_file else copy(model)
    if copy is through_a_file:
        copied.load_state_dict(through_a_file(model.state_dict()))
    loss_of(copied, 0, 1).backward()
    assert len(gradients(copied)) == 7
    torch.testing.assert_close(copied.state_dict(), before, rtol=0, atol=0)


# ---- what is refused ----


def optimizer_of(**options) -> AdaMomentum:
    return AdaMomentum(Model().parameters(), **options)


@pytest.mark.parametrize(
    ("options", "passes", "error", "message"),
    [
        ({}, 0, ValueError, "accumulation_steps must be >= 1, got 0"),
        ({}, 2.0, TypeError, "accumulation_steps must be an integer, got 2.0"),
        ({}, True, TypeError, "accumulation_steps must be an integer, got True"),
        ({"betas": (0.0, 0.9)}, 2, ValueError, r"betas\[0\] must be > 0 with accumulation_steps > 1"),
        ({"nesterov": True}, 2, ValueError, "nesterov=True does not go with accumulation_steps > 1"),
        ({"differentiable": True}, 1, ValueError, "does not go with differentiable=True"),
    ],
)
def test_wrong_arguments(options, passes, error, message) -> None:
    optimizer = optimizer_of(**options)
    with pytest.raises(error, match=message):
        release_gradients(optimizer, passes)
    assert optimizer._pending.release is None
    assert not any(p._post_accumulate_grad_hooks for p in optimizer.param_groups[0]["params"])


def test_other_optimizers_and_second_releases() -> None:
    with pytest.raises(TypeError, match=r"must be an adamomentum\.AdaMomentum, got AdamW"):
        release_gradients(torch.optim.AdamW(Model().parameters()))
    optimizer = optimizer_of()
    optimizer.param_groups[0]["params"][0].grad = torch.zeros(7, 5, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"call step\(\) or zero_grad"):
        release_gradients(optimizer)
    optimizer.zero_grad()
    release_gradients(optimizer)
    with pytest.raises(RuntimeError, match="releases its gradients already"):
        release_gradients(optimizer)


def test_what_needs_all_gradients_is_refused() -> None:
    (model, _), (optimizer, _), handle = pair({}, 2)
    with pytest.raises(RuntimeError, match="does not go with clip_grad_norm_"):
        optimizer.clip_grad_norm_(1.0)
    loss_of(model, 0, 1).backward()
    with pytest.raises(RuntimeError, match="cannot discard the gradients of 1 backward passes"):
        optimizer.zero_grad()
    handle.remove()
    optimizer.clip_grad_norm_(1.0)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_gradient_scaler_is_refused_with_how_to_undo_it(passes: int) -> None:
    """It can only be noticed once scaled gradients have gone into parameters or moments."""
    (model, _), (optimizer, _), _ = pair({}, passes)
    saved = deepcopy((model.state_dict(), optimizer.state_dict()))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model, 0, 1)).backward()
    with pytest.raises(RuntimeError, match=r"GradScaler.* load model and optimizer again, and use bfloat16"):
        scaler.step(optimizer)
    assert optimizer.state[model.norm.weight]["exp_avg"].abs().max() > 10
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert not optimizer.state
    loss_of(model, 0, 1).backward()
    assert optimizer.state[model.norm.weight]["exp_avg"].abs().max() < 10


def test_clipping_by_others_finds_nothing_to_clip() -> None:
    """As the docstring warns."""
    (model, _), _optimizers, _ = pair({}, 1)
    loss_of(model, 0, 1).backward()
    assert nn.utils.clip_grad_norm_(model.parameters(), 1e-9) == 0


@pytest.mark.parametrize("copy", [deepcopy, pickle.dumps])
def test_a_handle_is_not_copied(copy) -> None:
    handle = release_gradients(optimizer_of())
    with pytest.raises(TypeError, match="cannot be copied or pickled; copy the optimizer"):
        copy(handle)


def assert_untouched(model: nn.Module, optimizer: AdaMomentum, before: dict) -> None:
    """That a pass that was refused has changed nothing, and that the next one trains."""
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not any(state["exp_avg"].any() for state in optimizer.state.values())
    assert not gradients(model)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@pytest.mark.parametrize("passes", [1, 2])
def test_double_backward_is_refused(passes: int) -> None:
    models, optimizers, _ = pair({}, passes)
    before = deepcopy(models[0].state_dict())
    for refused in (loss_of(models[0], 0, 1), models[0].inner.bias.sum()):  # the second gives a gradient without graph
        with pytest.raises(RuntimeError, match="create_graph=True"):
            refused.backward(create_graph=True)
        assert_untouched(models[0], optimizers[0], before)
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, passes, range(2 * passes))
    assert_same(*optimizers)


class Hidden(torch.autograd.Function):
    """A checkpoint, of which its code does not tell that it starts another backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, module: nn.Module) -> Tensor:
        ctx.module, ctx.x = module, x.detach().requires_grad_()
        return module(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad():
            ctx.module(ctx.x).backward(grad)
        return ctx.x.grad, None


def with_head(block: Callable[[nn.Module, Tensor], Tensor]) -> tuple[Model, AdaMomentum, Callable[[], Tensor]]:
    """A model, and a loss of which the gradient of the last layer is ready before that of a checkpointed one."""
    model = Model()
    optimizer = AdaMomentum(model.parameters(), lr=1e-2)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    return model, optimizer, lambda: model.norm(block(model.inner, x)).square().mean()


def reentrant(module: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(module, x, use_reentrant=True)


@pytest.mark.parametrize("elements", [1, 2**20])
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("within", [False, True])
def test_reentrant_checkpoints_are_refused_before_anything_changes(
    within: bool, passes: int, elements: int, monkeypatch
) -> None:
    monkeypatch.setattr(bucket, "BUCKET_ELEMENTS", elements)
    model, optimizer, loss = with_head(reentrant)
    if within:  # the block alone has parameters in the optimizer, the outer pass calls no hook
        optimizer = AdaMomentum(model.inner.parameters(), lr=1e-2)
    release_gradients(optimizer, passes)
    before = deepcopy(model.state_dict())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"reentrant checkpoints.* use_reentrant=False"):
            loss().backward()
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        assert not optimizer.state
    for _ in range(passes):
        loss_of(model, 0, 1).backward()
    assert not torch.equal(model.inner.weight, before["inner.weight"])


def with_nested_pass(how: str) -> tuple[Model, AdaMomentum, Callable[[], Tensor]]:
    """A model as in :func:`with_head`, of which the graph does not tell that another pass runs within its own."""
    if how == "a hidden checkpoint":
        return with_head(lambda module, x: Hidden.apply(x, module))
    model, optimizer, loss = with_head(nn.Module.__call__)
    auxiliary = model.expert.weight.square().sum()
    model.inner.weight.register_hook(lambda grad: auxiliary.backward(retain_graph=True))
    return model, optimizer, loss


@pytest.mark.parametrize("how", ["a hidden checkpoint", "a hook"])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_nested_pass_that_shows_while_all_gradients_wait_changes_nothing(how: str, passes: int) -> None:
    model, optimizer, loss = with_nested_pass(how)
    release_gradients(optimizer, passes)
    before = deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="reentrant checkpoints"):
        loss().backward()
    assert_untouched(model, optimizer, before)
    model.inner.weight._backward_hooks = None
    for _ in range(passes):
        loss_of(model, 0, 1).backward()
    assert not torch.equal(model.inner.weight, before["inner.weight"])


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ["a hidden checkpoint", "a hook"])
def test_a_nested_pass_that_shows_late_is_named_then_and_later(how: str) -> None:
    model, optimizer, loss = with_nested_pass(how)
    release_gradients(optimizer)
    saved = deepcopy((model.state_dict(), optimizer.state_dict()))
    late = r"reentrant checkpoints.* The outer pass has moved parameters or moments by now; load"
    with pytest.raises(RuntimeError, match=late) as error:
        loss().backward()
    for use in (lambda: loss_of(model, 0, 1).backward(), optimizer.step):
        # Also while the error is kept, as notebooks do.
        with pytest.raises(RuntimeError, match=r"stopped half-way.* load .*\. release_gradients .*reentrant"):
            use()
    assert error.value
    model.inner.weight._backward_hooks = None
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    loss_of(model, 0, 1).backward()
    other = Model()
    expected = AdaMomentum(other.parameters(), lr=1e-2)
    train(other, expected, 1, range(1))
    assert_same(optimizer, expected)


def test_a_reentrant_checkpoint_shows_from_a_thread_of_a_device_too() -> None:
    """Such a thread calls the hooks of its device's parameters, and the pass was started on another one."""
    answers: list[list[bool]] = []

    def ask(grad: Tensor) -> None:
        thread = threading.Thread(target=lambda: answers[-1].append(passes.reenters()))
        thread.start()
        thread.join()

    for block in (reentrant, nn.Module.__call__):
        answers.append([])
        model, _, loss = with_head(block)
        model.norm.weight.register_hook(ask)
        loss().backward()
    assert answers == [[True], [False]]


@pytest.mark.parametrize("compiled", [True, False])
def test_compiled_autograd_is_refused_before_anything_changes(compiled: bool) -> None:
    models, optimizers, _ = pair({}, 2)
    before = deepcopy(models[0].state_dict())

    x = torch.ones(3, 5, dtype=torch.float64)

    def run() -> None:
        models[0].norm(models[0].inner(x)).sum().backward()

    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"compiled autograd.* set .*compiled_autograd = False"):
            if compiled:
                with torch._dynamo.config.patch(compiled_autograd=True):
                    torch.compile(run, backend="eager")()
            else:
                with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
                    run()
        assert_untouched(models[0], optimizers[0], before)
    torch._dynamo.reset()
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 2, range(4))
    assert_same(*optimizers)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_second_pass_at_the_same_time_is_refused_and_the_first_goes_on(passes: int) -> None:
    models, optimizers, _ = pair({}, passes)
    errors: list[BaseException] = []

    def another() -> None:
        for loss in (lambda: loss_of(models[0], 5, 1).backward(), optimizers[0].step):
            try:
                loss()
            except RuntimeError as error:
                errors.append(error)

    def meanwhile(grad: Tensor) -> None:
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()

    hook = models[0].inner.bias.register_hook(meanwhile)  # after norm and expert, before the embedding
    train(models[0], optimizers[0], passes, range(1))
    hook.remove()
    assert [str(error)[:50] for error in errors] == [
        "release_gradients does not go with two backward pa",
        "step() was called during a backward pass that rele",
    ]
    train(models[0], optimizers[0], passes, range(1, 2 * passes))
    train(models[1], optimizers[1], passes, range(2 * passes))
    assert_same(*optimizers)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("detach", [Tensor.detach, lambda p: p.data])
def test_a_weight_that_is_used_outside_of_autograd_has_moved_within_the_pass(detach) -> None:
    """As docs/precision.md says of what is exact: torch notices it of the one, and of the other not."""
    p, q = (nn.Parameter(torch.full((3,), 2.0)) for _ in range(2))
    optimizer = AdaMomentum([p, q], lr=0.1)
    release_gradients(optimizer)
    loss = ((q * detach(p)) + p).sum()  # p's own gradient is ready first
    if detach is Tensor.detach:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    else:
        loss.backward()
        assert optimizer.state[q]["exp_avg"][0].item() == pytest.approx(0.1 * p[0].item())
        assert p[0].item() != 2.0


@pytest.mark.parametrize("number", [float, lambda x: torch.tensor(x, dtype=torch.float64)])
@pytest.mark.parametrize("then", ["another pass", "loading", "an early step", "remove"])
def test_beta1_may_not_change_within_a_step(then: str, number) -> None:
    (model, _), (optimizer, _), handle = pair({"betas": (number(0.9), 0.999)}, 2)
    loss_of(model, 0, 2).backward()
    if then == "loading":
        model, loaded = Model(), optimizer.state_dict()
        optimizer = AdaMomentum(model.parameters())
        optimizer.load_state_dict(deepcopy(loaded))
        release_gradients(optimizer, 2)
    if then == "remove":
        handle.remove()
    before = deepcopy(model.state_dict())
    use = {
        "another pass": lambda: loss_of(model, 1, 2).backward(),
        "loading": lambda: loss_of(model, 1, 2).backward(),
        "an early step": optimizer.step,
        "remove": lambda: (loss_of(model, 1, 2).backward(), optimizer.step()),
    }[then]
    optimizer.param_groups[0]["betas"] = (number(0.8), 0.999)
    with pytest.raises(ValueError, match=r"betas\[0\] must not change .* got 0.8 after 0.9"):
        use()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    optimizer.zero_grad() if then == "remove" else None
    optimizer.param_groups[0]["betas"] = (number(0.9), 0.999)
    use()
    assert optimizer.state[model.norm.weight]["step"] == 1
    # The step is done: now it may.
    optimizer.param_groups[0]["betas"] = (number(0.8), 0.999)
    loss_of(model, 2, 2).backward()


def test_a_tensor_beta1_written_to_within_a_step_is_noticed() -> None:
    beta1 = torch.tensor(0.9, dtype=torch.float64)
    (model, _), (optimizer, _), _ = pair({"betas": (beta1, 0.999)}, 2)
    loss_of(model, 0, 2).backward()
    optimizer.param_groups[0]["betas"][0].fill_(0.8)
    with pytest.raises(ValueError, match=r"got 0.8 after 0.9"):
        loss_of(model, 1, 2).backward()


def test_options_are_checked_before_a_pass_changes_anything() -> None:
    (model, _), (optimizer, _), _ = pair({}, 1)
    before = deepcopy(model.state_dict())
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be >= 0"):
        loss_of(model, 0, 1).backward()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not optimizer.state


def test_a_gradient_that_someone_else_took_is_left_out() -> None:
    p = nn.Parameter(torch.ones(2))
    p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    optimizer = AdaMomentum([p])
    release_gradients(optimizer)
    p.sum().backward()
    assert p.eq(1).all()
    assert not optimizer.state


def test_a_parameter_that_leaves_its_group_while_its_gradient_waits_gets_it_back() -> None:
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = AdaMomentum([p, q])
    handle = release_gradients(optimizer)

    def leave(_: Tensor) -> None:
        q.grad, optimizer.param_groups[0]["params"] = torch.ones(2), [p]
        handle.follow()
        handle._hook(q)

    p.register_hook(leave)
    p.sum().backward()
    assert torch.equal(q.grad, torch.ones(2))
    assert q.eq(1).all()
    assert p.lt(1).all()


def ready_again(handle) -> Callable[[Tensor], None]:
    """A hook that gives a parameter a second gradient, as fully_shard does for a module that is called twice."""

    def again(p: Tensor) -> None:
        p.grad = torch.ones(2)
        handle._hook(p)

    return again


@pytest.mark.parametrize("elements", [1, 2**20])
def test_a_gradient_that_is_ready_twice_in_the_last_pass_is_refused(elements: int, monkeypatch) -> None:
    """Whether the parameter has been updated with the first by then or not."""
    monkeypatch.setattr(bucket, "BUCKET_ELEMENTS", elements)
    p = nn.Parameter(torch.ones(2))
    optimizer = AdaMomentum([p])
    p.register_post_accumulate_grad_hook(ready_again(release_gradients(optimizer)))
    with pytest.raises(RuntimeError, match="was ready twice in one backward pass"):
        p.sum().backward()
    assert p.grad is None
    assert p.eq(1).all() == (elements > 1)


@pytest.mark.parametrize("elements", [1, 2**20])
def test_a_gradient_that_is_ready_twice_in_an_earlier_pass_counts_twice(elements: int, monkeypatch) -> None:
    monkeypatch.setattr(bucket, "BUCKET_ELEMENTS", elements)
    p = nn.Parameter(torch.ones(2))
    optimizer = AdaMomentum([p])
    hook = p.register_post_accumulate_grad_hook(ready_again(release_gradients(optimizer, 2)))
    (3 * p).sum().backward()
    hook.remove()
    p.sum().backward()
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.full((2,), 0.1 * (3 + 1 + 1)))


def test_a_count_of_long_ago_is_not_taken_up() -> None:
    """Of a state saved between passes, loaded without release, and released later."""
    (model, other), (optimizer, expected), _ = pair({}, 2)
    train(model, optimizer, 2, range(3))
    train(other, expected, 2, range(3))
    resumed = Model()
    resumed.load_state_dict(model.state_dict())
    loaded = AdaMomentum(resumed.parameters())
    loaded.load_state_dict(optimizer.state_dict())
    train(resumed, loaded, 2, range(3, 4))
    train(other, expected, 2, range(3, 4))
    release_gradients(loaded, 2)
    for m, o in ((resumed, loaded), (other, expected)):
        train(m, o, 2, range(4, 8), with_expert=lambda i: False)  # the expert has no step to take
    assert_same(loaded, expected)


@pytest.mark.usefixtures("at_once")
def test_a_pass_that_stops_half_way_is_not_passed_over() -> None:
    (model, _), (optimizer, _), _ = pair({}, 2)
    train(model, optimizer, 2, range(4))
    saved = deepcopy(model.state_dict()), deepcopy(optimizer.state_dict())
    hook = model.embedding.weight.register_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        loss_of(model, 4, 2).backward()
    hook.remove()
    for use in (lambda: loss_of(model, 4, 2).backward(), optimizer.step):
        with pytest.raises(RuntimeError, match="stopped half-way"):
            use()
    for p in model.parameters():
        p.grad = None
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(model, optimizer, 2, range(4, 8))
    other = Model()
    other_optimizer = AdaMomentum(other.parameters(), lr=1e-2)
    train(other, other_optimizer, 2, range(8))
    assert_same(optimizer, other_optimizer)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_sparse_gradient_names_its_remedy(passes: int) -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = AdaMomentum(embedding.parameters())
    release_gradients(optimizer, passes)
    with pytest.raises(RuntimeError, match="sparse=False"):
        embedding(torch.tensor([1])).sum().backward()
    embedding.sparse = False  # nothing had moved
    embedding(torch.tensor([1])).sum().backward()
    assert optimizer.state[embedding.weight]["exp_avg"].any()


def test_distributed_runs_need_sharded_parameters(monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    optimizer = optimizer_of()
    with pytest.raises(RuntimeError, match="sharded by fully_shard, got a plain tensor"):
        release_gradients(optimizer)
    release_gradients(optimizer, local_gradients=True)


@pytest.mark.parametrize("loop", ["step", "zero_grad"])
def test_a_model_converted_by_swapping_its_parameters_goes_on(loop):
    before = torch.__future__.get_swap_module_params_on_conversion()
    model = nn.Linear(4, 1)
    optimizer = AdaMomentum(model.parameters(), lr=1e-2)
    handle = release_gradients(optimizer)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()  # leaves the hooks on what was there before
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    x = torch.randn(3, 4, dtype=torch.float64)
    optimizer.zero_grad()
    for t in range(3):
        old = model.weight.detach().clone()
        model(x).mean().backward()
        assert model.weight.grad is None, t
        assert not torch.equal(model.weight, old)
        if loop == "step":
            optimizer.step()
    handle.remove()


def test_two_optimizers_cannot_release_one_parameter() -> None:
    p = nn.Parameter(torch.zeros(3))
    first, second = AdaMomentum([p]), AdaMomentum([nn.Parameter(torch.zeros(2))])
    handle = release_gradients(first)
    release_gradients(second)
    with pytest.raises(RuntimeError, match=r"shape \(3,\) are released by another optimizer already"):
        release_gradients(AdaMomentum([p]))
    with pytest.raises(RuntimeError, match="by another optimizer already"):
        second.add_param_group({"params": [p]})
    handle.remove()
    third = AdaMomentum([p])
    release_gradients(third)
    p.sum().backward()
    assert third.state[p]["step"] == 1
    assert not first.state


def test_an_optimizer_that_is_gone_releases_nothing_more() -> None:
    p = nn.Parameter(torch.zeros(3))
    optimizer = AdaMomentum([p])
    release_gradients(optimizer)
    del optimizer
    gc.collect()
    optimizer = AdaMomentum([p])
    release_gradients(optimizer)
    with pytest.warns(UserWarning, match="no longer exists"):
        p.sum().backward()
    assert optimizer.state[p]["step"] == 1


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (2.5, TypeError), ("x", TypeError), (True, TypeError)])
def test_the_number_of_passes_is_checked_when_it_is_set(value: object, error: type[Exception]) -> None:
    handle = release_gradients(AdaMomentum([nn.Parameter(torch.zeros(3))]), 2)
    with pytest.raises(error, match="accumulation_steps must be"):
        handle.accumulation_steps = value
    assert handle.accumulation_steps == 2
