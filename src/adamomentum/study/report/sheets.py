"""Every table of a study's report."""

from __future__ import annotations

from adamomentum.study.report.comparison_sheets import ComparisonSheets
from adamomentum.study.report.result_sheets import ResultSheets
from adamomentum.study.report.sheet import Sheet
from adamomentum.study.report.study_tables import StudyTables
from adamomentum.study.report.tuning_sheets import TuningSheets
from adamomentum.study.results import StudyResults


def all_sheets(results: StudyResults, made: StudyTables) -> dict[str, Sheet]:
    """Returns every table by the name that the page knows it by; a task's is ``task NAME``.

    Args:
        results: what was run.
        made: its numbers.
    """
    result, tuning = ResultSheets(results, made), TuningSheets(results, made)
    comparison = ComparisonSheets(results, made)
    readings = {
        (track, c.task, c.other): comparison.reading(c)
        for track, found in (("default", made.default_comparisons), ("final", made.comparisons))
        for c in found
    }
    return {
        **{f"task {t.name}": result.task(t.name) for t in results.study.tasks},
        "selected": result.selected({(c.task, c.other): comparison.reading(c) for c in made.selected_comparisons}),
        "tracks": result.tracks(readings),
        "differences": comparison.differences("differences", made.comparisons),
        "default": comparison.differences("differences-published", made.default_comparisons),
        "speed": comparison.speed(),
        "training": comparison.training(),
        "across": tuning.across(),
        "choices": tuning.choices(),
        "widths": tuning.widths(),
        "controls": comparison.controls(),
        "cost": result.cost(),
        "eps": result.eps(),
    }
