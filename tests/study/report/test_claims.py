"""The words on the paper's claims follow from the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from study.report_mini import TEXT, Fake, comparison, gathered, run

from adamomentum.study import studyfile
from adamomentum.study.report import page
from adamomentum.study.report.claims import Judge, undecidable, verdict
from adamomentum.study.report.comparisons import NO_EVIDENCE, NOTHING, Comparison
from adamomentum.study.report.tables import build
from adamomentum.study.results import STEPS, gather
from adamomentum.study.statistics.paired import compare_paired

pytestmark = pytest.mark.usefixtures("unrendered")


def verdicts(results, tables):
    judge = Judge(results, tables)
    return judge, [c.verdict for c in judge.claims()]


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        (0.0, ("supported here", "supported here", "supported here")),
        (1.0, ("contradicted here", "contradicted here", "contradicted here")),
    ],
)
def test_verdicts_turn_with_the_numbers(tmp_path, quality, expected) -> None:
    # A dip before the end: all runs of a baseline reach the target, which is what its median run ends at.
    qualities = {"adamomentum": quality, "sgdm": 0.5, "adamw": 0.5, "adabelief": 0.5}
    fake = Fake(qualities, curve=(4, 1.4, 0.9, 1))
    results, tables = gathered(tmp_path, fake, ("digits", "words"))
    judge, texts = verdicts(results, tables)
    assert all(word in text for word, text in zip(expected, texts, strict=True))
    word = "better" if quality == 0 else "worse"
    assert f"{word} in 6" in judge.answer()
    assert comparison(tables.comparisons, "adamw").outcome == word
    assert f"{'faster' if quality == 0 else 'slower'} in 6" in texts[0]


def test_equal_optimizers_are_no_evidence_and_never_a_proof(tmp_path) -> None:
    quality = dict.fromkeys(("adamomentum", "sgdm", "adamw", "adabelief"), 0.3)
    results, tables = gathered(tmp_path, Fake(quality), ("digits", "words"))
    judge, texts = verdicts(results, tables)
    for c in tables.comparisons:
        covers = c.paired.difference.low <= 0 <= c.paired.difference.high
        assert (c.outcome == NO_EVIDENCE) == covers
    assert all(NO_EVIDENCE in text for text in texts)
    assert not any("supported here" in text or "contradicted" in text for text in texts)
    words = " ".join([judge.answer(), *(s for c in judge.claims() for s in (c.text, c.verdict, *c.evidence))])
    assert "prove" not in words
    assert not any(c.missing for c in judge.claims())


def test_a_part_is_corrected_like_the_whole_and_says_what_is_missing(tmp_path) -> None:
    def only_two(t):
        return None if t.role == "final" and t.optimizer in ("sgdm", "adabelief") else "ok"

    results, tables = gathered(tmp_path, Fake(status=only_two))
    c = comparison(tables.comparisons, "adamw")
    assert c.t_holm == pytest.approx(min(1, 3 * c.paired.t_p))
    judge = Judge(results, tables)
    assert judge.claims()[1].missing == "digits: SGD + momentum, AdaBelief"
    assert "this may change" in judge.answer()
    assert not tables.targets["digits"].complete
    assert not tables.across.tasks


def test_a_reference_that_nothing_could_train_is_worst_too(tmp_path) -> None:
    bad = Fake(status=lambda t: "diverged" if t.optimizer == "adamomentum" and t.role == "tune" else "ok")
    results, tables = gathered(tmp_path, bad)
    assert {c.outcome for c in tables.comparisons if not c.control} == {"worse"}
    judge = Judge(results, tables)
    assert "contradicted here" in judge.claims()[1].verdict
    assert judge.place("digits") == (4, 4)
    assert {c.outcome for c in tables.speed} == {"worse"}


def test_a_game_has_no_training_loss_to_compare(tmp_path) -> None:
    results, tables = gathered(tmp_path, Fake(), ("pictures",))
    assert tables.loss_comparisons == []
    _, texts = verdicts(results, tables)
    assert texts[1] == "not tested: the study has no vision task"
    assert "first by mean on" in texts[2]


@pytest.mark.parametrize(
    ("ahead", "behind", "neither", "words"),
    [
        (0, 0, 5, "not supported: no evidence of difference in any of 5"),
        (3, 0, 2, "supported here"),
        (1, 0, 4, "partly supported"),
        (1, 1, 3, "mixed"),
        (0, 1, 4, "partly contradicted"),
        (0, 3, 2, "contradicted here"),
    ],
)
def test_one_comparison_of_many_decides_no_claim(ahead, behind, neither, words) -> None:
    def outcome(text: str) -> Comparison:
        return Comparison("t", STEPS, "a", "b", False, NOTHING, None, None, text, True, text != NO_EVIDENCE)

    outcomes = [outcome("better")] * ahead + [outcome("worse")] * behind + [outcome(NO_EVIDENCE)] * neither
    assert verdict(outcomes, ("ahead", "behind")).startswith(words)


def test_what_could_not_have_been_significant_is_counted() -> None:
    """Of 7 comparisons of a task with few pairs that differ: 2 / 2^n times 7 is below 0.05 from 9 pairs on."""
    few, many = (compare_paired([1.0] * n, [2.0] * n, "lower") for n in (8, 9))
    comparisons = [
        Comparison("t", STEPS, "a", str(i), False, few if i < 3 else many, None, None, NO_EVIDENCE, True)
        for i in range(7)
    ]
    assert undecidable(comparisons) == 3


OWN = """
[optimizers.mine]
base = "torch.optim:NAdam"
default_lr = 1e-3
space = {{ lr = {{ low = 1e-4, high = 1e-2 }} }}
{mine}
[optimizers.mysgd]
base = "torch.optim:SGD"
default_lr = 1e-1
space = {{ lr = {{ low = 1e-2, high = 1.0 }} }}
{mysgd}
[[tasks]]
name = "digits"
"""


def test_an_own_optimizer_counts_by_its_kind_or_is_named(tmp_path) -> None:
    def own(mine: str = "", mysgd: str = ""):
        text = TEXT.replace('[[tasks]]\nname = "digits"\n', OWN.format(mine=mine, mysgd=mysgd))
        return studyfile.parse(text, "own").only(("digits",))

    worse = dict.fromkeys(("adamw", "adabelief", "sgdm", "mine", "mysgd"), 0.5)
    results = gather(run(tmp_path, own(), Fake(worse)))
    tables = build(results)
    for kinds, adaptive, sgd, left_out in (
        ({}, 2, 1, "NAdam, SGD"),
        ({"mine": 'kind = "adaptive"'}, 3, 1, "SGD"),
        ({"mine": 'kind = "adaptive"', "mysgd": 'kind = "sgd"'}, 3, 2, ""),
        ({"mine": 'kind = "other"', "mysgd": 'kind = "adaptive"'}, 3, 1, "NAdam"),
    ):
        claim = Judge(replace(results, study=own(**kinds)), tables).claims()[1]
        assert f"against adaptive methods supported here: better in {adaptive}, worse in 0" in claim.verdict
        assert f"against SGD better in {sgd}," in claim.verdict
        said = [text for text in claim.evidence if text.startswith("Left out")]
        assert said == ([f'Left out of both, being of kind "other" in the study file: {left_out}.'] if left_out else [])


@pytest.mark.parametrize(
    ("base", "is_the_papers"), [("adamomentum", True), ("adamw", False), ("adamomentum-fbc", False)]
)
def test_the_papers_claims_are_judged_for_its_optimizer_alone(tmp_path, base, is_the_papers) -> None:
    text = TEXT.replace('title = "Made up <for> a test"', 'reference = "first"')
    text = text.replace("[optimizers]\n", f'[optimizers.first]\nbase = "{base}"\n[optimizers]\n')
    nothing_yet = Fake(status=lambda t: None)
    folder = run(tmp_path, studyfile.parse(text, "own").only(("words",)), nothing_yet)
    text = page.write(folder, "cpu", "made up").read_text()
    assert ("The paper's claims" in text) == ('href="#claims"' in text) == is_the_papers
    assert "against each optimizer" in text and "after Holm's correction" in text


def test_only_a_study_that_asks_for_them_has_the_claims_judged(tmp_path) -> None:
    results, tables = gathered(tmp_path, Fake())
    assert len(Judge(results, tables).claims()) == 3
    study = results.study
    assert study.hash == study.model_copy(update={"claims": False}).hash, "what it finds is the same"
    assert Judge(replace(results, study=study.model_copy(update={"claims": False})), tables).claims() == []


def test_an_optimizer_alone_is_compared_with_nobody(tmp_path) -> None:
    alone = studyfile.parse(TEXT, "made-up").only(("digits",))
    own = {"adamomentum": alone.optimizers["adamomentum"]}
    alone = alone.model_copy(
        update={
            "optimizers": own,
            "controls": (),
            "sensitivity": alone.sensitivity.model_copy(update={"optimizers": ()}),
        }
    )
    folder = run(tmp_path / "study", alone, Fake())
    results = gather(folder)
    answer = Judge(results, build(results)).answer()
    assert answer.startswith("AdaMomentum alone on 1 task;")
    assert answer.endswith("There is no other to compare it with.")
    assert page.write(folder, "cpu", "a command").is_file()


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        (
            {"sgdm": 0.5, "adamw": 0.5, "adabelief": 0.5},
            "No other was better on 2 of 2 tasks; all others were worse on 2.",
        ),
        (
            {"sgdm": 0.0, "adamw": 0.5, "adabelief": 0.5},
            "No other was better on 2 of 2 tasks; all others were worse on 0.",
        ),
        (
            {"adamomentum": 0.5, "sgdm": 0.5, "adamw": 0.8, "adabelief": 0.0},
            "No other was better on 0 of 2 tasks (one was on digits, words); all others were worse on 0.",
        ),
    ],
)
def test_whether_anybody_is_better_is_said(tmp_path, quality, words) -> None:
    results, tables = gathered(tmp_path, Fake({"adamomentum": 0.0, **quality}), ("digits", "words"))
    assert words in Judge(results, tables).answer()


def test_a_task_on_which_a_baseline_is_missing_is_not_counted(tmp_path) -> None:
    fake = Fake(status=lambda t: None if (t.role, t.task, t.optimizer) == ("final", "words", "sgdm") else "ok")
    results, tables = gathered(tmp_path, fake, ("digits", "words"))
    assert "of 1 task;" in Judge(results, tables).answer() or "of 1 task (" in Judge(results, tables).answer()
