"""A verdict follows from checks alone."""

from __future__ import annotations

import itertools

import pytest

from adamomentum.theory.claims import Check, Claim, not_computed

YES, NO = Check("yes", True), Check("no", False)


def claim(**fields):
    given = {"key": "k", "title": "t", "source": "s", "printed": (YES,), "control": NO, **fields}
    return Claim(**given)


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, "confirmed"),
        ({"printed": (YES, NO)}, "not confirmed"),
        ({"printed": ()}, "not confirmed"),
        ({"printed": (NO,), "corrected": (YES,)}, "confirmed with corrections"),
        ({"printed": (NO,), "corrected": (YES, NO)}, "not confirmed"),
        ({"printed": (NO,), "against": (YES,)}, "refuted"),
        ({"printed": (NO,), "against": (YES, NO)}, "not confirmed"),
        ({"printed": (NO,), "corrected": (YES,), "against": (YES,)}, "confirmed with corrections"),
        ({"control": YES}, "undecided"),
        ({"control": YES, "printed": (NO,), "against": (YES,)}, "undecided"),
    ],
)
def test_verdict(fields, verdict) -> None:
    assert claim(**fields).verdict == verdict


def test_only_what_is_relied_on_can_be_a_fault() -> None:
    for printed, corrected, control in itertools.product((YES, NO), ((), (YES,), (NO,)), (YES, NO)):
        relied_on = claim(printed=(printed,), corrected=corrected, control=control, relied_on=True)
        assert relied_on.fault == (not relied_on.verdict.startswith("confirmed"))
        assert not claim(printed=(printed,), corrected=corrected, control=control).fault


def test_what_was_not_computed_is_undecided_and_no_fault() -> None:
    undecided = not_computed("k", "t", "s", "no data", relied_on=True)
    assert (undecided.verdict, undecided.fault) == ("undecided", False)
    assert claim(missing="no data").verdict == "undecided"
