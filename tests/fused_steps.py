"""The fused CUDA path as an optimizer over its contract function alone, for tests in lockstep and on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adamomentum import AdaMomentum
from adamomentum.torch.fused_cuda import fused_cuda_update
from adamomentum.torch.optimizer import _rule_of
from adamomentum.torch.precision import decode_m, decode_v, encode_m, encode_v
from adamomentum.torch.rule import Rule
from adamomentum.torch.scalars import numbers_matrix


def rule_of(**options: Any) -> Rule:
    """The Rule of an optimizer's options."""
    return _rule_of(AdaMomentum([torch.zeros(1)], **options).param_groups[0], False, 1.0, 1)


class FusedCuda:
    """Takes steps with ``fused_cuda_update``; ``p.grad`` and ``state[p]`` are as in an optimizer.

    Args:
        params: all updated by one call.
        state_dtype: float32, bfloat16 or, for the 8-bit format, uint8; one for all parameters or one each.
        steps_on: the device of the step counts; None for the parameters'.
        options: those of AdaMomentum.
    """

    def __init__(
        self,
        params: list[Tensor],
        state_dtype: torch.dtype | list[torch.dtype] = torch.float32,
        steps_on: torch.device | None = None,
        **options: Any,
    ) -> None:
        self.params, self.options = params, options
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self.scales: list[tuple[Tensor, Tensor]] = []
        dtypes = state_dtype if isinstance(state_dtype, list) else [state_dtype] * len(params)
        for p, dtype in zip(params, dtypes, strict=True):
            zeros = torch.zeros(p.numel(), device=p.device)
            m, v = torch.zeros_like(p, dtype=dtype), torch.zeros_like(p, dtype=dtype)
            if dtype == torch.uint8:
                (m_codes, m_scale), (v_codes, v_scale) = (f(zeros, zeros.int()) for f in (encode_m, encode_v))
                m.view(-1).copy_(m_codes)
                v.view(-1).copy_(v_codes)
                self.scales.append((m_scale, v_scale))
            state = {"step": torch.tensor(0.0, device=steps_on or p.device), "exp_avg": m, "exp_avg_sq": v}
            if options.get("amsgrad"):
                state["max_exp_avg_sq"] = torch.zeros_like(p, dtype=torch.float32)
            self.state[p] = state

    def column(self, key: str) -> list[Tensor]:
        return [self.state[p][key] for p in self.params if key in self.state[p]]

    def step(self, factor: float | Tensor = 1.0, found_inf: Tensor | None = None) -> None:
        """One step on gradients that ``factor`` is to multiply."""
        steps, device = self.column("step"), self.params[0].device
        torch._foreach_add_(steps, 1)
        rule = rule_of(**self.options)
        sign = rule.grad_factor
        fused_cuda_update(
            self.params,
            [p.grad for p in self.params],
            self.column("exp_avg"),
            self.column("exp_avg_sq"),
            self.column("max_exp_avg_sq"),
            [m for m, _ in self.scales],
            [v for _, v in self.scales],
            steps,
            numbers=numbers_matrix(steps, rule, device),
            grad_factor=sign * factor if isinstance(factor, Tensor) else torch.full((), sign * factor, device=device),
            rule=rule,
            found_inf=found_inf,
        )

    def moments(self, i: int) -> tuple[Tensor, Tensor]:
        """The moments of a parameter, in float32 and one dimension."""
        m, v = (self.state[self.params[i]][key].reshape(-1) for key in ("exp_avg", "exp_avg_sq"))
        if m.dtype == torch.uint8:
            return decode_m(m, self.scales[i][0]), decode_v(v, self.scales[i][1])
        return m.float(), v.float()

    def everything(self) -> list[Tensor]:
        """Copies of all that a step may write."""
        states = [t for p in self.params for key, t in self.state[p].items() if key != "step"]
        return [t.clone() for t in [*self.params, *states, *[t for pair in self.scales for t in pair]]]
