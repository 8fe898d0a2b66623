"""The optimizers under test as their libraries ship them, stepped on NumPy arrays in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adamomentum.study.registry import OPTIMIZERS
from adamomentum.theory.common import Array

if TYPE_CHECKING:
    import torch

LABELS = {name: optimizer.label for name, optimizer in OPTIMIZERS.items()}
COLOURS = {name: optimizer.colour for name, optimizer in OPTIMIZERS.items()}

# What is given beside the options. The multi-tensor paths pay off from some tensors on; here there is always one, and
# the registry leaves them out for AdaBelief itself.
_PLAIN: dict[str, dict[str, Any]] = {
    "adamomentum": {"foreach": False},
    "adam": {"foreach": False},
    "adamw": {"foreach": False},
    # torch's momentum is a sum: at 0.9 lr means 10 times what it means for a moving average.
    "sgdm": {"foreach": False, "momentum": 0.9},
    "adabelief": {"eps": 1e-16, "rectify": False, "weight_decay": 0.0},
}


def _build(name: str) -> Callable[..., torch.optim.Optimizer]:
    if name not in _PLAIN:
        raise ValueError(f"no stepper is called {name!r}; there are {', '.join(_PLAIN)}")
    return lambda params, **options: OPTIMIZERS[name].build(params, **{**_PLAIN[name], **options})


class Stepper:
    """An optimizer on one array of parameters.

    Args:
        name: adamomentum, adam, adamw, sgdm (momentum 0.9) or adabelief (not rectified).
        theta: where it starts, any shape; a copy is made.
        options: arguments of the optimizer, by the names of its class.

    Attributes:
        theta: the parameters, float64; may be changed in place between steps, e.g. projected.

    Raises:
        ValueError: if the optimizer or an option is not known or not possible.
    """

    def __init__(self, name: str, theta: Array, **options: Any) -> None:
        import torch

        self.name = name
        self.theta = np.array(theta, dtype=np.float64)
        # Both look at the same memory.
        self._parameter = torch.from_numpy(self.theta)
        self._from_numpy = torch.from_numpy
        self._optimizer = _build(name)([self._parameter], **options)

    def step(self, gradient: Array) -> None:
        """Make one step against ``gradient``, of the parameters' shape."""
        self._parameter.grad = self._from_numpy(np.ascontiguousarray(gradient, dtype=np.float64))
        self._optimizer.step()

    def set(self, **options: Any) -> None:
        """Change options, e.g. ``lr`` or ``betas``, from the next step on."""
        group: dict[str, Any] = self._optimizer.param_groups[0]
        unknown = options.keys() - group.keys()
        if unknown:
            raise ValueError(f"{self.name} has no option {', '.join(sorted(unknown))}; there are {', '.join(group)}")
        group.update(options)

    @property
    def state(self) -> Mapping[str, Array]:
        """The optimizer's state by its own names, as arrays: ``exp_avg``, ``exp_avg_sq``, ...; empty before a step."""
        state = self._optimizer.state.get(self._parameter, {})
        return {name: value.numpy() for name, value in state.items() if hasattr(value, "numpy")}

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Drop all entries along the first axis for which ``rows`` is False, from parameters and state alike."""
        import torch

        chosen = torch.from_numpy(rows)
        old, state = self._parameter, self._optimizer.state.pop(self._parameter, {})
        self.theta = self.theta[rows]
        self._parameter = self._from_numpy(self.theta)
        self._optimizer.param_groups[0]["params"] = [self._parameter]
        if state:
            self._optimizer.state[self._parameter] = {
                key: value[chosen].clone() if getattr(value, "shape", None) == old.shape else value
                for key, value in state.items()
            }
