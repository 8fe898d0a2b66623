r"""What the second moment averages the square of, and what its mean is in noise: the drop-in for AdamW.

Algorithm 1 averages the square of the momentum m. The choices beside it, for which :mod:`adamomentum.reference` is the
specification:

* ``second_moment="lookahead"`` averages the square of n = b1 m + (1 - b1) g, the momentum that Nesterov's method
  applies. Gradients that alternate in sign cancel in m; n still sees more than half of them, and brakes.
* ``adjust_lr="match_rms_adamw"`` divides v by kappa_t, its mean in white noise of variance 1, in place of 1 - b2^t.
  What comes out estimates what Adam's second moment does, so steps are as long as AdamW's at the same learning rate.

Both are scalars of t and the betas: no state, and no pass over the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from adamomentum import reference

__all__ = [
    "ADJUSTMENTS",
    "SECOND_MOMENTS",
    "AdjustLR",
    "SecondMoment",
    "adam_ratio",
    "check_choices",
    "checked_lookahead",
    "looks_ahead",
    "white_noise_mean",
]

#: What ``adjust_lr`` is, where it is not None.
AdjustLR = Literal["match_rms_adamw"]
#: What ``second_moment`` is, likewise.
SecondMoment = Literal["momentum", "lookahead"]

#: The values of :data:`AdjustLR`.
ADJUSTMENTS = get_args(AdjustLR)
#: The values of :data:`SecondMoment`.
SECOND_MOMENTS = get_args(SecondMoment)


def check_choices(options: Mapping[str, Any]) -> None:
    """Check ``adjust_lr``, ``second_moment`` and ``nesterov``, and what they do not go with.

    Args:
        options: values by name; ``nesterov`` is a bool by now, and so is ``full_bias_correction`` if it is there.

    Raises:
        ValueError: if one is not among its choices, or contradicts ``full_bias_correction``.
    """
    for name, choices in (("adjust_lr", ADJUSTMENTS), ("second_moment", SECOND_MOMENTS)):
        value = options[name]
        if value is not None and not (isinstance(value, str) and value in choices):
            raise ValueError(f"{name} must be None or one of {', '.join(map(repr, choices))}, got {value!r}")
    if not options.get("full_bias_correction"):
        return
    if options["adjust_lr"]:
        raise ValueError(
            f"adjust_lr={options['adjust_lr']!r} does not go with full_bias_correction=True: both make the first step "
            "as long as lr, and its mean in noise is that of the uncorrected momentum; leave full_bias_correction=False"
        )
    if looks_ahead(options) or options["nesterov"]:
        raise ValueError(
            "full_bias_correction=True corrects the momentum, not the look-ahead momentum that second_moment="
            f"{options['second_moment']!r} with nesterov={options['nesterov']} takes; leave it False, or set "
            "second_moment='momentum' and nesterov=False"
        )


def checked_lookahead(adjust_lr: Any, second_moment: Any, nesterov: Any, full_bias_correction: Any) -> bool:
    """Check the four options as their users wrote them, and return whether v averages the look-ahead momentum's square.

    Raises:
        TypeError: if a switch is no bool.
        ValueError: as :func:`check_choices` raises it.
    """
    for name, value in (("nesterov", nesterov), ("full_bias_correction", full_bias_correction)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    options = {
        "adjust_lr": adjust_lr,
        "second_moment": second_moment,
        "nesterov": nesterov,
        "full_bias_correction": full_bias_correction,
    }
    check_choices(options)
    return looks_ahead(options)


def looks_ahead(options: Mapping[str, Any]) -> bool:
    """Whether v averages the square of the look-ahead momentum.

    Left to None, ``second_moment`` is "lookahead" with ``adjust_lr`` or ``nesterov`` and "momentum" without.

    Args:
        options: ``adjust_lr``, ``second_moment`` and ``nesterov`` by name, as :func:`check_choices` takes them.
    """
    if options["second_moment"] is None:
        return bool(options["adjust_lr"] or options["nesterov"])
    return bool(options["second_moment"] == "lookahead")


def adam_ratio(t: float, beta1: float, beta2: float, *, lookahead: bool = False) -> float:
    """Return the mean of v_t over that of Adam's second moment, in white noise at equal betas.

    By this factor Adam's second moment continues as AdaMomentum's: kappa_t / (1 - beta2^t).

    Args:
        t: number of steps, > 0; infinity for the limit.
        beta1: decay rate of the first moment.
        beta2: decay rate of the second moment.
        lookahead: whether v averages the square of the look-ahead momentum.
    """
    if math.isinf(t):
        beta2 = 0.0  # the limit is the same for all
    correction2 = -math.expm1(t * math.log(beta2)) if beta2 else 1.0
    return reference.white_noise_mean(t, (beta1, beta2), lookahead=lookahead) / correction2


def white_noise_mean(
    t: Any, beta1: Any, beta2: Any, correction2: Any, *, array: Any, lookahead: bool = False, passes: float = 1.0
) -> Any:
    """:func:`adamomentum.reference.white_noise_mean` for arrays, with derivatives that are finite.

    Args:
        t: step counts from 1, an array.
        beta1: decay rate of the first moment, a float or an array.
        beta2: decay rate of the second moment, likewise; in torch both are floats or both are tensors.
        correction2: 1 - beta2^t, which its caller has.
        array: the module of t: ``torch``, ``jax.numpy`` or ``keras.ops``.
        lookahead: whether v averages the square of the look-ahead momentum.
        passes: micro-batches a step of which the last one's gradient stands for all, as the reference explains it.

    Returns:
        kappa_t, an array shaped like t.
    """
    p = beta1**2 if lookahead else beta1
    q2 = (1 - beta1) ** 2 * ((1 + beta1) ** 2 + (passes - 1) if lookahead else 1)
    c = (1 - beta1) / (1 + beta1)
    later = correction2 - (1 - beta2) * _sum_of_powers(t, beta1**2, beta2, array)
    return q2 * correction2 + p**2 * c * later


def _sum_of_powers(t: Any, a: Any, b: Any, array: Any) -> Any:
    """Return the sum over s = 1..t of a^(s-1) b^(t-s), which is (b^t - a^t) / (b - a), without its cancellation."""
    if isinstance(a, float | int) and isinstance(b, float | int):
        high, low = max(a, b), min(a, b)
        power = array.exp((t - 1) * math.log(high)) if high else 0 * t
        gap = (high - low) / high if low else 1.0
        return power * (t if gap == 0 else 1.0 if gap == 1 else -array.expm1(t * math.log1p(-gap)) / gap)
    high, low = array.maximum(a, b), array.minimum(a, b)
    some = array.where(high > 0, high, 0.5)  # what where() leaves out must have a finite derivative too
    gap = (high - low) / some
    inside = array.where((gap > 0) & (gap < 1), gap, 0.5)
    at_1 = array.where(t > 1, 2 - gap, 1.0)  # 1, and its derivative where the lower one begins to count
    ratio = array.where(gap == 0, t, array.where(gap == 1, at_1, -array.expm1(t * array.log1p(-inside)) / inside))
    return array.where(high > 0, array.exp((t - 1) * array.log(some)) * ratio, 0.0)
