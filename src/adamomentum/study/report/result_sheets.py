"""The tables of results: each task, both tracks, cost of a step, where eps rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from adamomentum.study import stages
from adamomentum.study.report.cells import (
    NONE,
    heading,
    mean,
    number,
    plain,
    setting_text,
    steps_text,
)
from adamomentum.study.report.memory import bytes_per_parameter
from adamomentum.study.report.runs import COST_BASE, TRAIN_LOSS, family_of, runs
from adamomentum.study.report.sheet import Maker, Sheet
from adamomentum.study.report.study_tables import Row

APART = "†"  # not known to have run side by side with AdamW
TRACKS = {"final": "tuned", "default": "published"}


class ResultSheets(Maker):
    """What came out for each optimizer."""

    def task(self, task: str) -> Sheet:
        """The tuned track of a task, and what trivial methods reach."""
        metrics = family_of(self.results, task).metrics
        rows = [r for r in self.made.rows if r.task == task and r.track == "final"]
        sheet = Sheet(
            f"results-{task}",
            ["optimizer", "chosen", *map(heading, metrics), "diverged", "steps to target", "ms / step", "notes"],
            frame=self.tidy([r for r in self.made.rows if r.task == task]),
        )
        sheet.wrap = (len(sheet.header) - 1,)
        for row in rows:
            # A row without a run is that of an optimizer that nothing tried could train.
            trained = bool(row.setting)
            sheet.add(
                [
                    self.label(row.optimizer) + (" (control)" if self.study.optimizers[row.optimizer].control else ""),
                    setting_text(row.setting),
                    *(mean(row.metrics[m.key], m) for m in metrics),
                    f"{row.diverged} of {row.runs}" if trained else NONE,
                    steps_text(row.steps, row.reached, row.runs),
                    plain(row.ms, ".1f"),
                    "; ".join(self.notes(row)),
                ],
                self.mark(row.optimizer),
            )
        known = self.results.data.get(task)
        for name, reached in (known.baselines if known is not None else {}).items():
            cells = [number(reached[f"test_{m.key}"], m) if f"test_{m.key}" in reached else "" for m in metrics]
            sheet.add([name, "", *cells, "", "", "", "trivial baseline of the data"], "soft")
        return sheet

    def target(self, task: str) -> str:
        """What time is measured to on a task, and where that comes from; empty if there is none."""
        if (target := self.made.targets.get(task)) is None:
            return ""
        if not target.baseline:
            return f"{target.text}, declared in advance"
        so_far = "" if target.complete else " so far"
        return (
            f"{target.text}, where more than half of the runs of {self.label(target.baseline)} end, "
            f"the best tuned baseline{so_far}"
        )

    def notes(self, row: Row) -> list[str]:
        """What a reader must know of an optimizer's runs on a task."""
        if not row.setting:
            return ["nothing that was tried trains it"]
        notes = [f"best {key} lies at the edge of what was tried" for key in row.edges]
        if self.study.optimizers[row.optimizer].grid and not stages.tuning_points(self.study, row.task, row.optimizer):
            notes.append("lr as given, not tuned")
        wanted = self.study.final.seeds
        if row.runs < wanted:
            notes.append(f"{row.runs} of {wanted} runs so far")
        if row.diverged:
            notes.append(f"{row.diverged} of {row.runs} runs diverged, mean over the others")
        return notes

    def tracks(self, readings: Mapping[tuple[str, str, str], str]) -> Sheet:
        """Published settings beside tuned ones.

        Args:
            readings: (track, task, optimizer) to what the reference is beside it.
        """
        reference = self.label(self.study.reference)
        sheet = Sheet(
            "tracks",
            ["task", "metric", "optimizer", f"{reference} beside it, published", "and tuned", "published lr",
             "at published settings", "diverged", "tuned"],
            groups=2,
        )  # fmt: skip
        for task in (t.name for t in self.study.tasks):
            metric = family_of(self.results, task).primary
            for name in self.study.optimizers:
                default, tuned = self.made.row(task, name, "default"), self.made.row(task, name)
                if default is None:
                    continue
                sheet.add(
                    [
                        task,
                        heading(metric),
                        self.label(name),
                        readings.get(("default", task, name), ""),
                        readings.get(("final", task, name), ""),
                        f"{default.setting['lr']:g}",
                        mean(default.metrics[metric.key], metric),
                        f"{default.diverged} of {default.runs}",
                        NONE if tuned is None else mean(tuned.metrics[metric.key], metric),
                    ],
                    self.mark(name),
                )
        sheet.frame = self.tidy([r for r in self.made.rows if r.track == "default"])
        return sheet

    def selected(self, readings: Mapping[tuple[str, str], str]) -> Sheet:
        """The test split at the best point by validation, beside the last step.

        Args:
            readings: (task, optimizer) to what the reference is beside it there.
        """
        reference = self.label(self.study.reference)
        sheet = Sheet(
            "selected",
            ["task", "metric", "optimizer", f"{reference} beside it", "at the last step",
             "at the best point by validation", "median step of it", "of"],
            frame=self.tidy([r for r in self.made.rows if r.track == "final" and r.selected_step is not None]),
            groups=2,
        )  # fmt: skip
        for row in self.made.rows:
            if row.track != "final" or row.selected_step is None:
                continue
            metric = family_of(self.results, row.task).primary
            steps = runs(self.results, "final", row.task, row.optimizer)["last_step"].max()
            sheet.add(
                [
                    row.task,
                    heading(metric),
                    self.label(row.optimizer),
                    readings.get((row.task, row.optimizer), ""),
                    mean(row.metrics[metric.key], metric),
                    mean(row.selected, metric),
                    f"{row.selected_step:g}",
                    f"{steps:g}",
                ],
                self.mark(row.optimizer),
            )
        return sheet

    def tidy(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Returns rows with one column a number."""
        out = []
        for row in rows:
            line: dict[str, object] = {
                "task": row.task,
                "optimizer": row.optimizer,
                "track": TRACKS[row.track],
                **row.setting,
                "at_edge": ", ".join(row.edges),
                "runs": row.runs,
                "diverged": row.diverged,
            }
            for key, found in {**row.metrics, TRAIN_LOSS.key: row.train_loss}.items():
                line |= {key: found.mean, f"{key}_low": found.low, f"{key}_high": found.high}
            line |= {
                "steps_to_target": row.steps,
                "reached_target": row.reached,
                "ms_per_step": row.ms,
                "eps_dominated": row.eps_dominated,
                "selected_step": row.selected_step,
                "selected": row.selected.mean,
                "selected_low": row.selected.low,
                "selected_high": row.selected.high,
            }
            out.append(line)
        return pd.DataFrame(out)

    def _by_task(self, name: str, found: dict[tuple[str, str], float], names: Sequence[str]) -> Sheet:
        """A table with one row an optimizer, one column a task; empty if nothing is found."""
        tasks = [t.name for t in self.study.tasks if any(task == t.name for task, _ in found)]
        lines = [{"optimizer": n, **{t: found.get((t, n)) for t in tasks}} for n in names
                 if any((t, n) in found for t in tasks)]  # fmt: skip
        return Sheet(name, ["optimizer", *tasks], frame=pd.DataFrame(lines, columns=["optimizer", *tasks]))

    def cost(self) -> Sheet:
        """Milliseconds a step, their ratio to AdamW's where both ran side by side, and bytes of state a parameter."""
        timed = {(r.task, r.optimizer): r for r in self.made.rows if r.ms is not None}
        found = {key: r.ms for key, r in timed.items() if r.ms is not None}
        sheet = self._by_task("cost", found, list(self.study.optimizers))
        rows: list[float] = []
        anchor = self.study.called(COST_BASE)
        for name in sheet.frame["optimizer"]:
            cells = []
            for task in sheet.header[1:]:
                row, base = timed.get((task, name)), found.get((task, anchor))
                if row is None or row.ms is None:
                    cells.append(NONE)
                    continue
                ratio = f" ({row.ms / base:.2f} ×)" if base and row.side_by_side else ""
                if base and not row.side_by_side and name != anchor:
                    ratio = f" {APART}"
                cells.append(f"{row.ms:.1f} to {plain(row.ms_high, '.1f')}{ratio}")
            memory = bytes_per_parameter(self.study.optimizer(name))
            sheet.add([self.label(name), *cells, f"{memory:.3g}"], self.mark(name))
            rows.append(memory)
        sheet.header = [*sheet.header, "state, bytes a parameter"]
        for task in sheet.header[1:-1]:
            mine = [timed.get((task, name)) for name in sheet.frame["optimizer"]]
            sheet.frame[f"{task}_high"] = [None if r is None else r.ms_high for r in mine]
            sheet.frame[f"{task}_side_by_side"] = [None if r is None else r.side_by_side for r in mine]
        sheet.frame["state_bytes_per_parameter"] = rows
        return sheet

    def eps(self) -> Sheet:
        """The share of coordinates whose denominator is mostly eps."""
        found = {
            (r.task, r.optimizer): r.eps_dominated
            for r in self.made.rows
            if r.track == "final" and r.eps_dominated is not None
        }
        names = [*self.study.optimizers, *(c.name for c in self.study.controls)]
        for control in self.study.controls:
            for task in self.study.tasks:
                mine = runs(self.results, "control", task.name, control.name)
                shares = mine["eps_dominated"].dropna() if "eps_dominated" in mine else ()
                if len(shares):
                    found[task.name, control.name] = math.fsum(shares) / len(shares)
        sheet = self._by_task("eps-dominated", found, names)
        for name in sheet.frame["optimizer"]:
            cells = (found.get((task, name)) for task in sheet.header[1:])
            shown = [NONE if share is None else f"{100 * share:.3g} %" for share in cells]
            sheet.add([self.label(name), *shown], self.mark(name))
        return sheet
