"""How the commands speak, to a terminal or into a log file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adamomentum.study.store import StoreWarning

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def say(console: Console, text: str) -> None:
    """Prints a line as it is, however long."""
    # Names and messages may hold brackets, which rich would take for its markup, and names of files bytes that are no
    # text.
    console.print(text.encode(errors="backslashreplace").decode(), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def plain_store_warnings(console: Console) -> Iterator[None]:
    """Shows the store's warnings as sentences, without the line of code that a reader cannot do anything about."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
            if issubclass(category, StoreWarning):
                say(console, f"Warning: {message}")
            else:
                show(message, category, *where, **options)

        warnings.showwarning = tell
        yield
