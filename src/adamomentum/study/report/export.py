"""Tables as files: CSV for programs, Markdown for a page, LaTeX for a paper."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from adamomentum.study.files import write_atomic


def cell(value: object) -> str:
    """Returns a value as short text; nothing for a missing one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return "inf" if math.isinf(value) else f"{value:.4g}"
    return str(value)


def write_tables(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Writes each table into ``folder`` as ``.csv``, ``.md`` and ``.tex``."""
    for name, table in tables.items():
        write_atomic(folder / f"{name}.csv", table.to_csv(index=False).encode())
        rows = [[cell(v) for v in row] for row in table.itertuples(index=False)]
        columns = [str(c) for c in table.columns]
        write_atomic(folder / f"{name}.md", markdown(columns, rows).encode())
        write_atomic(folder / f"{name}.tex", latex(columns, rows).encode())


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def latex(columns: list[str], rows: list[list[str]]) -> str:
    """Returns a LaTeX tabular with booktabs rules."""
    special = {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "±": r"$\pm$"}

    def escape(text: str) -> str:
        return "".join(special.get(c, c) for c in text.replace("\\", ""))

    def line(cells: list[str]) -> str:
        return " & ".join(map(escape, cells)) + r" \\" + "\n"

    body = "".join(map(line, rows))
    head = f"\\begin{{tabular}}{{{'l' * len(columns)}}}\n\\toprule\n{line(columns)}\\midrule\n"
    return f"{head}{body}\\bottomrule\n\\end{{tabular}}\n"
