"""Where the part of one process lies, for every process of several meshes, with a process group that sends nothing."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from adamomentum.torch import AdaMomentum
from adamomentum.torch.precision import block_count, local_part
from adamomentum.torch.sharded import first_element, local_tensors, placed_like


@pytest.fixture
def on_rank() -> Iterator[Callable[[int, int], None]]:
    """Makes this process the one of that rank, of so many."""

    def begin(rank: int, count: int) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=count)

    yield begin
    dist.destroy_process_group()


def positions(shape: tuple[int, ...], channels_last: bool = False) -> torch.Tensor:
    """A tensor whose elements say where in its memory they are."""
    t = torch.empty(shape)
    t = t.contiguous(memory_format=torch.channels_last) if channels_last else t
    t.as_strided((t.numel(),), (1,)).copy_(torch.arange(t.numel()))
    return t


@pytest.mark.parametrize("shape", [(7, 4), (2, 3), (9,), (1,), (4, 2, 3)])
@pytest.mark.parametrize(
    ("mesh", "placements"),
    [
        ((4,), [Shard(0)]),
        ((2, 3), [Shard(0), Shard(0)]),
        ((2, 2), [Replicate(), Shard(0)]),
        ((3, 2), [Shard(0), Replicate()]),
    ],
    ids=str,
)
def test_a_part_of_rows_begins_where_its_first_element_is(on_rank, shape, mesh, placements) -> None:
    ranks = torch.Size(mesh).numel()
    whole, seen = positions(shape), set()
    for rank in range(ranks):
        on_rank(rank, ranks)
        part = distribute_tensor(whole, init_device_mesh("cpu", mesh), placements, src_data_rank=None)
        local = part.to_local().flatten()
        seen |= set(local.tolist())
        assert torch.equal(local, first_element(part) + torch.arange(len(local)).float())
    assert seen == set(range(whole.numel()))


def test_rows_in_channels_last_begin_there_too(on_rank) -> None:
    whole = positions((5, 3, 2, 2), channels_last=True)
    on_rank(1, 2)
    part = distribute_tensor(whole, init_device_mesh("cpu", (2,)), [Shard(0)], src_data_rank=None)
    part._local_tensor = whole[3:]  # distribute_tensor made it contiguous
    assert first_element(part) == whole[3:].min() == 36


@pytest.mark.parametrize("placements", [[Shard(1), Replicate()], [Replicate(), Replicate()], [Shard(0), Shard(1)]])
def test_other_parts_count_from_their_own_beginning(on_rank, placements) -> None:
    on_rank(3, 4)
    part = distribute_tensor(positions((6, 4)), init_device_mesh("cpu", (2, 2)), placements, src_data_rank=None)
    assert first_element(part) == 0
    assert first_element(torch.ones(3)) == 0
    assert first_element(placed_like(torch.nn.Parameter(part), torch.tensor(1.0).expand(6, 4))) == 0


def test_rows_that_are_the_inner_dimension_in_memory_count_from_their_own_beginning(on_rank) -> None:
    on_rank(1, 2)
    mesh = init_device_mesh("cpu", (2,))
    part = distribute_tensor(torch.ones(6, 4), mesh, [Shard(0)], src_data_rank=None)
    assert first_element(part) == 12
    part._local_tensor = torch.ones(4, 3).t()
    assert first_element(part) == 0


def test_placed_like_shards_what_is_whole(on_rank) -> None:
    on_rank(1, 2)
    whole = positions((5, 2))
    part = distribute_tensor(torch.zeros(5, 2), init_device_mesh("cpu", (2,)), [Shard(0)], src_data_rank=None)
    assert torch.equal(placed_like(part, whole).to_local(), whole[3:])
    assert placed_like(part, part) is part
    assert placed_like(torch.zeros(5, 2), whole) is whole


@pytest.mark.parametrize("rank", [0, 2])
def test_the_state_has_blocks_of_this_process_alone(on_rank, rank) -> None:
    on_rank(rank, 3)
    p = distribute_tensor(torch.ones(5, 300), init_device_mesh("cpu", (3,)), [Shard(0)], src_data_rank=None)
    p.requires_grad_()
    optimizer = AdaMomentum([p], state_dtype="8bit")
    optimizer.init_state()
    state = optimizer.state[p]
    assert state["exp_avg"].dtype == torch.uint8 and state["exp_avg"].placements == p.placements
    assert state["exp_avg_scale"].shape == (block_count(local_part(p).numel()),) == ((3,) if rank == 0 else (2,))
    first, (param, grad, local) = local_tensors(p, p, state)
    assert first == 600 * rank and param.data_ptr() == grad.data_ptr() == p.to_local().data_ptr()
    assert local["exp_avg"].shape == param.shape and local["exp_avg_scale"] is state["exp_avg_scale"]


def test_what_is_not_placed_alike_is_refused(on_rank) -> None:
    on_rank(0, 2)
    mesh = init_device_mesh("cpu", (2,))
    p = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)], src_data_rank=None)
    optimizer = AdaMomentum([p], state_dtype="8bit")
    p.grad = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)], src_data_rank=None)
    optimizer.init_state()
    state = optimizer.state[p]
    moment = state["exp_avg"]
    state["exp_avg"] = moment.redistribute(mesh, [Replicate()])
    with pytest.raises(ValueError, match="the state no longer fits its parameter: 'exp_avg'"):
        optimizer.step()
    state["exp_avg"] = moment
    plain = torch.nn.Parameter(torch.ones(4, 2))
    plain.grad = p.grad
    other = AdaMomentum([plain], state_dtype="8bit")
    with pytest.raises(ValueError, match="must be a DTensor where its parameter is one, got a DTensor for a Parameter"):
        other.step()
    with pytest.raises(ValueError, match="must not be a DTensor for a parameter that is none"):
        other.load_state_dict(optimizer.state_dict())
    partial = DTensor.from_local(torch.ones(4, 2), mesh, [Partial()], run_check=False)
    with pytest.raises(TypeError, match=r"must not be partial sums with state_dtype='8bit'.*redistribute"):
        AdaMomentum([partial], state_dtype="8bit")
