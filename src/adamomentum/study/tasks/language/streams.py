"""Running text, cut into parallel streams that are read window by window.

Tested in tests/study/test_language_model.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adamomentum.study.tasks.language.awd_lstm import Hidden

# AWD-LSTM (arXiv 1708.02182, section 5): the usual length mostly, else half of it, with a little noise.
FULL_LENGTH = 0.95
LENGTH_STD = 5.0
SHORTEST = 5


class Streams:
    """Training text as parallel streams, over and over.

    Args:
        tokens: int64 [n].
        count: number of streams; the rest of the text, shorter than a token a stream, is left out.
        bptt: tokens a window.
        variable: whether lengths are drawn around ``bptt`` as AWD-LSTM does.
        generator: draws the lengths, and where in the text the streams begin if the lengths are fixed: what makes
            one seed's batches differ from another's.

    Raises:
        ValueError: if the streams would be shorter than two tokens.
    """

    def __init__(self, tokens: Tensor, count: int, bptt: int, variable: bool, generator: torch.Generator) -> None:
        length = len(tokens) // count
        if length < 2:
            raise ValueError(f"batch_size must be at most half the {len(tokens)} training tokens, got {count}")
        if not variable:
            tokens = tokens.roll(-int(torch.randint(len(tokens), (), generator=generator)))
        self._text = tokens[: length * count].view(count, length).t().contiguous()
        self._bptt, self._variable, self._generator = bptt, variable, generator
        self._position = 0
        mean = bptt * (FULL_LENGTH + (1 - FULL_LENGTH) / 2) if variable else bptt
        self.per_epoch = math.ceil((length - 1) / mean)

    def next(self) -> tuple[Tensor, Tensor, bool]:
        """Return inputs and targets, int64 [time, streams], and whether the streams start anew with them."""
        last = len(self._text) - 1
        if self._position >= last:
            self._position = 0
        start = self._position
        self._position = min(start + self._length(), last)
        return self._text[start : self._position], self._text[start + 1 : self._position + 1], start == 0

    def _length(self) -> int:
        if not self._variable:
            return self._bptt
        full = torch.rand((), generator=self._generator) < FULL_LENGTH
        noise = LENGTH_STD * torch.randn((), generator=self._generator)
        return max(SHORTEST, int((self._bptt if full else self._bptt / 2) + noise))

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands."""
        return {"position": self._position, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state``."""
        self._position = state["position"]
        self._generator.set_state(state["generator"])


class Carried:
    """The state of the LSTM between two windows, as a part of a checkpoint."""

    def __init__(self, hidden: Hidden) -> None:
        self.hidden = hidden

    def state_dict(self) -> dict[str, Any]:
        """Return the state, on the CPU: it goes from process to process."""
        return {"hidden": [[h.cpu(), c.cpu()] for h, c in self.hidden]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up ``state``."""
        device = self.hidden[0][0].device
        self.hidden = [(h.to(device), c.to(device)) for h, c in state["hidden"]]
