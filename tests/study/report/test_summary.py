"""A run of a study ends with its numbers in the terminal, and these are the report's."""

from __future__ import annotations

import re

import pytest
from rich.console import Console
from study.report_mini import Fake, run, study

from adamomentum.study.report.summary import say_results
from adamomentum.study.report.tables import StudyTables, build
from adamomentum.study.results import gather


def said(folder, width=200) -> tuple[str, StudyTables]:
    console, results = Console(width=width), gather(folder)
    tables = build(results)
    with console.capture() as captured:
        say_results(results, tables, console)
    return captured.get(), tables


@pytest.mark.parametrize("tasks", [("digits", "words"), ("digits",), ("words",)])
def test_a_table_a_task_and_a_sentence_a_difference(tmp_path, tasks) -> None:
    text, tables = said(run(tmp_path, study(*tasks), Fake({"adamw": 0.02})))
    for task in tasks:
        metric, factor, digits = {"digits": ("accuracy", 100, 2), "words": ("perplexity", 1, 2)}[task]
        part = text[text.index(f"{task}: test split") :]
        for name, label in (
            ("adamomentum", "AdaMomentum"),
            ("sgdm", "SGD + momentum"),
            ("own", "Own variant (control)"),
        ):
            row = tables.row(task, name)
            mean, half = row.metrics[metric].mean, row.metrics[metric].half_width
            line = re.search(rf"^ {re.escape(label)}  .*", part, re.M)[0]
            assert f"{factor * mean:.{digits}f} ± {factor * half:.{digits}f}" in line
            assert f"lr {row.setting['lr']:g}" in line
            # Of several tasks the short table has one number each.
            assert (f"({row.reached}/8)" in line) == (f"{row.metrics['loss'].mean:.3f} ±" in line) == (len(tasks) == 1)
        assert ("\nTarget: validation " in part) == (len(tasks) == 1)
    comparisons = {(c.task, c.other): c for c in tables.comparisons}
    sentences = [line for line in text.splitlines() if " - " in line]
    assert len(sentences) == len(comparisons) == 4 * len(tasks)
    if "digits" in tasks:
        d = comparisons["digits", "adabelief"].paired.difference
        numbers = f"{100 * d.mean:+.2f} points ({100 * d.low:+.2f} to {100 * d.high:+.2f})"
        assert f"digits: AdaMomentum - AdaBelief, accuracy: {numbers}: better" in sentences
    assert all(line.rpartition(": ")[2] in ("better", "worse", "no evidence of difference", "better, but not after "
               "correction", "worse, but not after correction") for line in sentences)  # fmt: skip


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (lambda t: "ok" if t.role == "tune" else None, ["digits: no evaluation runs yet"]),
        (
            lambda t: "diverged" if t.optimizer == "sgdm" else "ok",
            ["SGD + momentum: nothing that was tried trains it", "AdaMomentum - SGD + momentum: better: nothing that"],
        ),
        (
            lambda t: "diverged" if t.role == "final" and t.spec.replicate == 1 else "ok",
            ["SGD + momentum: 1 of 8 runs diverged, mean over the others"],
        ),
    ],
    ids=["tuned only", "never trained", "one diverged"],
)
def test_what_is_missing_or_lost_is_said(tmp_path, status, words) -> None:
    text, _ = said(run(tmp_path, study("digits"), Fake(status=status)))
    for word in words:
        assert word in text


def test_labels_are_no_markup_and_words_are_not_cut(tmp_path) -> None:
    plain = study("digits")
    entry = plain.optimizers["own"].model_copy(update={"label": "[red]An-unusually-long-label[/red]"})
    labelled = plain.model_copy(update={"optimizers": {**plain.optimizers, "own": entry}})
    text, _ = said(run(tmp_path, labelled, Fake()), width=30)
    assert " [red]An-unusually-long-label[/red]" in text
