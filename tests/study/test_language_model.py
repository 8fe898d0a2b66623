"""The parts of the language model: layers, streams, parameters, n-grams, evaluation."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from study.language_mini import REGULARIZED, SMALL, make_context, tiny_text

from adamomentum.study.data.base import SPLITS
from adamomentum.study.data.text import TextData
from adamomentum.study.tasks.language.awd_lstm import AwdLstm, DropLstm, locked_dropout
from adamomentum.study.tasks.language.ngrams import bigram_loss, unigram_loss
from adamomentum.study.tasks.language.settings import AWD_LSTM, LanguageSettings
from adamomentum.study.tasks.language.streams import Carried, Streams
from adamomentum.study.tasks.language.task import LanguageModel
from adamomentum.study.tasks.language.transformer import Block, CausalTransformer


def awd_lstm(words: int, layers: int) -> AwdLstm:
    with torch.device("meta"):
        return AwdLstm(words, AWD_LSTM["embedding"], AWD_LSTM["hidden"], layers, 0.1, 0.4, 0.25, 0.4, 0.5)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_full_size_has_the_published_number_of_weights() -> None:
    assert count(awd_lstm(10_000, 3)) == 24_221_600  # Penn Treebank, 24 M
    assert count(awd_lstm(33_278, 3)) == 33_556_078  # WikiText-2, 33 M
    assert count(awd_lstm(10_000, 1)) == 10_000 * 401 + 4 * 400 * (400 + 400 + 2)


def test_without_dropout_a_layer_is_an_lstm() -> None:
    torch.manual_seed(0)
    layer, reference = DropLstm(5, 7, 0.5).eval(), torch.nn.LSTM(5, 7)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(reference, f"{name}_l0").copy_(getattr(layer, name))
    x, h, c = torch.randn(6, 3, 5), torch.randn(3, 7), torch.randn(3, 7)
    y, (h1, c1) = layer(x, (h, c))
    expected, (h2, c2) = reference(x, (h[None], c[None]))
    torch.testing.assert_close((y, h1, c1), (expected, h2[0], c2[0]))


def test_weight_drop_drops_hidden_to_hidden_weights_and_nothing_else() -> None:
    torch.manual_seed(0)
    layer = DropLstm(5, 20, 0.5).train()
    x, zero = torch.randn(6, 3, 5), torch.zeros(3, 20)
    (one, _), (other, _) = layer(x, (zero, zero)), layer(x, (zero, zero))
    assert torch.equal(one[0], other[0])  # nothing comes through these weights at the first token
    assert not torch.allclose(one[1:], other[1:])
    one.sum().backward()
    # A weight that is dropped has no gradient, at any of the time steps.
    assert (layer.weight_hh.grad == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert (layer.weight_ih.grad != 0).all()


def test_locked_dropout_is_the_same_at_every_time_step_and_not_in_every_stream() -> None:
    torch.manual_seed(0)
    out = locked_dropout(torch.ones(5, 4, 1000), 0.4, True)
    assert (out == out[0]).all()
    assert not torch.equal(out[0, 0], out[0, 1])
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert (out == 0).float().mean().item() == pytest.approx(0.4, abs=0.03)
    assert torch.equal(locked_dropout(out, 0.4, False), out)


def test_embedding_dropout_drops_whole_words() -> None:
    torch.manual_seed(0)
    model = AwdLstm(50, 8, 8, 1, 0.5, 0.0, 0.0, 0.0, 0.0).train()
    seen = []
    model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    tokens = torch.arange(50).repeat(2, 1).t()
    model(tokens, model.initial(2))
    kept = seen[0] / (model.embedding / 0.5)[tokens]
    assert ((kept.isclose(torch.ones(()))) | (kept == 0)).all()
    per_word = (kept != 0).float().mean((1, 2))
    assert set(per_word.tolist()) == {0.0, 1.0}


def test_embedding_and_output_are_one_matrix() -> None:
    torch.manual_seed(0)
    model = AwdLstm(9, 4, 6, 2, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert [tuple(p.shape) for p in model.parameters() if 9 in p.shape] == [(9, 4), (9,)]
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    before, *_ = model(tokens, model.initial(1))
    before[..., 5].sum().backward()
    # Of use as an output for word 5, as an input for word 0.
    used = model.embedding.grad.abs().sum(1).nonzero().flatten().tolist()
    assert used == [0, 5]


def test_windows_follow_one_another_and_predict_the_next_token() -> None:
    tokens = torch.arange(103)
    streams = Streams(tokens, 4, 10, False, torch.Generator().manual_seed(1))
    assert streams.per_epoch == 3  # 24 predictions in each of 4 streams
    windows = [streams.next() for _ in range(4)]
    assert [w[2] for w in windows] == [True, False, False, True]
    assert [len(w[0]) for w in windows] == [10, 10, 4, 10]
    x, y = torch.cat([w[0] for w in windows[:3]]), torch.cat([w[1] for w in windows[:3]])
    assert torch.equal(y, (x + 1) % 103)
    assert torch.equal(x[1:], y[:-1])
    assert len(set(y.flatten().tolist())) == 96
    assert torch.equal(windows[3][0], windows[0][0])
    other = Streams(tokens, 4, 10, False, torch.Generator().manual_seed(2))
    assert not torch.equal(other.next()[0], windows[0][0])


def test_random_lengths_are_those_of_awd_lstm() -> None:
    def lengths(streams: Streams, number: int) -> np.ndarray:
        return np.array([len(streams.next()[0]) for _ in range(number)])

    def make() -> Streams:
        return Streams(torch.zeros(2_000_000).long(), 2, 70, True, torch.Generator().manual_seed(0))

    streams = make()
    windows = lengths(streams, 4000)
    long = windows[windows > 52]
    assert len(long) / len(windows) == pytest.approx(0.95, abs=0.01)
    assert long.mean() == pytest.approx(69.5, abs=0.5)  # int() of a normal around 70
    assert long.std() == pytest.approx(5, abs=0.3)
    assert windows[windows <= 52].mean() == pytest.approx(34.5, abs=1.5)
    assert streams.per_epoch == pytest.approx(999_999 / windows.mean(), rel=0.02)
    # As they come from a generator that is in the checkpoint, they go on from it.
    again = make()
    again.load_state_dict(streams.state_dict())
    assert lengths(again, 100).tolist() == lengths(streams, 100).tolist()


def test_streams_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at most half the 30 training tokens, got 16"):
        Streams(torch.arange(30), 16, 5, False, torch.Generator())


def test_the_rate_is_scaled_with_the_length_of_a_window() -> None:
    run = LanguageModel().setup(make_context(tiny_text(), REGULARIZED, lr=0.5))
    [group] = run._update.optimizer.param_groups
    for _ in range(5):
        group["lr"] = 0.5
        before = run._streams._position
        run.step()
        assert group["lr"] == pytest.approx(0.5 * (run._streams._position - before) / 10)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (2.0, 0.0), (0.0, 1.0), (2.0, 1.0)])
def test_activations_and_their_change_are_penalized(alpha, beta, monkeypatch) -> None:
    """AR on what dropout leaves of the last layer, TAR on the whole of it (arXiv 1708.02182), by hand."""
    data = tiny_text()
    params = {**SMALL, "drop_output": 0.3, "alpha": alpha, "beta": beta}
    run = LanguageModel().setup(make_context(data, params, lr=0.0))
    with torch.no_grad():
        run._model.embedding.mul_(10)  # so that activations are large
    trained = []
    monkeypatch.setattr(run, "_update", lambda loss: trained.append(loss.item()))
    before, noise = run._streams.state_dict(), torch.get_rng_state()
    plain = run.step()
    run._streams.load_state_dict(before)
    torch.set_rng_state(noise)
    inputs, targets, _ = run._streams.next()
    logits, _, dropped, raw = run._model(inputs, run._model.initial(4))
    assert plain == pytest.approx(F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item(), rel=1e-6)
    penalty = alpha * (dropped**2).mean() + beta * ((raw[1:] - raw[:-1]) ** 2).mean()
    assert trained == [pytest.approx(plain + penalty.item(), rel=1e-6)]
    assert (penalty.item() > 0.001) == bool(alpha or beta)
    assert not torch.equal(dropped, raw)


def test_clipping_bounds_the_gradient() -> None:
    norms = []
    for clip in (1e6, 0.01):
        run = LanguageModel().setup(make_context(tiny_text(), {**SMALL, "clip": clip}))
        run.step()
        norms.append(float(torch.cat([p.grad.flatten() for p in run._model.parameters()]).norm()))
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


def test_memory_goes_from_window_to_window() -> None:
    data = tiny_text()
    # One window of twenty tokens or two of ten with a rate of 0: the same losses, if nothing is forgotten in between.
    whole = LanguageModel().setup(make_context(data, {**SMALL, "bptt": 20, "drop_output": 0.0}, lr=0.0))
    halves = LanguageModel().setup(make_context(data, {**SMALL, "bptt": 10, "drop_output": 0.0}, lr=0.0))
    for run in (whole, halves):
        with torch.no_grad():
            run._model.embedding.mul_(10)  # so that what came before matters
    assert (halves.step() + halves.step()) / 2 == pytest.approx(whole.step(), rel=1e-6)
    halves._carried = Carried(halves._model.initial(4))
    assert (halves.step() + halves.step()) / 2 != pytest.approx(whole.step(), rel=1e-4)


def brute_force(run, tokens: torch.Tensor, streams: int) -> float:
    """Nats a token, one token at a time, the parts of ``evaluate`` one after the other."""
    length = math.ceil((len(tokens) - 1) / streams)
    losses = []
    for start in range(0, len(tokens) - 1, length):
        hidden = run._model.initial(1)
        for position in range(start, min(start + length, len(tokens) - 1)):
            logits, hidden, _, _ = run._model(tokens[position].view(1, 1), hidden)
            losses.append(F.cross_entropy(logits[0], tokens[position + 1].view(1)).item())
    assert len(losses) == len(tokens) - 1
    return float(np.mean(losses))


@pytest.mark.parametrize("streams", [1, 4, 7])
def test_every_token_is_scored_once(streams, monkeypatch) -> None:
    monkeypatch.setattr("adamomentum.study.tasks.language.task.EVAL_WINDOW", 9)
    data = tiny_text()
    run = LanguageModel().setup(make_context(data, {**SMALL, "eval_streams": streams, "layers": 2}))
    with torch.no_grad():
        run._model.embedding.normal_()  # far from uniform
        run._model.eval()
        expected = brute_force(run, torch.from_numpy(data.tokens["test"]).long(), streams)
    metrics = run.evaluate("test")
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)


def test_the_uniform_model_has_as_many_choices_as_words() -> None:
    data = tiny_text()
    run = LanguageModel().setup(make_context(data, SMALL))
    assert run.evaluate("val")["perplexity"] != pytest.approx(len(data.words), rel=1e-5)
    with torch.no_grad():
        run._model.embedding.zero_()
    assert run.evaluate("val")["perplexity"] == pytest.approx(len(data.words), rel=1e-6)


# --- the Transformer ---


def test_a_token_is_told_from_those_before_it_alone() -> None:
    torch.manual_seed(0)
    model = CausalTransformer(words=11, width=8, inner=16, heads=2, layers=2, context=10).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()  # far from uniform attention
        one = torch.randint(11, (3, 10))
        other = one.clone()
        other[:, 6] = (other[:, 6] + 1) % 11
        a, b = model(one), model(other)
        torch.testing.assert_close(a[:, :6], b[:, :6])
        assert (a[:, 6:] - b[:, 6:]).abs().amax((0, 2)).min() > 1e-3  # each later place looks back to it
        torch.testing.assert_close(model(one[:, :4]), a[:, :4])


def test_attention_is_what_it_says() -> None:
    """One block by hand, head by head."""
    torch.manual_seed(0)
    block, x = Block(width=6, heads=2, inner=8).eval(), torch.randn(1, 4, 6)
    with torch.no_grad():
        q, k, v = block.qkv(block.norm_attention(x))[0].split(6, dim=1)
        heads = []
        for h in range(2):
            mine = slice(3 * h, 3 * h + 3)
            scores = (q[:, mine] @ k[:, mine].t() / math.sqrt(3)).masked_fill(
                torch.ones(4, 4).triu(1).bool(), -math.inf
            )
            heads.append(scores.softmax(1) @ v[:, mine])
        y = x[0] + block.mixed(torch.cat(heads, dim=1))
        expected = y + block.down(F.gelu(block.up(block.norm_feed(y))))
        torch.testing.assert_close(block(x)[0], expected)


def test_the_transformer_of_the_study_has_its_size_and_one_matrix_for_both_ends() -> None:
    s = LanguageSettings.of({"data": "networkx", "model": "transformer"})
    assert (s.layers, s.embedding, s.heads, s.bptt, s.clip) == (4, 96, 4, 128, 1.0)
    model = CausalTransformer(256, s.embedding, s.hidden, s.heads, s.layers, s.bptt)
    block = 4 * 96 * 96 + 2 * 96 * 384 + (3 + 1 + 1) * 96 + 384 + 4 * 96
    assert count(model) == 256 * 96 + 128 * 96 + 4 * block + 2 * 96
    assert [name for name, p in model.named_parameters() if 256 in p.shape] == ["embedding"]


WINDOWS = {"model": "transformer", "layers": 1, "embedding": 8, "hidden": 16, "heads": 2, "bptt": 10, "eval_streams": 3}


def window_run(data=None, params=WINDOWS, batch_size=4):
    return LanguageModel().setup(make_context(data or tiny_text(), params, batch_size=batch_size))


def test_weights_decay_where_they_are_matrices() -> None:
    run = window_run()
    matrices, vectors = run._update.optimizer.param_groups
    assert {p.ndim for p in matrices["params"]} == {2} and {p.ndim for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(run._model.parameters()))
    assert vectors["weight_decay"] == 0
    assert any(p is run._model.embedding for p in matrices["params"])


def test_windows_cover_the_text_once_an_epoch_in_an_order_of_the_seeds() -> None:
    run, seen = window_run(batch_size=2), []
    run._model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    tokens = run._tokens["train"]
    for _ in range(run._batches.per_epoch):
        run.step()
    starts = {tuple(row.tolist()) for batch in seen for row in batch}
    every = {tuple(row.tolist()) for row in tokens[: len(tokens) // 10 * 10].view(-1, 10)}
    assert starts <= every
    assert sum(len(batch) for batch in seen) == run._batches.per_epoch * 2
    flat = torch.cat(seen).flatten()
    assert not torch.equal(flat, tokens[: len(flat)])


@pytest.mark.parametrize("limit", [0, 2, 31, 32])
def test_every_token_is_scored_once_within_its_window(limit) -> None:
    run = window_run(params={**WINDOWS, "eval_limit": limit})
    with torch.no_grad():
        for p in run._model.parameters():
            p.normal_()
    run._model.eval()
    tokens = run._tokens["test"][: limit or None]
    losses = []
    with torch.no_grad():
        for k in range(1, len(tokens)):
            window = tokens[(k - 1) // 10 * 10 : k]
            losses.append(F.cross_entropy(run._model(window[None])[0, -1:], tokens[k : k + 1]).item())
    assert run.evaluate("test")["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="bptt must be less than the 720 training tokens, got 720"):
        window_run(params={**WINDOWS, "bptt": 720})


def test_bytes_are_continued_as_text() -> None:
    tokens = {split: np.frombuffer(b"def f(x):\n    return x\n" * 40, np.uint8).astype(np.int32) for split in SPLITS}
    run = window_run(TextData("source", tuple(map(chr, range(256))), tokens, unit="bytes"))
    samples = run.samples()
    assert samples["prompt"] == ("def f(x):\n    return x\n" * 3)[:60]
    assert len(samples["continued"].encode("utf-8", "replace")) >= 200  # a byte that is no text becomes a mark


def slow_bigram(train: list[int], test: list[int], words: int) -> float:
    """Witten and Bell's model word by word, its sum over all words checked to be 1."""
    losses = []
    for before, word in pairwise(test):
        after = [b for a, b in pairwise(train) if a == before]
        kinds, counts = len(set(after)), Counter(after)
        single = [(train.count(w) + 1) / (len(train) + words) for w in range(words)]
        mixed = [(counts[w] + kinds * single[w]) / (len(after) + kinds) if after else single[w] for w in range(words)]
        assert sum(mixed) == pytest.approx(1)
        losses.append(-math.log(mixed[word]))
    return sum(losses) / len(losses)


def test_the_baselines_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 9, 60).astype(np.int32), rng.integers(0, 12, 50).astype(np.int32)  # 9 to 11 are new
    assert bigram_loss(train, test, 12) == pytest.approx(slow_bigram(train.tolist(), test.tolist(), 12), rel=1e-12)
    single = [-math.log(((train == w).sum() + 1) / (60 + 12)) for w in test[1:]]
    assert unigram_loss(train, test, 12) == pytest.approx(np.mean(single), rel=1e-12)
    data = tiny_text()
    scores = LanguageModel().baselines(data)
    assert scores["bigram"]["test_loss"] < scores["unigram"]["test_loss"]
    assert scores["bigram"]["test_perplexity"] == pytest.approx(math.exp(scores["bigram"]["test_loss"]))


def test_a_smoke_run_evaluates_the_first_tokens_alone() -> None:
    data = tiny_text()
    few, all_of_it = (LanguageModel().setup(make_context(data, {**SMALL, "eval_limit": n})) for n in (20, 0))
    tokens = torch.from_numpy(data.tokens["test"]).long()
    few._model.eval()
    with torch.no_grad():
        assert few.evaluate("test")["loss"] == pytest.approx(brute_force(few, tokens[:20], 1), rel=1e-5)
    assert all_of_it.evaluate("test")["loss"] == pytest.approx(brute_force(all_of_it, tokens, 1), rel=1e-5)


def test_settings_of_a_specification() -> None:
    # A specification holds every number as a float.
    assert LanguageSettings.of({"layers": 2.0, "hidden": 64.0}) == LanguageSettings(layers=2, hidden=64)
    assert isinstance(LanguageSettings.of({"bptt": 20.0}).bptt, int)
    assert LanguageSettings.of({"data": "ptb"}) == LanguageSettings(data="ptb", **AWD_LSTM)
    assert LanguageSettings.of({"data": "ptb", "layers": 3.0}).hidden == 1150


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"data": "brown"}, "params.data: Input should be 'wikipedia', 'ptb' or 'networkx', got 'brown'"),
        ({"width": 3.0}, "params.width: there is no such parameter; there are: data, model, layers"),
        ({"layers": 0.0}, "params.layers: Input should be greater than or equal to 1, got 0.0"),
        ({"hidden": 2.5}, "params.hidden: Input should be a valid integer, got 2.5"),
        ({"hidden": True}, "params.hidden: Input should be a valid integer, got True"),
        ({"bptt": "long"}, "params.bptt: Input should be a valid integer, got 'long'"),
        ({"drop_input": 1.0}, "params.drop_input: Input should be less than 1, got 1.0"),
        ({"weight_drop": -0.1}, "params.weight_drop: Input should be greater than or equal to 0, got -0.1"),
        ({"clip": 0.0}, "params.clip: Input should be greater than 0, got 0.0"),
        ({"alpha": -1.0}, "params.alpha: Input should be greater than or equal to 0, got -1.0"),
        ({"variable_bptt": 1.0}, "params.variable_bptt: Input should be a valid boolean, got 1.0"),
        ({"model": "transformer", "heads": 5.0}, "params: .*heads must divide embedding, got 5 and 96"),
        ({"model": "transformer", "alpha": 2.0}, "params: .*alpha is for awd-lstm; leave it out with model"),
        ({"model": "transformer", "drop_output": 0.1}, "params: .*drop_output is for awd-lstm"),
        ({"model": "gru"}, "params.model: Input should be 'awd-lstm' or 'transformer', got 'gru'"),
        ({"eval_limit": 1.0}, "params.eval_limit: must be 0 or at least 2, got 1"),
        ({"layers": 0.0, "clip": 0.0}, "params.layers: .*, got 0.0; params.clip: .*, got 0.0"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(params, message) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageModel().load(params, None)
