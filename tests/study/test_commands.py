"""``adamomentum study`` as a user types it."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from study.arrays import make_arrays
from study.mini import MINI, fake_result, fingerprints, written
from study.standings import of
from typer.testing import CliRunner

from adamomentum.study import commands, running
from adamomentum.study.commands import app
from adamomentum.study.report.provenance import failed as failures
from adamomentum.study.results import gather
from adamomentum.study.stages import plan, published
from adamomentum.study.store import StoreWarning
from adamomentum.study.studyfile import parse, read
from adamomentum.study.trial import TrialResult
from adamomentum.study.work import Setup, load, run_planned

pytestmark = pytest.mark.usefixtures("unrendered")
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
    """A declared time for each task; two of the five of ``paper-mini --smoke`` took 4.5 minutes of CPU time."""
    assert all(task.smoke.minutes for task in read("paper-mini").tasks)
    whole = call("plan", "paper-mini", "--smoke", "--out", tmp_path / "out", "--workers", 2)
    assert 4 < minutes_left(whole) < 9
    (tmp_path / "mini.toml").write_text(MINI.replace("evaluations = 1 } }", "evaluations = 1 }, minutes = 0.5 }"))
    one = call("plan", tmp_path / "mini.toml", "--smoke", "--tasks", "one", "--out", tmp_path / "out", "--workers", 1)
    smoke = parse(MINI, "mini").smoked().only(("one",))
    planned = plan(smoke, fingerprints(smoke), {})
    trials = len({t.spec.trial_id for t in planned.trials}) + planned.open.total()
    assert minutes_left(one) == pytest.approx(0.5 * trials, abs=0.01)


def test_a_study_called_smoke_is_not_estimated_as_a_smoke_run(tmp_path) -> None:
    def plan(name: str) -> str:
        (tmp_path / "own.toml").write_text(MINI.replace('name = "mini"', f'name = "{name}"'))
        printed = call("plan", tmp_path / "own.toml", "--out", tmp_path / "out", "--workers", 1)
        return re.sub(rf"{name} \([0-9a-f]+\)[^\n]*", "", printed)

    assert plan("mini-smoke") == plan("mini")


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
    assert "Nothing left." in plan


def test_show_prints_a_trial_by_its_first_digits(files) -> None:
    _, _, out = files
    path = next(out.glob("store/[0-9a-f][0-9a-f]/*.json"))
    printed = runner.invoke(app, ["show", path.stem, "--out", str(out)]).output
    assert json.loads(printed)["spec"] == json.loads(path.read_text())["spec"]
    assert "0 trials" in call("show", "nothing", "--out", out, code=1)
    assert "begin with ''" in call("show", "", "--out", out, code=1)


@pytest.fixture
def unreported(monkeypatch) -> None:
    """Runs end without a report: what is in one is tested elsewhere."""
    monkeypatch.setattr(running, "write_report", lambda *_: None)


@pytest.mark.usefixtures("unreported")
def test_an_export_can_be_taken_up_elsewhere_and_reported_on(files, tmp_path) -> None:
    study, data, out = files
    call("export", study, "--out", out, "--to", tmp_path / "a")
    call("export", study, "--out", out, "--to", tmp_path / "b")
    assert (tmp_path / "a" / "trials.jsonl.xz").read_bytes() == (tmp_path / "b" / "trials.jsonl.xz").read_bytes()
    trials = pd.read_parquet(tmp_path / "a" / "trials.parquet")
    assert set(trials.role) == {"tune", "default", "final", "sensitivity", "control"}
    call("import", study, tmp_path / "a", "--out", tmp_path / "new")
    before, after = (
        {p.name: json.loads(p.read_text())["result"]["final"] for p in root.glob("store/[0-9a-f][0-9a-f]/*.json")}
        for root in (out, tmp_path / "new")
    )
    assert after == before
    assert "report.html" in call("report", study, "--out", tmp_path / "new")
    assert "report-adamw" in call("report", study, "--out", tmp_path / "new", "--reference", "adamw")
    assert "has no optimizer 'lion'" in call("report", study, "--out", out, "--reference", "lion", code=1)
    printed = call("run", study, "--data", f"folder={data}", "--out", tmp_path / "new")
    assert "trials to run now" not in printed
    assert "holds no trials.jsonl.xz" in call("import", study, out, "--out", tmp_path / "c", code=1)


def test_a_limit_of_memory_reaches_the_workers(files, tmp_path, monkeypatch) -> None:
    study, data, _ = files
    seen = []

    def executor(kind, setup, *rest):
        seen.append(setup.memory)
        raise running.Failed("enough")

    monkeypatch.setattr(commands, "executor_of", executor)
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
        "run", study, "--data", source, "--device", "foo", "--out", out, code=2
    )
    assert "goes with --executor ray" in call("run", study, "--data", source, "--address", "x", "--out", out, code=1)
    assert "give --data folder=PATH" in call("run", study, "--out", tmp_path / "fresh", code=1)
    assert "study run" in call("status", study, "--out", tmp_path / "fresh", code=1)
    (tmp_path / "bad.toml").write_text(MINI.replace("trials = 4", "trials = 0.5"))
    assert "bad.toml: tuning.trials" in call("plan", tmp_path / "bad.toml", code=1)


@pytest.mark.usefixtures("unreported")
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
    whole = (tmp_path / "a" / "trials.jsonl.xz").read_bytes()
    (tmp_path / "a" / "trials.jsonl.xz").write_bytes(whole[: len(whole) // 2])
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


def test_show_takes_no_pattern(tmp_path) -> None:
    out = written(tmp_path / "out", upto=2).root
    for text in ("*", "**", "[0-9]*", "?", "../../etc", "[", "a/b", ""):
        printed = call("show", text, "--out", out, code=1)
        assert f"{0 if text else 2} trials in {out} begin with {text!r}" in printed


def test_show_of_a_damaged_file_is_a_sentence(tmp_path) -> None:
    folder = written(tmp_path / "out", upto=2)
    cut, edited = sorted(folder.root.glob("store/??/*.json"))
    cut.write_text(cut.read_text()[:100])
    edited.write_text(edited.read_text().replace('"ms_per_step":1.0', '"ms_per_step":0.5'))
    assert f"Error: {cut} is not usable" in call("show", cut.stem, "--out", folder.root, code=1)
    printed = call("show", edited.stem, "--out", folder.root, code=1)
    assert f"Error: {edited} is not usable (its result was changed after it was written); the next run" in printed


def test_damaged_files_are_sentences_in_every_command(tmp_path) -> None:
    """A cut result, an edited one, a cut record of a failure, and one that is no text: the commands go on."""
    folder = written(tmp_path / "out")
    study = tmp_path / "mini.toml"
    study.write_text(MINI)
    plan, _ = folder.results()
    finals = [t.spec for t in plan.trials if t.role == "default"]
    cut, edited, failed, broken = (folder.store.path(spec.trial_id) for spec in finals[:4])
    cut.write_text("{")
    edited.write_text(edited.read_text().replace('"status":"ok"', '"status":"diverged"'))
    for path, spec in ((failed, finals[2]), (broken, finals[3])):
        path.unlink()
        error = TrialResult(status="error", error="Traceback\nOSError: no file Gr\udcfc\udcdfe [red]")
        folder.store.put(spec, error)
    record = folder.store.failed_path(broken.stem)
    record.write_bytes(record.read_bytes()[:30])
    for command in (("status", study), ("export", study, "--to", tmp_path / "archive"), ("plan", study)):
        printed = call(*command, "--out", folder.root)
        assert "Traceback" not in printed
        assert "store.py" not in printed  # a warning as Python shows it
        assert f"Warning: {cut} is not usable" in printed
        assert f"Warning: {edited} is not usable (its result was changed after it was written)" in printed
        assert re.search(
            rf"Warning: {record} is not usable \(.*?\); why the trial failed is not known any more", printed
        )
        if command[0] == "status":
            assert f"Failed: {failed.stem} " in printed
            assert r"OSError: no file Gr\udcfc\udcdfe [red]" in printed
    with pytest.warns(StoreWarning, match="is not usable"):
        rows = failures(folder, gather(folder))
    assert [(row["id"], row["error"]) for row in rows] == [(failed.stem, "OSError: no file Gr\udcfc\udcdfe [red]")]


def test_ids_of_open_trials_are_one_a_line_and_nothing_else(tmp_path) -> None:
    folder = written(tmp_path / "out", upto=5)
    (tmp_path / "mini.toml").write_text(MINI)
    plan, results = folder.results()
    failed = next(t for t in plan.trials if t.spec.trial_id not in results)
    folder.store.put(failed.spec, TrialResult(status="error", error="boom"))
    result = runner.invoke(app, ["plan", str(tmp_path / "mini.toml"), "--ids", "--out", str(folder.root)])
    assert result.exit_code == 0
    open_now = [t for t in plan.trials if t.spec.trial_id not in results]
    assert failed in open_now
    expected = [f"{t.spec.trial_id} {t.task} {t.role} {t.optimizer}" for t in open_now]
    assert result.stdout.splitlines() == expected
    assert f"{len(expected)} trials can be run now, up to " in result.stderr
    whole = written(tmp_path / "whole")
    result = runner.invoke(app, ["plan", str(tmp_path / "mini.toml"), "--ids", "--out", str(whole.root)])
    assert (result.stdout, result.stderr) == ("", "")


def test_json_is_all_that_is_printed(tmp_path) -> None:
    folder = written(tmp_path / "out", upto=20)
    (tmp_path / "mini.toml").write_text(MINI)
    planned, results = folder.results()
    damaged = folder.store.path(next(iter(results)))
    damaged.write_text("{")
    results.pop(damaged.stem)
    key = next(t.spec.trial_id for t in planned.trials if t.spec.trial_id not in results)
    of(folder.running, key)
    place = [str(tmp_path / "mini.toml"), "--out", str(folder.root)]
    for command in (["plan"], ["plan", "--ids"], ["status"]):
        result = runner.invoke(app, [*command, *place, "--json"])
        assert result.exit_code == 0
        assert f"Warning: {damaged} is not usable" in result.stderr.replace("\n", "")
        said = json.loads(result.stdout)
        if command == ["plan", "--ids"]:
            assert said["trials"][0]["id"] == damaged.stem
        else:
            assert sum(row["done"] for row in said["tasks"]) == len(results)
    assert [row["id"] for row in said["running"]] == [key]
    (tmp_path / "mini.toml").write_text("no study")
    result = runner.invoke(app, ["status", *place, "--json"])
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_trial_by_its_id_says_how_far_it_is_too(tmp_path, monkeypatch) -> None:
    folder, seen = written(tmp_path / "out", upto=20), []
    (tmp_path / "mini.toml").write_text(MINI)
    planned, results = folder.results()
    key = next(key for key in planned.by_id if key not in results)
    monkeypatch.setattr(commands, "run_planned", lambda spec, setup: seen.append(setup) or fake_result(0.5))
    call("trial", tmp_path / "mini.toml", key, "--out", folder.root)
    assert [setup.running for setup in seen] == [folder.running]


def test_status_shows_what_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    folder = written(tmp_path / "out", upto=20)
    (tmp_path / "mini.toml").write_text(MINI)
    assert "running" not in call("status", tmp_path / "mini.toml", "--out", folder.root)
    planned, results = folder.results()
    t = next(t for t in planned.trials if t.spec.trial_id not in results)
    curve = {"step": [3.0], "train_loss": [0.75], "val_accuracy": [0.25]}
    of(
        folder.running,
        t.spec.trial_id,
        machine="[gpu]",
        step=4,
        steps=60,
        loss=0.625,
        seconds_per_step=100.0,
        curve=curve,
    )
    printed = call("status", tmp_path / "mini.toml", "--out", folder.root)
    row = rf"{t.spec.trial_id} {t.task} \S.* {t.role} {t.spec.optimizer.lr:g} 4 of 60 0.625 25.00 % 1:33:\d\d"
    assert re.search(rf"{row} 0:00:0\d ago on \[gpu\]", printed), printed
    of(folder.running, t.spec.trial_id, steps=None, loss=None, seconds_per_step=None)
    assert re.search(
        rf"{t.spec.trial_id} .* 10 - - - 0:00:0\d ago on", call("status", tmp_path / "mini.toml", "--out", folder.root)
    )


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_where_to_log_is_checked_first(files, tmp_path, monkeypatch, name, package) -> None:
    study, data, _ = files
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    arguments = ("run", study, "--data", f"folder={data}", "--out", tmp_path / "out")
    printed = call(*arguments, "--log-to", name, code=1)
    assert f"Error: --log-to {name} needs {package}, which is not installed: pip install {name}" in printed
    assert "unknown --log-to 'paper'; allowed: tensorboard, wandb, mlflow" in call(
        *arguments, "--log-to", "paper", code=1
    )
    assert not (tmp_path / "out" / "store").exists()


def test_trials_by_their_ids_alone_make_a_folder_that_can_be_exported(tiny_npz, tmp_path) -> None:
    """As on several machines: the ids first, then trial by trial, then the export; nothing was ever ``run``."""
    text = re.sub(r"trials = 4\nextension = 2", "trials = 0", MINI.replace("seeds = 3", "seeds = 1"))
    text = text.replace('["adamw"]', "[]")
    (tmp_path / "mini.toml").write_text(text)
    out, data = tmp_path / "out", f"folder={tiny_npz}"
    arguments = [str(tmp_path / "mini.toml"), "--out", str(out), "--data", data]
    listed = runner.invoke(app, ["plan", "--ids", "--tasks", "two", *arguments]).stdout.splitlines()
    assert [line.split()[1:] for line in listed] == [["two", "final", name] for name in read_names(text)]
    key = listed[0].split()[0]
    assert f"{key}: ok, kept in" in call("trial", *arguments[:1], key, *arguments[1:])  # of both tasks: looks at "one"
    assert json.loads((out / "study.json").read_text())["history"][-1]["hash"] == parse(text, "mini").hash
    left = runner.invoke(app, ["plan", "--ids", "--tasks", "two", *arguments]).stdout.splitlines()
    assert left == listed[1:]
    assert "plan --ids" in call("trial", *arguments[:1], "0" * 16, *arguments[1:], code=1)
    assert "1 trials in" in call("export", *arguments[:3], "--to", tmp_path / "archive")
    assert "1 trials taken up" in call("import", arguments[0], tmp_path / "archive", "--out", tmp_path / "new")


def read_names(text: str) -> list[str]:
    """Baselines first, as they are planned."""
    study = parse(text, "mini")
    return sorted(study.optimizers, key=lambda name: name not in study.baselines)


def test_how_long_unknown_trials_take_is_not_guessed(tmp_path) -> None:
    study, out = tmp_path / "mini.toml", tmp_path / "out"
    study.write_text(MINI)
    printed = call("plan", study, "--out", out)
    assert re.search(
        r"Left: how long one \(\d+ trials\), two \(\d+ trials\) will take is not known until one of each", printed
    )
    study.write_text(MINI.replace('name = "one"', 'name = "one"\nminutes = 2'))
    printed = call("plan", study, "--out", out, "--workers", 1)
    assert re.search(
        r"Left: about \d:\d\d:\d\d with 1 trials at a time, .* declares; how long two \(\d+ trials\)", printed
    )
    study.write_text(MINI)
    written(out, upto=1)
    printed = call("status", study, "--out", out)
    assert re.search(r"Left: about 0:0\d:\d\d of one core; how long two \(\d+ trials\) will take is not known", printed)
    written(tmp_path / "whole")
    assert "Complete." in call("status", study, "--out", tmp_path / "whole")


OWN = """
name = "own"
[tuning]
trials = 0
[final]
seeds = 1
[optimizers]
adamomentum = {}
[optimizers.mine]
base = "beside_the_study:Mine"
default_lr = 0.1
hyperparameters = { nesterov = false }
space = { lr = { low = 1e-3, high = 1.0 } }
[[tasks]]
name = "one"
family = "image-classification"
params = { data = "folder" }
budget = { steps = 2, batch_size = 8 }
"""
CODE = """
import torch
class Mine(torch.optim.SGD):
    def __init__(self, params, lr, nesterov):
        assert not nesterov, "no momentum here"
        super().__init__(params, lr=lr)
"""


@pytest.fixture
def own(beside):
    """A study file with an optimizer of the user's own beside it."""
    return beside("own.toml", OWN, "beside_the_study", CODE)


@pytest.mark.usefixtures("unreported")
def test_an_optimizer_beside_the_study_file_is_found(own, tiny_npz, tmp_path) -> None:
    arguments = ("--data", f"folder={tiny_npz}", "--out", tmp_path / "out")
    call("run", own, *arguments, "--workers", 1)
    assert len(list((tmp_path / "out").glob("store/??/*.json"))) == 2
    assert not list((tmp_path / "out").glob("store/failed/*.json"))


def test_a_worker_on_another_machine_looks_beside_the_study_file_too(own, tiny_npz) -> None:
    spec = next(spec for where, spec in published(parse(OWN, "own")) if where == "tasks.one, mine")
    data = load("image-classification", {"data": "folder"}, {"folder": tiny_npz})
    trial = plan(parse(OWN, "own"), {"one": data.fingerprint}, {}).trials
    mine = next(t.spec for t in trial if t.spec.optimizer == spec)
    with pytest.raises(ValueError, match=r"no module 'beside_the_study'.*put it beside the study file"):
        run_planned(mine, Setup({"folder": tiny_npz}))
    assert run_planned(mine, Setup({"folder": tiny_npz}, modules=own.parent)).status == "ok"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("beside_the_study:Mine", "beside_nothing:Mine", "mine: .*no module 'beside_nothing'.*beside the study file"),
        ("beside_the_study:Mine", "beside_the_study:Yours", r"mine: .*beside_the_study.py\) has no 'Yours'"),
        ("nesterov = false }", "nesterov = true }", "tasks.one, mine: no momentum here"),
        (
            "nesterov = false }",
            "nestrov = true }",
            "mine: .*does not accept nestrov by keyword; it accepts: params, lr, nest",
        ),
        ("adamomentum = {}", "adamomentum = { hyperparameters = { eps = -1.0 } }", "tasks.one, adamomentum: .*eps"),
        ("2, batch_size = 8 }", "2, batch_size = 8 }\noptimizers.mine = { nesterov = true }", "mine: no momentum here"),
        (
            "[[tasks]]",
            '[[controls]]\nname = "far"\noptimizer = "adamomentum"\nhyperparameters = { betas = [2, 0.9] }\n[[tasks]]',
            "tasks.one, controls.far: .*beta",
        ),
        (
            "[[tasks]]",
            '[[controls]]\nname = "typo"\noptimizer = "adamomentum"\nhyperparameters = { epz = 1e-6 }\n[[tasks]]',
            "adamomentum has no hyper-parameter epz",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_before_the_first_trial(own, tiny_npz, tmp_path, old, new, message) -> None:
    own.write_text(OWN.replace(old, new))
    printed = call("run", own, "--data", f"folder={tiny_npz}", "--out", tmp_path / "out", code=1)
    assert re.search(f"Error: study own, .*{message}", printed), printed
    assert not list((tmp_path / "out").glob("store"))


def test_nothing_beside_a_study_file_is_imported_unless_it_says_so(own, tiny_npz, tmp_path) -> None:
    """Nor by a command that runs nothing."""
    (own.parent / "beside_the_study.py").write_text("raise SystemExit('I was run')")
    out = written(tmp_path / "out", OWN).root
    call("plan", own, "--out", out)
    call("plan", own, "--out", out, "--ids")
    call("status", own, "--out", out)
    call("export", own, "--out", out, "--to", tmp_path / "archive")
    call("import", own, tmp_path / "archive", "--out", tmp_path / "new")
    call("show", next(out.glob("store/??/*.json")).stem, "--out", out)
    assert str(own.parent) not in sys.path
    (own.parent / "mini.toml").write_text(MINI)
    call("run", own.parent / "mini.toml", "--data", "folder=/nowhere", "--out", tmp_path / "out", code=1)
    assert str(own.parent) not in sys.path


@pytest.mark.parametrize(
    ("device", "workers", "shared"), [("cuda", 2, 2), ("cuda", 1, 2), ("cuda", 3, 0), ("cpu", 2, 0)]
)
def test_each_worker_has_a_gpu_of_its_own_where_there_are_enough(monkeypatch, device, workers, shared) -> None:
    """``run`` and ``compare`` share them out alike."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    executor = running.local_executor(Setup(), workers, device)
    assert list(executor._gpus or ()) == list(range(shared))
