"""The figures of a report: each optimizer is told from the others. That they are drawn the same is in test_page.py."""

from __future__ import annotations

from study.report_mini import Fake, run, study

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
