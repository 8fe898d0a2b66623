"""Is a task one that the engine can plan, run, interrupt and report?

Tested in tests/study/test_testing_tasks.py.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from adamomentum.study import registry, tasks
from adamomentum.study.checkpoint import Checkpoints, Log
from adamomentum.study.group import Group
from adamomentum.study.spec import Budget, ConstantSchedule, TaskSpec, TrialSpec, Value
from adamomentum.study.tasks.base import Run, Task
from adamomentum.study.testing.checks import Broken, Checks, drawn_from, path_of, reread, same, scrambled
from adamomentum.study.trial import TrialResult, run_trial, set_up

UNKNOWN = "no_such_parameter"
FEWEST_STEPS = 4


def torch_defaults() -> dict[str, Any]:
    """Return what of torch is set for the whole process."""
    return {
        "default dtype": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
    }


@dataclass
class Case:
    """The task that is checked, and on what; see ``check_task``."""

    subject: str | type[Task]
    params: Mapping[str, Value]
    source: Path | None
    given: Any
    steps: int
    batch_size: int
    optimizer: str
    lr: float
    device: str
    defaults: Mapping[str, Any] = field(default_factory=torch_defaults)

    @cached_property
    def path(self) -> str:
        """How a study file names the task."""
        return path_of(self.subject)

    @cached_property
    def task(self) -> Task:
        """The task."""
        task = tasks.task(self.path)
        assert isinstance(task, Task)
        return task

    def load(self, **more: Value) -> Any:
        """Load the data with the parameters of the case and ``more``, as a specification holds them."""
        params = TaskSpec(family="", version=1, data_fingerprint="", params={**self.params, **more}).params
        return self.task.load(params, self.source)

    @cached_property
    def data(self) -> Any:
        """The data that is trained on."""
        return self.load() if self.given is None else self.given

    def spec(self, **changes: Any) -> TrialSpec:
        """Return a trial: a final one with two points of the curve, unless ``changes`` say otherwise."""
        family = tasks.family(self.path)
        plain = {
            "stage": "final",
            "task": TaskSpec(
                family=family.name,
                version=family.version,
                data_fingerprint=self.data.fingerprint,
                params=dict(self.params),
            ),
            "optimizer": registry.get(self.optimizer).spec(self.lr),
            "schedule": ConstantSchedule(name="constant"),
            "budget": self.budget(evaluations=2),
            "replicate": 0,
            "device_kind": self.device,
        }
        return TrialSpec(**{**plain, **changes})

    def budget(self, evaluations: int) -> Budget:
        """Return a budget of the case's steps."""
        return Budget(steps=self.steps, batch_size=self.batch_size, evaluations=evaluations)

    def run(self, seed: int = 1, **changes: Any) -> TrialResult:
        """Run a trial while the global generators stand where ``seed`` puts them."""
        with scrambled(seed):
            return run_trial(self.spec(**changes), self.data)

    @cached_property
    def whole(self) -> TrialResult:
        """The trial that nothing is changed in."""
        return self.run()

    def set_up(self, **changes: Any) -> tuple[Run, list[torch.optim.Optimizer]]:
        """Return the task set up for a trial, as the engine does it, and the optimizers that it built."""
        spec = self.spec(**changes)
        with scrambled(spec.seed("init")):
            return set_up(spec, self.data, Group(torch.device(self.device)))


CHECKS: Checks[Case] = Checks()


@CHECKS.check(
    "a study file names a family as module:Class; plans need its version and metrics, and workers import it by name",
    "define the class at the top level of a module that Python finds, as a subclass of Task with a `family`",
)
def its_name_leads_to_it(case: Case) -> None:
    """Check that the name leads to the class, and that all is there that planning needs."""
    cls = type(case.task)
    if isinstance(case.subject, type) and cls is not case.subject:
        raise Broken(f"{case.path} is another class, {cls!r}")


@CHECKS.check(
    "the fingerprint is in a trial's id: a worker that loads other data refuses the trial, and a resumed study that "
    "sees another fingerprint trains everything again",
    "compute it from the content, e.g. by adamomentum.study.data.base.fingerprint_of, and draw with generators of "
    "fixed seeds, as np.random.default_rng(0)",
)
def data_is_always_the_same(case: Case) -> None:
    """Check fingerprint and description, and that loading again gives the same."""
    if case.given is not None:
        return
    prints = []
    for seed in (1, 2):
        with scrambled(seed):
            data = case.load()
        prints.append(getattr(data, "fingerprint", None))
        if not isinstance(prints[-1], str) or not prints[-1]:
            raise Broken(f"the data's `fingerprint` is {prints[-1]!r}, which is no text")
        line = data.describe()
        if not isinstance(line, str) or len(line.splitlines()) != 1:
            raise Broken(f"describe() of the data must return one line, got {line!r}")
    if prints[0] != prints[1]:
        raise Broken(f"loaded twice, the data has the fingerprints {prints[0]} and {prints[1]}")


@CHECKS.check(
    "a parameter that is misspelt in a study file would train something else than what the file says",
    "make the parameters a subclass of adamomentum.study.tasks.settings.Settings and begin load with its `of(params)`; "
    "or raise a ValueError that names the parameter",
)
def unknown_parameters_are_refused(case: Case) -> None:
    """Check that load refuses a parameter that there is not, by name."""
    try:
        case.load(**{UNKNOWN: 1.0})
    except ValueError as error:
        if UNKNOWN not in str(error):
            raise Broken(f"the error does not name the parameter {UNKNOWN!r}: {error}") from None
        return
    raise Broken(f"load takes the parameter {UNKNOWN!r} without a word")


@CHECKS.check(
    "baselines stand in the report beside the results, under the names of the declared metrics",
    "return name -> {'test_<key of a metric>': float}",
)
def baselines_are_of_declared_metrics(case: Case) -> None:
    """Check names and numbers of the baselines."""
    names = {f"test_{metric.key}" for metric in tasks.family(case.path).metrics}
    for name, values in case.task.baselines(case.data).items():
        for key, value in values.items():
            if key not in names:
                raise Broken(f"baseline {name!r} has {key!r}, which is none of {', '.join(sorted(names))}")
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise Broken(f"baseline {name!r} has {key} = {value!r}, which is no finite number")


@CHECKS.check(
    "this is what the engine calls, and where",
    "see adamomentum.study.tasks.base.Run. A specification holds every number as a float: make whole numbers int, as "
    "Settings does",
)
def a_run_can_be_set_up(case: Case) -> None:
    """Check what setup returns: the parts of a checkpoint, and the metrics of an evaluation."""
    run, _ = case.set_up()
    if not isinstance(run, Run):
        raise Broken(f"setup must return a Run, got {run!r}")
    for name, part in {**run.parts(), **run.own_parts()}.items():
        for method in ("state_dict", "load_state_dict"):
            if not callable(getattr(part, method, None)):
                raise Broken(f"part {name!r} is a {type(part).__name__}, which has no {method}")
    with scrambled(1):
        values = run.evaluate("val")
    family = tasks.family(case.path)
    needed = [(family.curve, "which is the metric of its learning curve")]
    if type(run).diverged is Run.diverged:
        needed.append(("loss", "by which a run is seen to diverge; or override Run.diverged"))
    for key, what in needed:
        if key not in values:
            raise Broken(f"evaluate('val') returns {', '.join(values) or 'nothing'} and no {key!r}, {what}")


@CHECKS.check(
    "all optimizers are compared at one and the same budget, and the schedule of the learning rate spans total_steps",
    "set total_steps to context.budget.total_steps(steps of an epoch), build the optimizer by context.build_optimizer "
    "(`Update` does), and make one update of the model in each step",
)
def the_budget_is_kept(case: Case) -> None:
    """Check the number of steps, and that each makes an update with the trial's optimizer."""
    run, built = case.set_up()
    if run.total_steps != case.steps:
        raise Broken(f"of a budget of {case.steps} steps it makes {run.total_steps}")
    epochs = (Budget(epochs=n, batch_size=case.batch_size) for n in (1, 3))
    one, three = (case.set_up(budget=budget)[0].total_steps for budget in epochs)
    if one < 1 or three != 3 * one:
        raise Broken(f"an epoch is {one} steps, three epochs are {three}")
    if not built:
        raise Broken("setup builds no optimizer by context.build_optimizer, so that it trains with one of its own")
    updates: list[torch.optim.Optimizer] = []
    with scrambled(1):
        for optimizer in built:
            optimizer.register_step_post_hook(lambda updated, *_: updates.append(updated))
        for step in (1, 2):
            updates.clear()
            loss = run.step()
            if not isinstance(loss, float):
                raise Broken(f"step() must return the training loss as a float, got {type(loss).__name__}")
            if not all(any(optimizer is updated for updated in updates) for optimizer in built):
                raise Broken(f"step {step} makes no update with an optimizer that setup built")


@CHECKS.check(
    "all that is said of optimizers rests on such runs",
    "if it is the learning rate, give check_task an optimizer and lr at which the task trains; metrics must be floats, "
    "and samples what JSON can hold",
)
def a_trial_runs(case: Case) -> None:
    """Check that a trial comes to its end, and that its result can be written down."""
    result = case.whole
    # Not by its status: of a few steps on small batches the last loss may be well above the first.
    if result.final["train_loss"] is None:
        raise Broken(f"with {case.optimizer} at lr {case.lr:g} the loss is not finite after {case.steps} steps or less")
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


@CHECKS.check(
    "settings are chosen, optimizers compared and curves drawn by the metrics that the family declares",
    "return each of them, under its key, from Run.evaluate for both splits, or from Run.finish if it is slow; or take "
    "it out of `family`. What `curve` names must come from evaluate",
)
def metrics_are_as_declared(case: Case) -> None:
    """Check that each declared metric is there, and finite."""
    family, result = tasks.family(case.path), case.whole
    places: list[tuple[str, Any]] = [(f"test_{m.key}", result.final.get(f"test_{m.key}")) for m in family.metrics]
    places.append((f"val_{family.select}", result.final.get(f"val_{family.select}")))
    places += [(f"val_{family.curve}", value) for value in result.curve.get(f"val_{family.curve}", [None])]
    for name, value in places:
        if value is None:
            raise Broken(f"there is no {name}, or it is not finite; there are: {', '.join(result.final)}")


@CHECKS.check(
    "the test split judges what the validation split has chosen; if they are one, the choice is judged by itself",
    "evaluate the split that Run.evaluate is asked for",
)
def validation_is_not_the_test(case: Case) -> None:
    """Check that the two splits do not give the same numbers."""
    final = case.whole.final
    both = [name.removeprefix("val_") for name in final if name.startswith("val_") and f"test_{name[4:]}" in final]
    if both and all(final[f"val_{key}"] == final[f"test_{key}"] for key in both):
        raise Broken(f"{', '.join(both)} of the validation split are those of the test split to the last bit")


@CHECKS.check(
    "a study that is run again, elsewhere or after a kill must find the same numbers",
    "draw from torch's global generator, which the engine seeds, or from context.generator(role); on a GPU choose "
    "deterministic algorithms",
)
def a_seed_decides_everything(case: Case) -> None:
    """Check that the same trial, run twice, gives the same numbers."""
    unlike = difference(case.whole, case.run(seed=2))
    if unlike:
        raise Broken(f"the same trial, run twice: {unlike}")


@CHECKS.check(
    "workers run one trial after the other: what one leaves changed reaches the next",
    "draw from generators of your own (np.random.default_rng, context.generator) and leave torch's defaults alone",
)
def nothing_global_is_changed(case: Case) -> None:
    """Check that a trial leaves Python's, NumPy's and torch's global state alone."""
    drawn = drawn_from()
    run_trial(case.spec(), case.data)
    used, changed = drawn(), [name for name, value in torch_defaults().items() if value != case.defaults[name]]
    if changed:
        raise Broken(f"a trial leaves another {', '.join(changed)} behind")
    if used:
        raise Broken(f"a trial draws from the global generator of {', '.join(used)}, which no seed of its own decides")


@CHECKS.check(
    "the spread over replicates is what every interval in the report is made of",
    "do not seed anything yourself: initial weights come from torch's global generator as it is in setup, the order of "
    "batches from context.generator('order')",
)
def replicates_differ(case: Case) -> None:
    """Check that another replicate gives other numbers."""
    if not difference(case.whole, case.run(replicate=1)):
        raise Broken("replicates 0 and 1 give the same numbers to the last bit")


@CHECKS.check(
    "how often a curve is drawn must not change what is trained",
    "evaluate under torch.no_grad() on model.eval(), call model.train() in every step, and keep no state between",
)
def evaluation_leaves_training_alone(case: Case) -> None:
    """Check that the number of evaluations does not change what is trained."""
    few, many = (case.run(budget=case.budget(evaluations)).final for evaluations in (1, case.steps))
    for name in ("train_loss", f"val_{tasks.family(case.path).curve}"):
        if few[name] != many[name]:
            raise Broken(f"{name} ends at {few[name]} with 1 evaluation and at {many[name]} with {case.steps}")


@CHECKS.check(
    "long trials are stopped and go on from a checkpoint, which torch.load reads with weights_only=True",
    "let state_dict return tensors, numbers, texts, and lists and dicts of them, and load_state_dict take all of it up",
)
def every_part_takes_up_its_state(case: Case) -> None:
    """Check that each part of a checkpoint can be written, read, and taken up."""
    with scrambled(1):
        (run, _), (fresh, _) = case.set_up(), case.set_up()
        for _ in range(2):
            run.step()
    for name, part in {**run.parts(), **run.own_parts()}.items():
        state = part.state_dict()
        try:
            kept = reread(state)
        except Broken as broken:
            raise Broken(f"part {name!r}: {broken}") from broken
        other = {**fresh.parts(), **fresh.own_parts()}[name]
        other.load_state_dict(kept)
        if not same(other.state_dict(), state):
            raise Broken(f"part {name!r} has another state_dict after load_state_dict")


@CHECKS.check(
    "a trial that was interrupted would not be the trial that its id names, and its result depend on who stopped it",
    "return from Run.parts() all that a step changes: models, optimizers, batches, running averages, what is carried "
    "from one step to the next. The state of torch's global generator is kept for you",
)
def a_trial_goes_on_from_its_checkpoint(case: Case) -> None:
    """Check that a trial which goes on from a checkpoint ends as the undisturbed one, bit for bit."""
    # Before and after the first of two points of the curve.
    goes_on(case.spec(), case.data, (case.steps // 2 - 1, case.steps // 2 + 1))


@CHECKS.check(
    "a run that blows up is a result, and the search meets such runs; an error is none",
    "let step, evaluate, finish and samples work on weights that are infinite or NaN",
)
def a_run_that_blows_up_is_a_result(case: Case) -> None:
    """Check that a run at an absurd learning rate raises nothing."""
    result = case.run(optimizer=registry.get("sgdm").spec(1e30))
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


@CHECKS.check(
    "a study file can set the precision, which is then part of the trial's id",
    "compute forward pass and loss under `with context.autocast():`; or refuse in setup, by a ValueError, a "
    "context.precision that is not float32",
)
def precision_reaches_the_model(case: Case) -> None:
    """Check that bfloat16 gives other numbers, or is refused."""
    try:
        half = case.run(precision="bfloat16")
    except ValueError as error:
        if "precision" not in str(error):
            raise
        return
    if not difference(case.whole, half):
        raise Broken("with precision bfloat16 the numbers are those of float32 to the last bit")


def difference(one: TrialResult, other: TrialResult) -> str:
    """Return where two results of the same trial differ, times apart; nothing if they do not."""
    for name in {**one.final, **other.final}:
        a, b = one.final.get(name), other.final.get(name)
        if a != b:
            return f"{name} ends at {a} and at {b}"
    for name in {**one.curve, **other.curve}:
        if one.curve.get(name) != other.curve.get(name):
            return f"the curves of {name} differ, {one.curve.get(name)} and {other.curve.get(name)}"
    return "" if one.samples == other.samples else "the samples differ"


class _Stops(Checkpoints):
    """Keeps the states at some steps, each by itself, and goes on from one of them."""

    def __init__(self, folder: Path, steps: Collection[int], start: int | None = None) -> None:
        super().__init__(folder)
        self._steps, self._start = steps, start
        self.went_on = False

    def _at(self, step: int) -> Checkpoints:
        return Checkpoints(self.folder / str(step))

    def due(self) -> bool:
        return True

    def save(self, spec: TrialSpec, run: Run, log: Log, group: Group) -> None:
        if log.step in self._steps:
            self._at(log.step).save(spec, run, log, group)

    def load(self, spec: TrialSpec, run: Run, rank: int = 0) -> Log | None:
        log = None if self._start is None else self._at(self._start).load(spec, run, rank)
        self.went_on = log is not None
        return log


def goes_on(spec: TrialSpec, data: Any, steps: Collection[int]) -> TrialResult:
    """Return the result of a trial that ends bit for bit as it does from its checkpoint at each of ``steps``.

    Raises:
        Broken: if it does not.
    """
    with TemporaryDirectory() as folder:
        with scrambled(1):
            whole = run_trial(spec, data)
        with scrambled(1):
            unlike = difference(whole, run_trial(spec, data, _Stops(Path(folder), steps)))
        if unlike:
            raise Broken(f"writing checkpoints changes the trial: {unlike}")
        for step in steps:
            stops = _Stops(Path(folder), (), step)
            with scrambled(2), warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                resumed = run_trial(spec, data, stops)
            if not stops.went_on:
                reasons = "; ".join(str(warning.message) for warning in said)
                raise Broken(f"the checkpoint of step {step} cannot be taken up: {reasons}")
            unlike = difference(whole, resumed)
            if unlike:
                raise Broken(f"undisturbed, and from the checkpoint of step {step}: {unlike}")
    return whole


def check_task(
    task: str | type[Task],
    params: Mapping[str, Value] | None = None,
    *,
    source: Path | None = None,
    data: Any = None,
    steps: int = 8,
    batch_size: int = 8,
    optimizer: str = "adamw",
    lr: float = 1e-3,
    device: str = "cpu",
    skip: Collection[str] = (),
) -> None:
    """Check that a task keeps what the study relies on, by a dozen trials of a few steps.

    Args:
        task: the class, or how a study file names it: ``module:Class``, or a family that comes along.
        params: as a study file gives them; choose a small model.
        source: the user's own copy of the data, as ``--data`` gives it.
        data: data to train on in place of what ``load`` returns, for instance a small part of it.
        steps: of each trial; at least 4.
        batch_size: of the budget.
        optimizer: a name in the registry; with it and ``lr`` the loss must stay finite.
        lr: its learning rate.
        device: kind of device.
        skip: names of checks to leave out. Say in your test why: each stands for something that the study relies on.

    Raises:
        ContractError: if a check fails; it says what is broken, why it matters, and the remedy.
        DataError: if the data cannot be had.
        ValueError: if an argument is wrong.
    """
    if steps < FEWEST_STEPS:
        raise ValueError(f"steps must be at least {FEWEST_STEPS}, got {steps}")
    registry.get(optimizer)
    case = Case(task, dict(params or {}), source, data, steps, batch_size, optimizer, lr, device)
    CHECKS.run(case.path, case, skip)
