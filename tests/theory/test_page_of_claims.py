"""docs/theory.md says what the experiments conclude."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from theory_verdicts import FULL, VERDICTS

from adamomentum.theory import page
from adamomentum.theory.catalogue import experiments, panels
from adamomentum.theory.claims import Check, Claim
from adamomentum.theory.panel import Panel

PAGE = Path(__file__).parents[2] / "docs" / "theory.md"


def test_the_table_is_what_is_computed() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)`: .* \| ([\w ]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == {key: verdict for verdicts in (*VERDICTS.values(), FULL) for key, verdict in verdicts.items()}


def test_the_full_run_that_is_kept_says_the_same() -> None:
    record = json.loads((PAGE.parent / "results" / "theory" / "claims.json").read_text(encoding="utf-8"))
    assert record["profile"] == "full"
    found = {claim["key"]: claim["verdict"] for claim in record["claims"]}
    assert found == {key: verdict for verdicts in (*VERDICTS.values(), FULL) for key, verdict in verdicts.items()}
    # Whatever is called confirmed makes the command fail if it is not.
    for claim in record["claims"]:
        assert claim["relied_on"] == claim["verdict"].startswith("confirmed"), claim["key"]
        assert not claim["control"]["holds"]


def test_every_experiment_has_its_verdict() -> None:
    assert set(experiments()) == set(VERDICTS)


def test_figures_have_their_claim_and_a_name_of_their_own() -> None:
    known = {key for verdicts in VERDICTS.values() for key in verdicts} | FULL.keys()
    assert {panel.claim for panel in panels()} <= known
    assert len({panel.name for panel in panels()}) == len(panels())


def test_the_numbers_are_kept_when_a_figure_fails(tmp_path, monkeypatch) -> None:
    def fail(ax, data):
        raise RuntimeError("no figure today")

    check = Check("a number; must be so", True)
    claim = Claim("k", "A statement.", "here", (check,), Check("the same of another", False))
    monkeypatch.setattr(page, "panels", lambda: (Panel("p", "k", "A caption.", fail),))
    with pytest.raises(RuntimeError, match="no figure today"):
        page.write([claim], "full", 0, "adamomentum theory", tmp_path)
    assert json.loads((tmp_path / page.CLAIMS).read_text())["claims"][0]["verdict"] == "confirmed"
