"""How the commands speak, to a terminal or into a log file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import wrap
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000  # columns
INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def say(console: Console, text: str) -> None:
    """Print a line as it is, however long."""
    # Names and messages may hold brackets, which rich would take for its markup, and names of files bytes that are no
    # text.
    console.print(text.encode(errors="backslashreplace").decode(), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def plain_warnings(console: Console, kind: type[Warning]) -> Iterator[None]:
    """Show warnings of a ``kind`` as sentences, without the line of code that a reader cannot do anything about."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
            if issubclass(category, kind):
                say(console, f"Warning: {message}")
            else:
                show(message, category, *where, **options)

        warnings.showwarning = tell
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C through as what it is, also where it came as the cause of another error.

    Where it meets Python code that a library in another language has called, as pydantic does, that reports a failed
    call instead; and what is being stopped may fail in its turn.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        raise


def print_table(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of which no word is cut.

    Lines may be broken between words, those of headings first; where that is not enough, the table is wider than the
    terminal.
    """
    columns = [(heading, list(cells)) for heading, *cells in zip(headings, *rows, strict=True)]
    table, anywhere = _table(title, columns), console.options.update(width=UNLIMITED)
    if Measurement.get(console, anywhere, table).maximum > console.width:
        columns = [
            ("\n".join(wrap(heading, _longest(cells), break_long_words=False)), cells) for heading, cells in columns
        ]
        table = _table(title, columns)
    console.print(table, width=max(console.width, Measurement.get(console, anywhere, table).minimum), crop=False)


def _table(title: str, columns: Sequence[tuple[str, Sequence[str]]]) -> Table:
    table = Table(title=Text(title) if title else None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading, cells in columns:
        table.add_column(
            Text(heading), min_width=_longest([word for text in (heading, *cells) for word in text.split()])
        )
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _longest(texts: Sequence[str]) -> int:
    return max(map(len, texts), default=1) or 1
