"""``adamomentum study run NAME --smoke`` as a user types it: the full-size studies on tiny files of their formats."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from study.cifar_files import rows_of, write_folder
from study.gan_mini import weights_file
from study.mini import finished
from study.translation_mini import sentence

from adamomentum.study import stages, studyfile, tasks
from adamomentum.study.data import iwslt
from adamomentum.study.data.base import DataError
from adamomentum.study.engine import Folder
from adamomentum.study.tasks.gan.features import INCEPTION_FILE
from adamomentum.study.work import Setup, load, run_planned


def study(*arguments: object, home: Path, cache: str | None = "cache") -> str:
    """Runs the command in a process of its own; returns what it prints.

    Args:
        arguments: of the command.
        home: the folder in which it runs.
        cache: a folder there in place of the user's cache, or None.
    """
    environment = {**os.environ, **({"XDG_CACHE_HOME": str(home / cache)} if cache else {})}
    command = [sys.executable, "-m", "adamomentum.cli", "study", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=590, cwd=home, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cifar_files(folder: Path) -> dict[str, Path]:
    folders = {}
    for name in ("cifar10", "cifar100"):
        inside = write_folder(folder / name, name, rows_of(name))
        weights_file(inside / INCEPTION_FILE)  # for the GANs
        folders[name] = inside
    return folders


def imagenet_files(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for name in ("n01", "n02"):
            (folder / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 256, (240, 260, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{name}_{k}.JPEG")
    return {"imagenet": folder}


def ptb_files(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    for split, lines in (("train", 300), ("valid", 20), ("test", 20)):
        (folder / f"ptb.{split}.txt").write_text(f" the cat <unk> sees N dogs of {split} \n" * lines)
    return {"ptb": folder}


def iwslt_files(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 120), ("valid", 30), ("test", 30)):
        pairs = [sentence(rng) for _ in range(count)]
        for k, language in enumerate(("de", "en")):
            (folder / f"{split}.{language}").write_text("\n".join(pair[k] for pair in pairs) + "\n", encoding="utf-8")
    return {"iwslt14": folder}


# --- the embedded study: what anyone runs first ---

EMBEDDED = ("mnist1d", "digits-gan")  # the two that take least


@pytest.fixture(scope="module")
def embedded_data() -> None:
    """Downloads the data once, or skips."""
    for task in studyfile.read("paper-mini").only(EMBEDDED).tasks:
        try:
            load(task.family, task.params, {})
        except DataError as error:
            pytest.skip(str(error))


@pytest.mark.slow
def test_the_smoke_run_of_paper_mini_is_the_same_on_ray(embedded_data, tmp_path) -> None:
    """The command of the first page, all optimizers and stages, two of the five tasks; then on two Ray workers."""
    pytest.importorskip("ray")
    command = ("run", "paper-mini", "--smoke", "--tasks", ",".join(EMBEDDED), "--workers", "2")
    printed = study(*command, home=tmp_path, cache=None)
    assert "paper-mini-smoke" in printed
    out = tmp_path / "adamomentum-study" / "paper-mini-smoke"
    local = finished(out)
    asked = studyfile.read("paper-mini").smoked().only(EMBEDDED)
    folder = Folder(out, asked)
    plan, results = folder.results()
    assert results.keys() == {t.spec.trial_id for t in plan.trials} == local.keys()
    assert not plan.open
    assert {t.role for t in plan.trials} == set(stages.ROLES) - {"repeat"}  # of a function of one's own
    assert {t.optimizer for t in plan.trials if t.role == "tune"} == set(asked.optimizers)
    assert "part of the study" not in (out / "report" / "report.html").read_text()
    study(*command, "--executor", "ray", "--out", "on-ray", home=tmp_path, cache=None)
    assert finished(tmp_path / "on-ray") == local


# --- the full-size studies ---

FILES = {
    "paper-cifar": cifar_files,
    "paper-imagenet": imagenet_files,
    "paper-ptb": ptb_files,
    "paper-iwslt": iwslt_files,
    "paper-gan": cifar_files,
}
OTHERS = re.compile(r"^(sgdm|adamw|radam|yogi|adabound|adabelief) = .*\n", re.MULTILINE)


def source_of(name: str, task: str, folder: Path) -> tuple[str, Path]:
    data = str(studyfile.read(name).task(task).params["data"])
    return data, FILES[name](folder)[data]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_full_size_study_runs_on_tiny_files_of_its_format(name, tmp_path) -> None:
    """Its first task, with two of its optimizers: what the others are built of is in ``test_presets``."""
    task = studyfile.read(name).tasks[0].name
    (tmp_path / "two.toml").write_text(OTHERS.sub("", studyfile.built_in()[name]))
    data, source = source_of(name, task, tmp_path / "data")
    options = ("--smoke", "--tasks", task, "--out", "out")
    study("run", "two.toml", *options, "--data", f"{data}={source}", home=tmp_path)
    trials = pd.read_parquet(tmp_path / "out" / "report" / "report.parquet")
    assert sorted(trials["optimizer"]) == ["adam", "adamomentum"]
    assert (trials["last_step"] == 2).all()
    assert "Complete." in study("status", "two.toml", *options, home=tmp_path)
    assert (tmp_path / "out" / "report" / "report.html").stat().st_size > 10_000


# CIFAR-100 is another file, not another network, and ImageNet's only task is above.
TASKS = [
    (name, task.name)
    for name in FILES
    for task in studyfile.read(name).tasks
    if name != "paper-imagenet" and task.name not in ("cifar100-resnet34", "cifar100-densenet121")
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), TASKS, ids=[task for _, task in TASKS])
def test_every_task_of_a_full_size_study_trains(name, task, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(iwslt, "cached", lambda key, make, cache: make()[0])  # not into the user's own cache
    asked = studyfile.read(name).smoked().only((task,))
    data, source = source_of(name, task, tmp_path / "data")
    loaded = load(asked.tasks[0].family, asked.tasks[0].params, {data: source})
    trials = stages.plan(asked, {task: loaded.fingerprint}, {}).trials
    [spec] = [t.spec for t in trials if t.optimizer == "adamomentum"]
    result = run_planned(spec, Setup({data: source}))
    # A step or two teach nothing, but all that a trial says must be there.
    assert result.curve["step"] == [2]
    metrics = [f"test_{metric.key}" for metric in tasks.family(spec.task.family).metrics]
    assert all(math.isfinite(result.final[key]) for key in metrics)
