"""Training functions as users write them, and what trains them in tests."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from adamomentum.study import registry, tasks, work
from adamomentum.study.engine import Folder, run_study
from adamomentum.study.execute.local import RunTrial
from adamomentum.study.spec import TaskSpec, TrialSpec
from adamomentum.study.studyfile import parse
from adamomentum.study.tasks.function.script import Script, read
from adamomentum.study.trial import TrialResult, run_trial
from adamomentum.study.work import Setup, run_planned

PLAIN = """
import torch
from torch import nn


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=generator)
    return x, (x @ torch.randn(4, generator=generator)).sin()


def train(trial, width=8, epochs=2):
    x, y = data()
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1)).to(trial.device)
    optimizer = trial.optimizer(model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 5)

    def loss(rows):
        return (model(x[rows]).squeeze(1) - y[rows]).square().mean()

    for _ in range(epochs):
        for rows in torch.randperm(200).split(40):
            optimizer.zero_grad()
            loss(rows).backward()
            optimizer.step()
            schedule.step()
        trial.report(loss=loss(slice(200, 250)), error=1 - loss(slice(200, 250)))
    return {"loss": loss(slice(250, 300)).item(), "error": 0.5}
"""


def script(folder: Path, text: str = PLAIN, **params) -> Script:
    """A script written to ``folder`` and read."""
    (folder / "my_train.py").write_text(text)
    return read({"train": "my_train.py:train", **params}, folder)


def spec_of(data: Script, optimizer="adamw", lr=1e-2, stage="final", params=None, **fields) -> TrialSpec:
    task = TaskSpec(
        family="own", version=tasks.family("own").version, data_fingerprint=data.fingerprint, params=params or {}
    )
    fields = {"budget": None, "schedule": None, "replicate": 0, **fields}
    return TrialSpec(stage=stage, task=task, optimizer=registry.get(optimizer).spec(lr), **fields)


def trained(folder: Path, text: str = PLAIN, params=None, files: Path | None = None, **fields) -> TrialResult:
    """What a trial of the script comes to; what it raises comes through."""
    data = script(folder, text, **(params or {}))
    return run_trial(spec_of(data, params=params, **fields), data, files=files)


def changed(*pairs: tuple[str, str], text: str = PLAIN) -> str:
    """The script with something else in it."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


class Inline:
    """Runs trials in this process: what is tested is not the executor."""

    def __init__(self, setup: Setup, run: RunTrial = run_planned) -> None:
        self.setup, self.run_trial = setup, run
        self.ran: list[TrialSpec] = []

    def run(self, specs: Iterable[TrialSpec]) -> Iterator[tuple[TrialSpec, TrialResult]]:
        for spec in specs:
            self.ran.append(spec)
            try:
                yield spec, self.run_trial(spec, self.setup)
            except Exception:
                yield spec, TrialResult(status="error", error=traceback.format_exc())


class InlineLocal(Inline):
    """The same, made as the local executor is: starting another process takes seconds."""

    def __init__(self, setup: Setup, workers: int, run: RunTrial, gpus: Sequence[int] | None) -> None:
        super().__init__(setup, run)

    def __enter__(self) -> InlineLocal:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


STUDY = """
name = "mine"
[tuning]
trials = 2
extension = 0
[default]
seeds = 0
[final]
seeds = 2
[optimizers]
adamomentum = {}
adamw = {}
[[tasks]]
name = "task"
family = "own"
params = { train = "my_train.py:train", width = 4 }
"""


def compared(folder: Path, text: str = PLAIN, study: str = STUDY) -> tuple[Folder, list[TrialSpec]]:
    """The folder of a study of the script, run to its end, and what was trained for that."""
    (folder / "my_train.py").write_text(text)
    parsed = parse(study, "mine.toml", folder)
    place = Folder(folder / "out", parsed)
    sources = {str(task.params["train"]): folder for task in parsed.tasks if task.family == "own"}
    work._load.cache_clear()  # a command is a process of its own
    known = place.prepare_data(sources, lambda text: None)
    place.register()
    executor = Inline(Setup(sources, files=place.files))
    run_study(place, known, executor, "cpu", lambda now: None, lambda *trial: None)
    return place, executor.ran
