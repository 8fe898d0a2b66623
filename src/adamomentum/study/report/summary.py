"""The report of a study, and what it says in short for the terminal: a table a task, a sentence for each difference."""

from __future__ import annotations

import math

from rich.console import Console

from adamomentum.study import stages
from adamomentum.study.engine import Folder
from adamomentum.study.report import study as page
from adamomentum.study.report.cells import between, difference_text, heading, mean, setting_text
from adamomentum.study.report.comparison_sheets import ComparisonSheets
from adamomentum.study.report.comparisons import Comparison
from adamomentum.study.report.result_sheets import ResultSheets
from adamomentum.study.report.runs import family_of
from adamomentum.study.report.study_tables import StudyTables
from adamomentum.study.results import StudyResults
from adamomentum.study.terminal import print_table, say


def write_and_say(folder: Folder, device: str, command: str, console: Console) -> None:
    """Prints the results of the study in ``folder``, writes its report, and says where that is.

    Args:
        folder: of the study.
        device: kind of device its trials ran on.
        command: what made the report, for the record.
        console: where to.

    Raises:
        StudyError: if the study was never run there.
    """
    results, made = page.numbers(folder, device)
    say_results(results, made, console)
    say(console, f"Report: {page.write(folder, device, command, (results, made))}")


def say_results(results: StudyResults, made: StudyTables, console: Console) -> None:
    """Prints for each task the primary metric of every optimizer, and the reference against each other one."""
    sheets, readings = ResultSheets(results, made), ComparisonSheets(results, made)
    for task in (t.name for t in results.study.tasks):
        rows = [row for row in made.rows if (row.task, row.track) == (task, "final")]
        if not rows:
            say(console, f"{task}: no evaluation runs yet")
            continue
        metric = family_of(results, task).primary
        labels = [sheets.label(row.optimizer) + (" (control)" if sheets.is_control(row) else "") for row in rows]
        print_table(
            console,
            f"{task}: test split, mean ± 95 % interval over up to {results.study.final.seeds} runs",
            ("optimizer", "setting", heading(metric), "diverged"),
            [
                (label, setting_text(row.setting), mean(row.metrics[metric.key], metric), f"{row.diverged}/{row.runs}")
                for label, row in zip(labels, rows, strict=True)
            ],
        )
        for label, row in zip(labels, rows, strict=True):
            if notes := sheets.notes(row):
                say(console, f"{label}: {'; '.join(notes)}")
        for c in made.comparisons:
            if c.task == task:
                say(console, difference_sentence(results, c, readings.reading(c)))


def difference_sentence(results: StudyResults, c: Comparison, reading: str) -> str:
    """Returns one comparison in a line: who, by how much, with which interval, and what that allows to be said."""
    d, m = c.paired.difference, c.metric
    text = f"{c.task}: {stages.label(results.study, c.subject)} - {stages.label(results.study, c.other)}"
    if math.isfinite(d.mean):
        text += f", {m.label}: {difference_text(d.mean, m)}{' points' if m.unit == '%' else ''}"
    if math.isfinite(d.low):
        text += f" ({between(d.low, d.high, m)})"
    return f"{text}: {reading}"
