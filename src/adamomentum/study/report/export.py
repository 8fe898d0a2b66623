"""Tables as files: CSV for programs, Markdown for a page, LaTeX for a paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from adamomentum.files import write_atomic
from adamomentum.study.report.sheet import Sheet

_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "%_&#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "<": r"$<$",
    ">": r"$>$",
}


def write_tables(sheets: Iterable[Sheet], folder: Path) -> None:
    """Writes each table into ``folder``: ``.csv`` holds the numbers, ``.md`` and ``.tex`` what a reader sees."""
    for old in (path for kind in ("csv", "md", "tex") for path in folder.glob(f"*.{kind}")):
        old.unlink()  # of an earlier version of the study
    for sheet in sheets:
        frame = sheet.frame.replace(math.inf, "inf") if len(sheet.frame) else sheet.frame
        write_atomic(folder / f"{sheet.name}.csv", frame.to_csv(index=False).encode())
        write_atomic(folder / f"{sheet.name}.md", markdown(sheet.header, sheet.rows).encode())
        write_atomic(folder / f"{sheet.name}.tex", latex(sheet.header, sheet.rows).encode())


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def latex(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a LaTeX tabular with booktabs rules."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(c, c) for c in text) for text in cells) + r" \\" + "\n"

    body = "".join(map(line, rows))
    head = f"\\begin{{tabular}}{{{'l' * len(header)}}}\n\\toprule\n{line(header)}\\midrule\n"
    return f"{head}{body}\\bottomrule\n\\end{{tabular}}\n"
