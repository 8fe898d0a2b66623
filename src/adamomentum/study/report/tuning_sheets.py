"""The tables of tuning, of sensitivity, and over all tasks."""

from __future__ import annotations

import math

import pandas as pd

from adamomentum.study.report.cells import (
    NONE,
    plain,
    setting_text,
)
from adamomentum.study.report.provenance import searched
from adamomentum.study.report.sheet import Maker, Sheet


class TuningSheets(Maker):
    """What was chosen, how much it matters, and what the tasks say together."""

    def across(self) -> Sheet:
        """Scores, ranks and wins over all complete tasks."""
        a = self.made.across
        sheet = Sheet(
            "all-tasks", ["optimizer", "interquartile mean of scores", "95 % interval", "mean rank", "best on"]
        )
        lines = []
        for name in sorted(a.iqm, key=lambda n: -a.iqm[n].mean):
            q, rank, profile = a.iqm[name], a.ranks.get(name), a.profile.get(name)
            best = None if profile is None else profile[0]
            between = f"{q.low:.3f} to {q.high:.3f}" if math.isfinite(q.low) else NONE
            sheet.add(
                [self.label(name), plain(q.mean, ".3f"), between, plain(rank, ".1f"),
                 NONE if best is None else f"{round(best * len(a.tasks))} of {len(a.tasks)} tasks"],
                self.mark(name),
            )  # fmt: skip
            lines.append({"optimizer": name, "iqm": q.mean, "iqm_low": q.low, "iqm_high": q.high,
                          "mean_rank": rank, "share_best": best})  # fmt: skip
        sheet.frame = pd.DataFrame(lines)
        return sheet

    def choices(self) -> Sheet:
        """What tuning tried and chose."""
        sheet = Sheet(
            "tuning",
            ["task", "optimizer", "searched", "points", "chosen", "validation", "at an edge", "failed"],
            groups=1,
            wrap=(2,),
        )
        lines = []
        for (task, name), choice in self.results.choices.items():
            if not choice.points:
                continue
            sheet.add(
                [
                    task,
                    self.label(name),
                    searched(self.study, name, self.study.task(task).tune),
                    str(choice.points),
                    setting_text(dict(choice.setting or {})) if choice.setting else "nothing",
                    plain(choice.score, ".4g"),
                    ", ".join(choice.edges),
                    str(choice.failed) if choice.failed else "",
                ],
                self.mark(name),
            )
            lines.append(
                {
                    "task": task,
                    "optimizer": name,
                    "points": choice.points,
                    **(choice.setting or {}),
                    "score": choice.score,
                    "at_edge": ", ".join(choice.edges),
                    "failed": choice.failed,
                }
            )
        sheet.frame = pd.DataFrame(lines)
        return sheet

    def widths(self) -> Sheet:
        """How far the learning rate may be off."""
        sheet = Sheet("sensitivity", ["task", "optimizer", "decades within 10 % of the best", "from", "to"], groups=1)
        lines = []
        for (task, name), w in self.made.widths.items():
            is_open = w.open_low or w.open_high
            sheet.add(
                [
                    task,
                    self.label(name),
                    f"{'at least ' if is_open else ''}{w.decades:.2f}",
                    f"{'below ' if w.open_low else ''}{w.low:.2g}",
                    f"{'above ' if w.open_high else ''}{w.high:.2g}",
                ],
                self.mark(name),
            )
            lines.append({"task": task, "optimizer": name, **vars(w)})
        sheet.frame = pd.DataFrame(lines)
        return sheet
