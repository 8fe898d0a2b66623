"""8-bit codes as numbers, and back; with DTensors in test_distributed.py."""

from copy import deepcopy

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

from adamomentum.torch import AdaMomentum, decoded, pieces
from adamomentum.torch.decoding import numbers_of
from adamomentum.torch.precision import BLOCK, decode_m, decode_v, dither, encode_m, encode_v, unpack
from adamomentum.torch.state import CODED, blocks_of, scale_of

# The functions of a moment, the least exponent of a block, and the least code that its largest number can have.
FORMATS = {"m": (decode_m, encode_m, 16, 119), "v": (decode_v, encode_v, 32, 247)}
OPTIONS = {"lr": 1e-2, "state_dtype": "8bit"}
no_group = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # as no_dist=True asks for


def take_steps(params, optimizer, seed: int, count: int = 3) -> None:
    """With gradients of many sizes."""
    generator = torch.Generator().manual_seed(seed)
    params = list(params)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator) * 10 ** (4 * torch.rand(p.shape, generator=generator))
        optimizer.step()


def trained(shape=(3, 300)):
    params = [torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape), torch.tensor(2.0)]
    optimizer = AdaMomentum(params, **OPTIONS)
    take_steps(params, optimizer, 0)
    return params, optimizer


def trained_model(seed: int = 0):
    torch.manual_seed(seed)
    model = nn.Linear(300, 2)
    optimizer = AdaMomentum(model.parameters(), **OPTIONS)
    take_steps(model.parameters(), optimizer, seed)
    return model, optimizer


@pytest.mark.parametrize("moment", FORMATS)
def test_bfloat16_has_the_number_of_every_code(moment) -> None:
    decode, _, least, _ = FORMATS[moment]
    exponents = torch.arange(least, 255, dtype=torch.uint8)
    codes = torch.arange(BLOCK, dtype=torch.uint8).repeat(len(exponents))
    numbers = decode(codes, exponents)
    assert torch.equal(numbers.bfloat16().float(), numbers)
    assert torch.equal(numbers_of(codes, exponents, moment), numbers.bfloat16())
    assert numbers.isfinite().all()


@pytest.mark.parametrize("moment", FORMATS)
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_what_codes_stand_for_is_coded_again_without_rounding(moment, step) -> None:
    """Whether a block's largest number was in its highest binade, or had been rounded down from just above."""
    decode, encode, least, top = FORMATS[moment]
    exponents = torch.arange(least, 255, dtype=torch.uint8)
    every = torch.arange(BLOCK, dtype=torch.uint8)
    magnitude = every & 0x7F if moment == "m" else every
    for codes in (every, every[magnitude <= top].repeat(2)[:BLOCK]):
        codes = codes.repeat(len(exponents))
        numbers = decode(codes, exponents)
        random = dither(codes.numel(), step, moment, codes.device, 12345)
        again = decode(*encode(numbers, random))
        assert torch.equal(again.view(torch.int32), numbers.view(torch.int32))  # negative zeros too


def test_a_spoiled_block_stays_one() -> None:
    x = torch.ones(2 * BLOCK)
    x[3] = torch.inf
    codes, exponents = encode_m(x, dither(x.numel(), 1, "m", x.device))
    numbers = numbers_of(codes, exponents, "m")
    assert numbers[:BLOCK].isnan().all() and not numbers[BLOCK:].isnan().any()
    assert encode_m(numbers.float(), dither(x.numel(), 2, "m", x.device))[1].tolist() == [255, exponents[1]]


def test_decoded_is_a_state_dict_that_goes_on_bit_for_bit(monkeypatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_ELEMENTS", {"default": 512})  # the tensor is decoded and coded in two stretches
    params, optimizer = trained()
    state_dict = optimizer.state_dict()
    before = deepcopy(state_dict)
    numbers = decoded(state_dict)
    for i, state in state_dict["state"].items():
        assert {key: t.tolist() for key, t in state.items()} == {k: t.tolist() for k, t in before["state"][i].items()}
        assert set(numbers["state"][i]) == {"step", "exp_avg", "exp_avg_sq"}
        assert numbers["state"][i]["step"] is state["step"]
        for key in ("exp_avg", "exp_avg_sq"):
            assert numbers["state"][i][key].dtype == torch.bfloat16
    assert numbers["param_groups"] is state_dict["param_groups"]

    others = [p.clone() for p in params]
    other = AdaMomentum(others, **OPTIONS)
    other.load_state_dict(numbers)
    assert torch.equal(decoded(other.state_dict())["state"][0]["exp_avg_sq"], numbers["state"][0]["exp_avg_sq"])
    take_steps(params, optimizer, 1)
    take_steps(others, other, 1)
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, other.state[q][key])


@pytest.mark.parametrize("form", ["numbers", "codes", "codes, decoded later"])
def test_moments_survive_a_file_that_forgets_the_layout(form) -> None:
    """As formats do that store channels_last tensors as contiguous ones."""
    params, _ = trained()
    p = params[0].reshape(2, 5, 3, 30).contiguous(memory_format=torch.channels_last)
    optimizer = AdaMomentum([p], **OPTIONS)
    take_steps([p], optimizer, 0)
    saved = optimizer.state_dict()
    saved = decoded(saved) if form == "numbers" else saved
    for key in ("exp_avg", "exp_avg_sq"):
        assert saved["state"][0][key].stride() == p.stride()
        saved["state"][0][key] = saved["state"][0][key].contiguous()
    q = p.clone()
    other = AdaMomentum([q], **OPTIONS)
    other.load_state_dict(decoded(saved) if form == "codes, decoded later" else saved)
    take_steps([p], optimizer, 1)
    take_steps([q], other, 1)
    assert torch.equal(p, q)
    assert torch.equal(optimizer.state[p]["exp_avg"], other.state[q]["exp_avg"])


@no_group
@pytest.mark.parametrize("way", ["in place", "as a file"])
@pytest.mark.parametrize(("saved_in", "loaded_in"), [(0, 1), (1, 0)])
def test_a_folder_of_codes_goes_on_in_another_memory_format(tmp_path, way, saved_in, loaded_in) -> None:
    formats = (torch.contiguous_format, torch.channels_last)
    start = torch.linspace(-1, 1, 900).reshape(2, 5, 3, 30)
    p, q = (start.to(memory_format=formats[i], copy=True).requires_grad_() for i in (saved_in, loaded_in))
    optimizer, other = AdaMomentum([p], **OPTIONS), AdaMomentum([q], **OPTIONS)
    take_steps([p], optimizer, 0)
    dcp.save(optimizer.state_dict(), checkpoint_id=tmp_path / "folder", no_dist=True)
    if way == "in place":
        other.init_state()
        room = other.state_dict()
        dcp.load(room, checkpoint_id=tmp_path / "folder", no_dist=True)
    else:
        dcp_to_torch_save(tmp_path / "folder", tmp_path / "file.pt")
        room = torch.load(tmp_path / "file.pt")
    other.load_state_dict(room)
    for key, moment in CODED:
        before, after = (
            unpack(state[key], state[scale_of(key)], moment) for state in (optimizer.state[p], other.state[q])
        )
        # Blocks are others, and round what they cannot express; an error of order would be as large as the numbers.
        assert (before == after).float().mean() > 0.9
        assert (before - after).abs().max() <= before.abs().max() * 2**-14


def test_what_has_no_codes_stays_the_same_object() -> None:
    p = torch.ones(3)
    optimizer = AdaMomentum([p], state_dtype=torch.bfloat16)
    take_steps([p], optimizer, 0)
    state_dict = optimizer.state_dict()
    assert decoded(state_dict)["state"][0] is state_dict["state"][0]
    assert decoded({"state": {0: None}, "param_groups": []})["state"] == {0: None}


def test_codes_without_their_exponents_are_refused() -> None:
    _, optimizer = trained()
    state_dict = deepcopy(optimizer.state_dict())
    del state_dict["state"][0][scale_of("exp_avg_sq")]
    with pytest.raises(ValueError, match=r"state 0, 'exp_avg_sq_scale' must be a tensor of shape \(4,\).*got None"):
        decoded(state_dict)


@no_group
def test_a_folder_of_codes_does_not_fill_room_for_numbers(tmp_path) -> None:
    model, optimizer = trained_model()
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path, no_dist=True)
    room = {"optimizer": decoded(get_optimizer_state_dict(model, optimizer))}
    dcp.load(room, checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(ValueError, match=r"'exp_avg' looks like 8-bit codes that were cast to torch\.bfloat16"):
        set_optimizer_state_dict(model, optimizer, room["optimizer"])


# What a folder may hold instead of the codes that an optimizer of plain tensors gives room for.
OTHER_FORMATS = {
    "of shards": {},
    "float32": {"state_dtype": None},
    "bfloat16": {"state_dtype": torch.bfloat16},
    "m in float32": {"state_dtype": ("float32", "8bit")},
    "v in bfloat16": {"state_dtype": ("8bit", "bfloat16")},
}


@no_group
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("room_steps", [0, 2, 3])
@pytest.mark.parametrize("saved_as", OTHER_FORMATS)
def test_numbers_that_were_cast_to_codes_are_refused(tmp_path, saved_as, room_steps, flat) -> None:
    """allow_partial_load keeps the exponents that a folder of numbers lacks, and casts those to the codes."""
    wanted = StateDictOptions(flatten_optimizer_state_dict=flat)
    torch.manual_seed(0)
    model = nn.Linear(300, 2)
    optimizer = AdaMomentum(model.parameters(), **{**OPTIONS, **OTHER_FORMATS[saved_as]})
    take_steps(model.parameters(), optimizer, 0)
    if saved_as == "of shards":
        optimizer.register_state_dict_post_hook(lambda _, state_dict: decoded(state_dict))
    saved = get_optimizer_state_dict(model, optimizer, options=wanted)
    dcp.save({"optimizer": saved}, checkpoint_id=tmp_path, no_dist=True)

    other = AdaMomentum(model.parameters(), **OPTIONS)
    other.init_state()
    take_steps(model.parameters(), other, 5, room_steps)
    room = {"optimizer": get_optimizer_state_dict(model, other, options=wanted)}
    with pytest.raises(dcp.CheckpointException, match=r"Missing key in checkpoint .*\.exp_avg(_sq)?_scale"):
        dcp.load(room, checkpoint_id=tmp_path, no_dist=True)
    dcp.load(room, checkpoint_id=tmp_path, planner=DefaultLoadPlanner(allow_partial_load=True), no_dist=True)
    # In room that has taken as many steps, and where torch does not hand over the step, it shows in the codes.
    step = r"codes are of step \d, but 'step' is 3, .* without allow_partial_load"
    zeros = r"'exp_avg(_sq)?' is 0 in every state"
    codes = r"these 8-bit codes are not those of 'exp_avg(_sq)?_scale'"
    expected = (codes if room_steps == 3 else step) if not flat else (codes if room_steps else zeros)
    with pytest.raises(ValueError, match=expected):
        set_optimizer_state_dict(model, other, room["optimizer"], options=wanted)


def test_what_is_said_of_blocks_is_checked() -> None:
    _, optimizer = trained()
    saved = optimizer.state_dict()
    assert saved["state"][0]["exp_avg_blocks"].tolist() == [3, 300, 1]
    assert saved["state"][1]["exp_avg_blocks"].tolist() == [3]
    assert not {blocks_of(key) for key, _ in CODED} & optimizer.state[optimizer.param_groups[0]["params"][0]].keys()
    for wrong, message in (
        (torch.tensor([3.0, 300, 1]), r"'exp_avg_blocks' must be a torch.int64 tensor of shape \(3,\)"),
        (torch.tensor([3, 300]), r"'exp_avg_blocks' must be a torch.int64 tensor of shape \(3,\)"),
        (torch.tensor([3, 1, 1]), r"'exp_avg_blocks' has \[1, 1\], which are not the strides of a dense tensor"),
        (torch.tensor([3, 1, 4]), r"'exp_avg_blocks' has \[1, 4\], which are not the strides of a dense tensor"),
        (torch.tensor([2, 300, 1]), r"codes are of step 2, but 'step' is 3"),
    ):
        entries = {**saved["state"][0], "exp_avg_blocks": wrong}
        for load in (optimizer.load_state_dict, decoded):
            with pytest.raises(ValueError, match=message):
                load({**saved, "state": {**saved["state"], 0: entries}})
    # Older files say nothing of it.
    older = {key: t for key, t in saved["state"][0].items() if key not in ("exp_avg_blocks", "exp_avg_sq_blocks")}
    optimizer.load_state_dict({**saved, "state": {**saved["state"], 0: older}})


@no_group
@pytest.mark.parametrize("flat", [False, True])
def test_a_hook_decodes_on_both_sides_of_a_folder(tmp_path, flat) -> None:
    wanted = StateDictOptions(flatten_optimizer_state_dict=flat)
    (model, optimizer), (other, other_optimizer) = trained_model(), trained_model(seed=7)
    other.load_state_dict(model.state_dict())
    for each in (optimizer, other_optimizer):
        each.register_state_dict_post_hook(lambda _, state_dict: decoded(state_dict))
    saved = get_optimizer_state_dict(model, optimizer, options=wanted)
    dcp.save({"optimizer": saved}, checkpoint_id=tmp_path, no_dist=True)
    room = {"optimizer": get_optimizer_state_dict(other, other_optimizer, options=wanted)}
    dcp.load(room, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(other, other_optimizer, room["optimizer"], options=wanted)
    take_steps(model.parameters(), optimizer, 1)
    take_steps(other.parameters(), other_optimizer, 1)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, other_optimizer.state[q][key])


def test_whole_numbers_alone_are_not_codes() -> None:
    """In units of gradients, those of a parameter with one element often are whole."""
    p = torch.tensor(1.0)
    optimizer = AdaMomentum([p], **OPTIONS)
    p.grad = torch.tensor(1e4)
    optimizer.step()
    numbers = decoded(optimizer.state_dict())
    for value in (9.0, 112.0, 240.0):
        numbers["state"][0]["exp_avg"].fill_(value)
        numbers["state"][0]["exp_avg_sq"].fill_(value)
        optimizer.load_state_dict(numbers)
        assert decoded(optimizer.state_dict())["state"][0]["exp_avg"] == value
        assert decoded(optimizer.state_dict())["state"][0]["exp_avg_sq"] == value
