"""A class of the user's own, which a study file names as ``module:Class``: looked for, imported, or refused.

Tested in tests/study/test_own_family.py.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any


def look_in(folder: Path) -> None:
    """Let Python find modules in ``folder`` from now on, after all other places: nothing installed is hidden."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def check_path(what: str, path: str, example: str) -> None:
    """Check the form of ``path``; nothing is imported.

    Args:
        what: kind of class, for messages.
        path: as the user wrote it.
        example: a path that is right.

    Raises:
        ValueError: if it is not ``module:Class``.
    """
    if not all(part.isidentifier() for part in path.replace(":", ".", 1).split(".")) or ":" not in path:
        raise ValueError(f"the path of {what} must be module:Class, e.g. {example}, got {path!r}")


def imported(what: str, path: str) -> Any:
    """Return what ``path`` names, imported.

    Args:
        what: kind of class, for messages.
        path: ``module:Class``.

    Raises:
        ValueError: if there is no such module or name, or the module cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        namespace = import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{what} {path!r}: there is no module {error.name!r} here; put it beside the study file, install it, or "
            "put its folder on PYTHONPATH"
        ) from error
    except Exception as error:
        # The user's own code may raise anything.
        raise ValueError(
            f"{what} {path!r}: importing {module} failed in {_place(error)}: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(namespace, name):
        where = getattr(namespace, "__file__", None)
        raise ValueError(f"{what} {path!r}: module {module!r}{f' ({where})' if where else ''} has no {name!r}")
    return getattr(namespace, name)


def _place(error: Exception) -> str:
    """Return where in the module, or in what it imports, ``error`` comes from."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    machinery = [k for k, frame in enumerate(frames) if frame.filename.startswith("<frozen importlib")]
    frame = frames[min(machinery[-1] + 1 if machinery else 0, len(frames) - 1)]
    return f"{frame.filename}, line {frame.lineno}"
