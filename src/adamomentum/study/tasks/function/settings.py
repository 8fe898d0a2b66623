"""What a task of the family ``own`` says in ``params``: which function, what it depends on, its arguments.

Tested in tests/study/function/test_script.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from adamomentum.study.spec import Value

EXAMPLE = "my_train.py:train"
OUTPUT = "output.txt"
"""In a trial's folder: what the function printed."""


@dataclass(frozen=True)
class Call:
    """A function of the user's own and how it is called.

    Attributes:
        file: the script, from the folder of the study file.
        function: its name in the script.
        watch: files and folders whose content is part of a trial, too, from the same folder.
        arguments: passed to the function by keyword, after the trial.
    """

    file: str
    function: str
    watch: tuple[str, ...]
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Call:
        """Return what ``params`` ask for: ``train``, ``watch``, and arguments, which are all others.

        Raises:
            ValueError: if ``train`` or ``watch`` is not what it should be.
        """
        train = params.get("train")
        file, colon, function = train.rpartition(":") if isinstance(train, str) else ("", "", "")
        if not colon or PurePosixPath(file).suffix != ".py" or not function.isidentifier():
            module = colon and function.isidentifier() and all(name.isidentifier() for name in file.split("."))
            meant = f"; of a module say the file: {file.replace('.', '/')}.py:{function}" if module else ""
            raise ValueError(f"params.train must be FILE.py:FUNCTION, e.g. {EXAMPLE}, got {train!r}{meant}")
        watch = params.get("watch", ())
        names = (watch,) if isinstance(watch, str) else watch
        if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"params.watch must be a list of files and folders, got {watch!r}")
        arguments = {key: _whole(value) for key, value in params.items() if key not in ("train", "watch")}
        return cls(file, function, tuple(str(name) for name in names), arguments)


def _whole(value: Any) -> Any:
    """Return a whole number as an int: a specification holds all numbers as floats."""
    if isinstance(value, tuple):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
