"""Muon for matrices, AdamW for all else: who gets what, and that each does what torch's own does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from adamomentum.study import registry
from adamomentum.study.muon import MuonAdamW, mark_embedding
from adamomentum.study.tasks.language.awd_lstm import AwdLstm
from adamomentum.study.tasks.language.transformer import CausalTransformer
from adamomentum.study.tasks.translation.transformer import Shape, Transformer

LR, DECAY = 0.02, 0.1


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def train(model, optimizers, steps=5, lr_of=lambda t: LR / (1 + t)):
    torch.manual_seed(1)
    for t in range(steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr_of(t)
            optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def test_each_is_torchs_own() -> None:
    model, peer = network(), network()
    mine = MuonAdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    matrices = [p for p in peer.parameters() if p.ndim == 2]
    vectors = [p for p in peer.parameters() if p.ndim == 1]
    theirs = [
        torch.optim.Muon(matrices, lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(vectors, lr=LR, weight_decay=DECAY),
    ]
    for p, q in zip(train(model, [mine]), train(peer, theirs), strict=True):
        assert torch.equal(p, q)


def test_a_state_dict_goes_on_bit_for_bit() -> None:
    model = network()
    optimizer = MuonAdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    train(model, [optimizer])
    again = network()
    again.load_state_dict(model.state_dict())
    other = MuonAdamW(again.parameters(), lr=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(train(model, [optimizer]), train(again, [other]), strict=True):
        assert torch.equal(p, q)


def test_what_has_no_matrix_or_nothing_else_trains_too() -> None:
    for shapes in ([(3,)], [(3, 2)], [(2, 3, 1, 1)]):
        params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
        optimizer = MuonAdamW([{"params": params, "weight_decay": 0.0}], lr=LR)
        for p in params:
            p.grad = torch.randn(p.shape)
        optimizer.step(lambda: torch.zeros(()))
        assert not any(torch.equal(p, torch.ones_like(p)) for p in params)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]


def test_embeddings_are_not_made_orthogonal() -> None:
    table, matrix = (nn.Parameter(torch.zeros(4, 2)) for _ in range(2))
    mark_embedding(table)
    muon, adamw = MuonAdamW([table, matrix]).param_groups
    assert [p is matrix for p in muon["params"]] == [True] and "ns_steps" in muon
    assert [p is table for p in adamw["params"]] == [True] and "ns_steps" not in adamw


@pytest.mark.parametrize(
    ("model", "embeddings"),
    [
        (lambda: CausalTransformer(7, 8, 16, 2, 1, 5), {"embedding", "places"}),
        (lambda: AwdLstm(7, 8, 8, 1, 0.0, 0.0, 0.0, 0.0, 0.0), {"embedding"}),
        (lambda: Transformer(7, Shape(features=8, inner=16, heads=2, layers=1), 0), {"embedding.weight"}),
    ],
    ids=["causal", "lstm", "translation"],
)
def test_the_tasks_models_say_what_their_embeddings_are(model, embeddings) -> None:
    built = model()
    names = {id(p): name for name, p in built.named_parameters()}
    optimizer = registry.build(registry.get("muon").spec(LR), built.parameters())
    by_adamw = {names[id(p)] for group in optimizer.param_groups if "ns_steps" not in group for p in group["params"]}
    assert {name for name in by_adamw if built.get_parameter(name).ndim == 2} == embeddings


def test_it_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1"):
        MuonAdamW([nn.Parameter(torch.ones(2, 2))], momentum=1)
