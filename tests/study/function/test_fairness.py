"""What several trials of a user's function show: what ends the study, and what its report must say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from study.function.functions import PLAIN, STUDY, changed, compared

from adamomentum.study import archive
from adamomentum.study.engine import Folder
from adamomentum.study.fairness import own_part
from adamomentum.study.report.tables import build
from adamomentum.study.results import gather, notes
from adamomentum.study.studyfile import StudyError, parse

REPORT = "trial.report(loss=loss(slice(200, 250)), error=1 - loss(slice(200, 250)))"
SCHEDULE = "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 5)"
REPEATS = "the function gives the same numbers to the last bit under the same seed"


def rate_set(group: int, lr: float) -> tuple[str, str]:
    """The change by which the loop sets a group's learning rate before each step."""
    return "optimizer.step()", f"optimizer.param_groups[{group}]['lr'] = {lr}; optimizer.step()"


def said(folder) -> str:
    return "\n".join(notes(gather(folder), "task"))


def test_a_fair_function_is_planned_chosen_repeated_and_resumed(tmp_path) -> None:
    folder, ran = compared(tmp_path)
    plan, results = folder.results()
    assert [t.role for t in plan.trials] == [
        "tune",
        "repeat",
        "tune",
        "tune",
        "tune",
        "final",
        "final",
        "final",
        "final",
    ]
    assert plan.trials[1].spec == plan.trials[0].spec.model_copy(update={"repeat": 1})
    assert len(ran) == len(results) == 9
    assert REPEATS in said(folder)
    assert len(said(folder).splitlines()) == 1
    for spec in ran:
        assert (spec.budget, spec.schedule) == (None, None)
        if spec.stage == "tune":
            assert not [key for key in results[spec.trial_id].final if key.startswith("test")]
    assert compared(tmp_path)[1] == []


def test_an_edit_makes_new_trials_and_keeps_the_old(tmp_path) -> None:
    _, first = compared(tmp_path)
    _, second = compared(tmp_path, PLAIN + "\n# the same but for a comment\n")
    assert len(second) == len(first) == 9
    assert not {spec.trial_id for spec in first} & {spec.trial_id for spec in second}
    assert compared(tmp_path)[1] == []
    _, third = compared(tmp_path, PLAIN, STUDY.replace("width = 4", "width = 5"))
    assert not {spec.trial_id for spec in first} & {spec.trial_id for spec in third}


def test_an_edit_while_trials_run_ends_the_study_at_the_first_that_it_would_spoil(tmp_path) -> None:
    (tmp_path / "helper.py").write_text("K = 1\n")
    edit = f"__import__('pathlib').Path({str(tmp_path / 'helper.py')!r}).write_text('K = 22'); {REPORT}"
    with pytest.raises(
        StudyError, match=r"^task: .*helper.py: changed since the trial was planned, so its result would"
    ):
        compared(tmp_path, changed((REPORT, edit), ("import torch\n", "import torch, helper\n")))
    assert len(list((tmp_path / "out" / "store" / "failed").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("lines", "said", "place"),
    [
        ("import nowhere.part", r"ModuleNotFoundError: .*\nThere is no module 'nowhere' for .*: install it there$", 1),
        ("from .net import Net", r"ImportError: .*\n.* is no package without an __init__.py: add one, or import wi", 1),
        ("from math import sinus", r"ImportError: cannot import name 'sinus' from 'math' \(.*\)$", 1),
        ("import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--data', required=True)\n"
         "parser.parse_args()", r"SystemExit: 2\nIt left by sys.exit. If it reads a command line: .* --arg sets", 4),
        ("open('nowhere.txt')", r"FileNotFoundError: .*\nWhat it does when it is run as a program goes below", 1),
    ],
)  # fmt: skip
def test_a_script_that_cannot_be_imported_says_where_and_what_to_do(tmp_path, lines, said, place) -> None:
    with pytest.raises(StudyError, match=said) as caught:
        compared(tmp_path, f"{lines}\n{PLAIN}")
    assert f'File "{tmp_path / "my_train.py"}", line {place}' in str(caught.value)
    assert ("__main__" in str(caught.value)) == ("Import" not in said and "Module" not in said)


def test_a_module_beside_a_script_that_is_one_of_a_package(tmp_path) -> None:
    for name, content in (("__init__", ""), ("names", ""), ("helper", "")):
        (tmp_path / f"{name}.py").write_text(content)
    package = tmp_path.name
    with pytest.raises(StudyError, match=rf"helper lies beside the script.*: write `from {package} import helper`$"):
        compared(tmp_path, f"from . import names\nimport helper\n{PLAIN}")


def test_a_script_that_reads_a_command_line_has_its_defaults(tmp_path) -> None:
    parse = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--size', type=int, default=8)\n"
    folder, ran = compared(
        tmp_path, f"{parse}SIZE = parser.parse_args().size\n" + PLAIN.replace("width=8", "width=SIZE")
    )
    assert len(ran) == 9
    assert not list(folder.store.failures())


def test_settings_are_chosen_by_what_the_task_says_and_its_direction(tmp_path) -> None:
    chosen = {}
    for better in ("lower", "higher"):
        metrics = f'{STUDY}metrics = [{{ key = "error", better = "{better}" }}, {{ key = "loss", better = "lower" }}]\n'
        folder, _ = compared(tmp_path, study=metrics)
        results = gather(folder)
        for name in ("adamomentum", "adamw"):
            mine = results.runs["tune", "task", name]
            best = mine["val_error"].idxmax() if better == "higher" else mine["val_error"].idxmin()
            choice = results.choices["task", name]
            assert choice.setting == {"lr": mine["lr"][best]}
            assert choice.score == pytest.approx(mine["val_error"][best])
            chosen[better, name] = choice.setting["lr"]
    assert chosen["lower", "adamw"] != chosen["higher", "adamw"]


def test_a_scheduler_with_a_rate_of_its_own_ends_the_study(tmp_path) -> None:
    one_cycle = "torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, total_steps=epochs * 5 + 1)"
    for text, peak in ((changed((SCHEDULE, one_cycle)), "0.029"), (changed(rate_set(0, 1e-3)), "0.001")):
        with pytest.raises(StudyError) as caught:
            compared(tmp_path, text)
        message = str(caught.value)
        assert re.match(
            r"task: at the trials' learning rates [\d.e-]+ and [\d.e-]+ the largest rate of a step was ", message
        )
        assert f"was {peak}" in message
        assert "both times: a scheduler, or the loop, sets a number of its own" in message
        assert "OneCycleLR(optimizer, max_lr=trial.lr)" in message
    with pytest.raises(StudyError):  # what is kept says it again, without a further trial
        compared(tmp_path, text)


@pytest.mark.parametrize(
    "schedule",
    [
        "torch.optim.lr_scheduler.OneCycleLR(optimizer, trial.lr, total_steps=epochs * 5 + 1)",
        "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 5, eta_min=1e-6)",
        "torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 4))",
        "torch.optim.lr_scheduler.ConstantLR(optimizer)",
    ],
)
def test_schedulers_that_work_from_the_trials_rate(tmp_path, schedule) -> None:
    folder, _ = compared(tmp_path, changed((SCHEDULE, schedule)))
    assert said(folder).startswith(REPEATS)


def test_settings_that_the_script_changes_for_one_optimizer_alone(tmp_path) -> None:
    own = "optimizer.param_groups[0]['betas'] = (0.5, 0.9); optimizer.step()"
    text = changed(
        ("optimizer.step()", f"if isinstance(optimizer, torch.optim.AdamW): {own}\n            else: optimizer.step()")
    )
    folder, _ = compared(tmp_path, text)
    assert (
        "betas of AdamW were not the trial's in some steps, and those of AdaMomentum were in all: the script"
        in said(folder)
    )


def test_settings_that_are_changed_for_all_alike(tmp_path) -> None:
    """OneCycleLR cycles betas or momentum, whichever an optimizer has."""
    one_cycle = "torch.optim.lr_scheduler.OneCycleLR(optimizer, trial.lr, total_steps=epochs * 5 + 1)"
    folder, _ = compared(tmp_path, changed((SCHEDULE, one_cycle)), STUDY.replace("[[tasks", "sgdm = {}\n[[tasks"))
    _, results = folder.results()
    assert all(result.final["changed_betas"] > 0 for result in results.values())
    assert "were not the trial's" not in said(folder)


def test_one_group_at_a_rate_of_its_own(tmp_path) -> None:
    text = changed(
        ("trial.optimizer(model.parameters())", "trial.optimizer([{'params': [p]} for p in model.parameters()])"),
        rate_set(2, 2e-3),
    )
    with pytest.raises(StudyError, match=r"the largest rate of a step was 0.002 both times"):
        compared(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    x, y = data()", "    x, y = dato()", "NameError: name 'dato' is not defined"),
        (REPORT, "pass", "ValueError: nothing was reported: call trial.report(loss=val_loss)"),
        (REPORT, "trial.report(test_loss=1.0)", "ValueError: trial.report(test_loss=...): what is reported chooses"),
        (REPORT, "raise SystemExit(2)", "RuntimeError: the function left by sys.exit(2); it must return its test"),
    ],
)
def test_a_function_that_always_fails_is_not_tried_again_and_again(tmp_path, old, new, message) -> None:
    with pytest.raises(StudyError) as caught:
        compared(tmp_path, changed((old, new)))
    first, *lines = str(caught.value).splitlines()
    assert first == "task: the function fails, in all trials so far:"
    assert lines[-1].startswith(message)
    assert not [line for line in lines if "adamomentum/study" in line]
    assert len(list((tmp_path / "out" / "store" / "failed").iterdir())) == 1


@pytest.mark.parametrize("error", ["RuntimeError('too fast')", "SystemExit(1)"])
def test_trials_that_fail_at_high_rates_do_not_end_the_others(tmp_path, error) -> None:
    """A script that looks at its loss itself ends the first of many trials side by side."""
    text = changed((REPORT, REPORT + f"\n        if trial.lr > 1e-3: raise {error}"))
    study = STUDY.replace("trials = 2", "trials = 3").replace(
        "adamomentum = {}", "adamomentum = { grid = [1e-2, 3e-2, 1e-4] }"
    )
    folder, ran = compared(tmp_path, text, study.replace("adamw = {}", "adamw = { grid = [1e-2, 3e-2, 1e-4] }"))
    assert ran[0].optimizer.lr == 1e-2
    assert {t.spec.optimizer.lr for t in folder.results()[0].trials if t.role == "final"} == {1e-4}


def test_of_a_traceback_the_users_part_is_told_and_no_heading_without_places() -> None:
    ours, theirs = (
        f'  File "{path}", line 1, in f\n    g()\n    ^^^\n' for path in ("/x/adamomentum/study/a.py", "/y/fit.py")
    )
    after = "\nThe above exception was the direct cause of the following exception:\n\n"
    heading = "Traceback (most recent call last):\n"
    exit_of = f"{heading}{ours}{theirs}SystemExit: 2\n{after}{heading}{ours}"
    assert own_part(f"{exit_of}RuntimeError: no\n") == f"{theirs}SystemExit: 2\n{after}RuntimeError: no"
    assert (
        own_part(f"{exit_of}{theirs}RuntimeError: no\n")
        == f"{theirs}SystemExit: 2\n{after}{heading}{theirs}RuntimeError: no"
    )


def test_what_a_failing_function_printed_is_where_the_message_says(tmp_path) -> None:
    """As argparse does, which prints what is wrong and leaves."""
    text = changed(
        (
            REPORT,
            "import argparse; p = argparse.ArgumentParser(); p.add_argument('--data', required=True); p.parse_args()",
        )
    )
    with pytest.raises(StudyError, match=r"the function left by sys.exit\(2\)") as caught:
        compared(tmp_path, text)
    [place] = re.findall(r"^What it printed is in (.*)$", str(caught.value), re.MULTILINE)
    assert "the following arguments are required: --data" in Path(place).read_text()


def test_one_failed_trial_does_not_hide_the_others(tmp_path) -> None:
    text = changed((REPORT, REPORT + "\n        assert trial.lr < 1e-2, 'too fast'"))
    folder, _ = compared(tmp_path, text)
    assert {result.status for result in folder.results()[1].values()} == {"ok"}
    assert list(folder.store.failures())


def test_a_metric_that_is_not_reported(tmp_path) -> None:
    metrics = STUDY + 'metrics = [{ key = "accuracy", better = "higher" }]\n'
    with pytest.raises(
        StudyError, match=r"task: 'accuracy' is to be compared, but what is reported is loss, error; name"
    ):
        compared(tmp_path, study=metrics)
    text = changed(('"error": 0.5', '"other": 0.5'))
    metrics = STUDY + 'metrics = [{ key = "error", better = "lower" }]\n'
    with pytest.raises(
        StudyError, match=r"task: 'error' is to be compared, but what is returned is loss, other; name one"
    ):
        compared(tmp_path, text, metrics)


def test_a_function_that_does_not_repeat(tmp_path) -> None:
    text = changed((REPORT, "import os; trial.report(loss=int.from_bytes(os.urandom(4), 'big') / 2**32 + 1)"))
    assert re.search(
        r"does not repeat under its seed: run twice, its first trial ended at validation loss 1\.\d+ and 1\.\d+\. ",
        said(compared(tmp_path, text)[0]),
    )


def test_optimizers_that_were_not_tuned_alike(tmp_path) -> None:
    study = STUDY.replace("adamw = {}", "adamw = { grid = [1e-3, 1e-2, 1e-1] }")
    printed = said(compared(tmp_path, study=study)[0])
    assert "not all optimizers were tuned on as many trials (AdaMomentum 2, AdamW 3), which favours" in printed


def test_a_constant_rate_where_there_is_but_one(tmp_path) -> None:
    study = STUDY.replace("{}", "{ grid = [1e-3] }")
    assert said(compared(tmp_path, study=study)[0]).startswith(REPEATS)
    text = changed((SCHEDULE, "torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, total_steps=epochs * 5 + 1)"))
    printed = said(compared(tmp_path, text, study)[0])
    assert "AdaMomentum was to train at lr 0.001, and the largest rate of a step was 0.029" in printed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "    schedule =",
            "    for group in optimizer.param_groups * (type(optimizer).__name__ == 'AdaMomentum'):\n"
            "        group['lr'] *= 1.5\n    schedule =",
            r"the largest rate of a step was 1 times the trial's in AdamW at lr [\d.]+, and 1.5 times in AdaMom",
        ),
        (
            SCHEDULE,
            "torch.optim.lr_scheduler.OneCycleLR(optimizer, min(trial.lr, 0.01), total_steps=epochs * 5 + 1)",
            r"the largest rate of a step was 0\.\d+ times the trial's in AdamW at lr 0.0144, and 0.9\d+ times in Ada",
        ),
    ],
)
def test_rates_that_are_another_part_of_the_trials(tmp_path, old, new, message) -> None:
    assert re.search(message, said(compared(tmp_path, changed((old, new)))[0]))


def test_a_function_with_a_seed_of_its_own(tmp_path) -> None:
    text = changed(("    x, y = data()\n", "    x, y = data()\n    torch.manual_seed(42)\n"))
    printed = said(compared(tmp_path, text)[0])
    assert "the 2 final runs of AdaMomentum are one and the same, so the seed decides nothing" in printed


@pytest.mark.parametrize(
    "pairs",
    [
        [("slice(200, 250)", "slice(250, 300)")],
        [("    for _ in", "    best = 9.0\n    for _ in"),
         (REPORT, f"{REPORT}; best = min(best, loss(slice(200, 250)).item())"),
         ("loss(slice(250, 300)).item()", "best")],
    ],
    ids=["the test split is reported", "the best report is returned"],
)  # fmt: skip
def test_test_metrics_that_were_read_while_tuning(tmp_path, pairs) -> None:
    text = changed(("            schedule.step()\n", ""), *pairs).replace(
        "epochs=2", "epochs=40"
    )  # the best is not the last
    printed = said(compared(tmp_path, text)[0])
    assert "loss is the same on validation and test split in each of 4 final runs, at the last report or the" in printed


def test_one_value_in_all_runs_says_nothing_of_the_splits(tmp_path) -> None:
    text = changed((REPORT, "trial.report(loss=1.0)"), ("loss(slice(250, 300)).item()", "1.0"))
    assert "the same on validation and test split" not in said(compared(tmp_path, text)[0])


def test_an_optimizer_beside_the_trials(tmp_path) -> None:
    text = changed(
        (
            "    schedule =",
            "    bias = nn.Parameter(torch.zeros(1)); other = torch.optim.SGD([bias], 0.1)\n    schedule =",
        ),
        ("            optimizer.step()", "            other.step(); optimizer.step()"),
    )
    assert "an optimizer that did not come from trial.optimizer made steps too" in said(compared(tmp_path, text)[0])


def test_why_all_runs_of_an_optimizer_diverged(tmp_path) -> None:
    text = changed((REPORT, "trial.report(loss=float('nan') if type(optimizer).__name__ == 'AdamW' else 1.0)"))
    assert "all runs of AdamW diverged, the first by: trial.report(loss=nan) at step 5" in said(
        compared(tmp_path, text)[0]
    )


def test_an_archive_says_the_same(tmp_path) -> None:
    # The trial that is run once more is best, so that its curve is kept in any case.
    first = compared(tmp_path)[0].results()[0].trials[0].spec.optimizer.lr
    folder, _ = compared(tmp_path, changed((REPORT, f"trial.report(loss=1 + abs(trial.lr - {first}))")))
    plan, results = folder.results()
    assert plan.trials[0].is_at(plan.choices["task", "adamomentum"].setting)
    archive.write(folder, tmp_path / "archive", plan, results)
    other = Folder(tmp_path / "other", folder.study)
    archive.take_up(other, tmp_path / "archive")
    assert REPEATS in said(folder)
    assert said(other) == said(folder)


def test_why_all_final_runs_diverged(tmp_path) -> None:
    text = changed(('    return {"loss": loss(slice(250, 300)).item()', '    return {"loss": float("nan")'))
    assert "all final runs of AdamW diverged, the first by: it returned loss = nan" in said(compared(tmp_path, text)[0])


def test_a_compared_metric_that_is_undefined(tmp_path) -> None:
    text = changed(('"error": 0.5', '"error": float("nan") if type(optimizer).__name__ == "AdamW" else 0.5'))
    folder, _ = compared(tmp_path, text, STUDY + 'metrics = [{ key = "error", better = "lower" }]\n')
    runs = "2 of 2 final runs of AdamW"
    assert f"error, which is compared, was not a finite number in {runs}: they count as the worst" in said(folder)
    results = gather(folder)
    assert list(results.runs["final", "task", "adamw"]["status"]) == ["ok", "ok"]
    assert build(results).comparisons[0].paired.lost_b == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("budget = { steps = 3 }", "tasks.0: budget: leave it out, the function of the family 'own' decides"),
        ('schedule = { name = "cosine" }', "tasks.0: schedule: leave it out, the function of the family 'own' decides"),
        ('precision = "bfloat16"', "tasks.0: precision: leave it out, the function of the family 'own' decides"),
        ('metrics = [{ key = "a b", better = "lower" }]', "tasks.0.metrics.0.key: String should match pattern"),
        ('metrics = [{ key = "a", better = "less" }]', "tasks.0.metrics.0.better: Input should be 'lower' or 'higher'"),
        ('metric = "accuracy"', "tasks.0: metric must be one of loss, which own has, got 'accuracy'"),
        (
            '[[controls]]\nname = "c"\noptimizer = "adamw"\nbudget = { steps = 3 }',
            "controls.c changes schedule or budget",
        ),
    ],
)
def test_what_the_function_decides_is_not_said_in_the_file(line, message) -> None:
    with pytest.raises(StudyError) as caught:
        parse(STUDY + line, "mine.toml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("family", "line", "message"),
    [
        ("image-classification", "", "tasks.0: budget: image-classification needs one, e.g. budget = { epochs = 10"),
        ("image-classification", 'budget = { steps = 3 }\nmetrics = [{ key = "a", better = "lower" }]',
         "tasks.0: metrics: for the family 'own' alone; image-classification has its own"),
    ],
)  # fmt: skip
def test_other_families_need_what_they_needed(family, line, message) -> None:
    with pytest.raises(StudyError) as caught:
        parse(STUDY.replace('family = "own"', f'family = "{family}"') + line, "mine.toml")
    assert message in str(caught.value)


def test_a_script_that_cannot_be_imported_ends_it_before_the_first_trial(tmp_path) -> None:
    for text, message in (
        ("import nothing_of_that_name\n" + PLAIN, "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        (PLAIN + "\nimport sys; sys.exit(3)\n", "SystemExit: 3"),
    ):
        with pytest.raises(StudyError, match=r"task: .*my_train.py cannot be imported:") as caught:
            compared(tmp_path, text)
        assert message in str(caught.value)
        assert not (tmp_path / "out" / "store").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def train(", "def fit(", "my_train.py has no function 'train'; it has: data, fit"),
        ("(trial, width=8,", "(trial, classes, width=8,", "missing a required argument: 'classes'; what else it needs"),
        ("(trial, width=8, epochs=2)", "()", "too many positional arguments; what else it needs"),
        ("def train(", "async def train(", "my_train.py:train is async, or yields"),
    ],
)
def test_a_script_without_a_function_that_can_train_ends_it_too(tmp_path, old, new, message) -> None:
    with pytest.raises(StudyError) as caught:
        compared(tmp_path, changed((old, new)))
    assert message in str(caught.value)
    assert "__main__" not in str(caught.value)
    assert not (tmp_path / "out" / "store").exists()
