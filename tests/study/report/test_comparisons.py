"""What is said of two optimizers on a task, and of all over all tasks."""

from __future__ import annotations

import math

import pytest
from study.report_mini import TEXT, Fake, final, gathered, run, status

from adamomentum.study import studyfile
from adamomentum.study.report import page
from adamomentum.study.report.comparisons import NO_EVIDENCE, TOO_FEW, outcome
from adamomentum.study.report.tables import build
from adamomentum.study.results import gather
from adamomentum.study.statistics.paired import compare_paired

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([0.5, 0.6, 0.7], [0.4, 0.5, 0.62], "better"),
        ([0.4, 0.5, 0.62], [0.5, 0.6, 0.7], "worse"),
        ([0.5, 0.6, 0.7], [0.5, 0.7, 0.5], NO_EVIDENCE),
        ([0.5], [0.4], TOO_FEW),
        # Accuracies are multiples of 1 / n_test: a few seeds can differ by the same number of images, by chance.
        ([15 / 29, 18 / 29], [14 / 29, 17 / 29], "no spread between runs: nothing can be said"),
        ([0.5] * 3, [0.25] * 3, "no spread between runs: nothing can be said"),
        ([0.5] * 3, [0.5] * 3, NO_EVIDENCE),
    ],
)
def test_an_outcome_in_words(a, b, words) -> None:
    assert outcome(compare_paired(a, b, "higher"), "higher", False, len(a)) == words


def test_more_divergences_decide_by_rank(tmp_path) -> None:
    _, tables = gathered(tmp_path, Fake({}, status("final", "adamomentum", range(8), "diverged")))
    for c in tables.comparisons:
        assert (c.outcome, c.by_rank, c.paired.lost_a, c.paired.n) == ("worse", True, 8, 0)


def test_controls_are_compared_with_both_that_they_are_made_of(whole) -> None:
    results, tables = whole
    controls = {c.other: c for c in tables.controls}
    assert list(controls) == ["adamw", "adamomentum"]
    mine = final(results, "digits", "adamw-rate", "test_accuracy", "control")
    for other, c in controls.items():
        theirs = final(results, "digits", other, "test_accuracy")[:3]
        assert c.paired.difference.mean == pytest.approx((mine - theirs).mean())
    assert controls["adamomentum"].outcome == "worse"


@pytest.mark.parametrize("count", [5, 6])
def test_tasks_together_are_tested_from_six_on(tmp_path, count) -> None:
    extra = "".join(
        f"""
[[tasks]]
name = "more-{k}"
family = "language-model"
budget = {{ steps = 40, batch_size = 8, evaluations = 4 }}
"""
        for k in range(count - 4)
    )
    # What each task needs of runs alone: no control, no sensitivity, one setting.
    text = TEXT.replace("trials = 4\nextension = 2", "trials = 1\nextension = 0").replace("seeds = 8", "seeds = 2")
    text = text.replace('["adamomentum", "adamw"]', "[]").partition("[[controls]]")[0]
    folder = run(tmp_path / "study", studyfile.parse(text + extra, "made-up"), Fake())
    known = page.numbers(folder, "cpu")
    across = known[1].across
    assert len(across.tasks) == count
    if count < 6:  # how the page says so is in test_page.py
        assert across.friedman_p is None and across.nemenyi is None
    else:
        text = page.write(folder, "cpu", "a command", known).read_text()
        # Demsar's table 5: q = 2.569 for 4 optimizers.
        assert across.nemenyi == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 6)), rel=1e-3)
        assert f"mean ranks that differ by {across.nemenyi:.2f}" in text


def test_adamw_is_the_measure_by_what_it_is_not_by_its_name(tmp_path) -> None:
    """An own class under its name is none; under another name, or with a control before it, it is found."""
    lion = 'base = "torch.optim:Rprop"\ndefault_lr = 1e-3\nspace = { lr = { low = 1e-4, high = 1e-2 } }'
    own = TEXT.replace("adamw = {}\n", "").replace("[optimizers.own]", f"[optimizers.adamw]\n{lion}\n[optimizers.own]")
    renamed = own.replace(
        "[optimizers.own]", '[optimizers.sharp]\nbase = "adamw"\ncontrol = true\n[optimizers.w]\nbase = "adamw"\n'
        "[optimizers.own]")  # fmt: skip
    assert studyfile.parse(own, "own").called("adamw") == ""
    study = studyfile.parse(renamed, "own")
    assert (study.called("adamw"), study.called("adamomentum"), study.called("adam")) == ("w", "adamomentum", "")
    quality = dict.fromkeys(("w", "sharp"), 0.1)
    results = gather(run(tmp_path, study.only(("digits",)), Fake(quality)))
    assert build(results).across.anchor == "w"
