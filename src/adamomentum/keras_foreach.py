"""The update of adamomentum.keras on Keras's torch backend: one pass over all variables, as Keras's own Adam has there.

Imported on that backend alone.

Tested in tests/keras_suite.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adamomentum.torch.foreach import foreach_update
from adamomentum.torch.rule import Rule
from adamomentum.torch.scalars import numbers_at, numbers_on_device

__all__ = ["foreach_add", "foreach_step", "foreach_zero"]


@torch.no_grad()
def foreach_step(
    variables: list[Tensor],
    gradients: Sequence[Tensor],
    momentums: list[Tensor],
    velocities: list[Tensor],
    largest: list[Tensor] | None,
    *,
    iterations: Tensor,
    learning_rate: float | Tensor,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> None:
    """Update variables and their moments in place. Devices and dtypes may differ from variable to variable.

    Args:
        variables: of the model.
        gradients: one a variable and shaped like it; dense, or sparse as ``torch.nn.Embedding`` makes them.
        momentums: the first moments, float32 or float64.
        velocities: the second moments, in the same dtypes.
        largest: with amsgrad the largest second moments, epsilon included; else None.
        iterations: steps before this one, shape ().
        learning_rate: of this step; a tensor has shape ().
        beta_1: decay rate of the first moment.
        beta_2: decay rate of the second moment.
        epsilon: added to the second moment at every step.
    """
    rule = Rule(
        lr=learning_rate,
        beta1=beta_1,
        beta2=beta_2,
        eps=epsilon,
        weight_decay=0.0,  # Keras has decayed the variables already
        amsgrad=largest is not None,
        decoupled_weight_decay=True,
        fixed_decay=False,
        rectify=False,
        full_bias_correction=False,
        grad_factor=1.0,
        differentiable=False,
    )
    if iterations.is_cpu and not torch.compiler.is_compiling():
        numbers = [numbers_at(int(iterations) + 1, rule._replace(lr=float(learning_rate)))] * len(variables)
    else:  # reading them would wait for the device
        numbers = numbers_on_device([iterations + 1] * len(variables), momentums, rule)
    foreach_update([variables, _dense(gradients), momentums, velocities, largest or velocities], numbers, rule)


@torch.no_grad()
def foreach_add(accumulators: list[Tensor], gradients: Sequence[Tensor]) -> None:
    """Add a gradient to each accumulator, in place.

    Args:
        accumulators: one a gradient.
        gradients: as :func:`foreach_step` takes them.
    """
    torch._foreach_add_(accumulators, _dense(gradients))


@torch.no_grad()
def foreach_zero(accumulators: list[Tensor]) -> None:
    """Set them to 0, whatever they hold.

    Args:
        accumulators: at least one.
    """
    torch._foreach_zero_(accumulators)


def _dense(gradients: Sequence[Tensor]) -> list[Tensor]:
    return [g.to_dense() if g.layout != torch.strided else g for g in gradients]
