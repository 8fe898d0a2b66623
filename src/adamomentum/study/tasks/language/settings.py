"""The parameters of a language model.

Tested in tests/study/test_language_model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator

from adamomentum.study.spec import Value
from adamomentum.study.tasks.settings import Count, NotNegative, Positive, Settings, Share, Whole, zero_or_from


class LanguageSettings(Settings):
    """Model and training; see ``AwdLstm`` and ``CausalTransformer`` for the models'.

    The defaults here are those for ``data = "wikipedia"``.

    Attributes:
        data: which text: ``wikipedia``, ``ptb``, or the bytes of ``networkx``, its Python source.
        model: ``awd-lstm``, whose state goes from window to window, or ``transformer``, to which each is a text of its
            own; the latter takes none of the LSTM's dropouts, penalties and random lengths.
        embedding: features of the embedding; of a Transformer, its width.
        hidden: features of the LSTM's inner layers; of a Transformer, within its feed-forward layers.
        heads: heads of attention of a Transformer; they divide ``embedding``.
        bptt: tokens through which gradients go back; about the mean of a random length if ``variable_bptt``; of a
            Transformer, the tokens that it can look at.
        variable_bptt: AWD-LSTM's random lengths, the learning rate scaled with the length.
        clip: largest norm of the gradient.
        alpha: activation regularization: times the mean square of the last layer's outputs.
        beta: temporal activation regularization: times the mean square of their change.
        eval_streams: in how many parallel streams a split is evaluated. Each begins without memory, so that one stream
            is exact and more are faster. For a Transformer, how many windows at a time, which changes nothing.
        eval_limit: only the first so many tokens of a split are evaluated, for a smoke run; 0: all. One token alone
            predicts none.
        any_size: take a folder with a text that is not of the published size, for a smoke run on a few lines.
    """

    data: Literal["wikipedia", "ptb", "networkx"] = "wikipedia"
    model: Literal["awd-lstm", "transformer"] = "awd-lstm"
    layers: Count = 1
    embedding: Count = 128
    hidden: Count = 128
    heads: Count = 4
    drop_words: Share = 0.0
    drop_input: Share = 0.0
    drop_hidden: Share = 0.0
    drop_output: Share = 0.1
    weight_drop: Share = 0.0
    bptt: Count = 35
    variable_bptt: bool = False
    clip: Positive = 1.0
    alpha: NotNegative = 0.0
    beta: NotNegative = 0.0
    eval_streams: Count = 20
    eval_limit: Annotated[Whole, zero_or_from(2)] = 0
    any_size: bool = False

    @classmethod
    def defaults(cls, params: Mapping[str, Value]) -> Mapping[str, Any]:
        """Return those of a Transformer, and AWD-LSTM's for ``ptb``."""
        if params.get("model") == "transformer":
            return TRANSFORMER
        return AWD_LSTM if params.get("data") == "ptb" else {}

    @model_validator(mode="after")
    def _fits_the_model(self) -> LanguageSettings:
        if self.model != "transformer":
            return self
        if self.embedding % self.heads:
            raise ValueError(f"heads must divide embedding, got {self.heads} and {self.embedding}")
        for name in LSTM_ALONE:
            if getattr(self, name):
                raise ValueError(f"{name} is for awd-lstm; leave it out with model = 'transformer'")
        return self


LSTM_ALONE = (
    "drop_words",
    "drop_input",
    "drop_hidden",
    "drop_output",
    "weight_drop",
    "variable_bptt",
    "alpha",
    "beta",
)

TRANSFORMER: Mapping[str, Any] = {
    "layers": 4,
    "embedding": 96,
    "hidden": 384,
    "drop_output": 0.0,
    "bptt": 128,
    "eval_streams": 64,
}
"""A Transformer that trains in a minute or two on one core."""

AWD_LSTM: Mapping[str, Any] = {
    "embedding": 400,
    "hidden": 1150,
    "drop_words": 0.1,
    "drop_input": 0.4,
    "drop_hidden": 0.25,
    "drop_output": 0.4,
    "weight_drop": 0.5,
    "bptt": 70,
    "variable_bptt": True,
    "clip": 0.25,
    "alpha": 2.0,
    "beta": 1.0,
    "eval_streams": 1,
}
"""AWD-LSTM on Penn Treebank as in the runs of AdaMomentum's authors."""
