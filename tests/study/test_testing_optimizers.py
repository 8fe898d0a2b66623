"""``check_optimizer``: those of the registry keep all promises; one that is broken is noticed by the check for it."""

from __future__ import annotations

import random
import re

import pytest
import torch

from adamomentum.study import registry
from adamomentum.study.testing import ContractError, check_optimizer
from adamomentum.study.testing.optimizers import CHECKS


class Momentum(torch.optim.Optimizer):
    """Heavy ball; keeps all promises."""

    def __init__(self, params, lr, momentum=0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def gradient(self, p):
        return p.grad

    def rate(self, group):
        return group["lr"]

    def buffer(self, p):
        state = self.state[p]
        if "buffer" not in state:
            state["buffer"] = torch.zeros_like(p)
        return state["buffer"]

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, group)
        return loss

    def update(self, p, group) -> None:
        buffer = self.buffer(p).mul_(group["momentum"]).add_(self.gradient(p))
        p.sub_((self.rate(group) * buffer).to(p.dtype))


# --- what keeps all promises ---


@pytest.mark.parametrize("name", list(registry.OPTIMIZERS))
def test_the_registry(name) -> None:
    check_optimizer(name)
    check_optimizer(name, lr=3e-3, shapes=[(3, 4), (), (2, 1, 2)])


def test_an_optimizer_of_ones_own() -> None:
    check_optimizer(Momentum, {"momentum": 0.5})
    check_optimizer(f"{__name__}:Momentum")


# --- what does not ---


class Halving(Momentum):
    def __init__(self, params, lr) -> None:
        super().__init__(params, lr / 2)


class TakesAll(Momentum):
    def __init__(self, params, lr, **others) -> None:
        super().__init__(params, lr)


class Climbing(Momentum):
    def gradient(self, p):
        return -p.grad


class Decaying(Momentum):
    def gradient(self, p):
        return p.grad.add_(p, alpha=0.1)


class Replacing(Momentum):
    def gradient(self, p):
        p.grad = p.grad.clone()
        return p.grad


class NeedsAll(Momentum):
    def step(self, closure=None):
        assert all(p.grad is not None for group in self.param_groups for p in group["params"]), "no gradient"
        return super().step(closure)


class Coasting(Momentum):
    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for p, state in self.state.items():
            if p.grad is None:
                p.sub_(state["buffer"])
        return loss


class Keeping(Momentum):
    def zero_grad(self, set_to_none=True) -> None:
        super().zero_grad(set_to_none=False)


class FixedRate(Momentum):
    def rate(self, group):
        return self.defaults["lr"]


class FirstRate(Momentum):
    def rate(self, group):
        return self.param_groups[0]["lr"]


class Noisy(Momentum):
    def gradient(self, p):
        return p.grad + 1e-3 * random.random()


class Wasteful(Momentum):
    def gradient(self, p):
        torch.rand(())
        return p.grad


class Elsewhere(Momentum):
    def __init__(self, params, lr) -> None:
        super().__init__(params, lr)
        self.buffers = {}

    def buffer(self, p):
        return self.buffers.setdefault(id(p), torch.zeros_like(p))


class Opaque(Momentum):
    def update(self, p, group) -> None:
        super().update(p, group)
        self.state[p]["name"] = lambda: None


class Forgetting(Momentum):
    def load_state_dict(self, state) -> None:
        super().load_state_dict({**state, "state": {}})


class Wide(Momentum):
    def buffer(self, p):
        state = self.state[p]
        if "buffer" not in state or state["buffer"].dtype != torch.float64:
            state["buffer"] = torch.zeros_like(p, dtype=torch.float64) + state.get("buffer", 0)
        return state["buffer"]


class Deaf(Momentum):
    def step(self, closure=None):
        return super().step()


class Mute(Momentum):
    def step(self, closure=None) -> None:
        super().step(closure)


class Late(Momentum):
    def step(self, closure=None):
        super().step()
        return None if closure is None else closure()


class Gradless(Momentum):
    def step(self, closure=None):
        with torch.no_grad():
            loss = None if closure is None else closure()
        super().step()
        return loss


class Strict(Momentum):
    def gradient(self, p):
        assert p.grad.isfinite().all(), "not finite"
        return p.grad


def local_optimizer() -> type[Momentum]:
    class Local(Momentum):
        pass

    return Local


BROKEN = [
    (local_optimizer(), "its_name_leads_to_it", "module '.*' .*has no 'local_optimizer.<locals>.Local'"),
    (type("Wide", (Momentum,), {"__module__": __name__}), "its_name_leads_to_it", "is another class"),
    (Halving, "it_is_built_by_keyword", "the lr of a group is 0.005 where 0.01 was given"),
    (TakesAll, "unknown_hyperparameters_are_refused", "takes 'no_such_hyperparameter' without a word"),
    (Climbing, "it_descends", r"in 40 steps on half the squared norm it comes from [\d.]+ to [\d.e+]+"),
    (Decaying, "gradients_are_left_as_they_are", "step 1 changes p.grad"),
    (Replacing, "gradients_are_left_as_they_are", "step 1 changes p.grad"),
    (NeedsAll, "parameters_without_a_gradient_stay", "it raised AssertionError: no gradient"),
    (Coasting, "parameters_without_a_gradient_stay", "a step without gradients moves the parameters"),
    (Keeping, "parameters_without_a_gradient_stay", "there are gradients"),
    (FixedRate, "each_step_reads_the_learning_rate", "at 1 / 8 of the learning rate a step is of length"),
    (FirstRate, "groups_have_their_own_learning_rate", "a group at 1 / 8 of the learning rate moves by"),
    (Noisy, "it_is_deterministic", "8 steps, made twice, end at different numbers"),
    (Wasteful, "global_generators_are_left_alone", "draws from the global generator of torch"),
    (Elsewhere, "it_goes_on_from_its_state_bit_for_bit", "from its state after step 1 it ends .* away"),
    (Opaque, "it_goes_on_from_its_state_bit_for_bit", "a checkpoint cannot hold it"),
    (Forgetting, "it_goes_on_from_its_state_bit_for_bit", "the state_dict of step 1 is another one"),
    (
        Wide,
        "state_is_where_and_of_what_the_parameter_is",
        "'buffer' is torch.float64 on cpu, its parameter .*32",
    ),
    (Deaf, "a_closure_is_optional", "must return the closure's loss, 8.0, got None"),
    (Mute, "a_closure_is_optional", "must return the closure's loss, 8.0, got None"),
    (Late, "a_closure_is_optional", "end elsewhere"),
    (Gradless, "a_closure_is_optional", "called without gradients"),
    (Strict, "gradients_that_are_not_finite_are_no_error", "it raised AssertionError: not finite"),
]


@pytest.mark.parametrize(("subject", "check", "what"), BROKEN, ids=[subject.__name__ for subject, _, _ in BROKEN])
def test_a_broken_promise_is_noticed(subject, check, what) -> None:
    with pytest.raises(ContractError) as caught:
        check_optimizer(subject)
    assert caught.value.check == check, caught.value
    first, why, remedy = str(caught.value).split("\n", 2)[:3]
    assert re.search(f"{subject.__name__} fails the check '{check}': .*{what}", first), first
    assert why.startswith("Why it matters: ")
    assert remedy.startswith("Remedy: ")


def test_every_check_is_seen_to_fail() -> None:
    assert {check for _, check, _ in BROKEN} == {check.name for check in CHECKS.series}


def test_a_check_may_be_left_out() -> None:
    check_optimizer(Wide, skip=["state_is_where_and_of_what_the_parameter_is", "it_goes_on_from_its_state_bit_for_bit"])
    with pytest.raises(ValueError, match="skip names 'state', which is no check; there are: its_name_leads_to_it"):
        check_optimizer(Momentum, skip=["state"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", list(registry.OPTIMIZERS))
def test_the_registry_on_a_gpu(name) -> None:
    check_optimizer(name, device="cuda")
