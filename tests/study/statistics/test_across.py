"""Scores, profiles and ranks over tasks: small cases by hand, against scipy, and by their properties."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from adamomentum.study.statistics import across
from adamomentum.study.statistics.paired import Interval

POSITIVE = st.floats(1e-3, 1e3)
COST = st.one_of(POSITIVE, st.just(math.inf))
TAUS = [1, 1.5, 2, 3, 4, math.inf]


# --- scores ---


def test_a_score_is_how_many_times_better_than_the_baseline() -> None:
    assert across.normalized(2.0, 4.0, "lower") == 2
    assert across.normalized(2.0, 4.0, "higher") == 0.5
    assert across.normalized(0.0, 4.0, "higher") == 0
    for lost in (None, math.nan, math.inf):
        assert across.normalized(lost, 4.0, "lower") == across.normalized(lost, 4.0, "higher") == 0


@pytest.mark.parametrize(
    ("value", "baseline", "better", "words"),
    [
        (0.0, 1.0, "lower", "value must be positive, got 0.0"),
        (-1.0, 1.0, "higher", "value must be positive, got -1.0"),
        (1.0, 0.0, "lower", "baseline must be positive, got 0.0"),
        (1.0, math.nan, "lower", "baseline must be positive, got nan"),
        (1.0, 1.0, "up", "better must be lower or higher, got 'up'"),
    ],
)
def test_a_ratio_that_means_nothing_is_an_error(value, baseline, better, words) -> None:
    with pytest.raises(ValueError, match=words):
        across.normalized(value, baseline, better)


def test_interquartile_mean_by_hand() -> None:
    assert across.interquartile_mean([0, 0, 5, 7, 1, 9, 100, 2]) == pytest.approx((1 + 2 + 5 + 7) / 4)
    assert across.interquartile_mean([3, 4, 5]) == pytest.approx(4)  # a quarter of three is less than one: none is cut
    for bad in ([], [1.0, math.nan], [math.inf]):
        with pytest.raises(ValueError, match="finite and not empty"):
            across.interquartile_mean(bad)


@given(st.lists(POSITIVE, min_size=1, max_size=20), POSITIVE)
def test_interquartile_mean_lies_between_the_quartiles_and_scales(values, factor) -> None:
    mean = across.interquartile_mean(values)
    cut = len(values) // 4
    inner = sorted(values)[cut : len(values) - cut]
    assert inner[0] * (1 - 1e-12) <= mean <= inner[-1] * (1 + 1e-12)
    assert across.interquartile_mean([v * factor for v in values]) == pytest.approx(mean * factor)


def test_extreme_runs_do_not_decide() -> None:
    scores = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
    assert across.interquartile_mean([0.0, *scores[1:-1], 1e6]) == across.interquartile_mean(scores)


def test_the_bootstrap_resamples_every_task_by_itself() -> None:
    # Runs of a task are equal, tasks are far apart: any other resampling would give an interval.
    apart = {"a": [1.0] * 5, "b": [10.0] * 5, "c": [100.0] * 5}
    iqm = across.stratified_iqm(apart)
    assert iqm.mean == iqm.low == iqm.high == 28  # 3 are cut off at each end: (2 * 1 + 5 * 10 + 2 * 100) / 9
    assert iqm.n == 15


def test_tasks_vary_independently_and_may_differ_in_their_runs() -> None:
    # What one task gains the other loses: only if the same runs were drawn from both would the mean never move.
    iqm = across.stratified_iqm({"a": [1.0, 2.0, 3.0, 4.0], "b": [4.0, 3.0, 2.0, 1.0]})
    assert iqm.low < iqm.mean - 0.5 < iqm.mean + 0.5 < iqm.high
    assert across.stratified_iqm({"a": [1.0] * 5, "b": [1.0] * 3}) == Interval(1, 1, 1, 8)


def test_the_bootstrap_interval_of_one_task_is_scipys_and_repeats() -> None:
    values = np.random.default_rng(0).normal(1, 0.2, 12)
    iqm = across.stratified_iqm({"a": values.tolist()})
    theirs = scipy.stats.bootstrap(
        (values,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert (iqm.low, iqm.high) == pytest.approx((theirs.low, theirs.high), abs=0.015)
    assert iqm == across.stratified_iqm({"a": values.tolist()})
    assert iqm.low < iqm.mean < iqm.high


@pytest.mark.slow
def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits, rounds = np.random.default_rng(0), 0, 300
    for _ in range(rounds):
        scores = {t: (shift + rng.normal(0, 0.1, 10)).tolist() for t, shift in (("a", 0.9), ("b", 1.0), ("c", 1.1))}
        iqm = across.stratified_iqm(scores, resamples=499)
        hits += iqm.low <= 1.0 <= iqm.high  # by symmetry the true interquartile mean
    assert 0.88 < hits / rounds < 0.99  # percentile intervals of few runs are a little short


def test_one_run_a_task_has_no_interval() -> None:
    iqm = across.stratified_iqm({"a": [1.0, 2.0], "b": [3.0]})
    assert (iqm.mean, iqm.n) == (2.0, 3)
    assert math.isnan(iqm.low)
    assert math.isnan(iqm.high)
    with pytest.raises(ValueError, match="at least one task"):
        across.stratified_iqm({})
    with pytest.raises(ValueError, match=r"scores\['b'\] must be finite and not empty"):
        across.stratified_iqm({"a": [1.0, 2.0], "b": []})


# --- performance profiles ---


def test_profile_by_hand() -> None:
    costs = {"x": [1.0, 4.0, math.inf, math.inf], "y": [2.0, 1.0, 5.0, math.inf]}
    profile = across.performance_profile(costs, [1, 2, 3.9, 4])
    assert profile == {"x": [0.25, 0.25, 0.25, 0.5], "y": [0.5, 0.75, 0.75, 0.75]}


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(COST, min_size=n, max_size=n), min_size=1, max_size=4)))
def test_profiles_rise_and_someone_is_best_where_anyone_arrives(rows) -> None:
    costs = {f"o{k}": row for k, row in enumerate(rows)}
    profile = across.performance_profile(costs, TAUS[:-1])
    solved = sum(any(math.isfinite(row[t]) for row in rows) for t in range(len(rows[0]))) / len(rows[0])
    assert sum(shares[0] for shares in profile.values()) >= solved - 1e-9
    for name, shares in profile.items():
        assert shares == sorted(shares)
        assert 0 <= shares[0] <= shares[-1] <= sum(map(math.isfinite, costs[name])) / len(rows[0])
    scaled = {name: [8 * c for c in row] for name, row in costs.items()}  # a power of 2: no rounding
    assert across.performance_profile(scaled, TAUS[:-1]) == profile


@pytest.mark.parametrize(
    ("costs", "taus", "words"),
    [
        ({"x": [1.0], "y": [1.0, 2.0]}, [1], "same tasks"),
        ({}, [1], "same tasks"),
        ({"x": []}, [1], "same tasks"),
        ({"x": [0.0]}, [1], "positive"),
        ({"x": [math.nan]}, [1], "positive"),
        ({"x": [1.0]}, [0.5], "taus must be at least 1"),
    ],
)
def test_a_profile_of_nonsense_is_an_error(costs, taus, words) -> None:
    with pytest.raises(ValueError, match=words):
        across.performance_profile(costs, taus)


# --- ranks ---


def test_mean_ranks_by_hand() -> None:
    values = pd.DataFrame(
        {"loss": [1.0, 2.0, math.inf], "accuracy": [0.9, 0.9, math.inf], "bleu": [math.nan, 20.0, -math.inf]},
        index=["x", "y", "z"],
    )
    ranks = across.mean_ranks(values, {"loss": "lower", "accuracy": "higher", "bleu": "higher"})
    assert ranks.to_dict() == pytest.approx({"x": (1 + 1.5 + 2.5) / 3, "y": (2 + 1.5 + 1) / 3, "z": (3 + 3 + 2.5) / 3})
    with pytest.raises(ValueError, match=r"better must say lower or higher for every task, got \{'bleu': None\}"):
        across.mean_ranks(values, {"loss": "lower", "accuracy": "higher"})


TABLES = st.integers(1, 7).flatmap(
    lambda n: st.lists(
        st.lists(st.one_of(st.integers(1, 9).map(float), st.just(math.nan)), min_size=n, max_size=n),
        min_size=3,
        max_size=5,
    )
)


@given(TABLES, st.sampled_from(["lower", "higher"]))
def test_ranks_sum_up_and_see_only_the_order(rows, direction) -> None:
    values = pd.DataFrame(rows)
    better = {str(task): direction for task in values}
    ranks = across.mean_ranks(values, better)
    k = len(rows)
    assert ranks.sum() == pytest.approx(k * (k + 1) / 2)
    assert ranks.between(1, k).all()
    assert across.mean_ranks(np.exp(values), better).to_dict() == pytest.approx(ranks.to_dict())
    other = {str(task): "higher" if direction == "lower" else "lower" for task in values}
    assert across.mean_ranks(-values, other).to_dict() == pytest.approx(ranks.to_dict())


def table(optimizers, tasks):
    rng = np.random.default_rng(3)
    values = pd.DataFrame(rng.normal(0, 1, (optimizers, tasks)), columns=[f"t{k}" for k in range(tasks)])
    values += np.arange(optimizers)[:, None]
    return values, dict.fromkeys(values, "lower")


def test_friedman_is_scipys() -> None:
    values, better = table(4, 6)
    expected = scipy.stats.friedmanchisquare(*values.to_numpy()).pvalue
    assert across.friedman(values, better) == pytest.approx(expected)
    assert across.friedman(-values, dict.fromkeys(better, "higher")) == pytest.approx(expected)


def test_a_divergence_is_last_in_friedmans_test_and_does_not_stop_it() -> None:
    values, better = table(4, 6)
    lost, worst = values.copy(), values.copy()
    lost.loc[3, "t0"], worst.loc[3, "t0"] = math.nan, 1e9
    assert across.friedman(lost, better) == across.friedman(worst, better)
    assert across.friedman(lost, better) is not None


def test_too_little_for_a_test_over_tasks() -> None:
    assert across.friedman(*table(4, 5)) is None
    assert across.friedman(*table(2, 8)) is None
    assert across.friedman(*table(3, across.FEWEST_TASKS)) is not None
    alike, better = table(4, 6)
    alike.loc[:, :] = 1.0
    assert across.friedman(alike, better) is None
    assert across.nemenyi_distance(4, 5) is None
    assert across.nemenyi_distance(2, 8) is None


def test_nemenyi_distance_is_demsars() -> None:
    # Demsar 2006, table 5a: q at 5 % is 2.343 for 3, 2.569 for 4, 3.164 for 10 classifiers; his example has
    # 4 classifiers on 14 data sets and a critical difference of 1.25.
    for k, q in ((3, 2.343), (4, 2.569), (10, 3.164)):
        assert across.nemenyi_distance(k, 6) == pytest.approx(q * math.sqrt(k * (k + 1) / 36), abs=0.001)
    assert across.nemenyi_distance(4, 14) == pytest.approx(1.25, abs=0.005)
    assert across.nemenyi_distance(4, 14, alpha=0.1) < across.nemenyi_distance(4, 14)
