"""Where the text of a language model comes from: a wheel, the user's files, mirrors, the cache."""

from __future__ import annotations

import bz2
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from study.wheels import build_wheel

from adamomentum.study.data import ptb as ptb_module
from adamomentum.study.data import python_source as python_source_module
from adamomentum.study.data import wikipedia as wikipedia_module
from adamomentum.study.data.base import DataError
from adamomentum.study.data.ptb import MIRRORS, ptb
from adamomentum.study.data.python_source import python_source
from adamomentum.study.data.text import TextData, encode, vocabulary
from adamomentum.study.data.wheel import Wheel
from adamomentum.study.data.wikipedia import articles, clean, tokenize, wikipedia
from adamomentum.study.tasks.language.task import LanguageModel


def test_a_vocabulary_is_the_most_frequent_words() -> None:
    words = vocabulary(["b", "b", "a", "c", "c", "d", "<eos>", "<unk>"], 5)
    assert words == ("<unk>", "<eos>", "b", "c", "a")
    assert encode(["a", "d", "<eos>", "c"], words).tolist() == [4, 0, 1, 3]


def test_a_fingerprint_sees_words_and_tokens_and_not_the_name() -> None:
    tokens = {split: np.arange(4, dtype=np.int32) for split in ("train", "val", "test")}
    data = TextData("a", tuple("wxyz"), tokens)
    assert TextData("b", tuple("wxyz"), dict(tokens)).fingerprint == data.fingerprint
    assert TextData("a", tuple("wxyv"), tokens).fingerprint != data.fingerprint
    other = {**tokens, "val": np.array([0, 1, 3, 2], dtype=np.int32)}
    assert TextData("a", tuple("wxyz"), other).fingerprint != data.fingerprint
    assert data.describe() == "a: 4 / 4 / 4 tokens (train / val / test), 4 words"
    assert data.text([0, 3]) == "w z"
    source = TextData("a", tuple(map(chr, range(256))), tokens, unit="bytes")
    assert source.describe() == "a: 4 / 4 / 4 bytes (train / val / test)"
    assert source.text("a\nä".encode()) == "a\nä"
    assert source.text([0x61, 0xFF]) == "a\ufffd"  # no text, and no error


# --- Wikipedia

MARKUP = """{{Infobox person | name = {{nowrap|A. B.}} | x = [[y]] }}
'''Anarchism''' is a [[political philosophy|philosophy]] &amp; a [[movement]]s<ref name="a">cited {{cite}}</ref> of
many<ref name="b"/> kinds<!-- hidden
text -->.
[[File:a.jpg|thumb|A [[caption]] here]]
{| class="wikitable"
| cell {{x}}
|}
== Heading ==
* item
It has a [http://example.org/x site] and <b>bold</b> text with <math>x^2</math> in 1,234 ways.
== References ==
Nothing of this counts at all, not a word.
"""


def test_of_wiki_text_the_prose_is_left() -> None:
    expected = "Anarchism is a philosophy & a movements of many kinds . It has a site and bold text with in 1,234 ways."
    assert " ".join(clean(MARKUP).split()) == expected


def test_tokens_are_words_numbers_and_stops_by_paragraph() -> None:
    text = "It's 1,234 men (or 5.6), well-known!\nToo short.\nOne two three four five six."
    expected = "it's <num> men ( or <num> ) , well known ! <eos> one two three four five six . <eos>"
    assert " ".join(tokenize(text)) == expected


def page(title: str, text: str, namespace: int = 0, redirect: bool = False) -> str:
    inner = '<redirect title="x" />' if redirect else ""
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns>{inner}"
        f'<revision><text xml:space="preserve">{text}</text></revision></page>'
    )


def dump(pages: list[str]) -> bytes:
    return ('<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">' + "".join(pages) + "</mediawiki>").encode()


def test_articles_are_pages_of_the_encyclopedia_that_are_no_redirects() -> None:
    pages = [
        page("a", "first &lt;b&gt;"),
        page("Talk:a", "talk", namespace=1),
        page("b", "#REDIRECT [[a]]"),
        page("c", "moved", redirect=True),
        page("d", "second"),
    ]
    assert articles(dump(pages)) == ["first <b>", "second"]


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel with twenty articles, each of which says its number over and over, and a stub that is too short."""
    word = lambda k: "abcdefghijklmnopqrst"[k] * 3
    pages = [page(f"t{k}", "\n".join([f"the {word(k)} is a {word(k)} of its own kind ."] * 30)) for k in range(20)]
    path = tmp_path / "gensim.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(wikipedia_module.MEMBER, bz2.compress(dump([page("stub", "the stub is short ."), *pages])))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(wikipedia_module, "WHEEL", Wheel("gensim", "4.4.0", digest, "3.11", "manylinux"))
    return path


def no_download(*args: object) -> list[bytes]:
    raise DataError("could not download gensim==4.4.0 with pip (no route)")


def test_wikipedia_is_split_by_article_and_prepared_once(wheel, tmp_path, monkeypatch) -> None:
    cache = tmp_path / "cache"
    data = wikipedia(wheel, cache)
    texts = {split: {data.words[t] for t in tokens} for split, tokens in data.tokens.items()}
    seen = {split: {w for w in words if len(w) == 3} - {"the", "its", "own"} for split, words in texts.items()}
    assert len(seen["train"]) == 16
    assert "<unk>" in texts["val"]  # words of the vocabulary are training words
    assert not seen["val"] | seen["test"]
    assert {len(tokens) for split, tokens in data.tokens.items() if split != "train"} == {2 * 30 * 11}
    assert any("Attribution-ShareAlike" in path.read_text() for path in cache.glob("*LICENCE.txt"))
    monkeypatch.setattr(wikipedia_module, "read_members", no_download)
    assert wikipedia(None, cache).fingerprint == data.fingerprint
    assert wikipedia(wheel, cache).fingerprint == data.fingerprint


def test_the_cut_of_the_training_text_is_at_its_first_tokens(wheel, tmp_path, monkeypatch) -> None:
    whole = wikipedia(wheel, tmp_path / "a")
    monkeypatch.setattr(wikipedia_module, "TRAIN_TOKENS", 500)
    cut = wikipedia(wheel, tmp_path / "b")
    read = lambda data: [data.words[t] for t in data.tokens["train"]]
    assert read(cut) == read(whole)[:500]
    assert len(cut.tokens["test"]) == len(whole.tokens["test"])


def test_wikipedia_offline_without_a_cache_says_what_helps(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(wikipedia_module, "read_members", no_download)
    with pytest.raises(DataError, match=r"no route\); connect to the network once, or give the wheel gensim 4.4.0"):
        wikipedia(None, tmp_path)


def test_another_file_in_place_of_the_wheel_is_refused_even_where_the_cache_would_do(wheel, tmp_path) -> None:
    wikipedia(wheel, tmp_path / "cache")
    other = tmp_path / "other.whl"
    other.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"other\.whl has SHA-256"):
        wikipedia(other, tmp_path / "cache")
    with pytest.raises(DataError, match="is no file"):
        LanguageModel().load({"data": "wikipedia"}, tmp_path / "nowhere.whl")


# --- Penn Treebank

TEXT = {
    "train": " the cat <unk> the N dogs \n a cat sat \n",
    "valid": " the dogs sat \n",
    "test": " a N cat \n the cat <unk> \n",
}
TOKENS = {"train": 11, "val": 4, "test": 8}
WORDS = 8


def write(folder: Path, pattern: str = "ptb.{}.txt", **changes: str) -> Path:
    folder.mkdir(exist_ok=True)
    for split, text in {**TEXT, **changes}.items():
        (folder / pattern.format(split)).write_text(text)
    return folder


def load(source: Path | None, cache: Path | None = None, **options) -> TextData:
    return ptb(source, cache, tokens=TOKENS, words=WORDS, **options)


def refuse(address: str) -> bytes:
    raise OSError(f"no route to {address[:12]}")


@pytest.mark.parametrize("pattern", ["ptb.{}.txt", "{}.txt"])
def test_the_users_text_files(tmp_path, pattern) -> None:
    data = load(write(tmp_path / "penn", pattern))
    read = lambda split: " ".join(data.words[t] for t in data.tokens[split])
    assert read("train") == "the cat <unk> the N dogs <eos> a cat sat <eos>"
    assert read("val") == "the dogs sat <eos>"
    assert read("test") == "a N cat <eos> the cat <unk> <eos>"
    assert len(data.words) == WORDS
    assert data.tokens["train"].dtype == np.int32


@pytest.mark.parametrize("layout", ["{}/0000.parquet", "penn_treebank/{}/0000.parquet", "{}-00000-of-00001.parquet"])
def test_the_hubs_parquet_files(tmp_path, layout) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "hub"
    for split, text in TEXT.items():
        path = folder / layout.format("validation" if split == "valid" else split)
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({"sentence": [line.strip() for line in text.splitlines()]}), path)
    assert load(folder).fingerprint == load(write(tmp_path / "penn")).fingerprint
    parquet.write_table(pa.table({"text": ["a"]}), folder / layout.format("train"))
    with pytest.raises(DataError, match="no readable column 'sentence'"):
        load(folder)


def test_a_text_of_another_size_is_refused(tmp_path) -> None:
    cut = write(tmp_path / "cut", train=TEXT["train"].splitlines()[0])
    with pytest.raises(DataError, match=r"has 7 / 4 / 8 tokens .* and 6 words and 2 that are not in train, e.g. 'a'"):
        load(cut)
    with pytest.raises(DataError, match=r"published text has 929,589 / 73,760 / 82,430 and 10,000"):
        ptb(write(tmp_path / "whole"))
    other = write(tmp_path / "other", valid=" the birds sat \n")
    with pytest.raises(DataError, match=r"1 that are not in train, e.g. 'birds'"):
        load(other)


def test_a_smoke_run_takes_a_text_of_another_size_and_says_so(tmp_path) -> None:
    folder = write(tmp_path / "some", valid=" the birds sat \n")
    data = LanguageModel().load({"data": "ptb", "any_size": True}, folder)
    assert data.describe().startswith("Penn Treebank, not of the published size: 11 / 4 / 8 tokens")
    assert [data.words[k] for k in data.tokens["val"]] == ["the", "<unk>", "sat", "<eos>"]
    with pytest.raises(DataError, match="has 11 / 4 / 8 tokens"):
        LanguageModel().load({"data": "ptb"}, folder)
    # The published text is the same data either way.
    assert load(write(tmp_path / "whole"), any_size=True).describe() == load(tmp_path / "whole").describe()


def test_files_that_are_missing_or_no_text_are_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; --data ptb=FOLDER takes a folder with ptb.train.txt"):
        LanguageModel().load({"data": "ptb"}, tmp_path / "nowhere")
    folder = write(tmp_path / "penn")
    with pytest.raises(DataError, match=r"ptb.train.txt is not a folder"):
        load(folder / "ptb.train.txt")
    (folder / "ptb.valid.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"ptb.valid.txt is not UTF-8"):
        load(folder)
    (folder / "ptb.valid.txt").unlink()
    (folder / "ptb.char.valid.txt").write_text("t h e")
    with pytest.raises(DataError, match=r"has no file for the valid split"):
        load(folder)


def test_the_first_mirror_that_has_it_is_used_and_asked_once(tmp_path) -> None:
    asked = []

    def fetch(address: str) -> bytes:
        asked.append(address)
        if "wojzaremba" in address:
            return b"<html>moved</html>"  # an answer, but not the text
        return TEXT[address.split(".")[-2]].encode()

    data = load(None, tmp_path / "cache", fetch=fetch)
    assert data.fingerprint == load(write(tmp_path / "penn")).fingerprint
    assert [address.split("/")[3] for address in asked] == ["wojzaremba"] * 3 + ["tomsercu"] * 3
    assert any("tomsercu" in path.read_text() for path in (tmp_path / "cache").glob("*SOURCE.txt"))
    assert load(None, tmp_path / "cache", fetch=refuse).fingerprint == data.fingerprint


def test_offline_without_a_cache_every_mirror_was_tried_and_the_way_out_is_named(tmp_path) -> None:
    asked = []

    def fetch(address: str) -> bytes:
        asked.append(address)
        return refuse(address)

    with pytest.raises(DataError) as error:
        load(None, tmp_path, fetch=fetch)
    assert len(asked) == len(MIRRORS)
    assert "penn_treebank/train/0000.parquet" in asked[-1]
    assert str(error.value).count("no route") == len(MIRRORS)
    assert "--data ptb=FOLDER" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_hub_as_a_mirror(tmp_path, monkeypatch) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(ptb_module, "MIRRORS", MIRRORS[-1:])

    def fetch(address: str) -> bytes:
        split = {"train": "train", "validation": "valid", "test": "test"}[address.split("/")[-2]]
        parquet.write_table(pa.table({"sentence": TEXT[split].splitlines()}), tmp_path / "one")
        return (tmp_path / "one").read_bytes()

    assert load(None, tmp_path / "cache", fetch=fetch).fingerprint == load(write(tmp_path / "penn")).fingerprint


# --- NetworkX's source


def source_files() -> dict[str, bytes]:
    files = {f"networkx/m{k:02}.py": f"# {k}\n".encode() for k in range(24)}
    return {**files, "networkx/tests/test_m.py": b"assert False\n", "networkx/data.txt": b"no source\n"}


def test_files_of_source_are_held_out_as_a_whole_and_tests_left_out() -> None:
    parts = {name: bytes(part) for name, part in python_source_module.split(source_files()).items()}
    assert parts["val"] == b"# 5\n# 17\n"
    assert parts["test"] == b"# 11\n# 23\n"
    lines = parts["train"].decode().splitlines()
    assert len(lines) == 20
    assert not {"assert False", "no source", "# 5", "# 11"} & set(lines)


def test_source_comes_out_of_its_wheel_once(tmp_path, monkeypatch) -> None:
    wheel = build_wheel(tmp_path / "wheels", "networkx", "3.4.2", source_files())
    monkeypatch.setattr(python_source_module, "WHEEL", wheel)
    path = next((tmp_path / "wheels").glob("*.whl"))
    data = python_source(path, tmp_path / "cache")
    assert len(data.words) == 256
    assert data.text(data.tokens["test"]) == "# 11\n# 23\n"
    monkeypatch.setattr(python_source_module, "download", no_download)
    assert python_source(None, tmp_path / "cache").fingerprint == data.fingerprint
    with pytest.raises(DataError, match=r"source of NetworkX is not in the cache and .*--data networkx=FILE"):
        python_source(None, tmp_path / "empty")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match="SHA-256"):
        python_source(path, tmp_path / "cache")
    with pytest.raises(DataError, match=r"nowhere.whl is no file"):
        LanguageModel().load({"data": "networkx"}, tmp_path / "nowhere.whl")
