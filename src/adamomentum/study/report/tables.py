"""Tidy tables of a comparison; everything shown elsewhere in the report is read off these."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from adamomentum.study import registry, stats, tune
from adamomentum.study.compare import Outcome
from adamomentum.study.spec import TrialSpec
from adamomentum.study.trial import TrialResult

METRICS = ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "train_loss")


@dataclass(frozen=True)
class Target:
    """The validation accuracy that time-to-target is measured against, and where it comes from."""

    accuracy: float
    source: str


@dataclass(frozen=True)
class Tables:
    """The tables of a report.

    Attributes:
        target: the target accuracy; None if there is none to declare.
        trials: one row a trial.
        curves: one row a trial and evaluated step.
        learning_rates: one row an optimizer and learning rate tried.
        summary: one row an optimizer, over its final seeds.
        differences: ``reference`` minus each other optimizer, paired by seed.
        reference: the optimizer whose differences are shown.
    """

    target: Target | None
    trials: pd.DataFrame
    curves: pd.DataFrame
    learning_rates: pd.DataFrame
    summary: pd.DataFrame
    differences: pd.DataFrame
    reference: str


def label(name: str) -> str:
    """Returns the display name of an optimizer."""
    return registry.get(name).label


def build(outcome: Outcome, declared_target: float | None) -> Tables:
    """Builds all tables; trials that failed with an error are left out of the statistics."""
    names = list(outcome.comparison.grids)
    reference = "adamomentum" if "adamomentum" in names else names[0]
    target = _target(outcome, declared_target, reference)
    trials = _trials(outcome, target)
    usable = trials[(trials["stage"] == "final") & (trials["status"] != "error")]
    return Tables(
        target=target,
        trials=trials,
        curves=_curves(outcome),
        learning_rates=_learning_rates(outcome, trials),
        summary=_summary(outcome, trials, usable),
        differences=_differences(usable, reference, [n for n in names if n != reference]),
        reference=reference,
    )


def _target(outcome: Outcome, declared: float | None, reference: str) -> Target | None:
    """The declared target, or else the median final validation accuracy of the best baseline."""
    if declared is not None:
        return Target(declared, "declared with the data set")
    reached: dict[str, list[float]] = {}
    for spec, result in outcome.final:
        accuracy = result.final.get("val_accuracy")
        if spec.optimizer.name != reference and accuracy is not None:
            reached.setdefault(spec.optimizer.name, []).append(accuracy)
    if not reached:
        return None
    best = max(reached, key=lambda name: stats.median(reached[name]))
    return Target(stats.median(reached[best]), f"median final validation accuracy of the best baseline, {label(best)}")


def _trials(outcome: Outcome, target: Target | None) -> pd.DataFrame:
    rows = []
    for spec, result in outcome.tuning + outcome.final:
        row: dict[str, object] = {
            "stage": spec.stage,
            "optimizer": spec.optimizer.name,
            "lr": spec.optimizer.lr,
            "replicate": spec.replicate,
            "status": result.status,
        }
        row |= {metric: result.final.get(metric) for metric in METRICS}
        row["steps_to_target"] = _steps_to_target(spec, result, target)
        row["ms_per_step"] = result.timing.get("ms_per_step")
        row["train_seconds"] = result.timing.get("train_seconds")
        row["trial_id"] = spec.trial_id
        rows.append(row)
    return pd.DataFrame(rows)


def _steps_to_target(spec: TrialSpec, result: TrialResult, target: Target | None) -> float | None:
    if spec.stage != "final" or result.status == "error" or target is None:
        return None
    if result.status == "diverged":
        return math.inf
    return stats.steps_to_target(result.curve["step"], result.curve["val_accuracy"], target.accuracy)


def _curves(outcome: Outcome) -> pd.DataFrame:
    frames = [
        pd.DataFrame(result.curve).assign(optimizer=spec.optimizer.name, lr=spec.optimizer.lr, replicate=spec.replicate)
        for spec, result in outcome.final
        if result.curve.get("step")
    ]
    columns = ["optimizer", "lr", "replicate", "step", "train_loss", "val_loss", "val_accuracy"]
    return pd.concat(frames)[columns] if frames else pd.DataFrame(columns=columns)


def _learning_rates(outcome: Outcome, trials: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for name, choice in outcome.choices.items():
        for lr, score in tune.scores(t for t in outcome.tuning if t[0].optimizer.name == name).items():
            tried = trials[(trials["stage"] == "tune") & (trials["optimizer"] == name) & (trials["lr"] == lr)]
            rows.append(
                {
                    "optimizer": name,
                    "lr": lr,
                    "val_loss": score,
                    "val_accuracy": tried["val_accuracy"].mean(),
                    "trials": len(tried),
                    "diverged": int((tried["status"] == "diverged").sum()),
                    "chosen": choice is not None and lr == choice.lr,
                    "edge": choice is not None and lr == choice.lr and choice.edge,
                }
            )
    columns = ["optimizer", "lr", "val_loss", "val_accuracy", "trials", "diverged", "chosen", "edge"]
    return pd.DataFrame(rows, columns=columns)


def _summary(outcome: Outcome, trials: pd.DataFrame, usable: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for name, choice in outcome.choices.items():
        mine = usable[usable["optimizer"] == name]
        row: dict[str, object] = {
            "optimizer": name,
            "lr": choice.lr if choice is not None else None,
            "lr_tuned": len(outcome.comparison.grids[name]) > 1,
            "lr_at_edge": choice is not None and choice.edge,
            "seeds": len(mine),
            "diverged": int((mine["status"] == "diverged").sum()),
        }
        for metric in ("test_accuracy", "test_loss"):
            interval = _interval(mine[metric])
            row |= {metric: interval.mean, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
        steps = [float(s) for s in mine["steps_to_target"].dropna()]
        row["steps_to_target"] = stats.median(steps) if steps else None
        row["reached_target"] = sum(map(math.isfinite, steps))
        # Every trial's training steps are alike, so the tuning trials count too: a median over more of them.
        times = trials[trials["optimizer"] == name]["ms_per_step"].dropna()
        row["ms_per_step"] = stats.median([float(v) for v in times]) if len(times) else None
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(values: pd.Series) -> stats.Interval:
    """The t interval; without one, and with an infinite mean, where a run diverged to no finite value."""
    if len(values) == 0:
        return stats.Interval(math.nan, math.nan, math.nan, 0)
    if values.isna().any():
        return stats.Interval(math.inf, math.nan, math.nan, len(values))
    return stats.t_interval([float(v) for v in values])


def _differences(usable: pd.DataFrame, reference: str, baselines: list[str]) -> pd.DataFrame:
    rows = []
    for metric in ("test_accuracy", "test_loss"):
        wide = usable.pivot(index="replicate", columns="optimizer", values=metric)
        for name in baselines:
            if name not in wide or reference not in wide:
                continue
            pairs = wide[[reference, name]].dropna()
            if not len(pairs):
                continue
            d = stats.paired_difference([float(v) for v in pairs[reference]], [float(v) for v in pairs[name]])
            rows.append(
                {
                    "metric": metric,
                    "reference": reference,
                    "baseline": name,
                    "difference": d.mean,
                    "low": d.low,
                    "high": d.high,
                    "pairs": d.n,
                    "left_out": int(wide[[reference, name]].isna().any(axis=1).sum()),
                    "verdict": stats.verdict(d),
                }
            )
    columns = ["metric", "reference", "baseline", "difference", "low", "high", "pairs", "left_out", "verdict"]
    return pd.DataFrame(rows, columns=columns)
