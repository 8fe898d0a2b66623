"""AdaMomentum's second moment between two multiples of Adam's: a search for gradients that break the theorem.

Tested in tests/theory/test_experiments.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from adamomentum.page.figures import THIN, plain_ticks
from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.moments import noise_attenuation, v_sandwich
from adamomentum.theory.responses import FAMILIES, adversarial, fresh, responses
from adamomentum.theory.steppers import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFAULT = (0.9, 0.999)
BETAS: dict[Profile, tuple[tuple[float, float], ...]] = {"quick": (DEFAULT, (0.9, 0.95), (0.5, 0.9), (0.95, 0.98))}
BETAS["full"] = (*BETAS["quick"], (0.0, 0.999), (0.9, 0.99), (0.99, 0.999), (0.6, 0.5))
ROWS: dict[Profile, int] = {"quick": 60, "full": 600}
STEPS: dict[Profile, int] = {"quick": 1000, "full": 2000}
# Below that the momentum is what cancellation left of much larger gradients, and its digits are rounding.
SMALLEST_UPDATE = 1e-5
# Relative, for rounding: 1e-16 of the gradients is at most 1e-9 of an update of that size.
ROUNDING = 1e-9


def extremal(betas: tuple[float, float], steps: int) -> Iterator[Array]:
    """Yield the gradients, of shape (2,), whose ratios tend to the lower and the upper limit as ``steps`` grows.

    They are beta2^(t/2) times a constant and times an alternating sequence, so that all weigh the same in Adam's v at
    the end, under an arch of a sine, so that beginning and end do not matter. The arch ends a little late: at its foot
    the alternating sequence leaves no momentum to take a ratio of.

    Args:
        betas: decay rates.
        steps: how many.
    """
    for t in range(1, steps + 1):
        rise = betas[1] ** (t / 2) * math.sin(math.pi * t / (1.03 * steps))
        yield np.array([rise, rise * (-1) ** t])


def _steps(betas: tuple[float, float], profile: Profile) -> int:
    """Return how many steps: the extremal gradients, squared, must stay within float64."""
    return min(STEPS[profile], int(600 / -math.log(betas[1])))


def _gap(betas: tuple[float, float], steps: int) -> float:
    """Return how near to the limits the extremal ratios must come, relative to them.

    The arch's frequency is w = pi / steps, where the filter with the weights gamma^k lets through
    1 - gamma w^2 / (1 - gamma)^2 / 2 + ... of what it does at 0. The factor of 2 that is left covers the arch's end.
    """
    return (math.pi / steps / (1 - betas[0] / math.sqrt(betas[1]))) ** 2 + ROUNDING


def ratios(betas: tuple[float, float], gradients: Iterator[Array], rows: int, names: Sequence[str]) -> Iterator[Array]:
    """Yield the ratio of optimizers' updates to Adam's at each step, for the same gradients.

    Args:
        betas: of all optimizers.
        gradients: of shape (rows,).
        rows: how many sequences.
        names: the optimizers to compare with Adam.

    Yields:
        Shape (len(names), rows); NaN where Adam's update is too small to tell, infinite where the other is not finite.
    """
    steppers = [fresh(name, (rows,), betas=betas) for name in (*names, "adam")]
    for *others, adams in responses(steppers, gradients):
        yield np.nan_to_num(np.stack(others), nan=np.inf) / np.where(np.abs(adams) > SMALLEST_UPDATE, adams, np.nan)


def run(profile: Profile, seed: int) -> list[Claim]:
    """Run Adam and AdaMomentum on the same gradients: random ones of eight families, and the two extremal ones."""
    rng = np.random.default_rng([seed, 1])
    rows = ROWS[profile] * len(FAMILIES)
    checks: list[Check] = []
    extremes: dict[tuple[float, float], tuple[float, float, Array]] = {}
    for betas in BETAS[profile]:
        (low, high), steps, gap = v_sandwich(betas), _steps(betas, profile), _gap(betas, _steps(betas, profile))
        pairs = zip(adversarial(rng, ROWS[profile], steps), extremal(betas, steps), strict=True)
        gradients = (np.concatenate(pair) for pair in pairs)
        least, most, last = math.inf, -math.inf, np.empty(0)
        for (last,) in ratios(betas, gradients, rows + 2, ["adamomentum"]):
            known = last[~np.isnan(last)]
            least, most = min(least, float(known.min())), max(most, float(known.max()))
        extremes[betas] = least, most, last
        checks += [
            Check(
                f"betas {betas}: over {rows:,} sequences of {steps:,} gradients the ratio went from {least:.5f} to "
                f"{most:.5f}; must stay between {low:.5f} and {high:.5f}",
                low * (1 - ROUNDING) <= least and most <= high * (1 + ROUNDING),
            ),
            Check(
                f"betas {betas}: the two extremal sequences end at {last[-2]:.5f} and {last[-1]:.5f}; must be within "
                f"{100 * gap:.2g} % of the limits",
                bool(abs(last[-2] / low - 1) < gap and abs(last[-1] / high - 1) < gap),
            ),
        ]
    least, most, last = extremes[DEFAULT]
    # Without the root of beta2, gamma would be beta1.
    wrong = (1.0, (1 + DEFAULT[0]) / (1 - DEFAULT[0]))
    theorem = Claim(
        key="sandwich",
        title="For the same gradients AdaMomentum's update is never below 0.9955 and never above 19.0045 times "
        "Adam's, at equal lr and betas (0.9, 0.999)",
        source="this library: docs/theory/sandwich.md",
        printed=tuple(checks),
        control=Check(
            f"with gamma = beta1 instead of beta1 / sqrt(beta2): the ratio went from {least:.5f} to {most:.5f}; must "
            f"stay between {wrong[0]:.5f} and {wrong[1]:.5f}",
            wrong[0] * (1 - ROUNDING) <= least and most <= wrong[1] * (1 + ROUNDING),
        ),
        relied_on=True,
        note="The ratio is that of the roots of the two second moments, since the first moments are the same. White "
        "noise has it near 4.36. The ends belong to gradients that fade just as fast as v forgets.",
        data={
            "families": list(FAMILIES),
            "ratios": last[:-2].reshape(len(FAMILIES), -1),
            "limits": list(v_sandwich()),
            "extremal": last[-2:],
        },
    )
    return [theorem, _larger(rng, STEPS[profile], least)]


def _larger(rng: np.random.Generator, steps: int, least: float) -> Claim:
    """Check the paper's v(AdaMomentum) >= v(Adam) near a minimum, where the gradient is noise.

    Args:
        rng: of the noise.
        steps: how many.
        least: the smallest ratio of the updates found over all sequences.
    """
    rows = 500
    *_, last = ratios(DEFAULT, iter(rng.normal(size=(steps, rows))), rows, ["adamomentum", "adam"])
    share = float((last[0] <= 1).sum() / (~np.isnan(last[0])).sum())
    ours, adams = (float(v) for v in np.nanmedian(last**-2.0, axis=1))
    largest, limit = least**-2, v_sandwich()[0] ** -2

    def small(who: str, v: float) -> Check:
        return Check(
            f"in white noise the second moment of {who} is {v:.4f} times Adam's in the median; must be below 0.1 "
            f"(a = {noise_attenuation():.4f} by the formula)",
            v < 0.1,
        )

    return Claim(
        key="larger-second-moment",
        title="Near a minimum AdaMomentum's second moment is at least Adam's",
        source="proof of Proposition 1, supplement",
        printed=(
            Check(
                f"in white noise it is at least Adam's in {100 * share:.1f} % of {rows} coordinates; must be in most",
                share > 0.5,
            ),
        ),
        against=(
            small("AdaMomentum", ours),
            Check(
                f"over all gradient sequences tried, not only near a minimum, it was at most {largest:.4f} times "
                f"Adam's; must not exceed {limit:.4f}, the limit for every sequence",
                largest <= limit * (1 + ROUNDING),
            ),
        ),
        control=small("Adam itself", adams),
        note="The order of the second moments being the reverse, so is what the proof concludes from it.",
        data={"rows": rows, "share": share, "median": ours, "adam": adams, "largest": largest, "limit": limit},
    )


def draw(ax: Axes, data: Data) -> None:
    """Draw the ratio of the updates at the last step of each sequence, by family, between the two limits."""
    families = list(data["families"])
    rng = np.random.default_rng(0)
    for i, ratios in enumerate(np.asarray(data["ratios"], np.float64)):
        known = ratios[np.isfinite(ratios)]
        places = i + rng.uniform(-0.25, 0.25, known.size)
        # As pixels: thousands of dots as vectors would be half of the page.
        ax.plot(known, places, ".", color=COLOURS["adamomentum"], markersize=3, alpha=0.5, rasterized=True)
    ax.plot(data["extremal"], [len(families)] * 2, "D", color=COLOURS["adamomentum"], markersize=6)
    low, high = data["limits"]
    ax.axvspan(low, high, color=COLOURS["adam"], alpha=0.12, linewidth=0)
    for limit in (low, high):
        ax.axvline(limit, **THIN)
    ax.set_xscale("log")
    plain_ticks(ax.xaxis, [1, 2, 4.36, 10, 19])
    ax.set_xlim(low / 1.4, high * 1.4)
    ax.set_yticks(range(len(families) + 1), [*families, "extremal"])
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("AdaMomentum's update / Adam's")
    ax.set_title("Same gradients: the ratio stays between two limits")


DRAWINGS = {
    "sandwich": Drawing(
        draw,
        "A dot a gradient sequence: the ratio of the updates at its last step. Dashed: the limits of the theorem. "
        "Diamonds: the two extremal sequences.",
    )
}
