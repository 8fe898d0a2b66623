"""Planning: the same points for all, choices from validation alone, stages that open as earlier ones finish."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study.mini import MINI, fake_result, fingerprints, finish

from adamomentum.study import stages, studyfile
from adamomentum.study.stages import sobol


def run_to_the_end(study, loss):
    """Finishes every planned trial with ``loss(planned)`` until nothing new is planned."""
    results = {}
    for _ in range(10):
        plan = stages.plan(study, fingerprints(study), results)
        if not finish(plan, results, loss):
            return plan, results
    raise AssertionError("the plan never closes")


def run_to_the_end_of_tuning(study):
    results = {}
    plan = stages.plan(study, fingerprints(study), results)
    while finish(plan, results, bowl({})):
        plan = stages.plan(study, fingerprints(study), results)
    return plan, results


def by_role(plan, role, optimizer=None):
    return [t for t in plan.trials if t.role == role and optimizer in (None, t.optimizer)]


def bowl(best):
    """Validation loss with its minimum at ``best[optimizer]``."""

    def loss(t):
        return 1 + abs(math.log10(t.spec.optimizer.lr / best.get(t.spec.optimizer.name, 1e-3)))

    return loss


@given(st.integers(1, 4), st.integers(1, 3))
def test_sobol_fills_every_cell_once(exponent, dimensions) -> None:
    count = 2**exponent
    points = sobol(count, dimensions)
    for k in range(dimensions):
        assert sorted(int(p[k] * count) for p in points) == list(range(count))
        assert all(0 < p[k] < 1 for p in points)


def test_further_points_are_new_ones() -> None:
    first, more = sobol(8, 2), sobol(5, 2, start=8)
    assert len({*first, *more}) == 13
    assert sobol(13, 2, start=0) != first + more  # cells of their own size each, see the docstring


def test_every_optimizer_gets_the_same_points_of_its_own_space() -> None:
    study = studyfile.parse(MINI, "mini")
    plan = stages.plan(study, fingerprints(study), {})
    positions = {}
    for name in study.optimizers:
        space = study.optimizer(name).space["lr"]
        lrs = [t.spec.optimizer.lr for t in by_role(plan, "tune", name) if t.task == "one"]
        assert len(lrs) == study.tuning.trials
        positions[name] = [space.position(lr) for lr in lrs]
    for points in positions.values():
        assert points == pytest.approx(positions["adamomentum"], abs=2e-3)  # settings are rounded to 3 digits


def test_stages_open_one_after_the_other() -> None:
    study = studyfile.parse(MINI, "mini")
    results = {}
    plan = stages.plan(study, fingerprints(study), results)
    assert by_role(plan, "tune") and by_role(plan, "default")
    assert not by_role(plan, "final") and {"final", "control", "sensitivity"} <= {role for role, _, _ in plan.open}
    plan, results = run_to_the_end(study, bowl({}))
    assert not plan.open
    for role, per in (("final", study.final.seeds), ("default", study.default.seeds)):
        for name in study.optimizers:
            if role == "default" and study.optimizers[name].control:
                assert not by_role(plan, role, name)
                continue
            for task in study.tasks:
                mine = [t for t in by_role(plan, role, name) if t.task == task.name]
                assert sorted(t.spec.replicate for t in mine) == list(range(per))
    assert all(t.spec.trial_id in results for t in plan.trials)


def test_choice_is_the_best_of_validation_and_never_sees_the_test() -> None:
    study = studyfile.parse(MINI, "mini")
    plan, _results = run_to_the_end(study, bowl({"adamw": 3e-3, "sgdm": 0.3, "adamomentum": 7e-4}))
    for name, best in (("adamw", 3e-3), ("sgdm", 0.3), ("adamomentum", 7e-4)):
        choice = plan.choices["one", name]
        tried = {t.spec.optimizer.lr for t in by_role(plan, "tune", name) if t.task == "one"}
        assert choice.setting["lr"] == min(tried, key=lambda lr: abs(math.log(lr / best)))
        assert not choice.edges
    assert all(t.spec.stage == "tune" for t in by_role(plan, "tune"))
    assert all(t.spec.stage == "final" for t in plan.trials if t.role != "tune")


@pytest.mark.parametrize(
    ("inside", "edge", "after"), [(0.095, -1, -1), (0.105, 0, -1), (0.135, 0, 0), (0.895, 0, 0), (0.905, 1, 0)]
)
def test_the_outer_tenth_of_what_was_tried_is_an_edge(inside, edge, after) -> None:
    """Not only the outermost point: here others lie further out on both sides."""
    study = studyfile.parse(MINI, "mini")
    planner = stages._Planner(study, fingerprints(study), {}, "cpu")
    space = study.optimizer("adamw").space["lr"]
    points = [{"lr": space.at(u)} for u in (0.02, 0.5, 0.98)]
    assert planner.side(study.tasks[0], "adamw", "lr", {"lr": space.at(inside)}, points) == edge
    assert planner.side(study.tasks[0], "adamw", "lr", points[0], points) == -1
    # What was tried beyond the range moves its end, and makes its tenth larger.
    further = [*points, {"lr": space.at(1.3)}]
    assert planner.side(study.tasks[0], "adamw", "lr", {"lr": space.at(inside)}, further) == after


def test_an_edge_extends_the_search_for_all_alike_and_stays_flagged_if_it_moves_along() -> None:
    study = studyfile.parse(MINI, "mini")
    plan, _ = run_to_the_end(study, bowl({"adamw": 1e3, "sgdm": 0.3}))
    counts = {n: len({t.point for t in by_role(plan, "tune", n) if t.task == "one"}) for n in study.optimizers}
    assert set(counts.values()) == {study.tuning.trials + study.tuning.extension}
    assert plan.choices["one", "adamw"].edges == ("lr",)
    assert plan.choices["one", "sgdm"].edges == ()
    high = study.optimizer("adamw").space["lr"].high
    beyond = [t.spec.optimizer.lr for t in by_role(plan, "tune", "adamw") if t.spec.optimizer.lr > high]
    assert len(beyond) == study.tuning.extension * len(study.tasks)
    inner, _ = run_to_the_end(study, bowl({"adamw": 3e-3, "sgdm": 0.3, "adamomentum": 7e-4}))
    assert len({t.point for t in by_role(inner, "tune", "adamw")}) == study.tuning.trials


def test_an_optimizer_that_never_trains_has_no_final_runs_and_stops_nobody() -> None:
    study = studyfile.parse(MINI, "mini")
    plan, _ = run_to_the_end(study, lambda t: None if t.spec.optimizer.name == "sgdm" else bowl({})(t))
    assert plan.choices["one", "sgdm"].setting is None
    assert not by_role(plan, "final", "sgdm")
    assert by_role(plan, "final", "adamw")


def test_a_failed_tuning_trial_says_nothing() -> None:
    study = studyfile.parse(MINI, "mini")
    results = {}
    plan = stages.plan(study, fingerprints(study), results)
    finish(plan, results, bowl({}))
    best = min(by_role(plan, "tune", "adamw"), key=lambda t: results[t.spec.trial_id].final["val_loss"])
    results[best.spec.trial_id] = fake_result(None, "error")
    choice = stages.plan(study, fingerprints(study), results).choices.get(("one", "adamw"))
    if choice is None:  # the extension is open
        more = stages.plan(study, fingerprints(study), results)
        finish(more, results, bowl({}))
        choice = stages.plan(study, fingerprints(study), results).choices["one", "adamw"]
    assert choice.failed == 1
    assert choice.setting["lr"] != best.spec.optimizer.lr


def test_sensitivity_passes_through_the_choice_without_running_it_twice() -> None:
    study = studyfile.parse(MINI, "mini")
    plan, _ = run_to_the_end(study, bowl({}))
    sweep = by_role(plan, "sensitivity", "adamw")
    assert sorted({t.point for t in sweep}) == [-1, 0, 1]
    middle = {t.spec.trial_id for t in sweep if t.point == 0}
    assert middle <= {t.spec.trial_id for t in by_role(plan, "final", "adamw")}
    lr = plan.choices["one", "adamw"].setting["lr"]
    up = next(t.spec.optimizer.lr for t in sweep if t.point == 1 and t.task == "one")
    assert up == pytest.approx(lr * 10**0.5, rel=1e-2)


def test_controls_take_over_a_choice_and_change_it() -> None:
    study = studyfile.parse(MINI, "mini")
    plan, _ = run_to_the_end(study, bowl({}))
    control = by_role(plan, "control", "faster")[0].spec.optimizer
    lr = plan.choices["one", "adamomentum"].setting["lr"]
    assert control.name == "adam"
    assert control.lr == pytest.approx(4.36 * lr, rel=1e-2)
    assert control.hyperparameters["eps"] == 1e-6
    # What else was chosen for the optimizer itself stays.
    searched = studyfile.parse(MINI.replace('name = "one"', 'name = "one"\ntune = ["lr", "weight_decay"]'), "mini")
    both, _ = run_to_the_end(searched, bowl({}))
    own = both.choices["one", "plain"].setting["weight_decay"]
    control = by_role(both, "control", "faster")[0].spec.optimizer
    assert control.hyperparameters["weight_decay"] == own > 0
    assert {t.task for t in by_role(plan, "control", "faster")} == {"one"}


SWAP = """
[[controls]]
name = "swap"
optimizer = "adamomentum"
setting_from = "adamw"
hyperparameters = { adjust_lr = "match_rms_adamw" }
seeds = 2
[[controls]]
name = "swap-large"
optimizer = "nadamw"
setting_from = "adamw"
lr_factor = 2.0
schedule = { name = "constant" }
budget = { steps = 7, batch_size = 64 }
tasks = ["one"]
seeds = 2
[[controls]]
name = "adamw-large"
optimizer = "adamw"
lr_factor = 2.0
schedule = { name = "constant" }
budget = { steps = 7, batch_size = 64 }
tasks = ["one"]
seeds = 2
"""


def swapped(text=MINI):
    return studyfile.parse(
        text.replace("[[tasks]]", f"{SWAP}[[tasks]]", 1).replace(
            'name = "one"', 'name = "one"\ntune = ["lr", "weight_decay"]\nhyperparameters = { betas = [0.8, 0.99] }'
        ),
        "mini",
    )


def test_a_control_at_the_setting_of_another_takes_all_that_means_the_same() -> None:
    study = swapped()
    plan, _ = run_to_the_end(study, bowl({}))
    for name, factor in (("swap", 1.0), ("swap-large", 2.0), ("adamw-large", 2.0)):
        spec, other = (by_role(plan, *of)[0].spec for of in (("control", name), ("final", "adamw")))
        mine, theirs = spec.optimizer, other.optimizer
        assert mine.lr == pytest.approx(factor * theirs.lr, rel=1e-2)
        assert mine.hyperparameters["betas"] == theirs.hyperparameters["betas"] == (0.8, 0.99)
        assert mine.hyperparameters["weight_decay"] == theirs.hyperparameters["weight_decay"]
        assert theirs.hyperparameters["weight_decay"] == plan.choices["one", "adamw"].setting["weight_decay"]
        assert spec.seed("init") == other.seed("init")
    mine = by_role(plan, "control", "swap")[0].spec.optimizer
    assert (mine.name, mine.hyperparameters["eps"]) == ("adamomentum", 1e-16)
    assert mine.hyperparameters["adjust_lr"] == "match_rms_adamw"
    # It costs no tuning: NAdamW is not even an optimizer of the study.
    assert {t.optimizer for t in by_role(plan, "tune")} == set(study.optimizers)
    assert [t.spec.replicate for t in by_role(plan, "control", "swap") if t.task == "two"] == [0, 1]


def test_a_control_may_train_on_other_batches_and_has_a_twin_that_does() -> None:
    study = swapped()
    plan, _ = run_to_the_end(study, bowl({}))
    for name in ("swap-large", "adamw-large"):
        for t in by_role(plan, "control", name):
            assert (t.task, t.spec.budget.steps, t.spec.budget.batch_size) == ("one", 7, 64)
            assert t.spec.schedule.name == "constant"
    control = {c.name: c for c in study.controls}
    assert stages.beside(study, control["swap"]) == "adamw"
    assert stages.beside(study, control["swap-large"]) == "adamw-large"
    alone = study.model_copy(update={"controls": (control["swap-large"],)})
    assert stages.beside(alone, control["swap-large"]) == ""
    assert [c.name for c in stages.swapped(study)] == ["swap"]
    assert {c.budget.steps for c in study.smoked().controls if c.budget} == {2}


def test_a_control_is_swept_around_the_rate_that_it_runs_at() -> None:
    study = swapped(MINI.replace("[sensitivity]", '[sensitivity]\ncontrols = ["swap-large"]'))
    assert study.sensitivity.controls == ("swap-large",)
    before = stages.plan(study, fingerprints(study), {})
    assert before.open["sensitivity", "one", "swap-large"] == 3 * study.sensitivity.seeds
    assert not before.open["sensitivity", "two", "swap-large"]
    plan, _ = run_to_the_end(study, bowl({}))
    sweep, control = by_role(plan, "sensitivity", "swap-large"), by_role(plan, "control", "swap-large")
    lr = control[0].spec.optimizer.lr
    rates = {t.point: t.spec.optimizer.lr for t in sweep}
    assert rates == pytest.approx({k: lr * 10 ** (k / 2) for k in (-1, 0, 1)}, rel=1e-2)
    assert {t.spec.budget.batch_size for t in sweep} == {64}
    assert {t.spec.trial_id for t in sweep if t.point == 0} <= {t.spec.trial_id for t in control}


def test_what_a_study_plans_of_old_does_not_depend_on_its_new_controls() -> None:
    """That the kept trials are still those of ``paper-mini`` is in ``test_results``."""
    old, new = studyfile.parse(MINI, "mini"), studyfile.parse(f"{MINI}{SWAP}", "mini")
    (plan, _), (more, _) = run_to_the_end(old, bowl({})), run_to_the_end(new, bowl({}))
    assert plan.by_id.keys() < more.by_id.keys()


def test_baselines_run_before_the_reference_whose_target_they_set() -> None:
    study = studyfile.parse(MINI, "mini")
    plan, _ = run_to_the_end(study, bowl({}))
    final = [t.optimizer for t in by_role(plan, "final") if t.task == "one"]
    assert max(k for k, n in enumerate(final) if n in study.baselines) < final.index("adamomentum")


def test_what_an_optimizer_lacks_is_an_error_with_its_name() -> None:
    study = studyfile.parse(MINI.replace("eps = 1e-6", "epsilon = 1e-6"), "mini")
    with pytest.raises(ValueError, match="epsilon"):
        run_to_the_end(study, bowl({}))


def test_the_plan_depends_on_data_and_device() -> None:
    study = studyfile.parse(MINI, "mini")
    ids = {t.spec.trial_id for t in stages.plan(study, fingerprints(study), {}).trials}
    other = {t.spec.trial_id for t in stages.plan(study, dict.fromkeys(fingerprints(study), "f" * 16), {}).trials}
    cuda = {t.spec.trial_id for t in stages.plan(study, fingerprints(study), {}, "cuda").trials}
    assert not ids & other
    assert not ids & cuda


# Stored trials and registered studies are found by these values: a change orphans every store out there.
PINNED = {
    "gpt-mini": ("dfae3941ba0bcd9d", "05abd12f77c75f8b", "a3d2d8102fc64e95"),
    "paper-cifar": ("7faf61541a015c37", "808434a4d482d1ec", "2b529c1f2d79f5b9"),
    "paper-gan": ("7b028a1fdd04dbdb", "9d533200c3d966a8", "52649e7193e92429"),
    "paper-imagenet": ("d84744e43d76f168", "b0eb5eadfac7edcd", "917d1a3e65737d05"),
    "paper-iwslt": ("73aacc8c2a23d744", "15f21fad7422547b", "049b11057281b143"),
    "paper-mini": ("3b5dc3f7d37fbe62", "2d6d9ecd8e91666c", "ea489da2bc08f0eb"),
    "paper-ptb": ("ca9849a92cda720c", "3932de2a55dc3b93", "b9fb239af4a55fed"),
}


@pytest.mark.parametrize("name", PINNED)
def test_the_hashes_of_what_comes_along_are_those_of_old(name) -> None:
    """Of the study, and of the first trial of its first and of its last pair of task and optimizer."""
    study = studyfile.read(name)
    first: dict[tuple[str, str], str] = {}
    for t in stages.plan(study, fingerprints(study), {}).trials:
        first.setdefault((t.task, t.optimizer), t.spec.trial_id)
    ids = list(first.values())
    assert (study.hash, ids[0], ids[-1]) == PINNED[name]


OWN = """
name = "own"
[optimizers]
adamomentum = {}
[optimizers.lion]
base = "my_package.optim:Lion"
default_lr = 1e-4
hyperparameters = { betas = [0.9, 0.99] }
space = { lr = { low = 1e-5, high = 1e-2 } }
[[tasks]]
name = "digits"
family = "image-classification"
params = { data = "mnist5k" }
budget = { epochs = 10, batch_size = 64, evaluations = 10 }
"""


def test_the_hashes_of_an_own_optimizer_are_those_of_old() -> None:
    study = studyfile.parse(OWN, "own")
    trials = stages.plan(study, {"digits": "0" * 16}, {}).trials
    assert study.hash == "be29ca034ea75f50"
    assert next(t.spec.trial_id for t in trials if t.optimizer == "lion") == "8053a6668cf47c5e"


FORMS = """
[optimizers.adamw-eps]
base = "adamw"
hyperparameters = { eps = 1e-3 }
form_of = "adamw"

[optimizers.adamw-99]
base = "adamw"
hyperparameters = { betas = [0.9, 0.99] }
form_of = "adamw"
"""


def with_forms(changes=("", "")):
    """The small study with three forms of AdamW."""
    head, tasks_ = MINI.split("[[tasks]]", 1)
    return studyfile.parse((head + FORMS + "[[tasks]]" + tasks_).replace(*changes), "forms")


def form_loss(losses):
    """Validation losses by form and task, over a bowl that all share."""
    bowl_of_all = bowl({})

    def loss(t):
        return losses.get((t.optimizer, t.task), losses.get(t.optimizer, 1.0)) * bowl_of_all(t)

    return loss


def test_the_form_that_is_best_over_all_tasks_stands_for_its_optimizer() -> None:
    study = with_forms()
    # Better on one task by a half, worse on another by a third: by the product 0.5 * 1.5 it is ahead.
    tasks_ = [t.name for t in study.tasks]
    losses = {("adamw-eps", name): 1.0 for name in tasks_} | {
        ("adamw-eps", tasks_[0]): 0.5,
        ("adamw-eps", tasks_[1]): 1.5,
        "adamw-99": 1.01,
    }
    plan, _ = run_to_the_end(study, form_loss(losses))
    choice = plan.forms["adamw"]
    assert choice.chosen == "adamw-eps"
    ratio = choice.scores["adamw-eps"] / choice.scores["adamw"]
    assert ratio == pytest.approx(0.75 ** (1 / len(tasks_)))
    assert {"adamw", "adamw-99"} & plan.study.optimizers.keys() == set()
    assert {t.optimizer for t in by_role(plan, "final")} == plan.study.optimizers.keys()
    tuned = {name: len(by_role(plan, "tune", name)) for name in ("adamw", "adamw-eps", "adamw-99", "adamomentum")}
    assert len(set(tuned.values())) == 1  # every form as many trials as any optimizer


def test_of_equal_forms_the_optimizer_as_it_is_stands() -> None:
    plan, _ = run_to_the_end(with_forms(), form_loss({}))
    assert plan.forms["adamw"].chosen == "adamw"
    assert list(plan.study.optimizers) == list(studyfile.parse(MINI, "mini").optimizers)


def test_a_form_that_no_setting_trains_on_a_task_does_not_stand() -> None:
    study = with_forms()
    losses = {"adamw-99": 0.1, ("adamw-99", study.tasks[0].name): math.inf, "adamw": 2.0, "adamw-eps": 1.5}
    plan, _ = run_to_the_end(study, form_loss(losses))
    assert plan.forms["adamw"].chosen == "adamw-eps" and plan.forms["adamw"].scores["adamw-99"] == math.inf


def test_nothing_is_judged_before_forms_are_chosen_on_all_tasks() -> None:
    study = with_forms()
    results = {}
    plan = stages.plan(study, fingerprints(study), results)
    last = study.tasks[-1].name
    while any(t.task != last and t.spec.trial_id not in results for t in plan.trials):
        for t in plan.trials:
            if t.task != last:
                results[t.spec.trial_id] = fake_result(1.0)
        plan = stages.plan(study, fingerprints(study), results)
    assert {t.role for t in plan.trials} == {"tune"} and not plan.forms
    assert plan.open["final", "one", "adamw"] == study.final.seeds and plan.study == study
    one = study.only(("one",))
    plan, _ = run_to_the_end_of_tuning(one)
    assert {t.task for t in plan.trials} == {"one"} and {t.role for t in plan.trials} == {"tune"} and not plan.forms
    assert plan.choices.keys() == {("one", name) for name in study.optimizers}
    assert plan.open["final", "one", "adamw"] == study.final.seeds


def test_the_reference_and_sweeps_follow_their_form() -> None:
    study = with_forms(('name = "mini"', 'name = "mini"\nreference = "adamw"'))
    plan, _ = run_to_the_end(study, form_loss({"adamw-99": 0.5}))
    assert plan.study.reference == "adamw-99"
    assert plan.study.sensitivity.optimizers == tuple(
        "adamw-99" if name == "adamw" else name for name in study.sensitivity.optimizers
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('form_of = "adamw"', 'form_of = "adamax"', "form_of names 'adamax', which is not in the study"),
        ('form_of = "adamw"\n\n[o', 'form_of = "adamw-99"\n\n[o', "must name an optimizer that is no form itself"),
        ('form_of = "adamw"', 'control = true\nform_of = "adamw"', "must be controls together, or none of them"),
    ],
)
def test_a_form_is_of_an_optimizer_of_the_study(old, new, message) -> None:
    with pytest.raises(studyfile.StudyError, match=message):
        with_forms((old, new))


def test_final_seeds_may_begin_later() -> None:
    study = studyfile.parse(MINI.replace("[final]\nseeds = ", "[final]\nfirst = 10\nseeds = "), "later")
    plan, _ = run_to_the_end(study, bowl({}))
    assert {t.spec.replicate for t in by_role(plan, "final")} == set(range(10, 10 + study.final.seeds))
    assert studyfile.parse(MINI, "mini").hash != study.hash
