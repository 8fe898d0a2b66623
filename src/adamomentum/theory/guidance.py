"""Numbers for who comes from Adam or AdamW to Algorithm 1 as printed: lr, weight decay, warm-up, eps.

With ``adjust_lr="match_rms_adamw"`` there is nothing to convert: lr, weight decay, schedule and warm-up stay AdamW's
(:mod:`adamomentum.theory.drop_in`). Of what is here :func:`eps_floor` alone says something of it: its floor is
sqrt((1 - beta2^t) / kappa_t) times as high, late in training 3.76 times at beta1 = 0.9.

Pure functions, in closed form; :mod:`adamomentum.theory.moments` has the formulas and their assumptions. What they
return is where to start a search, not its outcome: gradients in a network are neither stationary nor of one signal to
noise ratio. In the small network of ``adamomentum theory --full --only network`` AdaMomentum moves 4.9 to 5.4 times as
far as Adam at equal lr, farther than white noise explains, so its best lr may be lower still. Where a run of Adam is at
hand, measure how long its updates are (``update_rms``) rather than assume a noise.
"""

from __future__ import annotations

import math

from adamomentum.theory.common import check_beta, check_betas, check_number
from adamomentum.theory.moments import adam_equivalent_lr, denominator_floor, noise_attenuation
from adamomentum.theory.transients import startup_profile, warmup_peak

__all__ = [
    "eps_floor",
    "eps_like_adam",
    "lr_at_beta1",
    "suggest_lr",
    "suggest_weight_decay",
    "warmup_steps",
]

# More steps of warm-up than any training has; the search stops here.
_LONGEST_WARMUP = 2**20
# 1 / (1 - 0.9) is a little above 10.
_ROUNDING = 1 + 1e-12


def suggest_lr(
    adam_lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    *,
    signal_to_noise: float = 0.0,
    update_rms: float | None = None,
) -> float:
    """Return the lr at which AdaMomentum's updates are as long as Adam's.

    Theirs are 1 lr long (root mean square), whether the gradient is steady, noise or alternating; so this is adam_lr
    times the length of Adam's, in units of its lr. That length is ``update_rms`` where it was measured. Else it is that
    of stationary gradients with white noise, sqrt((a + r^2) / (1 + r^2)), a = (1 - beta1) / (1 + beta1): Adam's lr
    divided by 4.36 (beta1 = 0.9) where the gradient is mostly noise, and Adam's lr where there is none.

    Gradients that alternate make it shorter still, down to a: a large batch, which has less noise, does not bring the
    two optimizers closer where it has the steepest directions swing from step to step.

    Args:
        adam_lr: a learning rate that suits Adam or AdamW.
        betas: decay rates, of both optimizers; beta2 does not enter, and neither does with ``update_rms``.
        signal_to_noise: r, mean of the gradient over its standard deviation, typical of a coordinate: 0 for pure noise,
            infinite without noise.
        update_rms: root mean square of Adam's updates over many coordinates, in units of lr, without weight decay. From
            its state after t steps, t well beyond 1 / (1 - beta1): the root of the mean of
            ``exp_avg**2 * (1 - beta2**t) / exp_avg_sq`` over the coordinates with ``exp_avg_sq > 0``. Above 1, as
            while gradients grow, it counts as 1.

    Returns:
        Where to start the search for AdaMomentum's learning rate.

    Raises:
        ValueError: if an argument is out of range, or both ``signal_to_noise`` and ``update_rms`` are given.
    """
    adam_lr = check_number("adam_lr", adam_lr, "a learning rate that suits Adam", positive=False)
    return adam_lr / _factor(betas, signal_to_noise, update_rms)


def suggest_weight_decay(
    adam_weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    *,
    signal_to_noise: float = 0.0,
    update_rms: float | None = None,
) -> float:
    """Return the decoupled weight decay that keeps lr * weight_decay at AdamW's where lr is from :func:`suggest_lr`.

    Args:
        adam_weight_decay: AdamW's.
        betas: as for :func:`suggest_lr`.
        signal_to_noise: likewise.
        update_rms: likewise.

    Returns:
        The weight decay for AdaMomentum with its default, decoupled kind. (With ``fixed_decay=True`` it is not scaled
        by lr: leave that as it is.)

    Raises:
        ValueError: if an argument is out of range, or both ``signal_to_noise`` and ``update_rms`` are given.
    """
    adam_weight_decay = check_number(
        "adam_weight_decay", adam_weight_decay, "the decoupled weight decay of AdamW", positive=False
    )
    return adam_weight_decay * _factor(betas, signal_to_noise, update_rms)


def _factor(betas: tuple[float, float], signal_to_noise: float, update_rms: float | None) -> float:
    """Return how many times as long as Adam's AdaMomentum's updates are at equal lr."""
    beta1, _ = check_betas(betas)
    if not signal_to_noise >= 0:
        raise ValueError(
            f"signal_to_noise must be >= 0, got {signal_to_noise}; it is the size of the gradient's mean over its "
            "standard deviation, 0 for pure noise"
        )
    if update_rms is None:
        return adam_equivalent_lr(1.0, beta1, signal_to_noise)
    if signal_to_noise:
        raise ValueError(
            f"update_rms and signal_to_noise must not both be given, got {update_rms} and {signal_to_noise}: the "
            "length of Adam's updates is measured, or follows from the noise"
        )
    what = "the RMS of Adam's updates in units of lr, over the coordinates with exp_avg_sq > 0"
    return 1 / min(1.0, check_number("update_rms", update_rms, what))


def lr_at_beta1(lr: float, beta1: float, new_beta1: float) -> float:
    """Return the lr that goes with another beta1, where the gradient is mostly noise.

    AdaMomentum's noise floor and the distance that it travels in noise grow with sqrt((1 + beta1) / (1 - beta1)), which
    this lr takes out. Adam's do not depend on beta1.

    Args:
        lr: a learning rate that suits AdaMomentum with ``beta1``.
        beta1: decay rate of the first moment.
        new_beta1: the one to change to.

    Returns:
        The learning rate for ``new_beta1``.

    Raises:
        ValueError: if an argument is out of range.
    """
    lr = check_number("lr", lr, "the learning rate", positive=False)
    check_beta("beta1", beta1)
    check_beta("new_beta1", new_beta1)
    return lr * math.sqrt(noise_attenuation(new_beta1) / noise_attenuation(beta1))


def warmup_steps(betas: tuple[float, float] = (0.9, 0.999), *, peak: float = 1.1) -> int:
    """Return the fewest steps of linear warm-up with which no step exceeds ``peak`` * lr, for a constant gradient.

    Step t, counted from 1, is made with lr * min(1, t / steps). Without warm-up AdaMomentum's first step is
    lr / (1 - beta1). The gradient is assumed constant. In noise the RMS of the steps falls sooner; gradients that keep
    growing, or a single one far above all before it, still make longer steps, up to lr / sqrt(1 - beta2).
    ``full_bias_correction=True`` makes the warm-up unnecessary in this respect.

    Args:
        betas: decay rates.
        peak: the longest step allowed, in units of the full lr, > 1.

    Returns:
        How many; 0 if none are needed.

    Raises:
        ValueError: if an argument is out of range, or more than a million steps would be needed.
    """
    beta1, _ = check_betas(betas)
    if not peak > 1 and beta1 > 0:
        raise ValueError(f"peak must be > 1, got {peak}; every step is a little longer than lr, so try 1.1")
    if startup_profile(1, betas)[0] <= peak * _ROUNDING or beta1 == 0:
        return 0
    # The peak falls as the warm-up gets longer, so the answer can be bracketed and bisected.
    too_few, enough = 1, 2
    while warmup_peak(enough, betas) > peak * _ROUNDING:
        if enough >= _LONGEST_WARMUP:
            raise ValueError(f"peak must not be so near to 1: {peak} takes more than {enough} steps with betas {betas}")
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if warmup_peak(middle, betas) <= peak * _ROUNDING else (middle, enough)
    return enough


def eps_floor(eps: float, beta2: float = 0.999) -> float:
    """Return the smallest denominator, sqrt(eps / (1 - beta2)): coordinates whose momentum is below it move as in SGD.

    Args:
        eps: AdaMomentum's, which is added to v at every step and accumulates there.
        beta2: decay rate of the second moment.

    Returns:
        The floor, in units of the gradient: 3.2e-7 for the default eps, 3.2e-3 for 1e-8.

    Raises:
        ValueError: if an argument is out of range.
    """
    return denominator_floor(eps, beta2)


def eps_like_adam(adam_eps: float, beta2: float = 0.999) -> float:
    """Return AdaMomentum's eps with the same smallest denominator as Adam's: adam_eps^2 (1 - beta2).

    1e-19 for Adam's 1e-8.

    Args:
        adam_eps: Adam's eps, added to the root.
        beta2: decay rate of AdaMomentum's second moment.

    Returns:
        AdaMomentum's eps.

    Raises:
        ValueError: if an argument is out of range.
    """
    adam_eps = check_number("adam_eps", adam_eps, "what Adam adds to the root of its second moment", positive=False)
    return adam_eps**2 * (1 - check_beta("beta2", beta2))
