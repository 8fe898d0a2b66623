"""A causal Transformer on windows of text, each a text of its own, in an order that the seed draws.

Tested in tests/study/test_language_model.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adamomentum.study.tasks.base import Batches, Context, Update
from adamomentum.study.tasks.language.text_run import TextRun
from adamomentum.study.tasks.language.transformer import CausalTransformer


class WindowRun(TextRun):
    """A run of a Transformer. Weight decay is on matrices alone, the embeddings among them.

    Args:
        context: the trial; the batch size is the number of windows.

    Raises:
        ValueError: if the text is shorter than a window.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        s = self._settings
        self._model: CausalTransformer = CausalTransformer(
            len(self._data.words), s.embedding, s.hidden, s.heads, s.layers, s.bptt
        ).to(context.device)
        self._trained = context.parallel(self._model)
        parameters = list(self._model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._update = Update(context, self._model, groups, s.clip)
        windows = (len(self._tokens["train"]) - 1) // s.bptt
        if not windows:
            raise ValueError(f"bptt must be less than the {len(self._tokens['train'])} training tokens, got {s.bptt}")
        self._batches = Batches(windows, context.budget.batch_size, context.generator("order"))
        self.total_steps = context.budget.total_steps(self._batches.per_epoch)

    def parts(self) -> dict[str, Any]:
        """Return all that a checkpoint must hold."""
        return {"model": self._model, "update": self._update, "batches": self._batches}

    def step(self) -> float:
        """Make one update on as many windows as the batch size."""
        context, length = self._context, self._settings.bptt
        starts = context.share(self._batches.next()).to(context.device) * length
        text = self._tokens["train"][starts.unsqueeze(1) + torch.arange(length + 1, device=context.device)]
        self._trained.train()
        with context.autocast():
            logits = self._trained(text[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), text[:, 1:].flatten())
        self._update(loss)
        return loss.item()

    def summed_loss(self, tokens: Tensor) -> float:
        """Return the loss window by window: a token is told from those before it in its window."""
        length, total = self._settings.bptt, 0.0
        whole = (len(tokens) - 1) // length * length
        batches = list(
            zip(
                tokens[:whole].view(-1, length).split(self._settings.eval_streams),
                tokens[1 : whole + 1].view(-1, length).split(self._settings.eval_streams),
                strict=True,
            )
        )
        if whole < len(tokens) - 1:
            batches.append((tokens[whole:-1].unsqueeze(0), tokens[whole + 1 :].unsqueeze(0)))
        for x, y in batches:
            total += F.cross_entropy(self._model(x).flatten(0, 1), y.flatten(), reduction="sum").item()
        return total

    def what_follows(self, new: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return logits after the last window of the text, which is the state."""
        text = (new if state is None else torch.cat([state, new]))[-self._settings.bptt :]
        return self._model(text.unsqueeze(0))[0, -1], text
