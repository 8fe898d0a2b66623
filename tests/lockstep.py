"""Run an implementation beside the reference, step by step, and compare parameters and state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from adamomentum import AdaMomentum, reference
from adamomentum.torch import fused_cpu

# The switches of the algorithm, alone and in combinations that interact.
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "amsgrad-large-eps": {"amsgrad": True, "eps": 1e-4},
    "decoupled": {"weight_decay": 0.1},
    "l2": {"weight_decay": 0.1, "decoupled_weight_decay": False},
    "fixed": {"weight_decay": 0.01, "fixed_decay": True},
    "rectify": {"rectify": True},
    "full-bias": {"full_bias_correction": True},
    "maximize": {"maximize": True},
    "maximize-l2": {"maximize": True, "weight_decay": 0.1, "decoupled_weight_decay": False},
    "betas": {"betas": (0.5, 0.9), "eps": 1e-8},
    "no-momentum": {"betas": (0.0, 0.99)},
    "no-second-moment": {"betas": (0.9, 0.0), "rectify": True},
    "drop-in": {"adjust_lr": "match_rms_adamw"},
    "drop-in-momentum": {"adjust_lr": "match_rms_adamw", "second_moment": "momentum", "betas": (0.95, 0.9025)},
    "drop-in-no-momentum": {"adjust_lr": "match_rms_adamw", "betas": (0.0, 0.99)},
    "lookahead": {"second_moment": "lookahead", "weight_decay": 0.1},
    "nesterov": {"nesterov": True},
    "nesterov-momentum": {"nesterov": True, "second_moment": "momentum", "rectify": True},
    "drop-in-all": {
        "adjust_lr": "match_rms_adamw",
        "nesterov": True,
        "amsgrad": True,
        "rectify": True,
        "maximize": True,
        "weight_decay": 0.1,
        "decoupled_weight_decay": False,
        "eps": 1e-8,
        "betas": (0.8, 0.99),
    },
    "all": {
        "amsgrad": True,
        "rectify": True,
        "full_bias_correction": True,
        "maximize": True,
        "weight_decay": 0.1,
        "eps": 1e-8,
        "betas": (0.8, 0.99),
    },
}

# What kappa_t, the mean of v_t in white noise, could be mistaken for: a test of each framework puts them in its place.
WRONG_MEANS: dict[str, Callable[..., Any]] = {
    "no start": lambda t, b1, b2, **_: (1 - b1) / (1 + b1) * (1 - b2**t),
    "Algorithm 1": lambda t, b1, b2, **_: 1 - b2**t,
    "t off by one": lambda t, b1, b2, *, lookahead, **_: _mean(t + 1, b1, b2, lookahead),
    "the other second moment": lambda t, b1, b2, *, lookahead, **_: _mean(t, b1, b2, not lookahead),
}


def _mean(t: Any, beta1: float, beta2: float, lookahead: bool) -> Any:
    means = [reference.white_noise_mean(s, (beta1, beta2), lookahead=lookahead) for s in np.ravel(t).tolist()]
    return torch.tensor(means).reshape(t.shape) if isinstance(t, torch.Tensor) else means[0]


# The ways through the torch implementation.
PATHS: dict[str, dict[str, Any]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "default": {},
    "for-loop-capturable": {"foreach": False, "capturable": True},
    "foreach-capturable": {"foreach": True, "capturable": True},
    "differentiable": {"differentiable": True},
}
if fused_cpu.why_not() is None:  # an installation without a compiler has no native kernels
    PATHS["fused"] = {"fused": True}


def _noise(rng: np.random.Generator, shape: tuple[int, ...], t: int) -> np.ndarray:
    return rng.standard_normal(shape)


# Gradient number t = 0, 1, ... for a parameter of some shape.
GRADIENTS: dict[str, Callable[[np.random.Generator, tuple[int, ...], int], np.ndarray]] = {
    "noise": _noise,
    "huge": lambda rng, shape, t: 1e20 * _noise(rng, shape, t),
    "tiny": lambda rng, shape, t: 1e-25 * _noise(rng, shape, t),
    "sparse": lambda rng, shape, t: _noise(rng, shape, t) * (t % 40 == 0),
    "constant": lambda rng, shape, t: np.full(shape, 0.7),
    "alternating": lambda rng, shape, t: np.full(shape, 0.3 * (-1) ** t),
}


def accumulated_eps(t: int, options: dict[str, Any]) -> float:
    """What the reference's v holds beyond the plain average after t steps: each step's eps, decayed since."""
    beta2 = options.get("betas", (0.9, 0.999))[1]
    return sum(options.get("eps", 1e-16) * beta2**k for k in range(t))


class Lockstep:
    """One torch optimizer over several parameters, and the reference over copies of them."""

    def __init__(
        self,
        shapes: list[tuple[int, ...]],
        options: dict[str, Any],
        path: dict[str, Any],
        *,
        lr: float = 1e-2,
        start: float | Sequence[float] = 1.0,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> None:
        self.options = {"lr": lr, **options}
        self.fused = bool(path.get("fused"))
        self.rng = np.random.default_rng(seed)
        starts = start if isinstance(start, Sequence) else [start] * len(shapes)
        self.params = [
            torch.tensor(size * self.rng.standard_normal(shape), dtype=dtype)
            for size, shape in zip(starts, shapes, strict=True)
        ]
        self.opt = AdaMomentum(self.params, **self.options, **path)
        self.theta = [p.double().numpy().copy() for p in self.params]
        self.states = [reference.State.zeros(theta) for theta in self.theta]
        self.scale = [np.zeros(shape) for shape in shapes]  # the largest gradient of each element so far
        self.reach = [np.zeros(shape) for shape in shapes]  # how far steps as large as that would have led

    def step(self, gradients: list[np.ndarray]) -> None:
        for i, (p, g) in enumerate(zip(self.params, gradients, strict=True)):
            p.grad = torch.tensor(g, dtype=p.dtype)
            g = p.grad.double().numpy()
            self.scale[i] = np.maximum(self.scale[i], abs(g))
            self.theta[i], self.states[i] = reference.step(self.theta[i], g, self.states[i], **self.options)
            size = self.scale[i] + self.options.get("weight_decay", 0.0) * abs(self.theta[i])
            self.reach[i] += (
                self.options["lr"] * size * (1 / np.sqrt(self.states[i].v) + self.options.get("rectify", 0))
            )
        run, taken = fused_cpu.run, []
        with patch.object(fused_cpu, "run", lambda batch, rule: (taken.append(len(batch)), run(batch, rule))):
            self.opt.step()
        if self.fused:
            assert sum(taken) == len(self.params), "not all parameters were updated by the native kernels"

    def pairs(self) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """Name, our value, the reference's, and the magnitude that rounding errors are relative to."""
        for i, (p, theta, ref) in enumerate(zip(self.params, self.theta, self.states, strict=True)):
            ours = {key: value.detach().double().numpy() for key, value in self.opt.state[p].items()}
            assert ours["step"] == ref.step
            g = self.scale[i] + self.options.get("weight_decay", 0.0) * (1 + abs(theta))
            eps = accumulated_eps(ref.step, self.options)
            v = g**2 * (100 if self.options.get("full_bias_correction") else 1) + eps
            yield f"parameter {i}", p.detach().double().numpy(), theta, abs(theta) + np.minimum(self.reach[i], 1e6)
            yield f"exp_avg {i}", ours["exp_avg"], ref.m, g
            yield f"exp_avg_sq {i}", ours["exp_avg_sq"] + eps, ref.v, v
            if self.options.get("amsgrad"):
                yield f"max_exp_avg_sq {i}", ours["max_exp_avg_sq"], ref.v_max, v

    def check(self, rtol: float) -> None:
        """Compare to ``rtol``, allowing beside it for the rounding of what each value was made from."""
        rounding = 5 * torch.finfo(self.params[0].dtype).eps
        for name, ours, ref, scale in self.pairs():
            error = abs(ours - ref) / (rtol * abs(ref) + rounding * scale + 1e-300)
            assert (error <= 1).all(), f"{name} at step {self.states[0].step}: {ours} against {ref}, {error.max():.2g}x"
