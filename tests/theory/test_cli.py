"""The command: which exit status, and what is written, whatever becomes of an experiment."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import typer
from theory.faults import ON_DEMAND
from typer.testing import CliRunner

from adamomentum.theory import experiments, page, run
from adamomentum.theory.cli import theory


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Calls it with experiments that stand in for all; returns exit status, output and what was written."""

    def call(names, *options, out="out"):
        monkeypatch.setattr(experiments, "by_name", lambda: {name: ON_DEMAND[name] for name in names})
        arguments = ["--out", str(tmp_path / out), *options]
        monkeypatch.setattr(sys, "argv", ["/usr/bin/adamomentum", "theory", *arguments])
        app = typer.Typer()
        app.command()(theory)
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        path = tmp_path / out / page.CLAIMS
        record = json.loads(path.read_text()) if path.exists() else None
        return result.exit_code, result.output, record

    return call


@pytest.fixture
def threads(monkeypatch):
    """Instead of processes, which take seconds to start."""
    monkeypatch.setattr(run, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("names", "status"),
    [
        (["good"], 0),
        (["good", "paper_false"], 0),
        (["good", "offline"], 0),
        (["good", "false"], 1),
        (["good", "raises"], 3),
        (["raises"], 3),
        (["raises", "false", "good"], 1),
    ],
)
def test_exit_status(command, tmp_path, names, status) -> None:
    code, output, record = command(names)
    assert code == status
    keys = {"good": "good-quick-0", "paper_false": "paper-false"}
    # In the order of the page, whoever finishes first.
    assert [claim["key"] for claim in record["claims"]] == [keys.get(name, name) for name in names if name != "raises"]
    assert [failure["name"] for failure in record["failures"]] == [name for name in names if name == "raises"]
    html = (tmp_path / "out" / page.PAGE).read_text()
    for name in names:
        if name == "raises":
            assert "ZeroDivisionError: an experiment that breaks [down]" in output
            assert "ZeroDivisionError: an experiment that breaks [down]" in html
        else:
            assert f"Statement {keys.get(name, name)}." in output
            assert f"Statement {keys.get(name, name)}." in html
    assert ("This library relies on it, and it is not confirmed: Statement false." in output) == ("false" in names)


@pytest.mark.usefixtures("threads")
def test_what_could_not_be_computed_is_undecided_and_says_why(command, tmp_path) -> None:
    code, output, record = command(["offline"])
    assert code == 0
    (claim,) = record["claims"]
    assert (claim["verdict"], claim["fault"], claim["missing"]) == ("undecided", False, "no network today")
    assert "Not computed: Statement offline.: no network today" in output
    assert "Not computed: no network today" in (tmp_path / "out" / page.PAGE).read_text()


@pytest.mark.usefixtures("threads")
def test_only_some_experiments(command) -> None:
    code, _, record = command(["good", "false", "paper_false"], "--only", "paper_false, good,good")
    assert code == 0
    assert [claim["key"] for claim in record["claims"]] == ["good-quick-0", "paper-false"]
    code, output, record = command(["good"], "--only", "goods", out="nothing")
    assert code == 2
    assert "no experiment is called goods; there are good" in " ".join(output.replace("│", " ").split())
    assert record is None


@pytest.mark.usefixtures("threads")
def test_options_reach_the_experiments_and_the_record(command, tmp_path) -> None:
    code, output, record = command(["good"], "--full", "--seed", "7", "--workers", "1", out="some where")
    assert code == 0
    assert record["claims"][0]["key"] == "good-full-7"
    assert (record["profile"], record["seed"]) == ("full", 7)
    expected = f"adamomentum theory --out '{tmp_path}/some where' --full --seed 7 --workers 1"
    assert record["command"] == expected
    html = (tmp_path / "some where" / page.PAGE).read_text()
    assert expected.replace("'", "&#39;") in html
    assert f"{tmp_path}/some where/theory.html" in output


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("what", ["file", "file/below", "page", "figures"])
def test_an_output_that_cannot_be_is_refused_before_anything_is_computed(command, tmp_path, monkeypatch, what) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "page" / page.PAGE).mkdir(parents=True)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "figures").touch()
    monkeypatch.setattr(run, "run_experiment", lambda *_: pytest.fail("an experiment was run"))
    code, output, record = command(["good"], out=what)
    assert code == 2
    assert "choose another --out" in " ".join(output.replace("│", " ").split())
    assert "Traceback" not in output
    assert record is None


@pytest.mark.usefixtures("threads")
def test_a_disk_that_is_full_at_the_end_is_a_sentence_and_the_verdicts_are_printed(command, monkeypatch) -> None:
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write", full)
    code, output, _ = command(["good"])
    assert code == 3
    assert "Statement good-quick-0." in output
    assert "Error: not all was written: [Errno 28] No space left on device" in output


def test_ctrl_c_is_a_sentence(command, monkeypatch) -> None:
    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_all", interrupt)
    code, output, record = command(["good"])
    assert (code, record) == (130, None)
    assert "Stopped: nothing was written." in output


def test_in_processes_of_their_own(command) -> None:
    """Where one that dies, e.g. of a lack of memory, does not take the command with it."""
    code, output, record = command(["good", "dies"], "--workers", "1")
    assert code == 3
    assert [claim["key"] for claim in record["claims"]] == ["good-quick-0"]
    assert [failure["name"] for failure in record["failures"]] == ["dies"]
    assert "BrokenProcessPool" in output
