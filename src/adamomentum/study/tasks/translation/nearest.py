"""Translation without learning: the translation of the most similar training sentence.

Tested in tests/study/test_translation_data.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from adamomentum.study.data.parallel_text import Pairs

ROWS = 64
"""Sentences compared at a time: with all of IWSLT14's at once the table of similarities would take 9 GB."""


def nearest_neighbours(train: Pairs, sources: Sequence[str]) -> list[str]:
    """Return for each source the target of the training pair whose source is most like it, the first of equals.

    Alike is measured by the Jaccard index of the sets of character 4-grams, in lower case, a space at either end.
    """
    from scipy.sparse import csr_matrix

    index: dict[str, int] = {}

    def grams(text: str) -> npt.NDArray[np.int32]:
        spaced = f" {text.lower()} "
        ids = {index.setdefault(spaced[k : k + 4], len(index)) for k in range(max(1, len(spaced) - 3))}
        return np.fromiter(ids, np.int32, len(ids))

    def matrix(rows: list[npt.NDArray[np.int32]]) -> Any:
        pointers = np.cumsum([0, *map(len, rows)])
        columns = np.concatenate(rows)
        return csr_matrix((np.ones(len(columns), np.float32), columns, pointers), shape=(len(rows), len(index)))

    known, asked = [grams(source) for source, _ in train], [grams(source) for source in sources]
    columns, sizes = matrix(known).T.tocsr(), np.array([len(row) for row in known])
    targets: list[str] = []
    for start in range(0, len(asked), ROWS):
        part = asked[start : start + ROWS]
        common = (matrix(part) @ columns).toarray().astype(np.float64)
        union = np.array([len(row) for row in part])[:, None] + sizes - common
        targets += [train[k][1] for k in (common / union).argmax(1)]
    return targets
