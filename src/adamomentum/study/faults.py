"""What pydantic finds wrong in what a user wrote, as one line: the place, the fault, the value.

Tested in tests/study/test_studyfile.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def line(fault: ErrorDetails, place: str) -> str:
    """Return ``fault`` in words, ``place`` before it."""
    # The library's own messages say the value themselves.
    got = "" if fault["type"] in ("missing", "value_error") else f", got {fault['input']!r}"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}{got}"
