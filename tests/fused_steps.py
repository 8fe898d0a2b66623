"""The fused CUDA path as an optimizer over its contract function alone, for tests in lockstep and on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adamomentum import AdaMomentum
from adamomentum.torch import fused_cpu
from adamomentum.torch.fused_cuda import fused_cuda_update, new_batch, run_batch
from adamomentum.torch.optimizer import _rule_of
from adamomentum.torch.precision import empty_scales, unpack
from adamomentum.torch.rounding import new_kept, rounds
from adamomentum.torch.rule import Rule
from adamomentum.torch.scalars import numbers_matrix
from adamomentum.torch.state import CODED, ROUNDING_STATE, scale_of


def rule_of(**options: Any) -> Rule:
    """The Rule of an optimizer's options."""
    return _rule_of(AdaMomentum([torch.zeros(1)], **options).param_groups[0], False, 1.0, 1)


class FusedCuda:
    """Takes steps with ``fused_cuda_update``; ``p.grad`` and ``state[p]`` are as in an optimizer.

    Args:
        params: all updated by one call.
        state_dtype: float32, bfloat16 or, for the 8-bit format, uint8, or a pair of them; one for all parameters or,
            as a list, one each.
        steps_on: the device of the step counts; None for the parameters'.
        native: take them with ``run_batch`` instead, its table made by native code.
        options: those of AdaMomentum.
    """

    def __init__(
        self,
        params: list[Tensor],
        state_dtype: torch.dtype | tuple[torch.dtype, torch.dtype] | list[Any] = torch.float32,
        steps_on: torch.device | None = None,
        native: bool = False,
        **options: Any,
    ) -> None:
        self.params, self.options, self.native = params, options, native
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        dtypes = state_dtype if isinstance(state_dtype, list) else [state_dtype] * len(params)
        for p, dtype in zip(params, dtypes, strict=True):
            state = {"step": torch.tensor(0.0, device=steps_on or p.device)}
            pair = dtype if isinstance(dtype, tuple) else (dtype, dtype)
            for (key, moment), stored in zip(CODED, pair, strict=True):
                state[key] = torch.zeros_like(p, dtype=stored)
                if stored == torch.uint8:
                    state[scale_of(key)] = empty_scales(p, moment)
            if options.get("amsgrad"):
                state["max_exp_avg_sq"] = torch.zeros_like(p, dtype=torch.float32)
            rounding = options.get("rounding", "nearest")
            if rounds(p, rounding) and rounding in ROUNDING_STATE:
                state[ROUNDING_STATE[rounding]] = new_kept(p, rounding)
            self.state[p] = state

    def column(self, key: str) -> list[Tensor]:
        return [self.state[p][key] for p in self.params if key in self.state[p]]

    def step(self, factor: float | Tensor = 1.0, found_inf: Tensor | None = None) -> None:
        """One step on gradients that ``factor`` is to multiply."""
        if self.native:
            self._step_natively(factor)
            return
        steps, device = self.column("step"), self.params[0].device
        torch._foreach_add_(steps, 1)
        rule = rule_of(**self.options)
        sign = rule.grad_factor
        fused_cuda_update(
            [(p, p.grad, self.state[p]) for p in self.params],
            numbers=numbers_matrix(steps, rule, device),
            grad_factor=sign * factor if isinstance(factor, Tensor) else torch.full((), sign * factor, device=device),
            rule=rule,
            found_inf=found_inf,
        )

    def _step_natively(self, factor: float | Tensor) -> None:
        rule = rule_of(**self.options)
        batch = new_batch(rule.rounding, self.params[0])
        assert batch is not None
        for p in self.params:
            assert fused_cpu.add(batch, p, p.grad, self.state[p], rule.amsgrad)
        run_batch(batch, rule._replace(grad_factor=rule.grad_factor * factor))

    def moments(self, i: int) -> tuple[Tensor, Tensor]:
        """The moments of a parameter, in float32 and one dimension."""
        state = self.state[self.params[i]]
        return tuple(unpack(state[key], state.get(scale_of(key)), moment).reshape(-1) for key, moment in CODED)

    def everything(self) -> list[Tensor]:
        """Copies of all that a step may write."""
        states = [t for p in self.params for key, t in self.state[p].items() if key != "step"]
        return [t.clone() for t in [*self.params, *states]]


class Compared:
    """How many numbers differ between parameters and states that two paths made of the same ones."""

    def __init__(self) -> None:
        self.total, self.differ = 0, dict.fromkeys(("parameter", "reduced", "wide"), 0)

    @torch.no_grad()
    def add(self, p: Tensor, state: dict[str, Tensor], q: Tensor, other: dict[str, Tensor]) -> None:
        """Compare those of one parameter, and make the second those of the first, so that steps go on in lockstep."""
        self.total += p.numel()
        torch.testing.assert_close(p, q, rtol=2 * torch.finfo(p.dtype).eps, atol=1e-6)
        self.differ["parameter"] += int((p != q).sum())
        assert state.keys() == other.keys()
        for key, value in state.items():
            wide = key in ROUNDING_STATE.values() or value.dtype == torch.float32
            self.differ["wide" if wide else "reduced"] += int((value != other[key].to(value.device)).sum())
            other[key].copy_(value)
        q.copy_(p)

    def check(self) -> None:
        """Check that the last bit of float32 arithmetic tipped a rounding now and then, and no more."""
        if self.total:
            limits = {"parameter": 1e-3, "reduced": 5e-3, "wide": 2.5}
            assert all(count <= limits[key] * self.total for key, count in self.differ.items()), vars(self)
