"""``study export`` and ``study import``: what goes out comes in, and nothing else does."""

from __future__ import annotations

import json
import lzma
import shutil
import tracemalloc
from pathlib import Path

import pytest
from study.mini import MINI, fake_result, written
from study.report_mini import STEPS, Fake, run, study

from adamomentum.study import archive
from adamomentum.study.archive import ArchiveError, take_up, trials
from adamomentum.study.engine import Folder, write_data
from adamomentum.study.store import as_record, from_record
from adamomentum.study.studyfile import parse

# The same tasks by name, each of another length: no trial is the same.
OTHER = (
    MINI.replace('name = "mini"', 'name = "other"', 1)
    .replace("steps = 6", "steps = 7")
    .replace("steps = 3", "steps = 4")
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """An archive of a finished study of made-up results."""
    root = tmp_path_factory.mktemp("exported")
    folder = written(root / "folder")
    archive.write(folder, root / "archive", *folder.results())
    return root / "archive"


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def fresh(tmp_path: Path, text: str = MINI) -> Folder:
    return Folder(tmp_path / "new", parse(text, "mini"))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in lzma.decompress((folder / archive.TRIALS).read_bytes()).splitlines()]


def write_lines(folder: Path, texts: list[bytes]) -> None:
    (folder / archive.TRIALS).write_bytes(lzma.compress(b"".join(text + b"\n" for text in texts), preset=0))


def contents(root: Path) -> dict[str, object]:
    return {str(p.relative_to(root)): json.loads(p.read_bytes()) for p in root.rglob("*.json")}


def without_digits_of_no_use(record: object) -> object:
    """What becomes of a record of the store, or of another file of its folder, on its way through an archive."""
    if not isinstance(record, dict) or "result" not in record:
        return record
    spec, result = from_record(json.dumps(record).encode())

    def short(values):
        return [None if x is None else float(f"{x:.5e}") for x in values]

    curve = {name: short(values) for name, values in result.curve.items()}
    timing = dict(zip(result.timing, short(result.timing.values()), strict=True))
    return as_record(spec, result.model_copy(update={"curve": curve, "timing": timing}))


def test_what_goes_out_comes_in(exported, tmp_path) -> None:
    folder = fresh(tmp_path)
    count = len(lines(exported))
    assert take_up(folder, exported) == archive.Taken(new=count, present=0, planned=count, study="mini")
    before, after = contents(exported.parent / "folder"), contents(folder.root)
    shortened = {name: without_digits_of_no_use(record) for name, record in before.items()}
    assert after == shortened != before
    assert take_up(folder, exported) == archive.Taken(new=0, present=count, planned=count, study="mini")
    assert contents(folder.root) == after
    plan, results = folder.results()
    archive.write(folder, tmp_path / "again", plan, results)
    assert (tmp_path / "again" / archive.TRIALS).read_bytes() == (exported / archive.TRIALS).read_bytes()


def test_samples_go_along_where_reports_show_them(tmp_path) -> None:
    folder = written(tmp_path / "folder")
    plan, results = folder.results()
    told = {key: result.model_copy(update={"samples": {"prompt": key}}) for key, result in results.items()}
    archive.write(folder, tmp_path / "archive", plan, told)
    samples = {line["trial_id"]: line["result"]["samples"] for line in lines(tmp_path / "archive")}
    shown = [t for t in plan.trials if t.role == "final" and t.spec.replicate == 0]
    assert len(shown) == len(folder.study.tasks) * len(folder.study.optimizers)
    expected = {t.spec.trial_id: {"prompt": t.spec.trial_id} for t in shown}
    assert {key: each for key, each in samples.items() if each} == expected


def test_archives_of_earlier_versions_have_no_digest(copy, tmp_path) -> None:
    write_lines(copy, [json.dumps({"spec": r["spec"], "result": r["result"]}).encode() for r in lines(copy)])
    assert take_up(fresh(tmp_path), copy).new == len(lines(copy))


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"{nope", "line 3: Expecting property name"),
        (b"", "line 3: Expecting value"),
        (b"{}", "line 3: it has no spec and no result"),
        (b"[1]", "line 3: it is not a JSON object"),
        (b"NaN", "line 3: NaN is no number"),
        (b"[" * 100_000, "line 3: its brackets are nested too deeply"),
        (b"\xff\xfe\xfd", "line 3: "),
        ("nan", "line 3: NaN is no number"),
        ("edited", "line 3: its result was changed"),
        ("newer", "line 3: it has store schema 2"),
        ("failed", "line 3: the trial [0-9a-f]{16} has no results"),
        ("twice", "line 3: the trial [0-9a-f]{16} is in it twice"),
        ("unknown", "line 3: optimizer.momentum: Extra inputs"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_written(copy, tmp_path, damaged, message) -> None:
    records = lines(copy)
    third = records[2]
    if damaged == "nan":
        third["result"]["final"]["val_loss"] = float("nan")
    elif damaged == "edited":
        third["result"]["final"]["val_loss"] += 1.0
    elif damaged == "newer":
        third["schema"] = 2
    elif damaged == "failed":
        third["result"] = fake_result(0.0, "error").model_dump(mode="json")
        del third["digest"]
    elif damaged == "twice":
        records[2] = records[0]
    elif damaged == "unknown":
        third["spec"]["optimizer"]["momentum"] = 0.9
    texts = [json.dumps(record).encode() for record in records]
    if isinstance(damaged, bytes):
        texts[2] = damaged
    write_lines(copy, texts)
    folder = fresh(tmp_path)
    with pytest.raises(ArchiveError, match=f"trials.jsonl.xz cannot be taken up: {message}"):
        take_up(folder, copy)
    assert not folder.root.exists()


@pytest.mark.parametrize("name", [archive.DATA, archive.STUDY, archive.TRIALS])
@pytest.mark.parametrize("content", [None, "{", "[1]", '{"history": [3]}'])
def test_an_archive_that_is_not_whole_is_refused_before_anything_is_written(copy, tmp_path, name, content) -> None:
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    folder = fresh(tmp_path)
    with pytest.raises(ArchiveError, match=name):
        take_up(folder, copy)
    assert not folder.root.exists()


def test_a_cut_off_archive(copy, tmp_path) -> None:
    path = copy / archive.TRIALS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArchiveError, match="damaged or cut off"):
        take_up(fresh(tmp_path), copy)
    assert not (tmp_path / "new").exists()


def test_a_small_file_that_unpacks_to_a_huge_one_takes_no_memory(copy) -> None:
    with lzma.open(copy / archive.TRIALS, "wb", preset=0) as file:
        for _ in range(6):
            file.write(b"[" * 2**24)
    assert (copy / archive.TRIALS).stat().st_size < 2**20
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="line 1 is longer than 16,777,216 bytes"):
            list(trials(copy / archive.TRIALS))
        assert tracemalloc.get_traced_memory()[1] < 3.5 * 2**24  # of the 6 * 2**24 that there are
    finally:
        tracemalloc.stop()


def test_another_studys_archive_is_not_adopted(exported, tmp_path) -> None:
    folder = fresh(tmp_path, OTHER)
    with pytest.raises(ArchiveError, match=r"holds \d+ trials of the study mini, none of which other plans"):
        take_up(folder, exported)
    assert not folder.root.exists()


def test_what_two_studies_share_is_taken_up_without_the_others_history(exported, tmp_path) -> None:
    """A study made from another one, with its tasks under their old names and one optimizer more."""
    text = MINI.replace('name = "mini"', 'name = "mine"', 1).replace("sgdm = {}", "sgdm = {}\nradam = {}")
    folder = fresh(tmp_path, text)
    taken = take_up(folder, exported)
    tuning = sum(r["spec"]["stage"] == "tune" for r in lines(exported))
    assert taken.study == "mini"
    assert taken.new == len(lines(exported))
    assert 0 < taken.planned < tuning  # the fourth optimizer's trials are open, and all that comes after them
    assert [entry["hash"] for entry in folder.history()] == [folder.study.hash]
    assert set(folder.data()) == {"one", "two"}
    _, results = folder.results()
    assert len(results) == taken.planned


def test_an_archive_of_the_same_study_on_other_data_says_that_nothing_of_it_is_planned(exported, tmp_path) -> None:
    folder = fresh(tmp_path)
    other = {
        name: info.__class__("1" * 16, "other data", {})
        for name, info in archive.read_data(exported / "data.json").items()
    }
    write_data(folder.root / "data.json", other)
    assert take_up(folder, exported).planned == 0
    assert folder.data() == other


def test_a_damaged_file_of_the_folder_is_replaced(exported, tmp_path) -> None:
    folder = fresh(tmp_path)
    record = lines(exported)[0]
    path = folder.store.path(record["trial_id"])
    path.parent.mkdir(parents=True)
    path.write_text("{")
    take_up(folder, exported)
    assert json.loads(path.read_text())["result"] == record["result"]


def test_an_older_folder_without_a_history_can_be_exported(tmp_path) -> None:
    folder = written(tmp_path / "folder", upto=3)
    (folder.root / "study.json").unlink()
    assert archive.write(folder, tmp_path / "archive", *folder.results()) == 3
    assert take_up(fresh(tmp_path), tmp_path / "archive").planned == 3


def test_an_export_is_the_same_whatever_the_order(tmp_path) -> None:
    folder = written(tmp_path / "folder", upto=4)
    plan, results = folder.results()
    for k, order in enumerate((results, dict(reversed(results.items())))):
        archive.write(folder, tmp_path / str(k), plan, order)
    first, second = ((tmp_path / k / archive.TRIALS).read_bytes() for k in "01")
    assert first == second
    one = next(t.spec for t in plan.trials if t.spec.trial_id in results)
    assert without_digits_of_no_use(as_record(one, results[one.trial_id])) in lines(tmp_path / "0")


def test_curves_go_along_where_a_report_makes_something_of_them(tmp_path) -> None:
    folder = run(tmp_path / "study", study("words"), Fake())
    plan, results = folder.results()
    archive.write(folder, tmp_path / "out", plan, results)
    kept = {spec.trial_id: result for spec, result in archive.trials(tmp_path / "out" / archive.TRIALS)}
    assert kept.keys() == results.keys()
    whole = {t.spec.trial_id for t in plan.trials if t.role == "final"}
    chosen = {
        t.spec.trial_id for t in plan.trials if t.role == "tune" and t.is_at(plan.choices["words", t.optimizer].setting)
    }
    assert len(chosen) == len(study().optimizers)
    for key, result in kept.items():
        steps = STEPS if key in whole | chosen else STEPS[-1:]
        assert result.curve["step"] == steps
        assert result.curve["val_loss"][-1] == pytest.approx(results[key].curve["val_loss"][-1], rel=1e-5)
