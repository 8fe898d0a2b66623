"""How long a step takes in a loop that is the user's: the time from one optimizer step to the next.

Tested in tests/study/function/test_clock.py.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

MOST = 1000
"""So many times between steps are kept: more would not change their median."""


class StepClock:
    """Takes the time whenever a step is made; times with an evaluation in between are left out.

    On a CUDA device the times are those of the device, which works behind the loop: nothing waits for it here.

    Args:
        device: where the steps are made.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._first, self._last = self._now(), self._now()
        self._before: tuple[int, Any] | None = None
        self._pairs: list[tuple[Any, Any, int]] = []  # from when to when, and how many steps that was
        self._step = 0

    def tick(self, step: int) -> None:
        """Take the time at which ``step`` steps are made."""
        self._step, self._last = step, self._now()
        if self._before is not None and step > self._before[0] and len(self._pairs) < MOST:
            self._pairs.append((self._before[1], self._last, step - self._before[0]))
        self._before = step, self._last

    def pause(self) -> None:
        """Leave out the time until the next step: something else is done."""
        self._before = None

    def seconds(self) -> float:
        """Return the median time of a step; where each was followed by something else, the mean with all of that."""
        if self._cuda:
            torch.cuda.synchronize()
        if not self._pairs:
            return self._between(self._first, self._last) / max(1, self._step)
        return statistics.median(self._between(a, b) / steps for a, b, steps in self._pairs)

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, a: Any, b: Any) -> float:
        return float(a.elapsed_time(b) / 1e3 if self._cuda else b - a)
