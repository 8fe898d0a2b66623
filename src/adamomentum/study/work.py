"""What a worker does with a trial: load its data, run it, in several processes if it asks for them.

Tested in tests/study/test_execute.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from adamomentum.study import own, tasks
from adamomentum.study.checkpoint import Checkpoints
from adamomentum.study.execute.group import run_in_group
from adamomentum.study.spec import TrialSpec, Value
from adamomentum.study.trial import TrialResult, run_trial


@dataclass(frozen=True)
class Setup:
    """Where a worker finds what is not part of a trial.

    Attributes:
        sources: the user's own data, by the task's ``data`` parameter; the folder of a training script, by ``train``.
        checkpoints: folder for the state of long trials; None: nowhere.
        checkpoint_seconds: time between two checkpoints of a trial.
        memory: bytes that the process of a trial may hold; None: no limit. On Linux alone.
        modules: folder in which the study's own classes are looked for if Python does not find them otherwise.
        files: where each training of the user's own has a folder for its files, by the trial's id.
        running: where trials under way say how far they are; None: nowhere.
    """

    sources: Mapping[str, Path] = field(default_factory=dict)
    checkpoints: Path | None = None
    checkpoint_seconds: float = 300.0
    memory: int | None = None
    modules: Path | None = None
    files: Path | None = None
    running: Path | None = None


def source_name(family: str, params: Mapping[str, Value]) -> str:
    """Return by what name the source of a task's data is known; empty if it names none."""
    return str(params.get("train" if family == tasks.OWN else "data", ""))


def load(family: str, params: Mapping[str, Value], sources: Mapping[str, Path]) -> Any:
    """Return the data of a task; what was loaded last stays in memory, so that a worker reads it once a stage.

    Raises:
        DataError: if it cannot be had.
        ValueError: if the parameters are wrong, or the family is of the user's own and returns no data.
    """
    source = sources.get(source_name(family, params))
    return _load(family, tuple(sorted(params.items())), source)


# Two: neighbouring trials are mostly of the same task, and full-size data must not pile up.
@lru_cache(maxsize=2)
def _load(family: str, params: tuple[tuple[str, Value], ...], source: Path | None) -> Any:
    data = tasks.task(family).load(dict(params), source)
    for what, has in (
        ("a text `fingerprint`", isinstance(getattr(data, "fingerprint", None), str)),
        ("a method `describe()`", callable(getattr(data, "describe", None))),
    ):
        if not has:
            raise ValueError(f"family {family!r}: load must return data with {what}, got {type(data).__name__}")
    return data


def limit_memory(size: int) -> None:
    """Lets this process hold at most ``size`` bytes: a trial that wants more fails, and its machine goes on."""
    import resource

    # Data, not addresses: the libraries of torch alone take gigabytes of those, of which little is memory.
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size if most == resource.RLIM_INFINITY else min(size, most), most))


def run_planned(spec: TrialSpec, setup: Setup) -> TrialResult:
    """Run ``spec``: the function that executors hand to their workers."""
    from torch import distributed

    if spec.processes > 1 and not (distributed.is_available() and distributed.is_initialized()):
        return run_in_group(spec, partial(run_planned, setup=setup))
    if setup.memory is not None:
        limit_memory(setup.memory)
    if setup.modules is not None:
        own.look_in(setup.modules)
    data = load(spec.task.family, spec.task.params, setup.sources)
    checkpoints = Checkpoints(setup.checkpoints, setup.checkpoint_seconds) if setup.checkpoints else None
    return run_trial(spec, data, checkpoints, setup.files, setup.running)
