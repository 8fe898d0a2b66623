"""The parameters of a translation task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adamomentum.study.spec import Value
from adamomentum.study.tasks.params import NOT_NEGATIVE, SHARE, WHOLE, checked, known, one_of, read, whole

OF = "translation"
KINDS = {
    "data": one_of(("home-assistant", "iwslt14")),
    "subwords": WHOLE,
    "features": WHOLE,
    "inner": WHOLE,
    "heads": WHOLE,
    "layers": WHOLE,
    "dropout": SHARE,
    "drop_attention": SHARE,
    "drop_activation": SHARE,
    "label_smoothing": SHARE,
    "beam": WHOLE,
    "penalty": NOT_NEGATIVE,
    "clip": NOT_NEGATIVE,
    "eval_limit": whole(0),
}


@dataclass(frozen=True)
class Settings:
    """Model, loss and decoding, from a task's ``params``.

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

    data: str = "home-assistant"
    subwords: int = 2000
    features: int = 96
    inner: int = 192
    heads: int = 4
    layers: int = 2
    dropout: float = 0.1
    drop_attention: float = 0.0
    drop_activation: float = 0.0
    label_smoothing: float = 0.1
    beam: int = 4
    penalty: float = 1.0
    clip: float = 0.0
    eval_limit: int = 0

    @classmethod
    def of(cls, params: Mapping[str, Value]) -> Settings:
        """Returns the settings that ``params`` ask for, over the defaults for their ``data``.

        Raises:
            ValueError: if a parameter is not known or not usable.
        """
        known(OF, params, KINDS)
        data = checked(OF, "data", params.get("data", cls.data), KINDS["data"])
        made = read(OF, params, KINDS, IWSLT14 if data == "iwslt14" else cls())
        if made.features % made.heads or made.features % 2:
            raise ValueError(
                f"params.features of translation must be even and a multiple of params.heads, got {made.features} "
                f"and {made.heads}"
            )
        return made


IWSLT14 = Settings(
    data="iwslt14",
    subwords=10_000,
    features=512,
    inner=1024,
    layers=6,
    dropout=0.3,
    drop_attention=0.1,
    drop_activation=0.1,
    beam=5,
    penalty=1.0,
)
"""The network of AdaMomentum's authors (fairseq's ``transformer_iwslt_de_en_v2``): the defaults for ``iwslt14``.

Beam 5 and length penalty 1 are those of their scripts (``Transformer_NMT/sh_files`` of wyzjack/AdaM3), which decode
with the mean of the last five epochs' weights; here the last step's weights decode, as in every task of the study.
"""
