"""A script of the user's own: what it consists of, the fingerprint of that, and its function.

Tested in tests/study/function/test_script.py.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from adamomentum.study.data.base import DataError
from adamomentum.study.digest import digest
from adamomentum.study.spec import Value
from adamomentum.study.tasks.function.modules import PASSED_OVER, helpers, place
from adamomentum.study.tasks.function.settings import Call

CHUNK = 2**20
ENGINES = frozenset(name.partition(".")[0] for name in sys.modules)
"""Packages that were there before any script: the engine stands on them, wherever the script lies."""


class UnfitError(ValueError):
    """A script runs, and has no function that could train; the message says why."""


@dataclass(frozen=True)
class Script:
    """A training script as it was read.

    Attributes:
        call: its function, and how that is called.
        path: where it was read.
        text: its content.
        root: the folder where its modules are looked for first: its own, or that of the package in which it lies.
        module: its name from there, e.g. ``my_train`` or ``pkg.train``.
        helpers: the user's own modules that it imports, by their place from ``root``.
        watched: how many files were watched.
        fingerprint: of the script, the helpers and what is watched.
    """

    call: Call
    path: Path
    text: bytes
    root: Path
    module: str
    helpers: tuple[str, ...]
    watched: int
    fingerprint: str

    def describe(self) -> str:
        """Return what a trial's id covers."""
        parts = [f"{self.call.file}:{self.call.function}"]
        parts += [f"with {', '.join(self.helpers)}"] if self.helpers else []
        if self.call.watch:
            parts.append(f"watched: {', '.join(self.call.watch)} ({self.watched} file{'s' * (self.watched != 1)})")
        return "; ".join(parts)

    def function(self) -> Callable[..., Any]:
        """Run the script anew and return its function, which wants the trial alone.

        Anew, as are the user's own modules that it imports, so that no trial finds what another one has left in them: a
        model that is trained already, a generator that has drawn.

        Raises:
            UnfitError: if there is no such function, or it cannot be called with the trial and the arguments.
            Exception: whatever the script raises.
        """
        folder = str(self.root)
        sys.path[:] = [folder, *(each for each in sys.path if each != folder)]  # as Python does for what it runs
        for name in {helper.partition("/")[0].removesuffix(".py") for helper in self.helpers}:
            _forget(name, folder)
        module = ModuleType(self._module_name())
        module.__file__ = str(self.path)
        package, _, name = module.__name__.rpartition(".")
        if package:
            __import__(package)  # as Python does before a module of it
            module.__package__ = package
            setattr(sys.modules[package], name, module)
        sys.modules[module.__name__] = module  # for data classes, and for what is sent to other processes
        exec(compile(self.text, str(self.path), "exec"), module.__dict__)
        function = getattr(module, self.call.function, None)
        if not callable(function):
            names = [
                name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
            ]
            raise UnfitError(
                f"{self.path} has no function {self.call.function!r}; it has: {', '.join(names) or 'none'}"
            )
        self._check(function)
        return partial(function, **self.call.arguments)

    def _check(self, function: Callable[..., Any]) -> None:
        """Check that ``function`` can be called with a trial, before one is spent on it."""
        called = f"{self.call.file}:{self.call.function}"
        if any(of(function) for of in (inspect.iscoroutinefunction, inspect.isgeneratorfunction)):
            raise UnfitError(
                f"{called} is async, or yields; it must train when it is called, and return its test metrics"
            )
        try:
            signature = inspect.signature(function)
        except ValueError:  # not every callable has one
            return
        try:
            signature.bind(None, **self.call.arguments)
        except TypeError as error:
            raise UnfitError(
                f"{called} is called with the trial and then {', '.join(self.call.arguments) or 'nothing'}: {error}; "
                "what else it needs wants a default, or --arg NAME=VALUE (in a study file `params`)"
            ) from None

    def _module_name(self) -> str:
        """Return the script's name as a module, unless that of a file is a module's that was there before."""
        if "." in self.module:
            return self.module
        there = sys.modules.get(self.path.stem)
        free = there is None or getattr(there, "__file__", None) == str(self.path)
        return self.path.stem if free and self.path.stem not in sys.stdlib_module_names else f"{self.path.stem}_script"


def _forget(name: str, folder: str) -> None:
    """Let Python look for the module ``name`` anew, and run it anew, whether it is this script's or another's."""
    file = getattr(sys.modules.get(name), "__file__", None)
    elsewhere = file is not None and Path(folder) not in Path(file).parents
    if elsewhere or name not in ENGINES:
        for known in [known for known in sys.modules if known.partition(".")[0] == name]:
            # Compiled modules cannot always be run twice.
            if elsewhere or str(getattr(sys.modules[known], "__file__", None) or ".py").endswith(".py"):
                del sys.modules[known]


def read(params: Mapping[str, Value], folder: Path) -> Script:
    """Return the script that ``params`` name, from ``folder``.

    Raises:
        DataError: if a file is not there.
        ValueError: if ``params`` are wrong, or the script is not Python.
    """
    call = Call.of(params)
    path = (folder / call.file).resolve()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"the training script {path} cannot be read: {error.strerror}") from None
    root, module = place(path, text)
    imported = helpers(path, text, root, module)
    contents = [("script", path), *((name, root / name) for name in imported)]
    watched = [(name, file) for name in call.watch for name, file in _files(name, folder / name)]
    parts = (part for name, file in (*contents, *watched) for part in _content(name, file, path, text))
    return Script(call, path, text, root, module, imported, len(watched), digest(parts))


def _files(name: str, path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of what is watched, each with a name that does not depend on the machine, in order."""
    if path.is_dir():
        for child in sorted(path.iterdir(), key=lambda child: child.name):
            if child.name not in PASSED_OVER:
                yield from _files(f"{name}/{child.name}", child)
    elif path.is_file():
        yield name, path
    else:
        raise DataError(f"watch names {name}, but there is no {path}")


def _content(name: str, file: Path, script: Path, text: bytes) -> Iterator[bytes]:
    """Yield a file's name, size and content; of the script what was read, which is what is run."""
    if file == script:
        yield from (f"{name}\0{len(text)}\0".encode(), text)
        return
    yield f"{name}\0{file.stat().st_size}\0".encode()
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            yield chunk
