"""The report of a study, and what it says in short for the terminal: a table a task, a sentence for each difference."""

from __future__ import annotations

import math

from rich.console import Console

from adamomentum.study import stages
from adamomentum.study.engine import Folder
from adamomentum.study.report import study as page
from adamomentum.study.report.cells import between, difference_text, heading
from adamomentum.study.report.comparison_sheets import ComparisonSheets
from adamomentum.study.report.comparisons import Comparison
from adamomentum.study.report.result_sheets import ResultSheets
from adamomentum.study.report.runs import family_of
from adamomentum.study.report.study_tables import StudyTables
from adamomentum.study.results import StudyResults
from adamomentum.terminal import print_table, say

IN_NOTES = ("diverged", "notes")  # columns of the page whose content is said in sentences


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
    """Prints for each task how every optimizer came out, with what must be known of it, and the reference beside it.

    Of a study of several tasks the primary metrics alone; its page has the others.
    """
    sheets, readings = ResultSheets(results, made), ComparisonSheets(results, made)
    whole = len(results.study.tasks) == 1
    for task in (t.name for t in results.study.tasks):
        rows = [row for row in made.rows if (row.task, row.track) == (task, "final")]
        if not rows:
            say(console, f"{task}: no evaluation runs yet")
            continue
        sheet, seeds = sheets.task(task), results.study.final.seeds
        spread = f"mean ± 95 % interval over up to {seeds} runs" if seeds > 1 else "one run, no interval"
        first = ("optimizer", "chosen", heading(family_of(results, task).primary))
        shown = [k for k, name in enumerate(sheet.header) if name in first or (whole and name not in IN_NOTES)]
        cells = [[row[k] for k in shown] for row in sheet.rows[: len(rows)]]
        print_table(console, f"{task}: test split, {spread}", [sheet.header[k] for k in shown], cells)
        if whole and task in made.targets:
            say(console, f"Target: {sheets.target(task)}")
        for row in sheet.rows[: len(rows)]:
            if row[-1]:
                say(console, f"{row[0]}: {row[-1]}")
        for note in results.study.task(task).notes:
            say(console, f"Note: {note}")
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
