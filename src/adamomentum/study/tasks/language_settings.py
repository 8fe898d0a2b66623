"""The parameters of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from adamomentum.study.spec import Value

TEXTS = ("wikipedia", "ptb")


@dataclass(frozen=True)
class Settings:
    """Model and training of a language model, from a task's ``params``; see ``AwdLstm`` for the model's.

    The defaults here are those for ``data = "wikipedia"``.

    Attributes:
        data: which text, ``wikipedia`` or ``ptb``.
        bptt: tokens through which gradients go back; about the mean of a random length if ``variable_bptt``.
        variable_bptt: AWD-LSTM's random lengths, the learning rate scaled with the length.
        clip: largest norm of the gradient.
        alpha: activation regularization: times the mean square of the last layer's outputs.
        beta: temporal activation regularization: times the mean square of their change.
        eval_streams: in how many parallel streams a split is evaluated. Each begins without memory, so that one stream
            is exact and more are faster.
    """

    data: str = "wikipedia"
    layers: int = 1
    embedding: int = 128
    hidden: int = 128
    drop_words: float = 0.0
    drop_input: float = 0.0
    drop_hidden: float = 0.0
    drop_output: float = 0.1
    weight_drop: float = 0.0
    bptt: int = 35
    variable_bptt: bool = False
    clip: float = 1.0
    alpha: float = 0.0
    beta: float = 0.0
    eval_streams: int = 20

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Settings:
        """Returns the settings that ``params`` ask for, over the defaults for their ``data``.

        Raises:
            ValueError: if a parameter is not known or not usable.
        """
        data = params.get("data", cls.data)
        if data not in TEXTS:
            raise ValueError(f"params.data of a language model must be one of {', '.join(TEXTS)}, got {data!r}")
        base = AWD_LSTM if data == "ptb" else cls()
        unknown = params.keys() - {field.name for field in fields(cls)}
        if unknown:
            names = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"unknown params of a language model: {', '.join(sorted(unknown))}; allowed: {names}")
        return cls(**{**asdict(base), **{name: _checked(name, value) for name, value in params.items()}})


AWD_LSTM = Settings(
    data="ptb",
    embedding=400,
    hidden=1150,
    drop_words=0.1,
    drop_input=0.4,
    drop_hidden=0.25,
    drop_output=0.4,
    weight_drop=0.5,
    bptt=70,
    variable_bptt=True,
    clip=0.25,
    alpha=2.0,
    beta=1.0,
    eval_streams=1,
)
"""AWD-LSTM on Penn Treebank as in the runs of AdaMomentum's authors: the defaults for ``data = "ptb"``."""


def _checked(name: str, value: Value) -> Any:
    if name == "data":
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name == "variable_bptt":
        right, what = isinstance(value, bool), "true or false"
    elif name.startswith("drop_") or name == "weight_drop":
        right, what = number and 0 <= value < 1, "in [0, 1)"  # type: ignore[operator]
    elif name == "clip":
        right, what = number and value > 0, "above 0"  # type: ignore[operator]
    elif name in ("alpha", "beta"):
        right, what = number and value >= 0, "0 or more"  # type: ignore[operator]
    else:
        right, what = number and value >= 1 and value == int(value), "a whole number from 1"  # type: ignore[arg-type,operator]
        # A specification holds every number as a float.
        value = int(value) if right else value  # type: ignore[arg-type]
    if not right:
        raise ValueError(f"params.{name} of a language model must be {what}, got {value!r}")
    return value
