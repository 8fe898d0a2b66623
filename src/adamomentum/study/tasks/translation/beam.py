"""Beam search.

Tested in tests/study/test_translation.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adamomentum.study.tasks.translation.transformer import Transformer


@torch.no_grad()
def beam_search(
    model: Transformer, source: Tensor, begin: int, end: int, beam: int, longest: int, penalty: float
) -> list[list[int]]:
    """Return the best target found for each source sentence, without ``begin`` and ``end``.

    Candidates are kept by their log-probability; the best of those that ended is chosen by log-probability divided by
    length ** penalty, where the length counts ``end``.

    Args:
        model: in evaluation mode.
        source: words, int64 [n, time].
        begin: index of the word that every target begins with.
        end: index of the word that ends it.
        beam: candidates of each sentence.
        longest: words of a target at most, ``end`` included.
        penalty: exponent of the length.
    """
    n, device = len(source), source.device
    cache = model.begin(source, beam)
    words = torch.full((n * beam,), begin, device=device)
    # All candidates of a sentence begin alike: only the first may be continued at first.
    scores = torch.full((n, beam), -torch.inf, device=device)
    scores[:, 0] = 0
    written = torch.empty(n * beam, 0, dtype=torch.int64, device=device)
    lengths = torch.zeros(n * beam, device=device)
    ended = torch.zeros(n * beam, dtype=torch.bool, device=device)
    first = torch.arange(n, device=device).unsqueeze(1) * beam
    for _ in range(longest):
        log = torch.log_softmax(model.advance(words, cache).float(), -1)
        log[:, begin] = log[:, model.pad] = -torch.inf
        # A candidate that ended stays as it is: its one continuation is ``end`` at no cost.
        log[ended] = -torch.inf
        log[ended, end] = 0
        total = (scores.view(-1, 1) + log).view(n, -1)
        scores, index = total.topk(beam, 1)
        rows = (first + index // log.shape[1]).flatten()
        words = (index % log.shape[1]).flatten()
        cache.reorder(rows)
        lengths = lengths[rows] + (~ended[rows]).float()
        written = torch.cat([written[rows], words.unsqueeze(1)], 1)
        ended = ended[rows] | (words == end)
        if ended.all():
            break
    normalized = scores / lengths.view(n, beam).clamp_min(1) ** penalty
    # What did not end by ``longest`` comes after everything that did.
    normalized = normalized.masked_fill(~ended.view(n, beam) & ended.view(n, beam).any(1, keepdim=True), -torch.inf)
    best = written[(first.squeeze(1) + normalized.argmax(1))].tolist()
    return [row[: row.index(end)] if end in row else row for row in best]
