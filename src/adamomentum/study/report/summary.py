"""The report of a study, and what it says in short for the terminal: a table a task, a sentence for each difference."""

from __future__ import annotations

import math

from rich.console import Console

from adamomentum.study import stages
from adamomentum.study.engine import Folder
from adamomentum.study.report import page
from adamomentum.study.report.comparisons import NO_EVIDENCE, Comparison
from adamomentum.study.report.sheets import Sheets
from adamomentum.study.report.swap import Swaps
from adamomentum.study.report.tables import StudyTables
from adamomentum.study.report.text import between, difference_text, heading, number
from adamomentum.study.results import StudyResults, family_of, notes
from adamomentum.study.tasks import OWN
from adamomentum.terminal import print_table, say

IN_NOTES = ("diverged", "notes")  # columns of the page whose content is said in sentences


def write_and_say(folder: Folder, device: str, command: str, console: Console) -> None:
    """Print the results of the study in ``folder``, write its report, and say where that is.

    Args:
        folder: of the study.
        device: kind of device its trials ran on.
        command: what made the report, for the record.
        console: where to.

    Raises:
        StudyError: if the study was never run there.
    """
    results, tables = page.numbers(folder, device)
    say_results(results, tables, console)
    say(console, f"Report: {page.write(folder, device, command, (results, tables))}")


def say_results(results: StudyResults, tables: StudyTables, console: Console) -> None:
    """Print for each task how every optimizer came out, with what must be known of it, and the reference beside it.

    Of a study of several tasks the primary metrics alone; its page has the others.
    """
    sheets, whole = Sheets(results, tables), len(results.study.tasks) == 1
    for task in (t.name for t in results.study.tasks):
        rows = [row for row in tables.rows if row.task == task and row.role != "default"]
        if not any(row.role == "final" for row in rows):
            say(console, f"{task}: no evaluation runs yet")
            continue
        sheet, seeds = sheets.task(task), results.study.final.seeds
        spread = f"mean ± 95 % interval over up to {seeds} runs" if seeds > 1 else "one run, no interval"
        first = ("optimizer", "chosen", heading(family_of(results, task).primary))
        shown = [k for k, name in enumerate(sheet.header) if name in first or (whole and name not in IN_NOTES)]
        cells = [[row[k] for k in shown] for row in sheet.rows[: len(rows)]]
        print_table(console, f"{task}: test split, {spread}", [sheet.header[k] for k in shown], cells)
        if whole and task in tables.targets:
            say(console, f"Target: {sheets.target(task)}")
        for row in sheet.rows[: len(rows)]:
            if row[-1]:
                say(console, f"{row[0]}: {row[-1]}")
        for note in notes(results, task):
            say(console, f"Note: {note}")
        own = results.study.task(task).family == OWN
        for c in tables.comparisons:
            if c.task == task:
                reading = sheets.reading(c)
                say(console, verdict(results, tables, c, reading) if own else difference_sentence(results, c, reading))
        swapped = stages.swapped(results.study)
        for swap in Swaps(results, tables).every():
            if swap.comparison.task == task and swap.control in swapped:
                say(console, difference_sentence(results, swap.comparison, swap.reading))


def verdict(results: StudyResults, tables: StudyTables, c: Comparison, reading: str) -> str:
    """Return a comparison as a sentence for who has never seen one: what is said, of which numbers, how surely."""
    subject, other = (stages.label(results.study, name) for name in (c.subject, c.other))
    said = {
        "better": f"{subject} is better than {other}",
        "worse": f"{subject} is worse than {other}",
        NO_EVIDENCE: f"no evidence that {subject} and {other} differ",
    }.get(reading, f"{subject} against {other}, {reading}")
    rows, d, m = [tables.row(c.task, name) for name in (c.subject, c.other)], c.paired.difference, c.metric
    if any(row is None for row in rows) or not math.isfinite(d.mean):
        return f"Verdict on {c.task}: {said}"
    mine, its = (number(row.metrics[m.key].mean, m) for row in rows if row is not None)
    interval = f", 95 % interval {between(d.low, d.high, m)}" if math.isfinite(d.low) else ""
    return (
        f"Verdict on {c.task}: {said}: {m.label} {mine} against {its} ({m.better} is better), difference "
        f"{difference_text(d.mean, m)}{interval}, {c.paired.n} seed{'s' * (c.paired.n != 1)} each"
    )


def difference_sentence(results: StudyResults, c: Comparison, reading: str) -> str:
    """Return one comparison in a line: who, by how much, with which interval, and what that allows to be said."""
    d, m = c.paired.difference, c.metric
    text = f"{c.task}: {stages.label(results.study, c.subject)} - {stages.label(results.study, c.other)}"
    if math.isfinite(d.mean):
        text += f", {m.label}: {difference_text(d.mean, m)}{' points' if m.unit == '%' else ''}"
    if math.isfinite(d.low):
        text += f" ({between(d.low, d.high, m)})"
    return f"{text}: {reading}"
