"""The tensors that all optimizers of a workload share: parameters, gradients and two moments."""

from __future__ import annotations

import random
from math import prod

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from adamomentum.bench.workloads import Shapes

__all__ = ["SharedTensors", "inner_tensors"]

# Under which names optimizers keep moments like Adam's first and second.
FIRST = ("exp_avg", "momentum_buffer", "state1")
SECOND = ("exp_avg_sq", "exp_avg_var", "state2")


class SharedTensors:
    """Parameters with gradients, and the moments that every optimizer is made to use.

    Each tensor is the beginning of an allocation of random size, up to 5 % larger: sizes that are powers of two, and
    the same size every time, would measure one placement in memory rather than the optimizer.

    Args:
        shapes: of the parameters.
        device: where they live.
        seed: of the values and of the sizes.
    """

    def __init__(self, shapes: Shapes, device: torch.device, seed: int = 0) -> None:
        self._sizes = random.Random(seed)
        generator = torch.Generator(device).manual_seed(seed)

        def tensors() -> list[Tensor]:
            return [self._empty(shape, device).normal_(generator=generator) for shape in shapes]

        # Whole lists one after the other, as training leaves them.
        self.params = [Parameter(t) for t in tensors()]
        self.grads = tensors()
        self.first = tensors()
        self.second = [t.square_() for t in tensors()]
        for p, grad in zip(self.params, self.grads, strict=True):
            p.grad = grad

    def _empty(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        n = prod(shape)
        return torch.empty(n + self._sizes.randint(1, 1 + n // 20), device=device)[:n].view(shape)

    @property
    def numel(self) -> int:
        """The number of parameters."""
        return sum(p.numel() for p in self.params)

    def lend_moments(self, optimizer: Optimizer) -> bool:
        """Put the shared moments in the place of the optimizer's own, where they are of the same form.

        The optimizer takes one step, to show that it uses what it was given.

        Args:
            optimizer: one of :attr:`params`, whose state exists.

        Returns:
            Whether all its tensors with an element for each parameter are shared ones now.

        Raises:
            RuntimeError: if the optimizer goes on with the moments it had.
        """
        shared = []
        for p, *moments in zip(self.params, self.first, self.second, strict=True):
            state = optimizer.state.get(p, {})
            for names, moment in zip((FIRST, SECOND), moments, strict=True):
                for name in names:
                    own = state.get(name)
                    if type(own) is Tensor and own.dtype == moment.dtype and own.shape == moment.shape:
                        state[name] = moment
                        shared.append(moment)
        if shared:
            shared[0].zero_()
            optimizer.step()
            if not shared[0].any():
                raise RuntimeError("it keeps using moments of its own after its state was replaced")
        lent = {moment.data_ptr() for moment in shared}
        # A 0-dim step count, a table of codes or a scale for each block is not what this is about.
        return all(
            t.data_ptr() in lent
            for p in self.params
            for value in optimizer.state.get(p, {}).values()
            for t in inner_tensors(value)
            if t.numel() >= p.numel() > 1
        )


def inner_tensors(value: object) -> list[Tensor]:
    """Return the plain tensors that make up a tensor (a subclass may hold several); none if it is not a tensor."""
    if not isinstance(value, Tensor):
        return []
    if hasattr(value, "__tensor_flatten__"):
        names, _ = value.__tensor_flatten__()
        return [t for name in names for t in inner_tensors(getattr(value, name))]
    return [value]
