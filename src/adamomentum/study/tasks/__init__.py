"""The families of tasks, by name: those that come along, known here without importing torch, and the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING

from adamomentum.study import own

if TYPE_CHECKING:
    from adamomentum.study.tasks.base import Loader, Task


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

    def __post_init__(self) -> None:
        """Check what a user may have written."""
        if self.better not in ("lower", "higher"):
            raise ValueError(f"better of the metric {self.key!r} must be 'lower' or 'higher', got {self.better!r}")

    def cost(self, value: float) -> float:
        """Return a number that is lower for better values."""
        return value if self.better == "lower" else -value

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{self.scale * value:.{self.digits}f} {self.unit}".rstrip()


@dataclass(frozen=True)
class Family:
    """What is known of a family of tasks without training.

    Attributes:
        version: raised whenever the same specification would train differently; part of a trial's id.
        metrics: what is reported on the test split, the primary one first.
        select: the validation metric by which settings are chosen.
        curve: the validation metric of learning curves and of time to target.
        name: as in a study file; of one of the user's own ``module:Class``.
        implementation: ``module:Class`` of the ``Task``.

    Raises:
        ValueError: if it cannot be reported on.
    """

    version: int
    metrics: tuple[Metric, ...]
    select: str = "loss"
    curve: str = "loss"
    name: str = ""
    implementation: str = ""

    def __post_init__(self) -> None:
        """Check what a user may have written."""
        if not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 1:
            raise ValueError(f"version of a family must be a whole number from 1, got {self.version!r}")
        if not self.metrics or not all(isinstance(metric, Metric) for metric in self.metrics):
            raise ValueError(f"metrics of a family must be a tuple of one Metric or more, got {self.metrics!r}")
        keys = [metric.key for metric in self.metrics]
        if len(set(keys)) < len(keys):
            raise ValueError(f"metrics of a family must have different keys, got {', '.join(keys)}")
        for field, key in (("select", self.select), ("curve", self.curve)):
            if key not in keys:
                raise ValueError(
                    f"{field} of a family must be the key of one of its metrics, got {key!r}; "
                    f"there are: {', '.join(keys)}"
                )

    @property
    def primary(self) -> Metric:
        """The metric on which optimizers are compared."""
        return self.metrics[0]

    def metric(self, key: str) -> Metric:
        """Return the metric called ``key``."""
        return next(metric for metric in self.metrics if metric.key == key)


_LOSS = Metric("loss", "nats a token", "lower", digits=3)
_HERE = "adamomentum.study.tasks"

OWN = "own"
"""The family of the user's own training functions; of which metrics they report, each task says itself."""

FAMILIES: Mapping[str, Family] = {
    f.name: f
    for f in (
        Family(
            name="image-classification",
            version=2,
            metrics=(
                Metric("accuracy", "accuracy", "higher", 100, "%"),
                Metric("loss", "cross-entropy", "lower", digits=3),
            ),
            implementation=f"{_HERE}.vision.task:ImageClassification",
        ),
        Family(
            name="language-model",
            version=1,
            metrics=(Metric("perplexity", "perplexity", "lower"), _LOSS),
            implementation=f"{_HERE}.language.task:LanguageModel",
        ),
        Family(
            name="translation",
            version=1,
            metrics=(_LOSS, Metric("bleu", "BLEU", "higher"), Metric("chrf", "chrF", "higher")),
            implementation=f"{_HERE}.translation.task:Translation",
        ),
        Family(
            name="gan",
            version=1,
            metrics=(
                Metric("fid", "Fréchet distance", "lower"),
                Metric("fid_last3", "Fréchet distance, mean of the last 3", "lower"),
                Metric("precision", "precision", "higher"),
                Metric("recall", "recall", "higher"),
            ),
            # One evaluation alone swings widely from one to the next.
            select="fid_last3",
            curve="fid",
            implementation=f"{_HERE}.gan.task:Gan",
        ),
        Family(
            name=OWN,
            version=1,
            metrics=(Metric("loss", "loss", "lower", digits=4),),
            implementation=f"{_HERE}.function.task:Own",
        ),
    )
}


def family(name: str) -> Family:
    """Return the family called ``name``; one of the user's own, ``module:Class``, is imported.

    Raises:
        ValueError: if there is none, or it is not complete; the message says what there is, or what it lacks.
    """
    if ":" in name:
        return replace(_own(name).family, name=name, implementation=name)
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; allowed: {', '.join(FAMILIES)}, or module:Class of your own")
    return FAMILIES[name]


def task(name: str) -> Loader:
    """Return the task of the family called ``name``.

    Raises:
        ValueError: as ``family``.
    """
    if ":" in name:
        return _own(name)()
    module, _, attribute = family(name).implementation.partition(":")
    built: Loader = getattr(import_module(module), attribute)()
    return built


def _own(path: str) -> type[Task]:
    """Return a class of the user's own, of which everything is there that planning and reporting need."""
    from adamomentum.study.tasks.base import Task

    own.check_path("a family", path, "my_package.tasks:Segmentation")
    cls = own.imported("family", path)
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise ValueError(f"family {path!r} is not a subclass of adamomentum.study.tasks.base.Task but {cls!r}")
    if not isinstance(getattr(cls, "family", None), Family):
        raise ValueError(
            f"family {path!r} does not say how it is reported: give the class "
            "`family = Family(version=1, metrics=(Metric(...),))`, both from adamomentum.study.tasks"
        )
    if cls.__abstractmethods__:
        raise ValueError(f"family {path!r} lacks the methods {', '.join(sorted(cls.__abstractmethods__))}")
    try:
        signature(cls).bind()
    except TypeError as error:
        raise ValueError(f"family {path!r} must be built without arguments: {error}") from None
    return cls
