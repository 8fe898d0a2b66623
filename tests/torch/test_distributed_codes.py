"""Moments in 8 bits on several processes: shards, checkpoints that other numbers of processes load, release, ZeRO."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from processes import run_in_processes
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from adamomentum.torch import AdaMomentum, decoded, release_gradients
from adamomentum.torch.state import CODED, SCALES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore:torch.distributed is disab"),
]
several_processes = pytest.mark.parametrize("processes", [2, 3])
OPTIONS = {"lr": 1e-2, "weight_decay": 0.1, "state_dtype": "8bit"}
MIXED = {**OPTIONS, "state_dtype": ("float32", "8bit")}
# Until roundings tell.
STEPS = 300
# By kernels where there are some, and by the for-loop path.
PATHS = {"default": {}, "for-loop": {"foreach": False}}


def make_model(aligned: bool, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network whose rows do not divide evenly, and that has rows of one process alone.

    Aligned, the border of every shard is one of the blocks of the whole.
    """
    torch.manual_seed(0)
    if aligned:
        return nn.Sequential(nn.Linear(256, 7, bias=False), nn.Tanh(), nn.Linear(7, 1, bias=False)).to(dtype)
    return nn.Sequential(nn.Linear(90, 31), nn.Tanh(), nn.Linear(31, 2)).to(dtype)


def sharded_model(aligned: bool, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = make_model(aligned, dtype)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    return model


def gradients(shapes: Iterable[torch.Size], steps: range) -> Iterable[list[Tensor]]:
    """For each step, the same on every process; of many sizes, around a mean of their own."""
    shapes = list(shapes)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        sizes = torch.Generator().manual_seed(1234)
        yield [
            (torch.randn(shape, generator=generator) + 0.5) * 10 ** (3 * torch.rand(shape, generator=sizes) - 3)
            for shape in shapes
        ]


def take_steps(params: Iterable[Tensor], optimizer: AdaMomentum, steps: range) -> None:
    params = list(params)
    for grads in gradients([p.shape for p in params], steps):
        for p, grad in zip(params, grads, strict=True):
            p.grad = distributed_like(p, grad.to(p.dtype))
        optimizer.step()


def distributed_like(p: Tensor, whole: Tensor) -> Tensor:
    if not isinstance(p, DTensor):
        return whole
    return distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None)


def whole(t: Tensor) -> Tensor:
    return (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()


def wholes(model: nn.Module) -> list[Tensor]:
    return [whole(p) for p in model.parameters()]


def moments(model: nn.Module, optimizer: AdaMomentum) -> list[dict[str, Tensor]]:
    """The numbers that the codes stand for, gathered from all processes."""
    state = decoded(optimizer.state_dict())["state"]
    return [{key: whole(state[i][key]).float() for key, _ in CODED} for i in range(len(list(model.parameters())))]


def parts(optimizer: AdaMomentum) -> list[dict[str, Tensor]]:
    """What this process has of the state, codes and all."""
    return [
        {key: t.to_local().clone() if isinstance(t, DTensor) else t.clone() for key, t in state.items()}
        for state in (optimizer.state[p] for p in optimizer.param_groups[0]["params"])
    ]


def assert_equal(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    return sum((x - y).square().sum().item() for x, y in zip(a, b, strict=True)) ** 0.5


def save(results: dict, rank: int, folder: Path) -> None:
    torch.save(results, folder / f"{rank}.pt")


# ---- training ----


def training_worker(rank: int, folder: Path) -> None:
    """All of this section: starting processes takes longer than what they do."""
    train_aligned()
    train_in_other_placements(rank)
    train_with_release(rank, folder)
    results = train_replicas(rank, folder)
    model = sharded_model(False)
    take_steps(model.parameters(), AdaMomentum(model.parameters(), **OPTIONS), range(STEPS))
    save({**results, "shards": wholes(model)}, rank, folder)


def train_aligned() -> None:
    """Shards whose borders are borders of blocks become what the whole becomes in one process, bit for bit."""
    for dtype, options in (
        (torch.float32, OPTIONS),
        (torch.float32, MIXED),
        (torch.bfloat16, {**OPTIONS, "rounding": "stochastic"}),
    ):
        for path in PATHS.values():
            model, alone = sharded_model(True, dtype), make_model(True, dtype)
            optimizer = AdaMomentum(model.parameters(), **options, **path)
            other = AdaMomentum(alone.parameters(), **options, **path)
            take_steps(model.parameters(), optimizer, range(6))
            take_steps(alone.parameters(), other, range(6))
            assert_equal(wholes(model), wholes(alone))
            for p, q in zip(model.parameters(), alone.parameters(), strict=True):
                assert optimizer.state[p].keys() == other.state[q].keys()
                assert optimizer.state[p]["exp_avg_sq"].dtype == torch.uint8
                for key, _ in CODED:
                    assert_equal(whole(optimizer.state[p][key]), other.state[q][key])
                for key in [key for key in SCALES if key in other.state[q]]:
                    gathered = [None] * dist.get_world_size()
                    dist.all_gather_object(gathered, optimizer.state[p][key])
                    assert_equal(torch.cat(gathered), other.state[q][key])


def train_in_other_placements(rank: int) -> None:
    count = dist.get_world_size()
    meshes = {1: init_device_mesh("cpu", (count,)), 2: init_device_mesh("cpu", (count, 1))}
    for placements in ([Shard(0)], [Shard(1)], [Replicate()], [Replicate(), Shard(0)], [Shard(0), Shard(1)]):
        mesh = meshes[len(placements)]
        for path in (*PATHS.values(), {"state_dtype": ("bfloat16", "8bit")}):
            start = torch.linspace(-1, 1, 5 * 600).reshape(5, 600)
            p = distribute_tensor(start, mesh, placements, src_data_rank=None).requires_grad_()
            optimizer = AdaMomentum([p], **{**OPTIONS, **path})
            # What this process has is updated as a tensor of its own would be, from its place in the whole on.
            local = p.to_local().detach().clone().requires_grad_()
            other = AdaMomentum([local], **{**OPTIONS, **path})
            take_steps([p], optimizer, range(4))
            if placements[-1] != Shard(0) or rank == 0:
                for (grad,) in gradients([p.shape], range(4)):
                    local.grad = distributed_like(p, grad).to_local()
                    other.step()
                assert_equal(p.to_local(), local)
                assert_equal(parts(optimizer), parts(other))
            # From what its state dict holds it goes on bit for bit.
            again = distribute_tensor(whole(p), mesh, placements, src_data_rank=None).requires_grad_()
            resumed = AdaMomentum([again], **{**OPTIONS, **path})
            resumed.load_state_dict(optimizer.state_dict())
            take_steps([p], optimizer, range(4, 6))
            take_steps([again], resumed, range(4, 6))
            assert_equal(again.to_local(), p.to_local())
            assert_equal(parts(resumed), parts(optimizer))

    # A gradient that is still to be summed: each process has its part of the sum.
    p = distribute_tensor(torch.ones(5, 300), meshes[1], [Replicate()], src_data_rank=None).requires_grad_()
    alone = torch.ones(5, 300, requires_grad=True)
    optimizer, other = AdaMomentum([p], **OPTIONS), AdaMomentum([alone], **OPTIONS)
    p.grad = DTensor.from_local(torch.full((5, 300), rank + 1.0), meshes[1], [Partial()], run_check=False)
    alone.grad = torch.full((5, 300), count * (count + 1) / 2)
    optimizer.step()
    other.step()
    assert_equal(p.to_local(), alone)


def train_with_release(rank: int, folder: Path) -> None:
    """As without release in one pass a step; in two, from a checkpoint between them as without one."""
    batches = batches_of(rank)
    for formats, passes in (("8bit", 1), ("8bit", 2), (("float32", "8bit"), 2)):
        options = {**OPTIONS, "state_dtype": formats, "rounding": "stochastic"}
        models = [sharded_model(False, torch.bfloat16) for _ in range(2)]
        optimizers = [AdaMomentum(model.parameters(), **options) for model in models]
        for optimizer in optimizers[: 1 if passes == 1 else 2]:
            release_gradients(optimizer, passes)
        for i, x in enumerate(batches, 1):
            for model, optimizer in zip(models, optimizers, strict=True):
                model(x.bfloat16()).square().mean().backward()
                assert all((p.grad is None) == (passes == 2 or model is models[0]) for p in model.parameters())
                if i % passes == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            if i == 5:
                model, optimizer = models[0], optimizers[0]
                saved = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
                dcp.save(saved, checkpoint_id=folder / f"released {formats} {passes}")
                models[0] = model = sharded_model(False, torch.bfloat16)
                optimizers[0] = optimizer = AdaMomentum(model.parameters(), **options)
                handle = release_gradients(optimizer, passes)
                resume(model, optimizer, folder / f"released {formats} {passes}")
                assert handle.accumulated == passes - 1
        assert_equal(wholes(models[0]), wholes(models[1]))
        for ours, theirs in zip(parts(optimizers[0]), parts(optimizers[1]), strict=True):
            assert_equal({key: ours[key] for key in theirs}, theirs)


def batches_of(rank: int) -> list[Tensor]:
    """This process's examples of each batch."""
    whole_batches = (torch.randn(6, 90, generator=torch.Generator().manual_seed(i)) for i in range(8))
    return [x[rank :: dist.get_world_size()] for x in whole_batches]


def train_replicas(rank: int, folder: Path) -> dict[str, list[Tensor]]:
    """With DistributedDataParallel and ZeroRedundancyOptimizer; returns where they end."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # importing it warns of deprecations

    batches = batches_of(rank)
    results = {}
    for name in ("ddp", "zero"):
        ddp = DistributedDataParallel(make_model(False))
        if name == "zero":
            optimizer = ZeroRedundancyOptimizer(ddp.parameters(), optimizer_class=AdaMomentum, **OPTIONS)
        else:
            optimizer = AdaMomentum(ddp.parameters(), **OPTIONS)
        for i, x in enumerate(batches):
            optimizer.zero_grad()
            ddp(x).square().mean().backward()
            optimizer.step()
            if name == "zero" and i == 4:
                optimizer.consolidate_state_dict(to=0)
                if rank == 0:
                    torch.save(optimizer.state_dict(), folder / "zero.pt")
            elif i == 4:
                torch.save(optimizer.state_dict(), folder / "ddp.pt")
        results[name] = wholes(ddp)
    return results


@several_processes
def test_training(tmp_path: Path, processes: int) -> None:
    results = run_in_processes(training_worker, processes, tmp_path)
    for other in results[1:]:
        assert_equal(other, results[0])
    assert_equal(results[0]["zero"], results[0]["ddp"])
    # ZeRO saves what one process would.
    zero, ddp = torch.load(tmp_path / "zero.pt"), torch.load(tmp_path / "ddp.pt")
    assert zero["state"].keys() == ddp["state"].keys()
    assert_equal(list(zero["state"].values()), list(ddp["state"].values()))
    assert zero["state"][0]["exp_avg"].dtype == torch.uint8

    # Where borders of shards are not those of blocks, other roundings, but no more of them.
    ends = {}
    for name, options in (("8bit", OPTIONS), ("float32", {**OPTIONS, "state_dtype": None})):
        model = make_model(False)
        take_steps(model.parameters(), AdaMomentum(model.parameters(), **options), range(STEPS))
        ends[name] = wholes(model)
    noise = distance(ends["8bit"], ends["float32"])
    assert 0 < noise < 0.05 * distance(ends["float32"], wholes(make_model(False)))
    assert distance(results[0]["shards"], ends["float32"]) < 1.2 * noise
    assert 0 < distance(results[0]["shards"], ends["8bit"]) < 1.7 * noise  # two such roundings apart


# ---- checkpoints ----


def resume(model: nn.Module, optimizer: AdaMomentum, folder: Path, **how) -> None:
    room = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.load(room, checkpoint_id=folder, **how)
    set_state_dict(model, optimizer, model_state_dict=room["model"], optim_state_dict=room["optimizer"])


def saving_worker(rank: int, folder: Path) -> None:
    """Saves in the middle, goes on, and goes on again from what was saved, in every way."""
    model = sharded_model(False)
    optimizer = AdaMomentum(model.parameters(), **OPTIONS)
    take_steps(model.parameters(), optimizer, range(20))
    saved = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    for state in saved["optimizer"]["state"].values():
        assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
        for key, _ in CODED:
            assert isinstance(state[key], DTensor) and state[key].dtype == torch.bfloat16
    dcp.save(saved, checkpoint_id=folder / "sharded")
    full = {}
    for offload in (False, True):
        wanted = StateDictOptions(full_state_dict=True, cpu_offload=offload)
        full["model"] = get_model_state_dict(model, options=wanted)
        full["optimizer"] = get_optimizer_state_dict(model, optimizer, options=wanted)
    if rank == 0:
        torch.save(full, folder / "full.pt")
    now = {"moments": moments(model, optimizer), "model": wholes(model)}
    flat = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
    flat = {key: t.clone() if isinstance(t, Tensor) else t for key, t in flat.items()}

    take_steps(model.parameters(), optimizer, range(20, 30))
    results = {**now, "end": wholes(model)}
    save(results, rank, folder)
    at_end = parts(optimizer)

    for way in ("folder", "flat", "full", "broadcast", "own"):
        model = sharded_model(False)
        optimizer = AdaMomentum(model.parameters(), **OPTIONS)
        resume(model, optimizer, folder / "sharded")
        if way == "flat":
            wanted = StateDictOptions(flatten_optimizer_state_dict=True)
            set_optimizer_state_dict(model, optimizer, flat, options=wanted)
        elif way in ("full", "broadcast"):
            dist.barrier()
            whole_state = torch.load(folder / "full.pt")["optimizer"] if way == "full" or rank == 0 else {}
            wanted = StateDictOptions(full_state_dict=True, broadcast_from_rank0=way == "broadcast")
            set_optimizer_state_dict(model, optimizer, whole_state, options=wanted)
        elif way == "own":
            optimizer.load_state_dict(optimizer.state_dict())
        take_steps(model.parameters(), optimizer, range(20, 30))
        assert_equal(wholes(model), results["end"])
        assert_equal(parts(optimizer), at_end)


def loading_worker(rank: int, folder: Path) -> None:
    """Goes on from what another number of processes has saved, and from what one has without shards."""
    model = sharded_model(False)
    optimizer = AdaMomentum(model.parameters(), **OPTIONS)
    resume(model, optimizer, folder / "sharded")
    save({"sharded": end_of(model, optimizer), **load_unsharded(rank, folder)}, rank, folder)


def end_of(model: nn.Module, optimizer: AdaMomentum) -> dict:
    """What there is now, and the parameters ten steps later."""
    now = {"moments": moments(model, optimizer), "model": wholes(model)}
    take_steps(model.parameters(), optimizer, range(20, 30))
    return {**now, "end": wholes(model)}


def load_unsharded(rank: int, folder: Path) -> dict[str, dict]:
    """Loads in every way what one process has saved without shards, as codes and decoded, and goes on."""
    results = {}
    for way in ("full", "broadcast", "plain", "folder", "folder as a file"):
        model = sharded_model(False)
        optimizer = AdaMomentum(model.parameters(), **OPTIONS)
        saved = torch.load(folder / "one.pt")
        wanted = StateDictOptions(full_state_dict=True, broadcast_from_rank0=way == "broadcast")
        if way == "folder":
            with pytest.raises(ValueError, match=r"looks like 8-bit codes that were cast.*dcp_to_torch_save"):
                resume(model, optimizer, folder / "codes")
            model = sharded_model(False)
            optimizer = AdaMomentum(model.parameters(), **OPTIONS)
            resume(model, optimizer, folder / "numbers")
        elif way == "plain":
            optimizer.load_state_dict(torch.load(folder / "plain.pt"))
        else:
            whole_state = saved["optimizer"]
            if way == "broadcast":
                given = whole_state if rank == 0 else {}
                with pytest.raises(ValueError, match=r"looks like 8-bit codes that were cast.*decoded"):
                    set_optimizer_state_dict(model, optimizer, given, options=wanted)
                whole_state = decoded(whole_state) if rank == 0 else {}
            elif way == "folder as a file":
                whole_state = torch.load(folder / "codes.pt")["optimizer"]
            set_optimizer_state_dict(model, optimizer, whole_state, options=wanted)
        for p, q in zip(model.parameters(), saved["model"].values(), strict=True):
            p.data.copy_(distributed_like(p, q))
        results[way] = end_of(model, optimizer)
    return results


def assert_goes_on(results: dict, expected: dict) -> None:
    """What was loaded is what was saved, but for numbers too small for their new blocks; and so is the end."""
    assert_equal(results["model"], expected["model"])
    for ours, theirs in zip(results["moments"], expected["moments"], strict=True):
        for key, _ in CODED:
            equal = ours[key] == theirs[key]
            assert equal.float().mean() > 0.9
            # The least that a block can express, of its largest number: both moments reach 2^-14 of it and more.
            apart = (ours[key] - theirs[key]).abs().max()
            assert apart <= theirs[key].abs().max() * 2**-14
    travel = distance(expected["end"], expected["model"])
    assert distance(results["end"], expected["end"]) < 0.02 * travel


def save_unsharded(folder: Path) -> dict:
    """Train in one process without shards, save in every way, and go on."""
    model = make_model(False)
    optimizer = AdaMomentum(model.parameters(), **OPTIONS)
    take_steps(model.parameters(), optimizer, range(20))
    saved = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
    assert saved["optimizer"]["state"]["0.weight"]["exp_avg"].dtype == torch.uint8
    torch.save(saved, folder / "one.pt")
    torch.save(optimizer.state_dict(), folder / "plain.pt")
    dcp.save(saved, checkpoint_id=folder / "codes", no_dist=True)
    dcp_to_torch_save(folder / "codes", folder / "codes.pt")
    dcp.save({**saved, "optimizer": decoded(saved["optimizer"])}, checkpoint_id=folder / "numbers", no_dist=True)
    return end_of(model, optimizer)


@pytest.mark.parametrize(("saved_on", "loaded_on"), [(2, 3), (3, 2)])
def test_a_checkpoint_goes_on_with_another_number_of_processes(tmp_path: Path, saved_on: int, loaded_on: int) -> None:
    expected = run_in_processes(saving_worker, saved_on, tmp_path)[0]
    unsharded = save_unsharded(tmp_path)
    for results in run_in_processes(loading_worker, loaded_on, tmp_path):
        for way, result in results.items():
            assert_goes_on(result, expected if way == "sharded" else unsharded)

    # In one process, without shards, room for codes is not filled with numbers without a word.
    model = make_model(False)
    optimizer = AdaMomentum(model.parameters(), **OPTIONS)
    partial = dcp.DefaultLoadPlanner(allow_partial_load=True)
    with pytest.raises(ValueError, match=r"codes are of step 0, but 'step' is 20.*adamomentum.torch.decoded"):
        resume(model, optimizer, tmp_path / "sharded", no_dist=True, planner=partial)

    # In one process, without shards: from the folder, with room for numbers; and from whole tensors.
    for source in ("folder", "file"):
        model = make_model(False)
        optimizer = AdaMomentum(model.parameters(), **OPTIONS)
        if source == "folder":
            hook = optimizer.register_state_dict_post_hook(lambda _, state_dict: decoded(state_dict))
            resume(model, optimizer, tmp_path / "sharded", no_dist=True)
            hook.remove()
        else:
            full = torch.load(tmp_path / "full.pt")
            set_state_dict(model, optimizer, model_state_dict=full["model"], optim_state_dict=full["optimizer"])
        assert optimizer.state_dict()["state"][0]["exp_avg"].dtype == torch.uint8
        assert_goes_on(end_of(model, optimizer), expected)
