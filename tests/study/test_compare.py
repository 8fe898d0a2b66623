"""``compare`` is a study: which one, and that its trials are those of earlier versions."""

from __future__ import annotations

import io
import math
import re

import pytest
from rich.console import Console
from study.mini import fake_result, fingerprints, finish
from study.report_mini import Fake, run

from adamomentum.study import compare, registry, stages, studyfile
from adamomentum.study.data.images import ImageData
from adamomentum.study.report.claims import Judge
from adamomentum.study.report.sheets import Sheets
from adamomentum.study.report.summary import say_results
from adamomentum.study.report.tables import build
from adamomentum.study.results import gather
from adamomentum.study.stages import Planned
from adamomentum.study.studyfile import Study, StudyError

MNIST = "103c74152bc7952a"  # the fingerprint of MNIST-5k


def as_study(tiny_data: ImageData, seeds: int = 3, **grids: tuple[float, ...]) -> Study:
    grids = grids or {name: registry.get(name).lr_grid() for name in registry.COMPARED}
    return compare.as_study(grids, seeds, 8, {}, tiny_data)


def to_the_end(study: Study, loss, fingerprint: str = "0" * 16) -> stages.Plan:
    """The plan after all trials, whose validation loss ``loss`` makes up."""
    results = {}
    while True:
        plan = stages.plan(study, dict.fromkeys(fingerprints(study), fingerprint), results)
        if not finish(plan, results, loss):
            return plan


def far_from(lr: float):
    return lambda t: abs(math.log(t.spec.optimizer.lr / lr))


def test_its_trials_have_the_ids_of_earlier_versions(tiny_data) -> None:
    """Or what is in folders of these would be trained again."""
    plan = to_the_end(as_study(tiny_data, seeds=5), lambda t: far_from(middle(t))(t), MNIST)
    ids = {t.spec.trial_id for t in plan.trials}
    assert len(ids) == 65
    tuned = {"adamomentum": "3208b0a5692158c7", "sgdm": "801ea635fcd33c4b"}
    final = {"adamomentum": "f0e50086eeb8b337", "adam": "a9bc2744f9dd67a2", "sgdm": "075787c6b531eb2f"}
    assert {*tuned.values(), *final.values()} <= ids


def test_stages_choose_then_evaluate_on_fresh_seeds(tiny_data) -> None:
    study = as_study(tiny_data)
    plan = to_the_end(study, lambda t: far_from(middle(t))(t))
    tuning, final, swapped = ([t for t in plan.trials if t.role == role] for role in ("tune", "final", "control"))
    assert len(tuning) == 4 * 5 * 2
    assert len(final) == 4 * 3
    assert len(swapped) == 3
    assert len(plan.trials) == len(tuning) + len(final) + len(swapped)
    assert {t.spec.budget.evaluations for t in tuning} == {1}
    assert {t.spec.budget.evaluations for t in final} == {16}
    assert not {t.spec.seed("init") for t in tuning} & {t.spec.seed("init") for t in final}
    for name in study.optimizers:
        choice = plan.choices["images", name]
        assert choice.setting == {"lr": registry.get(name).lr_grid()[2]}
        assert (choice.edges, choice.points) == ((), 5)


def test_adamomentum_takes_adamws_place_at_its_rate_and_decay_without_a_search(tiny_data) -> None:
    plan = to_the_end(as_study(tiny_data), lambda t: far_from(3.2e-3 if t.optimizer == "adamw" else middle(t))(t))
    swapped = [t.spec for t in plan.trials if t.role == "control"]
    adamw = [t.spec for t in plan.trials if (t.role, t.optimizer) == ("final", "adamw")]
    assert [spec.replicate for spec in swapped] == [0, 1, 2]
    for mine, theirs in zip(swapped, adamw, strict=True):
        assert mine.optimizer.name == "adamomentum"
        assert mine.optimizer.lr == theirs.optimizer.lr == 3.2e-3
        h = mine.optimizer.hyperparameters
        assert h["adjust_lr"] == "match_rms_adamw"
        assert h["weight_decay"] == theirs.optimizer.hyperparameters["weight_decay"] == 0.01
        assert mine.model_copy(update={"optimizer": theirs.optimizer}) == theirs
    for names in ({"adamw": (1e-2,), "adam": (1e-2,)}, {"adamomentum": (1e-3,), "adam": (1e-2,)}):
        assert not as_study(tiny_data, **names).controls


def test_the_swapped_line_is_shown_beside_those_that_were_tuned(tmp_path, tiny_data) -> None:
    study = as_study(tiny_data, seeds=3, adamomentum=(1e-3, 2e-3), adamw=(1e-3, 1e-2))
    results = gather(run(tmp_path, study, Fake({"adamomentum-for-adamw": 0.8})))
    tables = build(results)
    rows = {row[0]: row for row in Sheets(results, tables).task("images").rows}
    mine = rows["Drop-in"]
    assert mine[1] == f"lr {results.choices['images', 'adamw'].setting['lr']:g}"
    assert mine[-1] == "at the setting of AdamW, not searched"
    console = Console(file=io.StringIO(), width=200)
    say_results(results, tables, console)
    printed = console.file.getvalue()
    assert re.search(r"Drop-in\W+lr 0", printed)
    assert re.search(r"images: Drop-in - AdamW, accuracy: -\S+ points \(.*\): worse", printed)


def middle(t: Planned) -> float:
    return registry.get("adamw" if t.role == "control" else t.optimizer).lr_grid()[2]


@pytest.mark.parametrize("best", [1e-3, 1e-1])
def test_a_best_rate_at_an_end_of_its_grid_is_flagged_and_the_grid_is_not_extended(tiny_data, best) -> None:
    study = as_study(tiny_data, adamw=(1e-3, 1e-2, 1e-1)).model_copy(update={"tuning": studyfile.Tuning()})
    plan = to_the_end(study, far_from(best))
    assert plan.choices["images", "adamw"].edges == ("lr",)
    assert {t.spec.optimizer.lr for t in plan.trials if t.role == "tune"} == {1e-3, 1e-2, 1e-1}


def test_ties_go_to_the_smaller_rate_and_a_divergence_rules_one_out(tiny_data) -> None:
    study = as_study(tiny_data, sgdm=(0.1, 0.3, 1.0, 3.0))
    losses = {0.1: 0.5, 0.3: 0.2, 1.0: 0.2, 3.0: 0.1}

    def loss(t: Planned) -> float | None:
        lr = t.spec.optimizer.lr
        return None if lr == 3 and t.spec.replicate else losses[lr]

    plan = to_the_end(study, loss)
    assert plan.choices["images", "sgdm"].setting == {"lr": 0.3}


def test_a_single_rate_is_taken_as_given(tiny_data) -> None:
    study = as_study(tiny_data, adamw=(0.02,), sgdm=(0.1, 0.3))
    plan = to_the_end(study, far_from(0.1))
    assert {t.optimizer for t in plan.trials if t.role == "tune"} == {"sgdm"}
    choice = plan.choices["images", "adamw"]
    assert (choice.setting, choice.points, choice.edges) == ({"lr": 0.02}, 0, ())
    alone = to_the_end(as_study(tiny_data, adamw=(0.02,)), far_from(0.1))
    assert {t.role for t in alone.trials} == {"final"}


def test_more_seeds_train_only_what_is_new(tiny_data) -> None:
    before, after = (
        {t.spec.trial_id: t for t in to_the_end(as_study(tiny_data, seeds), far_from(1e-2)).trials} for seeds in (4, 6)
    )
    assert before.keys() < after.keys()
    assert sorted(after[key].spec.replicate for key in after.keys() - before.keys()) == [4] * 5 + [5] * 5


@pytest.mark.parametrize(
    ("target", "text", "steps"),
    [
        (0.82, "validation accuracy 82 %, declared in advance", 20.0),
        (0.999, "validation accuracy 99.9 %, declared in advance", math.inf),
    ],
)
def test_time_is_measured_to_what_is_declared_or_else_to_the_best_baseline(tmp_path, tiny_data, target, text, steps):
    study = as_study(tiny_data, adamomentum=(1e-3,), adamw=(1e-3, 1e-2, 1e-1))
    task = study.tasks[0].model_copy(update={"target": target})
    folder = run(tmp_path, study.model_copy(update={"tasks": (task,)}), Fake())
    results = gather(folder)
    tables = build(results)
    assert Sheets(results, tables).target("images").startswith(text)
    # The accuracy is 1 - 0.1 x loss, the loss at the steps 4, 1.4, 1.2 and 1 times that at the end.
    assert tables.row("images", "adamw").steps == steps
    assert (tables.row("images", "adamw").reached == 0) == math.isinf(steps)


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        ({"adamomentum": (1e-3,), "sgdm": (0.1,)}, "nothing was tuned: each had 2 runs at the setting given"),
        ({"adamomentum": (1e-3,), "sgdm": (0.1, 1.0)}, "each was given 0 to 2 tuning trials, then 2 fresh runs"),
        ({"adamomentum": (1e-3, 1e-2), "sgdm": (0.1, 1.0)}, "each was given the same number of tuning trials"),
    ],
)
def test_how_rates_were_found_is_said_as_it_was(tmp_path, tiny_data, grids, words) -> None:
    results = gather(run(tmp_path, as_study(tiny_data, 2, **grids), Fake()))
    answer = Judge(results, build(results)).answer()
    assert answer.startswith(f"AdaMomentum against 1 other optimizer on 1 task; {words}")


def test_a_grid_in_a_study_file_is_checked() -> None:
    text = """
name = "own"
[optimizers]
adamomentum = { grid = %s }
[[tasks]]
name = "one"
family = "image-classification"
budget = { steps = 2 }
"""
    assert studyfile.parse(text % "[1e-3, 1e-2]", "own").optimizers["adamomentum"].grid == (1e-3, 1e-2)
    for wrong, words in (("[1e-3, 1e-3]", "must differ"), ("[0.0]", "greater than 0"), ("[-1e-3]", "greater than 0")):
        with pytest.raises(StudyError, match=words):
            studyfile.parse(text % wrong, "own")
    plain = text.replace("grid = %s", "")
    assert "grid" not in studyfile.parse(plain, "own").model_dump_json()


def test_a_failed_tuning_trial_does_not_count(tiny_data) -> None:
    study = as_study(tiny_data, sgdm=(0.1, 0.3))
    results = {}
    plan = stages.plan(study, fingerprints(study), results)
    for t in plan.trials:
        failed = t.spec.replicate == 0 and t.spec.optimizer.lr == 0.3
        results[t.spec.trial_id] = fake_result(None, "error") if failed else fake_result(far_from(0.3)(t))
    choice = stages.plan(study, fingerprints(study), results).choices["images", "sgdm"]
    assert (choice.setting, choice.failed) == ({"lr": 0.3}, 1)
