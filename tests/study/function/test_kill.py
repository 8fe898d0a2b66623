"""SIGKILL at random moments, then the same command: complete, and as if nothing had been."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study.function.functions import changed, compared
from study.mini import finished

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")

# Each trial takes long enough that a kill mostly hits one under way.
SLOW = changed(("            optimizer.step()", "            import time; time.sleep(0.02); optimizer.step()"))
COMMAND = """
from adamomentum.cli import main
from adamomentum.study import running
running.write_report = lambda *arguments: None
main()
"""


def run_here(folder: str) -> None:
    compared(Path(folder), SLOW)


def test_a_few_kills_change_nothing(tmp_path) -> None:
    undisturbed = tmp_path / "undisturbed"
    killed = tmp_path / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
    compared(undisturbed, SLOW)
    context, rng, counts = multiprocessing.get_context("spawn"), random.Random(0), []
    for _ in range(4):
        process = context.Process(target=run_here, args=(str(killed),))
        process.start()
        while process.is_alive() and len(finished(killed / "out")) <= (counts or [0])[-1]:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.join()
        counts.append(len(finished(killed / "out")))
    assert counts == sorted(counts)
    assert 0 < counts[0] < 9
    compared(killed, SLOW)
    assert finished(killed / "out") == finished(undisturbed / "out")
    assert not list(killed.glob("out/store/failed/*.json"))


def start(folder: Path, *options: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-c",
        COMMAND,
        "compare",
        "--train",
        "my_train.py:train",
        "--trials",
        "3",
        "--seeds",
        "3",
    ]
    return subprocess.Popen(
        [*command, "--workers", "2", "--out", "out", *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--executor", "ray")], ids=["local", "ray"])
def test_twenty_kills_of_the_command_change_nothing(tmp_path, options) -> None:
    if options:
        pytest.importorskip("ray")
    folders = {}
    for name in ("undisturbed", "killed"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        (folders[name] / "my_train.py").write_text(changed(("time.sleep(0.02)", "time.sleep(0.1)"), text=SLOW))
    process = start(folders["undisturbed"])
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    expected, rng, hits = finished(folders["undisturbed"] / "out"), random.Random(1), 0
    assert len(expected) >= 16
    for kill in range(20):
        process = start(folders["killed"], *options)
        before = len(finished(folders["killed"] / "out"))
        end = time.monotonic() + 120
        # Every fifth time while it starts, else when it has got on.
        while kill % 5 and process.poll() is None and time.monotonic() < end:
            if len(finished(folders["killed"] / "out")) > before:
                break
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1.0 if kill % 5 else 4.0))
        hits += process.poll() is None
        process.kill()
        process.communicate()
        if options:  # two of Ray's own processes outlive a driver that was killed
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert hits >= 5
    process = start(folders["killed"], *options)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert finished(folders["killed"] / "out") == expected
    assert not list(folders["killed"].glob("out/store/failed/*.json"))
