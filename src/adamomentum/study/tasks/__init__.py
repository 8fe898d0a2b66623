"""The tasks of the study, by name; known here without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adamomentum.study.tasks.base import Task


@dataclass(frozen=True)
class Metric:
    """A number of a trial's ``final`` results.

    Attributes:
        key: its name there; ``val_`` and ``test_`` stand before it.
        label: how a reader is told.
        better: ``lower`` or ``higher``.
        scale: what it is multiplied by for display, e.g. 100 for percent.
        unit: shown after the scaled value.
        digits: decimals shown.
    """

    key: str
    label: str
    better: str
    scale: float = 1.0
    unit: str = ""
    digits: int = 2

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{self.scale * value:.{self.digits}f} {self.unit}".rstrip()


@dataclass(frozen=True)
class Family:
    """A family of tasks.

    Attributes:
        name: as in a study file.
        version: raised whenever the same specification would train differently.
        implementation: ``module:Class`` of the ``Task``.
        select: the validation metric by which settings are chosen, lower is better.
        curve: the validation metric of learning curves and of time to target, lower is better.
        metrics: what is reported on the test split, the primary one first.
    """

    name: str
    version: int
    implementation: str
    select: str
    curve: str
    metrics: tuple[Metric, ...]

    @property
    def primary(self) -> Metric:
        """The metric on which optimizers are compared."""
        return self.metrics[0]


_HERE = "adamomentum.study.tasks"

FAMILIES: Mapping[str, Family] = {
    f.name: f
    for f in (
        Family(
            "image-classification",
            2,
            f"{_HERE}.vision:ImageClassification",
            "loss",
            "loss",
            (Metric("accuracy", "accuracy", "higher", 100, "%"), Metric("loss", "cross-entropy", "lower", digits=3)),
        ),
        Family(
            "language-model",
            1,
            f"{_HERE}.language:LanguageModel",
            "loss",
            "loss",
            (Metric("perplexity", "perplexity", "lower"), Metric("loss", "nats a token", "lower", digits=3)),
        ),
        Family(
            "translation",
            1,
            f"{_HERE}.translation:Translation",
            "loss",
            "loss",
            (
                Metric("loss", "nats a token", "lower", digits=3),
                Metric("bleu", "BLEU", "higher"),
                Metric("chrf", "chrF", "higher"),
            ),
        ),
        Family(
            "gan",
            1,
            f"{_HERE}.gan:Gan",
            # One evaluation alone swings widely from one to the next.
            "fid_last3",
            "fid",
            (
                Metric("fid", "Fréchet distance", "lower"),
                Metric("fid_last3", "Fréchet distance, mean of the last 3", "lower"),
                Metric("precision", "precision", "higher"),
                Metric("recall", "recall", "higher"),
            ),
        ),
    )
}


def family(name: str) -> Family:
    """Returns the family called ``name``.

    Raises:
        ValueError: if there is none; the message lists the names there are.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; allowed: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def task(name: str) -> Task:
    """Returns the task of the family called ``name``.

    Raises:
        ValueError: if there is no such family.
    """
    module, _, attribute = family(name).implementation.partition(":")
    made: Task = getattr(import_module(module), attribute)()
    return made
