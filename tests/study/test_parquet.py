"""One rule says which parquet files are of a split, whichever data set is read."""

from __future__ import annotations

import sys

import pytest

from adamomentum.study.data import cifar_parquet, iwslt, parquet, ptb
from adamomentum.study.data.base import SPLITS, DataError

pa = pytest.importorskip("pyarrow")


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def files_of(folder) -> dict[str, list[str]]:
    return {split: [str(path.relative_to(folder)) for path in parquet.files(folder, split)] for split in SPLITS}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train.parquet", "valid.parquet", "test.parquet"),) * 2,
        (("train/0000.parquet", "validation/0000.parquet", "test/0000.parquet"),) * 2,
        (("x/train-00000-of-00001.parquet", "x/dev-00000-of-00001.parquet", "x/test-00000-of-00001.parquet"),) * 2,
        # A file's own name counts before its folder's, and the usual name of a split before the others.
        (("all/train.parquet", "val.parquet", "train/test.parquet", "valid.parquet"),
         ("all/train.parquet", "valid.parquet", "train/test.parquet")),
        # Neither in part nor in another case.
        (("training.parquet", "val.parquet", "latest.parquet"), ("", "val.parquet", "")),
    ],
)  # fmt: skip
def test_which_files_are_of_a_split(tmp_path, names, expected) -> None:
    touch(tmp_path, *names)
    assert files_of(tmp_path) == {split: [name] if name else [] for split, name in zip(SPLITS, expected, strict=True)}


def test_the_name_of_the_folder_that_is_given_says_nothing(tmp_path) -> None:
    """Else the test file of a copy in a folder called train would be trained on."""
    folder = touch(tmp_path / "train", "train.parquet", "test.parquet", "valid.parquet", "notes.parquet")
    assert files_of(folder) == {"train": ["train.parquet"], "val": ["valid.parquet"], "test": ["test.parquet"]}


def write(path, **columns) -> None:
    from pyarrow import table
    from pyarrow.parquet import write_table

    write_table(table(columns), path)


def test_a_file_a_split_is_read_by_all(tmp_path) -> None:
    touch(tmp_path / "cifar", "train.parquet", "test.parquet")
    files = cifar_parquet.find(tmp_path / "cifar")
    assert {split: [path.name for path in paths] for split, paths in files.items()} == {
        "train": ["train.parquet"],
        "test": ["test.parquet"],
    }
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train", "dev", "test"):
        pair = {"de": f"Guten {name}", "en": f"good {name}"}
        write(folder / f"{name}.parquet", sentence=[f"the {name}"], translation=[pair])
    assert ptb.read_folder(folder) == {"train": ["the train"], "val": ["the dev"], "test": ["the test"]}
    assert iwslt._read(folder, "val") == [("Guten dev", "good dev")]


def test_a_missing_pyarrow_is_named_by_all(tmp_path, monkeypatch) -> None:
    folder = touch(tmp_path, "train.parquet", "val.parquet", "test.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for read in (
        lambda: cifar_parquet.read(cifar_parquet.find(folder), "cifar10"),
        lambda: ptb.read_folder(folder),
        lambda: iwslt._read(folder, "train"),
    ):
        with pytest.raises(DataError, match=r'need pyarrow: pip install "adamomentum\[study\]"'):
            read()
