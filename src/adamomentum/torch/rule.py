r"""The update rule of AdaMomentum: Algorithm 1 of arXiv 2106.11514, with the switches of its authors' experiments.

Algorithm 1 adds eps to the second moment at every step. Here the stored moment v is the plain average of the squared
momentum, and what eps has added up to by step t is added when the root is taken: the same numbers for constant eps and
beta2. With c1 = 1 - beta1^t and c2 = 1 - beta2^t, the bias corrections, one step on a gradient g is then::

    m     <- m + (1 - beta1) (g - m)
    v     <- beta2 v + (1 - beta2) m^2
    theta <- theta - (lr sqrt(c2) / c1) m / sqrt(v + eps c2 / (1 - beta2))

``adjust_lr`` puts the mean of v in white noise in the place of the first c2 (``adamomentum/second_moment.py``);
``second_moment="lookahead"`` and ``nesterov`` put n = m + (1 - beta1) (g - m) in that of m, in the second line and in
the third, where c1 is then 1 - beta1^(t+1).

What in it is no tensor like the parameter is in ``Numbers``, which ``scalars.py`` computes from the options and t.
The rule stands here for one parameter, in ``foreach.py`` for lists of them, in ``native/kernels.inl`` in C++ and in
``fused_cuda_kernel.py`` in Triton. The specification of all is :mod:`adamomentum.reference`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adamomentum.reference import momentum_floor
from adamomentum.torch.rounding import Rounding

__all__ = ["Numbers", "Rule", "Scalar", "update_one"]

# A float, or a 0-dim tensor.
Scalar = float | Tensor


class Rule(NamedTuple):
    """The options that shape the update, as :func:`adamomentum.torch.adamomentum` explains them."""

    lr: Scalar
    beta1: Scalar
    beta2: Scalar
    eps: float
    weight_decay: float
    amsgrad: bool
    decoupled_weight_decay: bool
    fixed_decay: bool
    rectify: bool
    full_bias_correction: bool
    grad_factor: Scalar  # of every gradient: -1 to maximize, times loss scale and clipping
    differentiable: bool
    rounding: Rounding = "nearest"
    adjust_lr: bool = False  # v is divided by its mean in white noise
    lookahead: bool = False  # v averages n^2, not m^2
    nesterov: bool = False  # the parameter moves by n, not by m
    passes: float = 1.0  # this times the gradient stands for that of the step in n: release.py explains it

    @property
    def momentum_floor(self) -> float:
        """The share of m that n counts as at least in v, 0 where n has the gradient of the whole step."""
        return momentum_floor(self.passes, lookahead=self.lookahead)

    @property
    def l2(self) -> float:
        """The weight decay that joins the gradient, 0 where it is decoupled."""
        return 0.0 if self.decoupled_weight_decay else self.weight_decay


class Numbers(NamedTuple):
    """The numbers of one parameter's step: floats, or 0-dim tensors on its device. C++ reads them by these names."""

    m_weight: Scalar  # 1 - beta1
    beta2: Scalar
    v_weight: Scalar  # 1 - beta2, divided by c1^2 under full bias correction
    eps_sum: Scalar  # what eps has added to v by now
    shrink: Scalar  # what decoupled decay multiplies the parameter by
    factor: Scalar  # of m or n over sqrt(v + eps_sum), or of it alone where not `adapt`: negative
    adapt: bool | Tensor  # False while rectification finds the variance intractable


# The three lines above are marked; between them stand what a dtype asks for, and the switches.
def update_one(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, max_exp_avg_sq: Tensor, n: Numbers, rule: Rule
) -> None:
    """Update one parameter and its moments in place. All tensors have one shape and device.

    Args:
        param: theta: float64, float32, float16 or bfloat16; complex ones come as pairs of real numbers.
        grad: g, in any of these dtypes; never written.
        exp_avg: m, float32 or float64.
        exp_avg_sq: v, as ``exp_avg``.
        max_exp_avg_sq: with amsgrad the largest v + eps_sum so far, as ``exp_avg``; else not looked at.
        n: the numbers of this step.
        rule: the options.
    """
    # A half-precision parameter is updated in float32 and rounded once, at the end.
    dtype = torch.promote_types(param.dtype, exp_avg.dtype)
    theta, grad = param.to(dtype), grad.to(dtype)
    if isinstance(rule.grad_factor, Tensor) or rule.grad_factor != 1:
        grad = grad * (rule.grad_factor.to(dtype) if isinstance(rule.grad_factor, Tensor) else rule.grad_factor)
    last = grad
    if rule.l2:
        grad = grad.add(theta, alpha=rule.l2)

    exp_avg.lerp_(grad.to(exp_avg.dtype), n.m_weight)  # m <- m + (1 - beta1) (g - m)
    if rule.differentiable:  # autograd keeps what is read below, and the next step overwrites it
        exp_avg = exp_avg.clone()
    lookahead = exp_avg
    if rule.lookahead or rule.nesterov:
        ahead = grad if rule.passes == 1 else grad.add(last, alpha=rule.passes - 1)
        lookahead = exp_avg.lerp(ahead.to(exp_avg.dtype), n.m_weight)
    averaged = lookahead if rule.lookahead else exp_avg
    if rule.momentum_floor:
        averaged = torch.maximum(averaged.abs(), rule.momentum_floor * exp_avg.abs())
    _addcmul_(exp_avg_sq.mul_(n.beta2), averaged, averaged, n.v_weight)  # v <- beta2 v + (1 - beta2) m^2
    v = exp_avg_sq + n.eps_sum
    if rule.amsgrad:
        v = torch.maximum(max_exp_avg_sq.clone() if rule.differentiable else max_exp_avg_sq, v)
        max_exp_avg_sq.copy_(v)

    denom = v.sqrt_()
    if isinstance(n.adapt, Tensor):
        denom = torch.where(n.adapt, denom, 1.0)
    elif not n.adapt:
        denom.fill_(1.0)
    if rule.weight_decay and rule.decoupled_weight_decay:
        theta.mul_(n.shrink)
    _addcdiv_(theta, lookahead if rule.nesterov else exp_avg, denom, n.factor)  # theta <- theta - ... m / sqrt(v + ...)
    if theta is not param:
        param.copy_(theta)


def _addcmul_(out: Tensor, a: Tensor, b: Tensor, value: Scalar) -> None:
    """``out += value * a * b``."""
    if isinstance(value, Tensor):
        out.add_(a * b * value)
    else:
        out.addcmul_(a, b, value=value)


def _addcdiv_(out: Tensor, a: Tensor, b: Tensor, value: Scalar) -> None:
    """``out += value * a / b``."""
    if isinstance(value, Tensor):
        out.add_(a / b * value)
    else:
        out.addcdiv_(a, b, value=value)
