"""Translation from German to English with a Transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adamomentum.study.data.parallel_text import BEGIN, END, PAD, Pairs, ParallelText
from adamomentum.study.spec import Value
from adamomentum.study.tasks.base import Context, Run, Update
from adamomentum.study.tasks.transformer import Shape, Transformer, beam_search

EVAL_TOKENS = 4000
DECODE_SENTENCES = 128
SAMPLES = 8

Encoded = Sequence[tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Settings:
    """Model and decoding, from a task's ``params``.

    Attributes:
        data: which corpus, ``home-assistant`` or ``iwslt14``.
        subwords: size of the joint vocabulary.
        features: see ``Shape``, as ``inner``, ``heads``, ``layers``.
        dropout: on residual branches and embeddings.
        drop_attention: on attention weights.
        drop_activation: on feed-forward activations.
        label_smoothing: share of the target's probability that is spread over all words.
        beam: candidates of the beam search.
        penalty: exponent of the length in its score.
        clip: largest norm of the gradient; 0: no clipping.
    """

    data: str
    subwords: int = 2000
    features: int = 96
    inner: int = 192
    heads: int = 4
    layers: int = 2
    dropout: float = 0.1
    drop_attention: float = 0.0
    drop_activation: float = 0.0
    label_smoothing: float = 0.1
    beam: int = 4
    penalty: float = 1.0
    clip: float = 0.0

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Settings:
        """Returns the settings that ``params`` ask for; those of the paper are the defaults for ``iwslt14``.

        Raises:
            ValueError: if a parameter is not known.
        """
        defaults: dict[str, Any] = {"data": "home-assistant"}
        if params.get("data") == "iwslt14":
            defaults |= {"subwords": 10_000, "features": 512, "inner": 1024, "heads": 4, "layers": 6}
            defaults |= {"dropout": 0.3, "drop_attention": 0.1, "drop_activation": 0.1}
            # Beam 5 and lenpen 1.2 are what fairseq's IWSLT14 recipe decodes with.
            defaults |= {"beam": 5, "penalty": 1.2}
        kinds = {name: field.type for name, field in cls.__dataclass_fields__.items()}
        unknown = params.keys() - kinds.keys()
        if unknown:
            raise ValueError(
                f"unknown params of translation: {', '.join(sorted(unknown))}; there are: {', '.join(kinds)}"
            )
        whole = {name: int(value) for name, value in params.items() if kinds[name] == "int"}  # type: ignore[arg-type]
        return cls(**{**defaults, **params, **whole})


class TokenBatches:
    """Endless batches of sentence indices, each of at most ``tokens`` target words, padding included.

    An epoch sorts all sentences by length, ties and nearly equal source lengths in random order, cuts them into batches
    and shuffles those: little padding, and the same number of batches in every epoch.

    Args:
        encoded: (source, target) words of each sentence.
        tokens: target words of a batch at most; a longer sentence is a batch of its own.
        generator: what shuffles.
    """

    def __init__(self, encoded: Encoded, tokens: int, generator: torch.Generator) -> None:
        self._source = torch.tensor([len(source) for source, _ in encoded], dtype=torch.float64)
        self._target = torch.tensor([len(target) for _, target in encoded], dtype=torch.float64)
        self._tokens, self._generator = tokens, generator
        self._waiting: list[list[int]] = []
        # The cuts depend on the sorted target lengths alone.
        self.per_epoch = len(self._cut(torch.argsort(self._target)))

    def _cut(self, order: Tensor) -> list[list[int]]:
        lengths = self._target[order].tolist()
        batches, start = [], 0
        for k, longest in enumerate(lengths):
            if k > start and (k - start + 1) * longest > self._tokens:
                batches.append(order[start:k].tolist())
                start = k
        return [*batches, order[start:].tolist()]

    def next(self) -> list[int]:
        """Returns the next batch."""
        if not self._waiting:
            jitter = 4 * torch.rand(len(self._source), generator=self._generator, dtype=torch.float64)
            # One key: the target length, then the source length give or take.
            batches = self._cut(torch.argsort(self._target * 1e6 + self._source + jitter))
            self._waiting = [batches[k] for k in torch.randperm(len(batches), generator=self._generator)]
        return self._waiting.pop()

    def state_dict(self) -> dict[str, Any]:
        """Returns where it stands."""
        return {"waiting": [list(batch) for batch in self._waiting], "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state``."""
        self._waiting = [list(batch) for batch in state["waiting"]]
        self._generator.set_state(state["generator"])


def _padded(rows: Sequence[list[int]], device: torch.device) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows], device=device)


class _TranslationRun(Run):
    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, Settings.of(context.params)
        s, data = self._settings, context.data
        self._data: ParallelText = data
        self._encoded = {split: data.encode(split) for split in ("train", "val", "test")}
        shape = Shape(s.features, s.inner, s.heads, s.layers, (s.dropout, s.drop_attention, s.drop_activation))
        self._model = Transformer(data.size, shape, PAD).to(context.device)
        self._trained = context.parallel(self._model)
        self._update = Update(context, self._model, clip=s.clip or None)
        self._batches = TokenBatches(self._encoded["train"], context.budget.batch_size, context.generator("order"))
        self.total_steps = context.budget.total_steps(self._batches.per_epoch)

    def parts(self) -> dict[str, Any]:
        return {"model": self._model, "update": self._update, "batches": self._batches}

    def _losses(self, model: torch.nn.Module, pairs: Encoded, smoothing: float) -> Tensor:
        """Summed cross-entropy over all target words of ``pairs``."""
        source = _padded([source for source, _ in pairs], self._context.device)
        target = _padded([[BEGIN, *target] for _, target in pairs], self._context.device)
        words = target[:, 1:] != PAD
        with self._context.autocast():
            features = model(source, target[:, :-1])
            # The output layer is the dearest part: padding is left out of it.
            logits = self._model.logits(features[words])
        return F.cross_entropy(logits.float(), target[:, 1:][words], reduction="sum", label_smoothing=smoothing)

    def step(self) -> float:
        pairs = [self._encoded["train"][k] for k in self._batches.next()]
        count = sum(len(target) for _, target in pairs)
        world, rank = self._context.world, self._context.rank
        # Every process takes whole sentences; the mean goes over all processes' words, so each divides by all of them
        # and undoes the averaging of gradients. With fewer sentences than processes some train on a copy.
        mine = [pairs[k % len(pairs)] for k in range(rank, max(len(pairs), rank + 1), world)]
        self._trained.train()
        loss = self._losses(self._trained, mine, self._settings.label_smoothing) * world / count
        self._update(loss)
        return loss.item()

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        self._model.eval()
        pairs = sorted(self._encoded[split], key=lambda pair: (len(pair[1]), len(pair[0])))
        total, start = 0.0, 0
        while start < len(pairs):
            size = max(1, EVAL_TOKENS // max(len(pairs[start][0]), len(pairs[start][1])))
            total += self._losses(self._model, pairs[start : start + size], 0.0).item()
            start += size
        return {"loss": total / sum(len(target) for _, target in pairs)}

    def finish(self, split: str) -> dict[str, float]:
        """Translates the test split by beam search: BLEU and chrF of detokenized text."""
        if split != "test":
            return {}
        import sacrebleu

        self._hypotheses = self._translate(split)
        references = [[target for _, target in self._data.pairs[split]]]
        return {
            "bleu": sacrebleu.corpus_bleu(self._hypotheses, references).score,
            "chrf": sacrebleu.corpus_chrf(self._hypotheses, references).score,
        }

    def _translate(self, split: str) -> list[str]:
        self._model.eval()
        sources = [source for source, _ in self._encoded[split]]
        order = sorted(range(len(sources)), key=lambda k: len(sources[k]))
        found: dict[int, str] = {}
        for start in range(0, len(order), DECODE_SENTENCES):
            rows = order[start : start + DECODE_SENTENCES]
            longest = 10 + 3 * max(len(sources[k]) for k in rows) // 2
            source = _padded([sources[k] for k in rows], self._context.device)
            with self._context.autocast():
                targets = beam_search(
                    self._model, source, BEGIN, END, self._settings.beam, longest, self._settings.penalty
                )
            found |= zip(rows, self._data.processor.decode(targets), strict=True)
        return [found[k] for k in range(len(sources))]

    def samples(self) -> dict[str, Any]:
        import sacrebleu

        pairs = self._data.pairs["test"]
        step = max(1, len(pairs) // SAMPLES)
        rows = range(0, len(pairs), step)[:SAMPLES]
        return {
            "translations": [
                {"source": pairs[k][0], "reference": pairs[k][1], "translation": self._hypotheses[k]} for k in rows
            ],
            "metrics": f"sacrebleu {sacrebleu.__version__}: BLEU 13a, chrF2, detokenized",
        }


def nearest_neighbours(train: Pairs, sources: Sequence[str]) -> list[str]:
    """Returns for each source the target of the training pair whose source is most like it.

    Alike is measured by the Jaccard index of the sets of character 4-grams.
    """
    from scipy.sparse import csr_matrix

    index: dict[str, int] = {}

    def grams(text: str) -> set[int]:
        padded = f" {text.lower()} "
        return {index.setdefault(padded[k : k + 4], len(index)) for k in range(max(1, len(padded) - 3))}

    def matrix(rows: list[set[int]]) -> Any:
        pointers = np.cumsum([0, *map(len, rows)])
        columns = np.fromiter((column for row in rows for column in row), dtype=np.int64, count=int(pointers[-1]))
        return csr_matrix((np.ones(len(columns)), columns, pointers), shape=(len(rows), len(index)))

    known, asked = [grams(source) for source, _ in train], [grams(source) for source in sources]
    common = (matrix(asked) @ matrix(known).T).toarray()
    union = np.array([len(row) for row in asked])[:, None] + np.array([len(row) for row in known]) - common
    return [train[k][1] for k in (common / union).argmax(1)]


class Translation:
    """German to English."""

    def load(self, params: Mapping[str, Value], source: Path | None) -> ParallelText:
        """Returns the Home Assistant texts or IWSLT14.

        Raises:
            DataError: if they cannot be had.
            ValueError: if there is no such corpus.
        """
        s = Settings.of(params)
        if s.data == "home-assistant":
            from adamomentum.study.data.homeassistant import home_assistant

            return home_assistant(s.subwords)
        if s.data == "iwslt14":
            from adamomentum.study.data.iwslt import iwslt14

            return iwslt14(source, s.subwords)
        raise ValueError(f"unknown data {s.data!r} of translation; allowed: home-assistant, iwslt14")

    def baselines(self, data: ParallelText) -> dict[str, dict[str, float]]:
        """Returns what copying the source, the nearest training sentence, and word frequencies reach."""
        import sacrebleu

        sources, references = map(list, zip(*data.pairs["test"], strict=True))
        guesses = {"copy": sources, "nearest neighbour": nearest_neighbours(data.pairs["train"], sources)}
        scores = {
            name: {
                "test_bleu": float(sacrebleu.corpus_bleu(guess, [references]).score),
                "test_chrf": float(sacrebleu.corpus_chrf(guess, [references]).score),
            }
            for name, guess in guesses.items()
        }
        words = lambda split: np.array([word for _, target in data.encode(split) for word in target])
        counts = np.bincount(words("train"), minlength=data.size) + 1.0
        loss = float(-np.log(counts / counts.sum())[words("test")].mean())
        return {**scores, "unigram": {"test_loss": loss}}

    def setup(self, context: Context) -> _TranslationRun:
        """Builds the model and encodes the sentences."""
        return _TranslationRun(context)
