"""What the experiments conclude, and that those on the moments conclude otherwise of a wrong optimizer."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from theory.faults import assert_drawn
from theory.verdicts import FULL, VERDICTS

from adamomentum.theory import experiments, page, steppers
from adamomentum.theory.experiments import noise, sandwich, startup

EXPERIMENTS = experiments.by_name()
SLOW = ("counterexample", "exits", "selectivity", "trapping", "network")

# The optimizer's faults, and the claims that must not survive them. The others of these experiments do not depend on
# what is wrong.
FAULTS = {
    "no bias correction": {
        "algorithm-1",
        "frequency",
        "sandwich",
        "signal-to-noise",
        "noise-floor",
        "start-up",
        "largest-update",
        "outlier",
        "eps-floor",
    },
    "g in v": {
        "algorithm-1",
        "frequency",
        "sandwich",
        "larger-second-moment",
        "signal-to-noise",
        "noise-floor",
        "start-up",
        "largest-update",
        "outlier",
        "eps-floor",
    },
    "eps outside the root": {"algorithm-1", "eps-floor", "stable-lr"},
}


class Faulty(torch.optim.Optimizer):
    """Algorithm 1 with a fault."""

    def __init__(self, params, fault="", **options):
        switches = {"amsgrad": False, "full_bias_correction": False}
        super().__init__(params, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-16, **switches, **options})
        self.fault = fault

    @torch.no_grad()
    def step(self, closure=None):
        (group,) = self.param_groups
        (p,) = group["params"]
        state = self.state[p]
        (beta1, beta2), eps = group["betas"], group["eps"]
        if not state:
            state.update(step=0, **{key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq", "largest")})
        state["step"] += 1
        m, v, t = state["exp_avg"], state["exp_avg_sq"], state["step"]
        m.mul_(beta1).add_(p.grad, alpha=1 - beta1)
        c1, c2 = 1 - beta1**t, 1 - beta2**t
        squared = p.grad if self.fault == "g in v" else m / c1 if group["full_bias_correction"] else m
        v.mul_(beta2).add_(squared**2, alpha=1 - beta2)
        inside, outside = (0, eps) if self.fault == "eps outside the root" else (eps * c2 / (1 - beta2), 0)
        torch.maximum(state["largest"], v + inside, out=state["largest"])
        averaged = state["largest"] if group["amsgrad"] else v + inside
        if self.fault == "no bias correction":
            c1 = c2 = 1.0
        p.sub_(group["lr"] * m / c1 / ((averaged / c2).sqrt() + outside))


@pytest.fixture
def faulty(monkeypatch):
    real = steppers._build

    def install(fault):
        monkeypatch.setattr(
            steppers, "_build", lambda name: partial(Faulty, fault=fault) if name == "adamomentum" else real(name)
        )

    return install


def changed(name: str) -> set[str]:
    """The claims whose verdict is not what it is for the right optimizer."""
    claims = {claim.key: claim.verdict for claim in EXPERIMENTS[name]("quick", 0)}
    assert claims.keys() == VERDICTS[name].keys()
    return {key for key, verdict in claims.items() if verdict != VERDICTS[name][key]}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in EXPERIMENTS])
def test_verdicts(name) -> None:
    claims = {claim.key: claim for claim in EXPERIMENTS[name]("quick", 0)}
    assert {key: claim.verdict for key, claim in claims.items()} == VERDICTS[name]
    for claim in claims.values():
        assert not claim.fault
        assert not claim.control.holds
        for check in (*claim.printed, *claim.corrected, *claim.against, claim.control):
            assert type(check.holds) is bool
        json.dumps(page._plain(claim.data), allow_nan=False)
    # The figures take their data as it is, and as it comes back from JSON.
    assert_drawn({key: drawing for key, drawing in experiments.drawings().items() if key in claims}, claims)


def test_every_experiment_has_its_verdicts() -> None:
    assert EXPERIMENTS.keys() == VERDICTS.keys()


def test_figures_have_their_claim_and_a_name_of_their_own() -> None:
    drawings = experiments.drawings()
    assert drawings.keys() <= {key for verdicts in (*VERDICTS.values(), FULL) for key in verdicts}
    assert len({drawing.file or key for key, drawing in drawings.items()}) == len(drawings)


# Where eps is not negligible, and so where the fault of its place could be seen.
WITH_EPS = ("algorithm", "floor")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        pytest.param(name, fault, marks=[pytest.mark.slow] * (name != "algorithm"))
        for name in ("algorithm", "floor", "sandwich", "startup", "frequency", "noise")
        for fault in FAULTS
        if name in WITH_EPS or fault != "eps outside the root"
    ],
)
def test_a_wrong_optimizer_is_found_out(name, fault, faulty) -> None:
    faulty(fault)
    assert changed(name) == FAULTS[fault] & VERDICTS[name].keys()


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"full_bias_correction": True}, {"eps": 1e-3}])
def test_the_wrong_optimizer_without_a_fault_is_right(options, faulty) -> None:
    """So that it is the fault which the tests above find."""
    gradients = np.random.default_rng(0).normal(size=(50, 20)) * np.geomspace(1e-6, 1e6, 20)
    ours = steppers.Stepper("adamomentum", np.zeros(20), lr=1.0, **options)
    faulty("")
    theirs = steppers.Stepper("adamomentum", np.zeros(20), lr=1.0, **options)
    for gradient in gradients:
        ours.step(gradient)
        theirs.step(gradient)
        np.testing.assert_allclose(theirs.theta, ours.theta, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["sandwich", "noise", "startup", "floor"])
def test_other_random_numbers_lead_to_the_same(name) -> None:
    assert {claim.key: claim.verdict for claim in EXPERIMENTS[name]("quick", 1)} == VERDICTS[name]


def test_the_seed_decides_everything(monkeypatch) -> None:
    monkeypatch.setattr(sandwich, "STEPS", {"quick": 60})
    monkeypatch.setattr(sandwich, "BETAS", {"quick": ((0.9, 0.999),)})
    first, again, other = (sandwich.run("quick", seed)[0].data["ratios"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other, equal_nan=True)


def test_an_update_that_is_not_a_number_is_no_confirmation(monkeypatch, faulty) -> None:
    faulty("no bias correction")
    monkeypatch.setattr(Faulty, "step", lambda self: self.param_groups[0]["params"][0].fill_(np.nan))
    monkeypatch.setattr(sandwich, "STEPS", {"quick": 20})
    monkeypatch.setattr(sandwich, "BETAS", {"quick": ((0.9, 0.999),)})
    assert not sandwich.run("quick", 0)[0].verdict.startswith("confirmed")
    assert not startup._largest_update("quick", np.random.default_rng(0)).verdict.startswith("confirmed")


def test_measured_momentum_is_the_optimizers() -> None:
    ratio, error = noise.momentum_ratios("adamomentum", np.array([0.0]), (300, 200, 300), np.random.default_rng(0))
    assert ratio[0] == pytest.approx(1 / 19, abs=5 * error[0])
    assert error[0] < 0.003
