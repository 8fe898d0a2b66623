"""The study file: what is compared, on what, with which budgets. TOML, checked when it is read.

Everything that can change a result is in this file or in the registry of optimizers; the hash of what was read is
printed in the report, so that a study can be registered before it is run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from adamomentum.study import faults, own, registry, tasks
from adamomentum.study.digest import digest
from adamomentum.study.registry import Kind, Optimizer, Range
from adamomentum.study.spec import Budget, CosineSchedule, EpsPlacement, Finite, Precision, ScheduleSpec, Value
from adamomentum.study.tasks import Family, Metric

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
PACKAGE = "adamomentum.study.studies"


class StudyError(Exception):
    """A study file cannot be used; the message says where it is wrong and what would be right."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    # Fields that came later: left out where they are not given, so that studies from before keep their hash.
    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, plain: Callable[[_Entry], dict[str, Any]]) -> dict[str, Any]:
        return {
            key: value
            for key, value in plain(self).items()
            if key not in self.later or value not in (None, "", [], (), {})
        }


class SpaceEntry(_Entry):
    """A range that is searched on a logarithmic scale."""

    low: Annotated[Finite, Field(gt=0)]
    high: Annotated[Finite, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> SpaceEntry:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        return self


class OptimizerEntry(_Entry):
    """An optimizer of the study.

    Attributes:
        base: name in the registry, or ``module:Class`` of your own; by default the entry's own name.
        label: shown in tables; by default the registry's.
        hyperparameters: what differs from the registry's published defaults.
        default_lr: published learning rate; for your own optimizer it must be given.
        space: hyper-parameter -> range; replaces the registry's, name by name.
        control: it serves to explain and is no baseline: left out of the correction over baselines and of targets.
        kind: of your own optimizer: as which the paper's claims count it, ``adaptive`` or ``sgd``; by default
            ``other``, which those on adaptive methods and on SGD leave out.
        eps_placement: of your own optimizer, if the report is to say where eps rules: ``outside``, sqrt(v) + eps;
            ``inside``, sqrt(v + eps); ``accumulated``, eps added into v at every step. Its state must hold v without
            eps, as ``exp_avg_sq``, and ``step``.
        grid: learning rates to try on every task instead of points of the space, and nothing else; a single one is
            taken as given.
        form_of: another entry, of which this one is a form. An optimizer and its forms are all tuned; the one that is
            best over all tasks, on validation, stands for it in everything after that (:attr:`Study.forms`).
    """

    base: str = ""
    label: str = ""
    hyperparameters: dict[str, Value] = {}
    default_lr: Annotated[Finite, Field(gt=0)] | None = None
    space: dict[str, SpaceEntry] = {}
    control: bool = False
    kind: Kind | None = None
    eps_placement: EpsPlacement | None = None
    grid: tuple[Annotated[Finite, Field(gt=0)], ...] = ()
    form_of: str = ""
    later = ("kind", "eps_placement", "grid", "form_of")

    @field_validator("grid")
    @classmethod
    def _all_different(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(rates)) < len(rates):
            raise ValueError(f"learning rates must differ, got {', '.join(f'{rate:g}' for rate in rates)}")
        return rates


class SmokeTask(_Entry):
    """What ``--smoke`` changes in a task.

    Attributes:
        budget: instead of the task's.
        params: over the task's.
        processes: instead of the task's.
        minutes: what such a trial takes on one core of a laptop, for the plan's estimate.
    """

    budget: Budget | None = None
    params: dict[str, Value] = {}
    # Not in the study's hash: neither can change what the study itself finds.
    processes: Annotated[int, Field(ge=1)] | None = Field(default=None, exclude=True)
    minutes: Annotated[Finite, Field(gt=0)] | None = Field(default=None, exclude=True)


class MetricEntry(_Entry):
    """A metric that the user's own training reports and returns.

    Attributes:
        key: its name in ``trial.report`` and among what the function returns.
        better: ``lower`` or ``higher``.
        label: how a reader is told; by default the key.
        scale: what it is multiplied by for display.
        unit: shown after the scaled value.
        digits: decimals shown.
    """

    key: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
    better: Literal["lower", "higher"]
    label: str = ""
    scale: Annotated[Finite, Field(gt=0)] = 1.0
    unit: str = ""
    digits: Annotated[int, Field(ge=0)] = 4

    @property
    def metric(self) -> Metric:
        """The same as families have them."""
        return Metric(self.key, self.label or self.key, self.better, self.scale, self.unit, self.digits)


class TaskEntry(_Entry):
    """A task of the study.

    Attributes:
        name: how it is called in tables and on the command line.
        title: one line for the reader.
        family: which code trains it: one that comes along, ``own`` for a training function of yours, or
            ``module:Class`` of your own.
        params: parameters of the family, e.g. data set and model.
        budget: length, batch size, evaluations; the same for every optimizer. The family ``own`` has none.
        schedule: of the learning rate; the same for every optimizer. The family ``own`` has none.
        precision: of the forward pass.
        processes: how many train one trial together.
        tune: what is searched for; a hyper-parameter that an optimizer's space lacks is left alone for it.
        trials: tuning trials of each optimizer, if not the study's.
        hyperparameters: what is set for every optimizer that has it, e.g. ``betas``.
        optimizers: per optimizer what is set for this task: ``lr`` is that of the role ``default`` only.
        minutes: what a trial takes on one core of a laptop, for the plan's estimate until trials have been timed.
        notes: what a reader must know, e.g. where settings as printed and as run differ.
        target: of the primary metric on the validation split, to which time is measured; by default what the study's
            ``speed`` says.
        metric: by which of the family's metrics optimizers are compared; by default its first.
        metrics: of the family ``own``: what its function reports and returns. By the first one, or ``metric``, settings
            are chosen and optimizers compared; by default ``loss``, lower is better.
        smoke: what ``--smoke`` changes.
    """

    name: Annotated[str, Field(pattern=NAME)]
    title: str = ""
    family: str
    params: dict[str, Value] = {}
    budget: Budget | None = None
    schedule: ScheduleSpec | None = CosineSchedule()
    precision: Precision = "float32"
    processes: Annotated[int, Field(ge=1)] = 1
    tune: Annotated[tuple[str, ...], Field(min_length=1)] = ("lr",)
    trials: Annotated[int, Field(ge=0)] | None = None
    hyperparameters: dict[str, Value] = {}
    optimizers: dict[str, dict[str, Value]] = {}
    minutes: Annotated[Finite, Field(gt=0)] | None = None
    notes: tuple[str, ...] = ()
    target: Finite | None = None
    metric: str = ""
    metrics: tuple[MetricEntry, ...] = ()
    smoke: SmokeTask = SmokeTask()
    later = ("target", "metric", "metrics")

    @model_validator(mode="before")
    @classmethod
    def _without_a_schedule(cls, given: Any) -> Any:
        own_training = isinstance(given, Mapping) and given.get("family") == tasks.OWN
        return {"schedule": None, **given} if own_training else given

    @field_validator("family")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        # One of the user's own is imported already here: its version is part of the trials' ids.
        if ":" in name and info.context is not None:
            own.look_in(info.context)
        return tasks.family(name).name

    @field_validator("tune")
    @classmethod
    def _with_lr(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "lr" not in names:
            raise ValueError(f"lr must be among what is searched for, got {', '.join(names)}")
        return names

    @model_validator(mode="after")
    def _as_the_family_trains(self) -> TaskEntry:
        if self.family != tasks.OWN:
            if self.budget is None or self.schedule is None:
                lacking = "budget" if self.budget is None else "schedule"
                raise ValueError(
                    f"{lacking}: {self.family} needs one, e.g. budget = {{ epochs = 10, batch_size = 32 }}"
                )
            if self.metrics:
                raise ValueError(f"metrics: for the family {tasks.OWN!r} alone; {self.family} has its own")
            return self
        for name, given in (
            ("budget", self.budget or self.smoke.budget),
            ("schedule", self.schedule),
            ("precision", self.precision != "float32"),
        ):
            if given:
                raise ValueError(f"{name}: leave it out, the function of the family {tasks.OWN!r} decides")
        return self

    @model_validator(mode="after")
    def _metric_of_the_family(self) -> TaskEntry:
        keys = [metric.key for metric in self._of_the_task.metrics]
        if self.metric and self.metric not in keys:
            raise ValueError(f"metric must be one of {', '.join(keys)}, which {self.family} has, got {self.metric!r}")
        return self

    @property
    def _of_the_task(self) -> Family:
        """The family, with the metrics that the task says itself."""
        family = tasks.family(self.family)
        if not self.metrics:
            return family
        metrics = tuple(entry.metric for entry in self.metrics)
        first = self.metric if self.metric in [metric.key for metric in metrics] else metrics[0].key
        return replace(family, metrics=metrics, select=first, curve=first)

    @property
    def reported(self) -> Family:
        """The family, of its metrics that one first by which this task is judged."""
        family = self._of_the_task
        first = self.metric or family.primary.key
        return replace(family, metrics=tuple(sorted(family.metrics, key=lambda metric: metric.key != first)))


class Tuning(_Entry):
    """How settings are chosen.

    Attributes:
        trials: points of each optimizer on each task; 0: nothing is tuned, the final runs are at published settings.
        seeds: runs of each point.
        extension: further points for every optimizer of a task on which one has its best at the edge of its range.
        evaluations: points of the learning curve of a tuning trial; by default those of the task's budget.
    """

    trials: Annotated[int, Field(ge=0)] = 8
    seeds: Annotated[int, Field(ge=1)] = 1
    extension: Annotated[int, Field(ge=0)] = 3
    evaluations: Annotated[int, Field(ge=1)] | None = None
    later = ("evaluations",)


class Seeds(_Entry):
    """Evaluation runs.

    Attributes:
        seeds: how many.
        first: the first one's number; from 10 on they are others than those of a study with 10 from 0.
    """

    seeds: Annotated[int, Field(ge=0)]
    first: Annotated[int, Field(ge=0)] | None = None
    later = ("first",)

    @property
    def replicates(self) -> range:
        """Their numbers."""
        first = self.first or 0
        return range(first, first + self.seeds)


class Speed(_Entry):
    """To what time is measured, on tasks that declare no target.

    Attributes:
        shares: of a run's steps: the target is what the median baseline had reached at this share of its own, in the
            tuning runs at the settings that were chosen. By the first one optimizers are judged; the others show how
            much rests on it. By default the target lies where the best baseline ends, in the final runs.
    """

    shares: tuple[Annotated[Finite, Field(gt=0, lt=1)], ...] = ()
    later = ("shares",)

    @field_validator("shares")
    @classmethod
    def _all_different(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(shares)) < len(shares):
            raise ValueError(f"shares must differ, got {', '.join(f'{share:g}' for share in shares)}")
        return shares


class Sensitivity(_Entry):
    """Learning rates around the chosen one.

    Attributes:
        optimizers: which; none by default.
        controls: which controls, around the rate that they run at, on the tasks that they run on.
        seeds: runs of each point.
        half_decades: how far to each side, in half decades.
    """

    optimizers: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    seeds: Annotated[int, Field(ge=1)] = 3
    half_decades: Annotated[int, Field(ge=1)] = 3
    later = ("controls",)


class Control(_Entry):
    """A run that explains a difference: an optimizer at a setting that is derived, not tuned.

    Attributes:
        name: how it is called.
        label: shown in tables; by default the name.
        optimizer: which, by its name in the study; with ``setting_from`` also one of the registry.
        lr_from: the optimizer whose chosen learning rate it takes over; by default its own.
        setting_from: the optimizer at whose setting it runs, nothing of its own being searched: the chosen learning
            rate, and ``weight_decay`` and ``betas``, chosen or not, if both have them; not eps, which differs in kind.
        lr_factor: what that learning rate is multiplied by.
        hyperparameters: what is changed besides.
        schedule: instead of the task's.
        budget: instead of the task's, e.g. another batch size.
        minutes: what a trial takes with that budget, for the plan's estimate.
        tasks: on which; all by default.
        seeds: how many evaluation runs.
        about: what it is there to show.
    """

    name: Annotated[str, Field(pattern=NAME)]
    label: str = ""
    optimizer: str
    lr_from: str = ""
    setting_from: str = ""
    lr_factor: Annotated[Finite, Field(gt=0)] = 1.0
    hyperparameters: dict[str, Value] = {}
    schedule: ScheduleSpec | None = None
    budget: Budget | None = None
    minutes: Annotated[Finite, Field(gt=0)] | None = None
    tasks: tuple[str, ...] = ()
    seeds: Annotated[int, Field(ge=1)] = 5
    about: str = ""
    later = ("label", "setting_from", "budget", "minutes")

    @model_validator(mode="after")
    def _one_source(self) -> Control:
        if self.lr_from and self.setting_from:
            raise ValueError(
                f"give lr_from, the learning rate alone, or setting_from, which has it; got {self.lr_from!r} and "
                f"{self.setting_from!r}"
            )
        return self

    def at(self, other: Control) -> bool:
        """Whether ``other`` trains like this one, whatever its optimizer: rate factor, schedule, budget, tasks."""
        mine, theirs = ((c.lr_factor, c.schedule, c.budget, c.tasks) for c in (self, other))
        return mine == theirs


class Smoke(_Entry):
    """What ``--smoke`` puts in place of the study's numbers."""

    trials: Annotated[int, Field(ge=0)] = 2
    extension: Annotated[int, Field(ge=0)] = 1
    default: Annotated[int, Field(ge=0)] = 1
    final: Annotated[int, Field(ge=0)] = 2
    sensitivity: Annotated[int, Field(ge=1)] = 1
    half_decades: Annotated[int, Field(ge=1)] = 1
    controls: Annotated[int, Field(ge=1)] = 1


class Study(_Entry):
    """A study as its file describes it.

    Attributes:
        name: also the name of its folder.
        title: one line for the reader.
        reference: the optimizer that is compared with each of the others.
        claims: whether the report judges the paper's claims by what comes out; for the reference ``adamomentum``.
        optimizers: by name; an empty entry takes the registry's optimizer of that name as it is.
        tasks: in the order in which they are reported.
        tuning: how settings are chosen.
        default: runs at published settings, beside the tuned ones.
        final: runs at the chosen settings.
        speed: to what time is measured.
        sensitivity: learning rates around the chosen ones.
        controls: runs that explain.
        smoke: what ``--smoke`` changes.
    """

    name: Annotated[str, Field(pattern=NAME)]
    title: str = ""
    reference: str = "adamomentum"
    # Not in the study's hash: it changes nothing that the study finds.
    claims: bool = Field(default=False, exclude=True)
    optimizers: Annotated[dict[Annotated[str, Field(pattern=NAME)], OptimizerEntry], Field(min_length=1)]
    tasks: Annotated[tuple[TaskEntry, ...], Field(min_length=1)]
    tuning: Tuning = Tuning()
    default: Seeds = Seeds(seeds=5)
    final: Seeds = Seeds(seeds=10)
    speed: Speed = Speed()
    sensitivity: Sensitivity = Sensitivity()
    controls: tuple[Control, ...] = ()
    smoke: Smoke = Smoke()
    later = ("speed",)
    _partial: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _names_meet(self) -> Study:
        def check(name: str, known: Mapping[str, Any], where: str) -> None:
            if name not in known:
                raise ValueError(f"{where} names {name!r}, which is not in the study; there are: {', '.join(known)}")

        by_name = {task.name: task for task in self.tasks}
        for names, what in (([t.name for t in self.tasks], "tasks"), ([c.name for c in self.controls], "controls")):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{what} must have different names, got {', '.join(sorted(twice))} more than once")
        check(self.reference, self.optimizers, "reference")
        for control in self.controls:
            for task in self.tasks:
                here = task.family == tasks.OWN and (not control.tasks or task.name in control.tasks)
                if here and (control.schedule or control.budget):
                    raise ValueError(
                        f"controls.{control.name} changes schedule or budget, which the function of tasks.{task.name} "
                        "decides; say by `tasks` where else the control runs"
                    )
        for task in self.tasks:
            for name in task.optimizers:
                check(name, self.optimizers, f"tasks.{task.name}.optimizers")
            searchable = {key for name in self.optimizers for key in self.optimizer(name).space}
            for key in task.tune:
                if key not in searchable:
                    raise ValueError(
                        f"tasks.{task.name}.tune names {key!r}, which no optimizer of the study has a space for; they "
                        f"have: {', '.join(sorted(searchable))}"
                    )
        for name in self.sensitivity.optimizers:
            check(name, self.optimizers, "sensitivity.optimizers")
        for control in self.controls:
            where = f"controls.{control.name}"
            if control.name in self.optimizers:
                raise ValueError(f"{where} has the name of an optimizer of the study; give it another")
            if control.setting_from:  # nothing of its own is searched, so it need not be an optimizer of the study
                check(control.setting_from, self.optimizers, f"{where}.setting_from")
                check(control.optimizer, {**self.optimizers, **registry.OPTIMIZERS}, f"{where}.optimizer")
            else:
                check(control.optimizer, self.optimizers, f"{where}.optimizer")
                check(control.lr_from or control.optimizer, self.optimizers, f"{where}.lr_from")
            for name in control.tasks:
                check(name, by_name, f"{where}.tasks")
        for name in self.sensitivity.controls:
            check(name, {control.name: control for control in self.controls}, "sensitivity.controls")
        for name, entry in self.optimizers.items():
            self.optimizer(name)
            if entry.form_of:
                where = f"optimizers.{name}.form_of"
                check(entry.form_of, self.optimizers, where)
                if self.optimizers[entry.form_of].form_of or entry.form_of == name:
                    raise ValueError(f"{where} must name an optimizer that is no form itself, got {entry.form_of!r}")
                if self.optimizers[entry.form_of].control != entry.control:
                    raise ValueError(
                        f"{where}: {entry.form_of} and its forms must be controls together, or none of them"
                    )
        return self

    @property
    def forms(self) -> dict[str, tuple[str, ...]]:
        """The optimizers that have several forms, each with the names of them all, its own first."""
        of = {leader: [n for n, e in self.optimizers.items() if e.form_of == leader] for leader in self.optimizers}
        return {leader: (leader, *names) for leader, names in of.items() if names}

    def judged(self, chosen: Mapping[str, str]) -> Study:
        """Return the study with one form of each optimizer, of those that have several.

        Args:
            chosen: by optimizer of :attr:`forms` the name of that form.
        """
        lost = {name for leader, names in self.forms.items() for name in names if name != chosen[leader]}
        stands_for = {name: chosen[leader] for leader, names in self.forms.items() for name in names}
        swept = dict.fromkeys(stands_for.get(name, name) for name in self.sensitivity.optimizers)
        return self.model_copy(
            update={
                "reference": stands_for.get(self.reference, self.reference),
                "optimizers": {
                    name: entry.model_copy(update={"form_of": ""})
                    for name, entry in self.optimizers.items()
                    if name not in lost
                },
                "sensitivity": self.sensitivity.model_copy(update={"optimizers": tuple(swept)}),
            }
        )

    def seen_from(self, name: str) -> Study:
        """Return the study with another reference, and its own as a control: of one trial no number changes.

        Raises:
            StudyError: if there is no optimizer of that name.
        """
        if name not in self.optimizers:
            raise StudyError(f"study {self.name} has no optimizer {name!r}; there are: {', '.join(self.optimizers)}")
        leader = self.optimizers[name].form_of or name
        control = {leader: False, (self.optimizers[self.reference].form_of or self.reference): leader != self.reference}
        return self.model_copy(
            update={
                "reference": name,
                "optimizers": {
                    key: entry.model_copy(update={"control": control.get(entry.form_of or key, entry.control)})
                    for key, entry in self.optimizers.items()
                },
            }
        )

    def optimizer(self, name: str) -> Optimizer:
        """Return the optimizer that the study calls ``name``, with what the study changes in it.

        Args:
            name: of the study, or else of the registry, whose optimizer is then as it is.

        Raises:
            ValueError: if it is neither in the registry nor complete.
        """
        entry = self.optimizers.get(name) or OptimizerEntry()
        base = entry.base or name
        space = {key: Range(r.low, r.high) for key, r in entry.space.items()}
        if len(entry.grid) > 1:
            space["lr"] = Range(min(entry.grid), max(entry.grid))
        if ":" in base:
            if entry.default_lr is None or "lr" not in space:
                raise ValueError(
                    f"optimizers.{name}: an optimizer of your own needs default_lr and space.lr, "
                    "e.g. space = { lr = { low = 1e-4, high = 1e-2 } }"
                )
            return registry.custom(
                base,
                label=entry.label or base.partition(":")[2],
                default_lr=entry.default_lr,
                hyperparameters=entry.hyperparameters,
                space=space,
                kind=entry.kind or "other",
                eps_placement=entry.eps_placement,
            )
        for key in ("kind", "eps_placement"):
            if getattr(entry, key) is not None:
                raise ValueError(
                    f"optimizers.{name}.{key} is for an optimizer of your own (base = module:Class); that of {base} is "
                    "in the registry: leave it out"
                )
        return registry.get(base).changed(
            label=entry.label, hyperparameters=entry.hyperparameters, default_lr=entry.default_lr, space=space
        )

    @property
    def own_classes(self) -> tuple[str, ...]:
        """The optimizers and families of the user's own, as ``module:Class``."""
        names = [self.optimizer(name).name for name in self.optimizers] + [task.family for task in self.tasks]
        return tuple(name for name in names if ":" in name)

    @property
    def baselines(self) -> tuple[str, ...]:
        """The optimizers that the reference is compared with: neither itself nor a control."""
        return tuple(n for n, entry in self.optimizers.items() if n != self.reference and not entry.control)

    def called(self, base: str) -> str:
        """Return what the study calls the registry's optimizer ``base``; nothing if it is in none of its entries."""
        names = [name for name, entry in self.optimizers.items() if (entry.base or name) == base]
        return min(names, key=lambda name: self.optimizers[name].control, default="")

    def task(self, name: str) -> TaskEntry:
        """Return the task called ``name``."""
        return next(task for task in self.tasks if task.name == name)

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of the study's canonical JSON, defaults included."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return digest([text])

    def smoked(self) -> Study:
        """Return the same study at a budget that only shows that everything runs."""
        s = self.smoke
        return self.model_copy(
            update={
                "name": f"{self.name}-smoke",
                "tuning": self.tuning.model_copy(
                    update={"trials": min(self.tuning.trials, s.trials), "seeds": 1, "extension": s.extension}
                ),
                "default": self.default.model_copy(update={"seeds": min(self.default.seeds, s.default)}),
                "final": self.final.model_copy(update={"seeds": min(self.final.seeds, s.final)}),
                "sensitivity": self.sensitivity.model_copy(
                    update={"seeds": s.sensitivity, "half_decades": s.half_decades}
                ),
                "controls": tuple(
                    c.model_copy(
                        update={"seeds": s.controls, "budget": c.budget and c.budget.shortest(), "minutes": None}
                    )
                    for c in self.controls
                ),
                "optimizers": {
                    name: entry.model_copy(update={"grid": entry.grid[: s.trials]})
                    for name, entry in self.optimizers.items()
                },
                "tasks": tuple(
                    t.model_copy(
                        update={
                            "budget": t.smoke.budget or t.budget,
                            "params": {**t.params, **t.smoke.params},
                            "trials": None if t.trials is None else min(t.trials, s.trials),
                            "processes": t.smoke.processes or t.processes,
                            "minutes": t.smoke.minutes,
                        }
                    )
                    for t in self.tasks
                ),
            }
        )

    def only(self, task_names: tuple[str, ...]) -> Study:
        """Return the study with these tasks alone; finished trials stay valid.

        None depends on another task, but for those after the choice of forms, which is made over all tasks at once: of
        a study that has some, tuning alone is planned.

        Raises:
            StudyError: if there is no task of a name.
        """
        known = [task.name for task in self.tasks]
        for name in task_names:
            if name not in known:
                raise StudyError(f"study {self.name} has no task {name!r}; there are: {', '.join(known)}")
        some = self.model_copy(update={"tasks": tuple(t for t in self.tasks if t.name in task_names)})
        some._partial = self._partial or len(some.tasks) < len(self.tasks)
        return some

    @property
    def partial(self) -> bool:
        """Whether these are some of its tasks alone."""
        return self._partial


def built_in() -> dict[str, str]:
    """Return the text of the study files that come with the library, by name."""
    folder = resources.files(PACKAGE)
    return {f.name.removesuffix(".toml"): f.read_text() for f in sorted(folder.iterdir(), key=lambda f: f.name)
            if f.name.endswith(".toml")}  # fmt: skip


def read(source: str) -> Study:
    """Return the study at path ``source``, or the one of that name that comes with the library.

    Raises:
        StudyError: if there is none, or it is wrong.
    """
    path = Path(source)
    if path.is_file():
        try:
            return parse(path.read_text(encoding="utf-8"), str(path), path.resolve().parent)
        except UnicodeDecodeError as error:
            raise StudyError(f"{path} is not UTF-8, as TOML has to be: {error}") from None
    texts = built_in()
    if source in texts:
        return parse(texts[source], f"{source}.toml")
    raise StudyError(f"there is no file {source} and no study of that name; there are: {', '.join(texts)}")


def _inherited(document: dict[str, Any], where: str) -> dict[str, Any]:
    """Completes each task that is ``like`` an earlier one with what it does not say itself, table by table."""
    entries = document.get("tasks")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return document
    known: dict[str, dict[str, Any]] = {}
    for entry in entries:
        model = entry.get("like")
        if model is not None and model not in known:
            raise StudyError(
                f"{where}: task {entry.get('name')!r} is like {model!r}, which is none of the tasks above it: "
                f"{', '.join(known) or 'there is none'}"
            )
        own = {key: value for key, value in entry.items() if key != "like"}
        known[str(entry.get("name"))] = _merged(known[model], own) if model is not None else own
    return {**document, "tasks": [known[str(entry.get("name"))] for entry in entries]}


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], own[key]) for key in base.keys() & own.keys()
            if isinstance(base[key], dict) and isinstance(own[key], dict)}  # fmt: skip
    return {**base, **own, **both}


def _first_faults(error: ValidationError, document: dict[str, Any]) -> list[ErrorDetails]:
    """Return the faults of a file without those that only follow from another one.

    A collection counts its entries without those that are wrong, and may then find itself too short. What a task takes
    over from another one is wrong in both.
    """
    every = error.errors(include_url=False)
    places = [fault["loc"] for fault in every]

    def follows(place: tuple[int | str, ...]) -> bool:
        if any(len(other) > len(place) and other[: len(place)] == place for other in places):
            return True
        if len(place) < 3 or place[0] != "tasks":
            return False
        entry = document["tasks"][place[1]]
        return "like" in entry and place[2] not in entry

    return [fault for fault in every if not follows(fault["loc"])]


def parse(text: str, where: str, folder: Path | None = None) -> Study:
    """Return the study that ``text`` describes; this imports families of the user's own.

    Args:
        text: TOML.
        where: the file, for messages.
        folder: where families of the user's own are looked for if Python does not find them otherwise.

    Raises:
        StudyError: if it is wrong; the message has a line for each fault, with its place in the file ``where``.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{where} is not TOML: {error}") from None
    except RecursionError:
        raise StudyError(f"{where}: its brackets are nested too deeply") from None
    try:
        return Study.model_validate(_inherited(document, where), context=folder)
    except ValidationError as error:
        lines = []
        for fault in _first_faults(error, document):
            place = ".".join(str(part) for part in fault["loc"]) or "study"
            lines.append(f"{where}: {faults.line(fault, place)}")
        raise StudyError("\n".join(lines)) from None
