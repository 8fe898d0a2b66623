"""Translation: data, batches, network, decoding, baselines, trials on a tiny language."""

from __future__ import annotations

import itertools
import json
import zipfile

import numpy as np
import pytest
import torch
from study.trials import bfloat16_stays_near, goes_on_bit_for_bit, spec_of, two_processes

from adamomentum.study.data import homeassistant
from adamomentum.study.data.iwslt import iwslt14
from adamomentum.study.data.parallel_text import (
    BEGIN,
    END,
    PAD,
    SPLITS,
    ParallelText,
    from_arrays,
    to_arrays,
    train_subwords,
)
from adamomentum.study.data.wheel import DataError
from adamomentum.study.spec import Budget
from adamomentum.study.tasks.beam import beam_search
from adamomentum.study.tasks.nearest import nearest_neighbours
from adamomentum.study.tasks.token_batches import TokenBatches
from adamomentum.study.tasks.transformer import Shape, Transformer
from adamomentum.study.tasks.translation import Translation
from adamomentum.study.tasks.translation_settings import Settings
from adamomentum.study.trial import run_trial

NOUNS = {"Hund": "dog", "Katze": "cat", "Maus": "mouse", "Vogel": "bird", "Fisch": "fish", "Bär": "bear"}
VERBS = {"sieht": "sees", "hört": "hears", "jagt": "hunts", "mag": "likes"}
SMALL = {"subwords": 80, "features": 16, "inner": 32, "heads": 2, "layers": 1, "dropout": 0.1, "beam": 2}


def sentence(rng) -> tuple[str, str]:
    a, b = rng.choice(list(NOUNS), 2)
    v = rng.choice(list(VERBS))
    return f"dass der {a} den {b} {v}", f"that the {NOUNS[a]} {VERBS[v]} the {NOUNS[b]}"


@pytest.fixture(scope="module")
def data() -> ParallelText:
    rng = np.random.default_rng(0)
    pairs = {split: [sentence(rng) for _ in range(n)] for split, n in (("train", 120), ("val", 16), ("test", 12))}
    model = train_subwords((text for pair in pairs["train"] for text in pair), 80)
    return ParallelText("tiny", pairs, model)


def spec(data, params=None, **fields):
    return spec_of("translation", data, {**SMALL, **(params or {})}, **fields)


# --- data ---


def test_a_corpus_survives_its_cache(data) -> None:
    again = from_arrays(data.name, to_arrays(data.pairs, data.model))
    assert again.fingerprint == data.fingerprint
    assert {s: list(p) for s, p in again.pairs.items()} == {s: list(p) for s, p in data.pairs.items()}


def test_subwords_decode_to_what_was_encoded(data) -> None:
    for source, target in data.encode("test"):
        assert source[-1] == target[-1] == END
        assert not {PAD, BEGIN} & {*source, *target}
    decoded = data.processor.decode([target[:-1] for _, target in data.encode("test")])
    assert decoded == [target for _, target in data.pairs["test"]]


def write_component(archive, name, german, english) -> None:
    for language, texts in (("de", german), ("en", english)):
        archive.writestr(f"homeassistant/components/{name}/translations/{language}.json", json.dumps(texts))


def test_home_assistant_texts_are_paired_by_key_and_held_out_by_component(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        for k in range(60):
            german = {"x": {"a": f"Dies ist der Text {k}", "b": "Mit {platz} halter drin", "c": "Kurz"}}
            english = {"x": {"a": f"This is the text {k}", "b": "With {place} holder in it", "c": "Short"}}
            write_component(archive, f"part{k}", german, english)
        write_component(archive, "other", {"t": "Der gleiche Text überall"}, {"u": "The same text everywhere"})
    with zipfile.ZipFile(tmp_path / "a.whl") as archive:
        texts = list(homeassistant.read(archive))
    assert ("part3", "Dies ist der Text 3", "This is the text 3") in texts
    assert not any(component == "other" for component, _, _ in texts)
    pairs = homeassistant.split(texts)
    assert sum(len(p) for p in pairs.values()) == 60
    assert all(pairs.values())
    for a, b in itertools.combinations(SPLITS, 2):
        assert not {t for p in pairs[a] for t in p} & {t for p in pairs[b] for t in p}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Choose a device", True),
        ("Two words", False),
        ("Go to {url} now", False),
        ("see https://example.org for more", False),
        ("1 2 3 4", False),
        (" ".join(["word"] * 21), False),
    ],
)
def test_what_is_usable(text, expected) -> None:
    assert homeassistant.usable(text) is expected


def write_iwslt(folder, pairs) -> None:
    folder.mkdir()
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        for k, language in enumerate(("de", "en")):
            (folder / f"{name}.{language}").write_text("\n".join(p[k] for p in pairs[split]) + "\n", encoding="utf-8")


def test_iwslt_from_text_and_from_parquet(data, tmp_path) -> None:
    import pyarrow
    import pyarrow.parquet

    write_iwslt(tmp_path / "text", data.pairs)
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        (tmp_path / "hub" / name).mkdir(parents=True)
        rows = [{"de": de, "en": en} for de, en in data.pairs[split]]
        pyarrow.parquet.write_table(pyarrow.table({"translation": rows}), tmp_path / "hub" / name / "0000.parquet")
    a, b = iwslt14(tmp_path / "text", 80), iwslt14(tmp_path / "hub", 80)
    assert a.fingerprint == b.fingerprint == data.fingerprint


def test_iwslt_says_what_is_wrong(data, tmp_path) -> None:
    with pytest.raises(DataError, match="give --data iwslt14=FOLDER"):
        iwslt14(None, 80)
    write_iwslt(tmp_path / "a", data.pairs)
    (tmp_path / "a" / "valid.en").write_text("one line\n")
    with pytest.raises(DataError, match=r"valid\.de has 16 lines, .*valid\.en has 1"):
        iwslt14(tmp_path / "a", 80)
    (tmp_path / "a" / "valid.en").unlink()
    with pytest.raises(DataError, match="has no valid split"):
        iwslt14(tmp_path / "a", 80)


def test_the_papers_settings_are_the_defaults_of_iwslt() -> None:
    s = Settings.of({"data": "iwslt14"})
    assert (s.features, s.inner, s.heads, s.layers, s.subwords) == (512, 1024, 4, 6, 10_000)
    assert (s.dropout, s.drop_attention, s.drop_activation, s.label_smoothing) == (0.3, 0.1, 0.1, 0.1)
    with pytest.raises(ValueError, match="unknown params of translation: width"):
        Settings.of({"width": 3.0})
    with pytest.raises(ValueError, match="must be one of home-assistant, iwslt14, got .wmt"):
        Translation().load({"data": "wmt"}, None)


# --- batches ---


def test_batches_hold_every_sentence_once_an_epoch_and_no_more_tokens_than_allowed() -> None:
    rng = np.random.default_rng(0)
    encoded = [([4] * int(rng.integers(1, 30)), [4] * int(rng.integers(1, 30))) for _ in range(300)]
    batches = TokenBatches(encoded, 120, torch.Generator().manual_seed(0))
    epochs = [[batches.next() for _ in range(batches.per_epoch)] for _ in range(3)]
    for epoch in epochs:
        assert sorted(k for batch in epoch for k in batch) == list(range(300))
        for batch in epoch:
            assert len(batch) * max(len(encoded[k][1]) for k in batch) <= 120
    assert epochs[0] != epochs[1] != epochs[2]


# --- network and decoding ---


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Transformer(11, Shape(8, 16, 2, 2), PAD).double().eval()


def test_no_word_sees_a_later_one_and_padding_changes_nothing(net) -> None:
    source = torch.randint(4, 11, (2, 5))
    target = torch.randint(4, 11, (2, 6))
    out = net(source, target)
    changed = target.clone()
    changed[:, 4:] = 4
    assert torch.equal(net(source, changed)[:, :4], out[:, :4])
    padded = torch.cat([source, torch.full((2, 3), PAD)], 1)
    torch.testing.assert_close(net(padded, target), out)


def test_decoding_step_by_step_is_decoding_at_once(net) -> None:
    source = torch.randint(4, 11, (3, 5))
    source[1, 3:] = PAD
    target = torch.randint(4, 11, (3, 7))
    cache = net.begin(source, 1)
    steps = torch.stack([net.advance(target[:, k], cache) for k in range(7)], 1)
    torch.testing.assert_close(steps, net.logits(net(source, target)))


def exhaustive(net, source, longest, penalty):
    """The best of all targets that end by ``longest``, by normalized log-probability."""
    best = (-float("inf"), None)
    words = [w for w in range(net.embedding.num_embeddings) if w not in (PAD, BEGIN, END)]
    for length in range(longest):
        for body in itertools.product(words, repeat=length):
            target = torch.tensor([[BEGIN, *body]])
            log = torch.log_softmax(net.logits(net(source, target))[0], -1)
            total = sum(log[k, w] for k, w in enumerate((*body, END)))
            best = max(best, (float(total) / (length + 1) ** penalty, list(body)), key=lambda pair: pair[0])
    return best[1]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all(penalty) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        small = Transformer(7, Shape(8, 16, 2, 1), PAD).double().eval()
        with torch.no_grad():
            small.embedding.weight.mul_(2)  # opinions
        source = torch.randint(4, 7, (1, 4))
        [found] = beam_search(small, source, BEGIN, END, 4**3 + 8, 4, penalty)
        assert found == exhaustive(small, source, 4, penalty)


def test_the_beam_of_one_is_greedy_and_rows_do_not_mix(net) -> None:
    source = torch.randint(4, 11, (4, 5))
    together = beam_search(net, source, BEGIN, END, 3, 9, 1.0)
    assert together == [beam_search(net, source[k : k + 1], BEGIN, END, 3, 9, 1.0)[0] for k in range(4)]
    for row, found in zip(source, beam_search(net, source, BEGIN, END, 1, 9, 1.0), strict=True):
        target = [BEGIN]
        for _ in range(9):
            logits = net.logits(net(row[None], torch.tensor([target])))[0, -1].clone()
            logits[[PAD, BEGIN]] = -torch.inf
            target.append(int(logits.argmax()))
            if target[-1] == END:
                break
        assert found == [w for w in target[1:] if w != END]


# --- baselines ---


def test_nearest_neighbours_against_brute_force(data) -> None:
    def grams(text):
        text = f" {text.lower()} "
        return {text[k : k + 4] for k in range(len(text) - 3)}

    train = list(dict.fromkeys(data.pairs["train"]))
    sources = [source for source, _ in data.pairs["test"]]
    for source, found in zip(sources, nearest_neighbours(train, sources), strict=True):
        score = [len(grams(source) & grams(s)) / len(grams(source) | grams(s)) for s, _ in train]
        assert score[[t for _, t in train].index(found)] == max(score)


def test_baselines_are_those_of_the_test_split(data) -> None:
    found = Translation().baselines(data)
    assert found["copy"]["test_bleu"] < 5 < found["nearest neighbour"]["test_bleu"]
    assert 0 < found["unigram"]["test_loss"] < np.log(data.size)


# --- trials ---


@pytest.mark.slow
def test_a_model_translates_better_than_it_copies(data) -> None:
    budget = Budget(epochs=60, batch_size=200, evaluations=3)
    result = run_trial(spec(data, {"features": 32, "dropout": 0.0}, lr=5e-3, budget=budget), data)
    baselines = Translation().baselines(data)
    assert result.status == "ok", result.error
    assert result.final["test_bleu"] > 60 > baselines["copy"]["test_bleu"]
    assert result.final["test_loss"] < 0.3 * baselines["unigram"]["test_loss"]
    assert [set(t) for t in result.samples["translations"]] == [{"source", "reference", "translation"}] * 8


def test_metrics_and_samples(data) -> None:
    result = run_trial(spec(data, budget=Budget(steps=6, batch_size=120, evaluations=2)), data)
    assert result.status == "ok", result.error
    assert {"val_loss", "test_loss", "test_bleu", "test_chrf"} <= set(result.final)
    assert "val_bleu" not in result.final
    json.dumps(result.model_dump(mode="json"), allow_nan=False)
    tuned = run_trial(spec(data, stage="tune", budget=Budget(steps=6, batch_size=120)), data)
    assert not any("test" in key for key in tuned.final)
    assert not tuned.samples


def test_a_trial_goes_on_from_its_checkpoint_bit_for_bit(data, tmp_path) -> None:
    goes_on_bit_for_bit(spec(data, budget=Budget(steps=12, batch_size=100, evaluations=3)), data, tmp_path, 7)


def test_bfloat16(data) -> None:
    bfloat16_stays_near(spec(data, budget=Budget(steps=20, batch_size=120)), data, 0.02)


@pytest.mark.distributed
def test_two_processes_do_what_one_does(data) -> None:
    alone_spec = spec(
        data, {"dropout": 0.0}, optimizer="sgdm", lr=0.1, budget=Budget(steps=12, batch_size=120, evaluations=2)
    )
    alone, both = run_trial(alone_spec, data), two_processes(alone_spec, data)
    assert both.curve["train_loss"] == pytest.approx(alone.curve["train_loss"], rel=1e-4)
    assert both.final["test_loss"] == pytest.approx(alone.final["test_loss"], rel=1e-4)


def test_the_papers_network_in_small(data, tmp_path) -> None:
    write_iwslt(tmp_path / "iwslt", data.pairs)
    params = {**SMALL, "data": "iwslt14", "layers": 6, "dropout": 0.3, "drop_attention": 0.1, "drop_activation": 0.1}
    corpus = Translation().load(params, tmp_path / "iwslt")
    result = run_trial(spec_of("translation", corpus, params, budget=Budget(steps=3, batch_size=100)), corpus)
    assert result.status == "ok", result.error
