"""IWSLT14, German to English (TED talks; CC BY-NC-ND), from files of the user's own.

There is no download: the organizers' address is dead. Two layouts are read: plain text, a sentence a line, in
``train.de``, ``train.en``, ``valid.*``, ``test.*``; and the hub's parquet copy (``bbaaaa/iwslt14-de-en``, revision
``refs/convert/parquet``), with a column ``translation`` that holds ``de`` and ``en``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from adamomentum.study.data.parallel_text import SPLITS, Pairs, ParallelText, train_subwords
from adamomentum.study.data.wheel import DataError

NAMES = {"train": ("train",), "val": ("valid", "validation", "val", "dev"), "test": ("test",)}
HOW = (
    "give --data iwslt14=FOLDER with train.de, train.en, valid.de, valid.en, test.de, test.en (a sentence a line, as "
    "fairseq's prepare-iwslt14.sh leaves them in its tmp folder before BPE), or with the parquet files of the hub's "
    "data set bbaaaa/iwslt14-de-en, revision refs/convert/parquet"
)


def iwslt14(source: Path | None, subwords: int) -> ParallelText:
    """Returns the corpus with a joint vocabulary of ``subwords``, learnt from its training pairs.

    The published sizes are 160,239 / 7,283 / 6,750 pairs after fairseq's cleaning, 171,721 / 887 / 4,698 on the hub:
    results on the one are not results on the other, which is why the size stands in the report.

    Args:
        source: the folder.
        subwords: size of the vocabulary.

    Raises:
        DataError: if there is no folder, or a split is missing or does not pair up.
    """
    if source is None:
        raise DataError(f"IWSLT14 cannot be downloaded; {HOW}")
    if not source.is_dir():
        raise DataError(f"IWSLT14: {source} is not a folder; {HOW}")
    pairs = {split: _read(source, split) for split in SPLITS}
    model = train_subwords((text for pair in pairs["train"] for text in pair), subwords)
    return ParallelText("IWSLT14, German to English", pairs, model)


def _read(folder: Path, split: str) -> Pairs:
    for name in NAMES[split]:
        german, english = folder / f"{name}.de", folder / f"{name}.en"
        if german.is_file() and english.is_file():
            sides = [path.read_text(encoding="utf-8").splitlines() for path in (german, english)]
            if len(sides[0]) != len(sides[1]):
                raise DataError(f"IWSLT14: {german} has {len(sides[0])} lines, {english} has {len(sides[1])}")
            return _clean(zip(*sides, strict=True), str(german))
        found = sorted(folder.rglob("*.parquet"))
        files = [path for path in found if name in (path.parent.name, path.stem.split("-")[0])]
        if files:
            return _clean((pair for path in files for pair in _from_parquet(path)), str(files[0]))
    raise DataError(f"IWSLT14: {folder} has no {NAMES[split][0]} split; {HOW}")


def _from_parquet(path: Path) -> list[tuple[str, str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path, columns=["translation"])["translation"].to_pylist()
        return [(str(row["de"]), str(row["en"])) for row in rows]
    except (pyarrow.ArrowException, KeyError, TypeError) as error:
        raise DataError(f"IWSLT14: {path} has no readable column 'translation' with de and en ({error})") from None


def _clean(pairs: Iterable[tuple[str, str]], where: str) -> Pairs:
    """Leaves out pairs with an empty side, which have nothing to learn from."""
    kept = [(de.strip(), en.strip()) for de, en in pairs if de.strip() and en.strip()]
    if not kept:
        raise DataError(f"IWSLT14: {where} holds no sentence pairs")
    return kept
