"""A small causal Transformer with tied embeddings, normalized before each block, as in GPT-2.

Tested in tests/study/test_language_model.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamomentum.study.muon import mark_embedding

INIT_STD = 0.02


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each added to what comes in.

    Args:
        width: features of a token.
        heads: heads of attention; divides ``width``.
        inner: features within the feed-forward layer.
    """

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, time, width] to the same shape; a token sees itself and those before it."""
        batch, time, width = x.shape
        heads = self.qkv(self.norm_attention(x)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mixed(seen.transpose(1, 2).reshape(batch, time, width))
        fed: Tensor = x + self.down(F.gelu(self.up(self.norm_feed(x))))
        return fed


class CausalTransformer(nn.Module):
    """Embeddings of tokens and places, blocks, and an output layer that shares the tokens' embedding.

    Args:
        words: size of the vocabulary.
        width: features of a token.
        inner: features within the feed-forward layers.
        heads: heads of attention.
        layers: number of blocks.
        context: the most tokens that it can look at.
    """

    def __init__(self, words: int, width: int, inner: int, heads: int, layers: int, context: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(words, width).normal_(std=INIT_STD))
        self.places = nn.Parameter(torch.empty(context, width).normal_(std=INIT_STD))
        for p in (self.embedding, self.places):
            mark_embedding(p)
        self.blocks = nn.ModuleList(Block(width, heads, inner) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, p in self.blocks.named_parameters():
            if name.endswith(("mixed.weight", "down.weight")):
                # So many are added up on the way to the output.
                nn.init.normal_(p, std=INIT_STD / math.sqrt(2 * layers))
            elif p.ndim == 2:
                nn.init.normal_(p, std=INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens, int64 [batch, time], to logits [batch, time, words] of what follows each."""
        x = F.embedding(tokens, self.embedding) + self.places[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding)
