"""Runs a study: plans, runs what the store lacks, plans again, until nothing is left.

The folder of a study:

    study.json      the study as read, its hash, and every earlier version of it that was run here
    data.json       fingerprint, description and trivial baselines of each task's data
    store/          finished trials (see store.py)
    checkpoints/    the state of long trials under way
    running/        how far trials under way are (see standing.py)
    files/          what trials of a training function of the user's own print and keep, a folder each
    report/         what ``study report`` writes

Everything but the store is derived or informative; killing the process at any moment costs the trials under way.
"""

from __future__ import annotations

import json
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from adamomentum.files import write_atomic
from adamomentum.study import fairness, registry, stages, tasks
from adamomentum.study.checkpoint import Checkpoints
from adamomentum.study.execute.base import Executor
from adamomentum.study.lock import locked
from adamomentum.study.spec import TrialSpec
from adamomentum.study.stages import Plan, Planned
from adamomentum.study.standing import clear
from adamomentum.study.store import Store, StoreWarning, reason
from adamomentum.study.studyfile import Study, StudyError
from adamomentum.study.tasks.function.script import Script, UnfitError
from adamomentum.study.tasks.function.surroundings import surroundings
from adamomentum.study.trial import TrialResult
from adamomentum.study.work import load

STALE_SECONDS = 600

OnTrial = Callable[[Planned, TrialResult], None]
Kept = Callable[[TrialSpec], TrialResult | None]


@dataclass(frozen=True)
class DataInfo:
    """What is known of a task's data without loading it.

    Attributes:
        fingerprint: of the contents.
        description: one line.
        baselines: what trivial methods reach, name -> metric -> value.
    """

    fingerprint: str
    description: str
    baselines: Mapping[str, Mapping[str, float]]


NO_DATA = DataInfo("0" * 16, "", {})
"""Stands for data that nobody has looked at: its trials can be counted, but their ids are not known."""


class Folder:
    """The folder of a study.

    Args:
        root: where; created when something is written.
        study: what is looked at: the study as it is now, or some of its tasks.
        whole: the study with all its tasks, which is what is registered; default: ``study``.
    """

    def __init__(self, root: Path, study: Study, whole: Study | None = None) -> None:
        self.root, self.study = root, study
        self.whole = whole or study
        self.checkpoints = root / "checkpoints"
        self.report = root / "report"
        self.files = root / "files"
        self.running = root / "running"

    @property
    def store(self) -> Store:
        """The finished trials."""
        return Store(self.root / "store")

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder against a second run; see :func:`adamomentum.study.lock.locked`."""
        return locked(self.root)

    def register(self) -> None:
        """Write down the study; an earlier version of it that differs is kept, with the time of the change."""
        path = self.root / "study.json"
        entry = {"hash": self.whole.hash, "since": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")}
        history = self.history()
        if history and history[-1]["hash"] == self.whole.hash:
            return
        record = {"history": [*history, entry], "study": self.whole.model_dump(mode="json", exclude_defaults=True)}
        write_atomic(path, json.dumps(record, indent=1).encode())

    def history(self) -> list[dict[str, str]]:
        """Return hash and time of each version of the study that was run here, the present one last.

        Raises:
            StudyError: if the file that holds them is damaged: a new one would hide earlier versions.
        """
        path = self.root / "study.json"
        try:
            return [vars(version) for version in _Registered.model_validate_json(path.read_bytes()).history]
        except FileNotFoundError:
            return []
        except (OSError, ValidationError) as error:
            raise StudyError(
                f"{path}, which holds the earlier versions of the study, cannot be read: {reason(error)}; restore it, "
                "or remove it to begin a new history"
            ) from None

    def data(self) -> dict[str, DataInfo]:
        """Return what is known of each task's data from an earlier run; of a damaged file nothing but a warning."""
        path = self.root / "data.json"
        try:
            return read_data(path)
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            warnings.warn(
                f"{path} is damaged ({reason(error)}); the next run looks at the data again and writes a new one",
                StoreWarning,
                stacklevel=2,
            )
            return {}

    def unknown_data(self) -> tuple[str, ...]:
        """Return the tasks whose data no run has looked at yet."""
        known = self.data()
        return tuple(task.name for task in self.study.tasks if task.name not in known)

    def prepare_data(
        self, sources: Mapping[str, Path], say: Callable[[str], None], names: Collection[str] | None = None
    ) -> dict[str, DataInfo]:
        """Load, or download, the data of every task and write down what is known of it.

        Args:
            sources: where data of the user's lies, by family.
            say: told of each task's data.
            names: the tasks to look at; default: all.

        Raises:
            DataError: if some data cannot be had.
            StudyError: if the parameters of a task are wrong.
        """
        known = self.data()
        for entry in self.study.tasks:
            if names is not None and entry.name not in names:
                continue
            try:
                data = load(entry.family, entry.params, sources)
            except ValueError as error:
                raise StudyError(f"study {self.study.name}, tasks.{entry.name}: {error}") from None
            if isinstance(data, Script):
                _check_script(data, f"study {self.study.name}, tasks.{entry.name}")
            say(f"{entry.name}: {data.describe()}")
            if entry.name not in known or known[entry.name].fingerprint != data.fingerprint:
                baselines = tasks.task(entry.family).baselines(data)
                known[entry.name] = DataInfo(data.fingerprint, data.describe(), baselines)
        write_data(self.root / "data.json", known)
        return known

    def rounds(self, data: Mapping[str, DataInfo], device: str, kept: Kept | None = None) -> Iterator[Round]:
        """Yield a plan with what it lacks; what is added to its results is planned on with, until nothing is added.

        Args:
            data: what is known of each task's data.
            device: kind of device.
            kept: where finished trials are looked for, each once; by default in the store.

        Raises:
            StudyError: if the study asks for what an optimizer does not have.
        """
        if kept is None:
            kept = self.store.get if self.root.exists() else lambda spec: None  # no folder is made for asking
        results, asked = dict[str, TrialResult](), set[str]()
        while True:
            plan, before = self._plan(data, results, device), len(results)
            missing: dict[str, Planned] = {}
            for key, t in plan.by_id.items():
                if key not in asked and (result := kept(t.spec)) is not None:
                    results[key] = result
                asked.add(key)
                if key not in results:
                    missing[key] = t
            if len(results) == before:  # else what was kept may already allow to plan further
                yield Round(plan, results, missing)
                if len(results) == before:
                    return

    def _plan(self, data: Mapping[str, DataInfo], results: stages.Results, device: str) -> Plan:
        fingerprints = {name: info.fingerprint for name, info in data.items()}
        try:
            return stages.plan(self.study, fingerprints, results, device)
        except ValueError as error:
            raise StudyError(f"study {self.study.name}: {error}") from None

    def results(
        self, device: str = "cpu", data: Mapping[str, DataInfo] | None = None
    ) -> tuple[Plan, dict[str, TrialResult]]:
        """Return the plan and all finished trials it holds, by trial id.

        A trial whose last attempt failed is not among the finished ones, but counts as done for what is planned after
        it, as it did in the run: a failed tuning trial does not hide the final runs.

        Args:
            device: kind of device.
            data: of each task's data; default: what a run wrote down.

        Raises:
            StudyError: if the study was never run here, so that its data is unknown.
        """
        if data is None:
            data = self.data()
            unknown = [task.name for task in self.study.tasks if task.name not in data]
            if unknown:
                raise StudyError(
                    f"{self.root} knows nothing of the data of {', '.join(unknown)}; run `adamomentum study run` first"
                )
        failed = {spec.trial_id: result for spec, result in self.store.failures()} if self.root.exists() else {}
        for now in self.rounds(data, device):
            now.results.update({key: failed[key] for key in now.missing.keys() & failed.keys()})
        return now.plan, {key: result for key, result in now.results.items() if result.status != "error"}


@dataclass(frozen=True)
class Round:
    """What is to be done now.

    Attributes:
        plan: what can be planned, finished or not.
        results: of its trials that are finished, by trial id; whoever runs the others adds theirs.
        missing: the others, by trial id, in the order of the plan.
    """

    plan: Plan
    results: dict[str, TrialResult]
    missing: dict[str, Planned]


class _Version(BaseModel):
    hash: str
    since: str


class _Named(BaseModel):
    name: str


class _Registered(BaseModel):
    """What ``study.json`` must hold; more may be in it."""

    history: list[_Version]
    study: _Named


def registered_study(path: Path) -> Study:
    """Return the study in the ``study.json`` at ``path``, as it was run last.

    Raises:
        OSError: if the file cannot be read.
        StudyError: if it is none, or another version wrote it.
    """
    try:
        return Study.model_validate(json.loads(path.read_bytes())["study"])
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} holds no study that this version can read: {reason(error)}") from None


def registered_name(path: Path) -> str:
    """Return the name of the study in the ``study.json`` at ``path``.

    Raises:
        OSError: if the file cannot be read.
        ValidationError: if it is none.
    """
    return _Registered.model_validate_json(path.read_bytes()).study.name


_DATA = TypeAdapter(dict[str, DataInfo])


def read_data(path: Path) -> dict[str, DataInfo]:
    """Return what the ``data.json`` at ``path`` says of each task's data.

    Raises:
        OSError: if the file cannot be read.
        ValidationError: if it is none.
    """
    return _DATA.validate_json(path.read_bytes())


def write_data(path: Path, known: Mapping[str, DataInfo]) -> None:
    """Write a ``data.json``."""
    write_atomic(path, json.dumps({name: vars(info) for name, info in known.items()}, indent=1).encode())


def _check_script(script: Script, where: str) -> None:
    """Run the user's script once, but not its function: what is wrong with it fails here, not trial by trial."""
    try:
        with surroundings(script.path):
            script.function()
    except UnfitError as error:
        raise StudyError(f"{where}: {error}") from None
    except (Exception, SystemExit) as error:
        # The user's code may raise anything.
        raise StudyError(
            f"{where}: {script.path} cannot be imported:\n{fairness.own_part(traceback.format_exc())}\n"
            f"{script.advice(error)}".rstrip()
        ) from None


def check_optimizers(study: Study) -> None:
    """Build each optimizer and control of each task over a small parameter, to refuse at once what cannot be built.

    A control's settings would else be looked at after all tuning, and an optimizer of the user's own fail trial by
    trial. This imports the user's own optimizers.

    Raises:
        StudyError: if one cannot be built; the message says which, where, and why.
    """
    import torch

    try:
        for where, spec in stages.published(study):
            try:
                registry.build(spec, [torch.nn.Parameter(torch.zeros(2, 2))])
            except Exception as error:
                # The user's own class may raise anything.
                raise ValueError(f"{where}: {reason(error)}") from error
    except ValueError as error:
        raise StudyError(f"study {study.name}, {error}") from None


def run_study(
    folder: Folder,
    data: Mapping[str, DataInfo],
    executor: Executor,
    device: str,
    on_round: Callable[[Round], None],
    on_trial: OnTrial,
) -> Round:
    """Run what the folder's store lacks; return the whole plan with all results.

    A trial that ends in an error is not tried again in this run: it counts as done, says nothing, and is tried anew
    by the next one.

    Args:
        folder: of the study.
        data: what is known of each task's data.
        executor: where trials run.
        device: kind of device.
        on_round: called before missing trials run, and at the end.
        on_trial: called with each trial that finishes now.

    Raises:
        StudyError: if the user's own training turns out to be such that its comparison would be of no use.
    """

    def check(now: Round) -> None:
        if fault := fairness.fault(folder.study, now.plan, now.results, folder.files):
            raise StudyError(fault)

    store, checkpoints = folder.store, Checkpoints(folder.checkpoints)
    for unfinished in folder.root.rglob(".*.tmp"):  # left by a kill in the middle of writing
        with suppress(FileNotFoundError):
            if time.time() - unfinished.stat().st_mtime > STALE_SECONDS:  # a younger one may be under way
                unfinished.unlink()
    clear(folder.running)
    for now in folder.rounds(data, device):
        on_round(now)
        check(now)
        for spec, result in executor.run([planned.spec for planned in now.missing.values()]):
            keep(store, checkpoints, spec, result)
            now.results[spec.trial_id] = result
            on_trial(now.missing[spec.trial_id], result)
            check(now)
    clear(folder.running)
    return now


def keep(store: Store, checkpoints: Checkpoints, spec: TrialSpec, result: TrialResult) -> None:
    """Keep a result, and forget the checkpoint of a trial that is finished."""
    store.put(spec, result)
    # Only now: until its result is stored, a checkpoint is all there is of a trial.
    if result.status != "error":
        checkpoints.discard(spec)
