"""State: where it lives, how it is saved, and that training goes on from it bit for bit."""

import copy
import io
import pickle
import weakref
from collections import UserDict

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
from adamomentum.bench.memory import peak_bytes, state_bytes
from adamomentum.torch import loading

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
    assert (state["step"].dtype, state["step"].shape, state["step"].item()) == (torch.float64, (), 1)


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
    assert (loaded.dtype, loaded.shape, loaded.item()) == (torch.float64, (), 3)


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


@pytest.mark.parametrize("state_dtype", [None, "8bit"])
def test_fake_tensors(state_dtype):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        p = torch.nn.Parameter(torch.ones(3))
        opt = AdaMomentum([p], state_dtype=state_dtype)
        p.grad = torch.ones(3)
        opt.step()
        assert opt.state[p]["exp_avg"].shape == (3,)
        opt.load_state_dict(opt.state_dict())
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


@pytest.mark.parametrize("state_dtype", [None, torch.float64, torch.bfloat16, "8bit", ("float32", "8bit")])
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


def test_states_under_the_text_of_their_numbers_are_those_of_the_parameters():
    opt = stepped(named("ab"))
    saved = opt.state_dict()
    by_text = {**saved, "state": {str(i): state for i, state in saved["state"].items()}}
    other = AdaMomentum(named("ab"))
    other.load_state_dict(by_text)
    for p, q in zip(opt.state, other.state, strict=True):
        assert torch.equal(opt.state[p]["exp_avg_sq"], other.state[q]["exp_avg_sq"])
    assert by_text["state"].keys() == {"0", "1"}


@pytest.mark.parametrize("key", ["2", 2, "a", "0"])
def test_a_state_of_no_parameter_is_refused(key):
    """torch.optim keeps it under its key, where no step finds it."""
    opt = stepped(named("ab"))
    saved = opt.state_dict()
    saved["state"] = {**saved["state"], key: saved["state"][0]}
    with pytest.raises(ValueError, match=rf"state {key!r} is of no parameter: .*get_optimizer_state_dict"):
        opt.load_state_dict(saved)
    # What is not this optimizer's is left to whoever put it there.
    saved["state"][key] = {"mine": 1}
    opt.load_state_dict(saved)
    assert opt.state[key] == {"mine": 1}


# ---- the first step, and states that others have touched ----


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"state_dtype": "8bit"}, {"rounding": "kahan"}])
def test_an_interrupted_first_step_can_be_taken_again(options, monkeypatch):
    params = parameters(torch.bfloat16)
    others = parameters(torch.bfloat16)
    opt, other = AdaMomentum(params, **options), AdaMomentum(others, **options)
    zeros_like, left = torch.zeros_like, [0]

    def interrupted(*args, **kwargs):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return zeros_like(*args, **kwargs)

    for left[0] in range(1, 9):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(torch, "zeros_like", interrupted)
            fresh = AdaMomentum(parameters(torch.bfloat16), **options)
            train(fresh.param_groups[0]["params"], fresh, 1)
        assert all(not state or {"step", "exp_avg", "exp_avg_sq"} <= state.keys() for state in fresh.state.values())
        train(fresh.param_groups[0]["params"], fresh, 2)
    train(params, opt, 2)
    train(others, other, 2)
    assert_same(params, opt, others, other)
    assert_same(fresh.param_groups[0]["params"], fresh, others, other)


@pytest.mark.parametrize("options", [{}, {"fused": False}, {"state_dtype": "8bit"}, {"capturable": True}])
def test_entries_of_a_wrapper_written_first_do_no_harm(options):
    params, others = parameters(), parameters()
    opt, other = AdaMomentum(params, **options), AdaMomentum(others, **options)
    for p in params:
        opt.state[p]["z"] = p.detach().clone()  # as schedule-free wrappers do
    train(params, opt, 3)
    train(others, other, 3)
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        assert opt.state[p].keys() == {"z", *other.state[q]}


@pytest.mark.parametrize("missing", ["step", "exp_avg", "exp_avg_sq", "exp_avg_scale"])
def test_half_a_state_is_an_error_before_anything_moves(missing):
    options = {"state_dtype": "8bit"} if missing.endswith("scale") else {}
    params = parameters()
    opt = AdaMomentum([{"params": params[:2]}, {"params": params[2:]}], **options)
    train(params, opt, 1)
    del opt.state[params[3]][missing]
    before = copy.deepcopy(params)
    with pytest.raises(ValueError, match=missing):
        train(params, opt, 1)
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def _expand(p, opt):
    p.data = torch.ones(1).expand(7)


BROKEN = {
    "an expanded parameter": _expand,
    "an int step": lambda p, opt: opt.state[p].update(step=3),
    "a step of integers": lambda p, opt: opt.state[p].update(step=torch.tensor(3)),
    "two steps": lambda p, opt: opt.state[p].update(step=torch.ones(2)),
    "a missing moment": lambda p, opt: opt.state[p].pop("exp_avg"),
    "a moment that is no tensor": lambda p, opt: opt.state[p].update(exp_avg=[0.0] * 7),
    "an expanded moment": lambda p, opt: opt.state[p].update(exp_avg=torch.zeros(1).expand(7)),
    "moments of integers": lambda p, opt: opt.state[p].update(
        {key: torch.zeros(7, dtype=torch.int64) for key in ("exp_avg", "exp_avg_sq")}
    ),
    "a sparse moment": lambda p, opt: opt.state[p].update(exp_avg=torch.zeros(7).to_sparse()),
    "a step on meta": lambda p, opt: opt.state[p].update(step=torch.zeros((), device="meta")),
    "expanded exponents": lambda p, opt: opt.state[p].update(
        {key: torch.zeros(7, dtype=torch.uint8) for key in ("exp_avg", "exp_avg_sq")},
        exp_avg_scale=torch.zeros(1, dtype=torch.uint8, device="meta"),
        exp_avg_sq_scale=torch.zeros(1, dtype=torch.uint8),
    ),
    "a moment of another shape": lambda p, opt: opt.state[p].update(exp_avg_sq=torch.zeros(8)),
    "moments of two dtypes": lambda p, opt: opt.state[p].update(exp_avg_sq=torch.zeros(7).double()),
    "codes without exponents": lambda p, opt: opt.state[p].update(
        {key: torch.zeros(7, dtype=torch.uint8) for key in ("exp_avg", "exp_avg_sq")}
    ),
    "a gradient of another shape": lambda p, opt: setattr(p, "grad", None) or setattr(p, "data", torch.ones(8)),
}


@pytest.mark.parametrize("path", [{}, {"foreach": False}, {"foreach": True}, {"capturable": True}])
@pytest.mark.parametrize("broken", BROKEN)
def test_an_error_in_the_second_group_leaves_the_first_as_it_was(broken, path):
    params = parameters()
    first, second = params[0], params[3]
    opt = AdaMomentum([{"params": [first]}, {"params": [second]}], **path)
    train([first, second], opt, 2)
    BROKEN[broken](second, opt)
    before = first.detach().clone(), copy.deepcopy(opt.state[first])
    first.grad, second.grad = torch.ones_like(first), torch.ones_like(second)
    with pytest.raises((ValueError, TypeError)):
        opt.step()
    assert torch.equal(first, before[0])
    assert all(torch.equal(value, opt.state[first][key]) for key, value in before[1].items())


@pytest.mark.parametrize("what", ["parameter", "moment"])
@pytest.mark.parametrize("foreach", [True, False])
def test_an_inference_tensor_in_the_second_group_leaves_the_first_as_it_was(foreach, what):
    first, second = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    opt = AdaMomentum([{"params": [first]}, {"params": [second]}], foreach=foreach)
    opt.init_state()
    with torch.inference_mode():
        if what == "parameter":
            second = torch.ones(3)
            opt.param_groups[1]["params"] = [second]
        else:
            opt.state[second]["exp_avg"] = torch.zeros(3)
        second.grad = torch.ones(3)
    first.grad = torch.ones(3)
    with pytest.raises((TypeError, ValueError), match="inference_mode"):
        opt.step()
    assert torch.equal(first, torch.ones(3))


# ---- memory layout, and memory ----


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32])
def test_what_a_wrapper_keeps_stays_as_it_is_and_lies(dtype):
    p = torch.nn.Parameter(torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last))
    opt = AdaMomentum([p])
    own = opt.state[p]["mask"] = torch.ones(p.shape, dtype=dtype)
    p.grad = torch.randn_like(p)
    opt.step()
    assert opt.state[p]["mask"] is own
    assert (own == 1).all()


def test_an_interrupted_load_says_so_and_can_be_taken_again(monkeypatch):
    params = parameters()
    opt = AdaMomentum(params)
    train(params, opt, 2)
    saved, copied, left = copy.deepcopy(opt.state_dict()), loading._copied, [3]

    def interrupted(*args):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return copied(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loading, "_copied", interrupted)
        opt.load_state_dict(saved)
    with pytest.raises(ValueError, match="interrupted"):
        train(params, opt, 1)
    opt.load_state_dict(saved)
    for i, p in enumerate(params):
        assert all(torch.equal(opt.state[p][key], value) for key, value in saved["state"][i].items())


def test_any_mapping_is_a_state_dict():
    params, others = parameters(), parameters()
    opt, other = AdaMomentum(params), AdaMomentum(others)
    train(params, opt, 2)
    train(others, other, 2)
    saved = opt.state_dict()
    saved["state"] = UserDict({i: UserDict(state) for i, state in saved["state"].items()})
    opt.load_state_dict(UserDict(saved))
    assert_same(params, opt, others, other)


def test_steps_counted_in_float32_by_earlier_versions_are_widened():
    params = parameters()
    opt = AdaMomentum(params)
    train(params, opt, 2)
    for state in opt.state.values():
        state["step"] = state["step"].float()
    loaded = pickle.loads(pickle.dumps(opt))
    assert {(state["step"].dtype, state["step"].item()) for state in loaded.state.values()} == {(torch.float64, 2.0)}


def image_model(channels_last):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 16, 3))
    return model.to(memory_format=torch.channels_last) if channels_last else model


def image_steps(model, opt, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
        opt.step()


def assert_laid_out(model, opt):
    for p in model.parameters():
        for key, value in opt.state[p].items():
            assert value.dim() < 4 or value.stride() == p.stride(), key


STATE_DTYPES = [None, torch.bfloat16, "8bit", ("float32", "8bit")]


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("saved_channels_last", [False, True])
def test_loaded_moments_are_laid_out_like_their_parameters(state_dtype, saved_channels_last):
    model, other = image_model(saved_channels_last), image_model(not saved_channels_last)
    opt = AdaMomentum(model.parameters(), state_dtype=state_dtype, amsgrad=state_dtype is None)
    image_steps(model, opt, 20, 1)
    other.load_state_dict(model.state_dict())
    resumed = AdaMomentum(other.parameters(), state_dtype=state_dtype, amsgrad=state_dtype is None)
    resumed.load_state_dict(opt.state_dict())
    assert_laid_out(other, resumed)
    image_steps(model, opt, 20, 2)
    image_steps(other, resumed, 20, 2)
    # Reduced moments are rounded by other bits, as elements have other places.
    tolerance = {None: 1e-6, torch.bfloat16: 3e-4}.get(state_dtype, 8e-3)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("path", [{}, {"foreach": False}])
def test_moments_follow_a_model_that_is_converted_later(state_dtype, path):
    model, other = image_model(False), image_model(False)
    opt = AdaMomentum(model.parameters(), state_dtype=state_dtype, **path)
    unchanged = AdaMomentum(other.parameters(), state_dtype=state_dtype, **path)
    image_steps(model, opt, 20, 1)
    image_steps(other, unchanged, 20, 1)
    model.to(memory_format=torch.channels_last)
    image_steps(model, opt, 20, 2)
    image_steps(other, unchanged, 20, 2)
    assert_laid_out(model, opt)
    tolerance = {None: 1e-6, torch.bfloat16: 3e-4}.get(state_dtype, 8e-3)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance)


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"state_dtype": torch.bfloat16}, {"state_dtype": "8bit"}])
@pytest.mark.parametrize("saved_as", [{}, {"state_dtype": "8bit"}])
def test_loading_takes_no_more_than_one_tensor_above_the_state(options, saved_as):
    params = [torch.nn.Parameter(torch.randn(64, 1000)) for _ in range(16)]
    saving = AdaMomentum(params, **saved_as)
    train(params, saving, 1)
    saved = {**saving.state_dict(), "param_groups": AdaMomentum(params, **options).state_dict()["param_groups"]}
    opt = AdaMomentum(params, **options)
    peak = peak_bytes(lambda: opt.load_state_dict(saved), torch.device("cpu"))
    # A converted moment is worked on in float32, with the bits of its rounding.
    converted = 0 if options.get("state_dtype") == saved_as.get("state_dtype") else 48 * 64_000
    assert peak <= state_bytes(opt) + 8 * 64_000 + converted


def test_loading_frees_what_it_replaces_first(monkeypatch):
    params = parameters()
    opt = AdaMomentum(params)
    train(params, opt, 1)
    saved = copy.deepcopy(opt.state_dict())
    replaced = [weakref.ref(value) for state in opt.state.values() for value in state.values()]
    alive, copied = [], loading._copied
    monkeypatch.setattr(
        loading, "_copied", lambda *args: alive.append(any(r() is not None for r in replaced)) or copied(*args)
    )
    opt.load_state_dict(saved)
    assert alive == [False] * len(params)


# ---- counting ----


@pytest.mark.parametrize("path", [{}, {"foreach": False}, {"foreach": True}, {"capturable": True}])
def test_steps_are_counted_beyond_what_float32_can(path):
    p = torch.nn.Parameter(torch.ones(4))
    opt = AdaMomentum([p], **path)
    train([p], opt, 1)
    saved = opt.state_dict()
    saved["state"][0]["step"] = torch.tensor(2.0**24 - 1)
    opt.load_state_dict(saved)
    train([p], opt, 3)
    assert opt.state[p]["step"].item() == 2**24 + 2


@pytest.mark.parametrize(
    "options", [{"rounding": "stochastic"}, {"state_dtype": torch.bfloat16}, {"state_dtype": "8bit"}]
)
def test_rounding_goes_on_drawing_beyond_what_float32_counts(options):
    # One lr of travel in all, at a step count where float32 would repeat the same random bits for ever.
    p = torch.nn.Parameter(torch.ones(2000, dtype=torch.bfloat16 if "rounding" in options else torch.float32))
    opt = AdaMomentum([p], lr=1e-5, **options)
    p.grad = torch.ones_like(p)
    opt.step()
    opt.state[p]["step"].fill_(2.0**24 + 100)
    for key in ("exp_avg", "exp_avg_sq"):
        if "state_dtype" not in options:
            opt.state[p][key].fill_(1.0)
    before = p.detach().double().mean().item()
    drawn = set()
    for _ in range(1000):
        opt.step()
        moments = opt.state[p]["exp_avg"], opt.state[p]["exp_avg_sq"]
        drawn.add(tuple(t[0].item() for t in (moments if "state_dtype" in options else (p,))))
    assert len(drawn) > 3
    if "rounding" in options:
        assert abs(before - p.detach().double().mean().item() - 1e-2) < 5e-4
