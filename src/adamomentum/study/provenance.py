"""By what, and where, a trial was trained."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

from adamomentum.cores import processor_name


def provenance() -> dict[str, str]:
    """Return versions and machine, for the record; they do not name the trial."""
    from importlib.metadata import PackageNotFoundError, version

    import numpy
    import torch

    try:
        own = version("adamomentum")
    except PackageNotFoundError:
        own = "not installed"
    known = {
        "adamomentum": own,
        "commit": _commit(Path(__file__)),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpu model": processor_name(),
    }
    return {key: value for key, value in known.items() if value}


@lru_cache(maxsize=1)
def _commit(file: Path) -> str:
    """Return the commit that the library is at, ``-dirty`` with changes; nothing where it is not in a repository.

    ``file`` must itself be under version control: a virtual environment may lie in a repository of something else.
    """
    # Without locks: many workers ask at once, and asking must change nothing.
    git, environment = ["git", "-C", str(file.parent)], {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def asked(*arguments: str) -> str:
        done = subprocess.run([*git, *arguments], capture_output=True, text=True, timeout=60, env=environment)
        done.check_returncode()
        return done.stdout.strip()

    try:
        asked("ls-files", "--error-unmatch", file.name)
        return asked("describe", "--always", "--dirty", "--exclude=*", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return ""
