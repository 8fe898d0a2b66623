"""Distributed checkpoints, and training on one and two processes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from adamomentum.torch import AdaMomentum, release_gradients

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # as no_dist=True asks for
TIMEOUT = timedelta(seconds=60)
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
}
WRONG = AssertionError("took the foreach path")
# For runs of several processes, whose sums are taken in another order.
STRONG = {"lr": 1e-2, "weight_decay": 0.01, "fixed_decay": True, "amsgrad": True}


def make_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network whose rows do not divide evenly between two processes, and with a bias too short for two."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def make_batches(steps: int, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 4, generator=generator, dtype=dtype), torch.randn(8, 1, generator=generator, dtype=dtype))
        for _ in range(steps)
    ]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]) -> None:
    for x, y in batches:
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def part_of(batches: list[tuple[Tensor, Tensor]], rank: int) -> list[tuple[Tensor, Tensor]]:
    """Every second example of each batch."""
    return [(x[rank::2], y[rank::2]) for x, y in batches]


def values(model: nn.Module) -> dict[str, Tensor]:
    """The parameters, gathered from all processes."""
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


def assert_close(actual, expected, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


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
    model, other = make_model(torch.float32), make_model(torch.float32)
    before = values(model)
    optimizer = AdaMomentum(model.parameters(), lr=lr, **options)
    other_optimizer = AdaMomentum(other.parameters(), lr=deepcopy(lr), **options)

    state_dict = get_optimizer_state_dict(model, optimizer)
    keys = {"step", "exp_avg", "exp_avg_sq"} | ({"max_exp_avg_sq"} if options.get("amsgrad") else set())
    for state in state_dict["state"].values():
        assert set(state) == keys
        assert not any(value.any() for value in state.values())
    assert optimizer.param_groups[0]["lr"] is lr
    set_optimizer_state_dict(model, optimizer, state_dict)

    assert_close(values(model), before, 0)
    for state in optimizer.state.values():
        assert state["step"].item() == 0
    batches = make_batches(5, torch.float32)
    train(model, optimizer, batches)
    train(other, other_optimizer, batches)
    assert_close(values(model), values(other), 0)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_loading_into_an_optimizer_that_has_not_stepped(options: dict) -> None:
    batches = make_batches(8)
    model = make_model()
    optimizer = AdaMomentum(model.parameters(), lr=torch.tensor(1e-2), **options)
    train(model, optimizer, batches[:4])

    other = make_model()
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
    batches = make_batches(8)
    model = make_model()
    optimizer = AdaMomentum(groups_of(model), **deepcopy(scheduled), **options)
    train(model, optimizer, batches[:4])
    saved = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer, options=wanted)}
    dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)

    other = make_model()
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
    options = {**options, "foreach": foreach}
    # By default both take the native kernels, for bit-equal numbers; the foreach path falls to them in no case.
    optimizer = AdaMomentum(plain, **{**options, "foreach": None if foreach is None else False})
    distributed_optimizer = AdaMomentum(distributed, **options)
    for _ in range(7):
        for p, d in zip(plain, distributed, strict=True):
            p.grad = torch.randn_like(p)
            d.grad = distribute_tensor(p.grad.clone(), mesh, [placement])
        optimizer.step()
        update = nullcontext() if foreach else patch("adamomentum.torch.functional.foreach_update", side_effect=WRONG)
        with update:
            distributed_optimizer.step()
    for p, d in zip(plain, distributed, strict=True):
        assert isinstance(d, DTensor)
        assert_close(d.full_tensor(), p, 1e-12)
        for key, value in optimizer.state[p].items():
            ours = distributed_optimizer.state[d][key]
            assert isinstance(ours, DTensor) == (key != "step")
            assert_close(ours.full_tensor() if key != "step" else ours, value, 1e-12)


# ---- two processes ----


def run_in_two_processes(worker: Callable[[int, Path], None], folder: Path) -> None:
    """Run ``worker(rank, folder)``, a function of this file, in two processes of one group.

    The processes run this file: unlike those of multiprocessing they need not import the test as a module.
    """
    command = [sys.executable, __file__, worker.__name__, str(folder)]
    logs = [folder / f"{rank}.log" for rank in range(2)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            with log.open("w") as output:
                processes.append(subprocess.Popen([*command, str(rank)], stdout=output, stderr=subprocess.STDOUT))
        for process in processes:
            process.wait(timeout=2 * TIMEOUT.total_seconds())
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(log.read_text() for log in logs)


def ddp_worker(rank: int, folder: Path) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # importing it warns of deprecations

    batches = part_of(make_batches(10), rank)
    results = {}
    for as_views in (False, True):
        model = make_model()
        ddp = DistributedDataParallel(model, gradient_as_bucket_view=as_views)
        train(ddp, AdaMomentum(ddp.parameters(), **STRONG), batches)
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
def test_data_parallel_training_equals_training_on_the_whole_batch(tmp_path: Path) -> None:
    run_in_two_processes(ddp_worker, tmp_path)
    batches = make_batches(10)
    model = make_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    train(model, optimizer, batches)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for kind, result in results[0].items():
        assert_close(result, results[1][kind], 0)
        assert_close(result, values(model), 1e-9)

    # What the sharded optimizer saved is what one process would have.
    model = make_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    train(model, optimizer, batches[:5])
    loaded = AdaMomentum(make_model().parameters())
    loaded.load_state_dict(torch.load(tmp_path / "zero.pt"))
    for ours, theirs in zip(optimizer.state.values(), loaded.state.values(), strict=True):
        assert_close(theirs, ours, 1e-9)


def sharded_model() -> nn.Module:
    model = make_model()
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    return model


def fsdp_worker(rank: int, folder: Path) -> None:
    batches = part_of(make_batches(10), rank)
    model = sharded_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)

    # Asking for the state before the first step changes nothing here either.
    before = values(model)
    set_optimizer_state_dict(model, optimizer, get_optimizer_state_dict(model, optimizer))
    assert_close(values(model), before, 0)
    with patch("adamomentum.torch.functional.foreach_update", side_effect=WRONG):
        train(model, optimizer, batches[:5])
    assert all(isinstance(state["exp_avg"], DTensor) for state in optimizer.state.values())
    results = {"sharded, 5 steps": values(model)}
    dcp.save(
        {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)},
        checkpoint_id=folder / "of two",
    )
    train(model, optimizer, batches[5:])
    results["sharded, 10 steps"] = values(model)

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

    # On from whole tensors that only the first process has.
    whole = torch.load(folder / "whole.pt") if rank == 0 else {"model": {}, "optimizer": {}}
    wanted = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    model = sharded_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    set_model_state_dict(model, whole["model"], options=wanted)
    set_optimizer_state_dict(model, optimizer, whole["optimizer"], options=wanted)
    train(model, optimizer, batches[5:])
    results["broadcast"] = values(model)
    torch.save(results, folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.distributed
def test_sharded_training_equals_training_in_one_process(tmp_path: Path) -> None:
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

    run_in_two_processes(fsdp_worker, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for kind, result in results[0].items():
        assert_close(result, results[1][kind], 0)
        assert_close(result, after_5 if kind == "sharded, 5 steps" else after_10, 1e-9)

    # On in one process from what two wrote.
    other = make_model()
    other_optimizer = AdaMomentum(other.parameters(), **STRONG)
    resume(other, other_optimizer, tmp_path / "of two", no_dist=True)
    train(other, other_optimizer, batches[5:])
    assert_close(values(other), after_10, 1e-9)


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
    batches = part_of(make_batches(12), rank)
    model = sharded_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    release_gradients(optimizer, 2)
    train_in_two_passes(model, optimizer, batches[:7])
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
    run_in_two_processes(release_worker, tmp_path)
    for rank in range(2):
        for result in torch.load(tmp_path / f"{rank}.pt").values():
            assert_close(result, expected, 1e-9)

    # On in one process from what two wrote between two passes.
    model = make_model()
    optimizer = AdaMomentum(model.parameters(), **STRONG)
    release_gradients(optimizer, 2)
    resume(model, optimizer, tmp_path / "between passes", no_dist=True)
    train_in_two_passes(model, optimizer, batches[7:], first=7)
    assert_close(values(model), expected, 1e-9)


WORKERS = {"ddp_worker": ddp_worker, "fsdp_worker": fsdp_worker, "release_worker": release_worker}

if __name__ == "__main__":
    name, folder, rank = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "store").as_uri(), rank=rank, world_size=2, timeout=TIMEOUT)
    try:
        WORKERS[name](rank, folder)
    finally:
        dist.destroy_process_group()
