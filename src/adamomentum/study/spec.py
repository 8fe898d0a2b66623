"""What identifies a trial: a frozen, fully resolved specification and its content hash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from numbers import Real
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

from adamomentum.study.digest import digest

SPEC_SCHEMA = 2

Stage = Literal["tune", "final"]
"""What a trial may see, and whose seeds it uses: those on which settings are chosen, or on which they are judged."""

Precision = Literal["float32", "bfloat16", "float16"]
"""What a forward pass computes in; parameters, optimizer state and updates are float32 in any case."""


def _plain_number(value: Any) -> Any:
    """Make equal numbers equal text: 1, 1.0 and True would otherwise hash differently or collide."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain_number(v) for v in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"must be finite, got {value!r}")
    return 0.0 if number == 0 else number


def _plain_value(value: Any) -> Any:
    """Make equal values equal text; say what a ``Value`` can hold in one line, where a union has one a member."""
    parts = value if isinstance(value, (list, tuple)) else (value,)
    if not all(part is None or isinstance(part, (str, Real)) for part in parts):
        raise ValueError(f"must be a number, text, true or false, or a list of such values, got {value!r}")
    return _plain_number(value)


Scalar = bool | float | str | None
Value = Annotated[Scalar | tuple[Scalar, ...], BeforeValidator(_plain_value)]
Finite = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_plain_number)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


EpsPlacement = Literal["outside", "inside", "accumulated"]
"""How eps enters a denominator: ``outside`` as sqrt(v) + eps, ``inside`` as sqrt(v + eps), ``accumulated`` as sqrt(v)
where eps is added into v at every step and so grows to eps / (1 - beta2). In each case the optimizer's state must hold
v without eps, as ``exp_avg_sq``."""


class OptimizerSpec(_Frozen):
    """An optimizer by registry name with every hyper-parameter resolved.

    Attributes:
        name: in the registry, or ``module:Class``.
        lr: the schedule's peak.
        hyperparameters: all others.
        eps_placement: of a class of the user's own, if it is to be measured where eps rules; the registry knows that of
            its own.
    """

    name: str
    lr: Annotated[Finite, Field(gt=0)]
    hyperparameters: dict[str, Value]
    eps_placement: EpsPlacement | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, plain: Callable[[OptimizerSpec], dict[str, Any]]) -> dict[str, Any]:
        # Trials from before there was such a field keep their hash.
        return {key: value for key, value in plain(self).items() if key != "eps_placement" or value is not None}


class TaskSpec(_Frozen):
    """What is trained, out of what a study says of a task.

    Attributes:
        family: its registered name, or ``module:Class``.
        version: of the family, raised whenever the same spec would train differently.
        data_fingerprint: of the data, by content.
        params: of the family.
    """

    family: str = Field(validation_alias=AliasChoices("family", "name"))
    version: int
    data_fingerprint: str
    params: dict[str, Value] = {}

    @model_serializer(mode="wrap")
    def _family_as_name(self, plain: Callable[[TaskSpec], dict[str, Any]]) -> dict[str, Any]:
        # So trials are written and hashed.
        return {"name" if key == "family" else key: value for key, value in plain(self).items()}


class CosineSchedule(_Frozen):
    """Linear warm-up to the peak, then a half cosine towards ``floor`` times the peak."""

    name: Literal["cosine"] = "cosine"
    warmup_fraction: Annotated[Finite, Field(ge=0, lt=1)] = 0.1
    floor: Annotated[Finite, Field(ge=0, lt=1)] = 0.0

    @model_serializer(mode="wrap")
    def _without_a_floor_of_0(self, plain: Callable[[CosineSchedule], dict[str, Any]]) -> dict[str, Any]:
        # Trials from before there was a floor keep their hash.
        return {key: value for key, value in plain(self).items() if key != "floor" or value}

    def rate(self, step: int, total: int, peak: float) -> float:
        """Return the learning rate for ``step`` in 0..total-1; never 0."""
        warmup = max(1, round(self.warmup_fraction * total))
        if step < warmup:
            return peak * ((step + 1) / warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        return peak * (self.floor + (1 - self.floor) * cosine)


class ConstantSchedule(_Frozen):
    """The peak throughout, after an optional linear warm-up."""

    name: Literal["constant"]
    warmup_fraction: Annotated[Finite, Field(ge=0, lt=1)] = 0.0

    def rate(self, step: int, total: int, peak: float) -> float:
        """Return the learning rate for ``step`` in 0..total-1."""
        warmup = round(self.warmup_fraction * total)
        return peak if step >= warmup else peak * (step + 1) / warmup


class StepSchedule(_Frozen):
    """The peak, multiplied by ``factor`` at each of ``milestones`` (fractions of the whole run, e.g. 60 / 200)."""

    name: Literal["step"]
    milestones: Annotated[tuple[Annotated[Finite, Field(gt=0, lt=1)], ...], Field(min_length=1)]
    factor: Annotated[Finite, Field(gt=0, lt=1)]

    def rate(self, step: int, total: int, peak: float) -> float:
        """Return the learning rate for ``step`` in 0..total-1."""
        passed = sum(step >= round(milestone * total) for milestone in self.milestones)
        return peak * self.factor**passed


class InverseSqrtSchedule(_Frozen):
    """Linear warm-up from ``start`` to the peak over ``warmup_steps``, then as 1 / sqrt(step), not below ``floor``.

    ``start`` and ``floor`` are learning rates, not factors. A run that would end within the warm-up warms up for a
    tenth of its steps, so that a smoke run has the same shape.
    """

    name: Literal["inverse_sqrt"]
    warmup_steps: Annotated[int, Field(ge=1)]
    start: Annotated[Finite, Field(ge=0)] = 1e-7
    floor: Annotated[Finite, Field(ge=0)] = 1e-9

    def rate(self, step: int, total: int, peak: float) -> float:
        """Return the learning rate for ``step`` in 0..total-1."""
        warmup = self.warmup_steps if total > self.warmup_steps else max(1, total // 10)
        if step < warmup:
            return self.start + (peak - self.start) * (step + 1) / warmup
        return max(self.floor, peak * math.sqrt(warmup / (step + 1)))


ScheduleSpec = Annotated[
    CosineSchedule | ConstantSchedule | StepSchedule | InverseSqrtSchedule, Field(discriminator="name")
]
"""How the learning rate moves over a run; ``lr`` of the optimizer is the peak."""


class Budget(_Frozen):
    """How long a trial trains, and how often it looks at the validation split (evenly spaced).

    Attributes:
        epochs: passes over the training split; give this or ``steps``.
        steps: optimizer updates.
        batch_size: examples an update: images, parallel text streams (language model), target tokens (translation).
        evaluations: points of the learning curve, the last step included.
    """

    epochs: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 32
    evaluations: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _one_length(self) -> Budget:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of updates, where an epoch has ``steps_per_epoch`` of them."""
        return self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch

    def shortest(self) -> Budget:
        """Return the same batches for two steps, which shows that they can be trained on."""
        return self.model_copy(update={"epochs": None, "steps": 2, "evaluations": 1})


class TrialSpec(_Frozen):
    """One training run. Two trials with equal specs are the same trial.

    Left out on purpose: paths, display names, worker, library versions. The last are recorded
    with the result; a change of meaning raises the task's version instead.

    Attributes:
        schedule: None where the user's own training decides.
        budget: None where the user's own training decides.
        repeat: 1 for the same trial once more, whose numbers should be the same to the last bit.
    """

    schema_version: int = SPEC_SCHEMA
    stage: Stage
    task: TaskSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec | None = CosineSchedule()
    budget: Budget | None
    replicate: Annotated[int, Field(ge=0)]
    precision: Precision = "float32"
    device_kind: str = "cpu"
    num_threads: Annotated[int, Field(ge=1)] = 1
    processes: Annotated[int, Field(ge=1)] = 1
    repeat: Annotated[int, Field(ge=0)] = 0

    @model_serializer(mode="wrap")
    def _without_a_repeat_of_0(self, plain: Callable[[TrialSpec], dict[str, Any]]) -> dict[str, Any]:
        # Trials from before there were repeats keep their hash.
        return {key: value for key, value in plain(self).items() if key != "repeat" or value}

    def canonical(self) -> str:
        """Return the spec as JSON with sorted keys: the text that is hashed."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def trial_id(self) -> str:
        """The first 16 hex digits of the SHA-256 of ``canonical()``. Planning asks for each some 40 times."""
        return digest([self.canonical()])

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> TrialSpec:
        """Return a copy, with other values of the fields in ``update``, and so with another id."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("trial_id", None)
        return copy

    def seed(self, role: str) -> int:
        """Return the seed of one role (``init``, ``order``, ...), in 0..2**63-1.

        It depends on task, stage, replicate and role but not on the optimizer, so that optimizers are
        compared on the same initial weights and batches, and tuning never sees an evaluation seed.
        """
        key = json.dumps([self.task.family, self.task.version, self.stage, self.replicate, role])
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
