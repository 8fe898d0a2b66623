"""Translation: parameters, batches, network, decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adamomentum.study.data.parallel_text import BEGIN, END, PAD
from adamomentum.study.tasks.translation.beam import beam_search
from adamomentum.study.tasks.translation.settings import TranslationSettings
from adamomentum.study.tasks.translation.task import Translation
from adamomentum.study.tasks.translation.token_batches import TokenBatches, in_order
from adamomentum.study.tasks.translation.transformer import Shape, Transformer

# --- parameters ---


def test_the_papers_settings_are_the_defaults_of_iwslt() -> None:
    s = TranslationSettings.of({"data": "iwslt14"})
    assert (s.features, s.inner, s.heads, s.layers, s.subwords) == (512, 1024, 4, 6, 10_000)
    assert (s.dropout, s.drop_attention, s.drop_activation, s.label_smoothing) == (0.3, 0.1, 0.1, 0.1)
    assert (s.beam, s.penalty) == (5, 1.0)
    assert TranslationSettings.of({"data": "iwslt14", "layers": 2.0}) == s.model_copy(update={"layers": 2})
    assert TranslationSettings.of({}) == TranslationSettings() != s


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"width": 3.0}, "params.width: there is no such parameter; there are: data, subwords"),
        ({"data": "wmt"}, "params.data: Input should be 'home-assistant' or 'iwslt14', got 'wmt'"),
        ({"layers": 1.5}, "params.layers: Input should be a valid integer, got 1.5"),
        ({"beam": 0.0}, "params.beam: Input should be greater than or equal to 1, got 0.0"),
        ({"heads": True}, "params.heads: Input should be a valid integer, got True"),
        ({"inner": "64"}, "params.inner: Input should be a valid integer, got '64'"),
        ({"dropout": 1.0}, "params.dropout: Input should be less than 1, got 1.0"),
        ({"drop_attention": -0.1}, "params.drop_attention: Input should be greater than or equal to 0, got -0.1"),
        ({"label_smoothing": None}, "params.label_smoothing: Input should be a valid number, got None"),
        ({"penalty": -1.0}, "params.penalty: Input should be greater than or equal to 0, got -1.0"),
        ({"features": 90.0}, "params.heads: must be a divisor of features, which is 90, got 4"),
        ({"features": 9.0, "heads": 3.0}, "params.features: Input should be a multiple of 2, got 9.0"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_loaded(params, message) -> None:
    with pytest.raises(ValueError, match=message):
        Translation().load(params, None)


# --- batches ---


def encoded(count=300):
    rng = np.random.default_rng(0)
    return [([4] * int(rng.integers(1, 30)), [k % 9 + 4] * int(rng.integers(1, 30))) for k in range(count)]


def test_batches_hold_every_sentence_once_an_epoch_and_no_more_tokens_than_allowed() -> None:
    pairs = encoded()
    batches = TokenBatches(pairs, 120, torch.Generator().manual_seed(0))
    epochs = [[batches.next() for _ in range(batches.per_epoch)] for _ in range(3)]
    for epoch in epochs:
        assert sorted(k for batch in epoch for k in batch) == list(range(300))
        for batch in epoch:
            assert len(batch) * max(len(pairs[k][1]) for k in batch) <= 120
    assert epochs[0] != epochs[1] != epochs[2]
    real = sum(len(target) for _, target in pairs)
    filled = sum(len(batch) * max(len(pairs[k][1]) for k in batch) for batch in epochs[0])
    assert real > 0.95 * filled
    assert real > 0.8 * 120 * batches.per_epoch


def test_a_sentence_that_is_too_long_for_a_batch_is_one() -> None:
    batches = TokenBatches(encoded(20), 1, torch.Generator())
    assert batches.per_epoch == 20
    assert sorted(batches.next()[0] for _ in range(20)) == list(range(20))
    assert [len(part) for part in in_order(encoded(20), 1)] == [1] * 20


def test_evaluation_sees_every_pair_once_in_bounded_batches() -> None:
    pairs = encoded()
    parts = list(in_order(pairs, 200))
    assert sorted(pair for part in parts for pair in part) == sorted(pairs)
    for part in parts:
        assert len(part) * max(len(side) for pair in part for side in pair) <= 200
    assert len(parts) < 45


# --- network and decoding ---


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Transformer(11, Shape(8, 16, 2, 2), PAD).double().eval()


def test_no_word_sees_a_later_one_and_padding_changes_nothing(net) -> None:
    source = torch.randint(4, 11, (2, 5))
    target = torch.randint(4, 10, (2, 6))
    out = net(source, target)
    changed = target.clone()
    changed[:, 4:] = 10
    assert torch.equal(net(source, changed)[:, :4], out[:, :4])
    assert not torch.allclose(net(source, changed)[:, 4], out[:, 4])
    padded = torch.cat([source, torch.full((2, 3), PAD)], 1)
    torch.testing.assert_close(net(padded, target), out)


def test_every_word_of_the_source_and_of_the_past_counts(net) -> None:
    embedded = {}

    def keep(_, __, output):
        output.retain_grad()
        embedded[len(embedded)] = output

    handle = net.embedding.register_forward_hook(keep)
    net(torch.randint(4, 11, (1, 5)), torch.randint(4, 11, (1, 6)))[0, 3].square().sum().backward()
    handle.remove()
    source, target = (embedded[k].grad[0].abs().sum(-1) for k in (0, 1))
    assert (source > 0).all()
    assert (target > 0).tolist() == [True] * 4 + [False] * 2


def test_decoding_step_by_step_is_decoding_at_once(net) -> None:
    source = torch.randint(4, 11, (3, 5))
    source[1, 3:] = PAD
    target = torch.randint(4, 11, (3, 7))
    cache = net.begin(source, 1)
    steps = torch.stack([net.advance(target[:, k], cache) for k in range(7)], 1)
    torch.testing.assert_close(steps, net.logits(net(source, target)))


@torch.no_grad()
def next_words(net, source, body):
    """Log-probabilities of the word after ``body``, by decoding all of it anew."""
    return torch.log_softmax(net.logits(net(source, torch.tensor([[BEGIN, *body]])))[0, -1], -1).tolist()


def exhaustive(net, source, longest, penalty):
    """The best of all targets that end by ``longest``, by normalized log-probability."""
    scores = {}

    def extend(body, score):
        for word, log in enumerate(next_words(net, source, body)):
            if word == END:
                scores[body] = (score + log) / (len(body) + 1) ** penalty
            elif word not in (PAD, BEGIN) and len(body) + 1 < longest:
                extend((*body, word), score + log)

    extend((), 0.0)
    return list(max(scores, key=scores.__getitem__))


def beam_by_hand(net, source, beam, longest, penalty):
    """Beam search on lists, one sentence, without a cache."""
    kept = [((), 0.0)]
    ended = lambda body: body[-1:] == (END,)
    for _ in range(longest):
        options = [(body, score) for body, score in kept if ended(body)]
        for body, score in kept:
            if not ended(body):
                logs = enumerate(next_words(net, source, body))
                options += [((*body, word), score + log) for word, log in logs if word not in (PAD, BEGIN)]
        kept = sorted(options, key=lambda option: -option[1])[:beam]
    done = [option for option in kept if ended(option[0])] or kept
    body, _ = max(done, key=lambda option: option[1] / len(option[0]) ** penalty)
    return [word for word in body if word != END]


def decided(seed, words):
    """A network whose next word depends on all that it has read; an untrained one is nearly uniform."""
    torch.manual_seed(seed)
    small = Transformer(words, Shape(8, 16, 2, 1), PAD).double().eval()
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(2.5)
    return small


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all(penalty) -> None:
    targets = []
    for seed in range(6):
        small = decided(seed, 6)
        source = torch.randint(4, 6, (1, 4))
        targets += beam_search(small, source, BEGIN, END, 3**3 + 3**2 + 4, 4, penalty)
        assert targets[-1] == exhaustive(small, source, 4, penalty)
    assert len({tuple(body) for body in targets}) > 2


@pytest.mark.parametrize("beam", [1, 2, 4])
def test_a_narrow_beam_keeps_what_it_should(beam) -> None:
    targets = []
    for seed in range(6):
        small = decided(seed, 9)
        source = torch.randint(4, 9, (3, 5))
        source[1, 3:] = PAD
        together = beam_search(small, source, BEGIN, END, beam, 7, 1.0)
        rows = [row[row != PAD][None] for row in source]
        assert together == [beam_by_hand(small, row, beam, 7, 1.0) for row in rows]
        targets += together
    assert len({tuple(body) for body in targets}) > 6
    assert {len(body) < 7 for body in targets} == {True, False}
