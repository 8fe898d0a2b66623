"""Numbers as text, and tables of such text as files: CSV for programs, Markdown for a page, LaTeX for a paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from adamomentum.files import markdown, write_atomic
from adamomentum.study.statistics.paired import Interval
from adamomentum.study.tasks import Metric

NONE = "–"

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


def number(value: float, metric: Metric) -> str:
    """Return a value of ``metric``, scaled for display."""
    return f"{metric.scale * value:.{metric.digits}f}" if math.isfinite(value) else NONE


def difference_text(value: float, metric: Metric) -> str:
    """Return a difference of values of ``metric``, with its sign."""
    return f"{metric.scale * value:+.{metric.digits}f}" if math.isfinite(value) else NONE


def between(low: float, high: float, metric: Metric) -> str:
    """Return an interval of differences."""
    if not math.isfinite(low) or not math.isfinite(high):
        return NONE
    return f"{difference_text(low, metric)} to {difference_text(high, metric)}"


def mean(interval: Interval, metric: Metric) -> str:
    """Return ``mean ± half width``, or the mean alone if there is no interval."""
    if not interval.n or not math.isfinite(interval.mean):
        return NONE
    text = number(interval.mean, metric)
    return text if not math.isfinite(interval.low) else f"{text} ± {number(interval.half_width, metric)}"


def heading(metric: Metric) -> str:
    """Return the name of a metric with its unit."""
    return metric.label + (f", {metric.unit}" if metric.unit else "")


def span(numbers: Iterable[int]) -> str:
    """Return the one number there is, or from where to where several go."""
    low, *more = sorted(set(numbers))
    return f"{low} to {more[-1]}" if more else str(low)


def p_value(p: float | None) -> str:
    """Return a p-value to 3 decimals, a smaller one in powers of ten."""
    if p is None:
        return NONE
    return f"{p:.3f}" if p >= 0.0005 else f"{p:.0e}"


def plain(value: float | None, form: str = ".2f") -> str:
    """Return a number in the given format."""
    return NONE if value is None or not math.isfinite(value) else format(value, form)


def steps_text(median: float | None, reached: int, runs: int) -> str:
    """Return median steps to a target, and how many runs reach it."""
    if median is None or not runs:
        return NONE
    return f"{'not reached' if math.isinf(median) else format(median, 'g')} ({reached}/{runs})"


def setting_text(setting: dict[str, float]) -> str:
    """Return chosen values, short."""
    short = {"weight_decay": "wd"}
    return ", ".join(f"{short.get(key, key)} {value:g}" for key, value in setting.items()) or NONE


@dataclass
class Sheet:
    """A table: as text for a reader, with the numbers behind it for programs.

    Attributes:
        name: of its files.
        header: one text a column.
        rows: as many texts each.
        frame: the numbers, unrounded and unscaled, one row a line.
        groups: the first so many columns are the same over several rows: a page may make headings of them.
        wrap: columns of running text.
        marks: per row ``chosen`` (the reference), ``soft`` (no optimizer of the comparison) or nothing.
    """

    name: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    groups: int = 0
    wrap: tuple[int, ...] = ()
    marks: list[str] = field(default_factory=list)

    def add(self, cells: Sequence[str], mark: str = "") -> None:
        """Add a row."""
        self.rows.append(list(cells))
        self.marks.append(mark)


def write_tables(sheets: Iterable[Sheet], folder: Path) -> None:
    """Write each table into ``folder``: ``.csv`` holds the numbers, ``.md`` and ``.tex`` what a reader sees."""
    for old in (path for kind in ("csv", "md", "tex") for path in folder.glob(f"*.{kind}")):
        old.unlink()  # of an earlier version of the study
    for sheet in sheets:
        frame = sheet.frame.replace(math.inf, "inf") if len(sheet.frame) else sheet.frame
        write_atomic(folder / f"{sheet.name}.csv", frame.to_csv(index=False).encode())
        write_atomic(folder / f"{sheet.name}.md", f"{markdown(sheet.header, sheet.rows)}\n".encode())
        write_atomic(folder / f"{sheet.name}.tex", latex(sheet.header, sheet.rows).encode())


def latex(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a LaTeX tabular with booktabs rules."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(c, c) for c in text) for text in cells) + r" \\" + "\n"

    body = "".join(map(line, rows))
    head = f"\\begin{{tabular}}{{{'l' * len(header)}}}\n\\toprule\n{line(header)}\\midrule\n"
    return f"{head}{body}\\bottomrule\n\\end{{tabular}}\n"
