"""SIGKILL at random moments, the driver or a worker: the store ends up complete and as if nothing had been."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from study.arrays import make_arrays
from study.mini import finished

from adamomentum.study import studyfile
from adamomentum.study.engine import Folder, run_study
from adamomentum.study.execute.local import LocalExecutor
from adamomentum.study.work import Setup, run_planned

RAY_KILLS = 2  # as often as a trial is started again: both may hit the same one
# All rounds, few trials, and each long enough that a kill mostly hits some under way.
STUDY = """
name = "killed"
[tuning]
trials = 2
extension = 1
[default]
seeds = 1
[final]
seeds = 2
[optimizers]
adamomentum = {}
adamw = {}
[[tasks]]
name = "one"
family = "image-classification"
params = { data = "folder" }
budget = { steps = 120, batch_size = 8, evaluations = 2 }
"""
# The command but for its report, which takes longer than all of these trials.
COMMAND = """
from adamomentum.cli import main
from adamomentum.study import running
running.write_report = lambda *arguments: None
main()
"""


def start(study: Path, data: Path, out: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-c", COMMAND, "study", "run", str(study), "--data", f"folder={data}", "--workers", "2"]
    command += ["--out", str(out), "--checkpoint-minutes", "0.002", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(pid: int, what: str = "") -> list[int]:
    """The processes that a process started, those alone whose command has ``what`` in it."""
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in listed if what in line]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """The study's file, and that of its data."""
    folder = tmp_path_factory.mktemp("files")
    x, y = make_arrays()
    np.savez(folder / "tiny.npz", x=x, y=y)
    (folder / "killed.toml").write_text(STUDY)
    return folder / "killed.toml", folder / "tiny.npz"


@pytest.fixture(scope="module")
def undisturbed(files, tmp_path_factory) -> dict[str, dict]:
    """What the study comes to when nothing is killed."""
    study, data = files
    folder = Folder(tmp_path_factory.mktemp("undisturbed"), studyfile.read(str(study)))
    sources = {"folder": data}
    known = folder.prepare_data(sources, lambda text: None)
    folder.register()
    with LocalExecutor(Setup(sources), 2, run_planned) as executor:
        run_study(folder, known, executor, "cpu", lambda *a: None, lambda *a: None)
    return finished(folder.root)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_kills_change_nothing(tmp_path, files, undisturbed) -> None:
    out = tmp_path / "killed"
    rng = random.Random(0)
    counts = []
    # At any moment, starting up perhaps, however slow the machine is; under way; and under way after a worker's death,
    # with which the run itself must go on.
    for under_way, worker_dies in ((False, False), (True, False), (True, True)):
        before = written(out)
        process = start(*files, out)
        if under_way:
            wait_until(lambda p=process, before=before: p.poll() is not None or written(out) != before)
        time.sleep(rng.uniform(0.0, 1.0 if under_way else 4.0))
        workers = children(process.pid)
        if worker_dies:
            os.kill(rng.choice(children(process.pid, "spawn_main")), signal.SIGKILL)  # not what counts resources
            time.sleep(rng.uniform(0.5, 2.0))
        assert process.poll() is None, process.stdout.read()
        process.kill()
        process.wait()
        for worker in workers:
            wait_for_the_end_of(worker)
        counts.append(len(finished(out)))
    assert counts == sorted(counts)
    process = start(*files, out)
    output, _ = process.communicate(timeout=560)
    assert process.returncode == 0, output
    assert finished(out) == undisturbed
    assert not list(out.glob("store/failed/*.json"))
    assert not list((out / "checkpoints").glob("*.pt"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_sigterm_keeps_what_is_finished_says_so_and_leaves_nothing_behind(tmp_path, files) -> None:
    out = tmp_path / "out"
    process = start(*files, out)
    wait_until(lambda: process.poll() is not None or bool(list(out.glob("store/??/*.json"))))
    workers = children(process.pid)
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    stopped = re.fullmatch(
        rf"Stopped: (\d+) of \d+ trials are finished and kept in {re.escape(str(out / 'store'))}; "
        "the same command goes on from there.",
        output.splitlines()[-1],
    )
    assert stopped is not None, output
    assert int(stopped[1]) == len(finished(out))
    assert "Traceback" not in output
    assert "leaked" not in output
    assert finished(out)
    for worker in workers:
        wait_for_the_end_of(worker)


def written(out: Path) -> set[tuple[str, int]]:
    """Trials and checkpoints, as they are: what changes when the run gets on."""
    stamps = set()
    for path in (*out.glob("store/*/*.json"), *out.glob("checkpoints/*.pt")):
        try:
            stamps.add((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:  # just deleted, or replaced
            continue
    return stamps


def wait_until(happens: Callable[[], bool], seconds: float = 300) -> None:
    """Wait, but not for ever."""
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:
        time.sleep(0.05)


def wait_for_the_end_of(pid: int) -> None:
    """A worker leaves with its driver, even if that could not say good-bye."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError(f"worker {pid} outlived its driver")


def descendants(pid: int) -> list[int]:
    return [p for child in children(pid) for p in (child, *descendants(child))]


def trials_under_way(driver: int) -> list[int]:
    """The workers of the driver's own Ray cluster that run a trial: Ray names a process after what it runs."""
    pids = []
    for pid in descendants(driver):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:  # just gone
            continue
        if name.startswith(b"ray::_run_remote"):
            pids.append(pid)
    return pids


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to find Ray's workers")
def test_ray_gives_the_same_results_though_workers_are_killed(tmp_path, files, undisturbed) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "ray"
    process = start(*files, out, "--executor", "ray")
    killed = 0
    while process.poll() is None and killed < RAY_KILLS:
        before = written(out)
        wait_until(lambda before=before: process.poll() is not None or written(out) != before)
        for worker in trials_under_way(process.pid)[:1]:
            os.kill(worker, signal.SIGKILL)
            killed += 1
    output, _ = process.communicate(timeout=560)
    assert process.returncode == 0, output
    assert killed == RAY_KILLS
    assert finished(out) == undisturbed
    assert not list(out.glob("store/failed/*.json"))
