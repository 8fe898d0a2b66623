"""Swap one line, keep the rest: what came out at another optimizer's setting, where nothing was searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from adamomentum.study import stages
from adamomentum.study.report.comparisons import ALPHA, NO_EVIDENCE, TOO_FEW, Comparison, comparisons_frame
from adamomentum.study.report.tables import Part
from adamomentum.study.report.text import NONE, Sheet, between, difference_text, heading, p_value
from adamomentum.study.statistics.effort import Width
from adamomentum.study.statistics.paired import holm
from adamomentum.study.studyfile import Control


@dataclass(frozen=True)
class Swap:
    """A control at another optimizer's setting on one task, beside that optimizer trained alike.

    Attributes:
        control: the control.
        comparison: the control minus the other, on the primary metric.
        p: of the comparison's test, corrected over the tasks of the control; None where there is no test.
        width: of the control's window of learning rates; None without a sweep.
        other_width: of the other's.
    """

    control: Control
    comparison: Comparison
    p: float | None
    width: Width | None
    other_width: Width | None

    @property
    def reading(self) -> str:
        """What the control is beside the other: said only where the test holds after correction."""
        c = self.comparison
        if c.outcome in ("better", "worse") and not (self.p is not None and self.p < ALPHA):
            return f"{c.outcome}, but not after correction"
        return c.outcome


class Swaps(Part):
    """The verdict on a swap, and the numbers behind it."""

    def of(self, control: Control) -> list[Swap]:
        """Return what came out of a control on each task that it and the other have run on."""
        other, widths = stages.beside(self.study, control), self.tables.widths
        mine = [c for c in self.tables.controls if (c.subject, c.other) == (control.name, other)]
        tests = [c.paired.wilcoxon_p if c.by_rank else c.paired.t_p for c in mine]
        corrected = holm([1.0 if p is None else p for p in tests])
        return [
            Swap(
                control, c, None if test is None else p, widths.get((c.task, control.name)), widths.get((c.task, other))
            )
            for c, test, p in zip(mine, tests, corrected, strict=True)
        ]

    def every(self) -> list[Swap]:
        """Return all of them, control by control; empty where a study has no such control, or none has run."""
        return [swap for control in self.study.controls if control.setting_from for swap in self.of(control)]

    def verdicts(self) -> list[str]:
        """Return a sentence for each control: what it is beside the other on which tasks, and whose window is wider."""
        swaps = [swaps for c in self.study.controls if c.setting_from and (swaps := self.of(c))]
        return [self.verdict(each) for each in swaps]

    def verdict(self, swaps: Sequence[Swap]) -> str:
        """Return the sentence on one control, given on one task or more."""
        other = self.label(swaps[0].comparison.other)
        words = {
            "better": f"better than {other}",
            "worse": f"worse than {other}",
            "neither": f"{NO_EVIDENCE} to {other}",
            TOO_FEW: TOO_FEW,
        }
        tasks: dict[str, list[str]] = {}
        for s in swaps:
            tasks.setdefault(s.reading if s.reading in words else "neither", []).append(s.comparison.task)
        parts = [f"{words[side]} on {', '.join(tasks[side])}" for side in words if side in tasks]
        text = f"{self.label(swaps[0].control.name)}: {'; '.join(parts)}."
        windows = [(s.width, s.other_width) for s in swaps]
        both = [(a.decades, b.decades) for a, b in windows if a is not None and b is not None]
        if both:
            wider = sum(a >= b for a, b in both)
            text += (
                f" Among the learning rates that were tried its window is at least as wide on {wider} of {len(both)} "
                f"task{'s' if len(both) > 1 else ''}."
            )
        return text

    def sheet(self) -> Sheet:
        """Return the differences and the windows; without a row where there is nothing to show."""
        swaps = self.every()
        sheet = Sheet(
            "swap",
            ["swapped in", "task", "metric", "reading", "beside", "difference", "95 % t", "pairs", "diverged",
             "p, Holm", "window, decades", "the other's window"],
            groups=1,
            wrap=(3,),
        )  # fmt: skip
        for s in swaps:
            c, p, m = s.comparison, s.comparison.paired, s.comparison.metric
            sheet.add(
                [
                    self.label(s.control.name),
                    c.task,
                    heading(m),
                    s.reading,
                    self.label(c.other),
                    difference_text(p.difference.mean, m),
                    between(p.difference.low, p.difference.high, m),
                    str(p.n),
                    f"{p.lost_a} / {p.lost_b}" if p.lost_a or p.lost_b else NONE,
                    p_value(s.p),
                    _decades(s.width),
                    _decades(s.other_width),
                ]
            )
        frame = comparisons_frame([s.comparison for s in swaps])
        frame["p_holm"] = pd.Series([s.p for s in swaps], dtype=float)
        for column, widths in (("window", [s.width for s in swaps]), ("other_window", [s.other_width for s in swaps])):
            frame[column] = pd.Series([None if w is None else w.decades for w in widths], dtype=float)
        sheet.frame = frame
        return sheet


def _decades(width: Width | None) -> str:
    if width is None:
        return NONE
    return f"{'at least ' if width.open_low or width.open_high else ''}{width.decades:.2f}"
