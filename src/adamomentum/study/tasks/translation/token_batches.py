"""Sentence pairs in batches of so many words.

Tested in tests/study/test_translation.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Encoded = Sequence[tuple[list[int], list[int]]]
"""(source, target) words of each sentence pair, as indices."""


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
        """Return the next batch."""
        if not self._waiting:
            jitter = 4 * torch.rand(len(self._source), generator=self._generator, dtype=torch.float64)
            # One key: the target length, then the source length give or take.
            batches = self._cut(torch.argsort(self._target * 1e6 + self._source + jitter))
            self._waiting = [batches[k] for k in torch.randperm(len(batches), generator=self._generator)]
        return self._waiting.pop()

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands."""
        return {"waiting": [list(batch) for batch in self._waiting], "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state``."""
        self._waiting = [list(batch) for batch in state["waiting"]]
        self._generator.set_state(state["generator"])


def in_order(encoded: Encoded, tokens: int) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Yield all pairs once, short ones first, in batches of at most ``tokens`` words on either side, padding included.

    A longer sentence is a batch of its own.
    """
    batch: list[tuple[list[int], list[int]]] = []
    longest = 0
    for source, target in sorted(encoded, key=lambda pair: (len(pair[1]), len(pair[0]))):
        width = max(longest, len(source), len(target))
        if batch and (len(batch) + 1) * width > tokens:
            yield batch
            batch, width = [], max(len(source), len(target))
        batch.append((source, target))
        longest = width
    if batch:
        yield batch


def padded(rows: Sequence[list[int]], pad: int, device: torch.device) -> Tensor:
    """Return ``rows`` as int64 [n, longest], filled up with ``pad`` at the end."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
