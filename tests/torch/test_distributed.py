"""Distributed checkpoints, and training on one, two and three processes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from processes import TIMEOUT, run_in_processes
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from adamomentum.bench.memory import peak_bytes
from adamomentum.torch import AdaMomentum, AdaptiveClip, bucket, functional, fused_cpu, pieces, release_gradients
from adamomentum.torch.clip_each import factors_of
from adamomentum.torch.state import BLOCKS, ROUNDING_STATE, SCALES

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # as no_dist=True asks for
# Moments in bfloat16, and the ways to round bfloat16 parameters.
LOW_PRECISION = {
    "bfloat16 state": {"state_dtype": torch.bfloat16, "weight_decay": 0.1},
    "stochastic": {"rounding": "stochastic", "weight_decay": 0.1},
    "stochastic, bfloat16 state": {"rounding": "stochastic", "state_dtype": torch.bfloat16},
    "kahan": {"rounding": "kahan", "amsgrad": True},
    "master": {"rounding": "master", "weight_decay": 0.1, "decoupled_weight_decay": False},
}
OPTIONS = {
    "default": {},
    "decoupled decay": {"weight_decay": 0.1},
    "L2 decay": {"weight_decay": 0.1, "decoupled_weight_decay": False},
    "fixed decay": {"weight_decay": 0.01, "fixed_decay": True},
    "fixed decay, maximize": {"weight_decay": 0.01, "fixed_decay": True, "maximize": True},
    "amsgrad": {"amsgrad": True, "weight_decay": 0.1},
    "rectify": {"rectify": True},
    "for-loop": {"foreach": False, "weight_decay": 0.01, "fixed_decay": True},
    "capturable": {"capturable": True, "weight_decay": 0.01, "fixed_decay": True},
    "float64 state": {"state_dtype": torch.float64},
    "8-bit state": {"state_dtype": "8bit", "weight_decay": 0.1},
    **LOW_PRECISION,
}
# What is worked on in pieces.
IN_PIECES = {**LOW_PRECISION, "stochastic, 8-bit state": {"rounding": "stochastic", "state_dtype": "8bit"}}
KERNELS = fused_cpu.why_not() is None  # an installation without a compiler has none
# The ways of shards through the update, by what is asked for.
PATHS = {"native" if KERNELS else "for-loop": {}, "for-loop": {"foreach": False}, "foreach": {"foreach": True}}
# For runs of several processes, whose sums are taken in another order.
STRONG = {"lr": 1e-2, "weight_decay": 0.01, "fixed_decay": True, "amsgrad": True}


def make_model(dtype: torch.dtype = torch.float64, width: int = 5) -> nn.Module:
    """A network whose rows do not divide evenly between two or three processes, and with a bias too short for two."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1)).to(dtype)


def make_batches(steps: int, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    """Batches that divide evenly between two or three processes, so that the mean of their means is that of all."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(12, 4, generator=generator, dtype=dtype), torch.randn(12, 1, generator=generator, dtype=dtype))
        for _ in range(steps)
    ]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]) -> None:
    for x, y in batches:
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def part_of(batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """This process's examples of each batch."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    return [(x[rank::processes], y[rank::processes]) for x, y in batches]


def values(model: nn.Module) -> dict[str, Tensor]:
    """The parameters, gathered from all processes."""
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


def assert_close(actual, expected, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@contextmanager
def updates() -> Iterator[Counter[str]]:
    """Counts the tensors that go each of the ways through the update."""
    run, foreach, loop = fused_cpu.run, functional.foreach_update, functional.update_one
    counted: Counter[str] = Counter()

    def counting_run(batch, rule) -> None:
        counted["native"] += len(batch)
        run(batch, rule)

    def counting_foreach(columns, numbers, rule) -> None:
        counted["foreach"] += len(columns[0])
        foreach(columns, numbers, rule)

    def counting_loop(*args) -> None:
        counted["for-loop"] += 1
        loop(*args)

    with (
        patch.object(fused_cpu, "run", counting_run),
        patch.object(functional, "foreach_update", counting_foreach),
        patch.object(functional, "update_one", counting_loop),
    ):
        yield counted


def dtype_for(options: dict, dtype: torch.dtype) -> torch.dtype:
    """Rounding is for half-precision parameters alone."""
    return torch.bfloat16 if "rounding" in options else dtype


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=store.as_uri(), rank=0, world_size=1, timeout=TIMEOUT)
    yield
    dist.destroy_process_group()


# ---- distributed checkpoints in one process ----


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float lr", "tensor lr"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_asking_for_the_state_before_the_first_step_changes_nothing(options: dict, tensor_lr: bool) -> None:
    lr = torch.tensor(1e-2) if tensor_lr else 1e-2
    dtype = dtype_for(options, torch.float32)
    model, other = make_model(dtype), make_model(dtype)
    before = values(model)
    optimizer = AdaMomentum(model.parameters(), lr=lr, **options)
    other_optimizer = AdaMomentum(other.parameters(), lr=deepcopy(lr), **options)

    state_dict = get_optimizer_state_dict(model, optimizer)
    keys = {"step", "exp_avg", "exp_avg_sq"} | ({"max_exp_avg_sq"} if options.get("amsgrad") else set())
    keys |= {kept for rounding, kept in ROUNDING_STATE.items() if options.get("rounding") == rounding}
    keys |= {*SCALES, *BLOCKS} if options.get("state_dtype") == "8bit" else set()
    for name, state in state_dict["state"].items():
        assert set(state) == keys
        assert not any(value.any() for key, value in state.items() if key not in ("master", *SCALES, *BLOCKS))
        assert_close(state.get("master", before[name].float()), before[name].float(), 0)
    assert optimizer.param_groups[0]["lr"] is lr
    set_optimizer_state_dict(model, optimizer, state_dict)

    assert_close(values(model), before, 0)
    for state in optimizer.state.values():
        assert state["step"].item() == 0
    batches = make_batches(5, dtype)
    train(model, optimizer, batches)
    train(other, other_optimizer, batches)
    assert_close(values(model), values(other), 0)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_loading_into_an_optimizer_that_has_not_stepped(options: dict) -> None:
    dtype = dtype_for(options, torch.float64)
    batches = make_batches(8, dtype)
    model = make_model(dtype)
    optimizer = AdaMomentum(model.parameters(), lr=torch.tensor(1e-2), **options)
    train(model, optimizer, batches[:4])

    other = make_model(dtype)
    other.load_state_dict(model.state_dict())
    other_optimizer = AdaMomentum(other.parameters(), lr=torch.tensor(1.0), **options)
    before = values(other)
    set_optimizer_state_dict(other, other_optimizer, deepcopy(get_optimizer_state_dict(model, optimizer)))
    assert_close(values(other), before, 0)
    train(model, optimizer, batches[4:])
    train(other, other_optimizer, batches[4:])
    assert_close(values(other), values(model), 0)


def resume(model: nn.Module, optimizer: AdaMomentum, checkpoint: Path, **how) -> None:
    """Load what ``dcp.save`` wrote of model and optimizer, in as many processes as there are."""
    room = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.load(room, checkpoint_id=checkpoint, **how)
    set_model_state_dict(model, room["model"])
    set_optimizer_state_dict(model, optimizer, room["optimizer"])


@pytest.mark.parametrize("flatten", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("tensors", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_checkpoint_in_a_directory(tmp_path: Path, options: dict, tensors: bool, flatten: bool) -> None:
    wanted = StateDictOptions(flatten_optimizer_state_dict=flatten)
    scheduled = {"lr": 1e-2, "betas": (0.8, 0.99)}
    if tensors:
        scheduled = {"lr": torch.tensor(1e-2), "betas": (torch.tensor(0.8), torch.tensor(0.99))}
    dtype = dtype_for(options, torch.float64)
    batches = make_batches(8, dtype)
    model = make_model(dtype)
    optimizer = AdaMomentum(groups_of(model), **deepcopy(scheduled), **options)
    train(model, optimizer, batches[:4])
    saved = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer, options=wanted)}
    dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)

    other = make_model(dtype)
    # Other numbers than those saved, so that they have to be loaded.
    other_scheduled = {"lr": torch.tensor(1.0), "betas": (torch.tensor(0.1), torch.tensor(0.1))} if tensors else {}
    other_optimizer = AdaMomentum(groups_of(other), **other_scheduled, **options)
    other_optimizer.init_state()
    room = {"model": other.state_dict(), "optimizer": get_optimizer_state_dict(other, other_optimizer, options=wanted)}
    dcp.load(room, checkpoint_id=tmp_path, no_dist=True)
    other.load_state_dict(room["model"])
    set_optimizer_state_dict(other, other_optimizer, room["optimizer"], options=wanted)
    assert [state["step"].item() for state in other_optimizer.state.values()] == [4.0] * 4

    train(model, optimizer, batches[4:])
    train(other, other_optimizer, batches[4:])
    assert_close(values(other), values(model), 0)


@pytest.mark.parametrize("named", [False, True])
def test_a_folder_as_a_file_has_text_for_keys(tmp_path: Path, named: bool) -> None:
    """Of state_dict() itself, which numbers parameters; torch's own optimizers then start anew without a word."""
    batches = make_batches(8)
    model, other = make_model(), make_model()
    optimizers = [
        AdaMomentum(m.named_parameters() if named else m.parameters(), **STRONG, foreach=False) for m in (model, other)
    ]
    train(model, optimizers[0], batches[:4])
    dcp.save(optimizers[0].state_dict(), checkpoint_id=tmp_path / "folder", no_dist=True)
    dcp_to_torch_save(tmp_path / "folder", tmp_path / "file.pt")
    saved = torch.load(tmp_path / "file.pt")
    assert set(saved["state"]) == {"0", "1", "2", "3"} and saved["param_groups"][0]["params"] == [0, 1, 2, 3]
    other.load_state_dict(model.state_dict())
    optimizers[1].load_state_dict(saved)
    assert set(optimizers[1].state) == set(other.parameters())
    for m, optimizer in zip((model, other), optimizers, strict=True):
        train(m, optimizer, batches[4:])
    assert_close(values(other), values(model), 0)


def groups_of(model: nn.Module) -> list[dict]:
    """Weights and biases with options of their own."""
    return [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0, "eps": 1e-10},
    ]


def test_frozen_parameters_have_no_state(tmp_path: Path) -> None:
    model = make_model()
    model[0].weight.requires_grad_(False)
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    optimizer.init_state()
    assert model[0].weight not in optimizer.state
    assert set(get_optimizer_state_dict(model, optimizer)["state"]) == {"0.bias", "2.weight", "2.bias"}


def test_first_step_with_lr_zero_counts_if_there_are_gradients() -> None:
    """A warm-up from lr 0 is not mistaken for a question about the state."""
    model = make_model()
    optimizer = AdaMomentum(model.parameters(), lr=0.0)
    train(model, optimizer, make_batches(1))
    for state in optimizer.state.values():
        assert state["step"].item() == 1
        assert state["exp_avg"].any()


# ---- distributed tensors ----


def take_steps(params: list[Tensor], optimizer: AdaMomentum) -> Counter[str]:
    """Seven steps with random gradients, the same for distributed tensors as for plain ones; the ways they went."""
    generator = torch.Generator().manual_seed(1)
    with updates() as counted:
        for _ in range(7):
            for p in params:
                grad = torch.randn(p.shape, generator=generator).to(p.dtype)
                p.grad = distribute_tensor(grad, p.device_mesh, p.placements) if isinstance(p, DTensor) else grad
            optimizer.step()
    return counted


def assert_same_state(
    params: list[Tensor], optimizer: AdaMomentum, distributed: list[Tensor], other: AdaMomentum, tolerance: float
) -> None:
    for p, d in zip(params, distributed, strict=True):
        assert isinstance(d, DTensor)
        assert_close(d.full_tensor(), p, tolerance)
        assert optimizer.state[p].keys() == other.state[d].keys()
        for key, value in optimizer.state[p].items():
            ours = other.state[d][key]
            assert isinstance(ours, DTensor) == (key != "step" and key not in SCALES)
            assert_close(ours.full_tensor() if isinstance(ours, DTensor) else ours, value, tolerance)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("placement", [Shard(0), Replicate()], ids=["sharded", "replicated"])
@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_dtensor_equals_plain_tensor(options: dict, dtype: torch.dtype, placement, foreach: bool | None) -> None:
    mesh = init_device_mesh("cpu", (1,))
    torch.manual_seed(0)
    plain = [torch.randn(3, 4, dtype=dtype), torch.randn(5, dtype=dtype)]
    distributed = [distribute_tensor(p.clone(), mesh, [placement]) for p in plain]
    if foreach and (options in LOW_PRECISION.values() or options.get("state_dtype") == "8bit"):
        with pytest.raises(ValueError, match="foreach=True does not go with"):
            AdaMomentum(distributed, **{**options, "foreach": foreach})
        return
    options = {**options, "foreach": foreach}
    # By default both take the native kernels, for bit-equal numbers; the foreach path falls to them in no case.
    optimizer = AdaMomentum(plain, **{**options, "foreach": None if foreach is None else False})
    distributed_optimizer = AdaMomentum(distributed, **options)
    expected, counted = take_steps(plain, optimizer), take_steps(distributed, distributed_optimizer)
    if foreach:
        assert counted == {"foreach": 14}, counted
    else:  # what the kernels do not take of distributed tensors goes through the loop
        assert counted["native"] == expected["native"]
        assert counted["foreach"] == 0
    assert_same_state(plain, optimizer, distributed, distributed_optimizer, 1e-12)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("placement", [Shard(0), Replicate()], ids=["sharded", "replicated"])
@pytest.mark.parametrize("options", IN_PIECES.values(), ids=IN_PIECES.keys())
def test_a_large_dtensor_is_cut_into_pieces(options: dict, placement, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [torch.linspace(-1, 1, 1500, dtype=torch.bfloat16).reshape(5, 300)]
    mesh = init_device_mesh("cpu", (1,))
    distributed = [distribute_tensor(p.clone(), mesh, [placement]) for p in plain]
    optimizer, other = (AdaMomentum(params, foreach=False, **options) for params in (plain, distributed))
    assert take_steps(plain, optimizer)["for-loop"] == 7
    monkeypatch.setattr(pieces, "PIECE_ELEMENTS", {"default": 512})
    assert take_steps(distributed, other)["for-loop"] == 3 * 7
    assert_same_state(plain, optimizer, distributed, other, 0)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("layout", ["channels last", "transposed"])
def test_codes_of_a_dtensor_lie_as_what_this_process_has(layout: str, foreach: bool | None) -> None:
    mesh, options = init_device_mesh("cpu", (1,)), {"state_dtype": "8bit", "lr": 1e-2, "foreach": foreach}
    start = torch.linspace(-1, 1, 1200)
    if layout == "transposed":
        start = start.reshape(40, 30).t()
    else:
        start = start.reshape(5, 10, 6, 4).contiguous(memory_format=torch.channels_last)

    def distributed(t: Tensor) -> DTensor:
        return DTensor.from_local(t.clone(), mesh, [Shard(0)], run_check=False)

    plain, p = start.clone(), distributed(start)
    optimizer, other = AdaMomentum([p], **options), AdaMomentum([plain], **options)
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        plain.grad = torch.randn(start.shape, generator=generator).mul_(start)
        p.grad = distributed(plain.grad)
        optimizer.step()
        other.step()
        if step == 2:  # on from a state dict
            p, state_dict = distributed(p.to_local()), optimizer.state_dict()
            optimizer = AdaMomentum([p], **options)
            optimizer.load_state_dict(state_dict)
    assert_close(p.to_local(), plain, 0)
    for key, value in other.state[plain].items():
        assert_close(parts_here(optimizer.state[p])[key], value, 0)


# ---- several processes ----


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("use_orig_params", [False, True])
@pytest.mark.filterwarnings("ignore")  # of a wrapper that torch no longer recommends
def test_moments_in_8_bits_are_refused_under_the_older_fsdp(use_orig_params: bool) -> None:
    model = FullyShardedDataParallel(
        make_model(torch.float32), device_id=torch.device("cpu"), use_orig_params=use_orig_params
    )
    with pytest.raises(TypeError, match=r"FullyShardedDataParallel with state_dtype=.8bit.*bfloat16"):
        AdaMomentum(model.parameters(), state_dtype="8bit")
    optimizer = AdaMomentum(model.parameters(), state_dtype=torch.bfloat16)
    before = [p.detach().clone() for p in model.parameters()]
    for x, _ in make_batches(2, torch.float32):
        model(x).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    FullyShardedDataParallel.optim_state_dict(model, optimizer)


several_processes = pytest.mark.parametrize("processes", [2, 3])


def ddp_worker(rank: int, folder: Path) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # importing it warns of deprecations

    batches = part_of(make_batches(10))
    results = {}
    for as_views in (False, True):
        model = make_model()
        ddp = DistributedDataParallel(model, gradient_as_bucket_view=as_views)
        with updates() as counted:
            train(ddp, AdaMomentum(ddp.parameters(), **STRONG), batches)
        assert counted == {"native" if KERNELS else "foreach": 4 * 10}, counted
        results[f"ddp, {as_views=}"] = values(model)

    model = make_model()
    ddp = DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(ddp.parameters(), optimizer_class=AdaMomentum, **STRONG)
    train(ddp, optimizer, batches[:5])
    optimizer.consolidate_state_dict(to=0)
    if rank == 0:
        torch.save(optimizer.state_dict(), folder / "zero.pt")
    train(ddp, optimizer, batches[5:])
    results["zero"] = values(model)
    torch.save(results, folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.distributed
@several_processes
def test_data_parallel_training_equals_training_on_the_whole_batch(tmp_path: Path, processes: int) -> None:
    results = run_in_processes(ddp_worker, processes, tmp_path)
    batches = make_batches(10)
    model = make_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    train(model, optimizer, batches)
    for kind, result in results[0].items():
        for other in results[1:]:
            assert_close(result, other[kind], 0)
        assert_close(result, values(model), 1e-9)

    # What the sharded optimizer saved is what one process would have.
    model = make_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    train(model, optimizer, batches[:5])
    loaded = AdaMomentum(make_model().parameters())
    loaded.load_state_dict(torch.load(tmp_path / "zero.pt"))
    for ours, theirs in zip(optimizer.state.values(), loaded.state.values(), strict=True):
        assert_close(theirs, ours, 1e-9)


def sharded_model(dtype: torch.dtype = torch.float64, width: int = 5) -> nn.Module:
    model = make_model(dtype, width)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    return model


def fsdp_worker(rank: int, folder: Path) -> None:
    batches = part_of(make_batches(10))
    results = {}
    for path, request in PATHS.items():
        model = sharded_model()
        optimizer = AdaMomentum(model.parameters(), **STRONG, **request)
        # Asking for the state before the first step changes nothing here either.
        before = values(model)
        set_optimizer_state_dict(model, optimizer, get_optimizer_state_dict(model, optimizer))
        assert_close(values(model), before, 0)
        with updates() as counted:
            train(model, optimizer, batches[:5])
        assert counted == {path: 4 * 5}, counted
        assert all(isinstance(state["exp_avg"], DTensor) for state in optimizer.state.values())
        results[f"{path}, 5 steps"] = values(model)
        dcp.save(optimizer.state_dict(), checkpoint_id=folder / "by number")
        dcp.save(
            {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)},
            checkpoint_id=folder / "of several",
        )
        train(model, optimizer, batches[5:])
        results[f"{path}, 10 steps"] = values(model)

    # The norm of the gradients is that over all shards.
    (x, y), norms = batches[0], []
    for limit in (float("inf"), 1e-3):
        (model(x) - y).square().mean().backward()
        whole = torch.cat([p.grad.full_tensor().flatten() for p in model.parameters()])
        norms.append((optimizer.clip_grad_norm_(limit), whole.norm()))
        optimizer.zero_grad()
    for norm, expected in norms:
        assert_close(norm, expected, 1e-12)

    # On from a checkpoint written by one process.
    model = sharded_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    resume(model, optimizer, folder / "of one")
    train(model, optimizer, batches[5:])
    results["loaded from one process"] = values(model)

    # On from a file made of the folder of a state_dict() as it is, which has the text of the parameters' numbers.
    if rank == 0:
        dcp_to_torch_save(folder / "by number", folder / "by number.pt")
    dist.barrier()
    model = sharded_model()
    set_model_state_dict(
        model, torch.load(folder / "whole.pt")["model"], options=StateDictOptions(full_state_dict=True)
    )
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    optimizer.load_state_dict(torch.load(folder / "by number.pt"))
    train(model, optimizer, batches[5:])
    results["a folder by number as a file"] = values(model)

    # On from whole tensors that only the first process has.
    whole = torch.load(folder / "whole.pt") if rank == 0 else {"model": {}, "optimizer": {}}
    model = sharded_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    hand_out(model, optimizer, whole)
    train(model, optimizer, batches[5:])
    results["broadcast"] = values(model)
    torch.save(results, folder / f"{rank}.pt")


def hand_out(model: nn.Module, optimizer: AdaMomentum, whole: dict[str, dict]) -> None:
    """Shard state dicts of model and optimizer that the first process has whole."""
    wanted = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole["model"], options=wanted)
    set_optimizer_state_dict(model, optimizer, whole["optimizer"], options=wanted)


@pytest.mark.slow
@pytest.mark.distributed
@several_processes
def test_sharded_training_equals_training_in_one_process(tmp_path: Path, processes: int) -> None:
    batches = make_batches(10)
    model = make_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    train(model, optimizer, batches[:5])
    after_5 = values(model)
    saved = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.save(saved, checkpoint_id=tmp_path / "of one", no_dist=True)
    torch.save(saved, tmp_path / "whole.pt")
    train(model, optimizer, batches[5:])
    after_10 = values(model)

    results = run_in_processes(fsdp_worker, processes, tmp_path)
    for kind, result in results[0].items():
        for other in results[1:]:
            assert_close(result, other[kind], 0)
        assert_close(result, after_5 if kind.endswith(" 5 steps") else after_10, 1e-9)

    # On in one process from what several wrote.
    other = make_model()
    other_optimizer = AdaMomentum(other.parameters(), **STRONG)
    resume(other, other_optimizer, tmp_path / "of several", no_dist=True)
    train(other, other_optimizer, batches[5:])
    assert_close(values(other), after_10, 1e-9)


def low_precision_worker(rank: int, folder: Path) -> None:
    """Trains in bfloat16: shards must become what the whole becomes in one process, bit for bit, at random too."""
    batches = part_of(make_batches(8, torch.bfloat16))
    for options in LOW_PRECISION.values():
        # The path, the number of elements that are worked on at a time, and the parts that four parameters are then.
        for foreach, limit, parts in ((None, 10**9, 4), (False, 10**9, 4), (False, 512, 5)):
            model = sharded_model(torch.bfloat16, width=301)
            optimizer = AdaMomentum(model.parameters(), foreach=foreach, **options)
            plain = [p.full_tensor().detach().clone() for p in model.parameters()]
            other = AdaMomentum(plain, foreach=foreach, **options)
            for x, y in batches[:5]:
                optimizer.zero_grad()
                (model(x) - y).square().mean().backward()
                for p, q in zip(model.parameters(), plain, strict=True):
                    q.grad = p.grad.full_tensor()
                with patch.dict(pieces.PIECE_ELEMENTS, cpu=limit), updates() as counted:
                    optimizer.step()
                by_kernels = KERNELS and foreach is None
                assert counted == {"native" if by_kernels else "for-loop": parts}, counted
                other.step()
            for p, q in zip(model.parameters(), plain, strict=True):
                assert_close(p.full_tensor(), q, 0)
                for key, value in optimizer.state[p].items():
                    assert_close(value.full_tensor() if key != "step" else value, other.state[q][key], 0)

        # State in whole tensors, and on from those that only the first process has.
        wanted = StateDictOptions(full_state_dict=True)
        whole = {
            "model": get_model_state_dict(model, options=wanted),
            "optimizer": get_optimizer_state_dict(model, optimizer, options=wanted),
        }
        moments = {
            state[key].dtype for state in whole["optimizer"]["state"].values() for key in ("exp_avg", "exp_avg_sq")
        }
        assert moments == {options.get("state_dtype", torch.float32)}
        resumed = sharded_model(torch.bfloat16, width=301)
        resumed_optimizer = AdaMomentum(resumed.parameters(), foreach=False, **options)
        hand_out(resumed, resumed_optimizer, whole if rank == 0 else {"model": {}, "optimizer": {}})
        train(model, optimizer, batches[5:])
        train(resumed, resumed_optimizer, batches[5:])
        for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
            assert_close(q.to_local(), p.to_local(), 0)
            assert_close(parts_here(resumed_optimizer.state[q]), parts_here(optimizer.state[p]), 0)
    torch.save({}, folder / f"{rank}.pt")


def parts_here(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What this process has of the state of one parameter."""
    return {key: t.to_local() if isinstance(t, DTensor) else t for key, t in state.items()}


@pytest.mark.slow
@pytest.mark.distributed
def test_sharded_training_in_low_precision(tmp_path: Path) -> None:
    run_in_processes(low_precision_worker, 2, tmp_path)


def train_in_two_passes(
    model: nn.Module, optimizer: AdaMomentum, batches: list[tuple[Tensor, Tensor]], first: int = 0
) -> None:
    """A step after every second batch, where ``first`` batches have gone before."""
    for i, (x, y) in enumerate(batches, first):
        ((model(x) - y).square().mean() / 2).backward()
        if i % 2:
            optimizer.step()
            optimizer.zero_grad()


def release_worker(rank: int, folder: Path) -> None:
    batches = part_of(make_batches(12))
    model = sharded_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    release_gradients(optimizer, 2)
    with updates() as counted:
        train_in_two_passes(model, optimizer, batches[:7])
    assert counted == {"native" if KERNELS else "for-loop": 4 * 3}, counted
    assert all(p.grad is None for p in model.parameters())
    saved = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.save(saved, checkpoint_id=folder / "between passes")
    train_in_two_passes(model, optimizer, batches[7:], first=7)
    results = {"one run": values(model)}

    model = sharded_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    handle = release_gradients(optimizer, 2)
    resume(model, optimizer, folder / "between passes")
    assert handle.accumulated == 1
    train_in_two_passes(model, optimizer, batches[7:], first=7)
    results["resumed"] = values(model)
    torch.save(results, folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.distributed
def test_sharded_training_with_released_gradients(tmp_path: Path) -> None:
    batches = make_batches(12)
    model = make_model()
    train_in_two_passes(model, AdaMomentum(model.parameters(), **STRONG), batches)
    expected = values(model)
    for results in run_in_processes(release_worker, 2, tmp_path):
        for result in results.values():
            assert_close(result, expected, 1e-9)

    # On in one process from what two wrote between two passes.
    model = make_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    release_gradients(optimizer, 2)
    resume(model, optimizer, tmp_path / "between passes", no_dist=True)
    train_in_two_passes(model, optimizer, batches[7:], first=7)
    assert_close(values(model), expected, 1e-9)


def held_worker(rank: int, folder: Path) -> None:
    bucket.BUCKET_ELEMENTS, held = 2 * 64**2, {}
    for how in ("sharded", "replicated", "data parallel"):
        torch.manual_seed(0)
        layers = torch.nn.Sequential(*(torch.nn.Linear(64, 64, bias=False) for _ in range(20)))
        if how == "data parallel":  # its buckets, which there are from the beginning, and what a pass takes

            def run(layers: torch.nn.Module = layers) -> None:
                model = DistributedDataParallel(layers, gradient_as_bucket_view=True)
                for p in layers.parameters():
                    p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
                model(torch.ones(1, 64)).sum().backward()
        else:
            count = dist.get_world_size()
            shape, names = ((count, 1), ("replicate", "shard")) if how == "replicated" else ((count,), ("shard",))
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
            for module in (*layers, layers):
                fully_shard(module, mesh=mesh)
            optimizer = AdaMomentum(layers.parameters())
            release_gradients(optimizer)

            def run(layers: torch.nn.Module = layers) -> None:
                layers(torch.ones(1, 64)).sum().backward()

            run()
        held[how] = peak_bytes(run, torch.device("cpu")) / (4 * 64**2)
    torch.save(held, folder / f"{rank}.pt")


@pytest.mark.distributed
def test_what_is_there_of_gradients_in_a_distributed_pass(tmp_path: Path) -> None:
    """In gradients of a layer, of which there are 20: two wait, and ``fully_shard`` itself takes a few."""
    (held,) = run_in_processes(held_worker, 1, tmp_path)
    assert held["sharded"] < 8
    assert held["replicated"] > 20
    assert held["data parallel"] > 20


# Limits of each gradient's norm that clip about half of them.
CLIPS = {"fixed": 0.2, "adaptive": AdaptiveClip(warmup=3)}


def clipped_release_worker(rank: int, folder: Path) -> None:
    """With buckets that a parameter or two fill, which processes with less of these must empty with the others."""
    mesh, processes = init_device_mesh("cpu", (dist.get_world_size(),)), dist.get_world_size()
    p = distribute_tensor(torch.zeros(3), mesh, [Replicate()])
    partial = DTensor.from_local(torch.full((3,), rank + 1.0), mesh, [Partial()])  # the sum of all is the gradient
    factor = factors_of([bucket.Part({}, [p], [partial])], 0.5, 1, {})[id(p)]
    assert factor == pytest.approx(0.5 / (3**0.5 * processes * (processes + 1) / 2))

    bucket.BUCKET_ELEMENTS = 3
    batches = part_of(make_batches(12))
    results = {}
    for name, clip in CLIPS.items():
        model = sharded_model()
        optimizer = AdaMomentum(model.parameters(), **STRONG)
        release_gradients(optimizer, 2, clip=clip)
        train_in_two_passes(model, optimizer, batches[:7])
        saved = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
        dcp.save(saved, checkpoint_id=folder / name)
        train_in_two_passes(model, optimizer, batches[7:], first=7)
        results[name] = values(model)
        model = sharded_model()
        optimizer = AdaMomentum(model.parameters(), **STRONG)
        handle = release_gradients(optimizer, 2, clip=clip)
        if handle.adapts:
            optimizer.init_state()
        resume(model, optimizer, folder / name)
        train_in_two_passes(model, optimizer, batches[7:], first=7)
        assert_close(values(model), results[name], 0)
    torch.save(results, folder / f"{rank}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize(
    "processes", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_released_gradients_of_shards_are_clipped_by_the_norm_of_the_whole(tmp_path: Path, processes: int) -> None:
    """As in one process without sharding; and one goes on from what several wrote."""
    expected, batches = {}, make_batches(12)
    for name, clip in {**CLIPS, "none": None}.items():
        model = make_model()
        optimizer = AdaMomentum(model.parameters(), **STRONG)
        release_gradients(optimizer, 2, clip=clip)
        train_in_two_passes(model, optimizer, batches)
        expected[name] = values(model)
    for results in run_in_processes(clipped_release_worker, processes, tmp_path):
        for name, result in results.items():
            assert_close(result, expected[name], 1e-9)
            assert not all(torch.allclose(p, expected["none"][key], rtol=1e-4) for key, p in result.items())
    for name, clip in CLIPS.items():
        model = make_model()
        optimizer = AdaMomentum(model.parameters(), **STRONG)
        handle = release_gradients(optimizer, 2, clip=clip)
        if handle.adapts:
            optimizer.init_state()
        resume(model, optimizer, tmp_path / name, no_dist=True)
        train_in_two_passes(model, optimizer, batches[7:], first=7)
        assert_close(values(model), expected[name], 1e-9)


# Which passes of a step synchronize gradients, and what release is told of the number of passes.
SYNCHRONIZED = {
    "the last": ("ny", 2),
    "the first and the last": ("yny", 3),
    "one after the last that was told of": ("nny", 2),
    "the only one that was told of": ("nny", 1),
}


def unsynchronized_worker(rank: int, folder: Path) -> None:
    batches = part_of(make_batches(12))
    results = {}
    for name, (pattern, passes) in SYNCHRONIZED.items():
        for replicated in (False, True):
            model = make_model()
            count = dist.get_world_size()
            shape, names = ((count, 1), ("replicate", "shard")) if replicated else ((count,), ("shard",))
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
            for module in (model[0], model[2], model):
                fully_shard(module, mesh=mesh)
            switch = model.set_requires_all_reduce if replicated else model.set_requires_gradient_sync
            optimizer = AdaMomentum(model.parameters(), **STRONG)
            handle = release_gradients(optimizer, passes)
            for i, (x, y) in enumerate(batches):
                loss = (model(x) - y).square().mean() / len(pattern)
                switch(pattern[i % len(pattern)] == "y")  # read in the backward pass, so it may come so late
                if i == pattern.index("n"):  # what such a pass keeps cannot be dropped after the pause
                    with pytest.raises(RuntimeError, match="must synchronize gradients"), handle.paused():
                        loss.backward(retain_graph=True)
                loss.backward()
                if pattern[i % len(pattern)] == "n":
                    with pytest.raises(RuntimeError, match="fully_shard keeps gradients"), handle.paused():
                        pass
                elif i == len(batches) - 1:
                    before = values(model)
                    with handle.paused():
                        (model(x) - y).square().mean().backward()
                        assert all(p.grad is not None for p in model.parameters())
                    assert_close(values(model), before, 0)
                assert all(p.grad is None for p in optimizer.param_groups[0]["params"])
            assert handle.accumulated == 0
            results[f"{name}, {replicated=}"] = values(model)
    torch.save(results, folder / f"{rank}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_passes_without_synchronization_count_under_release(tmp_path: Path, processes: int) -> None:
    """In a loop without ``step()``."""
    expected = {}
    for name, (pattern, _) in SYNCHRONIZED.items():
        model = make_model()
        optimizer = AdaMomentum(model.parameters(), **STRONG)
        for i, (x, y) in enumerate(make_batches(12), 1):
            ((model(x) - y).square().mean() / len(pattern)).backward()
            if i % len(pattern) == 0:
                optimizer.step()
                optimizer.zero_grad()
        expected[name] = values(model)
    for results in run_in_processes(unsynchronized_worker, processes, tmp_path):
        for kind, result in results.items():
            assert_close(result, expected[kind.rpartition(",")[0]], 1e-9)
