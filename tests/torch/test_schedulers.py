"""Every learning-rate scheduler of torch drives AdaMomentum as it drives torch's own Adam, through a checkpoint too.

And what it sets is what the step is made with: that of the reference at the same lr and betas.
"""

import inspect
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from adamomentum import reference
from adamomentum.torch import AdaMomentum

MAKE = {
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, Decay()),
    "MultiplicativeLR": lambda opt: lr_scheduler.MultiplicativeLR(opt, Decay()),
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, 3),
    "MultiStepLR": lambda opt: lr_scheduler.MultiStepLR(opt, [2, 5]),
    "ConstantLR": lambda opt: lr_scheduler.ConstantLR(opt, 0.3, 4),
    "LinearLR": lambda opt: lr_scheduler.LinearLR(opt, 0.1, 1.0, 5),
    "ExponentialLR": lambda opt: lr_scheduler.ExponentialLR(opt, 0.9),
    "SequentialLR": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, 1.0, 4), lr_scheduler.ExponentialLR(opt, 0.9)], [4]
    ),
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(opt, 0.1, 3), lr_scheduler.ExponentialLR(opt, 0.9)]
    ),
    "PolynomialLR": lambda opt: lr_scheduler.PolynomialLR(opt, 10, 2.0),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 10),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 4),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, 1e-3, 1e-2, 3),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=12),
    "ReduceLROnPlateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=1),
    "SWALR": lambda opt: SWALR(opt, 1e-4, anneal_epochs=4),
}
# Against lr they cycle beta1.
MOVE_BETA1 = ("CyclicLR", "OneCycleLR")


class Decay:
    """A factor for lr; an object, so that a scheduler can save it."""

    def __call__(self, step: int) -> float:
        return 0.9 if step % 2 else 1.0


def test_none_is_left_out() -> None:
    classes = inspect.getmembers(lr_scheduler, inspect.isclass)
    known = {
        name
        for name, kind in classes
        if issubclass(kind, lr_scheduler.LRScheduler) and not name.startswith("_") and name != "LRScheduler"
    }
    assert known <= MAKE.keys()


class Reference:
    """Algorithm 1 on a copy of a parameter, with whatever lr and betas the optimizer's group has at each step."""

    def __init__(self, p: torch.Tensor) -> None:
        self.theta = p.detach().numpy().copy()
        self.state = reference.State.zeros(self.theta)

    def step(self, p: torch.Tensor, lr: float, betas: tuple[float, float]) -> None:
        self.theta, self.state = reference.step(self.theta, p.grad.numpy(), self.state, lr=lr, betas=betas)

    def check(self, p: torch.Tensor) -> None:
        np.testing.assert_allclose(p.detach().numpy(), self.theta, rtol=1e-12, atol=1e-15)


def train(
    scheduler, optimizer: torch.optim.Optimizer, p: torch.Tensor, steps: range, beside: Reference | None = None
) -> list[tuple[float, float]]:
    """The lr and beta1 that each step was made with."""
    used = []
    for t in steps:
        p.grad = (p.detach() - 1) * (1 + t % 3)
        (group,) = optimizer.param_groups
        used.append((float(group["lr"]), float(group["betas"][0])))
        if beside is not None:
            beside.step(p, group["lr"], group["betas"])
        optimizer.step()
        if beside is not None:
            beside.check(p)
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
    return used


@pytest.mark.filterwarnings("ignore:.*deprecated|.*lr_scheduler.step")
@pytest.mark.parametrize("name", MAKE)
def test_scheduler(name: str) -> None:
    trained = {}
    for kind in (AdaMomentum, torch.optim.Adam):
        p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = kind([p], lr=1e-2)
        trained[kind] = optimizer, MAKE[name](optimizer), p
    optimizer, scheduler, p = trained[AdaMomentum]
    adam, adams, q = trained[torch.optim.Adam]
    beside = Reference(p)
    first = train(scheduler, optimizer, p, range(5), beside)
    assert first == train(adams, adam, q, range(5))
    saved = deepcopy((optimizer.state_dict(), scheduler.state_dict(), p.detach()))

    rest = train(scheduler, optimizer, p, range(5, 11), beside)
    assert rest == train(adams, adam, q, range(5, 11))
    assert len({lr for lr, _ in first + rest}) > 1
    assert (len({beta1 for _, beta1 in first + rest}) > 1) == (name in MOVE_BETA1)

    resumed = saved[2].clone().requires_grad_()
    other = AdaMomentum([resumed], lr=1e-2)
    other_scheduler = MAKE[name](other)
    other.load_state_dict(saved[0])
    other_scheduler.load_state_dict(saved[1])
    assert train(other_scheduler, other, resumed, range(5, 11)) == rest
    torch.testing.assert_close(resumed, p, rtol=0, atol=0)
