"""German and English texts of a home automation program, out of its pinned wheel.

The texts are those of Home Assistant 2024.3.3 under Apache-2.0, by its contributors.

Tested in tests/study/test_translation_data.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adamomentum.study.data.base import SPLITS, DataError
from adamomentum.study.data.cache import Arrays, cached
from adamomentum.study.data.parallel_text import Pairs, ParallelText, from_arrays, to_arrays, train_subwords
from adamomentum.study.data.wheel import Wheel, check_given, download

WHEEL = Wheel("homeassistant", "2024.3.3", "6e1ec2c07441d63fdcfb8acd2c4bbb6f68bc97330855784d3623d10c38fe3577")
LICENCE = (
    "Texts of Home Assistant 2024.3.3 (https://www.home-assistant.io) by its contributors, Apache "
    "License 2.0 (https://www.apache.org/licenses/LICENSE-2.0). Read out of the wheel homeassistant "
    "2024.3.3, paired and filtered.\n"
)
VERSION = 1  # of the cleaning; raised when it changes
MIN_WORDS, MAX_WORDS = 3, 20
HELD_OUT_PERCENT = 8

_PATH = re.compile(r"homeassistant/components/([^/]+)/translations/de\.json")
_MARKUP = re.compile(r"[{}\[\]<>`\n\\|*_]|https?:|%")


def home_assistant(subwords: int, source: Path | None = None, cache: Path | None = None) -> ParallelText:
    """Return the pairs, whole components held out for validation and test, with a joint vocabulary of ``subwords``.

    There are 4,437 / 590 / 361 pairs of 3 to 20 words a side.

    Args:
        subwords: size of the vocabulary.
        source: the wheel as a file; None: from the cache, or else downloaded.
        cache: folder of the cache; by default ``cache_dir()``.

    Raises:
        DataError: if they are not in the cache and cannot be downloaded, or ``source`` is another file.
        ValueError: if ``subwords`` has no room for every character.
    """

    def make() -> tuple[Arrays, dict[str, str]]:
        return _make(subwords, source)

    check_given("home-assistant", WHEEL, source)
    arrays = cached(f"homeassistant-{WHEEL.sha256[:12]}-v{VERSION}-bpe{subwords}", make, cache)
    return from_arrays("Home Assistant, German to English", arrays)


def _make(subwords: int, source: Path | None) -> tuple[Arrays, dict[str, str]]:
    try:
        with TemporaryDirectory() as folder, zipfile.ZipFile(source or download(WHEEL, Path(folder))) as archive:
            pairs = split(list(read(archive)))
    except DataError as error:
        raise DataError(
            f"the Home Assistant texts are not in the cache and {error}; connect to the network once, or give "
            f"--data home-assistant=FILE, the wheel {WHEEL.name} {WHEEL.version}"
        ) from None
    model = train_subwords((text for pair in pairs["train"] for text in pair), subwords)
    return to_arrays(pairs, model), {"LICENCE.txt": LICENCE}


def read(archive: zipfile.ZipFile) -> Iterator[tuple[str, str, str]]:
    """Yield (component, German, English) for every text that both languages have."""
    names = set(archive.namelist())
    for name in sorted(names):
        match = _PATH.fullmatch(name)
        english = name.replace("de.json", "en.json")
        if match is None or english not in names:
            continue
        german = dict(_leaves(json.loads(archive.read(name))))
        for key, text in _leaves(json.loads(archive.read(english))):
            if key in german:
                yield match[1], " ".join(german[key].split()), " ".join(text.split())


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _leaves(value, f"{key}/{name}")
    elif isinstance(tree, str):
        yield key, tree


def usable(text: str) -> bool:
    """Says whether ``text`` is a sentence or phrase of 3 to 20 words without placeholders and markup."""
    return MIN_WORDS <= len(text.split()) <= MAX_WORDS and not _MARKUP.search(text) and any(c.isalpha() for c in text)


def split(texts: list[tuple[str, str, str]]) -> dict[str, Pairs]:
    """Return the usable pairs, each once, by split; a component's texts are alike, so it is held out as a whole.

    A pair of which either side stands in an earlier split as well (train, then val) is left out.
    """
    parts: dict[str, dict[tuple[str, str], None]] = {name: {} for name in SPLITS}
    for component, german, english in texts:
        if usable(german) and usable(english) and german != english:
            number = int.from_bytes(hashlib.sha256(component.encode()).digest()[:4], "big") % 100
            name = "val" if number < HELD_OUT_PERCENT else "test" if number < 2 * HELD_OUT_PERCENT else "train"
            parts[name][german, english] = None
    seen: set[str] = set()
    pairs: dict[str, Pairs] = {}
    for name in SPLITS:
        pairs[name] = [pair for pair in parts[name] if not seen.intersection(pair)]
        seen.update(text for pair in parts[name] for text in pair)
    return pairs
