from __future__ import annotations

import json
import sys

import pytest
import torch
from clients import need

from adamomentum.memory import Sizes, sizes_of, training_memory


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (7e9, 7_000_000_000),
        (124_439_808, 124_439_808),
        ("7e9", 7_000_000_000),
        ("7B", 7_000_000_000),
        ("6.7b", 6_700_000_000),
        ("350M", 350_000_000),
        ("1.5T", 1_500_000_000_000),
        (" 124,439,808 ", 124_439_808),
        ("1_000", 1000),
        ("2k", 2000),
        (1, 1),
    ],
)
def test_numbers(written, count) -> None:
    sizes = sizes_of(written)
    assert (sizes.numel, sizes.largest, sizes.fixed) == (count, 0, 0)


@pytest.mark.parametrize("wrong", [0, -7e9, float("nan"), float("inf"), "0B", "1.2.3", ".", "1e999", "-7B"])
def test_what_is_no_number_of_parameters(wrong) -> None:
    with pytest.raises(ValueError, match="number of parameters"):
        sizes_of(wrong)


@pytest.mark.parametrize("wrong", [True, None, [7e9]])
def test_what_is_no_model(wrong) -> None:
    with pytest.raises(ValueError, match=f"must be a torch.nn.Module, .* got {type(wrong).__name__}"):
        sizes_of(wrong)


def test_a_module_counts_as_it_is() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.BatchNorm1d(20), torch.nn.Linear(20, 10))
    model[2].weight = model[0].weight  # shared: counted once, as optimizers do
    model[2].in_features, model[2].out_features = 10, 20
    assert sizes_of(model) == Sizes((200, 20, 20, 20, 10), 200, 4 * 40 + 8, shared=(200,))
    model[0].weight.requires_grad_(False)
    frozen = sizes_of(model)
    assert frozen == Sizes((20, 20, 20, 10), 20, 4 * 200 + 4 * 40 + 8)
    memory = training_memory(model)[0]
    assert (memory.mode.parameter.name, memory.parameters) == ("float32", 4 * 270 + 4 * 40 + 8)
    assert (memory.numel, memory.gradients) == (70, 4 * 70)
    with pytest.raises(ValueError, match="no parameter that is trained"):
        sizes_of(model.requires_grad_(False))


def test_of_what_is_sharded_the_part_that_is_here_counts() -> None:
    model = torch.nn.Linear(6, 4, bias=False)
    model.weight._local_tensor = torch.zeros(3, 4)  # as DTensor keeps it
    assert sizes_of(model) == Sizes((12,), 12)


def test_a_module_without_memory() -> None:
    with torch.device("meta"):
        model = torch.nn.Linear(100_000, 100_000)
    assert sizes_of(model) == Sizes((10**10, 10**5), 10**10)


GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
    "dtype": "bfloat16",
}


@pytest.mark.clients
@pytest.mark.parametrize(
    ("config", "count", "largest"), [(GPT2, 124_439_808, 50257 * 768), (LLAMA, 6_738_415_616, 32000 * 4096)]
)
def test_a_config_is_counted_as_published(config, count, largest, tmp_path) -> None:
    need("transformers")
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, str(tmp_path / "config.json")):
        sizes = sizes_of(path)
        assert (sizes.numel, sizes.largest) == (count, largest)
        assert sizes.shared == ((largest,) if config is GPT2 else ())  # its embedding is tied to its head


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "must hold one JSON object"),
        ("{", "must hold one JSON object"),
        ("{}", 'names no class under "architectures"'),
    ],
)
def test_what_is_no_config(text, words, tmp_path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        sizes_of(tmp_path)


def test_a_config_that_is_not_there(tmp_path) -> None:
    with pytest.raises(ValueError, match="neither a number of parameters, as 7B, nor a config file that is there"):
        sizes_of(tmp_path)


@pytest.mark.clients
def test_a_config_of_an_unknown_class(tmp_path) -> None:
    need("transformers")
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    with pytest.raises(ValueError, match="has no NoSuchModel"):
        sizes_of(tmp_path)


def test_a_config_without_transformers(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    with pytest.raises(ModuleNotFoundError, match="pip install transformers, or give the number"):
        sizes_of(tmp_path)
