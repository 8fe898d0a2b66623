"""A family of the user's own: found beside the study file, planned, run, resumed and reported as others are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from study.mini import finished
from typer.testing import CliRunner

from adamomentum.study import stages, tasks
from adamomentum.study.commands import app
from adamomentum.study.spec import TrialSpec
from adamomentum.study.studyfile import StudyError, parse, read
from adamomentum.study.tasks import Family, Metric
from adamomentum.study.work import Setup, load, run_planned

pytestmark = pytest.mark.usefixtures("unrendered")
CODE = (Path(__file__).parent / "sine.py").read_text()
STUDY = """
name = "waves"
[tuning]
trials = 2
extension = 0
[default]
seeds = 1
[final]
seeds = 2
[optimizers]
adamomentum = {}
adamw = {}
[[tasks]]
name = "sine"
family = "beside_the_family:Sine"
params = { width = 6 }
budget = { steps = 6, batch_size = 12, evaluations = 2 }
"""


def call(*arguments, code=0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture
def own(beside):
    """A study file with a family of the user's own beside it."""
    return beside("waves.toml", STUDY, "beside_the_family", CODE)


def test_it_is_planned_run_resumed_and_reported(own, tmp_path) -> None:
    out = tmp_path / "out"
    printed = call("plan", own, "--out", out)
    assert "sine (10 trials)" in printed
    printed = call("run", own, "--out", out, "--workers", 1)
    assert "sine: 36 points to learn from" in printed.replace("sine: sine: ", "sine: ")
    assert "AdaMomentum - AdamW, mean squared error: " in printed
    kept = finished(out)
    assert len(kept) == 10
    assert {trial["spec"]["task"]["name"] for trial in kept.values()} == {"beside_the_family:Sine"}
    assert "mean squared error" in (out / "report" / "report.html").read_text()
    # What is lost is trained again, to the same bits, and nothing else is.
    (out / "store" / next(iter(kept))[:2] / f"{next(iter(kept))}.json").unlink()
    assert "1 trials to run now" in call("run", own, "--out", out, "--workers", 1)
    assert finished(out) == kept
    assert "Complete." in call("status", own, "--out", out)
    call("export", own, "--out", out, "--to", tmp_path / "archive")
    assert "10 trials taken up" in call("import", own, tmp_path / "archive", "--out", tmp_path / "new")
    taken = finished(tmp_path / "new")
    assert {name: trial["final"] for name, trial in taken.items()} == {
        name: trial["final"] for name, trial in kept.items()
    }


def test_a_worker_elsewhere_looks_beside_the_study_file_too(own, tmp_path) -> None:
    """In a process that has read no study file, which is told where it lies only the second time."""
    study = read(str(own))
    data = load("beside_the_family:Sine", {}, {})
    spec = stages.plan(study, {"sine": data.fingerprint}, {}).trials[0].spec
    code = (
        "import sys; from pathlib import Path; from adamomentum.study.spec import TrialSpec\n"
        "from adamomentum.study.work import Setup, run_planned\n"
        "for modules in (None, Path(sys.argv[2])):\n"
        "    try:\n"
        "        print(run_planned(TrialSpec.model_validate_json(sys.argv[1]), Setup(modules=modules)).status)\n"
        "    except ValueError as error:\n"
        "        print(error)"
    )
    command = [sys.executable, "-c", code, spec.model_dump_json(), str(own.parent)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    refused, _, status = done.stdout.strip().rpartition("\n")
    assert "there is no module 'beside_the_family' here; put it beside the study file" in refused, done.stderr
    assert status == "ok", done.stderr
    assert run_planned(spec, Setup()).status == "ok"  # here the study was read


def planned(own) -> list[TrialSpec]:
    return [t.spec for t in stages.plan(read(str(own)), {"sine": "0" * 16}, {}).trials]


def test_name_and_version_are_in_the_hash(own) -> None:
    before = planned(own)
    assert {spec.task.version for spec in before} == {3}
    for old, new in (("version=3", "version=4"), ("class Sine(", "Sine2 = None\nclass Sine(")):
        sys.modules.pop("beside_the_family")
        (own.parent / "beside_the_family.py").write_text(CODE.replace(old, new))
        ids = {spec.trial_id for spec in planned(own)}
        # Code alone is not part of a trial: who changes what it does raises the version.
        assert ids.isdisjoint(spec.trial_id for spec in before) == (old == "version=3")
    own.write_text(STUDY.replace("Sine", "Wave"))
    (own.parent / "beside_the_family.py").write_text(CODE.replace("class Sine(", "class Wave("))
    sys.modules.pop("beside_the_family")
    assert {spec.trial_id for spec in planned(own)}.isdisjoint(spec.trial_id for spec in before)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "class Sine(Task)",
            "class Sinus(Task)",
            r"module .* \(.*beside_the_family.py\) has no 'Sine'",
        ),
        (
            "class Sine(Task)",
            "class Sine",
            "is not a subclass of adamomentum.study.tasks.base.Task but <cl.*Sine'>",
        ),
        (
            "    family = Family(",
            "    other = Family(",
            r"how it is reported: give the class `family = Family\(",
        ),
        ("def setup", "def set_up", "lacks the methods setup"),
        (
            "    def load(",
            "    def __init__(self, size):\n        pass\n\n    def load(",
            "built without arguments: .*'size'",
        ),
        (
            "version=3",
            "version=0",
            r"importing beside_the_family failed in .*.py, line \d+: ValueError: version of",
        ),
        ('"lower"', '"less"', "better of the metric 'loss' must be 'lower' or 'higher', got 'less'"),
        (
            'Metric("loss"',
            'Metric("mse"',
            "select of a family must be the key of .*, got 'loss'; there are: mse",
        ),
        ("import numpy as np", "import numby as np", "there is no module 'numby' here"),
        ("import numpy as np", "import numpy as", r"failed in .*beside_the_family.py, line 7: SyntaxError"),
    ],
)
def test_what_cannot_be_used_is_refused_when_the_study_is_read(own, old, new, message) -> None:
    assert old in CODE
    (own.parent / "beside_the_family.py").write_text(CODE.replace(old, new))
    with pytest.raises(StudyError) as caught:
        read(str(own))
    [line] = str(caught.value).splitlines()  # and not what follows from it
    assert re.search(rf"waves.toml: tasks.0.family: family 'beside_the_family:Sine'.*{message}", line), line


@pytest.mark.parametrize("path", ["my_package/tasks.py:Segmentation", ":Segmentation", "a:b:C", "beside_the_family:"])
def test_a_path_that_is_none_is_refused(path) -> None:
    with pytest.raises(
        StudyError, match=r"the path of a family must be module:Class, e.g. my_package.tasks:Segm.*, got"
    ):
        parse(STUDY.replace("beside_the_family:Sine", path), "waves.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "width = 6",
            "widht = 6",
            "waves, tasks.sine: params.widht: there is no such parameter; there are: width",
        ),
        ("width = 6", "width = 6.5", "study waves, tasks.sine: params.width: Input should be a valid integer, got 6.5"),
    ],
)
def test_wrong_parameters_are_refused_before_the_first_trial(own, tmp_path, old, new, message) -> None:
    own.write_text(STUDY.replace(old, new))
    assert message in call("run", own, "--out", tmp_path / "out", code=1)
    assert not (tmp_path / "out" / "store").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def fingerprint", "def finger_print", "load must return data with a text `fingerprint`, got Points"),
        ("def describe", "def description", "load must return data with a method `describe()`, got Points"),
    ],
)
def test_data_of_which_something_is_missing(own, tmp_path, old, new, message) -> None:
    (own.parent / "beside_the_family.py").write_text(CODE.replace(old, new))
    assert message in call("run", own, "--out", tmp_path / "out", code=1)


def test_a_trial_of_another_version_is_not_run(own) -> None:
    study = read(str(own))
    spec = planned(own)[0]
    data = load("beside_the_family:Sine", {}, {})
    other = spec.task.model_copy(update={"version": 2, "data_fingerprint": data.fingerprint})
    with pytest.raises(ValueError, match="beside_the_family:Sine is at version 3, the trial is of version 2"):
        run_planned(spec.model_copy(update={"task": other}), Setup())
    assert study.own_classes == ("beside_the_family:Sine",)


def test_what_is_kept_can_be_shown_without_the_code(own, tmp_path) -> None:
    """A trial names its family; reading one imports nothing."""
    out = tmp_path / "out"
    call("run", own, "--out", out, "--workers", 1)
    (own.parent / "beside_the_family.py").write_text("raise SystemExit('I was run')")
    sys.modules.pop("beside_the_family")
    trial = next(out.glob("store/??/*.json")).stem
    assert json.loads(CliRunner().invoke(app, ["show", trial, "--out", str(out)]).output)["trial_id"] == trial


def test_those_that_come_along_are_known_without_torch() -> None:
    code = (
        "import sys; from adamomentum.study import tasks\n"
        "[tasks.family(name).primary for name in tasks.FAMILIES]\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    for name, family in tasks.FAMILIES.items():
        assert tasks.task(name).family is family


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": True}, "version of a family must be a whole number from 1, got True"),
        ({"metrics": ()}, r"metrics of a family must be a tuple of one Metric or more, got \(\)"),
        ({"metrics": ("loss",)}, r"must be a tuple of one Metric or more, got \('loss',\)"),
        ({"metrics": (Metric("loss", "a", "lower"),) * 2}, "must have different keys, got loss, loss"),
        (
            {"curve": "accuracy"},
            "curve of a family must be the key of one of its metrics, got 'accuracy'; there are: loss",
        ),
    ],
)
def test_a_family_that_cannot_be_reported_on(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        Family(**{"version": 1, "metrics": (Metric("loss", "cross-entropy", "lower"),), **fields})
