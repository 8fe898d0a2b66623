"""Translation from German to English with a Transformer.

Tested in tests/study/test_translation_trial.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adamomentum.study.data.base import SPLITS, DataError
from adamomentum.study.data.parallel_text import BEGIN, END, PAD, ParallelText
from adamomentum.study.spec import Value
from adamomentum.study.tasks import FAMILIES
from adamomentum.study.tasks.base import Context, Run, Task, Update, first
from adamomentum.study.tasks.translation.beam import beam_search
from adamomentum.study.tasks.translation.nearest import nearest_neighbours
from adamomentum.study.tasks.translation.settings import TranslationSettings
from adamomentum.study.tasks.translation.token_batches import Encoded, TokenBatches, in_order, padded
from adamomentum.study.tasks.translation.transformer import MAX_LENGTH, Shape, Transformer

EVAL_TOKENS = 4000
DECODE_SENTENCES = 128
SAMPLES = 8


def _scores(hypotheses: list[str], references: list[str]) -> tuple[dict[str, float], str]:
    """Return BLEU and chrF, both in percent, and sacrebleu's signatures of the two."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    scores, signatures = {}, []
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        scores[name] = float(metric.corpus_score(hypotheses, [references]).score)
        signatures.append(f"{name} {metric.get_signature()}")
    return scores, "; ".join(signatures)


class _TranslationRun(Run):
    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, TranslationSettings.of(context.params)
        s, data = self._settings, context.data
        self._data: ParallelText = data
        self._encoded = {split: data.encode(split) for split in SPLITS}
        for split, pairs in self._encoded.items():
            longest = max(len(sentence) for pair in pairs for sentence in pair)
            if longest > MAX_LENGTH:
                raise DataError(
                    f"{data.name}: a sentence of {split} has {longest} subwords, the network reads {MAX_LENGTH} at "
                    "most; leave that sentence out"
                )
        shape = Shape(s.features, s.inner, s.heads, s.layers, (s.dropout, s.drop_attention, s.drop_activation))
        self._model = Transformer(data.size, shape, PAD).to(context.device)
        self._trained = context.parallel(self._model)
        self._update = Update(context, self._model, clip=s.clip or None)
        self._batches = TokenBatches(self._encoded["train"], context.budget.batch_size, context.generator("order"))
        self.total_steps = context.budget.total_steps(self._batches.per_epoch)
        self._hypotheses: list[str] = []
        self._signature = ""

    def parts(self) -> dict[str, Any]:
        return {"model": self._model, "update": self._update, "batches": self._batches}

    def _losses(self, model: torch.nn.Module, pairs: Encoded, smoothing: float) -> Tensor:
        """Return the summed cross-entropy over all target words of ``pairs``."""
        source = padded([source for source, _ in pairs], PAD, self._context.device)
        target = padded([[BEGIN, *target] for _, target in pairs], PAD, self._context.device)
        words = target[:, 1:] != PAD
        with self._context.autocast():
            features = model(source, target[:, :-1])
            # The output layer is the dearest part: padding is left out of it.
            logits = self._model.logits(features[words])
        return F.cross_entropy(logits.float(), target[:, 1:][words], reduction="sum", label_smoothing=smoothing)

    def step(self) -> float:
        """Make one update on the mean over all target words of a batch.

        Several processes share a batch by sentences, which differ in length. The gradient must still be that of the
        mean over all processes' words: each process divides its sum by the words of the whole batch, and multiplies by
        the number of processes, by which the averaging of gradients divides. A process that is left without a sentence
        goes through the motions with a weight of 0.
        """
        pairs = [self._encoded["train"][k] for k in self._batches.next()]
        count = sum(len(target) for _, target in pairs)
        mine = pairs[self._context.rank :: self._context.world]
        self._trained.train()
        losses = self._losses(self._trained, mine or pairs[:1], self._settings.label_smoothing)
        loss = losses * (self._context.world if mine else 0) / count
        self._update(loss)
        return loss.item()

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """Return the cross-entropy in nats a target word, the end of the sentence included, without smoothing."""
        self._model.eval()
        pairs = first(self._encoded[split], self._settings.eval_limit)
        total = sum(self._losses(self._model, part, 0.0).item() for part in in_order(pairs, EVAL_TOKENS))
        return {"loss": total / sum(len(target) for _, target in pairs)}

    def finish(self, split: str) -> dict[str, float]:
        """Translate the test split by beam search: BLEU and chrF of detokenized text, in percent."""
        if split != "test":
            return {}
        self._hypotheses = self._translate(split)
        scores, self._signature = _scores(self._hypotheses, [target for _, target in self._pairs(split)])
        return scores

    def _pairs(self, split: str) -> Sequence[tuple[str, str]]:
        return first(self._data.pairs[split], self._settings.eval_limit)

    def _translate(self, split: str) -> list[str]:
        self._model.eval()
        sources = [source for source, _ in first(self._encoded[split], self._settings.eval_limit)]
        order = sorted(range(len(sources)), key=lambda k: len(sources[k]))
        translations: dict[int, str] = {}
        for start in range(0, len(order), DECODE_SENTENCES):
            rows = order[start : start + DECODE_SENTENCES]
            longest = min(MAX_LENGTH, 10 + 3 * max(len(sources[k]) for k in rows) // 2)
            source = padded([sources[k] for k in rows], PAD, self._context.device)
            with self._context.autocast():
                targets = beam_search(
                    self._model, source, BEGIN, END, self._settings.beam, longest, self._settings.penalty
                )
            translations |= zip(rows, self._data.processor.decode(targets), strict=True)
        return [translations[k] for k in range(len(sources))]

    def samples(self) -> dict[str, Any]:
        pairs = self._pairs("test")
        step = max(1, len(pairs) // SAMPLES)
        rows = range(0, len(pairs), step)[:SAMPLES]
        return {
            "translations": [
                {"source": pairs[k][0], "reference": pairs[k][1], "translation": self._hypotheses[k]} for k in rows
            ],
            "metrics": self._signature,
        }


class Translation(Task):
    """German to English; ``TranslationSettings`` lists the parameters. A budget's batch size counts target subwords."""

    family = FAMILIES["translation"]

    def load(self, params: Mapping[str, Value], source: Path | None) -> ParallelText:
        """Return the Home Assistant texts (``source``: their wheel) or IWSLT14 (``source``: a folder).

        Raises:
            DataError: if they cannot be had.
            ValueError: if ``params`` are not those of translation.
        """
        s = TranslationSettings.of(params)
        if s.data == "iwslt14":
            from adamomentum.study.data.iwslt import iwslt14

            return iwslt14(source, s.subwords)
        from adamomentum.study.data.homeassistant import home_assistant

        return home_assistant(s.subwords, source)

    def baselines(self, data: ParallelText) -> dict[str, dict[str, float]]:
        """Return what copying the source, the nearest training sentence, and word frequencies reach."""
        sources, references = map(list, zip(*data.pairs["test"], strict=True))
        guesses = {"copy": sources, "nearest neighbour": nearest_neighbours(data.pairs["train"], sources)}
        scores = {
            name: {f"test_{metric}": score for metric, score in _scores(guess, references)[0].items()}
            for name, guess in guesses.items()
        }
        words = lambda split: np.array([word for _, target in data.encode(split) for word in target])
        counts = np.bincount(words("train"), minlength=data.size) + 1.0
        loss = float(-np.log(counts / counts.sum())[words("test")].mean())
        return {**scores, "unigram": {"test_loss": loss}}

    def setup(self, context: Context) -> Run:
        """Build the network and encode the sentences.

        Raises:
            DataError: if a sentence is longer than the network can read.
        """
        return _TranslationRun(context)
