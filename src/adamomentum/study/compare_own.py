"""``adamomentum compare --train``: a study of the user's own training function, built from options."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from adamomentum.study import faults, registry, tasks
from adamomentum.study.digest import digest
from adamomentum.study.drop_in import DROP_IN
from adamomentum.study.spec import Value
from adamomentum.study.stages import CARRIED
from adamomentum.study.studyfile import MetricEntry, OptimizerEntry, Seeds, Study, TaskEntry, Tuning

OPTIMIZERS = ("adamomentum", "adamw")
TRIALS, POINTS = 8, 5
"""How many learning rates are tried for each optimizer: in its whole range, and around a setting that is there."""

EXTENSION = 3 / 8
"""Further ones where the best lies at the edge of the range, as a part of the first."""

HIGHER = re.compile(
    r"(^|_)(acc|accuracy|auc|auroc|ap|map|miou|iou|dice|f1|precision|recall|bleu|rouge\w*|chrf|psnr|ssim|r2|reward|return|"
    r"score|top\d)($|_)"
)
"""Names of metrics of which higher is better: whoever gives one must say which way it goes."""

LOWER = re.compile(
    r"(^|_)(loss|err|error|mse|rmse|mae|mape|nll|bce|ce|entropy|perplexity|ppl|wer|cer|ter|fid|kid|lpips|distance|"
    r"divergence|kl|brier|ece|bpc|bpb|bpd|cost|regret)($|_)"
)
"""Names of metrics of which lower is better. Of all others, such as ``acc1`` or ``ndcg``, nothing is guessed."""


class OptionError(ValueError):
    """An option cannot be used.

    Args:
        option: which, e.g. ``--incumbent``.
        message: why, and what would be right.
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True)
class Incumbent:
    """An optimizer at the setting that the user has found for it.

    Attributes:
        name: in the registry.
        lr: its learning rate.
        hyperparameters: what else was said of it.
    """

    name: str
    lr: float
    hyperparameters: Mapping[str, Value]

    @classmethod
    def of(cls, text: str) -> Incumbent:
        """Return what ``NAME:lr=LR,KEY=VALUE,...`` says; a value with commas is a list, as in ``betas=0.9,0.95``.

        Raises:
            OptionError: if it cannot be read, or AdaMomentum cannot take its place as it is.
        """
        name, _, rest = text.partition(":")
        values: dict[str, list[str]] = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if equals:
                values[key.strip()] = [value]
            elif values:
                values[next(reversed(values))].append(part)
            else:
                raise OptionError("--incumbent", f"{text!r} is not NAME:lr=LR,..., e.g. adamw:lr=3e-4,weight_decay=0.1")
        numbers: dict[str, Any] = {}
        for key, given in values.items():
            try:
                each = tuple(float(number) for number in given)
            except ValueError:
                each = (math.nan,)
            if not all(map(math.isfinite, each)):
                raise OptionError("--incumbent", f"{key}={','.join(given)} in {text!r} is no finite number")
            numbers[key] = each if len(each) > 1 else each[0]
        try:
            entry = registry.get(name.strip().lower())
            lr = numbers.pop("lr", None)
            if lr is None:
                raise OptionError("--incumbent", f"{text!r} does not say lr, e.g. {name}:lr=3e-4")
            if isinstance(lr, tuple) or lr <= 0:
                raise OptionError("--incumbent", f"lr in {text!r} must be one number above 0")
            entry.changed(hyperparameters=numbers)
        except OptionError:
            raise
        except ValueError as error:
            raise OptionError("--incumbent", f"{text!r}: {error}") from None
        if entry.name not in ("adamw", "adam"):
            raise OptionError(
                "--incumbent",
                f"AdaMomentum takes the place of AdamW or Adam at its setting; got {text!r}. Leave --incumbent "
                f"out to tune both: --optimizers adamomentum,{entry.name}",
            )
        return cls(entry.name, lr, numbers)

    def entries(self, points: int) -> dict[str, OptimizerEntry]:
        """Return the optimizer and AdaMomentum in its place, at its learning rate or at ``points`` around it."""
        theirs = {**registry.get(self.name).hyperparameters, **self.hyperparameters}
        mine = {key: theirs[key] for key in CARRIED if key in theirs}
        if registry.get(self.name).decay == "L2":  # a part of the gradient
            mine["decoupled_weight_decay"] = False
        grid = tuple(float(f"{self.lr * 10 ** ((k - points // 2) / 2):.3g}") for k in range(points))
        grid = tuple(self.lr if k == points // 2 else lr for k, lr in enumerate(grid))
        return {
            "adamomentum": OptimizerEntry(
                label=f"AdaMomentum for {registry.get(self.name).label}",
                hyperparameters={**mine, **DROP_IN.hyperparameters},
                grid=grid,
            ),
            self.name: OptimizerEntry(hyperparameters=dict(self.hyperparameters), grid=grid),
        }


def metric_of(name: str, higher: bool | None) -> MetricEntry:
    """Return the metric that is compared; ``higher`` is None where the user has not said which way is better.

    Raises:
        OptionError: if the name is none, or nothing was said and it does not sound as if lower were better.
    """
    if not (name.isidentifier() and name.isascii()):
        raise OptionError("--metric", f"must be a name that the function reports and returns, e.g. loss, got {name!r}")
    if higher is None and (HIGHER.search(name.lower()) or not LOWER.search(name.lower())):
        raise OptionError("--metric", f"is a higher {name} better? Say --higher, or --lower if not")
    return MetricEntry(key=name, better="higher" if higher else "lower")


def params_of(train: str, watch: Sequence[Path], arguments: Sequence[str]) -> tuple[Path, dict[str, Value]]:
    """Return the folder of the script, and what a study file would say in ``params``.

    Args:
        train: ``FILE.py:FUNCTION``, from the current folder.
        watch: from the current folder.
        arguments: ``KEY=VALUE`` each, a value as in JSON or else text.

    Raises:
        OptionError: if an argument is not ``KEY=VALUE``, or has a name of another meaning.
    """
    file, colon, function = train.rpartition(":")
    path = Path(file if colon else train).resolve()
    params: dict[str, Value] = {"train": f"{path.name}:{function}" if colon else path.name}
    if watch:
        params["watch"] = tuple(Path(os.path.relpath(each, path.parent)).as_posix() for each in watch)
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier() or key in params or key in ("train", "watch"):
            raise OptionError("--arg", f"must be KEY=VALUE, a KEY once, e.g. width=64, got {text!r}")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        try:
            params[key] = TypeAdapter(Value).validate_python(read)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False)[0]
            raise OptionError("--arg", faults.line(fault, key)) from None
    return path.parent, params


def tuned(names: Sequence[str], grids: Mapping[str, tuple[float, ...]]) -> dict[str, OptimizerEntry]:
    """Return optimizers that are tuned, on their grids where they are given, else in their whole range."""
    return {name: OptimizerEntry(grid=grids.get(name, ())) for name in names}


def _task_name(stem: str) -> str:
    """Return the name of a script as that of a task, and of a folder; where letters are lost no other script has it."""
    name = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "-", stem).lstrip("-")
    return name if name == stem else f"{name or 'own'}-{digest([stem])[:6]}"


def as_study(
    params: Mapping[str, Value],
    optimizers: Mapping[str, OptimizerEntry],
    metric: MetricEntry,
    trials: int,
    seeds: int,
    processes: int = 1,
) -> Study:
    """Return the comparison of ``optimizers`` on the function that ``params`` name.

    Args:
        params: of the task.
        optimizers: by name in the registry.
        metric: by which settings are chosen and optimizers compared.
        trials: learning rates tried for each optimizer that has no grid.
        seeds: final runs of each optimizer.
        processes: how many train one trial together.
    """
    train = str(params["train"])
    drop_in = {"adamomentum", "adamw"} <= optimizers.keys() and not optimizers["adamomentum"].hyperparameters
    return Study(
        name="compare",
        title=f"Optimizers on {train}",
        reference="adamomentum" if "adamomentum" in optimizers else next(iter(optimizers)),
        optimizers=dict(optimizers),
        tasks=(
            TaskEntry(
                name=_task_name(Path(train.partition(":")[0]).stem),
                title=train,
                family=tasks.OWN,
                params=dict(params),
                metrics=(metric,),
                processes=processes,
            ),
        ),
        controls=(DROP_IN.model_copy(update={"seeds": seeds}),) if drop_in else (),
        tuning=Tuning(trials=trials, seeds=1, extension=round(EXTENSION * trials)),
        default=Seeds(seeds=0),
        final=Seeds(seeds=seeds),
    )
