from __future__ import annotations

import math

import pytest

from adamomentum.study.trial import TrialResult
from adamomentum.study.tune import scores, select

GRID = (0.1, 0.3, 1.0)


def ok(loss: float) -> TrialResult:
    return TrialResult(status="ok", final={"val_loss": loss})


@pytest.fixture
def trials(make_spec):
    def make(*losses_by_lr):
        return [
            (make_spec("sgdm", lr, "tune", replicate), r if isinstance(r, TrialResult) else ok(r))
            for lr, results in zip(GRID, losses_by_lr, strict=True)
            for replicate, r in enumerate(results)
        ]

    return make


def test_the_lowest_mean_wins(trials) -> None:
    tuned = trials([0.5, 0.5], [0.1, 0.5], [0.2, 0.6])
    choice = select(GRID, tuned)
    assert choice is not None
    assert (choice.lr, choice.edge) == (0.3, False)
    assert scores(tuned) == pytest.approx({0.1: 0.5, 0.3: 0.3, 1.0: 0.4})


@pytest.mark.parametrize(("losses", "lr"), [(([1], [2], [3]), 0.1), (([3], [2], [1]), 1.0)])
def test_an_optimum_at_the_edge_is_flagged(trials, losses, lr) -> None:
    choice = select(GRID, trials(*losses))
    assert choice is not None
    assert (choice.lr, choice.edge) == (lr, True)


def test_ties_go_to_the_smaller_rate(trials) -> None:
    choice = select(GRID, trials([2], [1], [1]))
    assert choice is not None
    assert choice.lr == 0.3


def test_one_divergence_rules_a_rate_out_and_errors_do_not_count(trials) -> None:
    diverged = TrialResult(status="diverged", final={"val_loss": 0.01})
    error = TrialResult(status="error", error="boom")
    tuned = trials([0.5, 0.5], [0.01, diverged], [error, 0.7])
    choice = select(GRID, tuned)
    assert choice is not None
    assert choice.lr == 0.1
    assert scores(tuned) == {0.1: 0.5, 0.3: math.inf, 1.0: 0.7}


def test_nothing_to_choose_from(trials) -> None:
    diverged = TrialResult(status="diverged", final={"val_loss": None})
    assert select(GRID, trials([diverged], [diverged], [diverged])) is None
    assert select(GRID, []) is None
