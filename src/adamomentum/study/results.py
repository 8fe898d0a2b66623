"""Finished trials as tidy tables: one row a trial and role, one row a point of a learning curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from adamomentum.study import stages
from adamomentum.study.engine import DataInfo, Folder
from adamomentum.study.stages import Choice, Plan
from adamomentum.study.studyfile import Study
from adamomentum.study.trial import TrialResult

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYS = [
    "task",
    "family",
    "role",
    "optimizer",
    "label",
    "point",
    "replicate",
    "lr",
    "weight_decay",
    "status",
    "trial_id",
]
CURVE_KEYS = ["task", "role", "optimizer", "replicate", "trial_id"]


@dataclass(frozen=True)
class StudyResults:
    """All that a report is made of.

    Attributes:
        study: the study.
        data: what is known of each task's data, by task.
        plan: what was planned, finished or not.
        trials: one row for each planned trial that is finished: ``KEYS``, every final metric, ``last_step``,
            ``ms_per_step``, ``train_seconds``, ``seconds``, ``started``. A trial that serves two roles has two rows.
        curves: one row a point: ``CURVE_KEYS``, ``step``, ``seconds``, ``train_loss``, ``val_*``.
        results: the trials themselves, by id.
        missing: planned trials that are not finished, counted by (task, role, optimizer).
    """

    study: Study
    data: Mapping[str, DataInfo]
    plan: Plan
    trials: pd.DataFrame
    curves: pd.DataFrame
    results: Mapping[str, TrialResult]
    missing: Mapping[tuple[str, str, str], int]

    @cached_property
    def runs(self) -> Mapping[tuple[str, str, str], pd.DataFrame]:
        """The rows of ``trials`` by (role, task, optimizer). A report asks for them a thousand times."""
        return _split(self.trials, ["role", "task", "optimizer"])

    @cached_property
    def times(self) -> Mapping[tuple[str, str], pd.DataFrame]:
        """``ms_per_step``, ``started`` and ``seconds`` of trials by (task, optimizer), of each once, where known."""
        once = self.trials.drop_duplicates(["task", "optimizer", "trial_id"])
        numbers = once.reindex(columns=["ms_per_step", "started", "seconds"]).astype(float)
        known = pd.concat([once[["task", "optimizer"]], numbers], axis=1)
        known = known[known["ms_per_step"].notna()]
        return {key: frame[list(numbers)] for key, frame in _split(known, ["task", "optimizer"]).items()}

    @cached_property
    def final_curves(self) -> Mapping[tuple[str, str, int], pd.DataFrame]:
        """The rows of ``curves`` of final trials by (task, optimizer, replicate)."""
        return _split(self.curves[self.curves["role"] == "final"], ["task", "optimizer", "replicate"])

    @property
    def choices(self) -> Mapping[tuple[str, str], Choice]:
        """What tuning chose, by (task, optimizer)."""
        return self.plan.choices


def gather(folder: Folder, device: str = "cpu") -> StudyResults:
    """Returns the tables of the study in ``folder``, complete or not.

    Raises:
        StudyError: if the study was never run there.
    """
    plan, results = folder.results(device)
    study = folder.study
    rows: list[dict[str, object]] = []
    frames: list[pd.DataFrame] = []
    missing: dict[tuple[str, str, str], int] = {}
    for planned in plan.trials:
        spec, result = planned.spec, results.get(planned.spec.trial_id)
        if result is None:
            where = (planned.task, planned.role, planned.optimizer)
            missing[where] = missing.get(where, 0) + 1
            continue
        rows.append(
            {
                "task": planned.task,
                "family": spec.task.name,
                "role": planned.role,
                "optimizer": planned.optimizer,
                "label": stages.label(study, planned.optimizer),
                "point": planned.point,
                "replicate": spec.replicate,
                "lr": spec.optimizer.lr,
                "weight_decay": spec.optimizer.hyperparameters.get("weight_decay"),
                "status": result.status,
                "trial_id": spec.trial_id,
                **result.final,
                "last_step": max((step for step in result.curve.get("step", ()) if step is not None), default=None),
                **{key: result.timing.get(key) for key in ("ms_per_step", "train_seconds", "seconds", "started")},
            }
        )
        if planned.role in ("final", "default") and result.curve.get("step"):
            frame = pd.DataFrame(result.curve).astype(float)
            frame["seconds"] = frame["step"] * result.timing.get("ms_per_step", 0.0) / 1e3
            for key in CURVE_KEYS:
                frame.insert(0, key, str(rows[-1][key]) if key != "replicate" else spec.replicate)
            frames.append(frame)
    return StudyResults(
        study=study,
        data=folder.data(),
        plan=plan,
        trials=_table(rows, KEYS),
        curves=_joined(frames),
        results=results,
        missing=missing,
    )


def _split(table: pd.DataFrame, columns: list[str]) -> dict[Any, pd.DataFrame]:
    return dict(list(table.groupby(columns, sort=False)))


def _table(rows: Sequence[dict[str, object]], first: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    for column in first:
        if column not in table:
            table[column] = pd.Series(dtype=object)
    numbers = [str(column) for column in table if column not in first]
    table[numbers] = table[numbers].astype(float)
    return table[[*first, *numbers]]


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    if not frames:
        return pd.DataFrame(columns=[*CURVE_KEYS, "step", "seconds", "train_loss"])
    joined = pd.concat(frames, ignore_index=True)
    return joined[[*CURVE_KEYS, *(column for column in joined if column not in CURVE_KEYS)]]
