"""Every table of a study's report, as a reader sees it and with the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from adamomentum.bench.memory import state_bytes
from adamomentum.study import registry, stages
from adamomentum.study.registry import Optimizer
from adamomentum.study.report.comparisons import Comparison, comparisons_frame
from adamomentum.study.report.matrix import Matrix
from adamomentum.study.report.provenance import searched
from adamomentum.study.report.swap import Swaps
from adamomentum.study.report.tables import Part, Row, rows_frame
from adamomentum.study.report.text import (
    NONE,
    Sheet,
    between,
    difference_text,
    heading,
    mean,
    number,
    p_value,
    plain,
    setting_text,
    steps_text,
)
from adamomentum.study.results import COST_BASE, TRAIN_LOSS, family_of, runs

APART = "†"  # not known to have run side by side with AdamW
PARAMETERS = 2**20


class Sheets(Part):
    """The tables of one report."""

    def every(self) -> dict[str, Sheet]:
        """Return every table by the name that the page knows it by; a task's is ``task NAME``."""
        tables = self.tables
        readings = {
            (role, c.task, c.other): self.reading(c)
            for role, comparisons in (("default", tables.default_comparisons), ("final", tables.comparisons))
            for c in comparisons
        }
        return {
            "matrix": Matrix(self.results, tables).sheet(),
            **{f"task {t.name}": self.task(t.name) for t in self.study.tasks},
            "selected": self.selected({(c.task, c.other): self.reading(c) for c in tables.selected_comparisons}),
            "tracks": self.roles(readings),
            "differences": self.differences("differences", tables.comparisons),
            "default": self.differences("differences-published", tables.default_comparisons),
            "speed": self.speed(),
            "near": self.near(),
            "area": self.area(),
            "training": self.training(),
            "across": self.across(),
            "choices": self.choices(),
            "forms": self.forms(),
            "widths": self.widths(),
            "swap": Swaps(self.results, self.tables).sheet(),
            "controls": self.controls(),
            "cost": self.cost(),
            "eps": self.eps(),
        }

    # --- what came out for each optimizer ---

    def task(self, task: str) -> Sheet:
        """Return the tuned runs of a task, those at another's setting, and what trivial methods reach."""
        metrics = family_of(self.results, task).metrics
        rows = [r for r in self.tables.rows if r.task == task and r.role != "default"]
        controls = {name for name, entry in self.study.optimizers.items() if entry.control}
        sheet = Sheet(
            f"results-{task}",
            ["optimizer", "chosen", *map(heading, metrics), "diverged", "steps to target", "ms / step", "notes"],
            frame=rows_frame([r for r in self.tables.rows if r.task == task]),
        )
        sheet.wrap = (len(sheet.header) - 1,)
        for row in rows:
            # A row without a run is that of an optimizer that nothing tried could train.
            trained = bool(row.setting)
            sheet.add(
                [
                    self.label(row.optimizer) + (" (control)" if row.optimizer in controls else ""),
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
        """Return what time is measured to on a task, and where that comes from; empty if there is none."""
        if (target := self.tables.targets.get(task)) is None:
            return ""
        if target.share is not None:
            return (
                f"{target.text}, which the median baseline had reached after {target.share:.0%} of its steps in tuning"
            )
        if not target.baseline:
            return f"{target.text}, declared in advance"
        so_far = "" if target.complete else " so far"
        return (
            f"{target.text}, where more than half of the runs of {self.label(target.baseline)} end, "
            f"the best tuned baseline{so_far}"
        )

    def notes(self, row: Row) -> list[str]:
        """Return what a reader must know of an optimizer's runs on a task."""
        if not row.setting:
            return ["nothing that was tried trains it"]
        notes = [f"best {key} lies at the edge of what was tried" for key in row.edges]
        wanted = self.study.final.seeds
        if row.role == "control":
            control = next(c for c in self.study.controls if c.name == row.optimizer)
            notes.append(f"at the setting of {self.label(control.setting_from)}, not searched")
            wanted = control.seeds
        elif self.study.optimizers[row.optimizer].grid and not stages.tuning_points(
            self.study, row.task, row.optimizer
        ):
            notes.append("lr as given, not tuned")
        if row.runs < wanted:
            notes.append(f"{row.runs} of {wanted} runs so far")
        if row.diverged:
            notes.append(f"{row.diverged} of {row.runs} runs diverged, mean over the others")
        return notes

    def roles(self, readings: Mapping[tuple[str, str, str], str]) -> Sheet:
        """Return published settings beside tuned ones.

        Args:
            readings: (role, task, optimizer) to what the reference is beside it.
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
                default, tuned = self.tables.row(task, name, "default"), self.tables.row(task, name)
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
        sheet.frame = rows_frame([r for r in self.tables.rows if r.role == "default"])
        return sheet

    def selected(self, readings: Mapping[tuple[str, str], str]) -> Sheet:
        """Return the test split at the best point by validation, beside the last step.

        Args:
            readings: (task, optimizer) to what the reference is beside it there.
        """
        reference = self.label(self.study.reference)
        sheet = Sheet(
            "selected",
            ["task", "metric", "optimizer", f"{reference} beside it", "at the last step",
             "at the best point by validation", "median step of it", "of"],
            frame=rows_frame([r for r in self.tables.rows if r.role == "final" and r.selected_step is not None]),
            groups=2,
        )  # fmt: skip
        for row in self.tables.rows:
            if row.role != "final" or row.selected_step is None:
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

    def _by_task(self, name: str, numbers: dict[tuple[str, str], float], names: Sequence[str]) -> Sheet:
        """Return a table with one row an optimizer, one column a task; empty without any number."""
        tasks = [t.name for t in self.study.tasks if any(task == t.name for task, _ in numbers)]
        lines = [{"optimizer": n, **{t: numbers.get((t, n)) for t in tasks}} for n in names
                 if any((t, n) in numbers for t in tasks)]  # fmt: skip
        return Sheet(name, ["optimizer", *tasks], frame=pd.DataFrame(lines, columns=["optimizer", *tasks]))

    def cost(self) -> Sheet:
        """Milliseconds a step, their ratio to AdamW's where both ran side by side, and bytes of state a parameter."""
        timed = {(r.task, r.optimizer): r for r in self.tables.rows if r.ms is not None}
        ms = {key: r.ms for key, r in timed.items() if r.ms is not None}
        sheet = self._by_task("cost", ms, list(self.study.optimizers))
        rows: list[float] = []
        anchor = self.study.called(COST_BASE)
        for name in sheet.frame["optimizer"]:
            cells = []
            for task in sheet.header[1:]:
                row, base = timed.get((task, name)), ms.get((task, anchor))
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
        """Return the share of coordinates whose denominator is mostly eps."""
        dominated = {
            (r.task, r.optimizer): r.eps_dominated
            for r in self.tables.rows
            if r.role == "final" and r.eps_dominated is not None
        }
        names = [*self.study.optimizers, *(c.name for c in self.study.controls)]
        for control in self.study.controls:
            for task in self.study.tasks:
                mine = runs(self.results, "control", task.name, control.name)
                shares = mine["eps_dominated"].dropna() if "eps_dominated" in mine else ()
                if len(shares):
                    dominated[task.name, control.name] = math.fsum(shares) / len(shares)
        sheet = self._by_task("eps-dominated", dominated, names)
        for name in sheet.frame["optimizer"]:
            cells = (dominated.get((task, name)) for task in sheet.header[1:])
            shown = [NONE if share is None else f"{100 * share:.3g} %" for share in cells]
            sheet.add([self.label(name), *shown], self.mark(name))
        return sheet

    # --- what came out between two optimizers ---

    def reading(self, c: Comparison) -> str:
        """Return what a comparison allows to be said, and whether it survives the correction."""
        if c.untrained:
            return f"{c.outcome}: nothing that was tried trains {self.label(self._untrained(c))}"
        if c.outcome in ("better", "worse") and not c.control and not c.corrected:
            return f"{c.outcome}, but not after correction"
        return c.outcome

    def _untrained(self, c: Comparison) -> str:
        return c.other if c.outcome == "better" else c.subject

    def differences(self, name: str, comparisons: Sequence[Comparison]) -> Sheet:
        """Comparisons of the reference with each other optimizer, with all tests."""
        sheet = Sheet(
            name,
            ["task", "metric", "against", "reading", "difference", "95 % t", "95 % BCa", "effect size", "pairs",
             "diverged", "t", "t, Holm", "Wilcoxon", "least possible", "Wilcoxon, Holm", "Welch", "one-sided t", "r"],
            frame=comparisons_frame(comparisons),
            groups=2,
            wrap=(3,),
        )  # fmt: skip
        for c in comparisons:
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
        """Return the one-sided t test that the subject is better."""
        less = c.paired.t_p_less
        return less if less is None or c.metric.better == "lower" else 1 - less

    def speed(self) -> Sheet:
        """Step to the target against each baseline."""
        reference = self.label(self.study.reference)
        sheet = Sheet(
            "steps-to-target",
            ["task", "against", "reading", f"{reference}, steps", "seconds", "the other, steps", "seconds",
             "restricted mean", "95 % t", "Wilcoxon", "least possible", "Wilcoxon, Holm"],
            frame=comparisons_frame(self.tables.speed),
            groups=1,
            wrap=(2,),
        )  # fmt: skip
        for c in self.tables.speed:
            mine, other = self.tables.row(c.task, c.subject), self.tables.row(c.task, c.other)
            times = [cell for row in (mine, other) for cell in self._times(row)]
            sheet.add([c.task, self.label(c.other), self._faster(c), *times, *self._tested(c)])
        return sheet

    def near(self) -> Sheet:
        """Step to the study's other targets against each baseline."""
        sheet = Sheet(
            "steps-to-other-targets",
            ["task", "target", "against", "reading", "restricted mean", "95 % t", "Wilcoxon", "least possible",
             "Wilcoxon, Holm"],
            groups=2,
            wrap=(3,),
        )  # fmt: skip
        frames = []
        for target, c in self.tables.near:
            where = f"{target.text}, {target.share:.0%}"
            sheet.add([c.task, where, self.label(c.other), self._faster(c), *self._tested(c)])
            frames.append(comparisons_frame([c]).assign(share=target.share, target=target.value))
        sheet.frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        return sheet

    def _faster(self, c: Comparison) -> str:
        return self.reading(c).replace("better", "faster").replace("worse", "slower")

    @staticmethod
    def _tested(c: Comparison) -> list[str]:
        """Return by how many steps the subject is earlier or later, and what the rank test says of it."""
        r = c.restricted
        return [
            NONE if r is None else difference_text(r.mean, c.metric),
            NONE if r is None else between(r.low, r.high, c.metric),
            p_value(c.paired.wilcoxon_p),
            p_value(c.paired.wilcoxon_floor),
            p_value(c.wilcoxon_holm),
        ]

    def area(self) -> Sheet:
        """Return the mean of the validation metric over a run's steps, against each optimizer."""
        sheet = Sheet(
            "area-under-the-curve",
            ["task", "against", "reading", "metric", "difference", "95 % t", "t, Holm"],
            frame=comparisons_frame(self.tables.area_comparisons),
            groups=1,
            wrap=(2,),
        )
        for c in self.tables.area_comparisons:
            d = c.paired.difference
            cells = [difference_text(d.mean, c.metric), between(d.low, d.high, c.metric), p_value(c.t_holm)]
            mark = "soft" if c.control else ""
            sheet.add([c.task, self.label(c.other), self.reading(c), heading(c.metric), *cells], mark)
        return sheet

    @staticmethod
    def _times(row: Row | None) -> tuple[str, str]:
        """Median steps to the target, and the seconds that so many steps take."""
        if row is None:
            return "", ""
        seconds = None if row.steps is None or row.ms is None else row.steps * row.ms / 1e3
        return steps_text(row.steps, row.reached, row.runs), plain(seconds, ".3g")

    def training(self) -> Sheet:
        """Return the training loss at the end."""
        sheet = Sheet(
            "training-loss",
            ["task", "optimizer", f"{self.label(self.study.reference)} beside it", "training loss at the end",
             f"{self.label(self.study.reference)} minus it", "95 % t", "t, Holm"],
            frame=comparisons_frame(self.tables.loss_comparisons),
            groups=1,
        )  # fmt: skip
        compared = {(c.task, c.other): c for c in self.tables.loss_comparisons}
        for task in dict.fromkeys(task for task, _ in compared):
            for name in self.study.optimizers:
                row, c = self.tables.row(task, name), compared.get((task, name))
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
        """Return what each control is there to show, and what it showed."""
        sheet = Sheet(
            "controls",
            ["control", "what it is there to show", "task", "reading", "compared with", "difference", "95 % t",
             "diverged", "lr", "metric", "value"],
            frame=comparisons_frame(self.tables.controls),
            groups=2,
        )  # fmt: skip
        for control in self.study.controls:
            for c in self.tables.controls:
                if c.subject != control.name:
                    continue
                mine = runs(self.results, "control", c.task, control.name)
                p, m = c.paired, c.metric
                column = f"test_{m.key}"
                good = mine[mine["status"] == "ok"]
                sheet.add(
                    [
                        self.label(control.name),
                        control.about,
                        c.task,
                        c.outcome,
                        f"{self.label(c.other)}, tuned" if c.other in self.study.optimizers else self.label(c.other),
                        difference_text(p.difference.mean, m),
                        between(p.difference.low, p.difference.high, m),
                        f"{p.lost_a} / {p.lost_b}" if p.lost_a or p.lost_b else NONE,
                        f"{mine['lr'].iloc[0]:g}",
                        heading(m),
                        number(good[column].mean(), m) if len(good) else NONE,
                    ]
                )
        return sheet

    # --- what was chosen, how much it matters, and what the tasks say together ---

    def across(self) -> Sheet:
        """Scores, ranks and wins over all complete tasks."""
        a = self.tables.across
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
        """Return what tuning tried and chose."""
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
                    stages.label(self.results.whole, name),
                    searched(self.results.whole, name, self.study.task(task).tune),
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

    def forms(self) -> Sheet:
        """Return what was chosen of each optimizer that has several forms, once that is decided."""
        tasks = [task.name for task in self.study.tasks]
        sheet = Sheet("forms", ["optimizer", "form", *tasks, "geometric mean", "over the chosen one's"], groups=1)
        whole, lines = self.results.whole, []
        for leader, choice in self.results.plan.forms.items():
            best = choice.scores[choice.chosen]
            for name, score in choice.scores.items():
                costs = {task: self.results.choices[task, name].score for task in tasks}
                ratio = score / best if math.isfinite(best) else math.nan
                sheet.add(
                    [
                        stages.label(whole, leader),
                        stages.label(whole, name) + (" (chosen)" if name == choice.chosen else ""),
                        *(plain(cost, ".4g") for cost in costs.values()),
                        plain(score, ".4g"),
                        plain(ratio, ".3f"),
                    ],
                    "chosen" if name == choice.chosen else "",
                )
                lines.append({"optimizer": leader, "form": name, **costs, "score": score,
                              "chosen": name == choice.chosen})  # fmt: skip
        sheet.frame = pd.DataFrame(lines)
        return sheet

    def widths(self) -> Sheet:
        """How far the learning rate may be off."""
        sheet = Sheet("sensitivity", ["task", "optimizer", "decades within 10 % of the best", "from", "to"], groups=1)
        lines = []
        for (task, name), w in self.tables.widths.items():
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


def bytes_per_parameter(optimizer: Optimizer) -> float:
    """Return bytes of state per float32 parameter, measured after a step over a million of them.

    Counters that a tensor has once are in it and vanish.
    """
    import torch

    parameter = torch.zeros(PARAMETERS)
    parameter.grad = torch.ones(PARAMETERS)
    built = registry.build(optimizer.spec(optimizer.default_lr), [parameter])
    built.step()
    return state_bytes(built) / PARAMETERS
