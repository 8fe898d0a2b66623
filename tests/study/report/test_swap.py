"""One line swapped: the pairs are fair, the verdict follows from the numbers, and nothing is said where nothing ran."""

from __future__ import annotations

import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from study.report_mini import TEXT, Fake, final, run

from adamomentum.study import studyfile
from adamomentum.study.report import page
from adamomentum.study.report.sheets import Sheets
from adamomentum.study.report.swap import Swaps
from adamomentum.study.report.tables import build
from adamomentum.study.results import gather

CONTROLS = """
[[controls]]
name = "swap"
label = "Swapped"
optimizer = "adamomentum"
setting_from = "adamw"
hyperparameters = { adjust_lr = "match_rms_adamw" }
seeds = 8
[[controls]]
name = "adamw-flat"
optimizer = "adamw"
schedule = { name = "constant" }
seeds = 4
[[controls]]
name = "swap-flat"
optimizer = "nadamw"
setting_from = "adamw"
schedule = { name = "constant" }
seeds = 4
[[controls]]
name = "swap-alone"
optimizer = "nadamw"
setting_from = "adamw"
lr_factor = 2.0
seeds = 4
"""
NAMES = ("digits", "words")
QUALITY = {"swap": 0.1, "swap-flat": 0.9, "adamw-flat": 0.4, "swap-alone": 0.0}


def swapped(tmp_path, fake=None, controls=CONTROLS):
    text = TEXT.replace("[sensitivity]", '[sensitivity]\ncontrols = ["swap"]') + controls
    folder = run(tmp_path / "study", studyfile.parse(text, "swapped").only(NAMES), fake or Fake(QUALITY))
    results = gather(folder)
    return folder, results, build(results)


def test_what_is_swapped_in_is_compared_with_what_trains_alike(tmp_path) -> None:
    _, results, tables = swapped(tmp_path)
    swaps = {(s.control.name, s.comparison.task): s for s in Swaps(results, tables).every()}
    # Nothing trains like the last one but its rate: there is no fair pair.
    assert [(name, s.comparison.other) for (name, _), s in swaps.items()] == [
        *[("swap", "adamw")] * 2,
        *[("swap-flat", "adamw-flat")] * 2,
    ]
    tests = {}
    for task in NAMES:
        metric = "test_accuracy" if task == "digits" else "test_perplexity"
        mine, other = final(results, task, "swap", metric, "control"), final(results, task, "adamw", metric)
        d = swaps["swap", task].comparison.paired.difference
        assert (d.mean, d.n) == (pytest.approx((mine - other).mean()), 8)
        tests[task] = scipy_stats.ttest_rel(mine, other).pvalue
        flat = swaps["swap-flat", task].comparison
        mine, other = (final(results, task, f"{n}-flat", metric, "control") for n in ("swap", "adamw"))
        assert flat.paired.difference.mean == pytest.approx((mine - other).mean())
    corrected = multipletests(list(tests.values()), method="holm")[1]
    assert [swaps["swap", task].p for task in NAMES] == pytest.approx(list(corrected))


def test_the_verdict_follows_from_the_numbers(tmp_path) -> None:
    _, results, tables = swapped(tmp_path)
    first, second = Swaps(results, tables).verdicts()
    # Better by 0.1 on both, with a spread of 0.02; the sweep is the same bowl around the same rate for both.
    assert first.startswith(
        "Swapped: better than AdamW on digits, words. Among the learning rates that were tried its "
    )
    assert second == "swap-flat: worse than adamw-flat on digits, words."
    worse = Swaps(*swapped(tmp_path / "worse", Fake({**QUALITY, "swap": 0.3}))[1:]).verdicts()[0]
    assert worse.startswith("Swapped: worse than AdamW on digits, words.")
    same = Swaps(*swapped(tmp_path / "same", Fake({**QUALITY, "swap": 0.2}))[1:]).verdicts()[0]
    assert "no evidence of difference to AdamW on digits, words." in same
    single = Fake(QUALITY, lambda t: "ok" if t.optimizer != "swap" or t.spec.replicate == 0 else None)
    assert Swaps(*swapped(tmp_path / "one", single)[1:]).verdicts()[0].startswith("Swapped: too few runs on digits, ")


def test_windows_stand_beside_each_other(tmp_path) -> None:
    _, results, tables = swapped(tmp_path)
    sheet = Swaps(results, tables).sheet()
    rows = [row for row in sheet.rows if row[0] == "Swapped"]
    widths = tables.widths
    for row, task in zip(rows, NAMES, strict=True):
        assert row[-2].endswith(f"{widths[task, 'swap'].decades:.2f}")
        assert row[-1].endswith(f"{widths[task, 'adamw'].decades:.2f}")
    assert sheet.frame["window"].tolist()[:2] == [widths[task, "swap"].decades for task in NAMES]
    assert [row[-2] for row in sheet.rows if row[0] == "swap-flat"] == ["–"] * 2  # no sweep


def test_a_divergence_of_what_is_swapped_in_is_no_win(tmp_path) -> None:
    fake = Fake(QUALITY, lambda t: "diverged" if t.optimizer == "swap" and t.spec.replicate < 6 else "ok")
    _, results, tables = swapped(tmp_path, fake)
    swap = Swaps(results, tables).every()[0]
    assert (swap.comparison.by_rank, swap.comparison.paired.lost_a) == (True, 6)
    assert swap.reading != "better"


def test_nothing_is_shown_where_nothing_is_swapped(tmp_path) -> None:
    folder, results, tables = swapped(tmp_path, Fake(QUALITY, lambda t: None if "swap" in t.optimizer else "ok"))
    assert not Swaps(results, tables).verdicts()
    assert not Sheets(results, tables).every()["swap"].rows
    text = page.write(folder, "cpu", "command", (results, tables)).read_text()
    assert "Swap one line" not in text


def test_the_page_shows_the_verdict_and_the_task_its_runs(tmp_path) -> None:
    folder, results, tables = swapped(tmp_path)
    text = page.write(folder, "cpu", "command", (results, tables)).read_text()
    assert "Swap one line, keep the rest" in text
    assert Swaps(results, tables).verdicts()[0] in text
    rows = {row[0]: row for row in Sheets(results, tables).task("digits").rows}
    assert rows["Swapped"][-1] == "at the setting of AdamW, not searched"
    assert "swap-flat" not in rows  # trained otherwise
    [control] = [
        row for row in Sheets(results, tables).controls().rows if row[:1] == ["swap-flat"] and row[2] == "digits"
    ]
    assert control[4] == "adamw-flat"
