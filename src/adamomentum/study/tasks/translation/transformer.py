"""A pre-norm encoder-decoder Transformer (arXiv 1706.03762, 2002.04745) with one embedding for both languages.

Tested in tests/study/test_translation.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamomentum.study.muon import mark_embedding

MAX_LENGTH = 1024


def positions(length: int, features: int) -> Tensor:
    """Return sinusoidal position codes, float32 [length, features]; ``features`` must be even."""
    rates = torch.exp(torch.arange(0, features, 2) * (-math.log(10_000.0) / features))
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


class Attention(nn.Module):
    """Scaled dot-product attention of several heads."""

    def __init__(self, features: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.output = nn.Linear(features, features), nn.Linear(features, features)
        self.key_value = nn.Linear(features, 2 * features)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each [n, heads, time, features / heads], of [n, time, features]."""
        key, value = self.key_value(memory).chunk(2, -1)
        return self._split(key), self._split(value)

    def _split(self, x: Tensor) -> Tensor:
        n, time, _ = x.shape
        return x.view(n, time, self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """Attends from x [n, time, features] to keys and values; ``mask`` is True where it may look."""
        drop = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(self._split(self.query(x)), key, value, mask, drop, is_causal=causal)
        out: Tensor = self.output(y.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Sequential):
    """Two linear maps with a ReLU between them, and dropout after it."""

    def __init__(self, features: int, inner: int, dropout: float) -> None:
        super().__init__(nn.Linear(features, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, features))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each on the normalized input and added to it."""

    def __init__(self, features: int, inner: int, heads: int, drops: tuple[float, float, float]) -> None:
        super().__init__()
        residual, attention, activation = drops
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(2))
        self.attention, self.feed = Attention(features, heads, attention), FeedForward(features, inner, activation)
        self.drop = nn.Dropout(residual)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [n, time, features] to the same; ``mask`` [n, 1, 1, time] is True on words."""
        y = self.norms[0](x)
        x = x + self.drop(self.attention(y, *self.attention.project(y), mask))
        out: Tensor = x + self.drop(self.feed(self.norms[1](x)))
        return out


@dataclass
class Cache:
    """Keys and values that decoding has seen: of each layer's own past and of the source."""

    own: list[tuple[Tensor, Tensor] | None]
    source: list[tuple[Tensor, Tensor]]
    mask: Tensor
    length: int = 0

    def reorder(self, rows: Tensor) -> None:
        """Make row k go on from what was row ``rows[k]``."""
        self.own = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.own]


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, feed-forward."""

    def __init__(self, features: int, inner: int, heads: int, drops: tuple[float, float, float]) -> None:
        super().__init__()
        residual, attention, activation = drops
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(3))
        self.own, self.cross = Attention(features, heads, attention), Attention(features, heads, attention)
        self.feed = FeedForward(features, inner, activation)
        self.drop = nn.Dropout(residual)

    def forward(
        self, x: Tensor, source: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map [n, time, features] to the same and its keys and values, those of the ``past`` included.

        With a past, ``time`` must be 1: the new word may look at all of it.
        """
        y = self.norms[0](x)
        key, value = self.own.project(y)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        x = x + self.drop(self.own(y, key, value, None, causal=past is None))
        x = x + self.drop(self.cross(self.norms[1](x), *source, mask))
        return x + self.drop(self.feed(self.norms[2](x))), (key, value)


def _source(layer: nn.Module, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of the source for one layer of the decoder."""
    assert isinstance(layer, DecoderLayer)
    return layer.cross.project(memory)


@dataclass(frozen=True)
class Shape:
    """Sizes and dropout of a Transformer.

    Attributes:
        features: of a word; even, a multiple of ``heads``.
        inner: of the feed-forward layers.
        heads: of each attention.
        layers: of the encoder, and of the decoder.
        drops: dropout on residual branches and embeddings, on attention weights, on feed-forward activations.
    """

    features: int
    inner: int
    heads: int
    layers: int
    drops: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))


class Transformer(nn.Module):
    """Encoder and decoder.

    Args:
        words: size of the joint vocabulary.
        shape: sizes and dropout.
        pad: index of padding, which nothing looks at.
    """

    def __init__(self, words: int, shape: Shape, pad: int) -> None:
        super().__init__()
        self.pad, self.scale = pad, math.sqrt(shape.features)
        self.embedding = nn.Embedding(words, shape.features, pad)
        mark_embedding(self.embedding.weight)
        nn.init.normal_(self.embedding.weight, std=shape.features**-0.5)
        with torch.no_grad():
            self.embedding.weight[pad].zero_()
        sizes = (shape.features, shape.inner, shape.heads, shape.drops)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(shape.layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(shape.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(shape.features) for _ in range(2))
        self.drop = nn.Dropout(shape.drops[0])
        self.register_buffer("positions", positions(MAX_LENGTH, shape.features), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def _embed(self, words: Tensor, start: int = 0) -> Tensor:
        codes: Tensor = self.positions[start : start + words.shape[1]]  # type: ignore[index]
        out: Tensor = self.drop(self.embedding(words) * self.scale + codes)
        return out

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Map source words [n, time] to [n, time, features] and the mask of words [n, 1, 1, time]."""
        mask = (source != self.pad)[:, None, None, :]
        x = self._embed(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.norms[0](x), mask

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Map source and the target words so far, [n, time] each, to features [n, time, features] of the next word."""
        memory, mask = self.encode(source)
        x = self._embed(target)
        for layer in self.decoder:
            x, _ = layer(x, _source(layer, memory), mask)
        out: Tensor = self.norms[1](x)
        return out

    def logits(self, features: Tensor) -> Tensor:
        """Map features [..., features] to logits [..., words]."""
        return F.linear(features, self.embedding.weight)

    def begin(self, source: Tensor, copies: int) -> Cache:
        """Return the cache for decoding ``copies`` rows of each source sentence."""
        memory, mask = self.encode(source)
        memory, mask = memory.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
        return Cache([None] * len(self.decoder), [_source(layer, memory) for layer in self.decoder], mask)

    def advance(self, words: Tensor, cache: Cache) -> Tensor:
        """Append a word to each row, [n], and return the logits of the next, [n, words]."""
        x = self._embed(words.unsqueeze(1), cache.length)
        for k, layer in enumerate(self.decoder):
            x, cache.own[k] = layer(x, cache.source[k], cache.mask, cache.own[k])
        cache.length += 1
        return self.logits(self.norms[1](x[:, 0]))
