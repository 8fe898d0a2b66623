"""A small excerpt of the English Wikipedia (2016) that comes with a pinned wheel, as running text.

The text is under CC BY-SA 3.0, by the authors of the articles; it is read out of gensim's test data.

Tested in tests/study/test_language_data.py.
"""

from __future__ import annotations

import bz2
import html
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from adamomentum.study.data.base import DataError
from adamomentum.study.data.cache import Arrays, cached
from adamomentum.study.data.text import END, TextData, encode, vocabulary
from adamomentum.study.data.wheel import Wheel, check_given, read_members

WHEEL = Wheel(
    "gensim",
    "4.4.0",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    python="3.11",
    platform="manylinux_2_28_x86_64",
)
MEMBER = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
LICENCE = (
    "English Wikipedia, excerpt of April 2016, by the authors of its articles (https://en.wikipedia.org); "
    "licence: Creative Commons Attribution-ShareAlike 3.0 (https://creativecommons.org/licenses/by-sa/3.0/). "
    "Read out of the wheel gensim 4.4.0 and reduced to lower-case words.\n"
)
VERSION = 1  # of the cleaning; raised when it changes
WORDS = 2000
TRAIN_TOKENS = 100_000
MIN_WORDS = 150

_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d[\d.,]*|[.,;:?!()]")
_LAST_SECTIONS = re.compile(
    r"^==\s*(see also|references|notes|external links|further reading|bibliography)\s*==", re.M | re.I
)


def wikipedia(source: Path | None = None, cache: Path | None = None) -> TextData:
    """Return the excerpt: 2,000 words, the first 100,000 training tokens, validation and test whole.

    Of ten articles eight are for training and one each for validation and test.

    Args:
        source: the wheel as a file; None: from the cache, or else downloaded.
        cache: folder of the cache; by default ``cache_dir()``.

    Raises:
        DataError: if it is not in the cache and cannot be downloaded, or ``source`` is another file.
    """

    def make() -> tuple[Arrays, dict[str, str]]:
        return _make(source)

    check_given("wikipedia", WHEEL, source)
    arrays = cached(f"wikipedia-{WHEEL.sha256[:12]}-v{VERSION}", make, cache)
    tokens = {split: arrays[split] for split in ("train", "val", "test")}
    return TextData("Wikipedia excerpt", tuple(str(w) for w in arrays["words"]), tokens)


def _make(source: Path | None) -> tuple[Arrays, dict[str, str]]:
    try:
        (packed,) = read_members(WHEEL, [MEMBER], source)
    except DataError as error:
        raise DataError(
            f"the Wikipedia excerpt is not in the cache and {error}; connect to the network once, "
            f"or give the wheel {WHEEL.name} {WHEEL.version} ({WHEEL.python}, {WHEEL.platform}): --data wikipedia=FILE"
        ) from None
    documents = [tokenize(clean(text)) for text in articles(bz2.decompress(packed))]
    documents = [tokens for tokens in documents if len(tokens) > MIN_WORDS]
    # Whole articles: paragraphs of one article would tell its words to another split.
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for k, tokens in enumerate(documents):
        parts[{8: "val", 9: "test"}.get(k % 10, "train")] += tokens
    parts["train"] = parts["train"][:TRAIN_TOKENS]
    words = vocabulary(parts["train"], WORDS)
    arrays: Arrays = {split: encode(tokens, words) for split, tokens in parts.items()}
    return {**arrays, "words": np.array(words)}, {"LICENCE.txt": LICENCE}


def articles(xml: bytes) -> list[str]:
    """Return the wiki text of all articles of a dump, redirects left out, in their order there."""
    texts = []
    for page in ElementTree.fromstring(xml).iter():
        if not page.tag.endswith("}page"):
            continue
        fields = {child.tag.rpartition("}")[2]: child for child in page.iter()}
        text = fields["text"].text or ""
        if fields["ns"].text == "0" and "redirect" not in fields and not text.lower().startswith("#redirect"):
            texts.append(text)
    return texts


def clean(text: str) -> str:
    """Return the prose of wiki text: no templates, tables, references, files, headings; of links their label."""
    last = _LAST_SECTIONS.search(text)
    text = text[: last.start()] if last else text
    text = re.sub(r"<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>|<(math|gallery|code|pre)\b.*?</\1>", " ", text, flags=re.S)
    for pattern in (r"\{\{[^{}]*\}\}", r"\{\|[^{}]*?\|\}", r"\[\[(?:File|Image|Category):[^\[\]]*\]\]"):
        # From the inside out: they nest.
        count = 1
        while count:
            text = re.sub(r"\[\[(?!File:|Image:|Category:)(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
            text, count = re.subn(pattern, " ", text, flags=re.I)
    text = re.sub(r"\[(?:https?:)?//\S*\s?([^\]]*)\]", r"\1", text)
    text = html.unescape(re.sub(r"<[^>]*>", " ", text))
    lines = (line.strip() for line in text.replace("'''", "").replace("''", "").splitlines())
    return "\n".join(line for line in lines if line and line[0] not in "=*#|!{}:;")


def tokenize(text: str) -> list[str]:
    """Return lower-case words, numbers as ``<num>``, punctuation, and ``<eos>`` at the end of each paragraph."""
    tokens: list[str] = []
    for line in text.lower().splitlines():
        paragraph = ["<num>" if token[0].isdigit() else token for token in _TOKEN.findall(line)]
        if len(paragraph) > 5:
            tokens += [*paragraph, END]
    return tokens
