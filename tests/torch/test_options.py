"""The forms in which options may come: whatever AdamW takes, in the plain form that a checkpoint can hold."""

from __future__ import annotations

import io
from collections import UserDict
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from adamomentum import AdaMomentum


class ConfigList(Sequence):
    """A list as configuration libraries have it: no list to Python."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def parameter():
    return torch.nn.Parameter(torch.linspace(-1, 1, 6))


def trained(opt, p, steps=3):
    for t in range(steps):
        p.grad = torch.sin(torch.arange(6.0) + t)
        opt.step()
    return p.detach()


PLAIN = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-8, "weight_decay": 0.1, "amsgrad": True, "maximize": False}
FORMS = [
    {"betas": [0.8, 0.95]},
    {"betas": ConfigList(0.8, 0.95)},
    {"betas": np.array([0.8, 0.95])},
    {"betas": torch.tensor([0.8, 0.95], dtype=torch.float64)},
    {"betas": (np.float64(0.8), torch.tensor(0.95, dtype=torch.float64))},
    {"lr": np.array(0.01)},
    {"lr": np.float64(0.01)},
    {"lr": np.array([0.01])},
    {"lr": torch.tensor([0.01], dtype=torch.float64)},
    {"weight_decay": torch.tensor(0.1, dtype=torch.float64)},
    {"weight_decay": np.array(0.1), "eps": np.float64(1e-8)},
    {"eps": torch.tensor(1e-8, dtype=torch.float64)},
    {"amsgrad": 1, "maximize": 0},
    {"amsgrad": np.bool_(True), "maximize": np.False_},
    {"amsgrad": torch.tensor(True), "maximize": np.array(False)},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["constructor", "group", "later", "loaded"])
def test_forms_that_mean_the_same_train_the_same(form, where):
    p, q = parameter(), parameter()
    expected = trained(AdaMomentum([q], **PLAIN), q)
    if where == "constructor":
        opt = AdaMomentum([p], **{**PLAIN, **form})
    else:
        opt = AdaMomentum([{"params": [p], **PLAIN, **(form if where == "group" else {})}])
        if where == "later":
            opt.param_groups[0].update(form)
        elif where == "loaded":
            saved = opt.state_dict()
            saved["param_groups"][0].update(form)
            opt.load_state_dict(saved)
    torch.testing.assert_close(trained(opt, p), expected, rtol=1e-7, atol=0)
    for group in opt.param_groups:
        assert type(group["betas"]) is tuple
        for name in ("lr", "eps", "weight_decay"):
            assert type(group[name]) is float or isinstance(group[name], torch.Tensor)
        assert type(group["amsgrad"]) is bool
        assert type(group["maximize"]) is bool


@pytest.mark.parametrize("form", [*FORMS, {"rounding": np.str_("nearest")}, {"state_dtype": np.str_("float32")}])
def test_checkpoints_hold_nothing_that_torch_load_refuses(form):
    p = parameter()
    opt = AdaMomentum([p], **{**PLAIN, **form})
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    AdaMomentum([parameter()], **PLAIN).load_state_dict(torch.load(file, weights_only=True))


def test_lists_of_a_configuration_library():
    OmegaConf = pytest.importorskip("omegaconf").OmegaConf
    config = OmegaConf.create({"lr": 2e-5, "betas": [0.9, 0.95]})
    group = AdaMomentum([parameter()], **config).param_groups[0]
    assert (group["lr"], group["betas"]) == (2e-5, (0.9, 0.95))
    assert type(group["betas"]) is tuple


def test_options_by_position_are_those_of_adamw():
    args = (1e-2, (0.8, 0.95), 1e-8, 0.1, True)
    ours = AdaMomentum([parameter()], *args).param_groups[0]
    theirs = torch.optim.AdamW([parameter()], *args).param_groups[0]
    for name in ("lr", "betas", "eps", "weight_decay", "amsgrad"):
        assert ours[name] == theirs[name]


def test_a_tensor_weight_decay_may_change_in_place():
    p, q = parameter(), parameter()
    decay = torch.tensor(0.1)
    opt, other = AdaMomentum([p], weight_decay=decay), AdaMomentum([q], weight_decay=0.1)
    trained(opt, p), trained(other, q)
    decay.fill_(5.0)
    other.param_groups[0]["weight_decay"] = 5.0
    torch.testing.assert_close(trained(opt, p), trained(other, q), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [tuple, torch.nn.ParameterList, lambda params: dict.fromkeys(params).keys()])
@pytest.mark.parametrize("options", [{}, {"fused": False}, {"foreach": False}, {"state_dtype": "8bit"}])
def test_params_of_a_group_in_any_collection(kind, options):
    params, others = [parameter(), parameter()], [parameter(), parameter()]
    opt, other = AdaMomentum(params, **options), AdaMomentum(others, **options)
    opt.param_groups[0]["params"] = kind(params)
    for _ in range(3):
        for p, q in zip(params, others, strict=True):
            p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
        opt.step()
        other.step()
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


class Described(UserDict):
    """A state of a wrapper's, which is no dict."""


@pytest.mark.parametrize("options", [{}, {"fused": False}, {"state_dtype": "8bit"}, {"amsgrad": True}])
def test_states_in_mappings_of_other_kinds(options):
    p, q = parameter(), parameter()
    opt, other = AdaMomentum([p], **options), AdaMomentum([q], **options)
    trained(opt, p)
    opt.state[p] = Described(opt.state[p])
    trained(opt, p)
    trained(other, q, 3)
    trained(other, q, 3)
    assert torch.equal(p, q)
    assert all(torch.equal(opt.state[p][key], value) for key, value in other.state[q].items())
    assert opt.state[p]["step"] == 6
    saved = opt.state_dict()
    AdaMomentum([parameter()], **options).load_state_dict(saved)
