"""A tied LSTM language model with the regularizers of AWD-LSTM (arXiv 1708.02182), all of which may be off.

Tested in tests/study/test_language_model.py.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamomentum.study.muon import mark_embedding

Hidden = list[tuple[Tensor, Tensor]]


def locked_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop the same features of [time, streams, features] at every time step: variational dropout."""
    if not training or p == 0:
        return x
    mask = torch.empty(1, *x.shape[1:], device=x.device, dtype=x.dtype).bernoulli_(1 - p) / (1 - p)
    return x * mask


class DropLstm(nn.Module):
    """One LSTM layer whose hidden-to-hidden weights are dropped, once for all time steps of a pass.

    Args:
        inputs: features in.
        outputs: features out.
        weight_drop: share of the hidden-to-hidden weights that is dropped in training.
    """

    def __init__(self, inputs: int, outputs: int, weight_drop: float) -> None:
        super().__init__()
        self.weight_drop = weight_drop
        bound = 1 / math.sqrt(outputs)

        def make(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        self.weight_ih, self.weight_hh = make(4 * outputs, inputs), make(4 * outputs, outputs)
        self.bias_ih, self.bias_hh = make(4 * outputs), make(4 * outputs)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map [time, streams, inputs] and the state (h, c), each [streams, outputs], to outputs and new state."""
        weight = F.dropout(self.weight_hh, self.weight_drop, self.training)
        h, c = (part.unsqueeze(0).to(x.dtype) for part in state)
        weights = [part.to(x.dtype) for part in (self.weight_ih, weight, self.bias_ih, self.bias_hh)]
        y, h, c = torch.lstm(x, (h, c), weights, True, 1, 0.0, self.training, False, False)
        return y, (h[0], c[0])


class AwdLstm(nn.Module):
    """Embedding, LSTM layers, and an output layer that shares the embedding's weights.

    Args:
        words: size of the vocabulary.
        embedding: features of the embedding and of the last layer.
        hidden: features of the other layers.
        layers: number of LSTM layers.
        drop_words: share of the vocabulary whose embedding is dropped in a pass.
        drop_input: locked dropout on the embeddings.
        drop_hidden: locked dropout between layers.
        drop_output: locked dropout on the last layer.
        weight_drop: dropout on hidden-to-hidden weights.
    """

    def __init__(
        self,
        words: int,
        embedding: int,
        hidden: int,
        layers: int,
        drop_words: float,
        drop_input: float,
        drop_hidden: float,
        drop_output: float,
        weight_drop: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(words, embedding).uniform_(-0.1, 0.1))
        mark_embedding(self.embedding)
        self.bias = nn.Parameter(torch.zeros(words))
        sizes = [embedding, *[hidden] * (layers - 1), embedding]
        self.layers = nn.ModuleList(DropLstm(a, b, weight_drop) for a, b in itertools.pairwise(sizes))
        self.sizes = sizes[1:]
        self.drop_words, self.drop_input = drop_words, drop_input
        self.drop_hidden, self.drop_output = drop_hidden, drop_output

    def initial(self, streams: int) -> Hidden:
        """Return the state before the first token: zeros."""
        zeros = [torch.zeros(2, streams, size, device=self.bias.device) for size in self.sizes]
        return [(pair[0], pair[1]) for pair in zeros]

    def forward(self, tokens: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden, Tensor, Tensor]:
        """Map tokens, int64 [time, streams], and the state before them to what may follow.

        Returns:
            Logits [time, streams, words], the state after the last token, and the last layer's outputs
            [time, streams, embedding] with and without dropout.
        """
        weight: Tensor = self.embedding
        if self.training and self.drop_words:
            keep = torch.empty(len(weight), 1, device=weight.device).bernoulli_(1 - self.drop_words)
            weight = weight * keep / (1 - self.drop_words)
        x = locked_dropout(F.embedding(tokens, weight), self.drop_input, self.training)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        new: Hidden = []
        for k, (layer, state) in enumerate(zip(self.layers, hidden, strict=True)):
            raw, state = layer(x, state)
            new.append(state)
            last = k == len(self.layers) - 1
            x = locked_dropout(raw, self.drop_output if last else self.drop_hidden, self.training)
        return F.linear(x, self.embedding, self.bias), new, x, raw
