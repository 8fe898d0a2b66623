"""Each optimizer of the study against its paper's update, written here in NumPy from the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from adamomentum.study import registry
from adamomentum.study.eadam import EAdam
from adamomentum.study.spec import OptimizerSpec

STEPS, LR = 12, 0.02


def adam(g, s, t, h, lr):
    """Kingma and Ba, arXiv 1412.6980, algorithm 1; Loshchilov and Hutter, arXiv 1711.05101, algorithm 2."""
    b1, b2 = h["betas"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * g**2
    return lr * (s["m"] / (1 - b1**t)) / (np.sqrt(s["v"] / (1 - b2**t)) + h["eps"])


def rectification(t, b2):
    """Liu et al., arXiv 1908.03265: None while the variance is intractable."""
    limit = 2 / (1 - b2) - 1
    rho = limit - 2 * t * b2**t / (1 - b2**t)
    if rho <= 5:
        return None
    return math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))


def radam(g, s, t, h, lr):
    """Liu et al., algorithm 2: momentum alone until the variance is tractable."""
    b1, b2 = h["betas"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * g**2
    r = rectification(t, b2)
    m = s["m"] / (1 - b1**t)
    if r is None:
        return lr * m
    # torch adds eps to the root before it corrects the bias, as the authors' code does.
    return lr * r * m * math.sqrt(1 - b2**t) / (np.sqrt(s["v"]) + h["eps"])


def yogi(g, s, t, h, lr):
    """Zaheer et al. 2018 (NeurIPS), algorithm 2, with Adam's bias corrections; both moments start at 1e-6."""
    b1, b2 = h["betas"]
    if t == 1:
        s["m"] = s["m"] + h["initial_accumulator"]
        s["v"] = s["v"] + h["initial_accumulator"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = s["v"] - (1 - b2) * np.sign(s["v"] - g**2) * g**2
    return lr * (s["m"] / (1 - b1**t)) / (np.sqrt(s["v"] / (1 - b2**t)) + h["eps"])


def adabound(g, s, t, h, lr):
    """Luo et al., arXiv 1902.09843, with the published code's bounds and bias correction."""
    b1, b2 = h["betas"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * g**2
    final = h["final_lr"] * lr / LR
    low, high = final * (1 - 1 / (h["gamma"] * t + 1)), final * (1 + 1 / (h["gamma"] * t))
    step = lr * math.sqrt(1 - b2**t) / (1 - b1**t)
    return np.clip(step / (np.sqrt(s["v"]) + h["eps"]), low, high) * s["m"]


def adabelief(g, s, t, h, lr):
    """Zhuang et al., arXiv 2010.07468: eps is added into s at every step; rectified as in RAdam (published code)."""
    b1, b2 = h["betas"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * (g - s["m"]) ** 2 + h["eps"]
    m = s["m"] / (1 - b1**t)
    root = np.sqrt(s["v"] / (1 - b2**t))
    if not h["rectify"]:
        return lr * m / (root + h["eps"])
    r = rectification(t, b2)
    # As in RAdam eps is added before the bias is corrected here.
    return lr * m if r is None else lr * r * m / (root + h["eps"] / math.sqrt(1 - b2**t))


def eadam(g, s, t, h, lr):
    """Adam with eps inside v at every step and nowhere else."""
    b1, b2 = h["betas"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * g**2 + h["eps"]
    return lr * (s["m"] / (1 - b1**t)) / np.sqrt(s["v"] / (1 - b2**t))


def sgdm(g, s, t, h, lr):
    """Polyak's heavy ball, with the learning rate outside of the buffer."""
    s["m"] = g if t == 1 else h["momentum"] * s["m"] + g
    return lr * s["m"]


RULES = {
    "adam": adam,
    "adamw": adam,
    "radam": radam,
    "yogi": yogi,
    "adabound": adabound,
    "adabelief": adabelief,
    "eadam": eadam,
    "sgdm": sgdm,
}


def coupled(name, h):
    """Whether weight decay is L2, i.e. part of the gradient."""
    return name in ("adam", "sgdm") or not h.get("weight_decouple", h.get("decoupled_weight_decay", True))


# The registry's settings; with decay; and what AdaMomentum's paper ran: large eps, L2 decay, no rectification.
VARIANTS = [
    *((name, {}) for name in RULES),
    *((name, {"weight_decay": 0.1}) for name in RULES),
    *((name, {"eps": 1e-3}) for name in RULES if name != "sgdm"),
    ("radam", {"weight_decay": 0.1, "decoupled_weight_decay": False}),
    ("yogi", {"weight_decay": 0.1, "weight_decouple": False, "eps": 1e-8}),
    ("adabound", {"weight_decay": 0.1, "weight_decouple": False}),
    ("adabound", {"gamma": 0.5}),  # closes the bounds within the test, so that they bind from both sides
    ("adabelief", {"weight_decay": 0.1, "weight_decouple": False, "rectify": False, "eps": 1e-8}),
    ("adabelief", {"rectify": False, "eps": 1e-3}),
    ("sgdm", {"momentum": 0.0}),
    *((name, {"betas": (0.5, 0.999)}) for name in RULES if name != "sgdm"),
]


def gradient(theta, t):
    """Of a problem with curvature, noise and sign changes; reproducible."""
    noise = np.random.default_rng(t).normal(size=theta.shape)
    return theta**3 - 0.5 * theta + 0.3 * noise


def schedule(t):
    return LR * min(1.0, t / 4)


@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=[f"{name} {changes}" for name, changes in VARIANTS])
def test_updates_are_those_of_the_paper(name, changes) -> None:
    h = {**registry.get(name).hyperparameters, **changes}
    start = np.random.default_rng(0).normal(size=(3, 4))
    theta, s = start.copy(), {"m": np.zeros((3, 4)), "v": np.zeros((3, 4))}
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = registry.build(OptimizerSpec(name=name, lr=LR, hyperparameters=h), [p])
    for t in range(1, STEPS + 1):
        lr = schedule(t)
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.from_numpy(gradient(p.detach().numpy(), t))
        optimizer.step()
        g = gradient(theta, t)
        if coupled(name, h):
            g = g + h["weight_decay"] * theta
        else:
            theta = theta * (1 - lr * h["weight_decay"])
        theta = theta - RULES[name](g, s, t, h, lr)
        np.testing.assert_allclose(p.detach().numpy(), theta, rtol=1e-10, atol=1e-13, err_msg=f"step {t}")


@pytest.mark.parametrize("name", list(registry.OPTIMIZERS))
def test_a_changed_learning_rate_acts_on_the_next_step(name) -> None:
    def last_update(lr):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 12).double())
        optimizer = registry.build(registry.get(name).spec(LR), [p])
        for t in range(1, STEPS + 1):
            before = p.detach().clone()
            if t == STEPS:
                optimizer.param_groups[0]["lr"] = lr
            p.grad = torch.from_numpy(gradient(p.detach().numpy(), t))
            optimizer.step()
        return (p.detach() - before).numpy()

    np.testing.assert_allclose(last_update(LR / 8), last_update(LR) / 8, rtol=1e-9)


@pytest.mark.parametrize(("final_lr", "deviates"), [(0.1, False), (30.0, False), (1e4, True)])
def test_the_1e_15_below_the_root_of_adabound_counts_only_where_no_bound_binds(final_lr, deviates) -> None:
    # In the first step, with a gradient that is tiny but above the eps of 1e-8.
    grad, h = 1e-7, {**registry.get("adabound").hyperparameters, "final_lr": final_lr}
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = registry.build(OptimizerSpec(name="adabound", lr=LR, hyperparameters=h), [p])
    p.grad = torch.full_like(p, grad)
    optimizer.step()
    paper = float(adabound(np.array(grad), {"m": 0.0, "v": 0.0}, 1, h, LR))
    assert (abs(p.item() / -paper - 1) > 1e-3) == deviates


@pytest.mark.parametrize("eps", [1e-16, 1e-8])
def test_eadam_keeps_eps_out_of_its_state(eps) -> None:
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    hyperparameters = {**registry.get("eadam").hyperparameters, "eps": eps}
    optimizer = registry.build(OptimizerSpec(name="eadam", lr=LR, hyperparameters=hyperparameters), [p])
    for _ in range(4):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    assert set(optimizer.state[p]) == {"step", "exp_avg", "exp_avg_sq"}
    assert not optimizer.state[p]["exp_avg_sq"].any()
    assert not p.any()  # 0 over the root of eps, not 0 over 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": -1.0}, "lr must be >= 0, got -1.0"),
        ({"betas": (0.9, 1.0)}, r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
        ({"eps": -1.0}, "eps must be >= 0, got -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be >= 0, got nan"),
    ],
)
def test_eadam_refuses_what_makes_no_sense(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        EAdam([torch.nn.Parameter(torch.zeros(2))], **wrong)
