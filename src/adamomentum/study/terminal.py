"""Text and tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000  # columns


def say(console: Console, text: str) -> None:
    """Prints a line as it is: names and messages may hold brackets, which rich would take for its markup."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_table(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table of which no word is cut.

    Lines may be broken between words; where that is not enough, the table is wider than the terminal.
    """
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in zip(headings, *rows, strict=True):
        table.add_column(Text(column[0]), min_width=max(len(word) for cell in column for word in (*cell.split(), "")))
    for row in rows:
        table.add_row(*map(Text, row))
    needed = Measurement.get(console, console.options.update(width=UNLIMITED), table).minimum
    console.print(table, width=max(console.width, needed), crop=False)
