"""The update of adamomentum.keras on Keras's torch backend: one pass over all variables, as Keras's own Adam has there.

Imported on that backend alone.

Tested in tests/keras_suite.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adamomentum.torch.foreach import foreach_update
from adamomentum.torch.rounding import narrowed
from adamomentum.torch.rule import Rule, update_one
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
    adjust_lr: bool,
    lookahead: bool,
    nesterov: bool,
    full_bias_correction: bool,
    passes: int,
    rounded_by_chance: Mapping[int, float],
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
        adjust_lr: divide the second moment by its mean in white noise.
        lookahead: average the square of the look-ahead momentum.
        nesterov: move by the look-ahead momentum.
        full_bias_correction: average the square of the bias-corrected momentum.
        passes: batches a step, of whose gradients, all but these, the mean is in the first moments.
        rounded_by_chance: the places of the variables, all bfloat16, that are rounded stochastically, and the decay
            of each, 0 for none; Keras has decayed the others already.
    """
    rule = Rule(
        lr=learning_rate,
        beta1=beta_1,
        beta2=beta_2,
        eps=epsilon,
        weight_decay=0.0,
        amsgrad=largest is not None,
        decoupled_weight_decay=True,
        fixed_decay=False,
        rectify=False,
        full_bias_correction=full_bias_correction,
        grad_factor=1 / passes,
        differentiable=False,
        adjust_lr=adjust_lr,
        lookahead=lookahead,
        nesterov=nesterov,
        passes=passes,
    )
    if iterations.is_cpu and not torch.compiler.is_compiling():
        numbers = [numbers_at(int(iterations) + 1, rule._replace(lr=float(learning_rate)))] * len(variables)
    else:  # reading them would wait for the device
        numbers = numbers_on_device([iterations + 1] * len(variables), momentums, rule)
    columns = [variables, _dense(gradients), momentums, velocities, largest or velocities]
    together = [i for i in range(len(variables)) if i not in rounded_by_chance]
    foreach_update([[column[i] for i in together] for column in columns], [numbers[i] for i in together], rule)
    for i, decay in rounded_by_chance.items():  # one by one, each in a float32 copy
        variable, gradient, m, v, v_max = (column[i] for column in columns)
        theta = variable.float()
        if decay:
            theta.mul_(1 - decay * learning_rate)
        update_one(theta, gradient, m, v, v_max, numbers[i], rule)
        narrowed(theta, variable, None, "stochastic", iterations + 1)


@torch.no_grad()
def foreach_add(accumulators: list[Tensor], gradients: Sequence[Tensor], weight: float = 1.0) -> None:
    """Add a gradient to each accumulator, in place.

    Args:
        accumulators: one a gradient.
        gradients: as :func:`foreach_step` takes them.
        weight: what each gradient is multiplied by.
    """
    torch._foreach_add_(accumulators, _dense(gradients), alpha=weight)


@torch.no_grad()
def foreach_zero(accumulators: list[Tensor]) -> None:
    """Set them to 0, whatever they hold.

    Args:
        accumulators: at least one.
    """
    torch._foreach_zero_(accumulators)


def _dense(gradients: Sequence[Tensor]) -> list[Tensor]:
    return [g.to_dense() if g.layout != torch.strided else g for g in gradients]
