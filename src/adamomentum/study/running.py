"""A run as the commands do it: the folder held, what gets done and what fails said, the report written.

Tested in tests/study/test_commands.py.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from adamomentum.cores import available_cores
from adamomentum.study import logs
from adamomentum.study.archive import ArchiveError
from adamomentum.study.data.base import DataError
from adamomentum.study.engine import Folder, Round, check_optimizers, run_study
from adamomentum.study.estimate import duration
from adamomentum.study.execute.base import Executor
from adamomentum.study.execute.local import LocalExecutor
from adamomentum.study.logs.base import Writer
from adamomentum.study.logs.follow import Follower
from adamomentum.study.progress import Watch
from adamomentum.study.stages import Planned
from adamomentum.study.store import StoreError, StoreWarning
from adamomentum.study.studyfile import Study, StudyError
from adamomentum.study.trial import TrialResult
from adamomentum.study.work import Setup, run_planned
from adamomentum.terminal import INTERRUPTED, interruptible, plain_warnings, say

LogTo = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help=f"Show learning curves there as they come: {', '.join(logs.NAMES)}. Several times, too.",
    ),
]


class Failed(Exception):
    """A command cannot go on; the message says why."""


@contextmanager
def told(console: Console) -> Iterator[None]:
    """Make a sentence and an exit status of what a user can do something about."""
    try:
        with plain_warnings(console, StoreWarning), interruptible():
            yield
    except BrokenPipeError:
        raise  # nobody reads what is printed
    except (StudyError, DataError, StoreError, ArchiveError, Failed, OSError) as error:
        say(console, f"Error: {error}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say(console, "Stopped: what is finished is kept; the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None


def setup_of(folder: Folder, sources: Mapping[str, Path], **options: Any) -> Setup:
    """Return where workers find what is in a study's folder, and the user's data by ``sources``."""
    return Setup(
        sources,
        folder.checkpoints.resolve(),
        files=folder.files.resolve(),
        running=folder.running.resolve(),
        **options,
    )


def gpus(device: str) -> int:
    """Return how many CUDA devices trials may use."""
    if device != "cuda":
        return 0
    import torch

    return torch.cuda.device_count()


def default_workers(study: Study, device: str) -> int:
    """Return how many trials run at a time unless the user says it: one a core, or as many as the GPUs hold."""
    if device == "cpu":
        return available_cores()
    return max(1, gpus(device) // max(task.processes for task in study.tasks))


def local_executor(setup: Setup, workers: int, device: str) -> LocalExecutor:
    """Return what runs trials in processes here, each with GPUs of its own where there are enough."""
    # More trials than GPUs share them all; fewer get several each, for trials of several processes.
    devices = gpus(device)
    return LocalExecutor(setup, workers, run_planned, range(devices) if devices >= workers else None)


def executor_of(kind: str, setup: Setup, workers: int, address: str | None, device: str) -> Executor:
    """Return what runs trials: ``local`` processes, or ``ray`` at ``address``.

    Raises:
        Failed: if there is no such thing.
    """
    if kind == "local":
        if address is not None:
            raise Failed("--address goes with --executor ray")
        return local_executor(setup, workers, device)
    if kind == "ray":
        from adamomentum.study.execute.ray import RayExecutor

        try:
            return RayExecutor(setup, workers, run_planned, address)
        except ModuleNotFoundError:
            raise Failed('--executor ray needs Ray: pip install "adamomentum[ray]"') from None
        except ConnectionError as error:
            raise Failed(f"there is no Ray cluster at {address}: {error}") from None
    raise Failed(f"unknown executor {kind!r}; allowed: local, ray")


def writers_of(names: Sequence[str], folder: Folder) -> dict[str, Writer]:
    """Return what logs trials, by name.

    Raises:
        Failed: if a name is not known, or its package not installed.
    """
    writers = {}
    for name in names:
        try:
            writers[name] = logs.writer(name, folder.root, folder.whole.name)
        except ModuleNotFoundError as error:
            raise Failed(f"--log-to {name} needs {error.name}, which is not installed: pip install {name}") from None
        except ValueError as error:
            raise Failed(str(error)) from None
    return writers


def run_and_report(
    folder: Folder,
    setup: Setup,
    start: Callable[[], Executor],
    workers: int,
    device: str,
    errors: Console,
    log_to: Sequence[str] = (),
) -> None:
    """Run what the folder lacks of its study, print the results and write the report.

    Args:
        folder: of the study, which the caller holds.
        setup: where trials find what is not part of them.
        start: starts what runs them.
        workers: how many it runs at a time.
        device: kind of device.
        errors: where to say what went wrong.
        log_to: names of what shows learning curves; see ``logs``.

    Raises:
        Failed: if what ``log_to`` names is not there.
        typer.Exit: if trials failed, or the run was interrupted.
    """
    console, started = Console(), time.perf_counter()
    writers = writers_of(log_to, folder)
    check_optimizers(folder.study)
    known = folder.prepare_data(setup.sources, lambda text: say(console, text))
    folder.register()
    watch = Watch(folder.study, workers, console, folder.running)
    follower = Follower(writers, folder.running, lambda text: say(errors, text))

    def on_round(now: Round) -> None:
        watch.on_round(now)
        follower.on_round(now)

    def on_trial(planned: Planned, result: TrialResult) -> None:
        watch.on_trial(planned, result)
        follower.on_trial(planned, result)

    try:
        # What logs stops last: it has the results of the trials that ended just before.
        with interruptible(), follower, start() as executor, watch:
            done = run_study(folder, known, executor, device, on_round, on_trial)
    except KeyboardInterrupt:
        say(
            errors,
            f"Stopped: {watch.place} trials are finished and kept in {folder.store.root}; the same command goes on "
            "from there.",
        )
        raise typer.Exit(INTERRUPTED) from None
    say(console, f"{watch.trained} trials trained, {watch.kept} taken from {folder.store.root}")
    failed = {t.spec.trial_id: t for t in done.plan.trials if done.results[t.spec.trial_id].status == "error"}
    for key, t in failed.items():
        error = done.results[key].last_line
        say(errors, f"Failed: {key} {t.task} {t.role} {t.optimizer}, lr {t.spec.optimizer.lr:g}: {error}")
    write_report(folder, device, console)
    say(console, f"{duration(time.perf_counter() - started)} in all")
    if failed:
        say(errors, "The same command tries what failed again.")
        raise typer.Exit(1)


def write_report(folder: Folder, device: str, console: Console) -> None:
    """Print the results of a study and write its report."""
    from adamomentum.study.report.summary import write_and_say

    write_and_say(folder, device, "adamomentum " + shlex.join(sys.argv[1:]), console)
