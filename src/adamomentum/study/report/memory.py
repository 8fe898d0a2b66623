"""What an optimizer keeps in memory."""

from __future__ import annotations

from adamomentum.bench.memory import state_bytes
from adamomentum.study import registry
from adamomentum.study.registry import Optimizer

PARAMETERS = 2**20


def bytes_per_parameter(optimizer: Optimizer) -> float:
    """Returns bytes of state per float32 parameter, measured after a step over a million of them.

    Counters that a tensor has once are in it and vanish.
    """
    import torch

    parameter = torch.zeros(PARAMETERS)
    parameter.grad = torch.ones(PARAMETERS)
    made = registry.build(optimizer.spec(optimizer.default_lr), [parameter])
    made.step()
    return state_bytes(made) / PARAMETERS
