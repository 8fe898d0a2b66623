"""The commands of a study, of a task that a user's function trains."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from study.function.functions import PLAIN, STUDY, InlineLocal
from study.mini import finished
from typer.testing import CliRunner

from adamomentum.study import running, work
from adamomentum.study.commands import app

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A study file elsewhere than the current folder, with its script beside it."""
    monkeypatch.setattr(running, "LocalExecutor", InlineLocal)
    monkeypatch.setattr(sys, "path", list(sys.path))
    work._load.cache_clear()
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "my_train.py").write_text(PLAIN)
    (folder / "mine.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return folder / "mine.toml"


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_a_study_from_plan_to_archive(study, tmp_path) -> None:
    out = tmp_path / "out"
    assert "repeat" in call("plan", study, "--out", out)
    assert "task: my_train.py:train" in call("doctor", study)
    ids = [line.split() for line in call("plan", study, "--out", out, "--ids").splitlines() if " task " in line]
    assert [role for _, _, role, _ in ids] == ["tune", "repeat", "tune", "tune", "tune"]
    for trial, *_ in ids[:2]:
        assert f"{trial}: ok, kept in" in call("trial", study, trial, "--out", out)
    assert (out / "files" / ids[0][0] / "output.txt").exists()
    printed = call("run", study, "--out", out, "--workers", 1)
    assert "7 trials trained, 2 taken" in printed
    assert "Verdict on task: " in printed
    assert "Complete." in call("status", study, "--out", out)
    call("export", study, "--out", out, "--to", tmp_path / "archive")
    assert "9 trials taken up" in call("import", study, tmp_path / "archive", "--out", tmp_path / "new")
    assert {k: v["final"] for k, v in finished(tmp_path / "new").items()} == {
        k: v["final"] for k, v in finished(out).items()
    }


def test_a_run_is_logged_as_it_goes_on(study, tmp_path, monkeypatch) -> None:
    told: dict[str, list] = {}

    class SummaryWriter:
        def __init__(self, log_dir, purge_step) -> None:
            self.told = told.setdefault(Path(log_dir).relative_to(tmp_path / "out" / "tensorboard").as_posix(), [])

        def __getattr__(self, name):
            return lambda *given, **options: self.told.append((name, *given))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    call("run", study, "--out", tmp_path / "out", "--workers", 1, "--log-to", "tensorboard")
    trials = finished(tmp_path / "out")
    assert {path.rpartition("/")[2] for path in told} == trials.keys()
    assert {path.rpartition("/")[0] for path in told} == {"task/adamomentum", "task/adamw"}
    for path, calls in told.items():
        curve = trials[path.rpartition("/")[2]]["curve"]
        assert [(step, value) for name, *rest in calls if name == "add_scalar" and rest[0] == "val_loss"
                for value, step in [rest[1:]]] == list(zip(curve["step"], curve["val_loss"], strict=True))  # fmt: skip
        assert [name for name, *_ in calls][-2:] == ["add_hparams", "close"]
    count = len(told)
    told.clear()
    call("run", study, "--out", tmp_path / "out", "--workers", 1, "--log-to", "tensorboard")
    assert count == 9
    assert not told


def test_a_smoke_run_changes_arguments(study, tmp_path) -> None:
    study.write_text(STUDY + "smoke = { params = { epochs = 1 } }\n")
    call("run", study, "--out", tmp_path / "out", "--smoke", "--workers", 1)
    assert {trial["final"]["steps"] for trial in finished(tmp_path / "out").values()} == {5.0}
