"""``adamomentum study`` as a user types it."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from study.arrays import make_arrays
from study.mini import MINI, fingerprints
from typer.testing import CliRunner

from adamomentum.study import commands
from adamomentum.study.commands import app
from adamomentum.study.stages import plan
from adamomentum.study.studyfile import parse, read

runner = CliRunner()


def call(*arguments, code=0):
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A study file, its data and its folder, run to the end by the command."""
    folder = tmp_path_factory.mktemp("study")
    x, y = make_arrays()
    np.savez(folder / "tiny.npz", x=x, y=y)
    (folder / "mini.toml").write_text(MINI)
    study, out = folder / "mini.toml", folder / "out"
    printed = call("run", study, "--data", f"folder={folder / 'tiny.npz'}", "--out", out, "--workers", 2)
    assert "Report:" in printed
    # The numbers, not only where they are.
    assert "one: test split, mean ± 95 % interval over up to 3 runs" in printed
    assert printed.index("two: AdaMomentum - AdamW, accuracy: ") < printed.index("Report:")
    return study, folder / "tiny.npz", out


def test_init_writes_a_file_that_runs_as_it_is(tmp_path) -> None:
    path = tmp_path / "own.toml"
    call("init", "paper-mini", path)
    assert parse(path.read_text(), "own").name == "paper-mini"
    assert "exists already" in call("init", "paper-mini", path, code=1)
    assert "there are: " in call("init", "paper-maxi", tmp_path / "b.toml", code=1)


def test_plan_counts_and_touches_nothing(tmp_path) -> None:
    printed = call("plan", "paper-mini", "--out", tmp_path / "out")
    study = read("paper-mini")
    task = study.tasks[0]
    points = (task.trials or study.tuning.trials) * len(study.optimizers)
    assert re.search(rf"{task.name} .*?{points}", printed)
    assert "Left: about" in printed
    assert not (tmp_path / "out").exists()


def minutes_left(printed: str) -> float:
    hours, minutes, seconds = map(int, re.search(r"Left: about (\d+):(\d+):(\d+)", printed).groups())
    return 60 * hours + minutes + seconds / 60


def test_the_estimate_of_a_smoke_run_is_of_a_smoke_run(tmp_path) -> None:
    """A declared time for each task; the whole of ``paper-mini --smoke`` takes 5 to 6 minutes of two idle cores."""
    assert all(task.smoke.minutes for task in read("paper-mini").tasks)
    whole = call("plan", "paper-mini", "--smoke", "--out", tmp_path / "out", "--workers", 2)
    assert 4 < minutes_left(whole) < 9
    (tmp_path / "mini.toml").write_text(MINI.replace("evaluations = 1 } }", "evaluations = 1 }, minutes = 0.5 }"))
    one = call("plan", tmp_path / "mini.toml", "--smoke", "--tasks", "one", "--out", tmp_path / "out", "--workers", 1)
    smoke = parse(MINI, "mini").smoked().only(("one",))
    planned = plan(smoke, fingerprints(smoke), {})
    trials = len({t.spec.trial_id for t in planned.trials}) + sum(planned.open.values())
    assert minutes_left(one) == pytest.approx(0.5 * trials, abs=0.01)


def test_a_study_called_smoke_is_not_estimated_as_a_smoke_run(tmp_path) -> None:
    def minutes(name: str) -> float:
        (tmp_path / "own.toml").write_text(MINI.replace('name = "mini"', f'name = "{name}"'))
        return minutes_left(call("plan", tmp_path / "own.toml", "--out", tmp_path / "out", "--workers", 1))

    assert minutes("mini-smoke") == minutes("mini") > 1


def test_a_second_run_has_nothing_to_train(files) -> None:
    study, data, out = files
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("store/*/*.json")}
    printed = call("run", study, "--data", f"folder={data}", "--out", out)
    assert "trials to run now" not in printed
    assert {p: p.stat().st_mtime_ns for p in out.glob("store/*/*.json")} == stamps


def test_status_says_what_was_chosen(files) -> None:
    study, _, out = files
    printed = call("status", study, "--out", out)
    assert "Complete." in printed
    assert "AdaMomentum" in printed
    plan = call("plan", study, "--out", out)
    assert "Left: about 0:00:00" in plan


def test_show_prints_a_trial_by_its_first_digits(files) -> None:
    _, _, out = files
    path = next(out.glob("store/[0-9a-f][0-9a-f]/*.json"))
    printed = runner.invoke(app, ["show", path.stem, "--out", str(out)]).output
    assert json.loads(printed)["spec"] == json.loads(path.read_text())["spec"]
    assert "0 trials" in call("show", "nothing", "--out", out, code=1)
    assert "begin with ''" in call("show", "", "--out", out, code=1)


def test_an_export_can_be_taken_up_elsewhere_and_reported_on(files, tmp_path) -> None:
    study, data, out = files
    call("export", study, "--out", out, "--to", tmp_path / "a")
    call("export", study, "--out", out, "--to", tmp_path / "b")
    assert (tmp_path / "a" / "trials.jsonl.gz").read_bytes() == (tmp_path / "b" / "trials.jsonl.gz").read_bytes()
    trials = pd.read_parquet(tmp_path / "a" / "trials.parquet")
    assert set(trials.role) == {"tune", "default", "final", "sensitivity", "control"}
    call("import", study, tmp_path / "a", "--out", tmp_path / "new")
    before = {p.name: json.loads(p.read_text()) for p in out.glob("store/[0-9a-f][0-9a-f]/*.json")}
    after = {p.name: json.loads(p.read_text()) for p in (tmp_path / "new").glob("store/[0-9a-f][0-9a-f]/*.json")}
    assert after == before
    assert "report.html" in call("report", study, "--out", tmp_path / "new")
    printed = call("run", study, "--data", f"folder={data}", "--out", tmp_path / "new")
    assert "trials to run now" not in printed
    assert "holds no trials.jsonl.gz" in call("import", study, out, "--out", tmp_path / "c", code=1)


def test_a_limit_of_memory_reaches_the_workers(files, tmp_path, monkeypatch) -> None:
    study, data, _ = files
    seen = []

    def executor(kind, setup, *rest):
        seen.append(setup.memory)
        raise commands._Failed("enough")

    monkeypatch.setattr(commands, "_executor", executor)
    command = ("run", study, "--data", f"folder={data}", "--out", tmp_path / "out")
    call(*command, "--memory-gb", 1.5, code=1)
    call(*command, code=1)
    assert seen == [3 * 2**29, None]
    assert "0.5" in call(*command, "--memory-gb", 0.1, code=2)


def test_one_trial_alone(files, tmp_path) -> None:
    study, data, out = files
    call("export", study, "--out", out, "--to", tmp_path / "a")
    call("import", study, tmp_path / "a", "--out", tmp_path / "new")
    path = next((tmp_path / "new").glob("store/[0-9a-f][0-9a-f]/*.json"))
    kept = json.loads(path.read_text())["result"]["final"]
    stamp = path.stat().st_mtime_ns
    printed = call("trial", study, path.stem, "--data", f"folder={data}", "--out", tmp_path / "new")
    assert "is finished already" in printed
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    # What a final trial was planned from is still there, so it can be planned whatever its stage.
    printed = call("trial", study, path.stem, "--data", f"folder={data}", "--out", tmp_path / "new")
    assert f"{path.stem}: " in printed
    assert json.loads(path.read_text())["result"]["final"] == kept
    assert "can be planned now" in call("trial", study, "0" * 16, "--out", tmp_path / "new", code=1)


def test_wrong_input_is_named(files, tmp_path) -> None:
    study, data, out = files
    assert "no file nowhere.toml" in call("plan", "nowhere.toml", code=1)
    assert "no task 'three'; there are: one, two" in call("plan", study, "--tasks", "three", code=1)
    assert "NAME one of folder, got 'mnist=x'" in call("run", study, "--data", "mnist=x", "--out", out, code=1)
    assert "does not exist" in call("run", study, "--data", "folder=/nowhere", "--out", out, code=1)
    source = f"folder={data}"
    assert "allowed: local, ray" in call("run", study, "--data", source, "--executor", "slurm", "--out", out, code=1)
    assert "unknown device 'foo'; allowed: cpu, cuda, mps" in call(
        "run", study, "--data", source, "--device", "foo", "--out", out, code=1
    )
    assert "goes with --executor ray" in call("run", study, "--data", source, "--address", "x", "--out", out, code=1)
    assert "give --data folder=PATH" in call("run", study, "--out", tmp_path / "fresh", code=1)
    assert "study run" in call("status", study, "--out", tmp_path / "fresh", code=1)
    (tmp_path / "bad.toml").write_text(MINI.replace("trials = 4", "trials = 0.5"))
    assert "bad.toml: tuning.trials" in call("plan", tmp_path / "bad.toml", code=1)


def test_some_tasks_are_no_edit_of_the_study(files) -> None:
    study, data, out = files
    before = json.loads((out / "study.json").read_text())
    assert len(before["history"]) == 1
    call("run", study, "--tasks", "one", "--data", f"folder={data}", "--out", out)
    assert json.loads((out / "study.json").read_text()) == before


def test_a_damaged_history_is_no_new_one(files, tmp_path) -> None:
    study, data, out = files
    call("export", study, "--out", out, "--to", tmp_path / "a")
    call("import", study, tmp_path / "a", "--out", tmp_path / "new")
    (tmp_path / "new" / "study.json").write_text("{")
    printed = call("run", study, "--data", f"folder={data}", "--out", tmp_path / "new", code=1)
    assert "study.json, which holds the earlier versions of the study, cannot be read" in printed
    assert (tmp_path / "new" / "study.json").read_text() == "{"


def test_a_cut_off_export_is_named(files, tmp_path) -> None:
    study, _, out = files
    call("export", study, "--out", out, "--to", tmp_path / "a")
    whole = (tmp_path / "a" / "trials.jsonl.gz").read_bytes()
    (tmp_path / "a" / "trials.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut off" in call("import", study, tmp_path / "a", "--out", tmp_path / "new", code=1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('params = { data = "folder" }', 'params = { data = "folder", modle = "x" }', "tasks.one: .*modle"),
        ('name = "one"', 'name = "one"\ntune = ["weight_decay"]', "tasks.0.tune: lr must be among what is searched"),
        ('name = "one"', 'name = "one"\ntune = ["lr", "learning_rate"]', "names 'learning_rate', which no optimizer"),
    ],
)
def test_mistakes_in_a_study_file(files, tmp_path, old, new, message) -> None:
    _, data, _ = files
    (tmp_path / "bad.toml").write_text(MINI.replace(old, new, 1))
    printed = call("run", tmp_path / "bad.toml", "--data", f"folder={data}", "--out", tmp_path / "out", code=1)
    assert re.search(message, printed), printed
    assert not list((tmp_path / "out").glob("store/*/*.json"))


def test_a_file_that_is_not_utf_8(tmp_path) -> None:
    (tmp_path / "bad.toml").write_bytes(MINI.encode("utf-16"))
    assert "is not UTF-8" in call("plan", tmp_path / "bad.toml", code=1)


@pytest.mark.slow
def test_an_untuned_study_is_judged_at_published_settings(files, tmp_path) -> None:
    _, data, _ = files
    text = re.sub(r"trials = 4\nextension = 2", "trials = 0", MINI)
    (tmp_path / "untuned.toml").write_text(text)
    out = tmp_path / "out"
    call("run", tmp_path / "untuned.toml", "--data", f"folder={data}", "--out", out, "--workers", 2)
    page = (out / "report" / "report.html").read_text()
    assert "nothing was tuned: each had 3 runs at the setting published for it" in page
    assert "Nothing can be said yet" not in page
    assert list((out / "report" / "figures").glob("*.svg"))


def test_doctor_names_what_is_missing(tmp_path) -> None:
    (tmp_path / "mini.toml").write_text(MINI)
    printed = call("doctor", tmp_path / "mini.toml", code=1)
    assert "scipy" in printed
    assert "give --data folder=PATH" in printed
