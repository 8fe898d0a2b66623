"""The parameters of a translation task.

Tested in tests/study/test_translation.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from adamomentum.study.spec import Value
from adamomentum.study.tasks.settings import Count, NotNegative, Settings, Share, Whole


class TranslationSettings(Settings):
    """Model, loss and decoding.

    The defaults here are those for ``data = "home-assistant"``.

    Attributes:
        data: which corpus, ``home-assistant`` or ``iwslt14``.
        subwords: size of the joint vocabulary.
        features: of a word, as ``inner``, ``heads`` and ``layers``: see ``Shape``.
        dropout: on residual branches and embeddings.
        drop_attention: on attention weights.
        drop_activation: on feed-forward activations.
        label_smoothing: share of the target's probability that is spread over all words, in training.
        beam: candidates of the beam search.
        penalty: exponent of the length by which a candidate's log-probability is divided.
        clip: largest norm of the gradient; 0: no clipping.
        eval_limit: only the first so many pairs of a split are evaluated and translated, for a smoke run; 0: all.
    """

    data: Literal["home-assistant", "iwslt14"] = "home-assistant"
    subwords: Count = 2000
    features: Annotated[Count, Field(multiple_of=2)] = 96
    inner: Count = 192
    heads: Count = 4
    layers: Count = 2
    dropout: Share = 0.1
    drop_attention: Share = 0.0
    drop_activation: Share = 0.0
    label_smoothing: Share = 0.1
    beam: Count = 4
    penalty: NotNegative = 1.0
    clip: NotNegative = 0.0
    eval_limit: Whole = 0

    @field_validator("heads")
    @classmethod
    def _heads_share_the_features(cls, heads: int, info: ValidationInfo) -> int:
        features = info.data.get("features", heads)
        if features % heads:
            raise ValueError(f"must be a divisor of features, which is {features}, got {heads}")
        return heads

    @classmethod
    def defaults(cls, params: Mapping[str, Value]) -> Mapping[str, Any]:
        """Return those of the paper's network for ``iwslt14``."""
        return IWSLT14 if params.get("data") == "iwslt14" else {}


IWSLT14: Mapping[str, Any] = {
    "subwords": 10_000,
    "features": 512,
    "inner": 1024,
    "layers": 6,
    "dropout": 0.3,
    "drop_attention": 0.1,
    "drop_activation": 0.1,
    "beam": 5,
    "penalty": 1.0,
}
"""The network of AdaMomentum's authors (fairseq's ``transformer_iwslt_de_en_v2``).

Beam 5 and length penalty 1 are those of their scripts (``Transformer_NMT/sh_files`` of wyzjack/AdaM3), which decode
with the mean of the last five epochs' weights; here the last step's weights decode, as in every task of the study.
"""
