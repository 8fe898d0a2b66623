"""The numbers of a report are what scipy makes of the trials, whatever diverged, failed or is missing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from study.report_mini import TEXT, Fake, comparison, final, gathered, run, status

from adamomentum.study import studyfile
from adamomentum.study.report.claims import Count, Judge, undecidable
from adamomentum.study.report.comparisons import NO_EVIDENCE
from adamomentum.study.report.sheets import Sheets
from adamomentum.study.report.tables import build
from adamomentum.study.results import gather

pytestmark = pytest.mark.usefixtures("unrendered")


def test_tables_are_what_scipy_makes_of_the_trials(whole) -> None:
    results, tables = whole
    row = tables.row("digits", "adamw")
    runs = final(results, "digits", "adamw", "test_accuracy")
    low, high = scipy_stats.t.interval(0.95, 7, runs.mean(), scipy_stats.sem(runs))
    interval = row.metrics["accuracy"]
    assert (interval.mean, interval.low, interval.high) == pytest.approx((runs.mean(), low, high))
    assert (row.runs, row.diverged, row.ms, row.eps_dominated) == (8, 0, 10.0, 0.25)
    tests = {}
    for name in ("adamw", "sgdm", "adabelief"):
        mine, other = (final(results, "digits", n, "test_accuracy") for n in ("adamomentum", name))
        c = comparison(tables.comparisons, name)
        assert c.paired.difference.mean == pytest.approx((mine - other).mean())
        assert c.paired.t_p == pytest.approx(scipy_stats.ttest_rel(mine, other).pvalue)
        assert c.paired.wilcoxon_p == pytest.approx(scipy_stats.wilcoxon(mine, other, method="exact").pvalue)
        tests[name] = c
    corrected = multipletests([c.paired.t_p for c in tests.values()], method="holm")[1]
    assert [c.t_holm for c in tests.values()] == pytest.approx(list(corrected))
    assert comparison(tables.comparisons, "own").t_holm is None  # a control is outside the correction


def test_a_divergence_counts_as_worst_and_is_never_dropped(tmp_path) -> None:
    fake = Fake({"sgdm": -0.5}, status("final", "sgdm", {0, 1, 2}, "diverged"))
    results, tables = gathered(tmp_path, fake)
    row = tables.row("digits", "sgdm")
    assert (row.runs, row.diverged, row.metrics["accuracy"].n) == (8, 3, 5)
    c = comparison(tables.comparisons, "sgdm")
    assert (c.paired.n, c.paired.lost_b, c.by_rank) == (5, 3, True)
    # SGD's 5 survivors are far better; by ranks with 3 divergences that is no evidence.
    assert c.paired.difference.mean < 0
    assert c.outcome == NO_EVIDENCE
    assert sum(math.isinf(s) for s in tables.steps["digits", "sgdm"]) >= 3
    assert tables.across.scores["sgdm"]["digits"].count(0.0) == 3
    assert tables.across.ranks["sgdm"] == max(tables.across.ranks.values())
    shown = next(r for r in Sheets(results, tables).every()["task digits"].rows if r[0] == "SGD + momentum")
    assert "3 of 8" in shown
    assert "mean over the others" in shown[-1]


def test_failed_runs_are_missing_and_pairs_stay_pairs(tmp_path) -> None:
    fake = Fake(status=status("final", "adamomentum", {2}, "error"))
    results, tables = gathered(tmp_path, fake)
    c = comparison(tables.comparisons, "adamw")
    mine, other = final(results, "digits", "adamomentum", "test_loss"), final(results, "digits", "adamw", "test_loss")
    assert (len(mine), len(other), c.paired.n) == (7, 8, 7)
    difference = comparison(tables.loss_comparisons, "adamw").paired.difference.mean
    mine, other = (final(results, "digits", n, "train_loss") for n in ("adamomentum", "adamw"))
    assert difference == pytest.approx((mine - [v for k, v in enumerate(other) if k != 2]).mean())
    assert list(tables.steps["digits", "adamomentum"].index) == [0, 1, 3, 4, 5, 6, 7]
    assert (tables.across.tasks, tables.across.partial) == (["digits"], ["digits"])
    assert "digits: AdaMomentum" in Judge(results, tables).claims()[0].missing


def test_a_failed_tuning_trial_hides_nothing_and_proves_nothing(tmp_path) -> None:
    def lost(t):
        return (
            "error"
            if t.role == "tune" and t.optimizer in ("adamw", "sgdm") and (t.optimizer, t.point) != ("adamw", 1)
            else "ok"
        )

    results, tables = gathered(tmp_path, Fake(status=lost))
    assert len(final(results, "digits", "adamw", "test_loss")) == 8
    assert results.missing[("digits", "tune", "adamw")] == 5
    assert results.choices["digits", "sgdm"].failed == 6
    assert tables.row("digits", "sgdm") is None  # all its tuning trials failed: that is no result
    assert [c.other for c in tables.comparisons] == ["adamw", "adabelief", "own"]
    assert "SGD + momentum" in Judge(results, tables).claims()[1].missing


def test_target_is_the_best_baselines_and_half_of_its_runs_reach_it(tmp_path) -> None:
    results, tables = gathered(tmp_path, Fake({"adamomentum": -0.3}))
    target = tables.targets["digits"]
    assert target.baseline == "sgdm"  # not the reference, though it is better; not the control
    ends = sorted(final(results, "digits", "sgdm", "val_loss"))
    assert target.value == ends[4]
    assert (tables.steps["digits", "sgdm"] <= 40).sum() == 5
    assert tables.row("digits", "sgdm").steps == 40
    assert tables.row("digits", "adamw").steps == math.inf
    assert comparison(tables.speed, "adamw").outcome == "better"
    [shown] = [row for row in Sheets(results, tables).every()["speed"].rows if row[1] == "SGD + momentum"]
    assert shown[5:7] == ["40 (5/8)", "0.4"]  # 40 steps of 10 ms
    [shown] = [row for row in Sheets(results, tables).every()["speed"].rows if row[1] == "AdamW"]
    assert shown[5:7] == ["not reached (0/8)", "–"]


def test_one_failed_run_moves_neither_target_nor_scores_away(tmp_path, whole) -> None:
    target = whole[1].targets["digits"]
    assert (target.baseline, target.complete) == ("sgdm", True)
    _, tables = gathered(tmp_path, Fake(status=status("final", "sgdm", {7}, "error")))
    assert (tables.targets["digits"].baseline, tables.targets["digits"].complete) == ("sgdm", False)
    assert tables.across.partial == ["digits"]
    assert len(tables.across.scores["sgdm"]["digits"]) == 7


def test_what_nothing_could_train_is_worst_without_a_test(tmp_path) -> None:
    results, tables = gathered(
        tmp_path, Fake(status=lambda t: "diverged" if t.optimizer == "sgdm" and t.role == "tune" else "ok")
    )
    c = comparison(tables.comparisons, "sgdm")
    assert (c.outcome, c.untrained, c.corrected) == ("better", True, True)
    assert comparison(tables.speed, "sgdm").outcome == "better"
    assert tables.across.ranks["sgdm"] == 4
    assert tables.across.scores["sgdm"]["digits"] == [0.0] * 8
    assert tables.row("digits", "sgdm").setting == {}
    judge = Judge(results, tables)
    assert not judge.claims()[1].missing
    assert "nothing that was tried trains it" in Sheets(results, tables).every()["task digits"].rows[2]
    assert tables.evp["digits", "sgdm"] == [math.inf] * 4


def test_tuning_curves_average_over_seeds_and_leave_the_extension_out(whole) -> None:
    results, tables = whole
    t = results.trials
    first = t[(t["role"] == "tune") & (t["optimizer"] == "adamw") & (t["point"] < 4)]["val_loss"]
    assert tables.evp["digits", "adamw"][0] == pytest.approx(first.mean())
    assert tables.evp["digits", "adamw"][-1] == pytest.approx(first.min())
    assert set(tables.widths) == {("digits", "adamomentum"), ("digits", "adamw")}


def test_the_best_point_by_validation_is_a_second_look(tmp_path) -> None:
    # The curve is lowest at its third point: there every run is read again.
    results, tables = gathered(tmp_path, Fake(curve=(4, 1.4, 0.9, 1)))
    row = tables.row("digits", "adamw")
    mine = results.trials[(results.trials["role"] == "final") & (results.trials["optimizer"] == "adamw")]
    assert row.selected_step == 30
    assert row.selected.mean == pytest.approx(mine["selected_test_accuracy"].mean())
    assert row.selected.mean > row.metrics["accuracy"].mean
    a, b = (final(results, "digits", name, "selected_test_accuracy") for name in ("adamomentum", "adamw"))
    [selected] = [c for c in tables.selected_comparisons if c.other == "adamw"]
    assert selected.paired.difference.mean == pytest.approx(float((a - b).mean()))
    sheet = Sheets(results, tables).every()["selected"]
    assert [row[6:8] for row in sheet.rows] == [["30", "40"]] * 5


class Twins(Fake):
    """Adam's results are those of the AdamW trial with its settings: without decay they are one optimizer."""

    def result(self, t):
        twin = t.spec.optimizer.model_copy(update={"name": "adamw"})
        if t.spec.optimizer.name == "adam":
            t = replace(t, optimizer="adamw", spec=t.spec.model_copy(update={"optimizer": twin}))
        return super().result(t)


def test_the_same_runs_under_two_names_count_once(tmp_path) -> None:
    text = TEXT.replace("adamw = {}", "adam = {}\nadamw = {}").replace(
        'family = "gan"', 'family = "gan"\nhyperparameters = { weight_decay = 0.0 }'
    )
    both = studyfile.parse(text, "made-up").only(("pictures", "words"))
    results = gather(run(tmp_path / "study", both, Twins()))
    tables = build(results)
    assert tables.same == {(role, "pictures"): {"adamw": "adam"} for role in ("final", "default")}
    assert [(c.task, c.other) for c in tables.comparisons if c.same_as] == [("pictures", "adamw")]
    assert len([c for c in tables.comparisons if not c.control]) == 8
    # Both stand in the tables, and in Holm's correction, which is so a little too strict, not too lax.
    adam, adamw = (comparison(tables.comparisons, name, "pictures") for name in ("adam", "adamw"))
    assert (adam.paired, adam.t_holm) == (adamw.paired, adamw.t_holm)
    assert Count.of(c for c in tables.comparisons if not c.control).total == 7
    assert Count.of(tables.speed).total == 7
    judge = Judge(results, tables)
    answer = judge.answer()
    assert "Adam and AdamW have the same runs on pictures: they count once." in answer
    assert answer.count("of 7 comparisons") == 3
    assert "of 7 comparisons" in judge.speed().verdict
    blind = undecidable(tables.speed)
    alone = [c for c in tables.speed if not c.same_as]
    assert blind == undecidable(alone)


def test_divergences_are_not_the_same_runs(tmp_path) -> None:
    fake = Fake(status=lambda t: "diverged" if t.role == "default" and t.optimizer in ("adamw", "sgdm") else "ok")
    _, tables = gathered(tmp_path, fake)
    assert tables.same == {}


def test_a_target_is_what_the_median_baseline_had_reached_in_tuning(tmp_path) -> None:
    """Of losses end * (4, 1.4, 1.2, 1) at steps 10 to 40: at 3/8 of them 2.7, at 5/8 1.3, at 7/8 1.1 times the end."""
    text = TEXT.replace("[sensitivity]", "[speed]\nshares = [0.625, 0.875, 0.375]\n[sensitivity]", 1)
    asked = studyfile.parse(text, "shares").only(("words",))
    results = gather(run(tmp_path / "study", asked, Fake()))
    tables = build(results)
    ends = sorted(
        min(
            results.results[t.spec.trial_id].final["val_loss"]
            for t in results.plan.trials
            if (t.role, t.optimizer) == ("tune", name)
        )
        for name in results.study.baselines
    )
    assert len(ends) == 3
    target = tables.targets["words"]
    assert (target.value, target.share) == (pytest.approx(1.3 * ends[1]), 0.625)
    near = {t.share: t.value for t, _ in tables.near}
    assert near == {0.375: pytest.approx(2.7 * ends[1]), 0.875: pytest.approx(1.1 * ends[1])}
    # Every final run of the reference ends lower than those of tuning, at the rate that was best there or not.
    steps = tables.steps["words", "adamomentum"]
    assert set(steps) <= {20.0, 30.0, 40.0}
    assert [c.other for t, c in tables.near if t.share == 0.375] == list(results.study.baselines)


def test_a_median_baseline_that_cannot_be_trained_leaves_no_target(tmp_path) -> None:
    text = TEXT.replace("[sensitivity]", "[speed]\nshares = [0.5]\n[sensitivity]", 1)
    asked = studyfile.parse(text, "shares").only(("words",))
    lost = {"adamw", "sgdm"}
    results = gather(run(tmp_path / "study", asked, Fake(status=lambda t: "diverged" if t.optimizer in lost else "ok")))
    assert not build(results).targets


def test_a_run_that_misses_the_target_counts_with_its_budget(tmp_path) -> None:
    """The reference reaches 1.25 at step 40, and two of eight runs never; AdamW always at step 30."""
    text = TEXT.replace('name = "words"', 'name = "words"\ntarget = 3.5\nmetric = "loss"', 1)
    asked = studyfile.parse(text, "restricted").only(("words",))

    class Steps(Fake):
        def result(self, t):
            result = super().result(t)
            if t.role != "final":
                return result
            missed = t.optimizer == "adamomentum" and t.spec.replicate < 2
            values = [9.0, 9.0, 9.0, 9.0 if missed else 3.0] if t.optimizer == "adamomentum" else [9.0, 9.0, 3.0, 3.0]
            return result.model_copy(update={"curve": {**result.curve, "val_loss": values}})

    results = gather(run(tmp_path / "study", asked, Steps()))
    c = next(c for c in build(results).speed if c.other == "adamw")
    assert c.restricted.mean == 10.0 and c.restricted.n == 8  # 40, reached or not, after 30
    assert (c.outcome, c.paired.lost_a) == ("worse", 2)


def test_the_area_is_the_mean_of_the_curve(tmp_path) -> None:
    results, tables = gathered(tmp_path, Fake(), ("words",))
    curve = results.results[next(t for t in results.plan.trials if t.role == "final").spec.trial_id].curve
    end = curve["val_loss"][-1]
    areas = final(results, "words", next(t for t in results.plan.trials if t.role == "final").optimizer, "area")
    # Trapezoids over steps 10 to 40: (4 / 2 + 1.4 + 1.2 + 1 / 2) / 3 times the end.
    assert areas[0] == pytest.approx(5.1 / 3 * end, rel=1e-6)
    c = comparison(tables.area_comparisons, "adabelief", "words")
    assert c.outcome == "better" and c.metric.label.endswith("mean over the run")
