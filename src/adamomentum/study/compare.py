"""Runs a comparison: tune, choose, evaluate; what the store already has is not trained again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adamomentum.study.execute.base import Executor
from adamomentum.study.plan import Comparison
from adamomentum.study.spec import TrialSpec
from adamomentum.study.store import Store
from adamomentum.study.trial import TrialResult
from adamomentum.study.tune import Choice, select

Trials = list[tuple[TrialSpec, TrialResult]]
OnTrial = Callable[[TrialSpec, TrialResult, bool], None]
OnChoice = Callable[[str, "Choice | None"], None]


@dataclass(frozen=True)
class Outcome:
    """Everything a comparison produced, complete or not.

    Attributes:
        comparison: what was asked for.
        choices: the learning rate of each optimizer; None if none of its grid could be trained.
        tuning: trials of the tuning stage, in the order of the plan.
        final: trials of the final stage, in the order of the plan.
    """

    comparison: Comparison
    choices: dict[str, Choice | None]
    tuning: Trials
    final: Trials

    @property
    def failed(self) -> Trials:
        """The trials that ended in an error."""
        return [(s, r) for s, r in self.tuning + self.final if r.status == "error"]


def run_comparison(
    comparison: Comparison, store: Store, executor: Executor, on_trial: OnTrial, on_choice: OnChoice
) -> Outcome:
    """Runs what ``store`` lacks and returns all results.

    Args:
        comparison: what to run.
        store: where each result is kept as soon as it is there.
        executor: where trials run.
        on_trial: called with each trial, its result, and whether it came out of the store.
        on_choice: called with each optimizer's name and choice between the stages.
    """
    tuning = _complete(comparison.tuning(), store, executor, on_trial)
    choices: dict[str, Choice | None] = {}
    for name, grid in comparison.grids.items():
        if len(grid) == 1:
            choices[name] = Choice(lr=grid[0], edge=False)
        else:
            choices[name] = select(grid, [t for t in tuning if t[0].optimizer.name == name])
        on_choice(name, choices[name])
    chosen = {name: choice.lr for name, choice in choices.items() if choice is not None}
    final = _complete(comparison.final(chosen), store, executor, on_trial)
    return Outcome(comparison, choices, tuning, final)


def _complete(specs: Sequence[TrialSpec], store: Store, executor: Executor, on_trial: OnTrial) -> Trials:
    results: dict[str, TrialResult] = {}
    for spec in specs:
        kept = store.get(spec)
        if kept is not None:
            results[spec.trial_id] = kept
            on_trial(spec, kept, True)
    for spec, result in executor.run([s for s in specs if s.trial_id not in results]):
        store.put(spec, result)
        results[spec.trial_id] = result
        on_trial(spec, result, False)
    return [(spec, results[spec.trial_id]) for spec in specs]
