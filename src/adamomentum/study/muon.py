"""Muon for matrices, AdamW for what is none: what many train Transformers with, as a reference beside the others.

Muon (https://kellerjordan.github.io/posts/muon/) moves a matrix by its momentum made orthogonal. It was made for the
hidden layers: embeddings, biases and norms are left to AdamW, and so is here what has one dimension, or more than two,
as a convolution. ``adjust_lr_fn="match_rms_adamw"`` (arXiv 2502.16982) makes Muon's steps as long as AdamW's, so that
both share a learning rate and a decay. Both are torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def mark_embedding(p: Tensor) -> None:
    """Say of a parameter that it is an embedding, though it is a matrix; a model does so when it is built."""
    p.is_embedding = True  # type: ignore[attr-defined]


class MuonAdamW(torch.optim.Optimizer):
    """Muon over the matrices that are no embeddings, AdamW over all else.

    Args:
        params: parameters or groups; each group becomes one of matrices and one of the rest.
        lr: learning rate of both.
        momentum: Muon's, which is Nesterov's.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: decoupled, times lr, of both.

    Raises:
        ValueError: if a value is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        from torch.optim import AdamW, Muon  # an older torch has none, and models import this module

        given = list(params)
        groups = [dict(g) for g in given] if given and isinstance(given[0], dict) else [{"params": given}]
        matrices, rest = [], []
        for group in groups:
            its = list(group.pop("params"))
            hidden = [p for p in its if p.ndim == 2 and not getattr(p, "is_embedding", False)]
            others = [p for p in its if not any(p is q for q in hidden)]
            matrices += [{**group, "params": hidden}] if hidden else []
            rest += [{**group, "params": others}] if others else []
        shared: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        self._inner: list[torch.optim.Optimizer] = []
        if matrices:
            self._inner.append(Muon(matrices, momentum=momentum, adjust_lr_fn="match_rms_adamw", **shared))
        if rest:
            self._inner.append(AdamW(rest, betas=betas, eps=eps, **shared))
        both = [{**group, "of": k} for k, inner in enumerate(self._inner) for group in inner.param_groups]
        super().__init__(both, {**shared, "momentum": momentum, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update; return what ``closure`` returns, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for k, inner in enumerate(self._inner):
            # Here are the groups that schedules change, and the state that is saved and loaded.
            inner.param_groups = [group for group in self.param_groups if group["of"] == k]
            inner.state = self.state
            inner.step()
        return loss
