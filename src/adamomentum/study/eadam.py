"""Adam with AdaMomentum's placement of eps: a control that separates eps from the momentum in the second moment.

EAdam (arXiv 2011.02150) adds eps into the second moment at every step, where it accumulates; like AdaMomentum's
Algorithm 1 it has no further eps outside of the root. It was published with eps = 1e-8 (1e-16 for Penn Treebank) and
with L2 decay. This one decays decoupled, as the optimizers do that it is compared with.

Tested in tests/study/test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class EAdam(torch.optim.Optimizer):
    """Adam whose eps is added into v at every step and stands nowhere else.

        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2 + eps
        theta <- theta (1 - lr weight_decay) - lr mhat / sqrt(vhat)

    The state holds v without eps, whose share of vhat is eps / (1 - beta2) at every step.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: of the first and second moment.
        eps: added into the second moment at every step.
        weight_decay: decoupled, times lr.

    Raises:
        ValueError: if a value is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr must be >= 0, got {lr}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        if not eps >= 0:
            raise ValueError(f"eps must be >= 0, got {eps}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update; return what ``closure`` returns, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params)
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p] = {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.state[p]["step"] += 1
        m = [self.state[p]["exp_avg"] for p in params]
        v = [self.state[p]["exp_avg_sq"] for p in params]
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        steps = [self.state[p]["step"] for p in params]
        root = torch._foreach_div(v, [1 - beta2**t for t in steps])
        torch._foreach_add_(root, group["eps"] / (1 - beta2))
        torch._foreach_sqrt_(root)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(params, m, root, [-lr / (1 - beta1**t) for t in steps])
