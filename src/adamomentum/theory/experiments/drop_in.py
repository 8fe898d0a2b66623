"""The drop-in for AdamW: that its second moment estimates Adam's in noise, and what that does elsewhere.

``adjust_lr="match_rms_adamw"`` in both forms, v of the momentum and of the look-ahead momentum, beside Adam. What it
does to the bounds on regret and gradients is in :mod:`.drop_in_bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adamomentum.page.figures import INK, plain_ticks
from adamomentum.reference import white_noise_mean
from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.drop_in import (
    Averaged,
    ar1_length,
    denominator,
    longest_update,
    signal_profile,
    stable_lr,
    white_noise_share,
)
from adamomentum.theory.experiments.frequency import frequency_axes, update_rms
from adamomentum.theory.moments import ema_gain, noise_attenuation
from adamomentum.theory.responses import FAMILIES, adversarial, fresh, responses
from adamomentum.theory.steppers import COLOURS, LABELS, Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMS: tuple[Averaged, ...] = ("momentum", "lookahead")
BESIDE: tuple[Averaged, ...] = (*FORMS, "gradient")
WHOSE = {"momentum": "with v of the momentum", "lookahead": "with v of the look-ahead momentum", "gradient": "Adam's"}
DEFAULT = (0.9, 0.999)
# The defaults, what language models use, beta2 = beta1^2, GANs, a long memory.
BETAS = (DEFAULT, (0.9, 0.95), (0.95, 0.9025), (0.5, 0.999), (0.99, 0.999))
# Relative; what it is asked of are identities, so only rounding is left.
EXACT = 1e-9
# Steps of the sum over single gradients; sequences and steps of simulated noise.
IMPULSES: dict[Profile, int] = {"quick": 300, "full": 2000}
NOISE: dict[Profile, tuple[int, int]] = {"quick": (20_000, 300), "full": (40_000, 1500)}
# How far from Adam's the RMS of an update may be from step 5 on; that of the look-ahead's from step 60 on, at DEFAULT.
APART = {"momentum": 0.07, "lookahead": 0.13}
FROM, LATE, LATE_APART = 5, 60, 0.01
# Sequences of each family and steps, in the search for a longer update.
SEARCH: dict[Profile, tuple[int, int]] = {"quick": (60, 500), "full": (600, 1500)}
# Steps to bring v to rest, and steps of a swing left to itself.
STEADY, ALONE = 6000, {"quick": 6000, "full": 40_000}
# Sequences, steps to forget the start, steps to average over, for correlated noise.
CORRELATED = {"quick": (400, 2000, 2000), "full": (2000, 4000, 6000)}
PHIS = np.array([-0.9, -0.5, 0.0, 0.5, 0.9, 0.97])


def run(profile: Profile, seed: int) -> list[Claim]:
    """Run both forms, and Adam, on noise, on signals and on quadratics."""
    rng = np.random.default_rng([seed, 12])
    return [
        _unbiased(profile, rng),
        _length(profile, rng),
        _first_step(profile, rng),
        _alternating(profile, rng),
        _signal(profile, rng),
    ]


def options_of(averaged: Averaged) -> dict[str, Any]:
    """Return the drop-in's options for what v averages the square of."""
    return {"adjust_lr": "match_rms_adamw", "second_moment": averaged}


def drop_in(averaged: Averaged, shape: tuple[int, ...], **options: Any) -> Stepper:
    """Return the drop-in at lr 1, or Adam for ``gradient``, eps negligible."""
    if averaged == "gradient":
        return fresh("adam", shape, **options)
    return fresh("adamomentum", shape, **options_of(averaged), **options)


# Unbiased in white noise


def mean_second_moments(averaged: Averaged, betas: tuple[float, float], steps: int) -> tuple[Array, Array]:
    """Return the mean of v in white noise of variance 1, and what the optimizer divides v by, at each step.

    v is a sum of squares of what is linear in the gradients, and these are uncorrelated: its mean is the sum of the v
    that single gradients of 1 leave, one at each step. What v is divided by follows from an update, (m_hat / update)^2.

    Returns:
        Shape (steps,) each.
    """
    probe = np.cos(np.arange(steps))  # any gradients that are not 0
    stepper = drop_in(averaged, (steps + 1,), betas=betas)
    gradients = (np.append(np.arange(steps) == t, probe[t]).astype(np.float64) for t in range(steps))
    means, divisors = np.empty((2, steps))
    for t, (update,) in enumerate(responses([stepper], gradients)):
        m, v = stepper.state["exp_avg"], stepper.state["exp_avg_sq"]
        means[t] = v[:-1].sum()
        divisors[t] = v[-1] * (update[-1] * (1 - betas[0] ** (t + 1)) / m[-1]) ** 2
    return means, divisors


def _noises(rng: np.random.Generator, rows: int) -> Array:
    """Return white noise of variance 1: normal, of coins, and sparse; shape (3, rows)."""
    coins, rare = rng.uniform(size=(2, rows))
    sparse = np.where(rare < 0.1, np.sqrt(10), 0.0) * np.sign(coins - 0.5)
    return np.stack([rng.normal(size=rows), np.sign(coins - 0.5), sparse])


def _in_noise(
    averaged: Averaged, betas: tuple[float, float], divisors: Array, rows: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return how far the mean of v over its divisor is from 1 in simulated noise: in standard errors, and in all."""
    stepper = drop_in(averaged, (3, rows), betas=betas)
    marks = {t for t in (1, 2, 5, 20, 100, 1000) if t <= divisors.size}
    errors, off = 0.0, 0.0
    for t in range(1, max(marks) + 1):
        stepper.step(_noises(rng, rows))
        if t in marks:
            estimates = stepper.state["exp_avg_sq"] / divisors[t - 1]
            apart = np.abs(estimates.mean(axis=1) - 1)
            off = max(off, float(apart.max()))
            # Rounding alone: of coins the first v is known.
            errors = max(errors, float((apart / (estimates.std(axis=1, ddof=1) / math.sqrt(rows) + EXACT)).max()))
    return errors, off


def _unbiased(profile: Profile, rng: np.random.Generator) -> Claim:
    steps, rows = IMPULSES[profile], NOISE[profile][0] // 4
    checks, wrong = [], {}
    t = np.arange(1, steps + 1)
    curves: dict[str, Array] = {}
    for averaged in FORMS:
        exact, simulated = [], []
        for betas in BETAS:
            means, divisors = mean_second_moments(averaged, betas, steps)
            exact.append(float(np.abs(means / divisors - 1).max()))
            simulated.append(_in_noise(averaged, betas, divisors, rows, rng))
            if betas != DEFAULT:
                continue
            curves[averaged] = means / (1 - betas[1] ** t)
            lookahead = averaged == "lookahead"
            others = {
                "kappa of the next step": [white_noise_mean(int(k) + 1, betas, lookahead=lookahead) for k in t],
                "its limit times 1 - beta2^t": white_noise_share(betas[0], averaged) * (1 - betas[1] ** t),
                "1 - beta2^t": 1 - betas[1] ** t,
                "kappa of the other form": [white_noise_mean(int(k), betas, lookahead=not lookahead) for k in t],
            }
            for name, kappas in others.items():
                wrong[f"{name} ({averaged})"] = float(np.abs(means / np.asarray(kappas) - 1).max())
        worst_errors, worst_off = (max(values) for values in zip(*simulated, strict=True))
        checks += [
            Check(
                f"{WHOSE[averaged]}, betas {', '.join(map(str, BETAS))}: at each of the first {steps} steps the mean "
                f"of v in white noise over what it is divided by is 1; must be to {EXACT:g}, is to {max(exact):.1e}",
                max(exact) < EXACT,
            ),
            Check(
                f"{WHOSE[averaged]}: in {rows:,} sequences of simulated noise, normal, of coins and sparse, it is 1 up "
                f"to {100 * worst_off:.1f} %; must be to 5 standard errors, is to {worst_errors:.1f}",
                worst_errors < 5,
            ),
        ]
    return Claim(
        key="drop-in-unbiased",
        title="With adjust_lr v estimates the gradient's mean square in white noise without bias at every step, as "
        "Adam's v does",
        source="this library",
        printed=tuple(checks),
        control=Check(
            "divided by something else it deviates from 1 by up to "
            + ", ".join(f"{100 * off:.0f} % by {name}" for name, off in wrong.items())
            + f"; one of them must be 1 to {EXACT:g}",
            min(wrong.values()) < EXACT,
        ),
        relied_on=True,
        note="Exactly, as a sum over single gradients: v is a sum of squares and white noise is uncorrelated, so "
        "nothing else of its distribution matters.",
        data={"step": _some(steps), **{averaged: curve[_some(steps) - 1] for averaged, curve in curves.items()}},
    )


# As long as Adam's in noise


def lengths(betas: tuple[float, float], rows: int, steps: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return the RMS of updates in normal white noise at each step, over ``rows`` coordinates.

    Returns:
        By name: the two forms, ``gradient`` for Adam, ``printed`` for Algorithm 1; shape (steps,), in lr.
    """
    everybody: dict[str, Stepper] = {averaged: drop_in(averaged, (rows,), betas=betas) for averaged in BESIDE}
    everybody["printed"] = fresh("adamomentum", (rows,), betas=betas)
    rms = np.empty((steps, len(everybody)))
    noise = (rng.normal(size=rows) for _ in range(steps))
    for t, each in enumerate(responses(list(everybody.values()), noise)):
        rms[t] = [math.sqrt((update**2).mean()) for update in each]
    return dict(zip(everybody, rms.T, strict=True))


def _length(profile: Profile, rng: np.random.Generator) -> Claim:
    rows, steps = NOISE[profile]
    measured = {betas: lengths(betas, rows, steps, rng) for betas in BETAS}

    def span(name: str, betas: tuple[float, float], first: int = FROM) -> tuple[float, float]:
        ratio = (measured[betas][name] / measured[betas]["gradient"])[first - 1 :]
        return float(ratio.min()), float(ratio.max())

    def as_adams(name: str, whose: str, apart: float) -> Check:
        spans = {betas: span(name, betas) for betas in BETAS}
        shown = "; ".join(f"betas {betas} {low:.3f} to {high:.3f}" for betas, (low, high) in spans.items())
        return Check(
            f"the RMS update {whose} over Adam's, steps {FROM} to {steps}: {shown}; must be 1 to {100 * apart:.0f} %",
            all(max(1 - low, high - 1) < apart for low, high in spans.values()),
        )

    low, high = span("lookahead", DEFAULT, LATE)
    return Claim(
        key="drop-in-length",
        title="In white noise the drop-in's updates are as long as Adam's at the same lr: within 7 % with v of the "
        "momentum, 13 % with v of the look-ahead momentum, from step 5 on",
        source="this library",
        printed=(
            *(as_adams(averaged, WHOSE[averaged], APART[averaged]) for averaged in FORMS),
            Check(
                f"{WHOSE['lookahead']} at betas {DEFAULT} from step {LATE} on: {low:.3f} to {high:.3f} times Adam's; "
                f"must be 1 to {100 * LATE_APART:g} %",
                max(1 - low, high - 1) < LATE_APART,
            ),
        ),
        control=as_adams("printed", "of Algorithm 1 as printed", APART["lookahead"]),
        relied_on=True,
        note="What is left is not a bias of v but the mean of 1 / sqrt(v), which v's own spread, and its correlation "
        "with m, move: most where beta2 is small and at the start.",
        data={
            "betas": BETAS,
            "step": _some(steps),
            "rms": {name: rms[_some(steps) - 1] for name, rms in measured[DEFAULT].items()},
            "spans": {name: [span(name, betas) for betas in BETAS] for name in (*FORMS, "printed")},
            "late": [low, high],
        },
    )


# The first step, and the longest


def _first_is_lr(whose: str, **options: Any) -> Check:
    size = np.array([1e-12, 1e-6, 1e-3, 1.0, -1.0, 1e3, 1e6, 1e12])
    firsts = []
    for betas in (*BETAS, (0.0, 0.9)):
        ((update,),) = responses([fresh("adamomentum", size.shape, betas=betas, **options)], [size])
        firsts.append(update * np.sign(size))
    off = float(np.abs(np.stack(firsts) - 1).max())
    return Check(
        f"{whose}: the first update, at gradients from 1e-12 to 1e12 and six pairs of betas, is from "
        f"{np.min(firsts):.3f} to {np.max(firsts):.3f} lr; must be 1 to {EXACT:g}",
        off < EXACT,
    )


def extremal(averaged: Averaged, betas: tuple[float, float], steps: int) -> Array:
    """Return gradients whose last update is the longest there can be after ``steps`` steps: zeros, then these.

    One gradient for the momentum. For the look-ahead momentum n_(t-k) must be in proportion to (q / beta2)^k, where
    Cauchy and Schwarz's inequality is an equality (:func:`~adamomentum.theory.drop_in.largest_momentum`).
    """
    beta1, beta2 = betas
    gradients = np.zeros(steps)
    if averaged == "momentum":
        gradients[-1] = 1.0
        return gradients
    back = min(steps, 100)
    n = (beta1 / (1 + beta1) / beta2) ** np.arange(back - 1, -1, -1.0)
    m = 0.0
    for k in range(back):
        before, m = m, (n[k] + beta1 * m) / (1 + beta1)
        gradients[steps - back + k] = (m - beta1 * before) / (1 - beta1)
    return gradients


def _longest(averaged: Averaged, profile: Profile, rng: np.random.Generator) -> Check:
    rows, steps = SEARCH[profile]
    most = 0.0
    for (update,) in responses([drop_in(averaged, (rows * len(FAMILIES),))], adversarial(rng, rows, steps)):
        most = max(most, float(np.abs(update).max()))
    limit = longest_update(DEFAULT, averaged)
    *_, (last,) = responses([drop_in(averaged, (1,))], extremal(averaged, DEFAULT, 6000)[:, None])
    return Check(
        f"{WHOSE[averaged]}, betas {DEFAULT}: over {rows * len(FAMILIES):,} sequences of {steps:,} gradients the "
        f"longest update was {most:.3f} lr, and the extremal sequence makes one of {float(last[0]):.4f} lr; neither "
        f"must exceed {limit:.4f} lr, the latter must reach it to 1 %",
        max(most, float(last[0])) <= limit * (1 + EXACT) and float(last[0]) > 0.99 * limit,
    )


def _first_step(profile: Profile, rng: np.random.Generator) -> Claim:
    checks = [
        *(_first_is_lr(WHOSE[averaged], **options_of(averaged)) for averaged in FORMS),
        _first_is_lr("with v of the look-ahead momentum and nesterov", **options_of("lookahead"), nesterov=True),
        *(_longest(averaged, profile, rng) for averaged in FORMS),
    ]
    return Claim(
        key="drop-in-first-step",
        title="The drop-in's first step is lr, as Adam's, whatever the gradient and the betas; no later one is longer "
        "than 7.3 lr, with v of the look-ahead momentum 5.1 lr",
        source="this library",
        printed=tuple(checks),
        control=_first_is_lr("Algorithm 1 as printed"),
        relied_on=True,
        note=f"Algorithm 1's first step is lr / (1 - beta1), and its longest 31.6 lr; Adam's longest is "
        f"{longest_update(DEFAULT, 'gradient'):.2f} lr.",
        data={"limits": {averaged: longest_update(DEFAULT, averaged) for averaged in BESIDE}},
    )


# Gradients that alternate


def swings(
    averaged: Averaged, betas: tuple[float, float], lr: float, sizes: Array, steps: int = 40
) -> tuple[Array, Array]:
    """Return how far x, which has swung at ``sizes`` until v was steady, swings from then on.

    On x^2 / 2: the limit of :func:`~adamomentum.theory.drop_in.stable_lr` does not depend on the curvature. While v
    comes to rest x is held, so that its gradients alternate.

    Args:
        averaged: what v averages the square of.
        betas: decay rates.
        lr: learning rate from then on.
        sizes: of x, shape (n,).
        steps: so many are made.

    Returns:
        The largest |x| of all steps and of the second half of them, in ``sizes``, shape (n,) each.
    """
    stepper = drop_in(averaged, sizes.shape, betas=betas)
    sign = 1.0
    for _ in range(STEADY):
        stepper.step(sign * sizes)
        sign = -sign
    stepper.theta[...] = sign * sizes
    stepper.set(lr=lr)
    path = np.empty((steps, sizes.size))
    for k in range(steps):
        stepper.step(stepper.theta)
        path[k] = np.abs(stepper.theta) / sizes
    return path.max(axis=0), path[steps // 2 :].max(axis=0)


def alone(averaged: Averaged, betas: tuple[float, float], steps: int, rng: np.random.Generator) -> float:
    """Return the RMS of x on x^2 / 2 without noise, left to itself at lr 1, over the second half of the steps."""
    stepper = drop_in(averaged, (40,), betas=betas)
    stepper.theta[...] = 10 ** rng.uniform(-2, 1, 40)
    total = 0.0
    for t in range(steps):
        stepper.step(stepper.theta)
        if t >= steps // 2:
            total += float((stepper.theta**2).mean())
    return math.sqrt(total / (steps - steps // 2))


RATIOS = np.array([0.25, 0.5, 0.75, 0.9, 0.97, 1.03, 1.1, 1.25, 1.5, 2.0])
# What is left after so many steps of v's start; of swings left to themselves, whose v is never quite steady.
AT_PI, ABOUT = 1e-4, 0.15


def _alternating(profile: Profile, rng: np.random.Generator) -> Claim:
    omega = np.append(np.geomspace(0.05, 3.0, 24), np.pi)
    data: dict[str, Any] = {"omega": omega, "ratio": RATIOS}
    checks = []
    a = noise_attenuation(0.9)
    for averaged in BESIDE:
        name = "adam" if averaged == "gradient" else "adamomentum"
        options = {} if averaged == "gradient" else options_of(averaged)
        rms = update_rms(name, omega, 0.9, STEADY, **options)
        off = np.abs(rms * denominator(omega, 0.9, averaged) / ema_gain(omega, 0.9) - 1)
        data[averaged] = rms
        checks.append(
            Check(
                f"{WHOSE[averaged]}: against gradients that alternate the denominator is {a / rms[-1]:.5f} of their "
                f"size, the update {rms[-1]:.5f} lr; must be {float(denominator(math.pi, 0.9, averaged)):.5f} to "
                f"{AT_PI:g}, and at frequencies from 0.05 on the update |H| over the formula to 1 % (is to "
                f"{100 * off.max():.2f} %)",
                bool(off[-1] < AT_PI and off.max() < 0.01),
            )
        )

    below, above = RATIOS < 1, RATIOS > 1

    def reached(averaged: Averaged, limit_of: Averaged, beta1: float) -> tuple[Array, Array]:
        # lr is one number: it is the size of the swing that puts it at these ratios to the limit.
        return swings(averaged, (beta1, 0.999), stable_lr(1.0, beta1, limit_of), 1 / RATIOS)

    def shrinks(averaged: Averaged, limit_of: Averaged, beta1: float, ratios: Array, left: Array) -> Check:
        return Check(
            f"beta1 {beta1}, {WHOSE[averaged]}: at {ratios[0]:g} to {ratios[-1]:g} times the lr "
            f"{stable_lr(1.0, beta1, limit_of):.2f} times the swing, after 40 steps at most {left.max():.2g} of it is "
            "left; must be below 0.9",
            bool(left.max() < 0.9),
        )

    for averaged in BESIDE:
        for beta1 in (0.9, 0.5):
            largest, left = reached(averaged, averaged, beta1)
            grown = largest[above].min()
            checks += [
                shrinks(averaged, averaged, beta1, RATIOS[below], left[below]),
                Check(
                    f"and at {RATIOS[above][0]:g} to {RATIOS[-1]:g} times that lr it grows to at least {grown:.2g} "
                    "times its size; must be more than 1.5",
                    bool(grown > 1.5),
                ),
            ]
            if beta1 == 0.9:
                data[f"swing {averaged}"] = np.where(below, left, largest)
    # v of a short memory follows sooner, so that swings do not come in bursts.
    rest = {averaged: alone(averaged, (0.9, 0.99), ALONE[profile], rng) for averaged in BESIDE}
    expected = {averaged: 1 / stable_lr(1.0, 0.9, averaged) for averaged in BESIDE}
    checks.append(
        Check(
            "left to itself on a quadratic, betas (0.9, 0.99), x swings by "
            + ", ".join(f"{rest[x]:.4f} ({expected[x]:.4f}) lr {WHOSE[x]}" for x in BESIDE)
            + f" (RMS); must be what is in brackets to {100 * ABOUT:.0f} %",
            all(abs(rest[x] / expected[x] - 1) < ABOUT for x in BESIDE),
        )
    )
    # From half the limit of the look-ahead's form on: the momentum's own is 0.41 of it.
    _, others = reached("momentum", "lookahead", 0.9)
    control = shrinks("momentum", "lookahead", 0.9, RATIOS[below][1:], others[below][1:])
    return Claim(
        key="drop-in-alternating",
        title="Of gradients that alternate the denominator sees 0.229 with v of the momentum, 0.555 with v of the "
        "look-ahead momentum, all with Adam's; a swing dies away below 8.7, 21 and 38 times its size as lr",
        source="this library",
        printed=tuple(checks),
        control=control,
        relied_on=True,
        note="In units of what white noise of the same size makes. So at the edge of stability, where gradients "
        "alternate along the steepest directions, the look-ahead's steps are 1.8 times Adam's and the momentum's 4.4 "
        "times: swings that go on are that much larger.",
        data={**data, "alone": rest, "expected": expected},
    )


# Signals


def _profile(averaged: Averaged, betas: tuple[float, float], steps: int) -> Array:
    gradient = np.array([1e-6, -1.0, 1e6])
    stepper = drop_in(averaged, gradient.shape, betas=betas)
    return np.array([update * np.sign(gradient) for (update,) in responses([stepper], [gradient] * steps)])


def correlated(phis: Array, size: tuple[int, int, int], rng: np.random.Generator) -> Iterator[tuple[Averaged, Array]]:
    """Yield the RMS of the updates in stationary noise whose correlation over k steps is phi^k, of both forms and Adam.

    Args:
        phis: correlations, shape (n,).
        size: how many sequences each, steps to forget the start, steps to average over.
        rng: of the noise.
    """
    rows, burn, steps = size

    def noise() -> Iterator[Array]:
        g = rng.normal(size=(phis.size, rows))
        for _ in range(burn + steps):
            g = phis[:, None] * g + np.sqrt(1 - phis[:, None] ** 2) * rng.normal(size=g.shape)
            yield g

    squares = np.zeros((len(BESIDE), phis.size))
    for t, each in enumerate(responses([drop_in(averaged, (phis.size, rows)) for averaged in BESIDE], noise())):
        if t >= burn:
            squares += [(update**2).mean(axis=1) for update in each]
    yield from zip(BESIDE, np.sqrt(squares / steps), strict=True)


# v is not quite steady, the less so the longer the noise is correlated.
STEADY_ENOUGH = 0.06


def _signal(profile: Profile, rng: np.random.Generator) -> Claim:
    steps = 200 if profile == "quick" else 2000

    def is_profile(measured: Averaged, formula: Averaged) -> Check:
        offs = [
            np.abs(_profile(measured, betas, steps) / signal_profile(steps, betas, formula)[:, None] - 1).max()
            for betas in BETAS
        ]
        way = float(_profile(measured, DEFAULT, 100)[:, 0].sum())
        late = math.sqrt(white_noise_share(DEFAULT[0], formula))
        return Check(
            f"{WHOSE[measured]}: against a constant gradient 100 updates come to {way:.1f} lr; each of {steps} must be "
            f"the formula's {WHOSE[formula]}, {late:.4f} lr late in training, in {len(BETAS)} pairs of betas to "
            f"{EXACT:g}, is to {max(offs):.1e}",
            bool(max(offs) < EXACT),
        )

    rms = dict(correlated(PHIS, CORRELATED[profile], rng))
    formulas = {averaged: ar1_length(PHIS, 0.9, averaged) for averaged in BESIDE}
    off = {x: float(np.abs(rms[x] / formulas[x] - 1).max()) for x in BESIDE}
    # At 0 all three are one.
    other = PHIS != 0
    order = np.sign(rms["gradient"] - rms["momentum"])[other]
    between = (order * (rms["lookahead"] - rms["momentum"])[other] > 0) & (
        order * (rms["gradient"] - rms["lookahead"])[other] > 0
    )
    return Claim(
        key="drop-in-signal",
        title="The price: a pure signal is followed at 0.23 lr a step with v of the momentum, 0.27 lr with v of the "
        "look-ahead momentum, where Adam moves 1 lr",
        source="this library",
        printed=(
            *(is_profile(averaged, averaged) for averaged in FORMS),
            Check(
                f"in noise with correlations {', '.join(f'{phi:g}' for phi in PHIS)} of neighbours the RMS update is "
                + "; ".join(
                    ", ".join(f"{r:.3f} ({e:.3f})" for r, e in zip(rms[x], formulas[x], strict=True)) + f" {WHOSE[x]}"
                    for x in BESIDE
                )
                + f" (lr); must be what is in brackets to {100 * STEADY_ENOUGH:.0f} %",
                max(off.values()) < STEADY_ENOUGH,
            ),
            Check(
                f"and that with v of the look-ahead momentum is between the other two in {int(between.sum())} of "
                f"{between.size}; must be in all",
                bool(between.all()),
            ),
        ),
        control=is_profile("gradient", "lookahead"),
        relied_on=True,
        note="Adam speeds up as a gradient keeps its sign, Algorithm 1 moves 1 lr in either case; the drop-in moves as "
        "if all were noise. Gradients that are correlated have it between: shorter than Adam's the more they agree, "
        "longer the more they contradict each other.",
        data={
            "step": _some(steps),
            "profiles": {x: signal_profile(steps, DEFAULT, x)[_some(steps) - 1] for x in BESIDE},
            "phi": PHIS,
            "rms": rms,
        },
    )


COLOUR = {
    "printed": INK,
    "momentum": COLOURS["adabelief"],
    "lookahead": COLOURS["adamomentum"],
    "gradient": COLOURS["adam"],
}
LABEL = {
    "printed": "Algorithm 1",
    "momentum": "v of the momentum",
    "lookahead": "v of the look-ahead momentum",
    "gradient": LABELS["adam"],
}


def _some(steps: int) -> NDArray[np.int64]:
    """Return some of the steps 1, 2, ..., to be kept and drawn: the first ones, fewer later."""
    return np.unique(np.geomspace(1, steps, 60).astype(np.int64))


def draw_lengths(ax: Axes, data: Data) -> None:
    """Draw the RMS update in white noise against the step."""
    for name in ("printed", *BESIDE):
        ax.plot(data["step"], data["rms"][name], color=COLOUR[name], label=LABEL[name], linewidth=1.4)
    ax.set_xscale("log")
    ax.set_yscale("log")
    plain_ticks(ax.xaxis, [1, 10, 100, 1000])
    plain_ticks(ax.yaxis, [0.2, 0.5, 1, 2, 5, 10])
    ax.set_xlabel("step")
    ax.set_ylabel("RMS update, lr")
    ax.set_title("In noise, as long as Adam's from the first step")
    ax.legend(loc="upper right")


def draw_frequencies(ax: Axes, data: Data) -> None:
    """Draw the RMS update against the frequency of the gradient: measured dots, closed-form lines."""
    omega = np.asarray(data["omega"])
    line = np.geomspace(omega[0], np.pi, 300)
    for averaged in BESIDE:
        ax.plot(omega, data[averaged], "o", color=COLOUR[averaged], label=LABEL[averaged], markersize=4)
        ax.plot(line, ema_gain(line, 0.9) / denominator(line, 0.9, averaged), color=COLOUR[averaged], linewidth=1)
    frequency_axes(ax)
    ax.set_title("Slower in signals, between the two in swings")
    ax.legend(loc="lower left")


DRAWINGS = {
    "drop-in-length": Drawing(draw_lengths, "White noise, betas (0.9, 0.999)."),
    "drop-in-alternating": Drawing(
        draw_frequencies,
        "Dots: measured; lines: in closed form (betas 0.9, 0.999). White noise has 0.229 for all three.",
    ),
}
