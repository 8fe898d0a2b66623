"""Is an optimizer one that the engine can build, schedule, interrupt and resume?

Tested in tests/study/test_testing_optimizers.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adamomentum.study import own, registry
from adamomentum.study.spec import OptimizerSpec, Value
from adamomentum.study.testing.checks import Broken, Checks, drawn_from, path_of, reread, same, scrambled

UNKNOWN = "no_such_hyperparameter"
SHAPES = ((4, 3), (5,))
STEPS = 8
LONG = 40
FACTOR = 8.0

Optimizer = torch.optim.Optimizer


@dataclass
class Case:
    """The optimizer that is checked, and on what; see ``check_optimizer``."""

    subject: str | type[Optimizer]
    spec: OptimizerSpec
    shapes: Sequence[tuple[int, ...]]
    device: torch.device

    def params(self, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
        """Return parameters of the case's shapes, always the same."""
        counts = [torch.Size(shape).numel() for shape in self.shapes]
        flat = [torch.linspace(-1, 1, count, dtype=torch.float64) for count in counts]
        return [
            nn.Parameter(part.view(shape).to(self.device, dtype)) for part, shape in zip(flat, self.shapes, strict=True)
        ]

    def build(self, params: Any, **more: Value) -> Optimizer:
        """Return the optimizer over ``params``, with further hyper-parameters."""
        hyperparameters = {**self.spec.hyperparameters, **more}
        return registry.build(self.spec.model_copy(update={"hyperparameters": hyperparameters}), params)

    def train(
        self,
        first: int = 1,
        last: int = STEPS,
        params: list[nn.Parameter] | None = None,
        optimizer: Optimizer | None = None,
    ) -> tuple[list[nn.Parameter], Optimizer]:
        """Make steps ``first`` to ``last`` and return what they have come to."""
        params = self.params() if params is None else params
        optimizer = self.build(params) if optimizer is None else optimizer
        for step in range(first, last + 1):
            give_gradients(params, step)
            optimizer.step()
        return params, optimizer


def give_gradients(params: Sequence[nn.Parameter], step: int) -> None:
    """Set the gradients of a problem with curvature, noise and changes of sign; they depend on nothing else."""
    generator = torch.Generator().manual_seed(step)
    for p in params:
        theta = p.detach().cpu().double()
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = (theta**3 - 0.5 * theta + 0.3 * noise).to(p.device, p.dtype)


def copied(params: Sequence[Tensor]) -> list[Tensor]:
    """Return the values of ``params`` as they are now."""
    return [p.detach().clone() for p in params]


def moved(params: Sequence[Tensor], since: Sequence[Tensor]) -> float:
    """Return how far ``params`` are from where they were."""
    pairs = zip(params, since, strict=True)
    return float(sum((p.detach().double() - before.double()).square().sum() for p, before in pairs) ** 0.5)


CHECKS: Checks[Case] = Checks()


@CHECKS.check(
    "a study file names an optimizer as module:Class, and workers import it by that name",
    "define the class at the top level of a module that Python finds",
)
def its_name_leads_to_it(case: Case) -> None:
    """Check that the name leads to the class."""
    if isinstance(case.subject, type) and own.imported("optimizer", case.spec.name) is not case.subject:
        raise Broken(f"{case.spec.name} is another class")


@CHECKS.check(
    "the study builds it so for every trial, and sets lr in every group before each step",
    "take params, lr and every hyper-parameter by keyword, and give the groups to torch.optim.Optimizer.__init__ with "
    "lr among the defaults",
)
def it_is_built_by_keyword(case: Case) -> None:
    """Check that groups have the learning rate that was given."""
    for group in case.build(case.params()).param_groups:
        if group.get("lr") != case.spec.lr:
            raise Broken(f"the lr of a group is {group.get('lr')!r} where {case.spec.lr!r} was given")


@CHECKS.check(
    "a hyper-parameter that is misspelt in a study file would be in a trial's id and change nothing",
    "name the hyper-parameters in the signature, without **kwargs",
)
def unknown_hyperparameters_are_refused(case: Case) -> None:
    """Check that the constructor does not swallow what it does not know."""
    try:
        case.build(case.params(), **{UNKNOWN: 1.0})
    except (TypeError, ValueError):
        return
    raise Broken(f"it takes {UNKNOWN!r} without a word")


@CHECKS.check(
    "an optimizer that climbs, or does nothing, is none",
    "look at the sign of the update; or give check_optimizer an lr at which it descends from 1 to 0 in some 40 steps",
)
def it_descends(case: Case) -> None:
    """Check that a quadratic loss gets smaller."""
    params = case.params()
    optimizer, start = case.build(params), copied(params)
    for _ in range(LONG):
        for p in params:
            p.grad = p.detach().clone()
        optimizer.step()
    before, after = (sum(float(p.detach().square().sum()) for p in each) for each in (start, params))
    if not after < before:
        raise Broken(f"in {LONG} steps on half the squared norm it comes from {before / 2:.4g} to {after / 2:.4g}")


@CHECKS.check(
    "gradients are read after the step too: by whoever logs their norm, and by code that accumulates them",
    "work on a copy: `grad = p.grad.add(p, alpha=decay)` in place of `p.grad.add_(p, alpha=decay)`",
)
def gradients_are_left_as_they_are(case: Case) -> None:
    """Check that p.grad is the same tensor with the same numbers after a step."""
    params = case.params()
    optimizer = case.build(params)
    for step in range(1, STEPS + 1):
        give_gradients(params, step)
        given, values = [p.grad for p in params], [p.grad.clone() for p in params if p.grad is not None]
        optimizer.step()
        replaced = any(p.grad is not grad for p, grad in zip(params, given, strict=True))
        if replaced or not same(given, values):
            raise Broken(f"step {step} changes p.grad")


@CHECKS.check(
    "parts of a model may have no gradient in a step, e.g. those that are frozen; they must not move",
    "skip parameters whose grad is None, and let zero_grad be that of torch.optim.Optimizer",
)
def parameters_without_a_gradient_stay(case: Case) -> None:
    """Check steps in which no parameter has a gradient, the first one among them, and zero_grad."""
    params = case.params()
    optimizer = case.build(params)
    optimizer.step()
    give_gradients(params, 1)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if any(p.grad is not None for p in params):
        raise Broken("after zero_grad(set_to_none=True) there are gradients")
    before = copied(params)
    optimizer.step()
    if not same(copied(params), before):
        raise Broken("a step without gradients moves the parameters")


@CHECKS.check(
    "the schedule writes the learning rate into the groups before each step, and acts through nothing else",
    "read group['lr'] in every step, and keep no copy of it",
)
def each_step_reads_the_learning_rate(case: Case) -> None:
    """Check that a lower rate in the groups makes the next step shorter."""

    def last_step(factor: float) -> float:
        params, optimizer = case.train(last=STEPS - 1)
        before = copied(params)
        for group in optimizer.param_groups:
            group["lr"] = case.spec.lr * factor
        case.train(STEPS, STEPS, params, optimizer)
        return moved(params, before)

    full, small = last_step(1.0), last_step(1 / FACTOR)
    if not small < full:
        raise Broken(f"at 1 / {FACTOR:g} of the learning rate a step is of length {small:.4g}, else of {full:.4g}")


@CHECKS.check(
    "a task may give parts of its model a learning rate of their own",
    "read the options of a group from that group, not from self.defaults",
)
def groups_have_their_own_learning_rate(case: Case) -> None:
    """Check that the second of two groups is moved by its own learning rate."""

    def second(factor: float) -> float:
        params = [*case.params(), *case.params()]
        half = len(params) // 2
        groups = [{"params": params[:half]}, {"params": params[half:], "lr": case.spec.lr * factor}]
        before = copied(params)
        case.train(1, 1, params, case.build(groups))
        return moved(params[half:], before[half:])

    full, small = second(1.0), second(1 / FACTOR)
    if not small < full:
        raise Broken(f"a group at 1 / {FACTOR:g} of the learning rate moves by {small:.4g}, else by {full:.4g}")


@CHECKS.check(
    "a study that is run again, elsewhere or after a kill must find the same numbers",
    "do not depend on what is outside of parameters, gradients and state",
)
def it_is_deterministic(case: Case) -> None:
    """Check that the same steps end at the same numbers."""
    ends = []
    for seed in (1, 2):
        with scrambled(seed):
            ends.append(copied(case.train()[0]))
    if not same(*ends):
        raise Broken(f"{STEPS} steps, made twice, end at different numbers")


@CHECKS.check(
    "a seed decides weights, batches and dropout in the same way for every optimizer; one that draws from the global "
    "generator moves the dropout of the steps that follow",
    "draw from a torch.Generator of your own, whose state is in state_dict",
)
def global_generators_are_left_alone(case: Case) -> None:
    """Check that a step draws from no global generator."""
    params, optimizer = case.train(last=1)
    give_gradients(params, 2)
    drawn = drawn_from()
    optimizer.step()
    if drawn():
        raise Broken(f"a step draws from the global generator of {', '.join(drawn())}")


@CHECKS.check(
    "a state on another device costs a copy in each step, one in another type memory or precision",
    "make it by torch.zeros_like(p). If it is kept narrower on purpose, skip this check and say why",
)
def state_is_where_and_of_what_the_parameter_is(case: Case) -> None:
    """Check device and type of what the state holds for each number of a parameter."""
    for dtype in (torch.float32, torch.float64):
        params, optimizer = case.train(last=2, params=case.params(dtype))
        for p in params:
            for key, value in optimizer.state[p].items():
                counter = not isinstance(value, Tensor) or value.shape != p.shape or not value.is_floating_point()
                if counter or p.numel() == 1:  # beside a single number a counter is not told apart
                    continue
                if value.device != p.device or value.dtype != p.dtype:
                    raise Broken(f"{key!r} is {value.dtype} on {value.device}, its parameter {p.dtype} on {p.device}")


@CHECKS.check(
    "long trials are stopped and go on from a checkpoint; the result must not tell",
    "keep all that steps change in self.state[p] or in the groups, as tensors and numbers, and make what is missing "
    "when a step needs it",
)
def it_goes_on_from_its_state_bit_for_bit(case: Case) -> None:
    """Check that a new optimizer which takes up the state makes the steps that the old one would have made."""
    whole = copied(case.train()[0])
    for stop in (0, 1, STEPS // 2):
        params, optimizer = case.train(last=stop)
        state = optimizer.state_dict()
        kept = reread(state)
        fresh = [nn.Parameter(p.detach().clone()) for p in params]
        other = case.build(fresh)
        other.load_state_dict(kept)
        if not same(other.state_dict(), state):
            raise Broken(f"after load_state_dict the state_dict of step {stop} is another one")
        case.train(stop + 1, STEPS, fresh, other)
        if not same(copied(fresh), whole):
            raise Broken(f"from its state after step {stop} it ends {moved(fresh, whole):.4g} away from its end")


@CHECKS.check(
    "step() and step(closure) are what torch promises; who uses the optimizer elsewhere may pass one",
    "`with torch.enable_grad(): loss = closure()` first, and return loss; None without a closure",
)
def a_closure_is_optional(case: Case) -> None:
    """Check that step(closure) does what the closure and then step() do."""
    plain = copied(case.train(last=2)[0])
    params = case.params()
    optimizer = case.build(params)
    for step in (1, 2):

        def closure(step: int = step) -> float:
            if not torch.is_grad_enabled():
                raise Broken("the closure is called without gradients: it cannot run a backward pass")
            give_gradients(params, step)
            return 7.0 + step

        loss: Any = optimizer.step(closure)
        if loss != 7.0 + step:
            raise Broken(f"step(closure) must return the closure's loss, {7.0 + step}, got {loss!r}")
    if not same(copied(params), plain):
        raise Broken("two steps with a closure end elsewhere than two steps on the same gradients")


@CHECKS.check(
    "a run that blows up is a result, and the search meets such runs; an error is none",
    "let a step work on gradients that are infinite or NaN",
)
def gradients_that_are_not_finite_are_no_error(case: Case) -> None:
    """Check that a step takes infinite and NaN gradients."""
    params, optimizer = case.train(last=2)
    for bad in (float("inf"), float("nan")):
        for p in params:
            p.grad = torch.full_like(p, bad)
        optimizer.step()


def check_optimizer(
    optimizer: str | type[Optimizer],
    hyperparameters: Mapping[str, Value] | None = None,
    *,
    lr: float | None = None,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    device: str = "cpu",
    skip: Collection[str] = (),
) -> None:
    """Check that an optimizer keeps what the study relies on, by a few steps on a few numbers.

    Args:
        optimizer: the class, or how a study file names it: ``module:Class``, or a name in the registry.
        hyperparameters: all but the learning rate, as a study file gives them; by default the registry's.
        lr: a learning rate at which it descends from 1 to 0 in some 40 steps; by default 0.01.
        shapes: of the parameters that it is tried on.
        device: where they lie.
        skip: names of checks to leave out. Say in your test why: each stands for something that is relied on.

    Raises:
        ContractError: if a check fails; it says what is broken, why it matters, and the remedy.
        ValueError: if an argument is wrong.
    """
    name = path_of(optimizer)
    if hyperparameters is None:
        hyperparameters = {} if ":" in name else registry.get(name).hyperparameters
    spec = OptimizerSpec(name=name, lr=0.01 if lr is None else lr, hyperparameters=dict(hyperparameters))
    CHECKS.run(name, Case(optimizer, spec, shapes, torch.device(device)), skip)
