"""Sentence pairs with a joint subword vocabulary that is learnt from the training pairs alone.

Tested in tests/study/test_translation_data.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from adamomentum.study.data.base import SPLITS
from adamomentum.study.data.cache import Arrays
from adamomentum.study.digest import digest

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

PAD, BEGIN, END, UNKNOWN = 0, 1, 2, 3

Pairs = Sequence[tuple[str, str]]
"""(source, target) sentences."""


@dataclass(frozen=True, eq=False)
class ParallelText:
    """A parallel corpus and its subword model.

    Attributes:
        name: for display only.
        pairs: per split.
        model: a serialized sentencepiece model; ids 0 to 3 are padding, begin, end, unknown.
    """

    name: str
    pairs: Mapping[str, Pairs]
    model: bytes

    @cached_property
    def processor(self) -> SentencePieceProcessor:
        """Encodes and decodes sentences."""
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_proto=self.model)

    @property
    def size(self) -> int:
        """Number of subwords."""
        return int(self.processor.get_piece_size())

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over sentences and subword model."""
        parts: list[bytes | str] = [self.model]
        for split in SPLITS:
            parts += [f"{split} {len(self.pairs[split])};", *("\t".join(pair) + "\n" for pair in self.pairs[split])]
        return digest(parts)

    def describe(self) -> str:
        """Return one line: name, sentence pairs of the splits, subwords."""
        n = " / ".join(f"{len(self.pairs[split]):,}" for split in SPLITS)
        return f"{self.name}: {n} sentence pairs (train / val / test), {self.size:,} subwords"

    def encode(self, split: str) -> list[tuple[list[int], list[int]]]:
        """Return the subwords of each pair of ``split``, with ``END`` at the end of both sentences."""
        sources, targets = zip(*self.pairs[split], strict=True)
        p = self.processor
        both = zip(p.encode(list(sources)), p.encode(list(targets)), strict=True)
        return [([*source, END], [*target, END]) for source, target in both]


def train_subwords(sentences: Iterable[str], size: int) -> bytes:
    """Return a byte-pair model as bytes; the same sentences give the same model.

    Args:
        sentences: what it is learnt from.
        size: of the vocabulary; it comes out smaller if the sentences do not yield so many subwords.

    Raises:
        ValueError: if ``size`` has no room for every character.
    """
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=written,
            vocab_size=size,
            model_type="bpe",
            character_coverage=1.0,
            pad_id=PAD,
            bos_id=BEGIN,
            eos_id=END,
            unk_id=UNKNOWN,
            num_threads=1,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"subwords must leave room for every character of the training sentences, got {size}; raise "
            f"params.subwords (sentencepiece: {error})"
        ) from None
    return written.getvalue()


def to_arrays(pairs: Mapping[str, Pairs], model: bytes) -> Arrays:
    """Return pairs and subword model as arrays, for a cache."""
    texts = {
        f"{split}_{side}": np.array([pair[k] for pair in pairs[split]])
        for split in SPLITS
        for k, side in enumerate(("source", "target"))
    }
    return {**texts, "model": np.frombuffer(model, dtype=np.uint8)}


def from_arrays(name: str, arrays: Arrays) -> ParallelText:
    """Return what ``to_arrays`` was given."""
    sides = lambda split: (arrays[f"{split}_source"].tolist(), arrays[f"{split}_target"].tolist())
    pairs = {split: list(zip(*sides(split), strict=True)) for split in SPLITS}
    return ParallelText(name, pairs, arrays["model"].tobytes())
