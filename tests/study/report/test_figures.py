"""The figures of a report: each optimizer is told from the others. That they are drawn the same is in test_page.py."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from study.report_mini import Fake, gathered, run, study

from adamomentum.study import registry
from adamomentum.study.report import figures
from adamomentum.study.results import gather


def test_every_optimizer_has_a_key_of_its_own(tmp_path) -> None:
    keys = figures.legend(gather(run(tmp_path, study("pictures"), Fake())))
    assert [label for _, label, _ in keys] == ["AdaMomentum", "AdamW", "SGD + momentum", "AdaBelief", "Own variant"]
    assert [name for name, _, _ in keys] == ["adamomentum", "adamw", "sgdm", "adabelief", "own"]
    assert len({svg for _, _, svg in keys}) == len(keys)
    assert ["stroke-dasharray" in svg for _, _, svg in keys] == [False] * 4 + [True]  # the control


def test_the_same_colour_and_mark_for_an_optimizer_everywhere() -> None:
    known = registry.OPTIMIZERS.values()
    assert len({o.colour for o in known}) == len({o.marker for o in known}) == len(known)
    assert all(o.colour and o.marker for o in known)


def words(root: ET.Element) -> list[str]:
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("label", ["$5 to $9", "$\\oops$ ^_", '<b> & "q"'])
def test_a_label_is_drawn_as_it_is_written(tmp_path, monkeypatch, label) -> None:
    monkeypatch.setattr(
        "adamomentum.study.stages.label", lambda study, name: label if name == study.reference else name
    )
    results, tables = gathered(tmp_path, Fake())
    drawn = figures.draw(results, tables, tmp_path)
    finals, forest = (ET.fromstring(drawn[kind][0]) for kind in ("finals", "forest"))
    assert label in words(finals)
    assert f"right: {label} is better" in words(forest)
    assert f"right: {label} is better" in forest.get("aria-label", "")
    figures.overview(results, tables, tmp_path)


def test_what_is_written_beside_a_mark_goes_with_it(tmp_path) -> None:
    """The number of a difference that is off the scale, and that a learning rate lies at the edge of what was tried."""
    results, tables = gathered(tmp_path, Fake({"own": 8}))
    at_edge = {key: replace(choice, edges=("lr",)) for key, choice in results.choices.items()}
    results = replace(results, plan=replace(results.plan, choices=at_edge))
    drawn = figures.draw(results, tables, tmp_path)
    for kind, pattern in (("forest", r"[+-]\d+\.\d\d"), ("tuning", "edge")):
        root = ET.fromstring(drawn[kind][0])
        whose = {word: part.get("data-part") for part in root.iter() if part.get("data-part") for word in words(part)}
        written = [word for word in words(root) if re.fullmatch(pattern, word)]
        assert written and all(whose.get(word) in results.study.optimizers for word in written), kind


def test_shares_are_read_off_as_they_are_though_drawn_apart(tmp_path) -> None:
    """All runs of a name reach the target or none: at the end its line is on 1 or 0, not a little beside."""
    results, tables = gathered(tmp_path, Fake())
    (svg,) = figures.draw(results, tables, tmp_path)["time_to_target"]
    root = ET.fromstring(svg)
    bottom, top, low, high, _ = json.loads(root.get("data-scales", ""))["y"]
    shares = {name: sum(map(math.isfinite, s)) / len(s) for (_, name), s in tables.steps.items()}
    for name, share in shares.items():
        (d,) = [part.get("d") for part in root.iter() if part.get("data-values") == name and part.get("d")] or [
            path.get("d") for part in root.iter() if part.get("data-values") == name for path in part if path.get("d")
        ]
        points = [float(v) for v in re.findall(r"-?\d*\.?\d+", d)]
        height = points[1] + sum(points[3::2])
        assert low + (height - bottom) / (top - bottom) * (high - low) == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize(("factor", "read"), [(1.2, 2), (40.0, 1)])
def test_of_a_line_cut_off_the_scale_no_values_are_read(tmp_path, monkeypatch, factor, read) -> None:
    """The last value of AdamW's sweep is a little worse than the others, or far off."""
    real = figures.sensitivity_curve

    def curve(results, task, name):
        swept = real(results, task, name).copy()
        if name == "adamw":
            swept.loc[swept.index[-1], "value"] = factor * swept["value"].min()
        return swept

    monkeypatch.setattr(figures, "sensitivity_curve", curve)
    results, tables = gathered(tmp_path, Fake())
    root = ET.fromstring(figures.draw(results, tables, tmp_path)["sensitivity"][0])
    mine = [part for part in root.iter() if part.get("data-values") == "adamw"]
    lines = [part for part in mine if part.get("d") or any(child.get("d") for child in part)]
    assert (len(lines), len(mine)) == (read - 1, read)
