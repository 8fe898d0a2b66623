"""Language models: the next word of running text.

Tested in tests/study/test_language_trial.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from adamomentum.study.data.text import UNKNOWN, TextData
from adamomentum.study.spec import Value
from adamomentum.study.tasks import FAMILIES
from adamomentum.study.tasks.base import Context, Run, Task, Update, first
from adamomentum.study.tasks.language.awd_lstm import AwdLstm
from adamomentum.study.tasks.language.ngrams import bigram_loss, unigram_loss
from adamomentum.study.tasks.language.settings import LanguageSettings
from adamomentum.study.tasks.language.streams import Carried, Streams

EVAL_WINDOW = 200
PROMPT, CONTINUATION = 12, 40
# exp() of more than this is not a float any more.
LARGEST_LOSS = 700.0


class _LanguageRun(Run):
    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, LanguageSettings.of(context.params)
        self._data: TextData = context.data
        s = self._settings
        self._tokens = {split: torch.from_numpy(t).long().to(context.device) for split, t in self._data.tokens.items()}
        self._model = AwdLstm(
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

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """Scores every token of ``split`` once, save the first, which nothing comes before."""
        self._model.eval()
        tokens = first(self._tokens[split], self._settings.eval_limit)
        scored = len(tokens) - 1
        streams = min(self._settings.eval_streams, scored)
        length = math.ceil(scored / streams)
        inputs = F.pad(tokens[:-1], (0, streams * length - scored)).view(streams, length).t()
        targets = F.pad(tokens[1:], (0, streams * length - scored), value=-100).view(streams, length).t()
        hidden, total = self._model.initial(streams), 0.0
        for x, y in zip(torch.split(inputs, EVAL_WINDOW), torch.split(targets, EVAL_WINDOW), strict=True):
            logits, hidden, _, _ = self._model(x, hidden)
            total += F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100, reduction="sum").item()
        loss = total / scored
        return {"loss": loss, "perplexity": math.exp(min(loss, LARGEST_LOSS))}

    @torch.no_grad()
    def samples(self) -> dict[str, Any]:
        """Continues the first words of the test split, word by word at random as the model gives them weight."""
        self._model.eval()
        prompt = self._tokens["test"][:PROMPT]
        tokens, hidden = prompt.unsqueeze(1), self._model.initial(1)
        generator = torch.Generator().manual_seed(0)
        written: list[int] = []
        while len(written) < CONTINUATION:
            logits, hidden, _, _ = self._model(tokens, hidden)
            weights = torch.softmax(logits[-1, 0].cpu(), 0)
            if UNKNOWN in self._data.words:
                weights[self._data.words.index(UNKNOWN)] = 0
            if not torch.isfinite(weights).all() or weights.sum() == 0:
                break  # a network that has blown up writes nothing
            written.append(int(torch.multinomial(weights, 1, generator=generator)))
            tokens = torch.tensor([written[-1:]], device=self._context.device)
        return {"prompt": self._text(prompt.tolist()), "continued": self._text(written)}

    def _text(self, tokens: Iterable[int]) -> str:
        return " ".join(self._data.words[token] for token in tokens)


class LanguageModel(Task):
    """A tied LSTM on running text, read in parallel streams; ``LanguageSettings`` lists the parameters.

    A budget's batch size is the number of streams; the state of the LSTM goes from window to window.
    """

    family = FAMILIES["language-model"]

    def load(self, params: Mapping[str, Value], source: Path | None) -> TextData:
        """Return the Wikipedia excerpt (``source``: its wheel) or Penn Treebank (``source``: a folder).

        Raises:
            DataError: if it cannot be had.
            ValueError: if ``params`` are not those of a language model.
        """
        settings = LanguageSettings.of(params)
        if settings.data == "ptb":
            from adamomentum.study.data.ptb import ptb

            return ptb(source, any_size=settings.any_size)
        from adamomentum.study.data.wikipedia import wikipedia

        return wikipedia(source)

    def baselines(self, data: TextData) -> dict[str, dict[str, float]]:
        """Return what the training frequencies of words, and of pairs of words, reach."""
        train, test, words = data.tokens["train"], data.tokens["test"], len(data.words)
        losses = {"unigram": unigram_loss(train, test, words), "bigram": bigram_loss(train, test, words)}
        return {name: {"test_loss": loss, "test_perplexity": math.exp(loss)} for name, loss in losses.items()}

    def setup(self, context: Context) -> _LanguageRun:
        """Build the model and cut the text into streams."""
        return _LanguageRun(context)
