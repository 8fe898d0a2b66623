"""State: where it lives, how it is saved, and that training goes on from it bit for bit."""

import copy
import io
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from lockstep import SWITCHES
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from adamomentum import AdaMomentum

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def parameters(dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in [(5, 3), (), (0,), (7,)]]


def train(params, opt, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.dtype)
        opt.step()


def assert_same(params_a, opt_a, params_b, opt_b):
    for a, b in zip(params_a, params_b, strict=True):
        assert torch.equal(a, b)
        assert opt_a.state[a].keys() == opt_b.state[b].keys()
        for key, value in opt_a.state[a].items():
            other = opt_b.state[b][key]
            assert value.dtype == other.dtype
            assert value.device == other.device
            assert torch.equal(value, other)


def through_memory(state_dict):
    return copy.deepcopy(state_dict)


def through_a_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("through", [through_memory, through_a_file])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, SWITCHES["all"], {"state_dtype": torch.float64}, {"capturable": True}])
@pytest.mark.parametrize("foreach", [False, True])
def test_state_dict_continues_bit_for_bit(through, dtype, options, foreach):
    params = parameters(dtype)
    opt = AdaMomentum(params, foreach=foreach, **options)
    train(params, opt, 5)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    # Options come from the checkpoint, not from this constructor.
    other = AdaMomentum(others, lr=0.5, weight_decay=0.3)
    other.load_state_dict(through(opt.state_dict()))
    assert_same(params, opt, others, other)
    train(params, opt, 5, seed=1)
    train(others, other, 5, seed=1)
    assert_same(params, opt, others, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_deepcopy_and_pickle_continue_bit_for_bit(dtype, how):
    params = parameters(dtype)
    opt = AdaMomentum(params, **SWITCHES["all"])
    train(params, opt, 5)
    other = how(opt)
    others = other.param_groups[0]["params"]
    train(params, opt, 5, seed=1)
    train(others, other, 5, seed=1)
    assert_same(params, opt, others, other)
    options = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in (opt, other)]
    assert options[0] == options[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_layout_of_fresh_state(dtype):
    p = torch.nn.Parameter(torch.randn(2, 3, 4, 5).to(dtype).to(memory_format=torch.channels_last))
    opt = AdaMomentum([p], amsgrad=True)
    p.grad = torch.randn_like(p)
    opt.step()
    state = opt.state[p]
    expected = {torch.float64: torch.float64, torch.complex64: torch.complex64}.get(dtype, torch.float32)
    for key in MOMENTS:
        assert state[key].dtype == expected
        assert state[key].stride() == p.stride()
    assert (state["step"].dtype, state["step"].shape, state["step"].item()) == (torch.float32, (), 1)


def test_load_copies_instead_of_sharing():
    params = parameters()
    opt = AdaMomentum(params)
    train(params, opt, 2)
    others = parameters()
    other = AdaMomentum(others)
    saved = opt.state_dict()
    before = copy.deepcopy(saved)
    other.load_state_dict(saved)
    train(others, other, 3)
    torch.testing.assert_close(opt.state_dict()["state"], before["state"], rtol=0, atol=0)


def test_load_keeps_wide_state_of_narrowed_parameters_and_widens_half_state():
    params = parameters(torch.float32)
    opt = AdaMomentum(params)
    train(params, opt, 3)
    halves = [torch.nn.Parameter(p.detach().bfloat16()) for p in params]
    other = AdaMomentum(halves)
    other.load_state_dict(opt.state_dict())
    assert torch.equal(other.state[halves[0]]["exp_avg_sq"], opt.state[params[0]]["exp_avg_sq"])

    saved = opt.state_dict()
    saved["state"] = {
        i: {k: v.bfloat16() if k != "step" else v for k, v in state.items()} for i, state in saved["state"].items()
    }
    other.load_state_dict(saved)
    assert other.state[halves[0]]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("step", [3, 3.0, torch.tensor(3), torch.tensor([3.0], dtype=torch.float64)])
def test_load_understands_steps_of_other_kinds(step):
    params = parameters()
    opt = AdaMomentum(params)
    train(params, opt, 3)
    saved = opt.state_dict()
    saved["state"] = {i: {**state, "step": step} for i, state in saved["state"].items()}
    opt.load_state_dict(saved)
    loaded = opt.state[params[0]]["step"]
    assert (loaded.dtype, loaded.shape, loaded.item()) == (torch.float32, (), 3)


def test_a_refused_state_dict_changes_nothing():
    params = parameters()
    opt = AdaMomentum(params)
    train(params, opt, 3)
    before = copy.deepcopy(opt.state_dict())
    bad = copy.deepcopy(before)
    bad["state"][3]["exp_avg"] = torch.zeros(8)
    with pytest.raises(ValueError, match=r"state 3, 'exp_avg' must be a dense real .* of shape \(7,\)"):
        opt.load_state_dict(bad)
    bad = copy.deepcopy(before)
    bad["param_groups"][0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="lr must be >= 0 and finite, got nan"):
        opt.load_state_dict(bad)
    torch.testing.assert_close(opt.state_dict()["state"], before["state"], rtol=0, atol=0)
    assert opt.state_dict()["param_groups"] == before["param_groups"]
    assert not opt._optimizer_load_state_dict_pre_hooks


def test_state_of_other_optimizers_is_refused_with_the_remedy():
    params = parameters()
    adam = torch.optim.AdamW(params)
    train(params, adam, 1)
    with pytest.raises(ValueError, match=r"not written by AdaMomentum; use .*from_adam"):
        AdaMomentum(params).load_state_dict(adam.state_dict())


def test_the_users_own_load_hooks_see_and_may_change_tensors():
    params = parameters()
    opt = AdaMomentum(params)
    train(params, opt, 2)
    saved = opt.state_dict()
    seen = []

    def double(_, state_dict):
        state = {i: {**s, "exp_avg": s["exp_avg"] * 2} for i, s in state_dict["state"].items()}
        return {**state_dict, "state": state}

    opt.register_load_state_dict_pre_hook(double)
    opt.register_load_state_dict_post_hook(lambda o: seen.append(o.state[params[0]]["exp_avg"].clone()))
    opt.load_state_dict(saved)
    assert torch.equal(seen[0], 2 * saved["state"][0]["exp_avg"])


def test_init_state_is_inert_and_idempotent():
    params = parameters()
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    opt = AdaMomentum([*params, frozen], weight_decay=0.5, fixed_decay=True, amsgrad=True)
    before = [p.detach().clone() for p in params]
    opt.init_state()
    assert set(opt.state) == set(params)
    assert all(s["step"] == 0 and not s["exp_avg"].any() for s in opt.state.values())
    train(params, opt, 1)
    after = copy.deepcopy(opt.state_dict()["state"])
    opt.init_state()
    torch.testing.assert_close(opt.state_dict()["state"], after, rtol=0, atol=0)
    fresh = [torch.nn.Parameter(b) for b in before]
    other = AdaMomentum(fresh, weight_decay=0.5, fixed_decay=True, amsgrad=True)
    train(fresh, other, 1)
    assert_same(params, opt, fresh, other)


def test_a_first_step_of_zeros_only_makes_state():
    # What torch.distributed.checkpoint does to get at the state.
    params = parameters()
    opt = AdaMomentum(params, lr=0.0, weight_decay=0.5, fixed_decay=True)
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.zeros_like(p)
    opt.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert all(opt.state[p]["step"] == 0 for p in params)


@pytest.mark.parametrize("fixed_decay", [False, True])
@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)])
@pytest.mark.parametrize("capturable", [False, True])
def test_a_warm_up_from_zero_counts_its_first_step(fixed_decay, lr, capturable):
    params = parameters()
    opt = AdaMomentum(params, lr=lr, weight_decay=0.5, fixed_decay=fixed_decay, capturable=capturable)
    before = [p.detach().clone() for p in params]
    train(params, opt, 1)
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert all(opt.state[p]["step"] == 1 for p in params)
    assert opt.state[params[0]]["exp_avg"].any()


@pytest.mark.parametrize("foreach", [False, True])
def test_amsgrad_switched_on_later_starts_its_maximum_then(foreach):
    params = parameters()
    opt = AdaMomentum(params, foreach=foreach)
    train(params, opt, 3)
    opt.param_groups[0]["amsgrad"] = True
    train(params, opt, 1, seed=1)
    state = opt.state[params[0]]
    eps = sum(1e-16 * 0.999**k for k in range(4))
    np.testing.assert_allclose(state["max_exp_avg_sq"], state["exp_avg_sq"] + eps, rtol=1e-6)


OPTIONS = [key for key in AdaMomentum([torch.zeros(1)]).defaults if key != "full_bias_correction"]


@pytest.mark.parametrize("option", OPTIONS)
def test_what_an_older_version_saved_lacks_an_option(option):
    # A checkpoint or pickle from before the option existed means its default, not this constructor's value.
    params = parameters()
    opt = AdaMomentum(params, amsgrad=True)
    train(params, opt, 2)
    saved = copy.deepcopy(opt.state_dict())
    default = saved["param_groups"][0].pop(option)
    if option == "amsgrad":
        default = False
    other = AdaMomentum(parameters(), lr=0.5, eps=1.0, weight_decay=0.5, maximize=True, rectify=True)
    other.load_state_dict(saved)
    assert other.param_groups[0][option] == default

    del opt.param_groups[0][option], opt.defaults[option]
    other = pickle.loads(pickle.dumps(opt))
    assert other.param_groups[0][option] == default
    train(other.param_groups[0]["params"], other, 1)


def test_why_half_precision_moments_are_refused():
    # One step's decay is less than half a bfloat16 unit, and the square of an ordinary momentum is 0 in float16.
    v = torch.ones(1, dtype=torch.bfloat16)
    assert torch.equal(v * 0.999, v)
    assert torch.tensor(1e-4).square().half() == 0


def test_half_state_widens_to_the_saved_state_dtype():
    params = parameters()
    opt = AdaMomentum(params, state_dtype=torch.float64)
    train(params, opt, 1)
    saved = opt.state_dict()
    saved["state"] = {i: {**s, "exp_avg": s["exp_avg"].bfloat16()} for i, s in saved["state"].items()}
    opt.load_state_dict(saved)
    assert opt.state[params[0]]["exp_avg"].dtype == torch.float64


def test_lazy_parameters_may_come_before_their_shape():
    layer = torch.nn.LazyLinear(3)
    opt = AdaMomentum(layer.parameters())
    layer(torch.ones(2, 5)).sum().backward()
    opt.step()
    assert opt.state[layer.weight]["exp_avg"].shape == (3, 5)


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        p = torch.nn.Parameter(torch.ones(3))
        opt = AdaMomentum([p])
        p.grad = torch.ones(3)
        opt.step()
        assert opt.state[p]["exp_avg"].shape == (3,)


def test_capturable_switched_on_later_keeps_counting():
    params = parameters()
    opt = AdaMomentum(params)
    train(params, opt, 2)
    opt.param_groups[0]["capturable"] = True
    train(params, opt, 1)
    assert opt.state[params[0]]["step"] == 3


def test_capturable_keeps_the_step_on_the_parameters_device():
    p = torch.nn.Parameter(torch.ones(2, device="meta"))
    opt = AdaMomentum([p])
    opt.init_state()
    assert opt.state[p]["step"].device.type == "cpu"
    opt.param_groups[0]["capturable"] = True
    opt.init_state()
    assert opt.state[p]["step"].device.type == "meta"


@pytest.mark.parametrize("state_dtype", [None, torch.float64, torch.bfloat16, "8bit"])
def test_state_dicts_of_distributed_checkpoints(state_dtype):
    """Moved to the CPU they hold nothing but tensors, numbers and text."""
    model = torch.nn.Linear(3, 2)
    opt = AdaMomentum(model.parameters(), state_dtype=state_dtype)
    model(torch.ones(3)).sum().backward()
    opt.step()
    options = StateDictOptions(cpu_offload=True)
    saved = get_optimizer_state_dict(model, opt, options=options)
    other = AdaMomentum(model.parameters(), state_dtype=state_dtype)
    set_optimizer_state_dict(model, other, saved, options=options)
    assert other.state_dict()["param_groups"] == opt.state_dict()["param_groups"]
    torch.testing.assert_close(other.state_dict()["state"], opt.state_dict()["state"], rtol=0, atol=0)


@pytest.mark.parametrize("state_dtype", ["float32", "float64", "bfloat16"])
def test_a_dtype_and_its_name_are_the_same(state_dtype):
    for given in (state_dtype, getattr(torch, state_dtype)):
        p = torch.nn.Parameter(torch.zeros(3))
        opt = AdaMomentum([p], state_dtype=given)
        opt.init_state()
        assert opt.param_groups[0]["state_dtype"] == opt.defaults["state_dtype"] == state_dtype
        assert opt.state[p]["exp_avg"].dtype == getattr(torch, state_dtype)
        older = opt.state_dict()
        older["param_groups"][0]["state_dtype"] = getattr(torch, state_dtype)  # as it was once saved
        opt.load_state_dict(older)
        assert opt.param_groups[0]["state_dtype"] == state_dtype


def test_another_precision_on_resume():
    p = torch.nn.Parameter(torch.ones(300, dtype=torch.bfloat16))
    opt = AdaMomentum([p])
    p.grad = torch.ones_like(p)
    opt.step()
    saved = opt.state_dict()
    for group in saved["param_groups"]:
        group.update(state_dtype="8bit", rounding="kahan")
    other = AdaMomentum([p])
    other.load_state_dict(saved)
    assert other.state[p]["exp_avg"].dtype == torch.uint8
    other.step()
    assert other.state[p]["compensation"].dtype == torch.bfloat16
    assert other.state[p]["step"] == 2


def named(names, shape=(2,)):
    return [(name, torch.nn.Parameter(torch.zeros(shape))) for name in names]


def stepped(groups):
    """An optimizer whose parameter number i has had gradients of 1 + i."""
    opt = AdaMomentum(groups)
    for i, p in enumerate(p for group in opt.param_groups for p in group["params"]):
        p.grad = torch.full_like(p, 1.0 + i)
    opt.step()
    return opt


def momenta(opt):
    return {
        name: round(opt.state[p]["exp_avg"][0].item() * 10)
        for group in opt.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
    }


def test_state_goes_to_the_parameter_of_the_same_name():
    opt = stepped([{"params": named("ab")}, {"params": named("cde"), "lr": 0.5}])
    other = AdaMomentum([{"params": named("ba")}, {"params": named("edc")}])
    other.load_state_dict(opt.state_dict())
    assert momenta(other) == momenta(opt) == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    assert [group["param_names"] for group in other.param_groups] == [["b", "a"], ["e", "d", "c"]]
    assert other.param_groups[1]["lr"] == 0.5


@pytest.mark.parametrize("names", [("a", "new"), ("model.a", "model.b")])
def test_renamed_parameters_go_by_order_and_keep_their_new_names(names):
    opt = stepped(named("ab"))
    other = AdaMomentum(named(names))
    other.load_state_dict(opt.state_dict())
    assert momenta(other) == {names[0]: 1, names[1]: 2}


@pytest.mark.parametrize(
    "groups", [[{"params": named("b")}, {"params": named("a")}], [{"params": named("b")}, {"params": named("z")}]]
)
def test_parameters_that_changed_places_in_an_unknown_way_are_refused(groups):
    opt, other = stepped([{"params": named("a")}, {"params": named("b")}]), AdaMomentum(groups)
    with pytest.raises(ValueError, match=r"the parameter named '[ab]' is at another place in this optimizer's groups"):
        other.load_state_dict(opt.state_dict())
    assert not other.state


def test_what_is_no_state_dict():
    opt = stepped(named("ab"))
    with pytest.raises(TypeError, match=r"state_dict must be a dict .* got NoneType"):
        opt.load_state_dict(None)
    with pytest.raises(ValueError, match="pass its entry 'optimizer'"):
        opt.load_state_dict({"model": {}, "optimizer": opt.state_dict()})
    with pytest.raises(ValueError, match="it holds 2 parameters, this optimizer 1"):
        AdaMomentum(named("a")).load_state_dict(opt.state_dict())


class Listed(Sequence):
    """A list of a configuration library: neither a list nor a tuple."""

    def __init__(self, *values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return self.values[i]


@pytest.mark.parametrize(
    "betas", [[0.9, 0.95], Listed(0.9, 0.95), np.array([0.9, 0.95]), torch.tensor([0.9, 0.95], dtype=torch.float64)]
)
def test_betas_in_any_sequence(betas):
    """As torch's own optimizers take them; kept as a tuple, which a checkpoint of weights_only can hold."""
    a, b, c = (torch.ones(3) for _ in range(3))
    expected, opt = AdaMomentum([a], betas=(0.9, 0.95)), AdaMomentum([b], betas=betas)
    opt.add_param_group({"params": [c], "betas": betas})
    for optimizer in (expected, opt):
        for t in range(3):
            for p in (a, b, c):
                p.grad = torch.full((3,), float(t + 1))
            optimizer.step()
    torch.testing.assert_close(b, a)
    torch.testing.assert_close(c, a)
    assert all(type(group["betas"]) is tuple for group in opt.param_groups)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    assert torch.load(file)["param_groups"][0]["betas"] == (0.9, 0.95)
    opt.param_groups[0]["betas"] = betas  # and between steps
    opt.step()
