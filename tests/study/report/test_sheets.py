"""The tables of a report: what a reader sees, and the numbers behind it."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from scipy import stats as scipy_stats
from study.report_mini import TEXT, Fake, final, gathered, run, study

from adamomentum.study import registry, studyfile
from adamomentum.study.report import page
from adamomentum.study.report.comparisons import ALPHA
from adamomentum.study.report.sheets import Sheets, bytes_per_parameter
from adamomentum.study.report.tables import build
from adamomentum.study.results import gather

pytestmark = pytest.mark.usefixtures("unrendered")


def test_files_hold_the_numbers_of_the_page(whole) -> None:
    results, tables = whole
    sheets = Sheets(results, tables).every()
    sheet = sheets["task digits"]
    frame = sheet.frame[sheet.frame["track"] == "tuned"].set_index("optimizer")
    runs = final(results, "digits", "sgdm", "test_accuracy")
    assert frame.loc["sgdm", "accuracy"] == pytest.approx(runs.mean())
    shown = next(row for row in sheet.rows if row[0] == "SGD + momentum")
    half = scipy_stats.t.ppf(0.975, 7) * scipy_stats.sem(runs)
    assert shown[2] == f"{100 * runs.mean():.2f} ± {100 * half:.2f}"
    assert sheet.rows[-1][:3] == ["most frequent class", "", "12.30"]
    differences = sheets["differences"].frame.set_index("against")
    mine, other = (final(results, "digits", n, "test_accuracy") for n in ("adamomentum", "adabelief"))
    assert differences.loc["adabelief", "difference"] == pytest.approx((mine - other).mean())
    assert all(len(row) == len(s.header) for s in sheets.values() for row in s.rows)
    assert all(len(s.marks) == len(s.rows) for s in sheets.values())


def test_a_single_interval_that_excludes_0_is_not_enough_after_correction(tmp_path) -> None:
    results, tables = gathered(tmp_path, Fake({"adamomentum": 0.287, "adamw": 0.3, "sgdm": 0.3, "adabelief": 0.3}))
    sheet = Sheets(results, tables).every()["differences"]
    readings, place = {}, sheet.header.index("reading")
    for c, row in zip(tables.comparisons, sheet.rows, strict=True):
        readings[c.other] = row[place]
        if not c.control and c.outcome in ("better", "worse"):
            assert ("not after correction" in row[place]) == (c.t_holm >= ALPHA)
    assert set(readings) == {"adamw", "sgdm", "adabelief", "own"}
    # The made-up numbers are fixed: this is one of each kind.
    assert any("not after correction" in text for text in readings.values())


def test_report_is_labelled_by_names_in_csv(whole) -> None:
    results, tables = whole
    frame = Sheets(results, tables).every()["tracks"].frame
    assert isinstance(frame, pd.DataFrame)
    assert set(frame["optimizer"]) == {"adamomentum", "adamw", "sgdm", "adabelief"}
    assert set(frame["track"]) == {"published"}


def test_state_is_measured() -> None:
    bytes_of = lambda name: bytes_per_parameter(registry.get(name))
    assert bytes_of("sgdm") == pytest.approx(4, abs=0.01)
    assert bytes_of("adamw") == pytest.approx(8, abs=0.01)
    assert bytes_of("adamomentum") == pytest.approx(8, abs=0.01)


class Clocked(Fake):
    """One trial of each optimizer in turn, 2 s each; AdaBelief's are run an hour later, beside something else.

    A step takes 10 ms, SGD's 8; in the runs at published settings, the first of all, another load makes that fivefold.
    """

    def __init__(self, recorded: bool = True) -> None:
        super().__init__()
        self.recorded = recorded

    def result(self, t):
        result = super().result(t)
        place = ("default", "tune", "final", "sensitivity", "control").index(t.role)
        order = ("adamomentum", "adamw", "sgdm", "adabelief", "own", "adamw-rate").index(t.optimizer)
        started = 1e9 + 200 * place + 12 * (t.point if t.role == "tune" else t.spec.replicate) + 2 * order
        ms = (8.0 if t.optimizer == "sgdm" else 10.0) * (5 if t.role == "default" else 1)
        if t.optimizer == "adabelief":
            started, ms = started + 3600, 25.0
        clock = {"started": started} if self.recorded else {}
        return result.model_copy(update={"timing": {"ms_per_step": ms, "train_seconds": 1.0, "seconds": 2.0, **clock}})


def cost_cells(results, tables):
    sheet = Sheets(results, tables).every()["cost"]
    return {row[0]: row[1] for row in sheet.rows}, sheet.frame.set_index("optimizer")


def test_times_are_put_in_proportion_where_trials_ran_side_by_side(tmp_path) -> None:
    cells, frame = cost_cells(*gathered(tmp_path, Clocked()))
    assert cells["AdamW"] == "10.0 to 50.0 (1.00 ×)"
    assert cells["AdaMomentum"] == "10.0 to 50.0 (1.00 ×)"
    assert cells["SGD + momentum"] == "8.0 to 40.0 (0.80 ×)"
    # 2.5 times as slow, for all that is known because of what ran beside it.
    assert cells["AdaBelief"] == "25.0 to 25.0 †"
    assert frame.loc["adabelief", ["digits", "digits_high", "digits_side_by_side"]].tolist() == [25.0, 25.0, False]
    assert frame.loc["sgdm", "digits_side_by_side"]
    text = page.write(run(tmp_path / "page", study("digits"), Clocked()), "cpu", "made up").read_text()
    assert "†: not known to have run side by side with AdamW" in text


def test_without_a_record_of_when_trials_ran_no_times_are_compared(tmp_path) -> None:
    cells, frame = cost_cells(*gathered(tmp_path, Clocked(recorded=False)))
    assert cells["AdamW"] == "10.0 to 50.0"
    assert cells["AdaMomentum"] == "10.0 to 50.0 †"
    assert frame["digits_side_by_side"].isna().all()


def test_forms_that_do_not_stand_are_named_and_judged_nowhere(tmp_path) -> None:
    form = '[optimizers.adamw-99]\nbase = "adamw"\nlabel = "AdamW, beta2 .99"\nform_of = "adamw"\n'
    form += "hyperparameters = { betas = [0.9, 0.99] }\n"
    whole = studyfile.parse(TEXT.replace("[optimizers.own]", form + "[optimizers.own]", 1), "forms")
    tasks = tuple(whole.task("words").model_copy(update={"name": name}) for name in ("words", "more"))
    asked = whole.model_copy(update={"tasks": tasks, "controls": ()})
    folder = run(tmp_path / "study", asked, Fake({"adamw-99": 0.0, "adamw": 0.2}))
    results = gather(folder)
    sheets = Sheets(results, build(results)).every()
    rows = {row[1]: row for row in sheets["forms"].rows}
    assert list(rows) == ["AdamW", "AdamW, beta2 .99 (chosen)"]
    costs = [results.choices[name, "adamw"].score for name in ("words", "more")]
    assert rows["AdamW"][2:5] == [f"{c:.4g}" for c in (*costs, math.sqrt(costs[0] * costs[1]))]
    assert float(rows["AdamW"][5]) > 1 and rows["AdamW, beta2 .99 (chosen)"][5] == "1.000"
    judged = set(sheets["differences"].frame["against"])
    assert "adamw-99" in judged and "adamw" not in judged
    assert {row[1] for row in sheets["choices"].rows} >= {"AdamW", "AdamW, beta2 .99"}
    shown = page.write(folder, "cpu", "a command").read_text()
    assert "Which form stands for an optimizer" in shown and f"hash {asked.hash}" in shown
