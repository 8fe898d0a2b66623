"""From a study and the results so far to the trials that can be planned now.

    tune -> (extension) -> default, final -> sensitivity, controls

All is a pure function of the study, the data's fingerprints and the finished trials: resuming needs no state of its
own. A trial may serve several roles (a sensitivity sweep passes through the chosen setting): it is run once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from adamomentum.study import tasks
from adamomentum.study.registry import Optimizer
from adamomentum.study.spec import Budget, OptimizerSpec, ScheduleSpec, Stage, TaskSpec, TrialSpec, Value
from adamomentum.study.studyfile import Control, Study, TaskEntry
from adamomentum.study.trial import TrialResult

Role = Literal["tune", "repeat", "default", "final", "sensitivity", "control"]
ROLES: tuple[Role, ...] = ("tune", "repeat", "default", "final", "sensitivity", "control")

EDGE = 0.1
"""The outer part of what was tried, on its logarithmic scale, in which the best point counts as lying at the edge."""

CARRIED = ("betas", "weight_decay")
"""What a control takes over from another optimizer's setting beside the learning rate, where both have it."""

EXTENSION = 1 / 3
"""How far a range is extended beyond an edge, as a part of its logarithmic length."""

Results = Mapping[str, TrialResult]
Setting = Mapping[str, float]
"""Values of what was searched for, ``lr`` among them."""


@dataclass(frozen=True)
class Planned:
    """A trial and why it is run.

    Attributes:
        role: what the study needs it for.
        task: name of the task in the study.
        optimizer: name of the optimizer in the study, or of the control.
        point: index of the tuning point; half decades from the lr in the middle of a sensitivity sweep; else 0.
        spec: the trial.
    """

    role: Role
    task: str
    optimizer: str
    point: int
    spec: TrialSpec

    @property
    def sampled(self) -> bool:
        """Whether reports show samples of it: an optimizer's first final run, so that none is selected."""
        return self.role == "final" and self.spec.replicate == 0

    def is_at(self, setting: Setting | None) -> bool:
        """Say whether the trial's optimizer is at this setting."""
        values = {**self.spec.optimizer.hyperparameters, "lr": self.spec.optimizer.lr}
        return setting is not None and all(values.get(key) == value for key, value in setting.items())


@dataclass(frozen=True)
class Choice:
    """What tuning chose for an optimizer on a task.

    Attributes:
        setting: the values chosen; None if no point could be trained.
        score: the mean validation metric there; infinite without a setting, NaN where nothing was tuned.
        edges: searched values that lie at the edge even of the extended range, e.g. ``("lr",)``.
        points: number of points tried.
        failed: tuning trials that ended in an error and so say nothing.
    """

    setting: Setting | None
    score: float
    edges: tuple[str, ...]
    points: int
    failed: int


@dataclass(frozen=True)
class FormChoice:
    """Which form of an optimizer stands for it.

    Attributes:
        chosen: its name in the study.
        scores: of each form the geometric mean over tasks of its validation cost at the best setting; infinite if on
            some task no setting trains it.
    """

    chosen: str
    scores: Mapping[str, float]


@dataclass
class Plan:
    """What can be said now.

    Attributes:
        study: what is judged: the study, once forms are chosen with one of each optimizer alone.
        trials: in the order in which they should run; those of later rounds appear as the earlier ones finish.
        choices: per task and optimizer, where tuning is complete.
        forms: what was chosen of each optimizer that has several forms, once all tasks are tuned on.
        open: how many trials cannot be planned yet, at most, by role, task, and optimizer or control.
    """

    study: Study
    trials: list[Planned] = field(default_factory=list)
    choices: dict[tuple[str, str], Choice] = field(default_factory=dict)
    forms: dict[str, FormChoice] = field(default_factory=dict)
    open: Counter[tuple[Role, str, str]] = field(default_factory=Counter)

    @cached_property
    def by_id(self) -> Mapping[str, Planned]:
        """Each trial once, by its id: one that serves two roles is run for the first. To be asked of a whole plan."""
        unique: dict[str, Planned] = {}
        for t in self.trials:
            unique.setdefault(t.spec.trial_id, t)
        return unique


def sobol(count: int, dimensions: int, start: int = 0) -> list[tuple[float, ...]]:
    """Return points ``start`` .. ``start + count - 1`` of the Sobol sequence in the unit cube, 1 left out.

    Each sits in the middle of its cell, so that a first power of two of them is spread evenly in every dimension. The
    points after those fill the cells' borders, the low end of the range included.
    """
    from scipy.stats import qmc

    if count < 1:
        return []
    total = start + count
    first = 2 ** math.ceil(math.log2(max(start or count, 1)))
    exponent = math.ceil(math.log2(max(total, 2)))
    points = qmc.Sobol(dimensions, scramble=False).random_base2(exponent)[start:total]
    return [tuple(float(u + 0.5 / first) % 1.0 for u in row) for row in points]


class _Planner:
    def __init__(self, study: Study, fingerprints: Mapping[str, str], results: Results, device: str) -> None:
        self.study, self.fingerprints, self.results, self.device = study, fingerprints, results, device
        self.optimizers = {name: study.optimizer(name) for name in study.optimizers}
        # A control at another's setting may be of an optimizer that the study does not tune.
        self.entries = {**self.optimizers, **{c.optimizer: study.optimizer(c.optimizer) for c in study.controls}}
        self.plan = Plan(study)

    # --- a trial ---

    def hyperparameters(self, task: TaskEntry, name: str) -> dict[str, Value]:
        """Return what the task sets for the optimizer, without its learning rate."""
        given = {k: v for k, v in task.optimizers.get(name, {}).items() if k != "lr"}
        own = self.entries[name].hyperparameters
        return {**own, **{k: v for k, v in task.hyperparameters.items() if k in own}, **given}

    def budget(self, stage: Stage, task: TaskEntry) -> Budget | None:
        evaluations = self.study.tuning.evaluations
        if stage == "final" or evaluations is None or task.budget is None:
            return task.budget
        return task.budget.model_copy(update={"evaluations": evaluations})

    def spec(
        self,
        stage: Stage,
        task: TaskEntry,
        optimizer: OptimizerSpec,
        replicate: int,
        schedule: ScheduleSpec | None = None,
        budget: Budget | None = None,
    ) -> TrialSpec:
        family = tasks.family(task.family)
        return TrialSpec(
            stage=stage,
            task=TaskSpec(
                family=family.name,
                version=family.version,
                data_fingerprint=self.fingerprints[task.name],
                params=task.params,
            ),
            optimizer=optimizer,
            schedule=schedule or task.schedule,
            budget=budget or self.budget(stage, task),
            replicate=replicate,
            precision=task.precision,
            device_kind=self.device,
            processes=task.processes,
        )

    def optimizer(
        self, task: TaskEntry, name: str, setting: Setting, changes: Mapping[str, Value] | None = None
    ) -> OptimizerSpec:
        values = {**self.hyperparameters(task, name), **setting, **(changes or {})}
        lr = values.pop("lr")
        entry = self.entries[name]
        known, own = entry.hyperparameters, ":" in entry.name
        unknown = {key for key in values if not entry.has(key)}
        if unknown and not own:
            raise ValueError(
                f"{name} has no hyper-parameter {', '.join(sorted(unknown))}; it has: lr, {', '.join(known)}"
            )
        placement = entry.eps_placement if own else None  # the registry knows its own
        return OptimizerSpec(name=entry.name, lr=lr, hyperparameters=values, eps_placement=placement)  # type: ignore[arg-type]

    # --- tuning ---

    def searched(self, task: TaskEntry, name: str) -> list[str]:
        if self.given(task, name) is not None:
            return []
        if self.grid(name):
            return ["lr"]
        return [key for key in task.tune if key in self.optimizers[name].space]

    def trials_of(self, task: TaskEntry) -> int:
        return self.study.tuning.trials if task.trials is None else task.trials

    def grid(self, name: str) -> tuple[float, ...]:
        return self.study.optimizers[name].grid

    def given(self, task: TaskEntry, name: str) -> Setting | None:
        """Return the setting of an optimizer that is not tuned; None if it is."""
        if len(self.grid(name)) == 1:
            return {"lr": self.grid(name)[0]}
        return self.published(task, name) if tuning_points(self.study, task.name, name) == 0 else None

    def points(self, task: TaskEntry, name: str) -> list[dict[str, float]]:
        """Return the points of the first search: the same in the unit cube for every optimizer without a grid."""
        if self.grid(name):
            return [{"lr": lr} for lr in self.grid(name)]
        unit = sobol(self.trials_of(task), max(1, len(task.tune)))
        where = {key: task.tune.index(key) for key in self.searched(task, name)}
        space = self.optimizers[name].space
        return [{key: space[key].at(point[k]) for key, k in where.items()} for point in unit]

    def extension(self, task: TaskEntry, name: str, choice: Choice) -> list[dict[str, float]]:
        """Further points: beyond the edge where the best lies at one, else the next of the sequence; none of a grid."""
        if self.grid(name):
            return []
        count, start = self.study.tuning.extension, self.trials_of(task)
        unit = sobol(count, max(1, len(task.tune)), start)
        space, where = self.optimizers[name].space, {k: task.tune.index(k) for k in self.searched(task, name)}
        first = self.points(task, name)
        sides = {key: self.side(task, name, key, choice.setting, first) for key in where}
        moved = []
        for j, point in enumerate(unit):
            values = {}
            for key, k in where.items():
                beyond = EXTENSION * (j + 1) / count
                u = {1: 1 + beyond, -1: -beyond}.get(sides.get(key, 0), point[k])
                values[key] = space[key].at(u)
            moved.append(values)
        return moved

    def side(
        self, task: TaskEntry, name: str, key: str, setting: Setting | None, points: list[dict[str, float]]
    ) -> int:
        """1 or -1 if the setting is an outermost one of ``points`` or lies near an end of what they span, else 0."""
        if setting is None:
            return 0
        position = self.optimizers[name].space[key].position
        here, tried = position(setting[key]), [position(p[key]) for p in points]
        # A few points leave the ends of the range untried; points beyond it move its ends.
        low, high = min(0.0, *tried), max(1.0, *tried)
        if here >= min(max(tried), high - EDGE * (high - low)):
            return 1
        return -1 if here <= max(min(tried), low + EDGE * (high - low)) else 0

    def tuning(self, task: TaskEntry, name: str, points: list[dict[str, float]], start: int = 0) -> list[Planned]:
        if self.given(task, name) is not None:
            return []
        return [
            Planned("tune", task.name, name, start + k, self.spec("tune", task, self.optimizer(task, name, p), seed))
            for seed in range(self.study.tuning.seeds)
            for k, p in enumerate(points)
        ]

    def choose(self, task: TaskEntry, name: str, trials: list[Planned], points: list[dict[str, float]]) -> Choice:
        """Return the point with the best mean validation metric; a diverged trial counts as infinitely bad."""
        given = self.given(task, name)
        if given is not None:
            return Choice(given, math.nan, (), 0, 0)
        family = task.reported
        metric = family.metric(family.select)
        scores: dict[int, list[float]] = {}
        failed = 0
        for trial in trials:
            result = self.results[trial.spec.trial_id]
            if result.status == "error":
                failed += 1
                continue
            value = result.final.get(f"val_{metric.key}") if result.status == "ok" else None
            scores.setdefault(trial.point, []).append(math.inf if value is None else metric.cost(value))
        means = {k: math.fsum(v) / len(v) for k, v in scores.items()}
        best = min(means, key=lambda k: (means[k], points[k]["lr"]), default=None)
        if best is None or not math.isfinite(means[best]):
            return Choice(None, math.inf, (), len(points), failed)
        return Choice(points[best], metric.cost(means[best]), (), len(points), failed)

    def tune(self, task: TaskEntry) -> dict[str, Choice] | None:
        """Plans the search on a task; returns the choices once it is complete."""
        names = list(self.study.optimizers)
        points = {name: self.points(task, name) for name in names}
        first = {name: self.tuning(task, name, points[name]) for name in names}
        self.plan.trials += _interleaved(first.values())
        extra = self.study.tuning.extension
        if not self.done(first.values()):
            for name in names:
                if not self.grid(name) and self.searched(task, name):
                    self.later("tune", task, name, extra * self.study.tuning.seeds)
            return None
        choices = {name: self.choose(task, name, first[name], points[name]) for name in names}
        at_edge = any(
            self.side(task, n, k, c.setting, points[n])
            for n, c in choices.items()
            if not self.grid(n)  # which says itself how far to look
            for k in self.searched(task, n)
        )
        if extra and at_edge:
            more = {name: self.extension(task, name, choices[name]) for name in names}
            second = {name: self.tuning(task, name, more[name], self.trials_of(task)) for name in names}
            self.plan.trials += _interleaved(second.values())
            if not self.done(second.values()):
                return None
            points = {name: points[name] + more[name] for name in names}
            choices = {name: self.choose(task, name, first[name] + second[name], points[name]) for name in names}
        return {
            n: replace(c, edges=tuple(k for k in self.searched(task, n) if self.side(task, n, k, c.setting, points[n])))
            for n, c in choices.items()
        }

    def choose_forms(self) -> None:
        """Decide which form of each optimizer is judged, once all tasks are tuned on."""
        for leader, names in self.study.forms.items():
            scores = {name: self.form_score(name) for name in names}
            chosen = min(names, key=scores.__getitem__)  # of equals the first, the optimizer as it is
            self.plan.forms[leader] = FormChoice(chosen, scores)
        self.study = self.plan.study = self.study.judged({k: c.chosen for k, c in self.plan.forms.items()})
        self.optimizers = {name: self.optimizers[name] for name in self.study.optimizers}

    def form_score(self, name: str) -> float:
        """Return the geometric mean over tasks of a form's validation cost, of which every task changes a share.

        Raises:
            ValueError: if settings are chosen by a metric that is no cost, or nothing is tuned.
        """
        costs = []
        for task in self.study.tasks:
            metric = task.reported.metric(task.reported.select)
            cost = self.plan.choices[task.name, name].score
            if metric.better == "higher" or not cost > 0:
                raise ValueError(
                    f"forms of {name} cannot be compared on {task.name}: its {metric.key} must be a positive number "
                    f"that is lower for better settings, and tuned; got {metric.cost(cost):g}"
                )
            costs.append(cost)
        return math.exp(math.fsum(map(math.log, costs)) / len(costs)) if all(map(math.isfinite, costs)) else math.inf

    def after_tuning(self, chosen: Mapping[str, Mapping[str, Choice]]) -> None:
        """Plan what comes after tuning, or count it on tasks that are not in ``chosen``."""
        for task in self.study.tasks:
            if self.trials_of(task):
                self.default(task)
        for task in self.study.tasks:
            if task.name in chosen:
                self.final(task, chosen[task.name])
            else:
                for name in self.study.optimizers:
                    self.later("final", task, name, self.study.final.seeds)
        for task in self.study.tasks:
            if task.name in chosen:
                for control in self.controls(task):
                    self.control(task, chosen[task.name], control)
                self.sensitivity(task, chosen[task.name])
            else:
                self.later_controls(task, self.study)

    def forms_open(self) -> None:
        """Count what comes after the choice of forms, which needs all tasks."""
        judged = self.study.judged({leader: leader for leader in self.study.forms})
        for task in judged.tasks:
            for name in judged.optimizers:
                self.later("default", task, name, judged.default.seeds * (not judged.optimizers[name].control))
                self.later("final", task, name, judged.final.seeds)
            self.later_controls(task, judged)

    def later_controls(self, task: TaskEntry, study: Study) -> None:
        """Count a task's controls and sweeps, which need its choices."""
        sweep = study.sensitivity.seeds * (2 * study.sensitivity.half_decades + 1)
        controls = self.controls(task)
        for control in controls:
            self.later("control", task, control.name, control.seeds)
        swept = [c.name for c in controls if c.name in study.sensitivity.controls]
        for name in (*study.sensitivity.optimizers, *swept):
            self.later("sensitivity", task, name, sweep)

    def done(self, groups: Iterable[list[Planned]]) -> bool:
        return all(trial.spec.trial_id in self.results for group in groups for trial in group)

    def later(self, role: Role, task: TaskEntry, name: str, count: int) -> None:
        if count:
            self.plan.open[role, task.name, name] = count

    # --- what comes after ---

    def published(self, task: TaskEntry, name: str) -> Setting:
        """Return the registry's learning rate, or the one that the task says was run."""
        lr: Any = task.optimizers.get(name, {}).get("lr", self.entries[name].default_lr)
        return {"lr": float(lr)}

    def default(self, task: TaskEntry) -> None:
        """Return published settings beside the tuned ones. Controls have none."""
        groups = []
        for name in self.optimizers:
            if self.study.optimizers[name].control:
                continue
            spec = self.optimizer(task, name, self.published(task, name))
            groups.append(
                [
                    Planned("default", task.name, name, 0, self.spec("final", task, spec, seed))
                    for seed in self.study.default.replicates
                ]
            )
        self.plan.trials += _interleaved(groups)

    def final(self, task: TaskEntry, choices: Mapping[str, Choice]) -> None:
        # The baselines first: the target of time-to-target is theirs, fixed before the reference has run.
        names = sorted(self.optimizers, key=lambda n: n not in self.study.baselines)
        groups = [
            [
                Planned("final", task.name, n, 0, self.spec("final", task, self.optimizer(task, n, s), seed))
                for seed in self.study.final.replicates
            ]
            for n in names
            if (s := choices[n].setting) is not None
        ]
        baselines = [g for g in groups if g and g[0].optimizer in self.study.baselines]
        self.plan.trials += _interleaved(baselines) + _interleaved([g for g in groups if g not in baselines])

    def sensitivity(self, task: TaskEntry, choices: Mapping[str, Choice]) -> None:
        groups = []
        for name in self.study.sensitivity.optimizers:
            setting = choices[name].setting
            if setting is not None:
                middle = self.spec("final", task, self.optimizer(task, name, setting), 0)
                groups += self.sweep(task, name, middle)
        for control in self.controls(task):
            if control.name in self.study.sensitivity.controls:
                optimizer = self.control_optimizer(task, choices, control)
                if optimizer is not None:
                    groups += self.sweep(task, control.name, self.control_spec(task, control, optimizer, 0))
        self.plan.trials += _interleaved(groups)

    def sweep(self, task: TaskEntry, name: str, middle: TrialSpec) -> list[list[Planned]]:
        """Return trials like ``middle`` at learning rates around its own: for each rate one a seed."""
        reach, lr = self.study.sensitivity.half_decades, middle.optimizer.lr
        groups = []
        for k in range(-reach, reach + 1):
            rate = lr if k == 0 else float(f"{lr * 10 ** (k / 2):.3g}")
            there = middle.model_copy(update={"optimizer": middle.optimizer.model_copy(update={"lr": rate})})
            groups.append(
                [
                    Planned("sensitivity", task.name, name, k, there.model_copy(update={"replicate": seed}))
                    for seed in range(self.study.sensitivity.seeds)
                ]
            )
        return groups

    def control(self, task: TaskEntry, choices: Mapping[str, Choice], control: Control) -> None:
        optimizer = self.control_optimizer(task, choices, control)
        if optimizer is None:
            return
        self.plan.trials += [
            Planned("control", task.name, control.name, 0, self.control_spec(task, control, optimizer, seed))
            for seed in range(control.seeds)
        ]

    def control_spec(self, task: TaskEntry, control: Control, optimizer: OptimizerSpec, seed: int) -> TrialSpec:
        return self.spec("final", task, optimizer, seed, control.schedule, control.budget)

    def control_optimizer(
        self, task: TaskEntry, choices: Mapping[str, Choice], control: Control
    ) -> OptimizerSpec | None:
        """Return what a control trains with; None where no setting trains that which it is derived from."""
        source = choices[control.setting_from or control.lr_from or control.optimizer].setting
        if source is None:
            return None
        # By default only the learning rate of another optimizer's setting is taken; the rest stays the optimizer's own.
        own = self.taken_over(task, control, source) if control.setting_from else choices[control.optimizer].setting
        if own is None:
            return None
        lr = float(f"{source['lr'] * control.lr_factor:.3g}")
        return self.optimizer(task, control.optimizer, {**own, "lr": lr}, control.hyperparameters)

    def taken_over(self, task: TaskEntry, control: Control, source: Setting) -> Mapping[str, Any]:
        """Return what ``setting_from`` gives a control, its optimizer being at the setting ``source``."""
        theirs = {**self.hyperparameters(task, control.setting_from), **source}
        mine = self.entries[control.optimizer].hyperparameters
        return {"lr": theirs["lr"], **{key: theirs[key] for key in CARRIED if key in theirs and key in mine}}

    def repeat(self, task: TaskEntry) -> None:
        """Plan the first trial of a task once more: whether the user's own training repeats is not known before."""
        for k, t in enumerate(self.plan.trials):
            if t.task == task.name:
                again = t.spec.model_copy(update={"repeat": 1})
                self.plan.trials.insert(k + 1, replace(t, role="repeat", spec=again))
                return

    def controls(self, task: TaskEntry) -> list[Control]:
        return [c for c in self.study.controls if not c.tasks or task.name in c.tasks]


def _interleaved(groups: Iterable[list[Planned]]) -> list[Planned]:
    """One of each group in turn, so that a run that is cut short has something of everything."""
    groups = list(groups)
    longest = max((len(group) for group in groups), default=0)
    return [group[k] for k in range(longest) for group in groups if k < len(group)]


def plan(study: Study, fingerprints: Mapping[str, str], results: Results, device: str = "cpu") -> Plan:
    """Return what is to be run, as far as ``results`` (by trial id) allow to say.

    Args:
        study: what to compare.
        fingerprints: of each task's data, by the task's name in the study.
        results: finished trials, those that ended in an error included.
        device: kind of device the trials train on.

    Raises:
        ValueError: if the study sets a hyper-parameter that an optimizer does not have.
    """
    planner = _Planner(study, fingerprints, results, device)
    chosen: dict[str, dict[str, Choice]] = {}
    for task in study.tasks:
        choices = planner.tune(task)
        if choices is not None:
            chosen[task.name] = choices
            planner.plan.choices |= {(task.name, name): choice for name, choice in choices.items()}
    if study.forms and (study.partial or len(chosen) < len(study.tasks)):
        planner.forms_open()
    else:
        planner.choose_forms()
        planner.after_tuning(chosen)
    for task in study.tasks:
        if task.family == tasks.OWN:
            planner.repeat(task)
    return planner.plan


def published(study: Study) -> Iterator[tuple[str, OptimizerSpec]]:
    """Yield where and what: each optimizer and control on each task, at its published learning rate.

    Beside the learning rate, and what else is searched for, these are the settings of all trials of the study.

    Raises:
        ValueError: if the study sets a hyper-parameter that an optimizer does not have.
    """
    planner = _Planner(study, {}, {}, "cpu")
    for task in study.tasks:
        for name in study.optimizers:
            yield f"tasks.{task.name}, {name}", planner.optimizer(task, name, planner.published(task, name))
        for control in planner.controls(task):
            setting: Mapping[str, Any] = planner.published(task, control.optimizer)
            if control.setting_from:
                setting = planner.taken_over(task, control, planner.published(task, control.setting_from))
            changed = planner.optimizer(task, control.optimizer, setting, control.hyperparameters)
            yield f"tasks.{task.name}, controls.{control.name}", changed


def tuning_points(study: Study, task: str, name: str) -> int:
    """Return how many points the first search tries for an optimizer on a task; 0: its setting is given."""
    trials, grid = study.task(task).trials, len(study.optimizers[name].grid)
    trials = study.tuning.trials if trials is None else trials
    return 0 if grid == 1 else grid or trials


def label(study: Study, name: str) -> str:
    """Return how the optimizer or control ``name`` is called in tables."""
    if name in study.optimizers:
        return study.optimizers[name].label or optimizer_of(study, name).label
    return next((control.label for control in study.controls if control.name == name), "") or name


def beside(study: Study, control: Control) -> str:
    """Return what a control at another optimizer's setting is to be compared with: that optimizer, trained alike.

    That is the control that differs in nothing but that it is the optimizer itself, where the study has one, and the
    optimizer's tuned runs where the control trains as those do; nothing else is a fair pair.

    Returns:
        The name of the control or optimizer; empty if there is none.
    """
    tuned = Control(name="tuned", optimizer=control.setting_from, tasks=control.tasks)
    if control.at(tuned):
        return control.setting_from
    twins = (
        c.name
        for c in study.controls
        if c.optimizer == control.setting_from and not c.hyperparameters and not c.lr_from and c.at(control)
    )
    return next(twins, "")


def swapped(study: Study) -> list[Control]:
    """Return the controls that train like tuned runs but for their setting, which is another optimizer's."""
    return [c for c in study.controls if c.setting_from and beside(study, c) == c.setting_from]


def optimizer_of(study: Study, name: str) -> Optimizer:
    """Return the optimizer behind ``name``, which may be a control."""
    controls = {control.name: control.optimizer for control in study.controls}
    return study.optimizer(controls.get(name, name))
