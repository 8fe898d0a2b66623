"""The few questions that stand for all checks of a usual parameter let nothing unusual through."""

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from adamomentum import AdaMomentum
from adamomentum.torch.checks import _is_usual


def usual(**options) -> tuple[Tensor, Tensor, dict]:
    """A parameter, its gradient and its state after a step."""
    p = Parameter(torch.ones(3, 2))
    p.grad = torch.ones(3, 2)
    opt = AdaMomentum([p], foreach=False, **options)
    opt.step()
    return p, p.grad, dict(opt.state[p])


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"weight_decay": 0.1}, {"state_dtype": torch.float64}])
def test_what_a_step_leaves_is_usual(options) -> None:
    assert _is_usual(*usual(**options))


def inference(*shape: int) -> Tensor:
    with torch.inference_mode():
        return torch.zeros(shape)


STATES = {
    "a wrapper's entry": {"wrapper": 1},
    "an interrupted load": {"adamomentum": 1},
    "8-bit codes": {"exp_avg": torch.zeros(3, 2, dtype=torch.uint8)},
    "two dtypes": {"exp_avg": torch.zeros(3, 2, dtype=torch.float64)},
    "a reduced one": {"exp_avg_sq": torch.zeros(3, 2, dtype=torch.bfloat16)},
    "half precision": {key: torch.zeros(3, 2, dtype=torch.float16) for key in ("exp_avg", "exp_avg_sq")},
    "reduced": {key: torch.zeros(3, 2, dtype=torch.bfloat16) for key in ("exp_avg", "exp_avg_sq")},
    "another shape": {"exp_avg_sq": torch.zeros(2, 3)},
    "another device": {"exp_avg": torch.zeros(3, 2, device="meta")},
    "expanded": {"exp_avg": torch.zeros(1, 2).expand(3, 2)},
    "another layout": {"exp_avg_sq": torch.zeros(2, 3).t()},
    "sparse": {"exp_avg": torch.zeros(3, 2).to_sparse()},
    "inference": {"exp_avg": inference(3, 2)},
    "no tensor": {"exp_avg": [0.0]},
    "a parameter": {"exp_avg": Parameter(torch.zeros(3, 2))},
    "an inference maximum": {"max_exp_avg_sq": inference(3, 2)},
    "a whole step": {"step": torch.tensor(1)},
    "two steps": {"step": torch.ones(2)},
    "a step on meta": {"step": torch.ones((), device="meta")},
    "an inference step": {"step": inference()},
    "a number as step": {"step": 1.0},
}


@pytest.mark.parametrize("name", STATES)
def test_an_unusual_state_is_looked_at(name) -> None:
    p, grad, entries = usual()
    assert not _is_usual(p, grad, entries | STATES[name])


@pytest.mark.parametrize("key", ["step", "exp_avg", "exp_avg_sq"])
def test_half_a_state_is_looked_at(key) -> None:
    p, grad, entries = usual()
    del entries[key]
    assert not _is_usual(p, grad, entries)


PARAMETERS = {
    "float16": torch.zeros(3, 2, dtype=torch.float16),
    "complex": torch.zeros(3, 2, dtype=torch.complex64),
    "whole numbers": torch.zeros(3, 2, dtype=torch.int32),
    "another shape": torch.zeros(2, 3),
    "expanded": torch.zeros(1, 2).expand(3, 2),
    "sparse": torch.zeros(3, 2).to_sparse(),
    "inference": inference(3, 2),
    "negated": torch.zeros(3, 2, dtype=torch.complex64).conj().imag,
    "another class": type("Wrapped", (Tensor,), {})(torch.zeros(3, 2)),
    "lazy": torch.nn.UninitializedParameter(),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_unusual_parameter_is_looked_at(name) -> None:
    _, grad, entries = usual()
    assert not _is_usual(PARAMETERS[name], grad, entries)


@pytest.mark.parametrize("name", ["complex", "whole numbers", "another shape", "sparse"])
def test_an_unusual_gradient_is_looked_at(name) -> None:
    p, _, entries = usual()
    assert not _is_usual(p, PARAMETERS[name], entries)
    assert not _is_usual(p, torch.zeros(3, 2, device="meta"), entries)
