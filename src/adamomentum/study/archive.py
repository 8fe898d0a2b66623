"""What ``study export`` writes and ``study import`` reads: all trials of a study as one file, with what is known of it.

An archive may come from anybody: all of it is read and checked before anything is written, line by line, so that a
small file that unpacks to a huge one does no harm.
"""

from __future__ import annotations

import json
import lzma
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from adamomentum.files import make_folder, write_atomic
from adamomentum.study.engine import NO_DATA, DataInfo, Folder, read_data, registered_name, write_data
from adamomentum.study.spec import TrialSpec
from adamomentum.study.stages import Plan, Planned
from adamomentum.study.store import StoreError, StoreWarning, as_record, from_record, reason
from adamomentum.study.trial import TrialResult

T = TypeVar("T")

TRIALS, DATA, STUDY = "trials.jsonl.xz", "data.json", "study.json"
CURVE_DIGITS = 6
MOST_LINE = 2**24
"""Bytes of one trial. Those of the studies that come along have 20,000 at most."""


class ArchiveError(Exception):
    """An archive cannot be taken up; the message says why and what to do."""


def write(folder: Folder, to: Path, plan: Plan, results: Mapping[str, TrialResult]) -> int:
    """Write all finished trials of the plan into the folder ``to``; returns how many they are.

    Curves and times are written in :data:`CURVE_DIGITS` digits, as many as float32 is sure of, which takes half the
    space; what a trial ends with is written in full. Samples and curves go along where reports make something of them;
    of other trials' curves the last point.

    Raises:
        StudyError: if the folder's ``study.json`` is damaged.
        OSError: if ``to`` cannot be written to.
    """
    if not folder.history():
        folder.register()
    make_folder(to, "--to")
    unique = {t.spec.trial_id: t.spec for t in plan.trials if t.spec.trial_id in results}
    sampled = {t.spec.trial_id for t in plan.trials if t.sampled}
    # Whether a training repeats shows in its curve, too.
    repeated = {t.task for t in plan.trials if t.role == "repeat"}
    curved = {t.spec.trial_id for t in plan.trials if t.task in repeated or _shows_a_curve(t, plan)}
    # Trials that are alike stand together, which packs them better.
    records = sorted(
        (as_record(spec, _shortened(results[key], key in sampled, key in curved)) for key, spec in unique.items()),
        key=lambda r: _packed(r["spec"]),
    )
    lines = [_packed(record) + "\n" for record in records]
    write_atomic(to / TRIALS, lzma.compress("".join(lines).encode(), preset=9))
    write_atomic(to / DATA, (folder.root / DATA).read_bytes())
    write_atomic(to / STUDY, (folder.root / STUDY).read_bytes())
    return len(lines)


def _shows_a_curve(planned: Planned, plan: Plan) -> bool:
    """Say whether a report makes something of a trial's curve: final ones, and tuning at a setting that is chosen."""
    if planned.role != "tune":
        return planned.role == "final"
    choice = plan.choices.get((planned.task, planned.optimizer))
    return choice is None or planned.is_at(choice.setting)


def _shortened(result: TrialResult, sampled: bool, curved: bool) -> TrialResult:
    def short(x: float) -> float:
        return float(f"{x:.{CURVE_DIGITS}g}")

    curve = {
        name: [x if x is None else short(x) for x in (values if curved else values[-1:])]
        for name, values in result.curve.items()
    }
    timing = {name: short(x) for name, x in result.timing.items()}
    samples = result.samples if sampled else {}
    return result.model_copy(update={"curve": curve, "timing": timing, "samples": samples})


def _packed(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def trials(path: Path) -> Iterator[tuple[TrialSpec, TrialResult]]:
    """Yield the trials of the file at ``path``, each of them checked.

    Raises:
        ArchiveError: if the file is damaged, or holds anything else, or a trial twice.
    """
    seen: set[str] = set()
    try:
        with lzma.open(path) as file:
            number = 0
            while line := file.readline(MOST_LINE + 1):
                number += 1
                if len(line) > MOST_LINE:
                    raise ValueError(f"line {number} is longer than {MOST_LINE:,} bytes")
                try:
                    spec, result = from_record(line)
                except (ValueError, StoreError) as error:
                    raise ValueError(f"line {number}: {error}") from None
                if spec.trial_id in seen:
                    raise ValueError(f"line {number}: the trial {spec.trial_id} is in it twice")
                if result.status == "error" or not result.final or "step" not in result.curve:
                    raise ValueError(f"line {number}: the trial {spec.trial_id} has no results")
                seen.add(spec.trial_id)
                yield spec, result
    except (EOFError, lzma.LZMAError) as error:
        raise ArchiveError(f"{path} is damaged or cut off ({error}); fetch it again") from None
    except ValueError as error:
        raise ArchiveError(f"{path} cannot be taken up: {error}; fetch it again, or export it anew") from None


@dataclass(frozen=True)
class Taken:
    """What became of an import.

    Attributes:
        new: trials that were written.
        present: trials of the archive that were there already.
        planned: trials of the archive that the study plans as it is now.
        study: name of the study that the archive was made of.
    """

    new: int
    present: int
    planned: int
    study: str


def take_up(folder: Folder, archive: Path) -> Taken:
    """Take the trials of ``archive``, a folder that :func:`write` has written, up into ``folder``.

    A study of another name may share trials with this one. Its history is not taken over, and nothing at all if it
    shares none.

    Raises:
        ArchiveError: if the archive is damaged, or holds nothing that the study plans; nothing was written then.
        StoreError: if the folder's own store cannot be used.
    """
    path = archive / TRIALS
    if not path.is_file():
        raise ArchiveError(f"{archive} holds no {TRIALS}; give the folder that `adamomentum study export` wrote")
    theirs, name = _checked(archive / DATA, read_data), _checked(archive / STUDY, registered_name)
    specs = {spec.trial_id: spec for spec, _ in trials(path)}
    own = name == folder.whole.name
    ours = folder.data()
    planned, tasks = _planned(folder, {**theirs, **ours}, path, specs)
    if not planned and not own:
        raise ArchiveError(
            f"{archive} holds {len(specs)} trials of the study {name}, none of which {folder.whole.name} plans (on the "
            "data that it knows of); nothing was taken up"
        )
    store = folder.store
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)  # a damaged file is not run again but replaced
        missing = {key for key, spec in specs.items() if store.get(spec) is None}
    for spec, result in trials(path):
        if spec.trial_id in missing:
            store.put(spec, result)
    shared = theirs if own else {task: info for task, info in theirs.items() if task in tasks}
    if shared.keys() - ours.keys():
        write_data(folder.root / DATA, {**shared, **ours})
    if not (folder.root / STUDY).exists():
        if own:
            write_atomic(folder.root / STUDY, (archive / STUDY).read_bytes())
        else:
            folder.register()
    return Taken(len(missing), len(specs) - len(missing), planned, name)


def _checked(path: Path, read: Callable[[Path], T]) -> T:
    """Return what ``read`` finds at ``path``, or say that the archive is not whole."""
    try:
        return read(path)
    except (OSError, ValidationError) as error:
        raise ArchiveError(
            f"{path} cannot be read: {reason(error)}; give the whole folder that `adamomentum study export` wrote"
        ) from None


def _planned(
    folder: Folder, data: Mapping[str, DataInfo], path: Path, specs: Mapping[str, TrialSpec]
) -> tuple[int, set[str]]:
    """Return how many trials of the archive the study plans, and on which tasks.

    What is planned depends on results, stage by stage; only those that are planned are held in memory.
    """
    known = {task.name: data.get(task.name, NO_DATA) for task in folder.study.tasks}
    trial_ids: set[str] = set()
    tasks: set[str] = set()
    for device in sorted({spec.device_kind for spec in specs.values()}):
        for now in folder.rounds(known, device, lambda spec: None):
            tasks |= {t.task for t in now.plan.trials if t.spec.trial_id in specs}
            new = now.missing.keys() & specs.keys()
            if new:
                now.results.update({spec.trial_id: result for spec, result in trials(path) if spec.trial_id in new})
        trial_ids |= now.results.keys()
    return len(trial_ids), tasks
