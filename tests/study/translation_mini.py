"""A tiny language pair to learn in a test."""

from __future__ import annotations

from typing import Any

import numpy as np
from study.trials import spec_of

from adamomentum.study.data.parallel_text import ParallelText, train_subwords
from adamomentum.study.spec import TrialSpec

NOUNS = {"Hund": "dog", "Katze": "cat", "Maus": "mouse", "Vogel": "bird", "Fisch": "fish", "Bär": "bear"}
VERBS = {"sieht": "sees", "hört": "hears", "jagt": "hunts", "mag": "likes"}
SUBWORDS = 80
SMALL = {"subwords": SUBWORDS, "features": 16, "inner": 32, "heads": 2, "layers": 1, "dropout": 0.1, "beam": 2}


def sentence(rng: np.random.Generator) -> tuple[str, str]:
    """Returns a pair; the verb moves."""
    a, b = rng.choice(list(NOUNS), 2)
    v = rng.choice(list(VERBS))
    return f"dass der {a} den {b} {v}", f"that the {NOUNS[a]} {VERBS[v]} the {NOUNS[b]}"


def tiny_pairs() -> ParallelText:
    rng = np.random.default_rng(0)
    pairs = {split: [sentence(rng) for _ in range(n)] for split, n in (("train", 120), ("val", 16), ("test", 12))}
    return ParallelText("tiny", pairs, train_subwords((text for pair in pairs["train"] for text in pair), SUBWORDS))


def make_spec(data: ParallelText, params: dict[str, Any] | None = None, **fields: Any) -> TrialSpec:
    return spec_of("translation", data, {**SMALL, **(params or {})}, **fields)
