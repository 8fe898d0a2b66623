"""A script of the user's own: what it consists of, the fingerprint of that, and its function.

Tested in tests/study/function/test_script.py.
"""

from __future__ import annotations

import inspect
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
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
BELOW_MAIN = 'what it does when it is run as a program goes below `if __name__ == "__main__":`'
File = Path | os.DirEntry[str]
Stamp = tuple[int, int, int]
"""Size of a file and the times of its last changes, of content and of what else is known of it: cheap to look at."""

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
        folder: where the paths of what is watched start from.
        stamps: of each helper and watched file, as of the last time its content was that of ``fingerprint``.
        watched: how many files were watched.
        fingerprint: of the script, the helpers and what is watched.
    """

    call: Call
    path: Path
    text: bytes
    root: Path
    module: str
    helpers: tuple[str, ...]
    folder: Path
    stamps: dict[str, Stamp]
    watched: int
    fingerprint: str

    def describe(self) -> str:
        """Return what a trial's id covers."""
        parts = [f"{self.call.file}:{self.call.function}"]
        parts += [f"with {', '.join(self.helpers)}"] if self.helpers else []
        if self.call.watch:
            parts.append(f"watched: {', '.join(self.call.watch)} ({self.watched} file{'s' * (self.watched != 1)})")
        return "; ".join(parts)

    def check(self) -> None:
        """Check that the helpers and what is watched are as they were read; the script itself is run as it was read.

        Files that were only touched are read once more, with all others.

        Raises:
            ValueError: if they are not.
        """
        now = _stamps(self.root, self.helpers, self.call, self.folder)
        if now == self.stamps:
            return
        if now.keys() == self.stamps.keys():
            with suppress(OSError, DataError):
                if self.fingerprint == _fingerprint(
                    self.path, self.text, self.root, self.helpers, self.call, self.folder
                ):
                    self.stamps.update(now)
                    return
        changed = sorted(path for path in now.keys() | self.stamps.keys() if now.get(path) != self.stamps.get(path))
        raise ValueError(
            f"{', '.join(changed[:3])}{', ...' * (len(changed) > 3)}: changed since the trial was planned, so its "
            "result would bear a wrong name; run the same command again. Where training itself writes there, watch "
            "what it reads alone"
        )

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

    def advice(self, error: BaseException) -> str:
        """Return what to do about what the script raised when it was run; empty if its own words say it."""
        if isinstance(error, SystemExit):
            return (
                "It left by sys.exit. If it reads a command line: it finds none but its own name, so give its options "
                f"defaults, or make them arguments of {self.call.function}, which --arg sets; {BELOW_MAIN}"
            )
        if isinstance(error, ModuleNotFoundError) and error.name:
            name = error.name.partition(".")[0]
            package = self.module.rpartition(".")[0]
            if package and any((self.path.parent / each).exists() for each in (name, f"{name}.py")):
                return (
                    f"{name} lies beside the script, which is run as python -m {self.module} is, since it imports from "
                    f"its package: write `from {package} import {name}`"
                )
            return f"There is no module {error.name!r} for {sys.executable}, nor in {self.root}: install it there"
        if isinstance(error, ImportError) and "no known parent package" in str(error):
            return f"{self.path.parent} is no package without an __init__.py: add one, or import without the dot"
        if isinstance(error, (ImportError, SyntaxError)):
            return ""
        return BELOW_MAIN[0].upper() + BELOW_MAIN[1:]

    def _check(self, function: Callable[..., Any]) -> None:
        """Check that ``function`` can be called with a trial, before one is spent on it."""
        called = f"{self.call.file}:{self.call.function}"
        if isinstance(function, type):
            raise UnfitError(
                f"{called} is a class; name a function that takes the trial and returns the test metrics, e.g. "
                f"def train(trial): ... {self.call.function}(...) ..."
            )
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
    stamps = _stamps(root, imported, call, folder)  # before they are read: what changes meanwhile is seen later
    fingerprint = _fingerprint(path, text, root, imported, call, folder)
    watched = sum(1 for name in call.watch for _ in _watched(name, folder / name))
    return Script(call, path, text, root, module, imported, folder, stamps, watched, fingerprint)


def _stamps(root: Path, helpers: tuple[str, ...], call: Call, folder: Path) -> dict[str, Stamp]:
    """Return the stamps of helpers and of what is watched, without what is gone."""
    stamps = dict[str, Stamp]()
    with suppress(DataError):
        watched = (file for name in call.watch for _, file in _watched(name, folder / name))
        for file in itertools.chain((root / name for name in helpers), watched):
            with suppress(OSError):
                status = file.stat()
                stamps[os.fspath(file)] = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return stamps


def _fingerprint(path: Path, text: bytes, root: Path, helpers: tuple[str, ...], call: Call, folder: Path) -> str:
    """Return the digest of names and contents of all that a trial consists of."""
    files: list[tuple[str, File]] = [("script", path), *((name, root / name) for name in helpers)]
    files += [each for name in call.watch for each in _watched(name, folder / name)]
    return digest(
        part for name, file in files for part in _content(name, file, text if os.fspath(file) == str(path) else None)
    )


def _watched(name: str, path: File) -> Iterator[tuple[str, File]]:
    """Yield the files of what is watched, each with a name that does not depend on the machine, in order."""
    if path.is_dir():
        with os.scandir(path) as entries:  # which know what they are: of many files that saves most of the time
            there = sorted(entries, key=lambda entry: entry.name)
        for entry in there:
            if entry.name not in PASSED_OVER:
                yield from _watched(f"{name}/{entry.name}", entry)
    elif path.is_file():
        yield name, path
    else:
        raise DataError(f"watch names {name}, but there is no {os.fspath(path)}")


def _content(name: str, file: File, text: bytes | None) -> Iterator[bytes]:
    """Yield a file's name, size and content; of the script ``text``, what was read, which is what is run."""
    if text is not None:
        yield from (f"{name}\0{len(text)}\0".encode(), text)
        return
    with Path(file).open("rb") as opened:
        yield f"{name}\0{os.fstat(opened.fileno()).st_size}\0".encode()
        while chunk := opened.read(CHUNK):
            yield chunk
