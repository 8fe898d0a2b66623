"""The report of a study of the user's own function, whichever way its metric goes."""

from __future__ import annotations

import math
import re

import pytest
from study.function.functions import STUDY, changed, compared

from adamomentum.study.report import figures, page
from adamomentum.study.report.tables import build
from adamomentum.study.results import as_cost, gather, sensitivity_curve
from adamomentum.study.tasks import Metric

REPORT = "trial.report(loss=loss(slice(200, 250)), error=1 - loss(slice(200, 250)))"
HIGHER = """metrics = [{ key = "error", better = "higher" }]
[sensitivity]
optimizers = ["adamw"]
seeds = 1
half_decades = 1
"""


def drawn(tmp_path, value: str, study: str) -> tuple[set[str], object]:
    """The panels that are drawn where ``value`` is reported, and the numbers."""
    text = changed((REPORT, f"trial.report(error={value}, loss=1)"))
    results = gather(compared(tmp_path, text, study)[0])
    tables = build(results)
    panels = figures.draw(results, tables, tmp_path / "figures")
    return {name for name, panel in panels.items() if panel}, (results, tables)


def test_a_share_is_drawn_and_measured_as_its_error(tmp_path) -> None:
    names, (results, tables) = drawn(tmp_path, "1 / (1 + loss(slice(200, 250)))", STUDY + HIGHER)
    assert {"finals", "curves", "tuning", "expected", "sensitivity", "time_to_target"} <= names
    assert tables.targets["task"].metric.key == "error"
    curve = sensitivity_curve(results, "task", "adamw")
    sweep = results.runs["sensitivity", "task", "adamw"].sort_values("lr")
    assert curve["value"].tolist() == pytest.approx((1 - sweep["val_error"]).tolist())
    assert tables.widths.keys() == {("task", "adamw")}
    best = tables.evp["task", "adamw"]
    tuned = results.runs["tune", "task", "adamw"]["val_error"]
    assert best[-1] == pytest.approx(1 - tuned.max())
    ends = [results.runs["final", "task", "adamw"]["val_error"].min()]
    assert tables.targets["task"].value == pytest.approx(ends[0])  # the worse of the two in the middle


def test_a_reward_is_not_made_an_error(tmp_path) -> None:
    names, (_, tables) = drawn(tmp_path, "300 - 10 * loss(slice(200, 250))", STUDY + HIGHER)
    assert {"finals", "curves", "time_to_target"} <= names
    assert not {"tuning", "expected", "sensitivity"} & names
    assert not tables.widths
    assert not tables.evp
    assert tables.across.tasks == ["task"]  # the test metric is a share, of 0.5


@pytest.mark.parametrize(
    ("value", "better", "cost"),
    [
        (0.9, "higher", 0.1),
        (1.0, "higher", 1e-3),
        (250.0, "higher", math.nan),
        (-1.0, "higher", math.nan),
        (0.3, "lower", 0.3),
        (-0.3, "lower", math.nan),
        (math.nan, "higher", math.inf),
        (math.inf, "lower", math.inf),
    ],
)
def test_cost(value, better, cost) -> None:
    assert as_cost(value, Metric("m", "m", better)) == pytest.approx(cost, nan_ok=True)


def test_the_page_says_what_was_counted_and_nothing_of_what_there_is_not(tmp_path) -> None:
    folder, _ = compared(tmp_path)
    html = page.write(folder, "cpu", "adamomentum study run mine.toml").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert "my_train.py:train. Trained by a function of your own: 10 steps, as counted." in text
    assert "the same numbers to the last bit under the same seed" in text
    assert "batch size 32" not in text
    assert "name cosine" not in text
