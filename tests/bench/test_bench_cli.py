from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from adamomentum.bench import run as run_module
from adamomentum.cli import _bench_app


def command(*arguments: object) -> tuple[int, str]:
    """Exit code and output, without boxes and line breaks."""
    arguments = ["bench", *map(str, arguments)]
    result = CliRunner().invoke(_bench_app(), arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})
    return result.exit_code, re.sub(r"[\s│╭╮╰╯─]+", " ", result.output)


def test_end_to_end(tmp_path) -> None:
    page, data = tmp_path / "page.md", tmp_path / "data.json"
    arguments = ["--workload", "resnet18", "--workload", "100x64", "--workload", "clip-100x512", "--threads", "1"]
    # DeepSpeed, where it is installed, compiles its kernel for minutes.
    code = "import sys; sys.modules['deepspeed'] = None; from adamomentum.cli import main; main()"
    result = python(code, "bench", "--quick", *arguments, "--out", str(page), "--json", str(data))
    assert result.returncode == 0, result.stderr
    text = page.read_text(encoding="utf-8")
    for heading in ("# Performance", "## Models, 1 thread", "## Many small tensors, 1 thread", "## Memory"):
        assert f"{heading}\n" in text
    assert "torch AdamW fused" in result.stdout
    assert result.stdout.strip() in text
    assert "adamomentum bench --quick" in text
    numbers = json.loads(data.read_text())
    assert [w["key"] for w in numbers["workloads"]] == ["resnet18", "100x64", "clip-100x512"]
    for w in numbers["workloads"]:
        assert {len(t["seconds"]) for t in w["times"]["1"].values()} == {3}
    if "AdaMomentum 8-bit state" in numbers["workloads"][0]["state_bytes_per_parameter"]:
        assert numbers["workloads"][0]["state_bytes_per_parameter"]["AdaMomentum 8-bit state"] < 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workload", "vgg"], "workload must be one of resnet18, gpt2"),
        (["--device", "tpu"], "unknown device 'tpu'; allowed: cpu, cuda"),
        (["--threads", "0"], "'--threads'"),
        (["--threads", "100000"], "the cores there are, got 100000"),
        (["--rounds", "1"], "'--rounds'"),
        (["--allocations", "0"], "'--allocations'"),
        (["--device", "cuda", "--threads", "1"], "threads are for --device cpu only"),
        (["--out", "nowhere/page.md"], "there is no folder nowhere; create it first"),
        (["--json", "."], "is a folder; name a file in it"),
        (["--sneeds", "3"], "No such option"),
    ],
)
def test_wrong_options_say_what_is_allowed(arguments, words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = command("--quick", *arguments)
    assert code == 2
    assert words in text
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    code, text = command("--quick", "--device", "cuda")
    assert code == 2
    assert "finds no cuda device here; allowed here: cpu" in text


def test_ctrl_c_is_one_sentence(tmp_path, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "measure", interrupt)
    code, text = command("--quick", "--workload", "100x64", "--out", tmp_path / "page.md")
    assert code == 130
    assert "Stopped: nothing was written." in text
    assert not list(tmp_path.iterdir())


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_bench_needs_nothing_of_the_study() -> None:
    blocker = (
        "import sys\nfor m in ('pandas', 'matplotlib', 'scipy', 'jinja2', 'platformdirs', 'PIL'):\n"
        "    sys.modules[m] = None\nfrom adamomentum.cli import main\nmain()"
    )
    result = python(blocker, "bench", "--help")
    assert result.returncode == 0, result.stderr
    assert "--workload" in result.stdout


@pytest.mark.parametrize("missing", ["typer", "torch"])
def test_a_missing_extra_is_one_sentence(missing) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from adamomentum.cli import main; main()"
    result = python(code, "bench", "--quick")
    assert result.returncode == 1
    assert result.stderr.strip() == f'adamomentum needs {missing} for this: pip install "adamomentum[bench]"'


def test_help_lists_both_commands_and_imports_no_torch() -> None:
    code = (
        "import sys\nfrom adamomentum.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)\n"
    )
    everything, bench = python(code, "--help"), python(code, "bench", "--help")
    assert "compare" in everything.stdout
    assert "bench" in everything.stdout
    for result in (everything, bench):
        assert result.stdout.strip().endswith("False")
