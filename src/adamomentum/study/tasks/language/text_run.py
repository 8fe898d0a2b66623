"""What runs of language models have in common: the text, how it is scored, how a model continues it.

Tested in tests/study/test_language_model.py.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from adamomentum.study.data.text import UNKNOWN, TextData
from adamomentum.study.tasks.base import Context, Run, first
from adamomentum.study.tasks.language.settings import LanguageSettings

PROMPT = {"words": 12, "bytes": 60}
CONTINUATION = {"words": 40, "bytes": 200}
"""Tokens that a sample begins with, and that a model adds."""

# exp() of more than this is not a float any more.
LARGEST_LOSS = 700.0


class TextRun(Run):
    """A language model on a text.

    Args:
        context: the trial.
    """

    _model: nn.Module

    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, LanguageSettings.of(context.params)
        self._data: TextData = context.data
        self._tokens = {split: torch.from_numpy(t).long().to(context.device) for split, t in self._data.tokens.items()}

    @abstractmethod
    def summed_loss(self, tokens: Tensor) -> float:
        """Return the sum of the losses of ``tokens``, int64 [n], but for the first, which nothing comes before."""

    @abstractmethod
    def what_follows(self, new: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return logits, [words], of what follows the text so far, and the state for the next call.

        Args:
            new: tokens that the model has not seen yet, int64 [n].
            state: what the call before returned; None before the first.
        """

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """Scores every token of ``split`` once, save the first."""
        self._model.eval()
        tokens = first(self._tokens[split], self._settings.eval_limit)
        loss = self.summed_loss(tokens) / (len(tokens) - 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, LARGEST_LOSS))}

    @torch.no_grad()
    def samples(self) -> dict[str, Any]:
        """Continues the beginning of the test split, token by token at random as the model gives them weight."""
        self._model.eval()
        new, state = self._tokens["test"][: PROMPT[self._data.unit]], None
        prompt = self._data.text(new.tolist())
        generator = torch.Generator().manual_seed(0)
        written: list[int] = []
        while len(written) < CONTINUATION[self._data.unit]:
            logits, state = self.what_follows(new, state)
            weights = torch.softmax(logits.cpu(), 0)
            if UNKNOWN in self._data.words:
                weights[self._data.words.index(UNKNOWN)] = 0
            if not torch.isfinite(weights).all() or weights.sum() == 0:
                break  # a network that has blown up writes nothing
            written.append(int(torch.multinomial(weights, 1, generator=generator)))
            new = torch.tensor(written[-1:], device=self._context.device)
        return {"prompt": prompt, "continued": self._data.text(written)}
