from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from adamomentum.study import registry
from adamomentum.study.compare import Outcome, run_comparison
from adamomentum.study.plan import Comparison
from adamomentum.study.report import figures, html, tables
from adamomentum.study.spec import TaskSpec
from adamomentum.study.store import Store
from adamomentum.study.trial import TrialResult

TASK = TaskSpec(name="image-classification", version=1, data_fingerprint="0" * 16)
NAMES = ("adamomentum", "adamw", "sgdm")


class FakeTraining:
    """An executor that makes results up from the spec: known inputs for known statistics."""

    def __init__(self) -> None:
        self.overrides = {}  # (stage, optimizer, replicate) -> status
        self.trained = []

    def run(self, specs):
        for spec in specs:
            self.trained.append(spec)
            yield spec, self.result(spec)

    def result(self, spec) -> TrialResult:
        centre = registry.get(spec.optimizer.name).lr_centre
        loss = 0.2 + abs(math.log10(spec.optimizer.lr / centre)) + 0.01 * spec.replicate
        status = self.overrides.get((spec.stage, spec.optimizer.name, spec.replicate), "ok")
        if status == "error":
            return TrialResult(status="error", error="Traceback\nRuntimeError: <b>boom</b>")
        sign = (-1) ** spec.replicate
        gain = {"adamomentum": 0.01 - 0.0001 * sign, "adamw": 0.0, "sgdm": 0.002 * sign}[spec.optimizer.name]
        accuracy = 0.9 + 0.004 * spec.replicate + gain
        final = {"val_loss": loss, "val_accuracy": accuracy, "train_loss": loss / 2}
        if spec.stage == "final":
            swing = 0.01 * (-1) ** spec.replicate if spec.optimizer.name == "adamw" else 0.0
            final |= {"test_loss": 0.2 + swing, "test_accuracy": accuracy}
        if status == "diverged":
            final = {key: 0.1 if "accuracy" in key else None for key in final}
        curve = {
            "step": [10.0, 20.0],
            "train_loss": [1.0, loss / 2],
            "val_loss": [1.0, loss],
            "val_accuracy": [0.5, accuracy],
        }
        return TrialResult(
            status=status,
            final=final,
            curve={key: [] for key in curve} if status == "diverged" else curve,
            timing={"ms_per_step": 10.0 + spec.replicate, "train_seconds": 1.0},
            provenance={"torch": "1.2.3"},
        )


@pytest.fixture
def run(tmp_path):
    def run(executor=None, seeds=4, grids=None) -> Outcome:
        grids = grids or {name: registry.get(name).lr_grid() for name in NAMES}
        comparison = Comparison(task=TASK, grids=grids, seeds=seeds, epochs=1)
        store = Store(tmp_path / "store")
        return run_comparison(comparison, store, executor or FakeTraining(), lambda *_: None, lambda *_: None)

    return run


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Outcome, Path]:
    """The report on a comparison in which all went well."""
    folder = tmp_path_factory.mktemp("report")
    grids = {name: registry.get(name).lr_grid() for name in NAMES}
    comparison = Comparison(task=TASK, grids=grids, seeds=4, epochs=1)
    outcome = run_comparison(comparison, Store(folder / "store"), FakeTraining(), lambda *_: None, lambda *_: None)
    write(outcome, folder)
    return outcome, folder


def write(outcome: Outcome, folder: Path, target: float | None = 0.9) -> str:
    html.write(outcome, "tiny", "tiny: 1 / 1 / 1 images", target, folder, "adamomentum compare", test_images=1000)
    return (folder / html.PAGE).read_text()


def test_stages_choose_then_evaluate_on_fresh_seeds(run) -> None:
    executor = FakeTraining()
    outcome = run(executor)
    tuning = [s for s in executor.trained if s.stage == "tune"]
    final = [s for s in executor.trained if s.stage == "final"]
    assert len(tuning) == len(NAMES) * 5 * 2
    assert len(final) == len(NAMES) * 4
    assert executor.trained == tuning + final
    for name in NAMES:
        assert outcome.choices[name].lr == pytest.approx(registry.get(name).lr_centre, rel=0.05)
        assert not outcome.choices[name].edge
    assert not {s.seed("init") for s in tuning} & {s.seed("init") for s in final}


def test_more_seeds_train_only_what_is_new(run) -> None:
    run()
    executor = FakeTraining()
    run(executor, seeds=6)
    assert [(s.stage, s.replicate) for s in executor.trained] == [("final", 4)] * 3 + [("final", 5)] * 3


def test_the_summary_is_the_statistics_of_the_trials(run) -> None:
    t = tables.build(run(), 0.9)
    row = t.summary.set_index("optimizer").loc["adamw"]
    values = [0.9, 0.904, 0.908, 0.912]
    assert row["test_accuracy"] == pytest.approx(0.906)
    expected = tables.stats.t_interval(values)
    assert (row["test_accuracy_low"], row["test_accuracy_high"]) == pytest.approx((expected.low, expected.high))
    assert (row["steps_to_target"], row["reached_target"]) == (20, 4)
    assert row["ms_per_step"] == 11  # median of 10, 11 per grid point and 10..13
    d = t.differences.set_index(["metric", "baseline"])
    better = d.loc[("test_accuracy", "adamw")]
    assert better["difference"] == pytest.approx(0.01)
    assert better["verdict"] == "higher"
    assert d.loc[("test_loss", "adamw")]["verdict"] == "no evidence of difference"


def test_without_a_declared_target_the_best_baseline_sets_it(run) -> None:
    target = tables.build(run(), None).target
    assert target is not None
    # sgdm: .902, .902, .910, .910; adamw: .900, .904, .908, .912. Not AdaMomentum, though it is better.
    assert target.accuracy == pytest.approx(0.906)
    assert "best baseline" in target.source


def test_a_target_missed_by_most_is_not_reached(run) -> None:
    t = tables.build(run(), 0.911)
    cells = {c.name: c for c in html.summary_cells(t, 4)}
    assert cells["adamw"].steps == "not reached (1/4)"
    assert cells["adamomentum"].steps == "20 (3/4)"


def test_the_page_is_whole_by_itself(written) -> None:
    folder = written[1]
    page = (folder / html.PAGE).read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#)[^"']*""", page)
    assert "@import" not in page
    assert "<script" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used
    assert used <= set(ids)
    assert page.count("<svg") == 3
    assert figures.INK not in page.split("</style>", 1)[1]
    for name in ("overview", "learning_curves", "lr_sensitivity", "final_accuracy"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text()
    assert "no evidence of difference" in page
    assert "proves" not in page


def test_csv_tables_can_be_recomputed_from(written) -> None:
    folder = written[1]
    trials = pd.read_csv(folder / "trials.csv")
    summary = pd.read_csv(folder / "summary.csv").set_index("optimizer")
    final = trials[trials["stage"] == "final"]
    for name in NAMES:
        mean = final[final["optimizer"] == name]["test_accuracy"].mean()
        assert mean == pytest.approx(summary.loc[name, "test_accuracy"])
    rates = pd.read_csv(folder / "learning_rates.csv")
    assert rates.groupby("optimizer")["chosen"].sum().to_dict() == dict.fromkeys(NAMES, 1)
    assert len(pd.read_csv(folder / "curves.csv")) == 2 * len(final)


def test_failures_and_divergence_are_shown_not_hidden(run, tmp_path) -> None:
    executor = FakeTraining()
    executor.overrides = {("final", "adamw", 0): "error", ("final", "sgdm", 1): "diverged"}
    outcome = run(executor)
    page = write(outcome, tmp_path / "out")
    assert "RuntimeError: &lt;b&gt;boom&lt;/b&gt;" in page
    assert "3 of 4 seeds" in page
    assert "1 of 4 diverged" in page
    t = tables.build(outcome, 0.9)
    row = t.summary.set_index("optimizer").loc["sgdm"]
    # The diverged run counts: at its (chance) accuracy, with no finite loss, and as a missed target.
    assert row["test_accuracy"] == pytest.approx((0.902 + 0.1 + 0.91 + 0.91) / 4)
    assert math.isinf(row["test_loss"])
    assert row["reached_target"] == 3
    pairs = t.differences.set_index(["metric", "baseline"])
    assert pairs.loc[("test_accuracy", "adamw")][["pairs", "left_out"]].tolist() == [3, 1]


@pytest.mark.parametrize(("stage", "status"), [("tune", "error"), ("tune", "diverged"), ("final", "error")])
def test_an_optimizer_without_any_result_does_not_stop_the_report(run, tmp_path, stage, status) -> None:
    executor = FakeTraining()
    executor.overrides = {(stage, "adamw", k): status for k in range(5)}
    page = write(run(executor), tmp_path / "out")
    assert "0 of 4 seeds" in page
    if stage == "tune":
        assert "no learning rate could be trained" in page


def test_nothing_worked_at_all(run, tmp_path) -> None:
    executor = FakeTraining()
    executor.overrides = {(s, n, k): "error" for s in ("tune", "final") for n in NAMES for k in range(5)}
    assert "Trials that failed" in write(run(executor), tmp_path / "out", target=None)


def test_one_seed_one_optimizer_given_rate(run, tmp_path) -> None:
    page = write(run(seeds=1, grids={"sgdm": (0.1,)}), tmp_path / "out", target=None)
    assert "SGD + momentum" in page
    assert "±" not in page.split("<tbody>")[1].split("</tbody>")[0]


def test_an_edge_optimum_is_flagged_in_table_and_page(run, tmp_path) -> None:
    outcome = run(grids={"adamw": (0.01, 0.03, 0.1), "sgdm": (0.03, 0.1, 0.3)})
    cells = {c.name: c.note for c in html.summary_cells(tables.build(outcome, 0.9), 4)}
    assert cells == {"adamw": "lr at the edge of its grid", "sgdm": ""}
    assert write(outcome, tmp_path / "out").count("a better one may lie outside") == 1


def test_the_same_colour_and_mark_for_an_optimizer_everywhere() -> None:
    assert set(figures.COLOURS) == set(figures.MARKERS) == set(registry.OPTIMIZERS)
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)


def test_figures_are_reproducible(written, tmp_path) -> None:
    outcome, folder = written
    figures.draw(tables.build(outcome, 0.9), tmp_path)
    for figure in figures.FIGURES:
        assert (tmp_path / f"{figure}.svg").read_text() == (folder / f"{figure}.svg").read_text()


def test_stored_results_are_json_that_others_can_read(written) -> None:
    files = list((written[1] / "store").glob("??/*.json"))
    assert len(files) == 30 + 12
    for file in files:
        record = json.loads(file.read_text())
        assert record["trial_id"] == file.stem
        assert record["spec"]["optimizer"]["hyperparameters"]
