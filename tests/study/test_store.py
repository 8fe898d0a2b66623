from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from adamomentum import files
from adamomentum.files import FolderError, check_output, write_atomic
from adamomentum.study.spec import TrialSpec
from adamomentum.study.store import Store, StoreError, StoreWarning, as_record
from adamomentum.study.trial import TrialResult

OK = TrialResult(status="ok", final={"val_loss": 0.25, "train_loss": None}, curve={"step": [1.0, 2.0]})
ERROR = TrialResult(status="error", error="Traceback: boom")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_goes_in_comes_out(store, make_spec) -> None:
    spec = make_spec()
    assert store.get(spec) is None
    store.put(spec, OK)
    assert Store(store.root).get(spec) == OK
    assert store.get(make_spec(replicate=1)) is None


def test_a_failure_is_kept_apart_and_tried_again(store, make_spec) -> None:
    spec = make_spec()
    store.put(spec, ERROR)
    assert store.get(spec) is None
    assert "boom" in store.failed_path(spec.trial_id).read_text()
    store.put(spec, OK)
    assert store.get(spec) == OK
    assert not store.failed_path(spec.trial_id).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"schema": 1}',
        b"\xff\xfe",
        b'"text"',
        b"[" * 200_000,
        b'{"spec": 1, "result": {}}',
        b"9" * 5000,
    ],
)
def test_an_unreadable_file_is_a_warning_and_the_trial_runs_again(store, make_spec, content) -> None:
    spec = make_spec()
    store.put(spec, OK)
    store.path(spec.trial_id).write_bytes(content)
    with pytest.warns(UserWarning, match="will be run again"):
        assert store.get(spec) is None
    store.put(spec, OK)
    assert store.get(spec) == OK


@pytest.mark.parametrize(
    "result",
    [
        TrialResult(status="ok"),
        TrialResult(status="diverged", curve={"step": []}),
        TrialResult(status="ok", final={"val_loss": 0.5}),
        ERROR,
    ],
)
def test_a_file_without_the_results_of_a_trial_is_not_usable(store, make_spec, result) -> None:
    spec = make_spec()
    store.put(spec, OK)
    path = store.path(spec.trial_id)
    record = json.loads(path.read_text())
    del record["digest"]
    path.write_text(json.dumps(record | {"result": result.model_dump(mode="json")}))
    with pytest.warns(StoreWarning, match="it has no results.*will be run again"):
        assert store.get(spec) is None


def better(record) -> None:
    record["result"]["final"]["val_loss"] = 0.24


def one_point_less(record) -> None:
    record["result"]["curve"]["step"].pop()


def no_longer_diverged(record) -> None:
    record["result"]["status"] = "ok"


def anothers(record) -> None:
    other = as_record(TrialSpec.model_validate(record["spec"] | {"replicate": 1}), OK)
    record["result"], record["digest"] = other["result"], other["digest"]


@pytest.mark.parametrize("change", [better, one_point_less, no_longer_diverged, anothers])
def test_a_result_that_was_edited_is_noticed_and_the_trial_runs_again(store, make_spec, change) -> None:
    spec = make_spec()
    store.put(spec, OK.model_copy(update={"status": "diverged"}))
    path = store.path(spec.trial_id)
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.warns(StoreWarning, match=f"{path} is not usable .its result was changed.*will be run again"):
        assert store.get(spec) is None
    store.put(spec, OK)
    assert store.get(spec) == OK


def test_the_digest_is_of_what_is_said_not_of_how_it_is_written(store, make_spec) -> None:
    """Tiny, huge and missing numbers, text beyond ASCII, and keys in another order: an editor may lay them out anew."""
    spec = make_spec()
    result = OK.model_copy(
        update={"final": {"b": 1e-300, "a": 0.1 + 0.2, "c": None}, "samples": {"text": "Größe \udcff", "n": (1, 2)}}
    )
    store.put(spec, result)
    path = store.path(spec.trial_id)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(record.items())), indent=4, sort_keys=True))
    assert store.get(spec).final == result.final


@pytest.mark.parametrize("absent", [("digest",), ("digest", "schema"), ("digest", "schema", "trial_id")])
def test_records_of_earlier_versions_have_no_digest(store, make_spec, absent) -> None:
    spec = make_spec()
    record = {key: value for key, value in as_record(spec, OK).items() if key not in absent}
    write_atomic(store.path(spec.trial_id), json.dumps(record).encode())
    assert store.get(spec) == OK


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"1e999", b"9" * 400])
def test_a_number_that_is_none_is_not_usable(store, make_spec, value) -> None:
    spec = make_spec()
    record = {key: value for key, value in as_record(spec, OK).items() if key != "digest"}
    write_atomic(store.path(spec.trial_id), json.dumps(record).encode().replace(b"0.25", value))
    with pytest.warns(StoreWarning, match="will be run again"):
        assert store.get(spec) is None


def test_a_cut_record_of_a_failure_is_a_warning(store, make_spec) -> None:
    cut, whole = make_spec(), make_spec(replicate=1)
    for spec in (cut, whole):
        store.put(spec, ERROR)
    path = store.failed_path(cut.trial_id)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(StoreWarning, match=rf"{path} is not usable \(.*\); why the trial failed is not known any more"):
        assert list(store.failures()) == [(whole, ERROR)]


def test_a_store_that_is_removed_while_trials_run_is_said_and_the_result_kept(store, make_spec) -> None:
    store.put(make_spec(), OK)
    shutil.rmtree(store.root)
    spec = make_spec(replicate=1)
    with pytest.raises(StoreError, match="removed or renamed while trials were running"):
        store.put(spec, OK)
    assert store.get(spec) == OK
    store.put(make_spec(replicate=2), OK)


def test_a_trial_that_diverged_at_once_is_kept(store, make_spec) -> None:
    spec = make_spec()
    diverged = TrialResult(status="diverged", final={"val_loss": None}, curve={"step": [], "train_loss": []})
    store.put(spec, diverged)
    assert store.get(spec) == diverged


def test_a_folder_in_place_of_a_file_says_what_to_do(store, make_spec) -> None:
    spec = make_spec()
    store.path(spec.trial_id).mkdir(parents=True)
    with pytest.raises(StoreError, match=f"{spec.trial_id}.json is a folder.*remove it"):
        store.get(spec)


def test_another_trials_file_under_this_name_is_not_believed(store, make_spec) -> None:
    spec, other = make_spec(), make_spec(replicate=1)
    store.put(other, OK)
    path = store.path(spec.trial_id)
    path.parent.mkdir(exist_ok=True)
    store.path(other.trial_id).replace(path)
    with pytest.warns(UserWarning, match="another trial"):
        assert store.get(spec) is None


def test_a_newer_store_is_not_overwritten(store, make_spec) -> None:
    spec = make_spec()
    store.put(spec, OK)
    path = store.path(spec.trial_id)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"schema": 2}))
    with pytest.raises(StoreError, match=r"schema 2.*--out"):
        store.get(spec)


def test_a_store_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file is a file; choose another --out"):
        Store(tmp_path / "file" / "store")


def test_an_output_folder_is_checked_before_anything_is_computed(tmp_path) -> None:
    check_output(tmp_path / "a" / "b", ("page.html",), ("figures",))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "x" / "page.html").mkdir(parents=True)
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "figures").touch()
    for name, message in {
        "file": "file is a file; choose another --out",
        "file/below": "file is a file; choose another --out",
        "link": "link is a bad link; choose another --out",
        "x": "page.html is a folder where a file would be written",
        "y": "figures is a file where a folder would be made",
    }.items():
        with pytest.raises(FolderError, match=message):
            check_output(tmp_path / name, ("page.html",), ("figures",))


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_get_the_users_default_permissions(tmp_path) -> None:
    (tmp_path / "plain").touch()
    write_atomic(tmp_path / "atomic", b"x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(store, make_spec) -> None:
    spec = make_spec()
    code = (
        "import sys, pathlib\n"
        "from adamomentum.study.spec import TrialSpec\n"
        "from adamomentum.study.store import Store\n"
        "from adamomentum.study.trial import TrialResult\n"
        "spec = TrialSpec.model_validate_json(sys.argv[1])\n"
        "store = Store(pathlib.Path(sys.argv[2]))\n"
        "for n in range(10**6):\n"
        "    store.put(spec, TrialResult(status='ok', final={'val_loss': 1.0}, curve={'step': [float(n)] * 2000}))\n"
    )
    path = store.path(spec.trial_id)
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", code, spec.model_dump_json(), str(store.root)])
        try:
            deadline = time.monotonic() + 30
            while not path.exists():
                assert time.monotonic() < deadline
                assert writer.poll() is None
                time.sleep(0.01)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for _ in range(30):
                    result = store.get(spec)
                    assert result is not None
                    assert len(set(result.curve["step"])) == 1
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert store.get(spec) is not None
        path.unlink()
