"""Language models: the next word, or byte, of running text.

Tested in tests/study/test_language_trial.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adamomentum.study.data.text import TextData
from adamomentum.study.spec import Value
from adamomentum.study.tasks import FAMILIES
from adamomentum.study.tasks.base import Context, Task, Update
from adamomentum.study.tasks.language.awd_lstm import AwdLstm
from adamomentum.study.tasks.language.ngrams import bigram_loss, unigram_loss
from adamomentum.study.tasks.language.settings import LanguageSettings
from adamomentum.study.tasks.language.streams import Carried, Streams
from adamomentum.study.tasks.language.text_run import TextRun
from adamomentum.study.tasks.language.windows import WindowRun

EVAL_WINDOW = 200


class _StreamRun(TextRun):
    """A run of an LSTM; the batch size is the number of streams."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        s = self._settings
        self._model: AwdLstm = AwdLstm(
            words=len(self._data.words),
            embedding=s.embedding,
            hidden=s.hidden,
            layers=s.layers,
            drop_words=s.drop_words,
            drop_input=s.drop_input,
            drop_hidden=s.drop_hidden,
            drop_output=s.drop_output,
            weight_drop=s.weight_drop,
        ).to(context.device)
        self._trained = context.parallel(self._model)
        self._update = Update(context, self._model, clip=s.clip)
        streams = context.budget.batch_size
        self._streams = Streams(self._tokens["train"], streams, s.bptt, s.variable_bptt, context.generator("order"))
        self._mine = context.share(torch.arange(streams)).to(context.device)
        self._carried = Carried(self._model.initial(len(self._mine)))
        self.total_steps = context.budget.total_steps(self._streams.per_epoch)

    def parts(self) -> dict[str, Any]:
        return {"model": self._model, "update": self._update, "streams": self._streams}

    def own_parts(self) -> dict[str, Any]:
        return {"carried": self._carried}

    def step(self) -> float:
        s = self._settings
        inputs, targets, anew = self._streams.next()
        inputs, targets = inputs[:, self._mine], targets[:, self._mine]
        hidden = self._model.initial(len(self._mine)) if anew else self._carried.hidden
        if s.variable_bptt:
            # The loss is a mean over tokens: without this a short window's would count for more. The engine sets the
            # rate anew before each step, so that the factors do not pile up.
            for group in self._update.optimizer.param_groups:
                group["lr"] *= len(inputs) / s.bptt
        self._trained.train()
        with self._context.autocast():
            logits, hidden, dropped, raw = self._trained(inputs, hidden)
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
            total = loss
            if s.alpha:
                total = total + s.alpha * dropped.float().square().mean()
            if s.beta and len(raw) > 1:
                total = total + s.beta * (raw[1:] - raw[:-1]).float().square().mean()
        self._carried.hidden = [(h.detach().float(), c.detach().float()) for h, c in hidden]
        self._update(total)
        return loss.item()

    def summed_loss(self, tokens: Tensor) -> float:
        """Return the loss in parallel streams, each of which begins without memory."""
        scored = len(tokens) - 1
        streams = min(self._settings.eval_streams, scored)
        length = math.ceil(scored / streams)
        inputs = F.pad(tokens[:-1], (0, streams * length - scored)).view(streams, length).t()
        targets = F.pad(tokens[1:], (0, streams * length - scored), value=-100).view(streams, length).t()
        hidden, total = self._model.initial(streams), 0.0
        for x, y in zip(torch.split(inputs, EVAL_WINDOW), torch.split(targets, EVAL_WINDOW), strict=True):
            logits, hidden, _, _ = self._model(x, hidden)
            total += F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100, reduction="sum").item()
        return total

    def what_follows(self, new: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, hidden, _, _ = self._model(new.unsqueeze(1), self._model.initial(1) if state is None else state)
        return logits[-1, 0], hidden


class LanguageModel(Task):
    """A language model on running text; ``LanguageSettings`` lists the parameters.

    A tied LSTM reads the text in parallel streams, as many as a budget's batch size, and its state goes from window to
    window. A Transformer reads windows in random order, as many at a time.
    """

    family = FAMILIES["language-model"]

    def load(self, params: Mapping[str, Value], source: Path | None) -> TextData:
        """Return the Wikipedia excerpt or NetworkX's source (``source``: its wheel) or Penn Treebank (a folder).

        Raises:
            DataError: if it cannot be had.
            ValueError: if ``params`` are not those of a language model.
        """
        settings = LanguageSettings.of(params)
        if settings.data == "ptb":
            from adamomentum.study.data.ptb import ptb

            return ptb(source, any_size=settings.any_size)
        if settings.data == "networkx":
            from adamomentum.study.data.python_source import python_source

            return python_source(source)
        from adamomentum.study.data.wikipedia import wikipedia

        return wikipedia(source)

    def baselines(self, data: TextData) -> dict[str, dict[str, float]]:
        """Return what the training frequencies of words, and of pairs of words, reach."""
        train, test, words = data.tokens["train"], data.tokens["test"], len(data.words)
        losses = {"unigram": unigram_loss(train, test, words), "bigram": bigram_loss(train, test, words)}
        return {name: {"test_loss": loss, "test_perplexity": math.exp(loss)} for name, loss in losses.items()}

    def setup(self, context: Context) -> TextRun:
        """Build the model and cut the text into streams or windows."""
        if LanguageSettings.of(context.params).model == "transformer":
            return WindowRun(context)
        return _StreamRun(context)
