"""Translation: losses and whole trials, on a tiny language."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from study.test_translation_data import write_iwslt
from study.translation_mini import SMALL, make_spec, tiny_pairs
from study.trials import bfloat16_stays_near, spec_of, two_processes

from adamomentum.study.data import cache
from adamomentum.study.data.base import DataError
from adamomentum.study.data.parallel_text import BEGIN, END, ParallelText
from adamomentum.study.spec import Budget
from adamomentum.study.tasks.base import Context
from adamomentum.study.tasks.translation import task as translation
from adamomentum.study.tasks.translation import transformer
from adamomentum.study.tasks.translation.task import Translation
from adamomentum.study.testing import check_task
from adamomentum.study.trial import run_trial


@pytest.fixture(scope="module")
def data() -> ParallelText:
    return tiny_pairs()


def context(data, **params) -> Context:
    return Context(
        data=data,
        params={**SMALL, "dropout": 0.0, **params},
        budget=Budget(steps=4, batch_size=100),
        device=torch.device("cpu"),
        seed=lambda role: len(role),
        build_optimizer=lambda params: torch.optim.SGD(params, lr=1e-3),
    )


@torch.no_grad()
def sentence_by_sentence(model, pairs, smoothing: float) -> float:
    """The mean over all target words, each sentence alone and without padding."""
    total = count = 0
    for source, target in pairs:
        features = model(torch.tensor([source]), torch.tensor([[BEGIN, *target[:-1]]]))
        log = torch.log_softmax(model.logits(features)[0], -1)
        right = log[torch.arange(len(target)), torch.tensor(target)]
        total -= float(((1 - smoothing) * right + smoothing * log.mean(-1)).sum())
        count += len(target)
    return total / count


# --- losses ---


def test_the_loss_of_a_split_is_that_of_its_sentences_one_by_one(data) -> None:
    torch.manual_seed(0)
    run = Translation().setup(context(data))
    for split in ("val", "test"):
        expected = sentence_by_sentence(run.parts()["model"].eval(), data.encode(split), 0.0)
        assert run.evaluate(split)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_training_loss_is_the_smoothed_mean_over_the_words_of_the_batch(data, smoothing) -> None:
    torch.manual_seed(0)
    run = Translation().setup(context(data, label_smoothing=smoothing))
    batches = run.parts()["batches"]
    state = batches.state_dict()
    rows = batches.next()
    batches.load_state_dict(state)
    assert len(rows) > 2
    expected = sentence_by_sentence(run.parts()["model"], [data.encode("train")[k] for k in rows], smoothing)
    assert run.step() == pytest.approx(expected, rel=1e-5)


def test_clipping_bounds_the_gradient(data) -> None:
    torch.manual_seed(0)
    norms = []
    for clip in (0.0, 0.01):
        run = Translation().setup(context(data, clip=clip))
        run.step()
        grads = [p.grad.flatten() for p in run.parts()["model"].parameters()]
        norms.append(float(torch.cat(grads).norm()))
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


def test_smoothing_agrees_with_torch() -> None:
    # The reference above against the loss that is trained with.
    logits, target = torch.randn(5, 7), torch.randint(7, (5,))
    log = torch.log_softmax(logits, -1)
    own = -(0.9 * log[torch.arange(5), target] + 0.1 * log.mean(-1)).mean()
    torch.testing.assert_close(own, F.cross_entropy(logits, target, label_smoothing=0.1))


# --- lengths ---


def test_a_sentence_beyond_the_positions_is_refused(data) -> None:
    pairs = {**data.pairs, "test": [("Hund " * 700, "dog")]}
    with pytest.raises(DataError, match=r"a sentence of test has \d+ subwords, the network reads 1024 at most"):
        Translation().setup(context(ParallelText("tiny", pairs, data.model)))


def test_decoding_stops_where_the_positions_end(data, monkeypatch) -> None:
    longest = max(len(side) for split in data.pairs for pair in data.encode(split) for side in pair)
    for module in (transformer, translation):
        monkeypatch.setattr(module, "MAX_LENGTH", longest)
    torch.manual_seed(0)
    run = Translation().setup(context(data))
    model = run.parts()["model"]
    with torch.no_grad():  # a network that never ends a sentence
        model.norms[1].bias.fill_(10)
        model.embedding.weight[END] = -10
    run.finish("test")
    assert len(run.samples()["translations"]) == 8


# --- trials ---


@pytest.mark.slow
def test_a_model_translates_better_than_it_copies(data) -> None:
    budget = Budget(epochs=60, batch_size=200, evaluations=3)
    result = run_trial(make_spec(data, {"features": 32, "dropout": 0.0}, lr=5e-3, budget=budget), data)
    baselines = Translation().baselines(data)
    assert result.status == "ok", result.error
    assert result.final["test_bleu"] > 60 > baselines["copy"]["test_bleu"]
    assert result.final["test_loss"] < 0.3 * baselines["unigram"]["test_loss"]
    assert [set(t) for t in result.samples["translations"]] == [{"source", "reference", "translation"}] * 8


def test_metrics_and_samples(data) -> None:
    result = run_trial(make_spec(data, budget=Budget(steps=6, batch_size=120, evaluations=2)), data)
    assert result.status == "ok", result.error
    assert {"val_loss", "test_loss", "test_bleu", "test_chrf"} <= set(result.final)
    assert "val_bleu" not in result.final
    assert "tok:13a" in result.samples["metrics"]
    assert "chrf nrefs:1" in result.samples["metrics"]
    json.dumps(result.model_dump(mode="json"), allow_nan=False)
    tuned = run_trial(make_spec(data, stage="tune", budget=Budget(steps=6, batch_size=120)), data)
    assert not any("test" in key for key in tuned.final)
    assert not tuned.samples


def test_the_family_keeps_its_promises(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path)
    folder = write_iwslt(tmp_path / "iwslt", tiny_pairs().pairs)
    check_task("translation", {**SMALL, "data": "iwslt14"}, source=folder, batch_size=100)


def test_bfloat16(data) -> None:
    bfloat16_stays_near(make_spec(data, budget=Budget(steps=20, batch_size=120)), data, 0.02)


@pytest.mark.distributed
@pytest.mark.parametrize("tokens", [120, 1])
def test_two_processes_do_what_one_does(data, tokens) -> None:
    """Also with one sentence a batch, where the second process has none."""
    alone_spec = make_spec(
        data, {"dropout": 0.0}, optimizer="sgdm", lr=0.1, budget=Budget(steps=12, batch_size=tokens, evaluations=2)
    )
    alone, both = run_trial(alone_spec, data), two_processes(alone_spec, data)
    assert both.curve["train_loss"] == pytest.approx(alone.curve["train_loss"], rel=1e-4)
    assert both.final["test_loss"] == pytest.approx(alone.final["test_loss"], rel=1e-4)


def test_the_papers_network_in_small(data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path)
    folder = write_iwslt(tmp_path / "iwslt", data.pairs)
    params = {**SMALL, "data": "iwslt14", "layers": 6, "dropout": 0.3, "drop_attention": 0.1, "drop_activation": 0.1}
    corpus = Translation().load(params, folder)
    assert corpus.fingerprint == data.fingerprint
    result = run_trial(spec_of("translation", corpus, params, budget=Budget(steps=3, batch_size=100)), corpus)
    assert result.status == "ok", result.error
