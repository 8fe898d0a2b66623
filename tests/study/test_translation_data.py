"""Translation: the corpora, their subwords, trivial translations."""

from __future__ import annotations

import hashlib
import itertools
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from study.translation_mini import SUBWORDS, tiny_pairs

from adamomentum.study.data import homeassistant, iwslt
from adamomentum.study.data.base import SPLITS, DataError
from adamomentum.study.data.iwslt import iwslt14
from adamomentum.study.data.parallel_text import BEGIN, END, PAD, ParallelText, from_arrays, to_arrays, train_subwords
from adamomentum.study.data.wheel import Wheel
from adamomentum.study.tasks.translation import nearest
from adamomentum.study.tasks.translation.nearest import nearest_neighbours
from adamomentum.study.tasks.translation.task import Translation


@pytest.fixture(scope="module")
def data() -> ParallelText:
    return tiny_pairs()


# --- subwords and cache ---


def test_a_corpus_survives_its_cache(data) -> None:
    again = from_arrays(data.name, to_arrays(data.pairs, data.model))
    assert again.fingerprint == data.fingerprint
    assert {s: list(p) for s, p in again.pairs.items()} == {s: list(p) for s, p in data.pairs.items()}


def test_the_fingerprint_is_over_texts_and_subwords(data) -> None:
    other = {**data.pairs, "test": [*data.pairs["test"][:-1], ("ein anderer Satz", "another sentence")]}
    assert ParallelText(data.name, other, data.model).fingerprint != data.fingerprint
    texts = [text for pair in data.pairs["train"] for text in pair]
    assert ParallelText(data.name, data.pairs, train_subwords(texts, 60)).fingerprint != data.fingerprint
    again = ParallelText("other name", data.pairs, train_subwords(texts, SUBWORDS))
    assert again.fingerprint == data.fingerprint


def test_subwords_decode_to_what_was_encoded(data) -> None:
    for source, target in data.encode("test"):
        assert source[-1] == target[-1] == END
        assert not {PAD, BEGIN} & {*source, *target}
    decoded = data.processor.decode([target[:-1] for _, target in data.encode("test")])
    assert decoded == [target for _, target in data.pairs["test"]]


def test_too_few_subwords_for_the_characters() -> None:
    with pytest.raises(ValueError, match=r"subwords must leave room for every character .* got 8; raise params"):
        train_subwords(["the quick brown fox jumps over the lazy dog"], 8)


# --- Home Assistant ---


def write_component(archive, name, german, english) -> None:
    for language, texts in (("de", german), ("en", english)):
        archive.writestr(f"homeassistant/components/{name}/translations/{language}.json", json.dumps(texts))


def write_wheel(path: Path) -> Path:
    """Sixty components of three usable texts, and some that must not come out."""
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(60):
            german = {f"t{j}": f"Dies ist Text {j} von {k}" for j in range(3)}
            english = {f"t{j}": f"This is text {j} of {k}" for j in range(3)}
            german |= {"deep": {"b": "Mit {platz} halter drin", "c": "Kurz", "d": "Überall der gleiche Text"}}
            english |= {"deep": {"b": "With {place} holder in it", "c": "Short", "d": "The same text everywhere"}}
            write_component(archive, f"part{k}", german, english)
        write_component(archive, "other", {"t": "Ein anderer Schlüssel als dort"}, {"u": "A different key from there"})
    return path


@pytest.fixture
def texts(tmp_path):
    with zipfile.ZipFile(write_wheel(tmp_path / "a.whl")) as archive:
        return list(homeassistant.read(archive))


def test_home_assistant_texts_are_paired_by_key(texts) -> None:
    assert ("part3", "Dies ist Text 1 von 3", "This is text 1 of 3") in texts
    assert ("part3", "Kurz", "Short") in texts
    assert not any(component == "other" for component, _, _ in texts)


def test_whole_components_are_held_out_and_no_text_is_in_two_splits(texts) -> None:
    pairs = homeassistant.split(texts)
    assert sum(len(p) for p in pairs.values()) == 60 * 3 + 1
    component = {german: name for name, german, _ in texts if german.startswith("Dies")}
    components = {split: {component[g] for g, _ in pairs[split] if g in component} for split in SPLITS}
    assert sum(len(names) for names in components.values()) == 60
    assert len(components["train"]) > 40
    assert all(components.values())
    for a, b in itertools.combinations(SPLITS, 2):
        assert not components[a] & components[b]
        assert not {t for p in pairs[a] for t in p} & {t for p in pairs[b] for t in p}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Choose a device", True),
        ("Two words", False),
        ("Go to {url} now", False),
        ("see https://example.org for more", False),
        ("a **bold** statement indeed", False),
        ("1 2 3 4", False),
        (" ".join(["word"] * 20), True),
        (" ".join(["word"] * 21), False),
    ],
)
def test_what_is_usable(text, expected) -> None:
    assert homeassistant.usable(text) is expected


def test_the_wheel_as_a_file_and_then_from_the_cache(tmp_path, monkeypatch) -> None:
    path, cache = write_wheel(tmp_path / "a.whl"), tmp_path / "cache"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=f"a.whl has SHA-256 {digest}, expected"):
        homeassistant.home_assistant(SUBWORDS, path, cache)
    monkeypatch.setattr(homeassistant, "WHEEL", Wheel("homeassistant", "2024.3.3", digest))
    corpus = homeassistant.home_assistant(SUBWORDS, path, cache)
    assert corpus.size == SUBWORDS
    assert len(corpus.pairs["train"]) > len(corpus.pairs["val"]) > 0
    assert [p.read_text() for p in cache.glob("*.LICENCE.txt")] == [homeassistant.LICENCE]
    with pytest.raises(DataError, match=r"takes the wheel homeassistant 2024\.3\.3; .* is no file"):
        homeassistant.home_assistant(SUBWORDS, tmp_path / "none.whl", cache)

    def offline(*_):
        raise DataError("could not download it")

    monkeypatch.setattr(homeassistant, "download", offline)
    assert homeassistant.home_assistant(SUBWORDS, cache=cache).fingerprint == corpus.fingerprint
    with pytest.raises(DataError, match=r"not in the cache and could not download it; connect .* or give --data"):
        homeassistant.home_assistant(SUBWORDS - 1, cache=cache)


# --- IWSLT14 ---


def write_iwslt(folder: Path, pairs) -> Path:
    folder.mkdir()
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        for k, language in enumerate(("de", "en")):
            (folder / f"{name}.{language}").write_text("\n".join(p[k] for p in pairs[split]) + "\n", encoding="utf-8")
    return folder


def write_hub(folder: Path, pairs, column: str = "translation") -> Path:
    import pyarrow
    import pyarrow.parquet

    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        (folder / name).mkdir(parents=True)
        rows = [{"de": de, "en": en} for de, en in pairs[split]]
        pyarrow.parquet.write_table(pyarrow.table({column: rows}), folder / name / "0000.parquet")
    return folder


def test_iwslt_from_text_and_from_parquet(data, tmp_path) -> None:
    with_gap = {**data.pairs, "test": [*data.pairs["test"], ("", "nothing to learn"), (None, "nor from this")]}
    a = iwslt14(write_iwslt(tmp_path / "text", data.pairs), SUBWORDS, tmp_path)
    b = iwslt14(write_hub(tmp_path / "hub", with_gap), SUBWORDS, tmp_path)
    assert a.fingerprint == b.fingerprint == data.fingerprint


def test_the_vocabulary_of_iwslt_is_learnt_once(data, tmp_path, monkeypatch) -> None:
    folder = write_iwslt(tmp_path / "text", data.pairs)
    first = iwslt14(folder, SUBWORDS, tmp_path)

    def learnt_again(*_):
        raise AssertionError("learnt again")

    monkeypatch.setattr(iwslt, "train_subwords", learnt_again)
    assert iwslt14(folder, SUBWORDS, tmp_path).fingerprint == first.fingerprint
    (folder / "train.de").write_text("\n".join(["dass das neu ist"] * 120) + "\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="learnt again"):
        iwslt14(folder, SUBWORDS, tmp_path)


def test_training_pairs_of_iwslt_are_cleaned_as_in_fairseqs_recipe(data, tmp_path) -> None:
    pairs = {split: list(data.pairs[split]) for split in SPLITS}
    long, uneven = ("wort " * 176, "word " * 176), ("eins zwei drei vier", "one two three four five six seven")
    just = ("wort " * 175, "word " * 175), ("eins zwei", "one two three")
    for split in SPLITS:
        pairs[split] += [long, uneven, *just]
    corpus = iwslt14(write_iwslt(tmp_path / "text", pairs), SUBWORDS, tmp_path)
    assert {split: len(corpus.pairs[split]) for split in SPLITS} == {"train": 122, "val": 20, "test": 16}
    assert corpus.pairs["train"][-2:] == [(de.strip(), en.strip()) for de, en in just]


def test_separators_inside_a_line_and_windows_line_ends(data, tmp_path) -> None:
    folder = write_iwslt(tmp_path / "text", data.pairs)
    german = [f"{de} \u2028oder\x85 so" for de, _ in data.pairs["val"]]
    (folder / "valid.de").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(german).encode())
    val = iwslt14(folder, SUBWORDS, tmp_path).pairs["val"]
    assert val == [(de, en) for de, (_, en) in zip(german, data.pairs["val"], strict=True)]


def test_iwslt_says_what_is_wrong(data, tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be downloaded; give --data iwslt14=FOLDER"):
        iwslt14(None, SUBWORDS)
    with pytest.raises(DataError, match="is not a folder"):
        iwslt14(tmp_path / "nowhere", SUBWORDS)
    folder = write_iwslt(tmp_path / "a", data.pairs)
    (folder / "valid.en").write_text("one line\n")
    with pytest.raises(DataError, match=r"valid\.de has 16 lines, .*valid\.en has 1"):
        iwslt14(folder, SUBWORDS)
    (folder / "valid.en").write_bytes("für\n".encode("latin-1") * 16)
    with pytest.raises(DataError, match=r"valid\.en is not UTF-8 text"):
        iwslt14(folder, SUBWORDS)
    (folder / "valid.en").unlink()
    with pytest.raises(DataError, match="has no valid split"):
        iwslt14(folder, SUBWORDS)
    with pytest.raises(DataError, match="no readable column 'translation'"):
        iwslt14(write_hub(tmp_path / "b", data.pairs, "text"), SUBWORDS)
    (tmp_path / "b" / "train" / "0000.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="no readable column 'translation'"):
        iwslt14(tmp_path / "b", SUBWORDS)
    uneven = [("ja", "well then this is what it is")] * 3
    with pytest.raises(DataError, match=r"all training pairs of .* differ too much in length"):
        iwslt14(write_iwslt(tmp_path / "c", {**data.pairs, "train": uneven}), SUBWORDS)


# --- trivial translations ---


@pytest.mark.parametrize("rows", [64, 5])
def test_nearest_neighbours_against_brute_force(data, rows, monkeypatch) -> None:
    monkeypatch.setattr(nearest, "ROWS", rows)

    def grams(text):
        text = f" {text.lower()} "
        return {text[k : k + 4] for k in range(len(text) - 3)}

    train, sources = data.pairs["train"], [source for source, _ in data.pairs["test"]]
    expected = []
    for source in sources:
        likeness = [len(grams(source) & grams(s)) / len(grams(source) | grams(s)) for s, _ in train]
        expected.append(train[likeness.index(max(likeness))][1])
    assert nearest_neighbours(train, sources) == expected


def test_baselines_are_those_of_the_test_split(data) -> None:
    scores = Translation().baselines(data)
    assert scores["copy"]["test_bleu"] < 5 < scores["nearest neighbour"]["test_bleu"]
    assert scores["copy"]["test_chrf"] < scores["nearest neighbour"]["test_chrf"]
    words = {split: np.array([w for _, target in data.encode(split) for w in target]) for split in SPLITS}
    counts = [1 + int((words["train"] == w).sum()) for w in range(data.size)]
    expected = -np.mean([np.log(counts[w] / sum(counts)) for w in words["test"]])
    assert scores["unigram"]["test_loss"] == pytest.approx(expected)
