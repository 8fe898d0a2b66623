"""Language models: the next word of running text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from adamomentum.study.data.text import TextData
from adamomentum.study.spec import Value
from adamomentum.study.tasks.awd_lstm import AwdLstm, Hidden
from adamomentum.study.tasks.base import Context, Run, Update

EVAL_TIME = 200


@dataclass(frozen=True)
class Settings:
    """Model and training of a language model, from a task's ``params``; see ``AwdLstm`` for the model's.

    Attributes:
        data: which text, ``wikipedia`` or ``ptb``.
        bptt: tokens through which gradients go back; the mean of a random length if ``variable_bptt``.
        variable_bptt: AWD-LSTM's random lengths, the learning rate scaled with the length.
        clip: largest norm of the gradient.
        alpha: activation regularization: times the mean square of the last layer's outputs.
        beta: temporal activation regularization: times the mean square of their change.
        eval_streams: in how many parallel streams a split is evaluated.
    """

    data: str
    layers: int = 1
    embedding: int = 128
    hidden: int = 128
    drop_words: float = 0.0
    drop_input: float = 0.0
    drop_hidden: float = 0.0
    drop_output: float = 0.1
    weight_drop: float = 0.0
    bptt: int = 35
    variable_bptt: bool = False
    clip: float = 1.0
    alpha: float = 0.0
    beta: float = 0.0
    eval_streams: int = 20

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Settings:
        """Returns the settings that ``params`` ask for; those of AWD-LSTM are the defaults for ``data = "ptb"``.

        Raises:
            ValueError: if a parameter is not known.
        """
        defaults: dict[str, Any] = {"data": "wikipedia"}
        if params.get("data") == "ptb":
            defaults |= {"embedding": 400, "hidden": 1150, "bptt": 70, "variable_bptt": True, "clip": 0.25}
            defaults |= {"drop_words": 0.1, "drop_input": 0.4, "drop_hidden": 0.25, "drop_output": 0.4}
            defaults |= {"weight_drop": 0.5, "alpha": 2.0, "beta": 1.0}
        kinds = {name: field.type for name, field in cls.__dataclass_fields__.items()}
        unknown = params.keys() - kinds.keys()
        if unknown:
            raise ValueError(
                f"unknown params of a language model: {', '.join(sorted(unknown))}; there are: {', '.join(kinds)}"
            )
        whole = {name: int(value) for name, value in params.items() if kinds[name] == "int"}  # type: ignore[arg-type]
        return cls(**{**defaults, **params, **whole})


class Streams:
    """Training text cut into parallel streams that are read window by window, over and over.

    Args:
        tokens: int64 [n].
        count: number of streams; the rest of the text, shorter than a token a stream, is left out.
        settings: how long windows are.
        generator: draws the lengths, and where in the text the streams begin if the lengths are fixed: what makes
            one seed's batches differ from another's.
    """

    def __init__(self, tokens: Tensor, count: int, settings: Settings, generator: torch.Generator) -> None:
        length = len(tokens) // count
        if length < 2:
            raise ValueError(f"batch_size must be at most half the {len(tokens)} training tokens, got {count}")
        if not settings.variable_bptt:
            tokens = tokens.roll(-int(torch.randint(len(tokens), (), generator=generator)))
        self._text = tokens[: length * count].view(count, length).t().contiguous()
        self._settings, self._generator = settings, generator
        self._position = 0
        # AWD-LSTM's lengths are bptt with probability 0.95, else half of it, give or take.
        mean = settings.bptt * (0.975 if settings.variable_bptt else 1.0)
        self.per_epoch = max(1, math.ceil((length - 1) / mean))

    def next(self) -> tuple[Tensor, Tensor, bool]:
        """Returns inputs and targets, int64 [time, streams], and whether the streams start anew with them."""
        if self._position >= len(self._text) - 1:
            self._position = 0
        time = self._settings.bptt
        if self._settings.variable_bptt:
            full, noise = torch.rand((), generator=self._generator), torch.randn((), generator=self._generator)
            time = max(5, int((time if full < 0.95 else time / 2) + 5 * noise))
        start, end = self._position, min(self._position + time, len(self._text) - 1)
        self._position = end
        return self._text[start:end], self._text[start + 1 : end + 1], start == 0

    def state_dict(self) -> dict[str, Any]:
        """Returns where it stands."""
        return {"position": self._position, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state``."""
        self._position = state["position"]
        self._generator.set_state(state["generator"])


class _Carried:
    """The state of the LSTM between two windows."""

    def __init__(self, hidden: Hidden) -> None:
        self.hidden = hidden

    def state_dict(self) -> dict[str, Any]:
        return {"hidden": [list(pair) for pair in self.hidden]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.hidden[0][0].device
        self.hidden = [(h.to(device), c.to(device)) for h, c in state["hidden"]]


class _LanguageRun(Run):
    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, Settings.of(context.params)
        s, data = self._settings, context.data
        self._data: TextData = data
        self._tokens = {split: torch.from_numpy(t).long().to(context.device) for split, t in data.tokens.items()}
        self._model = AwdLstm(
            len(data.words),
            s.embedding,
            s.hidden,
            s.layers,
            s.drop_words,
            s.drop_input,
            s.drop_hidden,
            s.drop_output,
            s.weight_drop,
        ).to(context.device)
        self._trained = context.parallel(self._model)
        self._update = Update(context, self._model, clip=s.clip)
        streams = context.budget.batch_size
        self._streams = Streams(self._tokens["train"], streams, s, context.generator("order"))
        self._mine = context.share(torch.arange(streams)).to(context.device)
        self._carried = _Carried(self._model.initial(len(self._mine)))
        self.total_steps = context.budget.total_steps(self._streams.per_epoch)

    def parts(self) -> dict[str, Any]:
        return {"model": self._model, "update": self._update, "streams": self._streams, "carried": self._carried}

    def step(self) -> float:
        s = self._settings
        inputs, targets, anew = self._streams.next()
        inputs, targets = inputs[:, self._mine], targets[:, self._mine]
        hidden = self._model.initial(len(self._mine)) if anew else self._carried.hidden
        if s.variable_bptt:
            for group in self._update.optimizer.param_groups:
                group["lr"] *= len(inputs) / s.bptt  # the engine sets the rate anew before each step
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
        """Scores every token but the first once, in parallel streams that each begin without memory."""
        self._model.eval()
        tokens = self._tokens[split]
        streams = min(self._settings.eval_streams, len(tokens) - 1)
        length = math.ceil((len(tokens) - 1) / streams)
        inputs = F.pad(tokens[:-1], (0, streams * length - len(tokens) + 1)).view(streams, length).t()
        targets = F.pad(tokens[1:], (0, streams * length - len(tokens) + 1), value=-100).view(streams, length).t()
        hidden, total = self._model.initial(streams), 0.0
        for start in range(0, length, EVAL_TIME):
            with self._context.autocast():
                logits, hidden, _, _ = self._model(inputs[start : start + EVAL_TIME], hidden)
            part = targets[start : start + EVAL_TIME].flatten()
            total += F.cross_entropy(logits.float().flatten(0, 1), part, ignore_index=-100, reduction="sum").item()
        loss = total / (len(tokens) - 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}

    @torch.no_grad()
    def samples(self) -> dict[str, Any]:
        """Continues the first words of the test split by sampling."""
        self._model.eval()
        prompt = self._tokens["test"][:12]
        hidden = self._model.initial(1)
        tokens = prompt.unsqueeze(1)
        generator = torch.Generator().manual_seed(0)
        written: list[int] = []
        for _ in range(40):
            logits, hidden, _, _ = self._model(tokens, hidden)
            weights = torch.softmax(logits[-1, 0].float().cpu(), 0)
            weights[0] = 0  # not <unk>
            if not torch.isfinite(weights).all():
                break
            written.append(int(torch.multinomial(weights, 1, generator=generator)))
            tokens = torch.tensor([[written[-1]]], device=self._context.device)
        text = lambda indices: " ".join(self._data.words[k] for k in indices)
        return {"prompt": text(prompt.tolist()), "continued": text(written)}


def unigram_loss(train: npt.NDArray[np.int32], test: npt.NDArray[np.int32], words: int) -> float:
    """Returns nats a token of the training frequencies, one added to each count."""
    counts = np.bincount(train, minlength=words) + 1.0
    return float(-np.log(counts / counts.sum())[test[1:]].mean())


def bigram_loss(train: npt.NDArray[np.int32], test: npt.NDArray[np.int32], words: int) -> float:
    """Returns nats a token of a bigram model with Witten-Bell smoothing towards the unigram model.

    After a word seen n times with k different successors, the unseen ones share k / (n + k).
    """
    counts = np.bincount(train, minlength=words) + 1.0
    unigram = counts / counts.sum()
    pairs = Counter(zip(train[:-1].tolist(), train[1:].tolist(), strict=True))
    seen = np.bincount(train[:-1], minlength=words)
    kinds = np.bincount(np.array([a for a, _ in pairs]), minlength=words)
    total = 0.0
    for a, b in zip(test[:-1].tolist(), test[1:].tolist(), strict=True):
        n, k = int(seen[a]), int(kinds[a])
        p = unigram[b] if n == 0 else (pairs[a, b] + k * unigram[b]) / (n + k)
        total -= math.log(p)
    return total / (len(test) - 1)


class LanguageModel:
    """An LSTM language model on running text."""

    def load(self, params: Mapping[str, Value], source: Path | None) -> TextData:
        """Returns the Wikipedia excerpt or Penn Treebank.

        Raises:
            DataError: if it cannot be had.
            ValueError: if there is no such text.
        """
        name = Settings.of(params).data
        if name == "wikipedia":
            from adamomentum.study.data.wikipedia import wikipedia

            return wikipedia()
        if name == "ptb":
            from adamomentum.study.data.ptb import ptb

            return ptb(source)
        raise ValueError(f"unknown data {name!r} of a language model; allowed: wikipedia, ptb")

    def baselines(self, data: TextData) -> dict[str, dict[str, float]]:
        """Returns what the training frequencies of words, and of pairs of words, reach."""
        train, test, words = data.tokens["train"], data.tokens["test"], len(data.words)
        losses = {"unigram": unigram_loss(train, test, words), "bigram": bigram_loss(train, test, words)}
        return {name: {"test_loss": loss, "test_perplexity": math.exp(loss)} for name, loss in losses.items()}

    def setup(self, context: Context) -> _LanguageRun:
        """Builds the model and cuts the text into streams."""
        return _LanguageRun(context)
