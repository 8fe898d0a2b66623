"""Each optimizer of the study against its paper's update, written here in NumPy from the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from adamomentum.study import registry
from adamomentum.study.spec import OptimizerSpec

STEPS, LR = 12, 0.02


def adam(g, s, t, h, lr, decoupled):
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


def radam(g, s, t, h, lr, decoupled):
    b1, b2 = h["betas"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * g**2
    r = rectification(t, b2)
    m = s["m"] / (1 - b1**t)
    if r is None:
        return lr * m
    # torch adds eps to the root before it corrects the bias, as the authors' code does.
    return lr * r * m * math.sqrt(1 - b2**t) / (np.sqrt(s["v"]) + h["eps"])


def yogi(g, s, t, h, lr, decoupled):
    """Zaheer et al. 2018 (NeurIPS), algorithm 2, with Adam's bias corrections; both moments start at 1e-6."""
    b1, b2 = h["betas"]
    if t == 1:
        s["m"] = s["m"] + h["initial_accumulator"]
        s["v"] = s["v"] + h["initial_accumulator"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = s["v"] - (1 - b2) * np.sign(s["v"] - g**2) * g**2
    return lr * (s["m"] / (1 - b1**t)) / (np.sqrt(s["v"] / (1 - b2**t)) + h["eps"])


def adabound(g, s, t, h, lr, decoupled):
    """Luo et al., arXiv 1902.09843, with the published code's bounds and bias correction."""
    b1, b2 = h["betas"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * g**2
    final = h["final_lr"] * lr / LR
    low, high = final * (1 - 1 / (h["gamma"] * t + 1)), final * (1 + 1 / (h["gamma"] * t))
    step = lr * math.sqrt(1 - b2**t) / (1 - b1**t)
    return np.clip(step / (np.sqrt(s["v"]) + h["eps"]), low, high) * s["m"]


def adabelief(g, s, t, h, lr, decoupled):
    """Zhuang et al., arXiv 2010.07468: eps is added into s at every step; rectified as in RAdam (published code)."""
    b1, b2 = h["betas"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * (g - s["m"]) ** 2 + h["eps"]
    m = s["m"] / (1 - b1**t)
    root = np.sqrt(s["v"] / (1 - b2**t)) + h["eps"] / math.sqrt(1 - b2**t)
    if not h["rectify"]:
        return lr * m / root
    r = rectification(t, b2)
    return lr * m if r is None else lr * r * m / root


def eadam(g, s, t, h, lr, decoupled):
    """Adam with eps inside v at every step and nowhere else."""
    b1, b2 = h["betas"]
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * g**2 + h["eps"]
    return lr * (s["m"] / (1 - b1**t)) / np.sqrt(s["v"] / (1 - b2**t))


def sgdm(g, s, t, h, lr, decoupled):
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
COUPLED = ("adam", "sgdm")


def gradient(theta, t):
    """Of a problem with curvature, noise and sign changes; reproducible."""
    noise = np.random.default_rng(t).normal(size=theta.shape)
    return theta**3 - 0.5 * theta + 0.3 * noise


def schedule(t):
    return LR * min(1.0, t / 4)


@pytest.mark.parametrize("changes", [{}, {"weight_decay": 0.1}], ids=["plain", "decay"])
@pytest.mark.parametrize("name", list(RULES))
def test_updates_are_those_of_the_paper(name, changes) -> None:
    entry = registry.get(name)
    h = {**entry.hyperparameters, **changes}
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
        if name in COUPLED:
            g = g + h["weight_decay"] * theta
        else:
            theta = theta * (1 - lr * h["weight_decay"])
        theta = theta - RULES[name](g, s, t, h, lr, name not in COUPLED)
        np.testing.assert_allclose(p.detach().numpy(), theta, rtol=1e-9, atol=1e-12, err_msg=f"step {t}")


@pytest.mark.parametrize("name", list(registry.OPTIMIZERS))
def test_resumes_bitwise_and_is_deterministic(name) -> None:
    def run(reload_at):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
        spec = registry.get(name).spec(LR)
        optimizer = registry.build(spec, [p])
        for t in range(1, 9):
            if t == reload_at:
                state = optimizer.state_dict()
                optimizer = registry.build(spec, [p])
                optimizer.load_state_dict(state)
            p.grad = torch.from_numpy(gradient(p.detach().double().numpy(), t)).float()
            optimizer.step()
        return p.detach()

    whole = run(0)
    assert torch.equal(run(0), whole)
    assert torch.equal(run(5), whole)


@pytest.mark.parametrize("name", list(registry.OPTIMIZERS))
def test_an_unknown_hyperparameter_is_refused(name) -> None:
    # pytorch-optimizer's constructors swallow what they do not know, so it must not get there.
    with pytest.raises(ValueError, match="no hyper-parameter 'epsilon'"):
        registry.get(name).changed(hyperparameters={"epsilon": 1.0})
