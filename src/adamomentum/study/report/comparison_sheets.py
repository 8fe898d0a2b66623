"""The tables of comparisons: one optimizer minus another, and what may be said of it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from adamomentum.study.report.cells import (
    NONE,
    between,
    difference_text,
    heading,
    mean,
    number,
    p_value,
    plain,
    steps_text,
)
from adamomentum.study.report.comparisons import Comparison
from adamomentum.study.report.runs import TRAIN_LOSS, runs
from adamomentum.study.report.sheet import Maker, Sheet
from adamomentum.study.report.study_tables import Row


class ComparisonSheets(Maker):
    """What came out between two optimizers."""

    def reading(self, c: Comparison) -> str:
        """Returns what a comparison allows to be said, and whether it survives the correction."""
        if c.untrained:
            return f"{c.outcome}: nothing that was tried trains {self.label(self._untrained(c))}"
        if c.outcome in ("better", "worse") and not c.control and not c.corrected:
            return f"{c.outcome}, but not after correction"
        return c.outcome

    def _untrained(self, c: Comparison) -> str:
        return c.other if c.outcome == "better" else c.subject

    def differences(self, name: str, found: Sequence[Comparison]) -> Sheet:
        """Comparisons of the reference with each other optimizer, with all tests."""
        sheet = Sheet(
            name,
            ["task", "metric", "against", "reading", "difference", "95 % t", "95 % BCa", "effect size", "pairs",
             "diverged", "t", "t, Holm", "Wilcoxon", "least possible", "Wilcoxon, Holm", "Welch", "one-sided t", "r"],
            frame=self.tidy_comparisons(found),
            groups=2,
            wrap=(3,),
        )  # fmt: skip
        for c in found:
            p, m = c.paired, c.metric
            sheet.add(
                [
                    c.task,
                    heading(m),
                    self.label(c.other),
                    self.reading(c),
                    difference_text(p.difference.mean, m),
                    between(p.difference.low, p.difference.high, m),
                    NONE if p.bca is None else between(*p.bca, m),
                    plain(p.effect, "+.2f"),
                    str(p.n),
                    f"{p.lost_a} / {p.lost_b}" if p.lost_a or p.lost_b else NONE,
                    p_value(p.t_p),
                    p_value(c.t_holm),
                    p_value(p.wilcoxon_p),
                    NONE if c.untrained else p_value(p.wilcoxon_floor),
                    p_value(c.wilcoxon_holm),
                    p_value(p.welch_p),
                    p_value(self._one_sided(c)),
                    plain(p.correlation, "+.2f"),
                ],
                "soft" if c.control else "",
            )
        return sheet

    def _one_sided(self, c: Comparison) -> float | None:
        """The one-sided t test that the subject is better."""
        less = c.paired.t_p_less
        return less if less is None or c.metric.better == "lower" else 1 - less

    def speed(self) -> Sheet:
        """Steps to the target against each baseline."""
        reference = self.label(self.study.reference)
        sheet = Sheet(
            "steps-to-target",
            ["task", "against", "reading", f"{reference}, steps", "seconds", "the other, steps", "seconds", "Wilcoxon",
             "least possible", "Wilcoxon, Holm"],
            frame=self.tidy_comparisons(self.made.speed),
            groups=1,
            wrap=(2,),
        )  # fmt: skip
        words = {"better": "faster", "worse": "slower"}
        for c in self.made.speed:
            mine, other = self.made.row(c.task, c.subject), self.made.row(c.task, c.other)
            reading = self.reading(c)
            for word, speed in words.items():
                reading = reading.replace(word, speed)
            sheet.add(
                [
                    c.task,
                    self.label(c.other),
                    reading,
                    *(cell for row in (mine, other) for cell in self._times(row)),
                    p_value(c.paired.wilcoxon_p),
                    p_value(c.paired.wilcoxon_floor),
                    p_value(c.wilcoxon_holm),
                ]
            )
        return sheet

    @staticmethod
    def _times(row: Row | None) -> tuple[str, str]:
        """Median steps to the target, and the seconds that so many steps take."""
        if row is None:
            return "", ""
        seconds = None if row.steps is None or row.ms is None else row.steps * row.ms / 1e3
        return steps_text(row.steps, row.reached, row.runs), plain(seconds, ".3g")

    def training(self) -> Sheet:
        """The training loss at the end."""
        sheet = Sheet(
            "training-loss",
            ["task", "optimizer", f"{self.label(self.study.reference)} beside it", "training loss at the end",
             f"{self.label(self.study.reference)} minus it", "95 % t", "t, Holm"],
            frame=self.tidy_comparisons(self.made.loss_comparisons),
            groups=1,
        )  # fmt: skip
        found = {(c.task, c.other): c for c in self.made.loss_comparisons}
        for task in dict.fromkeys(task for task, _ in found):
            for name in self.study.optimizers:
                row, c = self.made.row(task, name), found.get((task, name))
                if row is None:
                    continue
                reading, tests = "", ["", "", ""]
                if c is not None:
                    d = c.paired.difference
                    reading = self.reading(c).replace("better", "lower").replace("worse", "higher")
                    tests = [
                        difference_text(d.mean, TRAIN_LOSS),
                        between(d.low, d.high, TRAIN_LOSS),
                        p_value(c.t_holm),
                    ]
                cells = [task, self.label(name), reading, mean(row.train_loss, TRAIN_LOSS), *tests]
                sheet.add(cells, self.mark(name))
        return sheet

    def controls(self) -> Sheet:
        """What each control is there to show, and what it showed."""
        sheet = Sheet(
            "controls",
            ["control", "what it is there to show", "task", "reading", "compared with", "difference", "95 % t",
             "diverged", "lr", "metric", "value"],
            frame=self.tidy_comparisons(self.made.controls),
            groups=2,
        )  # fmt: skip
        for control in self.study.controls:
            for c in self.made.controls:
                if c.subject != control.name:
                    continue
                mine = runs(self.results, "control", c.task, control.name)
                p, m = c.paired, c.metric
                column = f"test_{m.key}"
                good = mine[mine["status"] == "ok"]
                sheet.add(
                    [
                        control.name,
                        control.about,
                        c.task,
                        c.outcome,
                        f"{self.label(c.other)}, tuned",
                        difference_text(p.difference.mean, m),
                        between(p.difference.low, p.difference.high, m),
                        f"{p.lost_a} / {p.lost_b}" if p.lost_a or p.lost_b else NONE,
                        f"{mine['lr'].iloc[0]:g}",
                        heading(m),
                        number(good[column].mean(), m) if len(good) else NONE,
                    ]
                )
        return sheet

    def tidy_comparisons(self, found: Sequence[Comparison]) -> pd.DataFrame:
        """Returns comparisons with one column a number."""
        rows = []
        for c in found:
            p = c.paired
            low, high = p.bca if p.bca is not None else (None, None)
            rows.append(
                {
                    "task": c.task,
                    "metric": c.metric.key,
                    "subject": c.subject,
                    "against": c.other,
                    "pairs": p.n,
                    "diverged_subject": p.lost_a,
                    "diverged_other": p.lost_b,
                    "difference": p.difference.mean,
                    "t_low": p.difference.low,
                    "t_high": p.difference.high,
                    "bca_low": low,
                    "bca_high": high,
                    "effect_size": p.effect,
                    "rank_effect": p.rank_effect,
                    "t_p": p.t_p,
                    "t_p_holm": c.t_holm,
                    "t_p_less": p.t_p_less,
                    "wilcoxon_p": p.wilcoxon_p,
                    "wilcoxon_least": p.wilcoxon_floor,
                    "wilcoxon_p_holm": c.wilcoxon_holm,
                    "welch_p": p.welch_p,
                    "correlation": p.correlation,
                    "by_rank": c.by_rank,
                    "reading": c.outcome,
                    "after_correction": c.corrected,
                }
            )
        return pd.DataFrame(rows)
