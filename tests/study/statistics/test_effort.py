"""The expected best of k trials, how far a learning rate may be off, and time to a target."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamomentum.study.statistics import effort

SCORE = st.one_of(st.floats(-100, 100), st.sampled_from([None, math.nan, math.inf]))
LOSS = st.one_of(st.floats(0.01, 100), st.just(None))


@given(st.lists(SCORE, min_size=1, max_size=6))
def test_expected_best_is_the_mean_over_all_draws(scores) -> None:
    finite = [s for s in scores if s is not None and math.isfinite(s)]
    curve = effort.expected_best(scores)
    assert len(curve) == len(scores)
    if not finite:
        assert curve == [math.inf] * len(scores)
        return
    filled = [s if s is not None and math.isfinite(s) else max(finite) for s in scores]
    for k in range(1, len(scores) + 1):
        draws = [min(draw) for draw in itertools.combinations(filled, k)]
        assert curve[k - 1] == pytest.approx(sum(draws) / len(draws), abs=1e-9)


@given(st.lists(SCORE, min_size=1, max_size=40))
def test_more_trials_are_never_expected_to_be_worse(scores) -> None:
    curve = effort.expected_best(scores)
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(curve))
    finite = [s for s in scores if s is not None and math.isfinite(s)]
    assert curve[-1] == (pytest.approx(min(finite), abs=1e-9) if finite else math.inf)


def test_many_trials_do_not_overflow() -> None:
    curve = effort.expected_best([float(k) for k in range(2000)])
    assert curve[0] == pytest.approx(999.5)
    assert curve[999] == pytest.approx((2000 + 1) / (1000 + 1) - 1)  # the lowest of a sample of 0 .. n - 1
    assert effort.expected_best([]) == []


def test_width_by_hand() -> None:
    # 10 % above the best is 1.1: half-way, in the logarithm, to the left; 0.25 of the way, to the right.
    width = effort.lr_width([1e-3, 1e-2, 1e-4], [1.0, 1.4, 1.2], 0.1)
    assert width.low == pytest.approx(10**-3.5)
    assert width.high == pytest.approx(10**-2.75)
    assert width.decades == pytest.approx(0.75)
    assert (width.open_low, width.open_high) == (False, False)


def test_width_beyond_what_was_tried_is_open() -> None:
    width = effort.lr_width([1e-4, 1e-3, 1e-2], [1.0, 1.05, 1.5], 0.1)
    assert (width.low, width.open_low, width.open_high) == (1e-4, True, False)
    flat = effort.lr_width([1e-4, 1e-3, 1e-2], [1.0, 1.0, 1.0])
    assert (flat.open_low, flat.open_high) == (True, True)
    assert flat.decades == pytest.approx(2)
    alone = effort.lr_width([1e-3], [1.0])
    assert (alone.decades, alone.open_low, alone.open_high) == (0, True, True)


def test_width_ends_half_way_to_a_divergence_and_before_a_hill() -> None:
    width = effort.lr_width([1e-5, 1e-4, 1e-3, 1e-2], [1.0, 2.0, 1.0, None])
    # The first of equal bests: the stretch at 1e-3 lies beyond a hill.
    assert width.low == 1e-5
    assert width.high == pytest.approx(10**-4.9)
    width = effort.lr_width([1e-5, 1e-4, 1e-3, 1e-2], [1.0, 2.0, 0.9, math.inf])
    assert width.high == pytest.approx(10**-2.5)
    assert effort.lr_width([1e-3, 1e-2], [None, math.nan]) is None
    assert effort.lr_width([], []) is None


@given(st.lists(LOSS, min_size=1, max_size=9), st.sampled_from([0.5, 4.0, 1000.0]), st.floats(0.01, 0.5))
def test_width_knows_no_units_and_grows_with_the_tolerance(losses, factor, tolerance) -> None:
    rates = [1e-5 * 10 ** (k / 2) for k in range(len(losses))]
    width = effort.lr_width(rates, losses, tolerance)
    if all(v is None for v in losses):
        assert width is None
        return
    assert min(rates) <= width.low <= width.high <= max(rates)
    # A power of 2, so that the smallest of losses that differ in the last digit stays the smallest.
    scaled = effort.lr_width([r * factor for r in rates], [None if v is None else 8 * v for v in losses], tolerance)
    assert scaled.decades == pytest.approx(width.decades, abs=1e-6)
    assert scaled.low == pytest.approx(factor * width.low, rel=1e-6)
    assert effort.lr_width(rates, losses, 2 * tolerance).decades >= width.decades - 1e-9


@pytest.mark.parametrize(
    ("rates", "losses", "words"),
    [
        ([1e-3, 1e-3], [1.0, 2.0], "rates must be positive and distinct"),
        ([0.0, 1e-3], [1.0, 2.0], "rates must be positive and distinct"),
        ([1e-4, 1e-3], [0.0, 2.0], "losses must be positive"),
        ([1e-4], [1.0, 2.0], "rates and losses must pair up, got 1 and 2"),
    ],
)
def test_a_curve_that_makes_no_sense_is_an_error(rates, losses, words) -> None:
    with pytest.raises(ValueError, match=words):
        effort.lr_width(rates, losses)


def test_steps_to_target() -> None:
    assert effort.steps_to_target([10, 20, 30], [0.5, 0.9, 0.8], 0.9) == 20
    assert effort.steps_to_target([10, 20, 30], [0.5, None, 0.95], 0.9) == 30
    assert effort.steps_to_target([10, 20], [0.5, 0.6], 0.9) == math.inf
    with pytest.raises(ValueError, match="got 2 and 1"):
        effort.steps_to_target([10, 20], [0.5], 0.9)


def test_steps_to_at_most() -> None:
    assert effort.steps_to_at_most([10, 20, 30], [0.9, 0.5, 0.6], 0.5) == 20
    assert effort.steps_to_at_most([10, 20, 30], [0.9, None, 0.4], 0.5) == 30
    assert effort.steps_to_at_most([10, 20], [0.9, math.nan], 0.5) == math.inf
    assert effort.steps_to_at_most([], [], 0.5) == math.inf
    with pytest.raises(ValueError, match="steps and values must pair up, got 2 and 1"):
        effort.steps_to_at_most([10, 20], [0.5], 0.9)


@given(st.lists(st.floats(0, 1), max_size=20), st.floats(0, 1))
def test_both_directions_are_one(values, target) -> None:
    steps = list(range(len(values)))
    step = effort.steps_to_at_most(steps, values, target)
    assert step == effort.steps_to_target(steps, [-v for v in values], -target)
    assert effort.steps_to_at_most(steps, values, target / 2) >= step
