"""What a claim of the paper is, how a verdict follows from what was computed, and what computes and draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Verdict = Literal["confirmed", "confirmed with corrections", "not confirmed", "refuted", "undecided"]
Profile = Literal["quick", "full"]
Data = Mapping[str, Any]
"""The numbers behind a claim by name, lists for arrays where they come from a file."""


@dataclass(frozen=True)
class Check:
    """A computed yes or no.

    Attributes:
        text: what was computed and what it should be, in words a reader of the paper understands, with the numbers.
        holds: whether it is so. Always the outcome of a computation.
    """

    text: str
    holds: bool


@dataclass(frozen=True)
class Claim:
    """A statement and what the computations say about it.

    Attributes:
        key: short name, e.g. ``sandwich``.
        title: the statement, in one sentence.
        source: where it stands, e.g. ``Theorem 4, supplement`` or ``this library``.
        printed: what must hold for the statement as it stands in the source.
        corrected: what must hold for the corrected statement; empty if there is none.
        against: what, if all of it holds, refutes the statement: a counterexample, an impossible assumption.
        correction: what was corrected, in words.
        control: a check made the same way on something for which it must fail; one that holds shows that the
            computation has no power, and leaves the claim undecided.
        relied_on: whether this library's documentation builds on the statement (the corrected one if it needs
            corrections): then anything but a confirmation is a fault.
        note: what a reader should know besides.
        missing: what kept it from being computed, e.g. data that could not be fetched; empty if it was. Then it is
            undecided, and no fault.
        data: the numbers behind it, for ``claims.json`` and the figures; arrays as lists.
        seconds: how long it took.
    """

    key: str
    title: str
    source: str
    printed: tuple[Check, ...]
    control: Check
    corrected: tuple[Check, ...] = ()
    against: tuple[Check, ...] = ()
    correction: str = ""
    relied_on: bool = False
    note: str = ""
    missing: str = ""
    data: Data = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """What follows from the checks alone."""
        if self.missing or self.control.holds:
            return "undecided"
        if self.printed and all(c.holds for c in self.printed):
            return "confirmed"
        if self.corrected and all(c.holds for c in self.corrected):
            return "confirmed with corrections"
        if self.against and all(c.holds for c in self.against):
            return "refuted"
        return "not confirmed"

    @property
    def fault(self) -> bool:
        """Whether the library relies on the statement and the computations do not bear it out."""
        verified = self.verdict in ("confirmed", "confirmed with corrections")
        return self.relied_on and not self.missing and not verified


def not_computed(key: str, title: str, source: str, missing: str, *, relied_on: bool = False) -> Claim:
    """Return a claim that could not be looked into; arguments as the attributes of :class:`Claim`."""
    nothing = Check("was not computed", False)
    return Claim(key, title, source, printed=(), control=nothing, relied_on=relied_on, missing=missing)


@dataclass(frozen=True)
class Failure:
    """An experiment that raised, or whose process died.

    Attributes:
        name: of the experiment.
        error: its traceback.
    """

    name: str
    error: str


Experiment = Callable[[Profile, int], list[Claim]]
"""Computes one claim, or several that share their runs, from a profile and a seed, its only source of randomness."""


@dataclass(frozen=True)
class Drawing:
    """A figure of a claim's numbers, which stands below it.

    Attributes:
        draw: draws the claim's ``data`` into axes; sets labels, scales, legend.
        caption: what is to be seen, in a sentence or two; what the axes are, where they do not say it themselves.
        file: name of its files, without ending; empty: the claim's key.
    """

    draw: Callable[[Axes, Data], None]
    caption: str
    file: str = ""
