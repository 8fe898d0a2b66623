"""The message of a report in one table: every optimizer on every task, and which differ from the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from adamomentum.study.report.comparisons import NO_EVIDENCE, Comparison
from adamomentum.study.report.tables import Part
from adamomentum.study.report.text import NONE, Sheet, between, difference_text, heading, number
from adamomentum.study.results import family_of

SIGNS = {"better": "▲", "worse": "▼", NO_EVIDENCE: "="}
"""What stands beside a value, by what the optimizer is against the reference."""

OPPOSITE = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Cell:
    """An optimizer on a task.

    Attributes:
        value: mean of the primary metric over the final runs that did not diverge.
        reading: what the optimizer is against the reference: a key of ``SIGNS``; empty where nothing can be said.
        difference: from the reference, with its interval; empty where there is none.
        best: whether no mean is better. One of runs of which some diverged does not compete.
        diverged: whether some runs did.
    """

    value: str
    reading: str = ""
    difference: str = ""
    best: bool = False
    diverged: bool = False

    @property
    def sign(self) -> str:
        """The reading as a sign."""
        return SIGNS.get(self.reading, "")

    @property
    def text(self) -> str:
        """The cell for a reader who sees text alone."""
        return f"{self.value}{'*' * self.diverged} {self.sign}".rstrip()


class Matrix(Part):
    """Optimizers by tasks, at tuned settings."""

    def columns(self) -> list[tuple[str, str]]:
        """Return each task's name, and its metric with the direction that is better."""
        metrics = [(t.name, family_of(self.results, t.name).primary) for t in self.study.tasks]
        return [(name, f"{heading(m)} {'↑' if m.better == 'higher' else '↓'}") for name, m in metrics]

    def rows(self) -> list[tuple[str, list[Cell]]]:
        """Return the optimizers that have a final run, or that no setting trains, with a cell a task."""
        columns = {task.name: self._column(task.name) for task in self.study.tasks}
        names = [name for name in self.study.optimizers if any(name in column for column in columns.values())]
        return [(name, [column.get(name, Cell(NONE)) for column in columns.values()]) for name in names]

    def sheet(self) -> Sheet:
        """Return the table as text."""
        header = ["optimizer", *(f"{task}: {metric}" for task, metric in self.columns())]
        sheet, rows = Sheet("overview", header), self.rows()
        for name, cells in rows:
            sheet.add([self.label(name), *(cell.text for cell in cells)], self.mark(name))
        keys = {task.name: family_of(self.results, task.name).primary.key for task in self.study.tasks}
        means = [
            {"optimizer": name, "task": row.task, "metric": keys[row.task], "mean": row.metrics[keys[row.task]].mean}
            for name, _ in rows
            for row in self.tables.rows
            if row.optimizer == name and row.role == "final"
        ]
        sheet.frame = pd.DataFrame(means)
        return sheet

    def _column(self, task: str) -> dict[str, Cell]:
        metric = family_of(self.results, task).primary
        against = {c.other: c for c in self.tables.comparisons if c.task == task}
        rows = [row for row in self.tables.rows if row.task == task and row.role == "final"]
        shown = {row.optimizer: number(row.metrics[metric.key].mean, metric) for row in rows}
        whole = {r.optimizer: r.metrics[metric.key].mean for r in rows if r.setting and not r.diverged and r.runs}
        choose = max if metric.better == "higher" else min
        # By what is shown: two that look the same are both the best.
        best = shown[choose(whole, key=whole.__getitem__)] if len(whole) > 1 else ""
        return {
            row.optimizer: Cell(
                shown[row.optimizer] if row.setting else "does not train",
                _reading(against.get(row.optimizer)),
                _difference(against.get(row.optimizer)),
                row.optimizer in whole and shown[row.optimizer] == best,
                row.diverged > 0,
            )
            for row in rows
        }


def _reading(c: Comparison | None) -> str:
    """Turn what the reference is against an optimizer into what that one is against the reference."""
    if c is None or c.outcome not in SIGNS:
        return ""
    return OPPOSITE[c.outcome] if c.outcome in OPPOSITE and (c.corrected or c.control) else NO_EVIDENCE


def _difference(c: Comparison | None) -> str:
    """Return the difference of an optimizer from the reference."""
    if c is None or c.untrained:
        return ""
    d, m = c.paired.difference, c.metric
    mean, interval = difference_text(-d.mean, m), between(-d.high, -d.low, m)
    return "" if mean == NONE else mean + (f" ({interval})" if interval != NONE else "")
