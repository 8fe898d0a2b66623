"""The registry: what it declares, what it builds, what it refuses; optimizers of the user's own."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from adamomentum.study import registry
from adamomentum.study.registry import Range
from adamomentum.study.spec import OptimizerSpec

NAMES = list(registry.OPTIMIZERS)


class Scaled(torch.optim.Optimizer):
    """Sign descent: an optimizer of a user's own."""

    def __init__(self, params, lr, scale=1.0) -> None:
        super().__init__(params, {"lr": lr, "scale": scale})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * group["scale"] * p.grad.sign()


class TakesAnything(Scaled):
    """Passes on what it knows, as some libraries' classes do."""

    def __init__(self, params, lr, **others) -> None:
        super().__init__(params, lr, others.get("scale", 1.0))


def parameter():
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    p.grad = torch.tensor([0.5, -0.25])
    return p


def own(name="Scaled", **changes):
    given = {"label": "Mine", "default_lr": 0.1, "hyperparameters": {"scale": 2.0}, "space": {"lr": Range(1e-3, 1.0)}}
    return registry.custom(f"{__name__}:{name}", **{**given, **changes})


def test_planning_imports_no_framework() -> None:
    code = (
        "import sys; from adamomentum.study import registry\n"
        "registry.custom('nowhere:Lion', 'Lion', 1e-4, {}, {'lr': registry.Range(1e-5, 1e-2)}).spec(1e-4)\n"
        "[o.spec(o.default_lr) for o in registry.OPTIMIZERS.values()]\n"
        "print([m for m in ('torch', 'pytorch_optimizer', 'nowhere') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "lr", "decay"),
    [
        ("adamomentum", (5e-5, 1.5e-2), (4.36e-3, 4.36)),
        ("adamomentum-fbc", (5e-5, 1.5e-2), (4.36e-3, 4.36)),
        ("sgdm", (3e-3, 30.0), (1e-5, 1e-2)),
        ("adam", (2e-4, 6e-2), (1e-6, 1e-3)),
        *(
            (n, (2e-4, 6e-2), (1e-3, 1.0))
            for n in ("adamw", "nadamw", "radam", "yogi", "adabound", "adabelief", "eadam", "muon")
        ),
    ],
)
def test_spaces_are_those_that_the_protocol_declares(name, lr, decay) -> None:
    assert registry.get(name).space == {"lr": Range(*lr), "weight_decay": Range(*decay)}


def test_adaptive_methods_search_equally_wide_spaces() -> None:
    widths = {
        name: [math.log10(r.high / r.low) for r in (o.space["lr"], o.space["weight_decay"])]
        for name, o in registry.OPTIMIZERS.items()
        if name != "sgdm"
    }
    for width in widths.values():
        assert width == pytest.approx(widths["adamw"], abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_published_learning_rates_lie_inside_of_their_spaces(name) -> None:
    entry = registry.get(name)
    assert 0 < entry.space["lr"].position(entry.default_lr) < 1


def test_a_range_is_logarithmic_and_its_values_are_readable() -> None:
    r = Range(1e-3, 1.0)
    assert [r.at(u) for u in (0, 1 / 3, 0.5, 1)] == [0.001, 0.01, 0.0316, 1.0]
    assert r.at(-1 / 3) == 1e-4
    assert r.position(r.at(0.25)) == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_a_range_that_cannot_be_searched_is_refused(ends) -> None:
    with pytest.raises(ValueError, match="0 < low < high"):
        Range(*ends)


@pytest.mark.parametrize("name", NAMES)
def test_every_declared_hyperparameter_reaches_the_optimizer(name) -> None:
    entry = registry.get(name)
    optimizer = registry.build(entry.spec(0.01), [parameter()])
    (group,) = optimizer.param_groups
    for key, value in {"lr": 0.01, **entry.hyperparameters}.items():
        # A few are held by the object, not by its groups.
        actual = group[key] if key in group else getattr(optimizer, key)
        assert actual == value, key


@pytest.mark.parametrize("name", NAMES)
def test_no_hyperparameter_is_swallowed_or_left_to_the_library(name) -> None:
    spec = registry.get(name).spec(0.01)
    more = OptimizerSpec(name=name, lr=0.01, hyperparameters={**spec.hyperparameters, "epsilon": 1.0})
    with pytest.raises(ValueError, match=f"{name} has no hyper-parameter epsilon; it has: lr, "):
        registry.build(more, [parameter()])
    less = {k: v for k, v in spec.hyperparameters.items() if k != "weight_decay"}
    with pytest.raises(ValueError, match=f"{name} needs a value for weight_decay; it has: lr, "):
        registry.build(OptimizerSpec(name=name, lr=0.01, hyperparameters=less), [parameter()])


def test_reduced_states_are_an_option_of_adamomentum_alone() -> None:
    def built(name):
        h = {**registry.get(name).hyperparameters, "state_dtype": "bfloat16"}
        return registry.build(OptimizerSpec(name=name, lr=0.01, hyperparameters=h), [parameter()])

    optimizer = built("adamomentum")
    optimizer.step()
    (state,) = optimizer.state.values()
    assert state["exp_avg"].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="adam has no hyper-parameter state_dtype"):
        built("adam")


def test_nadamw_is_the_recurrence_with_a_constant_momentum() -> None:
    """In float64 over 30 steps, by hand; at torch's own momentum_decay it is another one."""
    rng = np.random.default_rng(0)
    grads, theta = rng.normal(size=(30, 5)), rng.normal(size=5)
    h = dict(registry.get("nadamw").hyperparameters)
    lr, decay, eps, (b1, b2) = 0.01, h["weight_decay"], h["eps"], h["betas"]

    def trained(**changes) -> np.ndarray:
        p = torch.nn.Parameter(torch.from_numpy(theta.copy()))
        optimizer = registry.build(OptimizerSpec(name="nadamw", lr=lr, hyperparameters={**h, **changes}), [p])
        for g in grads:
            p.grad = torch.from_numpy(g)
            optimizer.step()
        return p.detach().numpy()

    expected, m, v = theta.copy(), np.zeros(5), np.zeros(5)
    for t, g in enumerate(grads, 1):
        expected *= 1 - lr * decay
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        expected -= lr * ahead / (np.sqrt(v / (1 - b2**t)) + eps)
    np.testing.assert_allclose(trained(), expected, rtol=1e-6)  # torch keeps the product of momenta in float32
    assert np.abs(trained(momentum_decay=4e-3) - expected).max() > lr / 10


def test_options_of_adamomentum_that_a_spec_leaves_out_are_off() -> None:
    for name in ("adamomentum", "adamomentum-fbc"):
        entry = registry.get(name)
        assert not {"adjust_lr", "second_moment", "nesterov"} & entry.spec(0.01).hyperparameters.keys()
        assert entry.has("adjust_lr") and not entry.has("momentum")
    changed = registry.get("adamomentum").changed(hyperparameters={"adjust_lr": "match_rms_adamw"})
    assert changed.spec(0.01).hyperparameters["adjust_lr"] == "match_rms_adamw"


@pytest.mark.parametrize("what", [{"hyperparameters": {"epsilon": 1.0}}, {"space": {"epsilon": Range(1e-9, 1e-3)}}])
def test_an_entry_is_not_given_hyperparameters_that_it_lacks(what) -> None:
    with pytest.raises(ValueError, match="adam has no hyper-parameter 'epsilon'"):
        registry.get("adam").changed(**what)


def test_an_entry_can_be_changed() -> None:
    changed = registry.get("adam").changed("Adam, eps 1e-4", {"eps": 1e-4}, 2e-3, {"eps": Range(1e-8, 1e-2)})
    assert (changed.label, changed.default_lr, changed.name) == ("Adam, eps 1e-4", 2e-3, "adam")
    assert changed.spec(0.1).hyperparameters["eps"] == 1e-4
    assert set(changed.space) == {"lr", "weight_decay", "eps"}
    assert registry.get("adam").hyperparameters["eps"] == 1e-8


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown optimizer 'adamax'; allowed: adamomentum, "):
        registry.get("adamax")


@pytest.mark.parametrize("name", ["Scaled", "TakesAnything"])
def test_an_optimizer_of_ones_own_is_built_from_its_spec(name) -> None:
    entry, p = own(name), parameter()
    for optimizer in (registry.build(entry.spec(0.1), [p]), entry.build([p], lr=0.1, scale=2.0)):
        optimizer.step()
    assert p.detach().tolist() == pytest.approx([1.0 - 2 * 0.2, -2.0 + 2 * 0.2])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module.optim:Lion", "no module 'no_such_module' here; put it beside the study file"),
        (f"{__name__}:Lion", rf"module {__name__!r} \(.*test_registry.py\) has no 'Lion'"),
        (f"{__name__}:parameter", "is not a torch.optim.Optimizer class"),
        (f"{__name__}:Scaled", "does not accept warmth by keyword; it accepts: params, lr, scale"),
    ],
)
def test_what_cannot_be_built_says_why(path, message) -> None:
    spec = OptimizerSpec(name=path, lr=0.1, hyperparameters={"scale": 1.0, "warmth": 3.0})
    with pytest.raises(ValueError, match=message):
        registry.build(spec, [parameter()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "must be module:Class"),
        ({"default_lr": 0.0}, "default_lr .* must be positive and finite, got 0.0"),
        ({"space": {}}, "must have a range for lr, got none at all"),
        ({"hyperparameters": {"lr": 0.1}}, "must leave out 'lr'"),
        ({"space": {"lr": Range(1e-3, 1.0), "decay": Range(1e-3, 1.0)}}, "'decay', which needs a default"),
    ],
)
def test_an_incomplete_optimizer_of_ones_own_is_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        own(**changes)


@pytest.mark.parametrize("path", ["Lion", "my_package.optim.Lion", "my_package/optim.py:Lion", ":Lion", "a:b:C"])
def test_a_path_that_is_none_is_refused(path) -> None:
    with pytest.raises(ValueError, match="must be module:Class"):
        registry.custom(path, "x", 0.1, {}, {"lr": Range(1e-3, 1.0)})
