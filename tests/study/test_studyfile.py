"""The study file: faults are named with their place; the hash covers what can change a result."""

from __future__ import annotations

import pytest
from study.mini import MINI, fingerprints

from adamomentum.study import stages, studyfile
from adamomentum.study.spec import TrialSpec
from adamomentum.study.studyfile import StudyError, parse
from adamomentum.study.tasks.gan.settings import GanSettings
from adamomentum.study.tasks.language.settings import LanguageSettings
from adamomentum.study.tasks.translation.settings import TranslationSettings
from adamomentum.study.tasks.vision.settings import VisionSettings


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials = 4", "trials = -1", r"mini.toml: tuning.trials: .*greater than or equal to 0, got -1"),
        ("trials = 4", 'trials = "many"', r"tuning.trials: .*'many'"),
        ("extension = 2", "extention = 2", r"tuning.extention: .*not permitted"),
        ('family = "image-classification"', 'family = "images"', r"tasks.0.family: unknown family 'images'; allowed"),
        ("budget = { steps = 3, batch_size = 8 }", "budget = { batch_size = 8 }", r"tasks.1.budget: .*epochs or steps"),
        ('name = "constant"', 'name = "linear"', r"tasks.1.schedule: .*'cosine'"),
        ('lr_from = "adamomentum"', 'lr_from = "lion"', r"controls.faster.lr_from names 'lion'.*there are"),
        (
            'lr_from = "adamomentum"',
            'lr_from = "adamomentum"\nsetting_from = "adamw"',
            r"controls.0: .*give lr_from, .* or setting_from, .*got 'adamomentum' and 'adamw'",
        ),
        ('lr_from = "adamomentum"', 'setting_from = "lion"', r"controls.faster.setting_from names 'lion'"),
        (
            'optimizer = "plain"\nlr_from = "adamomentum"',
            'optimizer = "lion"\nsetting_from = "adamw"',
            r"controls.faster.optimizer names 'lion', .*there are: .*plain.* nadamw",
        ),
        ('optimizer = "plain"', 'optimizer = "nadamw"', r"controls.faster.optimizer names 'nadamw'"),
        ('name = "faster"', 'name = "adamw"', r"controls.adamw has the name of an optimizer of the study"),
        ('optimizers = ["adamw"]', 'controls = ["slower"]', r"sensitivity.controls names 'slower'.*there are: faster"),
        ('name = "two"', 'name = "two"\nmetric = "bleu"', r"tasks.1: .*metric must be one of accuracy, loss.*'bleu'"),
        ('base = "adam"', 'base = "adamx"', r"unknown optimizer 'adamx'; allowed"),
        ('base = "adam"', 'base = "my.module:Lion"', r"needs default_lr and space.lr"),
        ('name = "two"', 'name = "one"', r"different names, got one"),
        ('name = "mini"', 'name = "../mini"', r"name: .*pattern"),
        ("[tuning]", "[tuning", r"mini.toml is not TOML: .*line 3"),
        ("[tuning]", "x = " + "[" * 100_000, r"mini.toml: its brackets are nested too deeply"),
        ('optimizers = ["adamw"]', 'optimizers = ["adam"]', r"sensitivity.optimizers names 'adam'"),
    ],
)
def test_faults_are_named_with_their_place(old, new, message) -> None:
    assert old in MINI
    with pytest.raises(StudyError, match=f"(?s){message}"):
        parse(MINI.replace(old, new, 1), "mini.toml")


ONE = MINI[: MINI.index('[[tasks]]\nname = "two"')]
LIKE = MINI.replace('name = "two"', 'name = "two"\nlike = "one"', 1)


@pytest.mark.parametrize(
    ("text", "old", "new", "line"),
    [
        (
            ONE,
            'family = "image-classification"',
            'family = "my_package.tasks:Segmentation"',
            "tasks.0.family: family 'my_package.tasks:Segmentation': there is no module 'my_package' here; put it "
            "beside the study file, install it, or put its folder on PYTHONPATH",
        ),
        (ONE, "steps = 6", "steps = 0", "tasks.0.budget.steps: Input should be greater than or equal to 1, got 0"),
        (
            ONE,
            "params = {",
            'schedule = { name = "step", milestones = [2.0], factor = 0.1 }\nparams = {',
            "tasks.0.schedule.step.milestones.0: Input should be less than 1, got 2.0",
        ),
        (ONE, "params = {", "tune = [3]\nparams = {", "tasks.0.tune.0: Input should be a valid string, got 3"),
        (
            MINI,
            'params = { data = "folder" }',
            "params = { data = { x = 1 } }",
            "tasks.0.params.data: must be a number, text, true or false, or a list of such values, got {'x': 1}",
        ),
        (
            MINI,
            "hyperparameters = { weight_decay = 0.0 }",
            "hyperparameters = { betas = [[0.9, 0.999]] }",
            "tasks.1.hyperparameters.betas: must be a number, text, true or false, or a list of such values, "
            "got [[0.9, 0.999]]",
        ),
        (
            LIKE.replace('name = "two"\nlike = "one"\nfamily = "image-classification"', 'name = "two"\nlike = "one"'),
            'family = "image-classification"',
            'family = "images"',
            "tasks.0.family: unknown family 'images'; allowed: image-classification, language-model, translation, gan, "
            "own, or module:Class of your own",
        ),
    ],
    ids=["family", "budget", "milestones", "tune", "table", "nested list", "like"],
)
def test_one_fault_is_one_line(text, old, new, line) -> None:
    """Neither what follows from it nor each kind of value that it might have been."""
    assert old in text
    with pytest.raises(StudyError) as caught:
        parse(text.replace(old, new, 1), "mini.toml")
    assert str(caught.value) == f"mini.toml: {line}"


def test_a_fault_of_a_task_that_is_like_another_is_its_own() -> None:
    with pytest.raises(StudyError) as caught:
        parse(LIKE.replace("budget = { steps = 3, batch_size = 8 }", "budget = { steps = -3 }"), "mini.toml")
    assert str(caught.value).startswith("mini.toml: tasks.1.budget.steps: ")


def test_all_faults_at_once() -> None:
    with pytest.raises(StudyError) as caught:
        parse(MINI.replace("trials = 4", "trials = -1").replace("half_decades = 1", "half_decades = 0"), "mini.toml")
    assert len(str(caught.value).splitlines()) == 2


def test_the_hash_ignores_layout_and_sees_every_value() -> None:
    hashes = {
        parse(MINI, "a").hash,
        parse("# a comment\n" + MINI, "b").hash,
        parse(MINI.replace("seeds = 3", "seeds = 3  # three"), "c").hash,
    }
    assert len(hashes) == 1
    for change in (("steps = 6", "steps = 7"), ("extension = 2", "extension = 1"), ("4.36", "4.35")):
        assert parse(MINI.replace(*change), "d").hash not in hashes


def test_the_hash_leaves_out_what_a_smoke_run_takes() -> None:
    """Time and processes of a smoke run change nothing that the study finds."""
    changed = MINI.replace("evaluations = 1 } }", "evaluations = 1 }, minutes = 0.5, processes = 3 }")
    study = parse(changed, "mini")
    assert study.hash == parse(MINI, "mini").hash
    assert (study.tasks[0].processes, study.tasks[0].minutes) == (1, None)
    smoke = study.smoked().tasks[0]
    assert (smoke.processes, smoke.minutes) == (3, 0.5)


def test_smoke_keeps_everything_but_the_budget() -> None:
    study = parse(MINI, "mini")
    smoke = study.smoked()
    assert smoke.name == "mini-smoke"
    assert smoke.optimizers == study.optimizers
    assert [t.name for t in smoke.tasks] == [t.name for t in study.tasks]
    assert smoke.tasks[0].budget.steps == 2
    assert smoke.tasks[1].budget == study.tasks[1].budget
    assert smoke.final.seeds == 2
    assert smoke.hash != study.hash


def test_some_tasks_alone() -> None:
    study = parse(MINI, "mini")
    assert [t.name for t in study.only(("two",)).tasks] == ["two"]
    with pytest.raises(StudyError, match="no task 'three'; there are: one, two"):
        study.only(("three",))


@pytest.mark.parametrize("name", list(studyfile.built_in()))
def test_what_comes_along_is_valid(name) -> None:
    study = studyfile.read(name)
    assert study.name == name
    assert study.title
    assert study.smoked().tasks


def test_an_unknown_study_lists_what_there_is() -> None:
    with pytest.raises(StudyError, match="paper-mini"):
        studyfile.read("paper-maxi")


def test_an_own_optimizer_needs_no_registry() -> None:
    text = MINI.replace(
        'base = "adam"\n',
        'base = "study.own:Lion"\ndefault_lr = 1e-4\n'
        "space = { lr = { low = 1e-5, high = 1e-2 } }\nhyperparameters = { beta = 0.9 }\n",
    )
    optimizer = parse(text.replace("hyperparameters = { eps = 1e-6 }", ""), "mini").optimizer("plain")
    assert (optimizer.label, optimizer.default_lr, optimizer.space["lr"].high) == ("Lion", 1e-4, 1e-2)
    assert dict(optimizer.hyperparameters) == {"beta": 0.9}


@pytest.mark.parametrize("smoke", [False, True], ids=["full", "smoke"])
@pytest.mark.parametrize("name", list(studyfile.built_in()))
def test_what_comes_along_can_be_planned(name, smoke) -> None:
    """Every hyper-parameter is one that its optimizer has, every parameter of a task one that its family knows."""
    settings = {
        "image-classification": VisionSettings,
        "language-model": LanguageSettings,
        "translation": TranslationSettings,
        "gan": GanSettings,
    }
    study = studyfile.read(name)
    study = study.smoked() if smoke else study
    plan = stages.plan(study, {task.name: "0" * 16 for task in study.tasks}, {})
    assert {t.task for t in plan.trials} == {task.name for task in study.tasks}
    for task in study.tasks:
        assert settings[task.family].of(task.params).data == task.params["data"]


def test_the_papers_settings_are_those_of_its_runs() -> None:
    """Against paper.md's table and the logs in ptb_runs.csv."""
    from pathlib import Path

    import pandas as pd

    runs = pd.read_csv(Path(__file__).parent / "ptb_runs.csv")
    names = {"adam3": "adamomentum", "sgd": "sgdm"}
    study = studyfile.read("paper-ptb")
    for layers in (1, 2, 3):
        given = study.task(f"ptb-{layers}").optimizers
        for name, rows in runs[(runs.in_paper == 1) & (runs.layers == layers)].groupby("optimizer"):
            mine = given[names.get(name, name)]
            assert mine["lr"] == rows.lr.iloc[0]
            assert mine["weight_decay"] == rows.wdecay.iloc[0]
            if name != "sgd":
                assert mine["eps"] == rows.eps.iloc[0], (name, layers)
    cifar = studyfile.read("paper-cifar")
    assert len(cifar.tasks) == 6
    for task in cifar.tasks:
        assert (task.budget.epochs, task.budget.batch_size) == (200, 128)
        assert [m * 200 for m in task.schedule.milestones] == [60, 120, 160]
        assert task.optimizers["adam"]["weight_decay"] == 0
        assert task.optimizers["adamomentum"]["decoupled_weight_decay"] is False
    gans = studyfile.read("paper-gan")
    assert [(t.budget.steps, t.params["d_steps"]) for t in gans.tasks] == [(200_000, 2), (100_000, 5), (100_000, 5)]
    assert [t.optimizers["adamomentum"]["eps"] for t in gans.tasks] == [1e-8, 1e-16, 1e-16]


PLACED = """hyperparameters = { betas = [0.9, 0.99], eps = 1e-8 }
kind = "adaptive"
eps_placement = "inside"
"""


def own_optimizer(more: str) -> str:
    own = 'base = "study.own:Lion"\ndefault_lr = 1e-4\nspace = { lr = { low = 1e-5, high = 1e-2 } }\n'
    return MINI.replace('base = "adam"\n', own + more).replace("hyperparameters = { eps = 1e-6 }", "")


def test_what_is_said_of_an_own_optimizer_reaches_its_trials_and_the_hashes() -> None:
    """What is not said leaves no trace in either hash (test_stages.py pins both)."""
    study, plain = (parse(own_optimizer(text), "own") for text in (PLACED, PLACED.splitlines()[0] + "\n"))
    optimizer = study.optimizer("plain")
    assert (optimizer.kind, optimizer.eps_placement) == ("adaptive", "inside")
    assert (plain.optimizer("plain").kind, plain.optimizer("plain").eps_placement) == ("other", None)
    assert study.hash != plain.hash
    specs = []
    for each in (study, plain):
        plan = stages.plan(each, fingerprints(each), {})
        specs.append(next(t.spec for t in plan.trials if t.optimizer == "plain"))
        assert all("eps_placement" not in t.spec.canonical() for t in plan.trials if t.optimizer != "plain")
    assert specs[0].optimizer.eps_placement == "inside"
    assert "eps_placement" not in specs[1].canonical()
    assert specs[0].trial_id != specs[1].trial_id
    assert TrialSpec.model_validate_json(specs[0].canonical()) == specs[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (own_optimizer('kind = "momentum"\n'), "optimizers.plain.kind: .*'adaptive', 'sgd' or 'other', got 'momentum'"),
        (own_optimizer('eps_placement = "inside"\n'), "eps_placement of study.own:Lion needs betas and eps in hyper"),
        (MINI.replace("control = true", 'kind = "sgd"'), "plain.kind is for an optimizer of your own .*adam is in the"),
        (MINI.replace("control = true", 'eps_placement = "inside"'), "plain.eps_placement is for an optimizer of your"),
    ],
)
def test_what_cannot_be_said_of_an_optimizer(text, message) -> None:
    with pytest.raises(StudyError, match=message):
        parse(text, "mini.toml")


def test_a_task_may_be_judged_by_another_metric_of_its_family() -> None:
    study = parse(MINI.replace('name = "two"', 'name = "two"\nmetric = "loss"'), "mini")
    one, two = (task.reported for task in study.tasks)
    assert (one.primary.key, two.primary.key) == ("accuracy", "loss")
    assert sorted(metric.key for metric in two.metrics) == sorted(metric.key for metric in one.metrics)


def test_what_a_study_does_not_say_is_not_in_its_hash() -> None:
    dumped = parse(MINI, "mini").model_dump(mode="json")
    assert not {"label", "setting_from", "budget", "minutes"} & dumped["controls"][0].keys()
    assert "metric" not in dumped["tasks"][0]
    assert "controls" not in dumped["sensitivity"]
    assert "floor" not in dumped["tasks"][0]["schedule"]


def test_another_reference_makes_a_control_of_the_studys_own() -> None:
    study = parse(MINI, "mini")
    seen = study.seen_from("plain")
    assert seen.reference == "plain" and seen.baselines == ("adamw", "sgdm")
    assert seen.optimizers["adamomentum"].control and not seen.optimizers["plain"].control
    assert study.seen_from("adamomentum") == study
    with pytest.raises(
        StudyError, match="study mini has no optimizer 'lion'; there are: adamomentum, adamw, sgdm, plain"
    ):
        study.seen_from("lion")


def test_a_form_as_the_reference() -> None:
    form = '[optimizers.adamw-99]\nbase = "adamw"\nhyperparameters = { betas = [0.9, 0.99] }\nform_of = "adamw"\n'
    study = parse(MINI.replace("[[tasks]]", form + "[[tasks]]", 1), "forms").seen_from("adamw-99")
    assert study.reference == "adamw-99" and study.optimizers["adamomentum"].control
    assert not study.optimizers["adamw"].control and not study.optimizers["adamw-99"].control
