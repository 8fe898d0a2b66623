import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from adamomentum.torch import AdaMomentum
from adamomentum.torch.groups import param_groups


def by_name(groups, key="weight_decay"):
    return {name: group[key] for group in groups for name in group["param_names"]}


def decayed(model, **options):
    return {name for name, decay in by_name(param_groups(model, 0.1, **options)).items() if decay}


class Custom(nn.Module):
    """A module torch does not know, with one parameter per given name and shape."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, 2, add_bias_kv=True)
        self.scale = Custom(gamma=(dim,))
        # A list of equal modules inside a block must not be taken for the layers of the model.
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.Linear(dim, dim))


class ViT(nn.Module):
    def __init__(self, depth=3, dim=4):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, dim))
        self.patch_embed = nn.Conv2d(3, dim, 2)
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 2))


class Bert(nn.Module):
    def __init__(self, depth=2, dim=4):
        super().__init__()
        self.bert = nn.Module()
        self.bert.embeddings = nn.Module()
        self.bert.embeddings.word_embeddings = nn.Embedding(7, dim)
        self.bert.embeddings.LayerNorm = nn.LayerNorm(dim)
        self.bert.encoder = nn.Module()
        self.bert.encoder.layer = nn.ModuleList(Block(dim) for _ in range(depth))
        self.bert.pooler = nn.Linear(dim, dim)
        self.classifier = nn.Linear(dim, 2)


# Which parameters decay


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.BatchNorm3d(4),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm1d(4, affine=True),
        nn.InstanceNorm2d(4, affine=True),
        nn.InstanceNorm3d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm((4, 3, 3)),  # three-dimensional weights: only the type tells
        nn.RMSNorm((4, 3)),
        nn.Embedding(5, 4),
        nn.EmbeddingBag(5, 4),
        nn.PReLU(4),
        type("LayerNorm2d", (nn.LayerNorm,), {})((4, 3)),
        Custom(weight=(4,)),  # a hand-written RMSNorm
        Custom(gamma=(4, 1, 1)),
        Custom(logit_scale=()),
        Custom(relative_position_bias_table=(9, 2)),
        Custom(position_embeddings=(9, 4)),
        Custom(reg_token=(1, 2, 4)),
    ],
    ids=lambda module: f"{type(module).__name__}-{'-'.join(dict(module.named_parameters()))}",
)
def test_nothing_of_it_decays(module):
    assert decayed(nn.Sequential(module, nn.Linear(2, 2))) == {"1.weight"}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(4, 1), {"weight"}),  # (1, 4) is a matrix here, in an unknown module a vector
        (nn.Bilinear(2, 3, 1), {"weight"}),
        (nn.Conv1d(1, 1, 5), {"weight"}),
        (nn.ConvTranspose2d(2, 3, 3), {"weight"}),
        (nn.LSTM(3, 1), {"weight_ih_l0", "weight_hh_l0"}),
        (nn.GRUCell(3, 1), {"weight_ih", "weight_hh"}),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), {"in_proj_weight", "out_proj.weight"}),
        (Custom(weight=(3, 2), bias=(3, 2), embedder=(3, 2)), {"weight", "embedder"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_weights_decay_and_biases_do_not(module, expected):
    assert decayed(module) == expected


def test_every_norm_that_torch_has_is_known():
    lazy = (nn.modules.batchnorm._LazyNormBase,)
    norms = [
        cls
        for name, cls in vars(nn).items()
        if name.endswith("Norm") or "Norm1d" in name or "Norm2d" in name or "Norm3d" in name
        if not issubclass(cls, lazy) and cls is not nn.LocalResponseNorm and cls is not nn.CrossMapLRN2d
    ]
    assert len(norms) >= 10
    for cls in norms:
        args = (2, 4) if cls is nn.GroupNorm else (4,)
        module = cls(*args, affine=True) if "InstanceNorm" in cls.__name__ else cls(*args)
        module.weight = nn.Parameter(torch.zeros(3, 3))  # the shape must not be what decides
        assert decayed(nn.Sequential(module, nn.Linear(2, 2))) == {"1.weight"}, cls


def test_a_parametrized_tensor_counts_as_what_it_replaces():
    model = nn.Sequential(weight_norm(nn.Linear(3, 4)), spectral_norm(nn.Linear(4, 4)), weight_norm(nn.Embedding(4, 3)))
    assert decayed(model) == {
        "0.parametrizations.weight.original0",
        "0.parametrizations.weight.original1",
        "1.parametrizations.weight.original",
    }


def test_a_tied_weight_appears_once_and_does_not_decay():
    model = nn.Module()
    model.head = nn.Linear(4, 9, bias=False)  # registered first: the order must not decide
    model.embedding = nn.Embedding(9, 4)
    model.embedding.weight = model.head.weight
    assert by_name(param_groups(model, 0.1)) == {"head.weight": 0.0}
    assert by_name(param_groups(model, 0.1, decay="embedding.weight")) == {"head.weight": 0.1}


def test_a_parameter_with_two_names_is_known_by_both():
    model = Custom(weight=(2, 2))
    model.alias = model.weight
    assert decayed(model, no_decay="alias") == set()


def test_frozen_parameters_are_left_out():
    model = ViT()
    model.patch_embed.requires_grad_(False)
    names = by_name(param_groups(model))
    assert not any(name.startswith("patch_embed") for name in names)
    assert names.keys() == {name for name, p in model.named_parameters() if p.requires_grad}


def test_overrides_win_over_the_rules():
    model = ViT(depth=2)
    assert "pos_embed" in decayed(model, decay=["pos_embed"])
    without_blocks = decayed(model, no_decay=["blocks.*", "head.0.weight"])
    assert without_blocks == {"patch_embed.weight", "head.2.weight"}
    assert decayed(model, no_decay=lambda name, p: name.startswith("blocks") and p.ndim == 2) == {
        "patch_embed.weight",
        "head.0.weight",
        "head.2.weight",
    }


# Layer-wise learning rates


def vit_layer(name, depth):
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth + 1 if name.startswith(("norm", "head")) else 0


def test_layers_of_a_vit():
    groups = param_groups(ViT(depth=3), lr=1.0, layer_decay=0.5)
    # As BEiT and MAE number them: stem 0, blocks 1 to 3, final norm and head 4.
    assert by_name(groups, "lr") == {name: 0.5 ** (4 - vit_layer(name, 3)) for name, _ in ViT(3).named_parameters()}
    assert [group["name"] for group in groups] == [
        f"layer_{i}_{kind}" for i in range(5) for kind in ("decay", "no_decay")
    ]


def test_layers_of_a_bert():
    lrs = by_name(param_groups(Bert(depth=2), lr=2e-5, layer_decay=0.9), "lr")
    expected = {
        "bert.embeddings": 3,
        "bert.encoder.layer.0": 2,
        "bert.encoder.layer.1": 1,
        "bert.pooler": 0,
        "classif": 0,
    }
    for prefix, depth in expected.items():
        values = {lr for name, lr in lrs.items() if name.startswith(prefix)}
        assert values == {2e-5 * 0.9**depth}, prefix


def test_layer_of_replaces_the_default():
    model = ViT(depth=3)
    default = param_groups(model, lr=1.0, layer_decay=0.5)
    explicit = param_groups(model, lr=1.0, layer_decay=0.5, layer_of=lambda name: vit_layer(name, 3))
    assert by_name(default, "lr") == by_name(explicit, "lr")


def test_several_containers_in_the_given_order():
    model = nn.Module()
    model.encoder = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    model.encoder_norm = nn.LayerNorm(2)
    model.decoder = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    model.head = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'encoder', 'decoder'; name the containers .* in blocks"):
        param_groups(model, lr=1.0, layer_decay=0.5)
    groups = param_groups(model, lr=1.0, layer_decay=0.5, blocks=("encoder", "decoder"))
    depth = {name: -math.log2(lr) for name, lr in by_name(groups, "lr").items()}
    assert depth["encoder.0.weight"] == 4
    assert depth["encoder.1.weight"] == depth["encoder_norm.weight"] == 3
    assert depth["decoder.0.weight"] == 2
    assert depth["decoder.1.weight"] == 1
    assert depth["head.weight"] == 0


def test_the_container_of_the_layers_is_found_among_others():
    model = ViT()
    model.shortcut = model.blocks  # the same container under another name
    model.heads = nn.ModuleList([nn.Linear(4, 2)])
    model.drops = nn.ModuleList([nn.Dropout(), nn.Dropout()])
    lrs = by_name(param_groups(model, lr=1.0, layer_decay=0.5), "lr")
    assert lrs.pop("heads.0.weight") == lrs.pop("heads.0.bias") == 1.0
    assert lrs == by_name(param_groups(ViT(), lr=1.0, layer_decay=0.5), "lr")


def test_modules_without_parameters_are_no_layers():
    model = nn.Module()
    model.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    model.classifier = nn.Linear(4, 2)
    groups = param_groups(model, lr=1.0, layer_decay=0.5, blocks="features")
    assert by_name(groups, "lr") == {
        "features.0.weight": 0.25,
        "features.0.bias": 0.25,
        "features.2.weight": 0.5,
        "features.2.bias": 0.5,
        "classifier.weight": 1.0,
        "classifier.bias": 1.0,
    }


def test_freezing_does_not_move_the_other_layers():
    model, frozen = ViT(), ViT()
    for part in (frozen.blocks[0], frozen.blocks[2], frozen.head, frozen.norm):
        part.requires_grad_(False)
    lrs = by_name(param_groups(model, lr=1.0, layer_decay=0.5), "lr")
    for name, lr in by_name(param_groups(frozen, lr=1.0, layer_decay=0.5), "lr").items():
        assert lr == lrs[name]


def test_a_tied_weight_takes_the_layer_nearest_the_input():
    model = Bert()
    model.decoder = nn.Linear(4, 7, bias=False)
    model.decoder.weight = model.bert.embeddings.word_embeddings.weight
    lrs = by_name(param_groups(model, lr=1.0, layer_decay=0.5), "lr")
    assert lrs["bert.embeddings.word_embeddings.weight"] == 0.5**3
    names = {"bert.embeddings.word_embeddings.weight": 5, "decoder.weight": 1}
    lrs = by_name(param_groups(model, lr=1.0, layer_decay=0.5, layer_of=lambda n: names.get(n, 6)), "lr")
    assert lrs["bert.embeddings.word_embeddings.weight"] == 0.5**5


def test_schedulers_keep_the_ratios():
    optimizer = AdaMomentum(param_groups(ViT(), lr=1e-3, layer_decay=0.5))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    before = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [lr / 2 for lr in before]


def test_a_tensor_lr_is_one_tensor_per_group():
    lr = torch.tensor(0.5)
    groups = param_groups(nn.Linear(2, 2), lr=lr)
    groups[0]["lr"].fill_(7.0)
    assert (lr.item(), groups[1]["lr"].item()) == (0.5, 0.5)


# Wrapped models


def assert_same_groups(wrapped, model):
    options = {"lr": 1e-3, "layer_decay": 0.75, "no_decay": ["head.0.weight"]}
    for ours, expected in zip(param_groups(wrapped, **options), param_groups(model, **options), strict=True):
        assert all(p is q for p, q in zip(ours.pop("params"), expected.pop("params"), strict=True))
        assert ours == expected


def test_wrappers_leave_no_trace():
    model = ViT()
    assert_same_groups(torch.compile(model), model)
    assert_same_groups(nn.DataParallel(model), model)
    assert_same_groups(torch.compile(nn.DataParallel(model)), model)
    parts = copy.copy(model)
    parts._modules = {**model._modules, "blocks": nn.Sequential(*map(torch.compile, model.blocks))}
    assert_same_groups(parts, model)


def test_checkpoint_wrappers_leave_no_trace():
    wrapper = pytest.importorskip("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    model = ViT()
    parts = copy.copy(model)
    parts._modules = {
        **model._modules,
        "blocks": nn.Sequential(*map(wrapper.checkpoint_wrapper, model.blocks)),
    }
    assert_same_groups(parts, model)


@pytest.mark.distributed
def test_distributed_wrappers_leave_no_trace(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = ViT()
        assert_same_groups(nn.parallel.DistributedDataParallel(model), model)

        sharded = ViT()
        for module in (*sharded.blocks, sharded):
            fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
        assert by_name(param_groups(sharded, lr=1.0, layer_decay=0.5), "name") == by_name(
            param_groups(model, lr=1.0, layer_decay=0.5), "name"
        )
    finally:
        torch.distributed.destroy_process_group()


# As groups of an optimizer


@pytest.mark.parametrize("cls", [AdaMomentum, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor])
def test_any_optimizer_takes_them(cls):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    optimizer = cls(param_groups(model, 0.1, lr=1e-2))
    model(torch.ones(2, 3)).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True) if p.grad.any())

    saved = optimizer.state_dict()
    assert [group["name"] for group in saved["param_groups"]] == ["decay", "no_decay"]
    assert saved["param_groups"][0]["param_names"] == ["0.weight", "2.weight"]
    again = cls(param_groups(model, 0.3))
    again.load_state_dict(saved)
    assert [group["weight_decay"] for group in again.param_groups] == [0.1, 0.0]
    assert again.state_dict()["param_groups"] == saved["param_groups"]


def test_names_are_what_torch_makes_of_named_parameters():
    model = nn.Linear(3, 3)
    named = torch.optim.AdamW([{"params": [("weight", model.weight)]}, {"params": [("bias", model.bias)]}])
    ours = torch.optim.AdamW(param_groups(model))
    for expected, group in zip(named.state_dict()["param_groups"], ours.state_dict()["param_groups"], strict=True):
        assert group["param_names"] == expected["param_names"]
    ours.add_param_group({"params": [("extra", nn.Parameter(torch.zeros(1)))]})  # torch wants names in all or none


@st.composite
def models(draw, depth=3):
    leaf = st.sampled_from(
        [
            lambda: nn.Linear(2, 1),
            lambda: nn.Conv1d(2, 2, 1, bias=False),
            lambda: nn.LayerNorm(2),
            lambda: nn.Embedding(3, 2),
            lambda: nn.ReLU(),
            lambda: weight_norm(nn.Linear(2, 2)),
            lambda: Custom(weight=(2, 2), gain=(2,)),
        ]
    )
    count = draw(st.integers(1, 3))
    children = [draw(models(depth=depth - 1)) if depth and draw(st.booleans()) else draw(leaf)() for _ in range(count)]
    if draw(st.booleans()):
        children.append(children[0])  # a shared module
    container = draw(st.sampled_from([nn.Sequential, lambda *m: nn.ModuleList(m)]))(*children)
    for p in container.parameters():
        if draw(st.integers(0, 9)) == 0:
            p.requires_grad_(False)
    return container


@settings(max_examples=100, deadline=None)
@given(models(), st.booleans())
def test_groups_are_disjoint_and_complete(model, layered):
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    options = {"lr": 1.0, "layer_decay": 0.5, "layer_of": len} if layered else {}
    if not trainable:
        with pytest.raises(ValueError, match="requires_grad=True"):
            param_groups(model, **options)
        return
    groups = param_groups(model, **options)
    grouped = [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]
    assert len(grouped) == len(trainable)
    assert all(trainable[name] is p for name, p in grouped)
    assert all(group["params"] for group in groups)
    torch.optim.AdamW(groups)
    AdaMomentum([dict(group) for group in groups])


# Errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be finite and >= 0, got -0.1"),
        ({"weight_decay": math.nan}, ValueError, "weight_decay must be finite and >= 0, got nan"),
        ({"weight_decay": "0.1"}, TypeError, "weight_decay must be a number, got '0.1'"),
        ({"lr": math.inf}, ValueError, "lr must be finite and >= 0, got inf"),
        ({"lr": torch.zeros(2)}, TypeError, "lr must be a number"),
        ({"layer_decay": 0.75}, ValueError, "pass lr too"),
        ({"lr": 1.0, "layer_decay": 1.5}, ValueError, r"layer_decay must be in \(0, 1\], got 1.5"),
        ({"lr": 1.0, "layer_decay": 0}, ValueError, r"layer_decay must be in \(0, 1\], got 0"),
        ({"lr": 1.0, "layer_decay": math.nan}, ValueError, "layer_decay must be .* got nan"),
        ({"layer_of": len}, ValueError, "pass layer_decay too"),
        ({"blocks": "blocks"}, ValueError, "pass layer_decay too"),
        ({"lr": 1.0, "layer_decay": 0.5, "blocks": "0", "layer_of": len}, ValueError, "not both"),
        ({"lr": 1.0, "layer_decay": 0.5, "blocks": "nope"}, ValueError, "blocks: 'nope' is no module"),
        ({"lr": 1.0, "layer_decay": 0.5, "layer_of": lambda name: -1}, ValueError, "got -1 for 'cls_token'"),
        (
            {"lr": 1.0, "layer_decay": 0.5, "layer_of": lambda name: None},
            ValueError,
            "got None for 'cls_token'",
        ),
        ({"no_decay": "no_such.*"}, ValueError, r"no_decay: 'no_such\.\*' matches no parameter"),
        ({"decay": ["norm"]}, ValueError, "decay: 'norm' matches no parameter; .* whole names"),
        ({"no_decay": [1]}, TypeError, "no_decay must be strings, got 1"),
        ({"no_decay": "head.*", "decay": "*.weight"}, ValueError, "both claim 'head.0.weight'"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        param_groups(ViT(), **options)


def test_models_that_have_no_groups():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got generator"):
        param_groups(nn.Linear(1, 1).parameters())
    for model in (nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)):
        with pytest.raises(ValueError, match="no parameter with requires_grad=True"):
            param_groups(model)
    with pytest.raises(ValueError, match=r"'0\.weight' has no shape yet"):
        param_groups(nn.Sequential(nn.LazyLinear(2)))
    with pytest.raises(ValueError, match="'_flat_param' joins parameters"):
        param_groups(Custom(_flat_param=(9,)))
    with pytest.raises(ValueError, match="found no list of equal modules"):
        param_groups(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), lr=1.0, layer_decay=0.5)


def test_words_in_names_of_ones_own_parameters():
    model = Custom(pos_emb=(5, 4), rel_pos_h=(5, 4), pos=(5, 4), reg_token=(5, 4), token_mixing=(4, 4), proj=(4, 4))
    groups = {group["name"]: set(group["param_names"]) for group in param_groups(model)}
    assert groups["decay"] == {"token_mixing", "proj"}


def test_a_list_of_heads_is_not_taken_for_the_layers():
    model = nn.Module()
    model.body = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    model.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))
    with pytest.raises(ValueError, match="'heads', the one list of equal modules, holds only 6"):
        param_groups(model, lr=1.0, layer_decay=0.5)
    assert param_groups(model, lr=1.0, layer_decay=0.5, blocks="heads")
