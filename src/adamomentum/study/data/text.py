"""Text as a stream of word indices, split into train, validation and test.

Tested in tests/study/test_language_data.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from adamomentum.study.data.base import SPLITS
from adamomentum.study.digest import digest

UNKNOWN, END = "<unk>", "<eos>"


@dataclass(frozen=True, eq=False)
class TextData:
    """A corpus as tokens.

    Attributes:
        name: for display only.
        words: the vocabulary; a token is an index into it.
        tokens: per split, int32 of shape [n].
        unit: what a token is: one of ``words``, or of all 256 ``bytes``.
    """

    name: str
    words: tuple[str, ...]
    tokens: Mapping[str, npt.NDArray[np.int32]]
    unit: Literal["words", "bytes"] = "words"

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over vocabulary and tokens."""
        parts: list[bytes | str] = ["\n".join(self.words)]
        for split in SPLITS:
            tokens = self.tokens[split]
            parts += [f"{split} {tokens.shape};", np.ascontiguousarray(tokens, dtype="<i4").tobytes()]
        return digest(parts)

    def text(self, tokens: Iterable[int]) -> str:
        """Return tokens as a reader sees them."""
        if self.unit == "bytes":
            return bytes(map(int, tokens)).decode(errors="replace")
        return " ".join(self.words[token] for token in tokens)

    def describe(self) -> str:
        """Return one line: name, tokens of the splits, vocabulary, share of unknown words."""
        n = " / ".join(f"{len(self.tokens[split]):,}" for split in SPLITS)
        if self.unit == "bytes":
            return f"{self.name}: {n} bytes (train / val / test)"
        text = f"{self.name}: {n} tokens (train / val / test), {len(self.words):,} words"
        if UNKNOWN in self.words:
            unknown = self.words.index(UNKNOWN)
            shares = " / ".join(f"{100 * np.mean(self.tokens[split] == unknown):.0f} %" for split in SPLITS)
            text += f", {shares} unknown"
        return text


def vocabulary(tokens: Iterable[str], size: int) -> tuple[str, ...]:
    """Return ``<unk>``, ``<eos>`` and the most frequent other words, ties in alphabetical order."""
    counts = Counter(tokens)
    ranked = sorted((w for w in counts if w not in (UNKNOWN, END)), key=lambda w: (-counts[w], w))
    return (UNKNOWN, END, *ranked[: size - 2])


def encode(tokens: Sequence[str], words: Sequence[str]) -> npt.NDArray[np.int32]:
    """Return the index of each token, int32 [n]; that of ``<unk>`` for those that ``words`` lacks."""
    index = {word: k for k, word in enumerate(words)}
    unknown = index[UNKNOWN]
    return np.array([index.get(token, unknown) for token in tokens], dtype=np.int32)
