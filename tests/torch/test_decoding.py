"""8-bit codes as numbers, and back; with DTensors in test_distributed.py."""

from copy import deepcopy

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

from adamomentum.torch import AdaMomentum, decoded, pieces
from adamomentum.torch.decoding import numbers_of
from adamomentum.torch.precision import BLOCK, decode_m, decode_v, dither, encode_m, encode_v
from adamomentum.torch.state import scale_of

# The functions of a moment, the least exponent of a block, and the least code that its largest number can have.
FORMATS = {"m": (decode_m, encode_m, 16, 119), "v": (decode_v, encode_v, 32, 247)}
OPTIONS = {"lr": 1e-2, "state_dtype": "8bit"}


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


def test_numbers_survive_a_file_that_forgets_the_layout() -> None:
    """As formats do that store channels_last tensors as contiguous ones; codes do not."""
    params, _ = trained()
    p = params[0].reshape(2, 5, 3, 30).contiguous(memory_format=torch.channels_last)
    optimizer = AdaMomentum([p], **OPTIONS)
    take_steps([p], optimizer, 0)
    numbers = decoded(optimizer.state_dict())
    for key in ("exp_avg", "exp_avg_sq"):
        assert numbers["state"][0][key].stride() == p.stride()
        numbers["state"][0][key] = numbers["state"][0][key].contiguous()
    q = p.clone()
    other = AdaMomentum([q], **OPTIONS)
    other.load_state_dict(numbers)
    take_steps([p], optimizer, 1)
    take_steps([q], other, 1)
    assert torch.equal(p, q)
    assert torch.equal(optimizer.state[p]["exp_avg"], other.state[q]["exp_avg"])


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


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # as no_dist=True asks for
def test_a_folder_of_codes_does_not_fill_room_for_numbers(tmp_path) -> None:
    model, optimizer = trained_model()
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path, no_dist=True)
    room = {"optimizer": decoded(get_optimizer_state_dict(model, optimizer))}
    dcp.load(room, checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(ValueError, match=r"'exp_avg' looks like 8-bit codes that were cast to torch\.bfloat16"):
        set_optimizer_state_dict(model, optimizer, room["optimizer"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
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
