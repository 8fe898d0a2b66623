"""What identifies a trial: a frozen, fully resolved specification and its content hash."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SPEC_SCHEMA = 1

Stage = Literal["tune", "final"]


def _plain_number(value: Any) -> Any:
    """Makes equal numbers equal text: 1, 1.0 and True would otherwise hash differently or collide."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain_number(v) for v in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"must be finite, got {value!r}")
    return 0.0 if number == 0 else number


Scalar = bool | float | str | None
Value = Annotated[Scalar | tuple[Scalar, ...], BeforeValidator(_plain_number)]
Finite = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_plain_number)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerSpec(_Frozen):
    """An optimizer by registry name with every hyper-parameter resolved; ``lr`` is the schedule's peak."""

    name: str
    lr: Annotated[Finite, Field(gt=0)]
    hyperparameters: dict[str, Value]


class TaskSpec(_Frozen):
    """A task by name; ``version`` is raised whenever the same spec would train differently."""

    name: str
    version: int
    data_fingerprint: str
    params: dict[str, Value] = {}


class ScheduleSpec(_Frozen):
    """Learning-rate factor over steps: linear warm-up to 1, then a half cosine to 0."""

    name: Literal["cosine"] = "cosine"
    warmup_fraction: Annotated[Finite, Field(ge=0, lt=1)] = 0.1

    def factor(self, step: int, total: int) -> float:
        """Returns the factor on the peak learning rate for ``step`` in 0..total-1; never 0."""
        warmup = max(1, round(self.warmup_fraction * total))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


class Budget(_Frozen):
    """How long a trial trains and how often it looks at the validation split (evenly spaced)."""

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 32
    evaluations: Annotated[int, Field(ge=1)] = 1


class TrialSpec(_Frozen):
    """One training run. Two trials with equal specs are the same trial.

    Left out on purpose: paths, display names, worker, library versions. The last are recorded
    with the result; a change of meaning raises the task's version instead.
    """

    schema_version: int = SPEC_SCHEMA
    stage: Stage
    task: TaskSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec = ScheduleSpec()
    budget: Budget
    replicate: Annotated[int, Field(ge=0)]
    precision: Literal["float32"] = "float32"
    device_kind: str = "cpu"
    num_threads: Annotated[int, Field(ge=1)] = 1

    def canonical(self) -> str:
        """Returns the spec as JSON with sorted keys: the text that is hashed."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def trial_id(self) -> str:
        """The first 16 hex digits of the SHA-256 of ``canonical()``."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    def seed(self, role: str) -> int:
        """Returns the seed of one role (``init``, ``order``, ...), in 0..2**63-1.

        It depends on task, stage, replicate and role but not on the optimizer, so that optimizers are
        compared on the same initial weights and batches, and tuning never sees an evaluation seed.
        """
        key = json.dumps([self.task.name, self.task.version, self.stage, self.replicate, role])
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
