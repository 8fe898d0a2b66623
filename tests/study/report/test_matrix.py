"""The table on top of a report: every sign is the verdict of the comparison below it, seen from the other side."""

from __future__ import annotations

import pytest
from study.report_mini import Fake, comparison, final, gathered, status

from adamomentum.study.report.matrix import SIGNS, Matrix


def cells(results, tables) -> dict[str, list]:
    return dict(Matrix(results, tables).rows())


def test_signs_say_what_an_optimizer_is_beside_the_reference(tmp_path) -> None:
    """Of made-up quality .2 and .4 behind the reference, level with it, and .3 ahead."""
    results, tables = gathered(tmp_path, Fake({"own": -0.3}), ("digits", "words"))
    rows = cells(results, tables)
    assert list(rows) == ["adamomentum", "adamw", "sgdm", "adabelief", "own"]
    assert [[cell.sign for cell in row] for row in rows.values()] == [
        ["", ""], ["▼", "▼"], ["=", "="], ["▼", "▼"], ["▲", "▲"],
    ]  # fmt: skip
    for name in ("adamw", "sgdm", "adabelief"):
        theirs = comparison(tables.comparisons, name)
        opposite = {"better": "worse", "worse": "better"}
        assert rows[name][0].reading == opposite.get(theirs.outcome, theirs.outcome)
    accuracy = final(results, "digits", "adamw", "test_accuracy")
    assert rows["adamw"][0].value == f"{100 * accuracy.mean():.2f}"
    apart = 100 * (accuracy - final(results, "digits", "adamomentum", "test_accuracy")).mean()
    assert rows["adamw"][0].difference.startswith(f"{apart:+.2f} (-") and apart < 0
    assert [name for name, row in rows.items() if row[0].best] == ["own"]
    assert Matrix(results, tables).columns() == [("digits", "accuracy, % ↑"), ("words", "perplexity ↓")]


def test_what_holds_before_the_correction_alone_is_no_evidence(tmp_path, monkeypatch) -> None:
    results, tables = gathered(tmp_path, Fake())
    assert cells(results, tables)["adamw"][0].sign == SIGNS["worse"]
    monkeypatch.setattr("adamomentum.study.report.comparisons.ALPHA", 0.0)
    assert cells(results, tables)["adamw"][0].sign == "="


@pytest.mark.parametrize(
    ("fake", "text"),
    [
        (Fake(status=status("final", "adamw", (1, 2), "diverged")), "*"),
        (Fake(status=lambda t: "diverged" if t.optimizer == "adamw" else "ok"), "does not train ▼"),
        (Fake(status=lambda t: "ok" if t.spec.replicate == 0 else None), "8"),
        (Fake(status=lambda t: None if (t.optimizer, t.role) == ("adamw", "final") else "ok"), ""),
    ],
)
def test_runs_that_diverged_or_are_missing(tmp_path, fake, text) -> None:
    results, tables = gathered(tmp_path, fake)
    matrix = Matrix(results, tables)
    row = dict(matrix.rows()).get("adamw")
    assert (row is None) == (text == "")
    if row is not None:
        assert text in row[0].text
        assert not row[0].best
    if text == "8":
        assert row[0].sign == "", "one run a side says nothing"
    assert [line[0] for line in matrix.sheet().rows] == [matrix.label(name) for name, _ in matrix.rows()]
