"""Language models as trials, from the specification to the result."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
from study.language_mini import REGULARIZED, SMALL, CheckpointAt, make_spec, tiny_text
from study.test_language_data import write as write_ptb

from adamomentum.study.data.base import DataError
from adamomentum.study.execute.group import run_in_group
from adamomentum.study.spec import Budget, CosineSchedule
from adamomentum.study.tasks.language.task import LanguageModel
from adamomentum.study.testing import check_task
from adamomentum.study.testing.tasks import goes_on
from adamomentum.study.trial import run_trial


@pytest.fixture(scope="module")
def data():
    return tiny_text()


def test_a_model_learns_what_pairs_of_words_do_not_tell() -> None:
    data = tiny_text(400)
    budget = Budget(epochs=30, batch_size=8, evaluations=5)
    result = run_trial(make_spec(data, lr=1e-2, budget=budget, schedule=CosineSchedule()), data)
    assert result.status == "ok", result.error
    pairs = LanguageModel().baselines(data)["bigram"]["test_perplexity"]
    assert result.final["test_perplexity"] < 0.7 * pairs
    assert result.final["test_perplexity"] == pytest.approx(math.exp(result.final["test_loss"]))
    assert result.curve["step"][-1] == 30 * math.ceil((400 * 9 // 8 - 1) / 10)
    assert result.curve["val_perplexity"][-1] == result.final["val_perplexity"]
    assert result.samples["prompt"].split() == [data.words[k] for k in data.tokens["test"][:12]]
    assert len(result.samples["continued"].split()) == 40
    assert "<unk>" not in result.samples["continued"]
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("optimizer", ["adamomentum", "adamw", "sgdm"])
def test_all_regularizers_at_once(data, optimizer) -> None:
    result = run_trial(make_spec(data, optimizer, params={**REGULARIZED, "layers": 3}), data)
    assert result.status == "ok", result.error
    assert set(result.final) >= {"val_loss", "val_perplexity", "test_loss", "test_perplexity", "train_loss"}


def test_tuning_never_sees_the_test_split(data) -> None:
    result = run_trial(make_spec(data, stage="tune"), data)
    assert not any("test" in key for key in result.final | result.curve)
    assert not result.samples


WINDOWS = {"model": "transformer", "layers": 1, "embedding": 16, "hidden": 32, "heads": 2, "bptt": 18}


def test_a_transformer_learns_what_pairs_of_words_do_not_tell() -> None:
    data = tiny_text(400)
    budget = Budget(epochs=20, batch_size=8, evaluations=2)
    spec = make_spec(data, "adamw", lr=1e-2, params=WINDOWS, budget=budget, schedule=CosineSchedule(floor=0.1))
    result = run_trial(spec, data)
    assert result.status == "ok", result.error
    pairs = LanguageModel().baselines(data)["bigram"]["test_perplexity"]
    assert result.final["test_perplexity"] < 0.7 * pairs
    assert result.curve["step"][-1] == 20 * (((400 * 9 - 1) // 18) // 8)
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("params", [SMALL, REGULARIZED], ids=["plain", "regularized"])
def test_bfloat16_stays_near_float32(data, params) -> None:
    budget = Budget(steps=40, batch_size=4)
    full = run_trial(make_spec(data, "adamw", lr=1e-2, params=params, budget=budget), data)
    half = run_trial(make_spec(data, "adamw", lr=1e-2, params=params, budget=budget, precision="bfloat16"), data)
    assert half.status == "ok", half.error
    assert half.final["train_loss"] != full.final["train_loss"]
    assert half.final["val_loss"] == pytest.approx(full.final["val_loss"], rel=0.02)
    assert half.curve["val_loss"][-1] < 0.99 * math.log(len(data.words))


def test_an_exploded_model_is_a_result(data) -> None:
    result = run_trial(make_spec(data, "sgdm", lr=1e30), data)
    assert result.status == "diverged"
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("params", [SMALL, REGULARIZED, WINDOWS], ids=["plain", "regularized", "transformer"])
def test_a_trial_goes_on_from_its_checkpoint_bit_for_bit(data, params) -> None:
    # In the first pass over the text, and in a later one.
    goes_on(make_spec(data, params=params, budget=Budget(steps=25, batch_size=4, evaluations=5)), data, (3, 20))


def test_the_family_keeps_its_promises(tmp_path) -> None:
    params = {**REGULARIZED, "any_size": True}
    check_task(LanguageModel, params, source=write_ptb(tmp_path / "penn"), batch_size=4)
    windows = {**WINDOWS, "bptt": 2, "data": "ptb", "any_size": True}  # a text of 11 tokens
    check_task(LanguageModel, windows, source=tmp_path / "penn", batch_size=4)


def test_the_state_between_windows_is_what_a_checkpoint_needs(data, tmp_path, monkeypatch) -> None:
    spec = make_spec(data, lr=1e-2, budget=Budget(steps=25, batch_size=4))
    checkpoints = CheckpointAt(tmp_path, 13)
    whole = run_trial(spec, data, checkpoints)
    monkeypatch.setattr("adamomentum.study.tasks.language.streams.Carried.load_state_dict", lambda self, state: None)
    assert run_trial(spec, data, checkpoints).final["val_loss"] != whole.final["val_loss"]


@pytest.mark.distributed
def test_two_processes_do_what_one_does(data) -> None:
    # Without noise the mean of two halves of the streams is the whole, and so is every update.
    spec = make_spec(
        data,
        params={**SMALL, "drop_output": 0.0},
        optimizer="sgdm",
        lr=0.5,
        budget=Budget(steps=60, batch_size=4, evaluations=3),
    )
    alone = run_trial(spec, data)
    both = run_in_group(spec.model_copy(update={"processes": 2}), partial(run_trial, data=data))
    assert both.status == "ok", both.error
    assert both.curve["step"] == alone.curve["step"]
    assert both.curve["train_loss"] == pytest.approx(alone.curve["train_loss"], rel=1e-4)
    assert both.final["test_loss"] == pytest.approx(alone.final["test_loss"], rel=1e-4)
    assert alone.curve["train_loss"][-1] < 0.9 * alone.curve["train_loss"][0]


@pytest.mark.distributed
def test_two_processes_each_go_on_with_their_own_state(data, tmp_path) -> None:
    spec = make_spec(
        data, params=REGULARIZED, lr=1e-2, budget=Budget(steps=25, batch_size=4, evaluations=5), processes=2
    )
    run = partial(run_trial, data=data, checkpoints=CheckpointAt(tmp_path, 13))
    whole, resumed = run_in_group(spec, run), run_in_group(spec, run)
    assert {path.name for path in tmp_path.glob("rank*")} == {"rank 0 from step 13", "rank 1 from step 13"}
    assert resumed.final == whole.final
    assert resumed.curve == whole.curve


@pytest.mark.slow
def test_the_wikipedia_excerpt_is_beyond_counting_words() -> None:
    from adamomentum.study.data.wikipedia import wikipedia

    try:
        text = wikipedia()
    except DataError as error:
        pytest.skip(str(error))
    assert text.fingerprint == "a037991df5d7a573"
    assert [len(text.tokens[split]) for split in ("train", "val", "test")] == [100_000, 25_420, 48_269]
    pairs = LanguageModel().baselines(text)["bigram"]["test_perplexity"]
    spec = make_spec(text, params={}, budget=Budget(epochs=5, batch_size=20), schedule=CosineSchedule())
    assert run_trial(spec, text).final["test_perplexity"] < 0.9 * pairs
