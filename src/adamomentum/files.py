"""Writing files that others may be reading, or that a kill may interrupt."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def write_atomic(path: Path, content: bytes) -> None:
    """Writes ``content`` so that ``path`` holds either the old or the new file, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
