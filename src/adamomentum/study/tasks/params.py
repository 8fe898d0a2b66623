"""Reading a task's parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from adamomentum.study.spec import Value

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class Kind:
    """What a parameter may be.

    Attributes:
        what: in words that stand after "must be".
        fits: says whether a value may be given.
        make: turns such a value into what the task works with.
    """

    what: str
    fits: Callable[[Any], bool]
    make: Callable[[Any], Any] = lambda value: value


def _number(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and fits(value)


def whole(least: int = 1, but: Collection[int] = ()) -> Kind:
    """Whole numbers from ``least``, without those in ``but``."""
    what = f"a whole number from {least}" + (f", and not {', '.join(map(str, but))}" if but else "")
    # A specification holds every number as a float.
    return Kind(what, _number(lambda value: value >= least and value == int(value) and value not in but), int)


def one_of(names: Collection[str]) -> Kind:
    """One of these names."""
    return Kind(f"one of {', '.join(names)}", lambda value: value in names)


WHOLE = whole()
SHARE = Kind("in [0, 1)", _number(lambda value: 0 <= value < 1))
NOT_NEGATIVE = Kind("0 or more", _number(lambda value: value >= 0))
POSITIVE = Kind("above 0", _number(lambda value: value > 0))
NAME = Kind("a name", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))


def known(of: str, params: Mapping[str, Value], names: Collection[str]) -> None:
    """Checks that all parameters of ``of`` are among ``names``.

    Raises:
        ValueError: if one is not.
    """
    unknown = sorted(params.keys() - set(names))
    if unknown:
        raise ValueError(f"unknown params of {of}: {', '.join(unknown)}; there are: {', '.join(names)}")


def checked(of: str, name: str, value: Value, kind: Kind) -> Any:
    """Returns the parameter ``name`` of ``of`` as the task works with it.

    Raises:
        ValueError: if it is not of its kind.
    """
    if not kind.fits(value):
        raise ValueError(f"params.{name} of {of} must be {kind.what}, got {value!r}")
    return kind.make(value)


def read(of: str, params: Mapping[str, Value], kinds: Mapping[str, Kind], base: T) -> T:
    """Returns ``base`` with what ``params`` set.

    Args:
        of: whose parameters they are, for messages.
        params: as a study file has them.
        kinds: what each field of ``base`` may be.
        base: the defaults.

    Raises:
        ValueError: if a parameter is not known or not usable.
    """
    known(of, params, [field.name for field in fields(base)])
    return replace(base, **{name: checked(of, name, value, kinds[name]) for name, value in params.items()})
