"""Bad input: an early error that names the argument, the value and the remedy, and changes nothing."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adamomentum import AdaMomentum
from adamomentum.torch import fused_cpu, optimizer
from adamomentum.torch.functional import choose_path

NAN, INF = math.nan, math.inf


def parameter(*shape):
    return torch.nn.Parameter(torch.ones(shape or (3,)))


BAD_OPTIONS = [
    ({"lr": -1.0}, ValueError, r"lr must be >= 0 and finite, got -1.0"),
    ({"lr": NAN}, ValueError, r"lr must be >= 0 and finite, got nan"),
    ({"lr": INF}, ValueError, r"lr must be >= 0 and finite, got inf"),
    ({"lr": "0.1"}, TypeError, r"lr must be a number, got '0.1'"),
    ({"lr": True}, TypeError, r"lr must be a number, got True"),
    ({"lr": None}, TypeError, r"lr must be a number, got None"),
    ({"lr": torch.tensor([1e-3, 1e-3])}, ValueError, r"Tensor lr must be 1-element, got shape \(2,\)"),
    ({"lr": torch.tensor(-1e-3)}, ValueError, r"lr must be >= 0 and finite, got -0.001"),
    ({"lr": torch.tensor(NAN)}, ValueError, r"lr must be >= 0 and finite, got nan"),
    ({"betas": (1.0, 0.999)}, ValueError, r"betas\[0\] must be in \[0, 1\), got 1.0"),
    ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] must be in \[0, 1\), got 1.0"),
    ({"betas": (-0.1, 0.999)}, ValueError, r"betas\[0\] must be in \[0, 1\), got -0.1"),
    ({"betas": (0.9, NAN)}, ValueError, r"betas\[1\] must be in \[0, 1\), got nan"),
    ({"betas": (0.9, torch.tensor(1.0))}, ValueError, r"betas\[1\] must be in \[0, 1\), got 1.0"),
    ({"betas": (torch.tensor([0.9, 0.9]), 0.99)}, ValueError, r"Tensor betas\[0\] must be 1-element"),
    ({"betas": 0.9}, TypeError, r"betas must be a pair \(beta1, beta2\), got 0.9"),
    ({"betas": (0.9,)}, TypeError, r"betas must be a pair \(beta1, beta2\), got \(0.9,\)"),
    ({"betas": {0.9: 1, 0.99: 2}}, TypeError, r"betas must be a pair \(beta1, beta2\), got {0.9: 1, 0.99: 2}"),
    ({"betas": "09"}, TypeError, r"betas must be a pair \(beta1, beta2\), got '09'"),
    ({"betas": np.ones(3)}, TypeError, r"betas must be a pair \(beta1, beta2\), got array"),
    ({"betas": (0.9, "0.99")}, TypeError, r"betas\[1\] must be a number, got '0.99'"),
    ({"eps": -1.0}, ValueError, r"eps must be >= 0 and finite, got -1.0"),
    ({"eps": NAN}, ValueError, r"eps must be >= 0 and finite, got nan"),
    ({"eps": None}, TypeError, r"eps must be a number, got None"),
    ({"eps": torch.tensor([1e-8, 1e-8])}, ValueError, r"Tensor eps must be 1-element, got shape \(2,\)"),
    ({"weight_decay": -0.1}, ValueError, r"weight_decay must be >= 0 and finite, got -0.1"),
    ({"weight_decay": INF}, ValueError, r"weight_decay must be >= 0 and finite, got inf"),
    ({"weight_decay": torch.tensor(-0.1)}, ValueError, r"weight_decay must be >= 0 and finite, got -0.1"),
    ({"lr": np.array([1e-3, 1e-3])}, TypeError, r"lr must be a number, got array"),
    ({"lr": np.array(True)}, TypeError, r"lr must be a number, got array\(True\)"),
    ({"betas": "ab"}, TypeError, r"betas must be a pair \(beta1, beta2\), got 'ab'"),
    ({"betas": {0.9, 0.99}}, TypeError, r"betas must be a pair"),
    ({"betas": {0.9: 1, 0.99: 2}}, TypeError, r"betas must be a pair"),
    ({"betas": iter((0.9, 0.99))}, TypeError, r"betas must be a pair"),
    ({"betas": np.array([0.9, 0.99, 0.5])}, TypeError, r"betas must be a pair"),
    ({"betas": np.array([0.9, 1.0])}, ValueError, r"betas\[1\] must be in \[0, 1\), got 1.0"),
    ({"amsgrad": 2}, TypeError, r"amsgrad must be True or False, got 2"),
    ({"amsgrad": "False"}, TypeError, r"amsgrad must be True or False, got 'False'"),
    ({"amsgrad": 1.0}, TypeError, r"amsgrad must be True or False, got 1.0"),
    ({"rectify": np.array([True, True])}, TypeError, r"rectify must be True or False, got array"),
    ({"rectify": None}, TypeError, r"rectify must be True or False, got None"),
    ({"maximize": "no"}, TypeError, r"maximize must be True or False, got 'no'"),
    ({"foreach": 2}, TypeError, r"foreach must be True, False or None, got 2"),
    ({"fused": "yes"}, TypeError, r"fused must be True, False or None, got 'yes'"),
    ({"fused": True, "differentiable": True}, ValueError, r"fused=True does not go with differentiable=True"),
    ({"foreach": True, "fused": True}, ValueError, r"foreach=True and fused=True exclude each other"),
    ({"foreach": True, "differentiable": True}, ValueError, r"foreach=True does not go with differentiable=True"),
    ({"fixed_decay": True, "decoupled_weight_decay": False}, ValueError, r"fixed_decay=True needs decoupled"),
    ({"fixed_decay": True, "weight_decay": 1.5}, ValueError, r"weight_decay must be in \[0, 1\] with fixed_decay"),
    (
        {"state_dtype": torch.float16},
        ValueError,
        r"state_dtype must be torch.float32, .* got torch.float16: in float16",
    ),
    ({"state_dtype": torch.int8}, ValueError, r"state_dtype must be torch.float32, .* got torch.int8"),
    ({"state_dtype": "float16"}, ValueError, r"state_dtype must be torch.float32, .* got 'float16'"),
    ({"state_dtype": 8}, TypeError, r"state_dtype must be torch.float32, .* got 8"),
    ({"state_dtype": "8bit", "amsgrad": True}, ValueError, r"amsgrad=True does not go with state_dtype='8bit': the"),
    ({"state_dtype": torch.bfloat16, "amsgrad": True}, ValueError, r"amsgrad=True does not go with .*bfloat16"),
    ({"state_dtype": "8bit", "differentiable": True}, ValueError, r"differentiable=True does not go with state_dtype"),
    ({"state_dtype": "8bit", "foreach": True}, ValueError, r"foreach=True does not go with state_dtype='8bit'"),
    ({"rounding": "kahan", "foreach": True}, ValueError, r"foreach=True does not go with rounding='kahan'"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
def test_constructor(options, error, message):
    with pytest.raises(error, match=message):
        AdaMomentum([parameter()], **options)


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
def test_group(options, error, message):
    opt = AdaMomentum([parameter()])
    with pytest.raises(error, match=message):
        opt.add_param_group({"params": [parameter()], **options})
    assert len(opt.param_groups) == 1


# A step does not look into one-element tensors: that would wait for their device.
SEEN_BY_STEP = [case for case in BAD_OPTIONS if "torch.tensor" not in case[2] and "tensor(" not in repr(case[0])]


@pytest.mark.parametrize(("options", "error", "message"), SEEN_BY_STEP)
def test_step_after_the_option_was_changed(options, error, message):
    good, p = parameter(), parameter()
    opt = AdaMomentum([{"params": [good]}, {"params": [p]}])
    good.grad, p.grad = torch.ones(3), torch.ones(3)
    opt.param_groups[1].update(options)
    with pytest.raises(error, match=message):
        opt.step()
    assert torch.equal(good, torch.ones(3))
    assert not opt.state


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            torch.ones(3, dtype=torch.int64),
            r"params must be floating-point or complex.*got torch.int64 of shape \(3,\)",
        ),
        (torch.ones(3, dtype=torch.bool), r"params must be floating-point or complex.*got torch.bool"),
        (torch.ones(3).to(torch.float8_e4m3fn), r"params must be floating-point or complex.*got torch.float8_e4m3fn"),
        (torch.ones(3).to_sparse(), r"params must be dense tensors, got layout torch.sparse_coo"),
        (torch.ones(3, dtype=torch.complex64).conj(), r"lazily conjugated or negated.*use p.resolve_conj"),
        (torch.ones(3, dtype=torch.complex64).conj().imag, r"lazily conjugated or negated"),
        (torch.ones(1).expand(3), r"an expanded tensor of shape \(3,\), whose elements share memory; use p.contiguous"),
    ],
)
def test_parameters_that_cannot_be_updated(tensor, message):
    with pytest.raises(TypeError, match=message):
        AdaMomentum([tensor])


def test_sparse_gradient_names_the_alternative_and_leaves_other_groups_alone():
    good = parameter()
    embedding = torch.nn.Embedding(10, 3, sparse=True)
    opt = AdaMomentum([{"params": [good]}, {"params": embedding.parameters()}])
    good.grad = torch.ones(3)
    embedding(torch.tensor([1, 2])).sum().backward()
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"sparse gradients.*set sparse=False.*SparseAdam"):
        opt.step()
    assert torch.equal(good, torch.ones(3))
    assert torch.equal(embedding.weight, before)
    assert not opt.state


def test_gradient_of_another_shape():
    p = parameter(3)
    opt = AdaMomentum([p])
    p.grad = torch.ones(3)
    p.data = torch.ones(1, 3)
    with pytest.raises(ValueError, match=r"got torch.float32 of shape \(3,\) on cpu for .* \(1, 3\).*call zero_grad"):
        opt.step()


def test_state_of_another_shape():
    p = parameter(3)
    opt = AdaMomentum([p])
    p.grad = torch.ones(3)
    opt.step()
    p.data = torch.ones(4)
    p.grad = torch.ones(4)
    with pytest.raises(ValueError, match=r"state no longer fits.*shape \(3,\).* \(4,\).*build a new optimizer"):
        opt.step()
    assert torch.equal(p, torch.ones(4))


def test_differentiable_leaf():
    p = parameter()
    opt = AdaMomentum([p], differentiable=True)
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"does not allow for a leaf that requires grad; give the optimizer clones"):
        opt.step()
    assert not opt.state


def test_empty_and_repeated_parameters():
    with pytest.raises(ValueError, match="empty parameter list"):
        AdaMomentum([])
    p = parameter()
    with pytest.raises(ValueError, match="more than one parameter group"):
        AdaMomentum([{"params": [p]}, {"params": [p]}])
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="must not name a parameter twice"):
        AdaMomentum([p, p])


def test_load_into_other_parameters():
    saved = AdaMomentum([parameter(), parameter()]).state_dict()
    with pytest.raises(ValueError, match="holds 2 parameters, this optimizer 1"):
        AdaMomentum([parameter()]).load_state_dict(saved)


@pytest.mark.parametrize("option", ["lr", "betas"])
def test_tensors_that_became_impossible(option):
    # Read by a step that reads them anyway; never by a capturable one, which would have to wait.
    value = torch.tensor(0.5)
    options = {"lr": value} if option == "lr" else {"betas": (0.9, value)}
    p = parameter()
    opt = AdaMomentum([p], **options)
    p.grad = torch.ones(3)
    opt.step()
    before = p.detach().clone()
    value.fill_(NAN if option == "lr" else 1.0)
    with pytest.raises(ValueError, match=r"lr must be|betas\[1\] must be"):
        opt.step()
    assert torch.equal(p, before)
    assert opt.state[p]["step"] == 1


def test_gradients_that_are_complex_where_the_parameter_is_not():
    for dtype, other in ((torch.complex64, torch.float32), (torch.float32, torch.complex64)):
        p = torch.nn.Parameter(torch.ones(2, dtype=dtype))
        p.grad_dtype = None
        p.grad = torch.ones(2, dtype=other)
        with pytest.raises(ValueError, match=r"a gradient must have the shape and device .* and be complex where"):
            AdaMomentum([p]).step()


def test_state_on_another_device_or_of_another_kind():
    p = parameter()
    opt = AdaMomentum([p])
    p.grad = torch.ones(3)
    opt.step()
    saved = opt.state[p]["exp_avg"]
    for other in (torch.ones(3, device="meta"), torch.ones(3, dtype=torch.complex64)):
        opt.state[p]["exp_avg"] = other
        with pytest.raises(ValueError, match="the state no longer fits its parameter"):
            opt.step()
    opt.state[p]["exp_avg"] = saved
    opt.step()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("step", -1.0, "'step' must be a whole number >= 0, got -1.0"),
        ("step", NAN, "'step' must be a whole number >= 0, got nan"),
        ("step", 2.5, "'step' must be a whole number >= 0, got 2.5"),
        ("step", torch.ones(3), "'step' must be a whole number >= 0, got tensor"),
        ("step", "1", "'step' must be a whole number >= 0, got '1'"),
        ("exp_avg", torch.ones(3, dtype=torch.int8), "'exp_avg' must be a dense real floating-point tensor"),
        ("exp_avg", torch.ones(3, dtype=torch.uint8), r"'exp_avg_scale' must be a torch.uint8 tensor of shape \(1,\)"),
        ("exp_avg", torch.ones(3, dtype=torch.complex64), "'exp_avg' must be a dense real floating-point tensor"),
        ("exp_avg_sq", torch.ones(3).to_sparse(), "'exp_avg_sq' must be a dense real floating-point tensor"),
        ("exp_avg_sq", [1.0, 2.0, 3.0], r"'exp_avg_sq' must be .* got \[1.0, 2.0, 3.0\]"),
    ],
)
def test_load_bad_state(key, value, message):
    p = parameter()
    opt = AdaMomentum([p])
    p.grad = torch.ones(3)
    opt.step()
    saved = opt.state_dict()
    saved["state"][0][key] = value
    with pytest.raises(ValueError, match=message):
        AdaMomentum([parameter()]).load_state_dict(saved)


def test_load_what_is_no_state_dict():
    opt = AdaMomentum([parameter()])
    with pytest.raises(ValueError, match=r"must have the keys 'state' and 'param_groups', got \['model'\]"):
        opt.load_state_dict({"model": {}})
    saved = opt.state_dict()
    with pytest.raises(ValueError, match=r"state 0 lacks"):
        opt.load_state_dict({**saved, "state": {0: [1, 2]}})


def test_load_real_moments_into_a_complex_parameter():
    p = parameter()
    opt = AdaMomentum([p])
    p.grad = torch.ones(3)
    opt.step()
    with pytest.raises(ValueError, match="'exp_avg' must be a dense complex tensor"):
        AdaMomentum([torch.ones(3, dtype=torch.complex64)]).load_state_dict(opt.state_dict())


def test_load_half_a_state():
    p = parameter()
    opt = AdaMomentum([p])
    p.grad = torch.ones(3)
    opt.step()
    saved = opt.state_dict()
    saved["state"] = {0: {"step": saved["state"][0]["step"]}}
    with pytest.raises(ValueError, match=r"state 0 lacks \['exp_avg', 'exp_avg_sq'\]"):
        opt.load_state_dict(saved)


def test_path_choice():
    class Own(torch.nn.Parameter):
        pass

    plain, other = [parameter()], [Own(torch.ones(1))]
    kw = {"foreach": None, "fused": None, "differentiable": False}
    assert choose_path(plain, **kw) == ("foreach" if fused_cpu.why_not() else "native")
    assert choose_path(plain, **{**kw, "fused": False}) == "foreach"
    assert choose_path(plain, **{**kw, "foreach": True}) == "foreach"
    assert choose_path(plain, **{**kw, "foreach": False}) == "for-loop"
    assert choose_path(plain, **{**kw, "differentiable": True}) == "for-loop"
    assert choose_path(other, **{**kw, "fused": False}) == "for-loop"
    for reduced in ("8bit", torch.bfloat16):
        assert choose_path(plain, **kw, state_dtype=reduced) == ("for-loop" if fused_cpu.why_not() else "native")
        assert choose_path(plain, **{**kw, "fused": False}, state_dtype=reduced) == "for-loop"
    assert choose_path([torch.ones(1, device="meta")], **kw) == "for-loop"
    if fused_cpu.why_not() is None:
        assert choose_path(plain, **{**kw, "fused": True}) == "native"
    with pytest.raises(RuntimeError, match=r"got parameters on \['cpu', 'cuda'\]"):
        choose_path([*plain, SimpleNamespace(device=torch.device("cuda"))], **{**kw, "fused": True})


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}, {"fused": True}])
def test_the_path_is_chosen_once_a_step_and_group(options, monkeypatch):
    if options.get("fused") and fused_cpu.why_not():
        pytest.skip("needs the native kernels")
    params = [parameter() for _ in range(4)]
    opt = AdaMomentum([{"params": params[:2]}, {"params": params[2:]}], **options)
    calls = []
    for name in ("choose_kernels", "choose_loop"):
        choose = getattr(optimizer, name)
        monkeypatch.setattr(
            optimizer, name, lambda *args, name=name, choose=choose, **kw: calls.append(name) or choose(*args, **kw)
        )
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    by_loops = "foreach" in options or fused_cpu.why_not() is not None
    assert calls == ["choose_kernels"] * 2 + ["choose_loop"] * 2 * by_loops


def test_a_missing_framework_is_named(monkeypatch):
    import sys

    import adamomentum

    for name in [n for n in sys.modules if n.startswith("adamomentum.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'AdaMomentum needs PyTorch.*pip install "adamomentum\[torch\]"'):
        _ = adamomentum.AdaMomentum


def test_importing_the_package_imports_no_framework():
    import subprocess
    import sys

    code = "import sys, adamomentum; sys.exit(any(m in sys.modules for m in ('torch', 'jax', 'keras', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"foreach": True}])
def test_state_that_was_tampered_with_changes_nothing(options):
    first, p = parameter(), parameter()
    opt = AdaMomentum([{"params": [first]}, {"params": [p]}], **options)
    first.grad, p.grad = torch.ones(3), torch.ones(3)
    opt.step()
    before, saved = first.detach().clone(), opt.state[p]["exp_avg_sq"]
    for bad, message in (
        (torch.ones(4), r"the state no longer fits its parameter: 'exp_avg_sq' is torch.float32 of shape \(4,\)"),
        (torch.ones(3, dtype=torch.float64), r"the moments of a parameter must share a dtype"),
    ):
        opt.state[p]["exp_avg_sq"] = bad
        with pytest.raises(ValueError, match=message):
            opt.step()
        assert torch.equal(first, before)
        assert opt.state[p]["step"] == 1
    opt.state[p]["exp_avg_sq"] = saved
    opt.step()


def test_amsgrad_switched_on_over_reduced_state():
    p = parameter()
    opt = AdaMomentum([p], state_dtype="8bit")
    p.grad = torch.ones(3)
    opt.step()
    opt.param_groups[0].update(state_dtype=None, amsgrad=True)
    with pytest.raises(ValueError, match="do not go with moments stored in bfloat16 or 8 bits"):
        opt.step()
