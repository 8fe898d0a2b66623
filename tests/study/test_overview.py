"""What ``plan`` and ``status`` say, as plain data: the right numbers under the names that the docs give."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from study.function.functions import STUDY as OWN
from study.mini import MINI, fake_result, fingerprints, written
from study.standings import of

import adamomentum
from adamomentum.study import overview
from adamomentum.study.engine import DataInfo, Folder, write_data
from adamomentum.study.stages import plan
from adamomentum.study.studyfile import parse
from adamomentum.study.trial import TrialResult


def test_a_plan_of_nothing_done() -> None:
    study = parse(MINI.replace('name = "one"', 'name = "one"\nminutes = 2'), "mini")
    planned = plan(study, fingerprints(study), {})
    said = overview.of_plan(study, planned, {}, workers=2)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert {key: said[key] for key in ("study", "hash", "title")} == {
        "study": "mini",
        "hash": study.hash,
        "title": study.title,
    }
    trials = {task: [t for t in planned.trials if t.task == task] for task in ("one", "two")}
    for row in said["tasks"]:
        assert row["roles"] == {role: Counter(t.role for t in trials[row["task"]])[role] for role in row["roles"]}
        assert (row["done"], row["left"]) == (0, len({t.spec.trial_id for t in trials[row["task"]]}))
    # Four optimizers with four points each, and no final run before something is chosen.
    assert said["tasks"][0]["roles"]["tune"] == 16
    assert said["tasks"][0]["roles"]["final"] == 0
    assert said["not_planned_yet"]["final"] == 2 * 4 * 3
    later = Counter(task for (_, task, _), count in planned.open.items() for _ in range(count))
    ones, twos = (len({t.spec.trial_id for t in trials[task]}) + later[task] for task in ("one", "two"))
    assert said["left"] == {"trials": ones + twos, "workers": 2, "seconds": ones * 120 / 2, "unknown": {"two": twos}}


def test_ids_of_what_can_be_run() -> None:
    study = parse(MINI, "mini")
    planned = plan(study, fingerprints(study), {})
    said = overview.of_ids(planned.by_id, planned.open.total())
    assert said["later"] == planned.open.total()
    assert [row["id"] for row in said["trials"]] == list(planned.by_id)
    first = planned.trials[0]
    assert said["trials"][0] == {
        "id": first.spec.trial_id,
        "task": first.task,
        "role": first.role,
        "optimizer": first.optimizer,
        "lr": first.spec.optimizer.lr,
    }


def test_a_status_with_all_that_can_happen(tmp_path) -> None:
    folder = written(tmp_path / "out")
    planned, _ = folder.results()
    finals = [t for t in planned.trials if t.role == "final" and t.task == "one"]
    folder.store.put(finals[0].spec, fake_result(None))
    for t in (finals[1], finals[2]):
        folder.store.path(t.spec.trial_id).unlink()
    folder.store.put(finals[1].spec, TrialResult(status="error", error="Traceback\nboom"))
    curve = {"step": [3.0], "train_loss": [0.75], "val_loss": [0.5], "val_accuracy": [0.25]}
    under_way = of(folder.running, finals[2].spec.trial_id, step=4, steps=6, loss=0.625, curve=curve)
    of(folder.running, finals[0].spec.trial_id)  # finished: whoever else ran it has just lost
    of(folder.running, "f" * 16)  # of another plan
    said = overview.of_status(folder, *folder.results())
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert not said["complete"]
    assert said["folder"] == str(folder.root)
    assert said["left"]["trials"] == 2
    assert [(row["task"], row["done"], row["left"]) for row in said["tasks"]][1][2] == 0
    assert said["diverged"] == [{"task": "one", "optimizer": finals[0].optimizer, "trials": 1}]
    name = finals[1].spec.optimizer.name
    assert said["failed"] == [{"id": finals[1].spec.trial_id, "optimizer": name, "error": "boom"}]
    choice = planned.choices["one", "adamw"]
    [chosen] = [row for row in said["choices"] if (row["task"], row["optimizer"]) == ("one", "adamw")]
    assert chosen == {
        "task": "one",
        "optimizer": "adamw",
        "setting": {"lr": choice.setting["lr"]},
        "score": choice.score,
        "edges": list(choice.edges),
    }
    [row] = said["running"]
    assert row.pop("seconds_left") == pytest.approx(2 * 2.0, abs=1)
    assert row.pop("seconds_silent") == pytest.approx(0, abs=1)
    assert row == {
        "id": finals[2].spec.trial_id,
        "task": "one",
        "role": "final",
        "optimizer": finals[2].optimizer,
        "lr": finals[2].spec.optimizer.lr,
        "step": 4,
        "steps": 6,
        "loss": 0.625,
        "metric": "accuracy",
        "validation": 0.25,
        "machine": under_way.machine,
        "process": under_way.process,
    }
    assert overview.of_status(written(tmp_path / "whole"), *written(tmp_path / "whole").results())["complete"]


def test_the_docs_name_every_key(tmp_path) -> None:
    page = Path(adamomentum.__file__).parents[2] / "docs" / "study.md"
    if not page.exists():
        pytest.skip("needs the repository, got an installed package")
    section = page.read_text().split("`--json` prints one object")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", "\n".join(line for line in section.splitlines() if line.startswith("|"))))
    folder = written(tmp_path / "out")
    planned, _ = folder.results()
    diverged, failed = [t.spec for t in planned.trials if t.role == "final"][:2]
    folder.store.put(diverged, fake_result(None))
    folder.store.path(failed.trial_id).unlink()
    folder.store.put(failed, TrialResult(status="error", error="boom"))
    of(folder.running, failed.trial_id)  # it is tried again
    planned, results = folder.results()
    said = [
        overview.of_status(folder, planned, results),
        overview.of_plan(folder.study, planned, results, 1),
        overview.of_ids(planned.by_id, 0),
    ]
    assert said[0]["running"] and said[0]["failed"] and said[0]["diverged"] and said[0]["choices"]
    kinds = {"roles", "not_planned_yet", "setting", "unknown"}  # whose keys are names of the study

    def keys(value) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        if not isinstance(value, dict):
            return set()
        return value.keys() | set().union(*(keys(each) for key, each in value.items() if key not in kinds))

    assert keys(said) == named - {"plan", "status"}


def test_steps_of_the_users_own_function_are_those_of_its_finished_trials(tmp_path) -> None:
    study = parse(OWN, "mine.toml", tmp_path)
    folder = Folder(tmp_path / "out", study)
    write_data(folder.root / "data.json", {"task": DataInfo("0" * 16, "a script", {})})
    planned, _ = folder.results()
    first, second = list(planned.by_id.values())[:2]
    of(folder.running, second.spec.trial_id, step=10, steps=None, loss=None, curve={"step": [5.0], "val_loss": [0.5]})
    [row] = overview.running(folder, planned, {})
    assert (row["step"], row["steps"], row["seconds_left"], row["loss"]) == (10, None, None, None)
    assert (row["metric"], row["validation"]) == ("loss", 0.5)
    result = TrialResult(status="ok", final={"val_loss": 1.0, "steps": 25.0}, curve={"step": [25.0], "val_loss": [1.0]})
    [row] = overview.running(folder, planned, {first.spec.trial_id: result})
    assert row["steps"] == 25
    assert row["seconds_left"] == pytest.approx(15 * 2.0, abs=1)
