"""Numbers and tables as text."""

from __future__ import annotations

from adamomentum.files import markdown
from adamomentum.study.report.text import latex


def test_text_tables_escape_what_means_something() -> None:
    assert markdown(["a|b"], [["1"]]).splitlines() == ["| a\\|b |", "| --- |", "| 1 |"]
    assert r"5 \% \_ $\pm$" in latex(["a"], [["5 % _ ±"]])
