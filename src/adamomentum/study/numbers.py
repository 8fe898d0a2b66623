"""Numbers that may not be finite, in files that cannot hold such.

Tested in tests/study/test_spec.py.
"""

from __future__ import annotations

import math

Number = float | None
"""A metric; None stands for a value that is not finite, which JSON cannot hold."""


def number(value: float) -> Number:
    """Return ``value``, or None if it is not finite."""
    return value if math.isfinite(value) else None
