"""What a trial's identity covers of a user's script, and how the script is run."""

from __future__ import annotations

import importlib
import sys

import pytest
from study.function.functions import PLAIN, changed, script

from adamomentum.study.data.base import DataError
from adamomentum.study.tasks.function.script import UnfitError, read
from adamomentum.study.tasks.function.settings import Call


def test_what_params_say() -> None:
    call = Call.of(
        {"train": "a/my.py:fit", "watch": ("data", "x.json"), "width": 64.0, "rate": 0.5, "sizes": (1.0, 2.5)}
    )
    assert (call.file, call.function, call.watch) == ("a/my.py", "fit", ("data", "x.json"))
    assert call.arguments == {"width": 64, "rate": 0.5, "sizes": [1, 2.5]}
    assert isinstance(call.arguments["width"], int)
    assert Call.of({"train": "my.py:fit", "watch": "data"}).watch == ("data",)


@pytest.mark.parametrize(
    "train", ["my_train", "my_train:train", "my_train.py", "my_train.py:", "my_train.py:a.b", 3.0, None]
)
def test_what_is_no_function_of_a_script(train) -> None:
    with pytest.raises(ValueError, match=r"params.train must be FILE.py:FUNCTION, e.g. my_train.py:train, got "):
        Call.of({"train": train} if train is not None else {})


def test_a_module_is_told_to_be_named_by_its_file() -> None:
    with pytest.raises(ValueError, match=r"got 'pkg.train:fit'; of a module say the file: pkg/train.py:fit$"):
        Call.of({"train": "pkg.train:fit"})
    with pytest.raises(ValueError, match=r"got 'my train:fit'$"):
        Call.of({"train": "my train:fit"})


def test_watch_must_name_something() -> None:
    with pytest.raises(ValueError, match=r"params.watch must be a list of files and folders, got 3"):
        Call.of({"train": "my.py:fit", "watch": 3.0})


def test_the_fingerprint_is_of_script_helpers_and_what_is_watched(tmp_path) -> None:
    (tmp_path / "helper.py").write_text("import deeper\n")
    (tmp_path / "deeper.py").write_text("X = 1\n")
    (tmp_path / "unused.py").write_text("X = 1\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "part.py").write_text("Y = 1\n")
    (tmp_path / "data" / "part").mkdir(parents=True)
    (tmp_path / "data" / "part" / "a.bin").write_bytes(b"1")
    text = changed(("import torch\n", "import torch, helper\nfrom package.part import Y\n"))
    before = script(tmp_path, text, watch=("data",))
    assert before.helpers == ("deeper.py", "helper.py", "package/__init__.py", "package/part.py")
    assert before.describe() == (
        "my_train.py:train; with deeper.py, helper.py, package/__init__.py, package/part.py; watched: data (1 file)"
    )
    assert script(tmp_path, text, watch=("data",)).fingerprint == before.fingerprint
    for name, content, differs in (
        ("unused.py", "X = 2\n", False),
        ("data/__pycache__", None, False),
        ("deeper.py", "X = 2\n", True),
        ("package/part.py", "Y = 2\n", True),
        ("data/part/a.bin", "2", True),
        ("data/part/b.bin", "", True),
        ("my_train.py", text + "\n", True),
    ):
        if content is None:
            (tmp_path / name).mkdir()
            (tmp_path / name / "x.pyc").write_bytes(b"x")
        else:
            (tmp_path / name).write_text(content)
        after = read({"train": "my_train.py:train", "watch": ("data",)}, tmp_path)
        assert (after.fingerprint != before.fingerprint) == differs, name
        before = after


def test_the_folder_is_no_part_of_it(tmp_path) -> None:
    fingerprints = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.txt").write_text("1")
        fingerprints.add(script(tmp_path / name, watch=("data.txt",)).fingerprint)
    assert len(fingerprints) == 1


def test_what_is_not_there(tmp_path) -> None:
    with pytest.raises(DataError, match=r"the training script .*my_train.py cannot be read: No such file"):
        read({"train": "my_train.py:train"}, tmp_path)
    with pytest.raises(DataError, match=r"watch names data, but there is no .*data"):
        script(tmp_path, watch=("data",))
    with pytest.raises(ValueError, match=r"my_train.py is not Python, line 2: "):
        script(tmp_path, "x = 1\ndef train(:\n")


def test_the_script_runs_anew_for_each_trial_and_what_was_read_is_what_runs(tmp_path) -> None:
    data = script(tmp_path, "seen = []\ndef train(trial, width):\n    seen.append(width)\n    return seen\n", width=3.0)
    (tmp_path / "my_train.py").write_text("raise SystemExit('edited since')")
    assert data.function()(None) == [3]
    assert data.function()(None) == [3]
    assert sys.modules["my_train"].__file__ == str(tmp_path / "my_train.py")
    assert str(tmp_path) in sys.path


def test_a_script_hides_no_module(tmp_path) -> None:
    (tmp_path / "random.py").write_text("def train(trial):\n    import random\n    return random.random()\n")
    assert 0 <= read({"train": "random.py:train"}, tmp_path).function()(None) < 1


def test_a_function_that_is_not_there(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"my_train.py has no function 'train'; it has: fit$"):
        script(tmp_path, "import math\ndef fit(trial): ...\n").function()


def test_a_class_is_no_function(tmp_path) -> None:
    for given in ("def __init__(self, trial): ...", "pass"):
        with pytest.raises(UnfitError, match=r"my_train.py:train is a class; name a function that takes the trial"):
            script(tmp_path, f"class train:\n    {given}\n").function()


def test_arguments_are_part_of_the_call_and_not_of_the_fingerprint(tmp_path) -> None:
    assert script(tmp_path, width=3.0).fingerprint == script(tmp_path, PLAIN, width=4.0).fingerprint


def test_helpers_of_one_name_in_two_folders(tmp_path) -> None:
    scripts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"NAME = {name!r}\n")
        scripts.append(script(tmp_path / name, "import helper\ndef train(trial):\n    return helper.NAME\n"))
    assert [data.function()(None) for data in (*scripts, scripts[0])] == ["a", "b", "a"]


def test_helpers_run_anew_for_each_trial(tmp_path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "state.py").write_text("SEEN = []\n")
    (tmp_path / "helper.py").write_text("from package import state\n")
    text = "import helper\ndef train(trial):\n    helper.state.SEEN.append(trial)\n    return helper.state.SEEN\n"
    data = script(tmp_path, text)
    assert [data.function()(k) for k in range(2)] == [[0], [1]]


def test_the_engine_is_not_run_anew_where_it_lies_beside_the_script(tmp_path) -> None:
    there = importlib.import_module("adamomentum.study.tasks.function.script")
    (tmp_path / "adamomentum").mkdir()
    (tmp_path / "adamomentum" / "__init__.py").write_text("")
    with pytest.MonkeyPatch.context() as patch:  # undone before modules of this folder are forgotten
        patch.setattr(sys.modules["adamomentum"], "__file__", str(tmp_path / "adamomentum" / "__init__.py"))
        script(tmp_path, "import adamomentum\ndef train(trial): ...\n").function()
    assert sys.modules["adamomentum.study.tasks.function.script"] is there
