"""Autograd through the step: derivatives by every input, over several steps, against finite differences."""

import pytest
import torch
from lockstep import SWITCHES
from torch.autograd import gradcheck

from adamomentum import AdaMomentum

CASES = {name: options for name, options in SWITCHES.items() if name != "fixed"} | {
    "fixed": {"weight_decay": 0.1, "fixed_decay": True}
}


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [0.0, 7.0])
def test_by_parameter_gradient_and_state(case, step):
    def one_step(p, g, m, v, v_max):
        p = p.clone()
        p.grad = g
        opt = AdaMomentum([p], lr=0.1, differentiable=True, **CASES[case])
        opt.init_state()
        state = opt.state[p]
        state.update(step=torch.tensor(step), exp_avg=m.clone(), exp_avg_sq=v.clone())
        if "max_exp_avg_sq" in state:
            state["max_exp_avg_sq"] = v_max.clone()
        opt.step()
        return p, *[value for key, value in state.items() if key != "step"]

    inputs = doubles(1.0, -0.4), doubles(0.3, -2.0), doubles(0.2, 0.7), doubles(0.5, 0.9), doubles(0.4, 1.1)
    assert gradcheck(one_step, inputs)


@pytest.mark.parametrize("case", CASES)
def test_by_lr_and_betas_over_several_steps(case):
    # A quadratic with curvature 1 and 3: each step's gradient depends on the step before.
    def train(p, lr, beta1, beta2):
        p = p.clone()
        options = {key: value for key, value in CASES[case].items() if key not in ("betas", "eps")}
        opt = AdaMomentum([p], lr=lr, betas=(beta1, beta2), differentiable=True, eps=1e-4)
        opt.param_groups[0].update(options)
        for _ in range(8):
            p.grad = p.clone() * torch.tensor([1.0, 3.0], dtype=torch.float64)
            opt.step()
        return p.square().sum()

    assert gradcheck(train, (doubles(1.0, -0.4), doubles(0.05), doubles(0.8), doubles(0.95)))


@pytest.mark.parametrize("beta2", [0.3, 0.5, 0.6, 2 / 3])
def test_rectified_steps_by_a_small_beta2(beta2):
    # The variance is never tractable here: the branch not taken must not poison the derivative.
    def train(p, beta2):
        p = p.clone()
        opt = AdaMomentum([p], lr=0.05, betas=(0.8, beta2), differentiable=True, rectify=True)
        for _ in range(4):
            p.grad = p.clone()
            opt.step()
        return p

    assert gradcheck(train, (doubles(1.0, -0.4), torch.tensor(beta2, dtype=torch.float64, requires_grad=True)))


def test_meta_learned_lr_goes_down_the_loss():
    lr = torch.tensor(1e-3, dtype=torch.float64, requires_grad=True)
    losses = []
    for _ in range(30):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True).clone()
        opt = AdaMomentum([p], lr=lr, differentiable=True)
        for _ in range(5):
            p.grad = 2 * p
            opt.step()
        loss = p.square().sum()
        (slope,) = torch.autograd.grad(loss, lr)
        lr = (lr - 1e-5 * slope).detach().requires_grad_()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
