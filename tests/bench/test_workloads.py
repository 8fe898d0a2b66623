from __future__ import annotations

from math import prod

import pytest

from adamomentum.bench.workloads import WORKLOADS, choose, gpt2_small, resnet18


def test_models_have_their_published_sizes() -> None:
    assert len(resnet18()) == 62
    assert sum(map(prod, resnet18())) == 11_689_512
    assert len(gpt2_small()) == 148
    assert sum(map(prod, gpt2_small())) == 124_439_808


def test_no_large_workload_is_a_power_of_two() -> None:
    for w in WORKLOADS.values():
        if w.group == "large":
            assert w.numel & (w.numel - 1)


def test_keys_say_what_they_are() -> None:
    for key, w in WORKLOADS.items():
        assert w.key == key
        if w.group == "small":
            count, size = map(int, key.split("x"))
            assert w.shapes == ((size,),) * count


def test_quick_is_tiny_and_of_the_same_kind() -> None:
    for w in choose(None, quick=True):
        assert w.numel < 50_000
        assert [len(s) for s in w.shapes] == [len(s) for s in WORKLOADS[w.key].shapes[: len(w.shapes)]]


def test_choice_keeps_the_order_and_names_what_is_allowed() -> None:
    assert [w.key for w in choose(["100x64", "gpt2", "100x64"])] == ["gpt2", "100x64"]
    assert len(choose(None)) == len(WORKLOADS)
    with pytest.raises(ValueError, match=r"workload must be one of resnet18, .*, got 'vgg'"):
        choose(["vgg"])
