"""A table of the report: as text for a reader, with the numbers behind it for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from adamomentum.study import stages
from adamomentum.study.report.study_tables import StudyTables
from adamomentum.study.results import StudyResults


@dataclass
class Sheet:
    """A table.

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
        """Adds a row."""
        self.rows.append(list(cells))
        self.marks.append(mark)


class Maker:
    """Makes tables of one report.

    Args:
        results: what was run.
        made: its numbers.
    """

    def __init__(self, results: StudyResults, made: StudyTables) -> None:
        self.results, self.made, self.study = results, made, results.study

    def label(self, name: str) -> str:
        """How an optimizer or control is called."""
        return stages.label(self.study, name)

    def mark(self, name: str) -> str:
        """How the row of an optimizer is marked."""
        if name == self.study.reference:
            return "chosen"
        return "" if name in self.study.baselines else "soft"
