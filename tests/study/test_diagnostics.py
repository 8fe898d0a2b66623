"""Where eps rules is measured by what is known of an optimizer, never by what its class is called."""

from __future__ import annotations

import pytest
import torch

from adamomentum.study import registry
from adamomentum.study.diagnostics import diagnostics
from adamomentum.study.spec import OptimizerSpec
from adamomentum.study.trial import run_trial
from adamomentum.torch import AdaMomentum

EPS, BETA2 = 1e-8, 0.999


class Adam(torch.optim.Optimizer):
    """A user's own, called as torch's: eps is added into v at every step and kept out of the state."""

    def __init__(self, params, lr=1e-3, betas=(0.9, BETA2), eps=EPS) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {"exp_avg_sq": torch.full_like(p, 1e-7), "step": 1000}


def own() -> Adam:
    optimizer = Adam([torch.nn.Parameter(torch.zeros(3))])
    optimizer.step()
    return optimizer


def test_nothing_is_measured_of_a_class_of_which_nothing_is_known() -> None:
    assert diagnostics([own()], None) == {}
    assert diagnostics([own()], "accumulated") == {"eps_dominated": 1.0}
    assert diagnostics([own()], "outside") == {"eps_dominated": 0.0}


def test_the_limit_is_where_eps_is_half_of_the_denominator() -> None:
    """By each formula: at the limit eps and the rest are equal, below it eps is the larger."""
    limits = {"outside": EPS**2, "inside": EPS, "accumulated": EPS / (1 - BETA2)}
    for placement, limit in limits.items():
        v = torch.tensor([0.5, 0.99, 1.01, 2.0]) * limit
        optimizer = Adam([torch.nn.Parameter(torch.zeros(4))])
        optimizer.step()
        (state,) = optimizer.state.values()
        state["exp_avg_sq"] = v * (1 - BETA2 ** state["step"])
        assert diagnostics([optimizer], placement) == {"eps_dominated": 0.5}, placement


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("cls", [torch.optim.AdamW, AdaMomentum])
def test_the_largest_v_that_amsgrad_divides_by_is_not_the_one_that_is_looked_at(cls, amsgrad) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.tensor([1.0, 1e-12, 1e-12])
    optimizer = cls([p], eps=EPS, amsgrad=amsgrad)
    optimizer.step()
    placement = "accumulated" if cls is AdaMomentum else "outside"
    assert diagnostics([optimizer], placement) == ({} if amsgrad else {"eps_dominated": pytest.approx(2 / 3)})


def test_a_state_of_another_form_costs_no_trial() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    optimizer.step()
    assert diagnostics([optimizer], "outside") == {}


@pytest.mark.parametrize("placement", [None, "accumulated"])
def test_a_trial_measures_an_own_class_as_the_study_file_says(tiny_data, make_spec, placement) -> None:
    optimizer = OptimizerSpec(
        name=f"{__name__}:Adam", lr=1e-3, hyperparameters={"betas": (0.9, BETA2), "eps": EPS}, eps_placement=placement
    )
    result = run_trial(make_spec(epochs=1).model_copy(update={"optimizer": optimizer}), tiny_data)
    assert result.final.get("eps_dominated") == (1.0 if placement else None)


def test_the_registry_knows_its_own() -> None:
    known = {o.name: o.eps_placement for o in registry.OPTIMIZERS.values() if o.eps_placement}
    assert known == {
        **dict.fromkeys(("adamomentum", "adamomentum-fbc", "eadam"), "accumulated"),
        **dict.fromkeys(("adam", "adamw", "nadamw", "radam"), "outside"),
    }
    assert {o.name for o in registry.OPTIMIZERS.values() if o.kind != "adaptive"} == {"sgdm", "muon"}
