"""The parameters of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adamomentum.study.spec import Value
from adamomentum.study.tasks.params import (
    FLAG,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    WHOLE,
    checked,
    known,
    one_of,
    read,
    whole,
)

OF = "a language model"
KINDS = {
    "data": one_of(("wikipedia", "ptb")),
    "layers": WHOLE,
    "embedding": WHOLE,
    "hidden": WHOLE,
    "drop_words": SHARE,
    "drop_input": SHARE,
    "drop_hidden": SHARE,
    "drop_output": SHARE,
    "weight_drop": SHARE,
    "bptt": WHOLE,
    "variable_bptt": FLAG,
    "clip": POSITIVE,
    "alpha": NOT_NEGATIVE,
    "beta": NOT_NEGATIVE,
    "eval_streams": WHOLE,
    # One token alone predicts none.
    "eval_limit": whole(0, but=(1,)),
    "any_size": FLAG,
}


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
        eval_limit: only the first so many tokens of a split are evaluated, for a smoke run; 0: all.
        any_size: take a folder with a text that is not of the published size, for a smoke run on a few lines.
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
    eval_limit: int = 0
    any_size: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Settings:
        """Returns the settings that ``params`` ask for, over the defaults for their ``data``.

        Raises:
            ValueError: if a parameter is not known or not usable.
        """
        known(OF, params, KINDS)
        data = checked(OF, "data", params.get("data", cls.data), KINDS["data"])
        return read(OF, params, KINDS, AWD_LSTM if data == "ptb" else cls())


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
