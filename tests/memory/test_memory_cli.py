"""The command ``adamomentum memory``."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from adamomentum import cli
from adamomentum.memory import Sizes
from adamomentum.memory.cli import run


def printed(capsys, *arguments: str) -> str:
    run(arguments)
    return capsys.readouterr().out


def test_without_a_model(capsys) -> None:
    text = printed(capsys)
    assert text.startswith("Bytes a parameter\n")
    [four] = re.findall(
        r"bfloat16 +stochastic +8bit +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)", text
    )[:1]
    assert four == ("2.00", "2.00", "2.01", "0.00", "6.01", "4.01")
    [adamw] = re.findall(r"^torch AdamW +float32 +nearest +float32 +1.00 / 1.33 .* 8.81 / 11.75$", text, re.MULTILINE)
    assert adamw
    assert "This model" not in text
    assert "by AdaMomentum a bucket of 2^20: a number" in text


def test_with_a_number(capsys) -> None:
    text = printed(capsys, "7B")
    assert text.startswith("7,000,000,000 parameters are trained\n")
    assert re.search(r"bfloat16 +stochastic +8bit +42.05 +28.06 +48 GB +48 GB\n", text)
    assert " none" not in text.partition("Largest model")[0]
    assert re.search(r"torch AdamW +float32 +nearest +float32 +160.00 +120.00 +none +141 GB\n", printed(capsys, "1e10"))


def test_shared_parameters_are_named(capsys, monkeypatch) -> None:
    sizes = Sizes((2**25, 2**20), 2**25)
    monkeypatch.setattr("adamomentum.memory.cli.sizes_of", lambda model: sizes)
    assert "shared" not in printed(capsys, "config.json")
    sizes = Sizes((2**25, 2**20), 2**25, shared=(2**25,))
    assert "Those of 33,554,432 shared elements are held" in printed(capsys, "config.json")


def test_the_numbers_as_a_file(capsys, tmp_path) -> None:
    file = tmp_path / "memory.json"
    printed(capsys, "7B", "--json", str(file))
    record = json.loads(file.read_text())
    adamw = next(entry for entry in record if entry["optimizer"] == "torch AdamW" and entry["parameters"] == "float32")
    assert adamw["bytes"]["total"] == 112 * 10**9
    assert adamw["bytes_per_parameter"]["total"] == 16
    assert adamw["largest"]["80"] == {"total": 5 * 10**9, "released": 80 * 10**9 // 12}
    printed(capsys, "--json", str(file))
    assert json.loads(file.read_text())[0]["bytes"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["7X"], "7X is neither a number of parameters"),
        (["-1"], "number of parameters must be finite and at least 1, got '-1'"),
        (["7B", "--json", "/no/such/folder/file"], "cannot write /no/such/folder/file: No such file"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, words, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    assert stopped.value.code == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_count_needs_no_extra_and_no_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('typer', 'rich', 'torch'): sys.modules[name] = None\n"
        "from adamomentum.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "memory", "7B"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4.01" in done.stdout


def test_the_command(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["adamomentum", "memory", "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert "usage: adamomentum memory" in capsys.readouterr().out
