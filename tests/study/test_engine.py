"""Running a study: real trials on tiny images, resumed, interrupted, reported as they are."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
from study.arrays import make_arrays
from study.mini import MINI

from adamomentum.study import studyfile
from adamomentum.study.checkpoint import Checkpoints
from adamomentum.study.engine import NO_DATA, DataInfo, Folder, run_study, write_data
from adamomentum.study.results import gather
from adamomentum.study.store import StoreError, StoreWarning
from adamomentum.study.studyfile import StudyError
from adamomentum.study.trial import TrialResult
from adamomentum.study.work import Setup, run_planned


class Inline:
    """Runs trials in this process; ``before`` may raise to stand for an interruption."""

    def __init__(self, setup, before=lambda spec, count: None, run=run_planned) -> None:
        self.setup, self.before, self.run_trial, self.count = setup, before, run, 0

    def run(self, specs):
        for spec in specs:
            self.before(spec, self.count)
            self.count += 1
            yield spec, self.run_trial(spec, self.setup)


@pytest.fixture(scope="module")
def study():
    return studyfile.parse(MINI, "mini")


def run(folder, npz, **options):
    sources = {"folder": npz}
    executor = Inline(Setup(sources), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = folder.prepare_data(sources, lambda text: None)
        folder.register()
        done = run_study(folder, known, executor, "cpu", lambda *a: None, lambda *a: None)
    return done.plan, done.results, executor.count


@pytest.fixture(scope="module")
def finished(tmp_path_factory, study):
    """The study run to its end: its folder, its data, and what the run returned; to be read, or copied."""
    root = tmp_path_factory.mktemp("finished")
    x, y = make_arrays()
    np.savez(root / "tiny.npz", x=x, y=y)
    folder = Folder(root / "a", study)
    return folder, root / "tiny.npz", *run(folder, root / "tiny.npz")


def copied(finished, place, study) -> Folder:
    shutil.copytree(finished[0].root, place)
    return Folder(place, study)


def final_trial(finished):
    return next(t.spec for t in finished[2].trials if t.role == "final")


def numbers(results):
    """Everything but the clock and the machine."""
    return {key: (r.status, r.final, r.curve) for key, r in results.items()}


def test_a_study_runs_to_its_end_and_then_has_nothing_to_do(finished) -> None:
    folder, npz, plan, results, count = finished
    planned = {t.spec.trial_id for t in plan.trials}
    assert planned == results.keys()
    assert count == len(planned)
    assert not plan.open
    again, kept, more = run(folder, npz)
    assert more == 0
    assert numbers(kept) == numbers(results)
    assert {t.spec.trial_id for t in again.trials} == planned


def test_an_interrupted_study_goes_on_and_ends_as_if_nothing_had_been(tmp_path, study, finished) -> None:
    _, npz, plan, results, _ = finished
    folder = Folder(tmp_path / "cut", study.only(("two",)))
    undisturbed = {t.spec.trial_id: results[t.spec.trial_id] for t in plan.trials if t.task == "two"}

    def stop_after_nine(spec, count) -> None:
        if count == 9:
            raise KeyboardInterrupt

    total = 0
    while True:
        try:
            _, results, count = run(folder, npz, before=stop_after_nine)
            break
        except KeyboardInterrupt:
            total += 9
    assert total + count == len(undisturbed)
    assert numbers(results) == numbers(undisturbed)


def test_a_trial_that_fails_is_recorded_stops_nobody_and_is_tried_again(tmp_path, study, finished) -> None:
    npz = finished[1]
    folder = Folder(tmp_path / "a", study.only(("two",)))

    def fail_for_sgd(spec, setup):
        if spec.optimizer.name == "sgdm" and spec.replicate == 1:
            return TrialResult(status="error", error="Traceback (most recent call last):\nValueError: broken")
        return run_planned(spec, setup)

    _, results, _ = run(folder, npz, run=fail_for_sgd)
    failed = [key for key, r in results.items() if r.status == "error"]
    assert failed
    for key in failed:
        record = json.loads(folder.store.failed_path(key).read_text())
        assert "ValueError: broken" in record["result"]["error"]
    _made, kept = folder.results()
    assert len(kept) == len(results) - len(failed)
    _, healed, count = run(folder, npz)
    assert count >= len(failed)
    assert all(r.status != "error" for r in healed.values())
    assert not any(folder.store.failed_path(key).exists() for key in failed)


def test_results_are_tidy(finished) -> None:
    folder, _, plan, results, _ = finished
    gathered = gather(folder)
    assert len(gathered.trials) == len(plan.trials)
    final = gathered.trials[(gathered.trials.role == "final") & (gathered.trials.task == "one")]
    assert set(final.optimizer) == {"adamomentum", "adamw", "sgdm", "plain"}
    assert final.test_accuracy.between(0, 1).all()
    tuning = gathered.trials[gathered.trials.role == "tune"]
    assert tuning.test_accuracy.isna().all()
    assert gathered.missing == {}
    row = final.iloc[0]
    assert row.test_loss == results[row.trial_id].final["test_loss"]
    points = gathered.curves[gathered.curves.trial_id == row.trial_id]
    assert list(points.step) == results[row.trial_id].curve["step"]


def test_results_of_a_part_say_what_is_missing(tmp_path, tiny_npz, study) -> None:
    folder = Folder(tmp_path / "a", study)

    def stop(spec, count) -> None:
        if count == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, tiny_npz, before=stop)
    gathered = gather(folder)
    assert len(gathered.trials) == 7
    assert sum(gathered.missing.values()) == len(gathered.plan.trials) - 7
    assert any(role == "final" for role, _, _ in gathered.plan.open)


def test_a_changed_study_is_on_record_and_reuses_what_did_not_change(tmp_path, study, finished) -> None:
    changed = studyfile.parse(MINI.replace("seeds = 3", "seeds = 4"), "mini")
    folder = copied(finished, tmp_path / "a", changed)
    _, _, count = run(folder, finished[1])
    assert count == 4 * 2  # one more final seed for each optimizer on each task
    assert [entry["hash"] for entry in folder.history()] == [study.hash, changed.hash]
    run(folder, finished[1])
    assert len(folder.history()) == 2


def test_a_folder_where_nothing_ran_says_so(tmp_path, study) -> None:
    with pytest.raises(StudyError, match="study run"):
        Folder(tmp_path / "a", study).results()


@pytest.mark.parametrize(
    "content",
    [
        "[1]",
        "{",
        "3",
        '{"one": 5}',
        '{"one": {"fingerprint": 1, "description": "", "baselines": {}}}',
        "[" * 200_000,
        '{"one": {"fingerprint": "a", "description": "b", "baselines": {"x": 3}}}',
    ],
)
def test_damaged_data_is_said_and_looked_at_again(tmp_path, study, content) -> None:
    folder = Folder(tmp_path, study)
    (tmp_path / "data.json").write_text(content)
    with pytest.warns(StoreWarning, match=r"data.json is damaged \(.*the next run looks at the data again"):
        assert folder.data() == {}
    with pytest.warns(StoreWarning), pytest.raises(StudyError, match="knows nothing of the data of one, two; run"):
        folder.results()


@pytest.mark.parametrize(
    "content",
    ['{"history": [3]}', '{"history": 3}', "[]", "3", "[" * 200_000, '{"history": [{"hash": 1}]}', "{}", "null"],
)
def test_a_damaged_history_is_refused_and_left_alone(tmp_path, study, content) -> None:
    folder = Folder(tmp_path, study)
    (tmp_path / "study.json").write_text(content)
    for act in (folder.history, folder.register):
        with pytest.raises(
            StudyError, match=r"which holds the earlier versions of the study, cannot be read: .*remove it"
        ):
            act()
    assert (tmp_path / "study.json").read_text() == content


def test_what_was_written_of_data_comes_back(tmp_path, study) -> None:
    known = {"one": DataInfo("f" * 16, "größer", {"guess": {"loss": 2, "accuracy": float("nan")}}), "two": NO_DATA}
    write_data(tmp_path / "data.json", known)
    again = Folder(tmp_path, study).data()
    assert again["two"] == NO_DATA
    assert str(again["one"]) == str(DataInfo("f" * 16, "größer", {"guess": {"loss": 2.0, "accuracy": float("nan")}}))


def test_a_folder_that_is_removed_while_the_study_runs_is_said(tmp_path, tiny_npz, study) -> None:
    folder = Folder(tmp_path / "a", study)

    def remove(spec, count) -> None:
        if count == 3:
            folder.root.rename(tmp_path / "b")

    with pytest.raises(StoreError, match="removed or renamed while trials were running"):
        run(folder, tiny_npz, before=remove)
    assert len(list((tmp_path / "b").glob("store/??/*.json"))) == 3
    assert len(list(folder.root.glob("store/??/*.json"))) == 1


def test_a_trial_goes_on_from_its_checkpoint_bit_for_bit(tmp_path, finished) -> None:
    spec, npz = final_trial(finished), finished[1]
    whole = run_planned(spec, Setup({"folder": npz}))

    class Stop(Exception):
        pass

    class Stopping(Checkpoints):
        def due(self) -> bool:
            return True

        def save(self, spec, run, log, group) -> None:
            super().save(spec, run, log, group)
            if log.step == 4:
                raise Stop

    from adamomentum.study.trial import run_trial
    from adamomentum.study.work import load

    data = load(spec.task.family, spec.task.params, {"folder": npz})
    with pytest.raises(Stop):
        run_trial(spec, data, Stopping(tmp_path / "checkpoints"))
    assert list((tmp_path / "checkpoints").glob("*"))
    seen = []
    original = Checkpoints.load

    def load_and_look(self, spec, run, rank=0):
        log = original(self, spec, run, rank)
        seen.append(log.step)
        return log

    Checkpoints.load = load_and_look
    try:
        resumed = run_planned(spec, Setup({"folder": npz}, tmp_path / "checkpoints"))
    finally:
        Checkpoints.load = original
    assert seen == [4]
    assert numbers({"": resumed}) == numbers({"": whole})


def test_a_broken_checkpoint_costs_time_and_nothing_else(tmp_path, finished) -> None:
    spec, npz = final_trial(finished), finished[1]
    whole = run_planned(spec, Setup({"folder": npz}))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.folder.mkdir()
    checkpoints.path(spec).write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning, match="starts over"):
        again = run_planned(spec, Setup({"folder": npz}, checkpoints.folder))
    assert numbers({"": again}) == numbers({"": whole})


@pytest.mark.distributed
def test_two_processes_train_one_trial(finished) -> None:
    spec, npz = final_trial(finished), finished[1]
    both = spec.model_copy(update={"processes": 2})
    first = run_planned(both, Setup({"folder": npz}))
    second = run_planned(both, Setup({"folder": npz}))
    assert first.status == "ok", first.error
    assert numbers({"": first}) == numbers({"": second})
    alone = run_planned(spec, Setup({"folder": npz}))
    # The same initial weights, seen before the first step by rank 0 alone; other batch statistics after it.
    assert first.curve["step"] == alone.curve["step"]
    assert first.final["train_loss"] != alone.final["train_loss"]


def test_a_process_of_a_group_that_fails_is_an_error_with_its_traceback(finished) -> None:
    spec, npz = final_trial(finished), finished[1]
    three = spec.model_copy(update={"processes": 3})  # a batch of 8 cannot be shared by three
    with pytest.raises(RuntimeError, match="batch_size must be a multiple of processes, got 8 and 3"):
        run_planned(three, Setup({"folder": npz}))
