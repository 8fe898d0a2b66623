"""Short names by content: of trials and studies, of data. Tested in tests/study/test_hashes.py."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def digest(parts: Iterable[bytes | str]) -> str:
    """Return the first 16 hex digits of the SHA-256 of ``parts``, one after another."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
    return whole.hexdigest()[:16]
