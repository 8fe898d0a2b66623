"""What counting words reaches: the baselines of a language model.

As with the models, every token is scored but a split's first, which nothing comes before.

Tested in tests/study/test_language_model.py.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]


def unigram(train: Tokens, words: int) -> npt.NDArray[np.float64]:
    """Return the probability of each of ``words`` words: their frequencies in ``train``, one added to each count."""
    counts = np.bincount(train, minlength=words) + 1.0
    probabilities: npt.NDArray[np.float64] = counts / counts.sum()
    return probabilities


def unigram_loss(train: Tokens, test: Tokens, words: int) -> float:
    """Return nats a token of ``unigram`` on ``test``."""
    return float(-np.log(unigram(train, words)[test[1:]]).mean())


def bigram_loss(train: Tokens, test: Tokens, words: int) -> float:
    """Return nats a token on ``test`` of word pairs counted in ``train``, smoothed after Witten and Bell (1991).

    After a word seen n times with k different successors, the unigram model speaks with weight k / (n + k), the counts
    with the rest; after a word never seen it speaks alone.
    """
    single = unigram(train, words)
    pairs = Counter(zip(train[:-1].tolist(), train[1:].tolist(), strict=True))
    seen = np.bincount(train[:-1], minlength=words)
    kinds = np.bincount(np.array([first for first, _ in pairs], dtype=np.int64), minlength=words)
    first, second = test[:-1], test[1:]
    counted = np.array([pairs[pair] for pair in zip(first.tolist(), second.tolist(), strict=True)])
    n, k = seen[first], kinds[first]
    smoothed = (counted + k * single[second]) / np.maximum(n + k, 1)
    return float(-np.log(np.where(n == 0, single[second], smoothed)).mean())
