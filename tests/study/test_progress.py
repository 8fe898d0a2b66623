"""How a run gets on: bars in a terminal, else a line now and then."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console
from study.mini import MINI, fake_result, fingerprints
from study.standings import of

from adamomentum.study import progress, stages
from adamomentum.study.engine import Round
from adamomentum.study.progress import Watch
from adamomentum.study.studyfile import Study, parse

STUDY = parse(MINI, "mini")
SWAPPED = parse(MINI.replace("adamw = {}\nsgdm = {}", "sgdm = { grid = [0.1] }\nadamw = {}"), "mini")


def planned(study: Study, count: int) -> tuple[Round, list[stages.Planned]]:
    """A round of ``study`` of which nothing is done, and the trials of it that end first."""
    plan = stages.plan(study, fingerprints(study), {})
    missing = {t.spec.trial_id: t for t in plan.trials}
    return Round(plan, {}, missing), list(missing.values())[:count]


def ends(watch: Watch, now: Round, trial: stages.Planned, result) -> None:
    now.results[trial.spec.trial_id] = result
    watch.on_trial(trial, result)


def wait_for(console: Console, until: str) -> None:
    """Waits until something was said."""
    deadline = time.monotonic() + 60
    while not re.search(until, console.file.getvalue()):
        assert time.monotonic() < deadline, console.file.getvalue()
        time.sleep(0.005)


def test_a_log_has_a_line_where_something_ended_and_one_now_and_then_in_a_silence(monkeypatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.01)
    monkeypatch.setattr(progress, "SILENCE", 3600.0)
    console = Console(file=io.StringIO(), width=200)
    study = STUDY.only(("one",))
    now, (first, second) = planned(study, 2)
    watch = Watch(study, 2, console)
    total = len(now.missing) + now.plan.open.total()
    with watch:
        time.sleep(0.05)  # what is to be done is not known yet
        watch.on_round(now)
        wait_for(console, "0 of ")
        ends(watch, now, first, fake_result(0.5))
        wait_for(console, "1 of ")
        time.sleep(0.1)  # nothing ends: nothing is said
        monkeypatch.setattr(progress, "SILENCE", 0.0)
        wait_for(console, "1 of .*\n.*1 of ")
        monkeypatch.setattr(progress, "SILENCE", 3600.0)
        ends(watch, now, second, fake_result(None))
        wait_for(console, "2 of ")
    ended = console.file.getvalue()
    time.sleep(0.05)
    assert console.file.getvalue() == ended
    said = ended.splitlines()
    assert said[0] == f"{len(now.missing)} trials to run now, up to {now.plan.open.total()} more after them"
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in said[1:]]
    assert lines[0] == f"0 of {total} trials"
    # Each trial took two seconds, and two run at a time.
    assert re.fullmatch(rf"1 of {total} trials, about 0:0\d:\d\d left; AdaMomentum, tune: lr [\d.]+, ok", lines[1])
    assert re.fullmatch(rf"2 of {total} trials, about 0:0\d:\d\d left; \w+, tune: lr [\d.]+, diverged", lines[-1])
    assert all(line.startswith("1 of ") for line in lines[1:-1])
    assert watch.trained == 2
    assert watch.place == f"2 of {total}"


def test_in_a_silence_a_log_says_how_far_the_running_trials_are(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.01)
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    console = Console(file=io.StringIO(), width=200)
    now, (first, second) = planned(STUDY, 2)
    of(tmp_path, first.spec.trial_id, step=512, steps=1000)
    of(tmp_path, second.spec.trial_id, step=7, steps=None)
    of(tmp_path, "f" * 16)
    with Watch(STUDY, 2, console, tmp_path) as watch:
        watch.on_round(now)
        wait_for(console, "running: ")
    [line, *_] = [line for line in console.file.getvalue().splitlines() if "running: " in line]
    steps = {first.spec.trial_id: "512 of 1000", second.spec.trial_id: "7"}
    labels = {t.spec.trial_id: stages.label(STUDY, t.optimizer) for t in (first, second)}
    said = [f"one, {labels[key]}, tune at step {steps[key]}" for key in sorted(steps)]
    assert line.endswith(f" trials; running: {'; '.join(said)}")


@pytest.mark.parametrize(
    ("whole", "names", "bars"),
    [
        (STUDY, ("one",), ["AdaMomentum", "AdamW", "SGD + momentum", "Adam", "faster"]),
        # The bars stand as the study has them, though SGD, which is not tuned, runs last.
        (SWAPPED, ("one",), ["AdaMomentum", "SGD + momentum", "AdamW", "Adam", "faster"]),
        (STUDY, ("one", "two"), ["one", "two"]),
    ],
)
def test_a_terminal_has_a_bar_an_optimizer_or_a_task(whole, names, bars) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    study = whole.only(names)
    now, (first,) = planned(study, 1)
    watch = Watch(study, 1, console)
    with watch:
        watch.on_round(now)
        ends(watch, now, first, fake_result(0.5))
    shown = {task.description: task for task in watch.progress.tasks}
    assert list(shown) == bars
    total = sum(task.total for task in shown.values())
    assert total == len(now.missing) + now.plan.open.total()
    done = shown[bars[0]]
    assert done.completed == 1
    assert (
        done.fields["state"]
        == ("" if len(names) == 1 else "AdaMomentum, ") + f"tune: lr {first.spec.optimizer.lr:g}, ok"
    )
    assert sum(task.completed for task in shown.values()) == 1
    assert f"1/{done.total}" in console.file.getvalue()
    assert " trials, " not in console.file.getvalue()


def test_what_was_kept_counts_as_done(monkeypatch) -> None:
    study = STUDY.only(("two",))
    now, kept = planned(study, 3)
    for t in kept:
        now.results[t.spec.trial_id] = fake_result(0.5)
        del now.missing[t.spec.trial_id]
    watch = Watch(study, 1, Console(file=io.StringIO(), force_terminal=True))
    watch.on_round(now)
    assert (watch.kept, watch.trained) == (3, 0)
    assert watch.place.startswith("3 of ")
    assert sum(task.completed for task in watch.progress.tasks) == 3
