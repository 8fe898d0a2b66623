"""Statistics of a comparison: pure functions on plain or labelled numbers. scipy does the work where it can."""

from adamomentum.study.statistics.correction import holm
from adamomentum.study.statistics.intervals import LEVEL, Interval, t_interval
from adamomentum.study.statistics.paired import Paired, compare_paired
from adamomentum.study.statistics.ranks import FEWEST_TASKS, friedman, mean_ranks, nemenyi_distance
from adamomentum.study.statistics.scores import interquartile_mean, normalized, performance_profile, stratified_iqm
from adamomentum.study.statistics.speed import median, steps_to_at_most, steps_to_target
from adamomentum.study.statistics.tuning import Width, expected_best, lr_width

__all__ = [
    "FEWEST_TASKS",
    "LEVEL",
    "Interval",
    "Paired",
    "Width",
    "compare_paired",
    "expected_best",
    "friedman",
    "holm",
    "interquartile_mean",
    "lr_width",
    "mean_ranks",
    "median",
    "nemenyi_distance",
    "normalized",
    "performance_profile",
    "steps_to_at_most",
    "steps_to_target",
    "stratified_iqm",
    "t_interval",
]
