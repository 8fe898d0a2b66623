"""The user's own modules: as which one a script is run, and which others it imports.

Tested in tests/study/function/test_modules.py.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

PASSED_OVER = {"__pycache__", ".git"}  # of folders: no run is the same in them
BY_NAME = {"import_module", "__import__", "walk_packages", "iter_modules"}
"""What imports modules whose names are known only when it runs."""

INSIDE, BELOW = "*", "**"
"""In the place of a module's name: all modules in a package, and all below it."""


def place(script: Path, text: bytes) -> tuple[Path, str]:
    """Return the folder where Python looks for a script's modules first, and the script's name as a module from there.

    A script in a package that imports from it (``from pkg.net import Net``, ``from .net import Net``), or what lies
    beside the package, is ``pkg.train`` in the folder that holds ``pkg``: what ``python -m pkg.train`` makes of it. If
    that folder has an ``__init__.py`` as well, or its package has none, it is still the script's own imports that say
    where they are from. Any other is a script in its own folder, as ``python train.py`` has it.

    Raises:
        ValueError: if the script is not Python.
    """
    levels = list[tuple[Path, list[str]]]()  # packages that have an __init__.py, from the nearest
    root, names = script.parent, [script.stem]
    while (root / "__init__.py").is_file() and root != root.parent:
        root, names = root.parent, [root.name, *names]
        levels.append((root, names))
    imported = set(_imported(script, text, names[:-1]))  # relative ones are from the last of them
    tops = {name.partition(".")[0] for name in imported}
    above = [folder for folder in script.parents if folder.name in tops and not _installed(folder.name, folder.parent)]
    for folder in above:
        parts = script.relative_to(folder.parent).with_suffix("").parts
        there = any(_lies(folder, name.split(".")[1]) for name in imported if name.startswith(f"{folder.name}."))
        if there and not _lies(script.parent, folder.name) and all(map(str.isidentifier, parts)):
            return folder.parent, ".".join(parts)
    if levels and levels[-1][1][0] in tops:
        return levels[-1][0], ".".join(levels[-1][1])
    beside = [name for name in tops if not _lies(script.parent, name)]
    for root, names in levels:
        if any(_lies(root, name) and not _installed(name, root) for name in beside):
            return root, ".".join(names)
    return script.parent, script.stem


def helpers(script: Path, text: bytes, root: Path, module: str) -> tuple[str, ...]:
    """Return the user's own modules that a script imports, and those that they import, and so on.

    Of the script's own package those that are imported, of any other package in ``root`` all.

    Args:
        script: where it lies.
        text: its content.
        root: the folder where its modules are looked for.
        module: its name from there.

    Returns:
        Their places from ``root``, in order.

    Raises:
        ValueError: if one is not Python.
    """
    own = module.partition(".")[0] if "." in module else ""
    known, waiting = set[Path](), [(script, text)]
    while waiting:
        path, content = waiting.pop()
        package = path.parent.relative_to(root).parts
        for name in (".".join(package), *_imported(path, content, package)):
            for candidate in _files(root, name, own) if name else ():
                if candidate not in known and candidate != script:
                    known.add(candidate)
                    waiting.append((candidate, candidate.read_bytes()))
    return tuple(sorted(path.relative_to(root).as_posix() for path in known))


def _imported(path: Path, content: bytes, package: Sequence[str]) -> Iterator[str]:
    """Yield the full names of what a file of ``package`` imports anywhere in it, be they modules or what is in them."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise ValueError(f"{path} is not Python{f', line {line}' if line else ''}: {error}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(package):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *((node.module,) if node.module else ())))
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))  # the name * is INSIDE
        elif package and getattr(node, "id", getattr(node, "attr", None)) in BY_NAME:
            yield f"{package[0]}.{BELOW}"


def _files(root: Path, name: str, own: str) -> Iterator[Path]:
    """Yield the files that importing ``name`` may run; of another package than ``own`` all that it has."""
    if name.partition(".")[0] != own:
        yield from _beside(root, name.partition(".")[0])
        return
    folder = root
    for part in name.split("."):
        if part in (INSIDE, BELOW):
            yield from (path for path in _python(folder) if part == BELOW or path.parent == folder)
            return
        yield from (path for path in (folder / part / "__init__.py", folder / f"{part}.py") if path.is_file())
        folder /= part


def _beside(folder: Path, name: str) -> list[Path]:
    """Return the files of the module or package ``name`` in ``folder``."""
    if (folder / name / "__init__.py").is_file():
        return _python(folder / name)
    if (folder / f"{name}.py").is_file():
        return [folder / f"{name}.py"]
    # A folder without __init__.py, such as the one that W&B makes, hides no package that is installed.
    return _python(folder / name) if (folder / name).is_dir() and not _installed(name, folder) else []


def _python(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if not PASSED_OVER & set(path.relative_to(folder).parts))


def _lies(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()


def _installed(name: str, folder: Path) -> bool:
    """Say whether Python finds a module or package ``name`` elsewhere than in ``folder``."""
    if name in sys.stdlib_module_names:
        return True
    spec = PathFinder.find_spec(name, [each for each in sys.path if Path(each).resolve() != folder])
    return spec is not None and spec.origin is not None
