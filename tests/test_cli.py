from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from study.arrays import make_arrays
from study.function.functions import InlineLocal
from typer.main import get_command
from typer.testing import CliRunner

from adamomentum import cli as command_line
from adamomentum import doctor
from adamomentum.study import compare, running, work
from adamomentum.study.engine import Folder
from adamomentum.study.lock import locked
from adamomentum.study.report.summary import say_results
from adamomentum.study.report.tables import build
from adamomentum.study.results import gather
from adamomentum.study.trial import TrialResult

SMALL = ["--epochs", "1", "--seeds", "2", "--optimizers", "adamomentum,sgdm", "--workers", "1"]
OK = TrialResult(status="ok", final={"val_loss": 1.0}, curve={"step": [1.0]})
RATES = ["--lr", "1e-2", "--lr", "sgdm=0.03,0.1"]


@pytest.fixture
def inline(monkeypatch) -> None:
    """Trials in this process, and no report."""
    monkeypatch.setattr(running, "LocalExecutor", InlineLocal)
    monkeypatch.setattr(running, "write_report", lambda *_: None)


def saved(folder: Path) -> Path:
    x, y = make_arrays()
    np.savez(folder / "tiny.npz", x=x, y=y)
    return folder / "tiny.npz"


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    return saved(tmp_path)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "adamomentum.cli", *map(str, arguments)]


def run(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600, **options)


def plain(*arguments: object) -> tuple[int, str]:
    """Exit code and output in this process, without boxes and line breaks."""
    app = command_line._whole_app()
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    return result.exit_code, re.sub(r"[\s│╭╮╰╯─]+", " ", result.output)


def stored(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (out / "store").glob("??/*.json")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[list[object], Path, subprocess.CompletedProcess[str]]:
    """A comparison as a user runs it, to its end: its arguments, its folder, what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = ["compare", "--data", saved(folder), *SMALL, *RATES]
    return arguments, folder / "out", run(*arguments, "--out", folder / "out")


def test_end_to_end(whole) -> None:
    _, out, done = whole
    assert done.returncode == 0, done.stderr
    assert f"8 trials trained, 0 taken from {out / 'store'}" in done.stdout
    assert "images: AdaMomentum - SGD + momentum, accuracy:" in done.stdout
    assert f"Report: {out / 'report' / 'report.html'}" in done.stdout
    assert "AdaMomentum: lr as given, not tuned" in done.stdout
    few = "The test split has 9 images: one more that is classified rightly is 11 points of accuracy."
    assert few in done.stdout
    assert few in (out / "report" / "report.html").read_text()
    assert {"report.html", "report.parquet", "overview.svg", "tables"} <= {p.name for p in (out / "report").iterdir()}
    assert (out / "report" / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_learning_rates_for_one_optimizer_or_all(whole) -> None:
    trials = pd.read_parquet(whole[1] / "report" / "report.parquet")
    tried = trials.groupby(["role", "optimizer"])["lr"].unique().apply(sorted).to_dict()
    assert tried[("tune", "sgdm")] == [0.03, 0.1]
    assert ("tune", "adamomentum") not in tried
    assert tried[("final", "adamomentum")] == [0.01]
    assert trials["role"].value_counts().to_dict() == {"tune": 4, "final": 4}
    assert trials[trials["role"] == "tune"]["test_accuracy"].isna().all()
    assert trials[trials["role"] == "final"]["test_accuracy"].between(0, 1).all()


@pytest.mark.usefixtures("inline")
def test_the_same_command_trains_what_is_missing_or_damaged(whole, tmp_path) -> None:
    arguments, first, _ = whole
    out = shutil.copytree(first, tmp_path / "out")
    before = stored(out)
    assert len(before) == 8
    damaged = next((out / "store").glob("??/*.json"))
    damaged.write_text("{")
    code, text = plain(*arguments, "--out", out)
    assert code == 0, text
    assert "1 trials trained, 7 taken" in text
    [warning] = re.findall(r"Warning: (.*?) is not usable .*?; the trial will be run again", text)
    assert warning == str(damaged)
    after = stored(out)
    assert {name for name in before if before[name] != after[name]} == {damaged.name}


def test_a_narrow_terminal_cuts_no_number(whole) -> None:
    _, out, _ = whole
    images = work.load("image-classification", {"data": "folder"}, {"folder": out.parent / "tiny.npz"})
    grids = {"adamomentum": (0.01,), "sgdm": (0.03, 0.1)}
    results = gather(Folder(out, compare.as_study(grids, 2, 1, {"data": "folder"}, images)))
    words = []
    for columns in (200, 40, 20):
        console = Console(width=columns)
        with console.capture() as captured:
            say_results(results, build(results), console)
        table = captured.get().partition("─" * 5)[2].partition("Target")[0]
        assert "…" not in table
        words.append(sorted(re.findall(r"[\w.]+", table)))
    assert "0.01" in words[0]
    assert words[0] == words[1] == words[2]


@pytest.mark.skipif(os.name == "nt", reason="needs process groups")
@pytest.mark.parametrize("how", ["Ctrl-C", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_what_is_finished_is_kept_when_it_is_stopped(npz, tmp_path, how, inline) -> None:
    """Ctrl-C goes to driver and workers, SIGTERM, as ``timeout`` sends it, to the driver and then to all."""
    out = tmp_path / "out"
    arguments = ["compare", "--data", npz, *SMALL, "--seeds", "400", "--lr", "1e-2", "--out", out]
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while len(stored(out)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        os.killpg(process.pid, signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)
        printed, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    kept = stored(out)
    # No traceback, and nothing of leaked semaphores.
    assert errors.splitlines() == [f"Stopped: {len(kept)} of 800 trials are finished and kept in {out / 'store'}; the "
                                   "same command goes on from there."]  # fmt: skip
    assert "800 trials to run now" in printed
    deadline = time.monotonic() + 10
    while True:  # no worker outlives the driver
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    arguments[arguments.index("400")] = "2"
    code, text = plain(*arguments)
    assert code == 0, text
    assert re.search(r"(\d) trials trained, (\d) taken", text)
    assert all(stored(out)[name] == when for name, when in kept.items())


ASKED = [
    ("adamomentum stu", "study"),
    ("adamomentum study st", "status"),
    ("adamomentum study status --j", "--json"),
    ("adamomentum compare --log", "--log-to"),
]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("words", "expected"), ASKED)
def test_a_shell_completes_commands_and_options(shell, words, expected) -> None:
    """What it asks, by the variables that its script sets."""
    asked = {command_line.COMPLETION: f"complete_{shell}", "COMP_WORDS": words, "_TYPER_COMPLETE_ARGS": words,
             "COMP_CWORD": str(len(words.split()) - 1), "_TYPER_COMPLETE_FISH_ACTION": "get-args"}  # fmt: skip
    result = CliRunner().invoke(command_line._whole_app(), [], prog_name="adamomentum", env=asked)
    assert result.exit_code == 0
    offered = {"study", "status", "--json", "--log-to", "compare", "run"} & set(re.findall(r"[\w-]+", result.stdout))
    assert expected in offered
    assert not {"compare", "run"} & offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_that_is_printed_works_in_a_shell(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # tests run in none
    shown = CliRunner().invoke(command_line._whole_app(), ["--show-completion", "bash"], prog_name="adamomentum")
    assert shown.exit_code == 0
    program = tmp_path / "adamomentum"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m adamomentum "$@"\n')
    program.chmod(0o755)
    asks = (
        f"{shown.stdout}\nCOMP_WORDS=(adamomentum study pl); COMP_CWORD=2\n"
        f'_adamomentum_completion {program}; echo "<${{COMPREPLY[*]}}>"'
    )
    done = subprocess.run(["bash", "--norc", "-c", asks], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("<plan>\n", "")


def test_a_shell_is_told_nothing_where_an_extra_is_missing(monkeypatch, capsys) -> None:
    def missing():
        raise ModuleNotFoundError(name="rich")

    monkeypatch.setattr(command_line, "_whole_app", missing)
    monkeypatch.setattr(sys, "argv", ["adamomentum"])
    monkeypatch.setenv(command_line.COMPLETION, "complete_bash")
    with pytest.raises(SystemExit, match="1"):
        command_line.main()
    assert capsys.readouterr() == ("", "")


SIGNALS = """
import atexit, os, signal, sys
from adamomentum.cli import stop_as_by_ctrl_c
number = getattr(signal, sys.argv[1])
atexit.register(lambda: print("deaf in the end:", signal.getsignal(number) == signal.SIG_IGN))
# Whoever started the tests, with nohup say, may have it ignored.
signal.signal(number, signal.SIG_IGN if sys.argv[2] == "ignored" else signal.SIG_DFL)
stop_as_by_ctrl_c()
try:
    os.kill(os.getpid(), number)
    print("went on")
except KeyboardInterrupt:
    # Python says so on stderr where the handler is taken away from a signal that it has noted and not yet handled.
    assert callable(signal.getsignal(number))
    os.kill(os.getpid(), number)  # the second of two
    print("stopped once")
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(("before", "then"), [("default", "stopped once"), ("ignored", "went on")])
def test_what_asks_to_stop_acts_as_ctrl_c_once_unless_it_is_ignored(name, before, then) -> None:
    code = [sys.executable, "-c", SIGNALS, name, before]
    result = subprocess.run(code, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{then}\ndeaf in the end: True\n", "")


def test_a_folder_in_which_something_runs_is_left_alone(npz, tmp_path) -> None:
    out = tmp_path / "out"
    with locked(out):
        code, text = plain("compare", "--data", npz, *SMALL, "--lr", "1e-2", "--out", out)
    assert code == 1
    assert f"Error: another process runs a study or comparison in {out}; wait for it or choose another --out" in text
    assert not (out / "store").exists()


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(("where", "moment"), [(work, "load"), (running, "write_report")])
def test_ctrl_c_outside_of_training_is_one_sentence(npz, tmp_path, monkeypatch, where, moment) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, moment, interrupt)
    showwarning = warnings.showwarning
    code, text = plain("compare", "--data", npz, *SMALL, "--lr", "1e-2", "--out", tmp_path / "out")
    assert code == 130
    assert "Stopped: what is finished is kept; the same command goes on from there." in text
    assert warnings.showwarning is showwarning


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("removed", ["study.json", None])
def test_a_folder_of_an_earlier_version_is_said_to_be_one(whole, tmp_path, removed) -> None:
    arguments, first, _ = whole
    out = shutil.copytree(first, tmp_path / "out")
    if removed:
        (out / removed).unlink()
    _, text = plain(*arguments, "--out", out)
    words = f"Warning: {out} is of an earlier version: the report goes into {out / 'report'} now; its trials on own"
    assert (words in text) == bool(removed)


@pytest.mark.usefixtures("inline")
def test_trials_that_fail_are_named_and_the_exit_status_says_so(npz, tmp_path, monkeypatch) -> None:
    def fail(spec, setup):
        return TrialResult(status="error", error="Traceback\nRuntimeError: boom [1]") if spec.replicate else OK

    monkeypatch.setattr(running, "run_planned", fail)
    code, text = plain("compare", "--data", npz, *SMALL, "--lr", "1e-2", "--out", tmp_path / "out")
    assert code == 1
    assert len(re.findall(r"Failed: [0-9a-f]{16} images final \w+, lr 0.01: RuntimeError: boom \[1\]", text)) == 2
    assert "The same command tries what failed again." in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizers", "adamw,lion"], "'lion'; allowed: adamomentum, adamw, nadamw, adam, sgdm"),
        (["--optimizers", ","], "allowed: adamomentum, adamw, nadamw, adam, sgdm"),
        (["--device", "tpu"], "'tpu'; allowed: cpu, cuda, mps"),
        (["--seeds", "0"], "'--seeds'"),
        (["--epochs", "0"], "'--epochs'"),
        (["--epochs", "many"], "valid integer"),
        (["--workers", "0"], "'--workers'"),
        (["--lr", "fast"], "'fast' is not [NAME=]LR[,LR...] with finite LR > 0"),
        (["--lr", "-1e-3"], "finite LR > 0"),
        (["--lr", "nan"], "finite LR > 0"),
        (["--lr", "inf"], "finite LR > 0"),
        (["--lr", "0"], "finite LR > 0"),
        (["--lr", "lion=1e-3"], "allowed: adamomentum, adamw, adam, sgdm"),
        (["--optimizers", "adam", "--lr", "adamw=1e-3"], "allowed: adam"),
        (["--lr", "adamw=1e-3", "--lr", "ADAMW=1e-2"], "second one for adamw; join them as ADAMW=LR,LR"),
        (["--lr", "1e-3", "--lr", "1e-2"], "second one for all optimizers; join them as LR,LR"),
        (["--lr", "=1e-2"], "names '', which is not compared"),
        (["--sneeds", "3"], "No such option"),
    ],
)
def test_wrong_options_say_what_is_allowed(arguments, words, tmp_path) -> None:
    code, text = plain("compare", *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert words in text
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there(tmp_path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    code, text = plain("compare", "--device", "cuda", "--out", tmp_path / "out")
    assert code == 2
    assert "finds no cuda device here; allowed here: cpu" in text


def test_bad_data_is_one_sentence(tmp_path) -> None:
    code, text = plain("compare", "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert code == 1
    assert text.strip().startswith("Error: --data takes a folder of images or an .npz file")


def test_brackets_in_a_message_survive(tmp_path) -> None:
    np.savez(tmp_path / "flat.npz", x=np.zeros((60, 4), np.uint8), y=np.repeat([0, 1], 30))
    code, text = plain("compare", "--data", tmp_path / "flat.npz", "--out", tmp_path / "out")
    assert code == 1
    assert "need [n, h, w] or [n, h, w, 1 or 3]" in text


def test_offline_is_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    work._load.cache_clear()
    code, text = plain("compare", "--out", tmp_path / "out")
    assert code == 1
    assert re.fullmatch(r" ?Error: MNIST-5k is not in the cache .* or give your own images with --data ?", text)


def test_an_output_folder_that_cannot_be(npz, tmp_path) -> None:
    (tmp_path / "file").touch()
    code, text = plain("compare", "--data", npz, "--out", tmp_path / "file")
    assert code == 1
    assert f"{tmp_path / 'file'} is a file; choose another --out" in text


def test_a_missing_extra_is_one_sentence_and_version_needs_none(tmp_path) -> None:
    blocker = "import sys; sys.modules['typer'] = None; from adamomentum.cli import main; main()"
    (tmp_path / "adamomentum-98.7.dist-info").mkdir()
    (tmp_path / "adamomentum-98.7.dist-info" / "METADATA").write_text("Name: adamomentum\nVersion: 98.7\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))

    def blocked(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            [sys.executable, "-c", blocker, *arguments], capture_output=True, text=True, env=environment
        )

    described = blocked("--help")
    assert described.returncode == 0
    assert described.stdout.startswith("Usage: adamomentum COMMAND")
    commands = ("compare", "study", "theory", "bench", "memory", "doctor")
    assert all(f"\n  {name} " in described.stdout for name in commands)
    compare = blocked("compare")
    assert compare.returncode == 1
    assert compare.stderr.strip() == 'adamomentum needs typer for this: pip install "adamomentum[study]"'
    printed = blocked("--version")
    assert (printed.returncode, printed.stdout) == (0, "adamomentum 98.7\n")


@pytest.mark.parametrize("arguments", ["doctor", "memory", "study plan paper-mini --json --out {out}"])
def test_who_reads_may_have_read_enough(arguments, tmp_path) -> None:
    command = [sys.executable, "-m", "adamomentum", *arguments.format(out=tmp_path).split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # as `head` does
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (1, "")


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "adamomentum", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"adamomentum {version('adamomentum')}\n")


def test_help_without_extras_names_every_command() -> None:
    """What is written down for want of the modules, beside what they say."""
    listed = re.findall(r"^  (\w+) ", command_line.HELP, re.MULTILINE)
    assert sorted(listed) == sorted(get_command(command_line._whole_app()).commands)


def test_help_lists_the_options_and_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from adamomentum.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('torch' in sys.modules, 'matplotlib' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, "compare", "--help"], capture_output=True, text=True)
    for option in ("--optimizers", "--seeds", "--epochs", "--lr", "--out", "--device", "--data"):
        assert option in result.stdout
    assert result.stdout.strip().endswith("False False")


def test_where_there_is_a_compiler_there_are_kernels():
    """Their tests are skipped without them, and a build that failed would go unseen."""
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler here")
    assert find_spec("adamomentum._native"), "see the log of pip install -v for what the compiler said"


def test_doctor(capsys, monkeypatch):
    from adamomentum.torch import fused_cpu

    monkeypatch.setattr("sys.argv", ["adamomentum", "doctor"])
    command_line.main()
    printed = capsys.readouterr().out
    assert f"torch                       {torch.__version__}" in printed
    assert f"fused on a CPU              {'not available' if fused_cpu.why_not() else 'available: '}" in printed
    monkeypatch.setattr(fused_cpu, "why_not", lambda: "there is no compiler here")
    command_line.main()
    assert "fused on a CPU              not available: there is no compiler here\n" in capsys.readouterr().out


def test_doctor_without_torch(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["adamomentum", "doctor"])
    monkeypatch.setattr("adamomentum.doctor.find_spec", lambda name: None)
    command_line.main()
    printed = capsys.readouterr().out
    for extra in ("torch", "jax", "keras"):
        assert f'not available: run pip install "adamomentum[{extra}]"' in printed


@pytest.mark.parametrize(
    ("there", "keras", "words"),
    [
        (("jax", "optax"), None, ["optax transformation        available\n"]),
        (("optax",), None, ['optax transformation        not available: run pip install "adamomentum[jax]"\n']),
        (("keras", "jax", "tensorflow"), "3.10.0", ["Keras optimizer             available, with jax or tensorflow\n"]),
        (("keras",), "3.10.0", ["not available: install torch, jax or tensorflow\n"]),
        (("keras", "jax"), "2.15.0", ["not available: it is for Keras 3"]),
    ],
)
def test_doctor_on_jax_and_keras(monkeypatch, there, keras, words):
    monkeypatch.setattr(
        doctor, "find_spec", lambda name: ModuleSpec(name, None, origin=name) if name in there else None
    )
    monkeypatch.setattr(doctor, "version", lambda name: keras if name == "keras" and keras else "1.0")
    report = doctor.report() + "\n"
    assert all(word in report for word in words), report


def test_doctor_is_not_misled_by_folders_that_are_called_like_packages(monkeypatch):
    spec = ModuleSpec("keras", None)  # what Python makes of such a folder
    monkeypatch.setattr(
        doctor, "find_spec", lambda name: spec if name in ("keras", "jax", "optax") else find_spec(name)
    )
    report = doctor.report()
    assert "adamomentum[keras]" in report
    assert "adamomentum[jax]" in report
