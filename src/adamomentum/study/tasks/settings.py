"""The parameters of a family as a pydantic model: what a study file may say in ``params``.

Tested in tests/study/test_studyfile.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from adamomentum.study import faults
from adamomentum.study.spec import Value

if TYPE_CHECKING:
    from typing_extensions import Self


def _whole(value: Any) -> Any:
    """Take a whole number as a specification holds it, as a float, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
"""A whole number, 0 or more."""

Count = Annotated[Whole, Field(ge=1)]
"""A whole number, 1 or more."""

Share = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


def zero_or_from(least: int) -> AfterValidator:
    """Return the check of a ``Whole`` that is 0, where that has a meaning of its own, or at least ``least``."""

    def check(value: int) -> int:
        if 0 < value < least:
            raise ValueError(f"must be 0 or at least {least}, got {value}")
        return value

    return AfterValidator(check)


def fits(value: str, allowed: Collection[str], info: ValidationInfo) -> str:
    """Return ``value`` if it goes with the field ``data``, which stands before it; for a validator of a field.

    Raises:
        ValueError: if it is none of ``allowed``.
    """
    if "data" in info.data and value not in allowed:
        raise ValueError(f"must be one of {', '.join(allowed)} with data = {info.data['data']!r}, got {value!r}")
    return value


class Settings(BaseModel):
    """What a family's ``params`` come to: a field each. Types are taken strictly, defaults are checked as well."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    @classmethod
    def defaults(cls, params: Mapping[str, Value]) -> Mapping[str, Any]:
        """Return what ``params`` change in the defaults of other fields, e.g. those that go with their ``data``."""
        return {}

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Self:
        """Return the settings that ``params`` ask for.

        Raises:
            ValueError: if a parameter is not known or not usable, or two do not go together.
        """
        try:
            return cls.model_validate({**cls.defaults(params), **params})
        except ValidationError as error:
            lines = []
            for fault in error.errors(include_url=False):
                place = ".".join(["params", *map(str, fault["loc"])])
                if fault["type"] == "extra_forbidden":
                    lines.append(f"{place}: there is no such parameter; there are: {', '.join(cls.model_fields)}")
                else:
                    lines.append(faults.line(fault, place))
            raise ValueError("; ".join(lines)) from None
