"""The first steps, the longest update there can be, and what one huge gradient does.

Tested in tests/theory/test_experiments.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from adamomentum.page.figures import DASHED, INK, plain_ticks
from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.guidance import warmup_steps
from adamomentum.theory.moments import noise_attenuation
from adamomentum.theory.responses import FAMILIES, adversarial, fresh, responses
from adamomentum.theory.steppers import COLOURS, LABELS
from adamomentum.theory.transients import max_update, max_update_at, outlier_displacement, startup_profile, warmup_peak

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFAULT = (0.9, 0.999)
# At beta2 below 1 - (1 - beta1)^2, the second and the last, the first step is the longest.
BETAS = (DEFAULT, (0.9, 0.98), (0.5, 0.999), (0.95, 0.9))
# Relative; what it is asked of are identities, so only rounding is left.
EXACT = 1e-9
PEAK = 1.1
# Sequences of each family and steps, in the search for a longer update.
SEARCH = {"quick": (60, 500), "full": (600, 1500)}


def run(profile: Profile, seed: int) -> list[Claim]:
    """Run the optimizers on constant gradients, first gradients at all times, outliers and noise."""
    rng = np.random.default_rng([seed, 2])
    return [_startup(profile, rng), _largest_update(profile, rng), _outlier(profile, rng)]


def _profile(name: str, betas: tuple[float, float], steps: int, lrs: Array | None = None, **options: Any) -> Array:
    """Return how long the first updates are against constant gradients of all sizes, shape (steps, 7), in lr."""
    size = np.array([1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e12])
    stepper = fresh(name, size.shape, betas=betas, **options)
    lengths = np.empty((steps, size.size))
    for t in range(steps):
        stepper.set(lr=1.0 if lrs is None else float(lrs[t]))
        for (update,) in responses([stepper], [size]):
            lengths[t] = update
    return lengths


def _is_profile(name: str, whose: str, betas: tuple[float, float], steps: int) -> Check:
    expected = startup_profile(steps, betas)
    lengths = _profile(name, betas, steps)
    deviation = float(np.abs(lengths / expected[:, None] - 1).max())
    shown = ", ".join(f"{lengths[t, 3]:.2f}" for t in (0, 1, 2, 4, 19))
    return Check(
        f"betas {betas}: {whose} updates of step 1, 2, 3, 5 and 20 are {shown} lr; the first {steps} must be 1 / "
        f"sqrt(vhat) to {EXACT:g}, are to {deviation:.1e}",
        deviation < EXACT,
    )


def _startup(profile: Profile, rng: np.random.Generator) -> Claim:
    steps = 100 if profile == "quick" else 1000
    checks = [_is_profile("adamomentum", "AdaMomentum's", betas, steps) for betas in BETAS]
    peaks = {}
    for warmup in (5, 10, 20, 50, 100, warmup_steps(peak=PEAK) - 1, warmup_steps(peak=PEAK)):
        lrs = np.minimum(1, np.arange(1, 121) / warmup)
        peaks[warmup] = float(_profile("adamomentum", DEFAULT, 120, lrs).max())
    deviation = max(abs(peak / warmup_peak(warmup) - 1) for warmup, peak in peaks.items())
    fewest = warmup_steps(peak=PEAK)
    corrected = float(np.abs(_profile("adamomentum", DEFAULT, steps, full_bias_correction=True) - 1).max())
    rows = 40000 if profile == "full" else 4000
    noise = rng.normal(size=(100, rows))
    travelled = {}
    for name in ("adamomentum", "adam"):
        paths = np.array([update for (update,) in responses([fresh(name, (rows,))], noise)]).sum(axis=0)
        travelled[name] = float(np.sqrt((paths**2).mean()))
    checks += [
        Check(
            "the longest step after linear warm-up over "
            + ", ".join(f"{warmup} steps is {peak:.2f}" for warmup, peak in peaks.items())
            + f" lr; must be the formula's to {EXACT:g}, is to {deviation:.1e}",
            deviation < EXACT,
        ),
        Check(
            f"{fewest} steps of warm-up keep all steps below {PEAK} lr (the longest is {peaks[fewest]:.4f}), "
            f"{fewest - 1} do not ({peaks[fewest - 1]:.4f})",
            peaks[fewest] <= PEAK < peaks[fewest - 1],
        ),
        Check(
            f"with full_bias_correction the first {steps} updates are 1 lr; must be to {EXACT:g}, are to "
            f"{corrected:.1e}",
            corrected < EXACT,
        ),
    ]
    lengths = {name: _profile(name, DEFAULT, 120)[:, 3] for name in ("adamomentum", "adam")}
    return Claim(
        key="start-up",
        title="Against a constant gradient the first update is 10 lr, then 6.6, 5.0, ..., 1.5 lr at step 20, 1.07 lr "
        "at step 100; linear warm-up or full_bias_correction takes the excess away",
        source="this library",
        printed=tuple(checks),
        control=_is_profile("adam", "Adam's", DEFAULT, steps),
        relied_on=True,
        note=f"In 100 steps a constant gradient moves a coordinate by {lengths['adamomentum'][:100].sum():.0f} lr "
        f"instead of {lengths['adam'][:100].sum():.0f}. White noise moves it by {travelled['adamomentum']:.0f} lr, "
        f"Adam {travelled['adam']:.1f} lr (RMS, without warm-up).",
        data={
            "adamomentum": lengths["adamomentum"],
            "adam": lengths["adam"],
            "formula": startup_profile(120),
            "warmup": list(peaks),
            "peak": list(peaks.values()),
        },
    )


def _first_at(starts: Array, steps: int) -> Iterator[Array]:
    """Yield gradients of 1 at the steps ``starts`` (counted from 1), a row each, and of 0 elsewhere."""
    for t in range(1, steps + 1):
        yield (starts == t).astype(np.float64)


def _longest(name: str, gradients: Iterator[Array], rows: int, betas: tuple[float, float]) -> Array:
    most = np.zeros(rows)
    for (update,) in responses([fresh(name, (rows,), betas=betas)], gradients):
        np.maximum(most, np.abs(update), out=most)
    return most


def _attained(name: str, whose: str, betas: tuple[float, float], steps: int) -> Check:
    starts = np.unique(np.geomspace(1, steps, 40).astype(int))
    most = _longest(name, _first_at(starts, steps), starts.size, betas)
    expected = np.array([max_update_at(int(t), betas) for t in starts])
    deviation = float(np.abs(most / expected - 1).max())
    limit = max_update(betas)
    return Check(
        f"betas {betas}: after only zeros, {whose} update at the first gradient is {most[0]:.3f} lr at step 1 and "
        f"{most[-1]:.3f} lr at step {steps:,}; must be the largest possible one at each step to {EXACT:g} (is to "
        f"{deviation:.1e}), the larger of the two within 2 % of {limit:.3f}, the largest at any step",
        deviation < EXACT and bool(most.max() > 0.98 * limit),
    )


def _largest_update(profile: Profile, rng: np.random.Generator) -> Claim:
    """Search for an update beyond the largest possible one, and make that."""
    rows, steps = SEARCH[profile]
    checks, longest = [], []
    for betas in BETAS:
        most = _longest("adamomentum", adversarial(rng, rows, steps), rows * len(FAMILIES), betas).max()
        limit = max_update(betas)
        longest.append({"betas": betas, "longest": most, "limit": limit})
        # v has 1 / (1 - beta2) steps of memory, and after four of them the bias correction is 1 up to 2 %.
        checks += [
            Check(
                f"betas {betas}: over {rows * len(FAMILIES):,} sequences of {steps:,} gradients the longest update was "
                f"{most:.3f} lr; must not exceed {limit:.3f}",
                bool(most <= limit * (1 + EXACT)),
            ),
            _attained("adamomentum", "AdaMomentum's", betas, round(4 / (1 - betas[1]))),
        ]
    return Claim(
        key="largest-update",
        title="No update is longer than the larger of lr / sqrt(1 - beta2) and lr / (1 - beta1) in a coordinate, 31.6 "
        "lr at betas (0.9, 0.999), and updates come as near to it as one likes",
        source="this library",
        printed=tuple(checks),
        control=_attained("adam", "Adam's", DEFAULT, 4000),
        relied_on=True,
        note="The first step alone is lr / (1 - beta1): with beta1 = 0.9 that is the larger one as soon as beta2 < "
        "0.99.",
        data={"sequences": rows * len(FAMILIES), "steps": steps, "longest": longest},
    )


def _outlier(profile: Profile, rng: np.random.Generator) -> Claim:
    """Send one huge gradient into silence and into noise."""
    at, after, rows = (2000, 300, 200) if profile == "quick" else (10000, 300, 2000)
    size = 1000.0

    def gradients() -> Iterator[Array]:
        for t in range(1, at + after):
            # The first row is silent but for the outlier; Adam's longest update in the second; noise in the others.
            row = rng.normal(size=rows + 2)
            row[:2] = 0.0
            if t == at:
                row[0] = 1.0
                row[2:] = size
            if t >= at - 200 and t <= at:
                row[1] = (DEFAULT[1] / DEFAULT[0]) ** (t - at)
            yield row

    steppers = [fresh(name, (rows + 2,)) for name in ("adamomentum", "adam")]
    path = np.zeros((2, after, rows + 2))
    longest = np.zeros((2, rows + 2))
    for t, each in enumerate(responses(steppers, gradients()), 1):
        updates = np.stack(each)
        longest = np.maximum(longest, np.abs(updates))
        if t >= at:
            path[:, t - at] = updates
    path = path.cumsum(axis=1)
    silent, noisy = path[:, -1, 0], path[:, -1, 2:].mean(axis=1)
    error = path[:, -1, 2:].std(axis=1, ddof=1) / np.sqrt(rows)
    expected = np.array([outlier_displacement(step=at), outlier_displacement(kind="adam", step=at)])
    late = (outlier_displacement(), outlier_displacement(kind="adam"))
    # What v remembers of the noise, a, relative to what the outlier adds to it.
    share = noise_attenuation() / ((1 - DEFAULT[1]) * (1 - DEFAULT[0]) ** 2 * size**2)
    allowance = 4 * error / expected + share

    def moves(i: int, whose: str) -> Check:
        return Check(
            f"a single gradient moves {whose} coordinate by {silent[i]:.3f} lr in all; must be {expected[0]:.3f} to "
            f"{EXACT:g} (at step {at:,}; late in training {late[0]:.1f})",
            bool(abs(silent[i] / expected[0] - 1) < EXACT),
        )

    return Claim(
        key="outlier",
        relied_on=True,
        title="One gradient far above all others moves a coordinate by 180 lr in all, whatever its size; with Adam it "
        "is 31.8 lr",
        source="this library",
        printed=(
            moves(0, "AdaMomentum's"),
            Check(
                f"it moves Adam's by {silent[1]:.3f} lr; must be {expected[1]:.3f} to {EXACT:g} (late in training "
                f"{late[1]:.1f})",
                bool(abs(silent[1] / expected[1] - 1) < EXACT),
            ),
            Check(
                f"{size:,.0f} standard deviations high in white noise, it moves AdaMomentum's by {noisy[0]:.1f} ± "
                f"{error[0]:.1f} lr and Adam's by {noisy[1]:.2f} ± {error[1]:.2f}; must be within {allowance[0]:.1%} "
                f"and {allowance[1]:.1%} of the same (four standard errors, and what v remembers of the noise)",
                bool((np.abs(noisy / expected - 1) < allowance).all()),
            ),
            Check(
                f"Adam's own longest update, at gradients that grow by beta2 / beta1 a step, is {longest[1, 1]:.3f} "
                f"lr; must be within 10 % of {max_update(kind='adam'):.3f}, and not above",
                bool(0.9 * max_update(kind="adam") < longest[1, 1] <= max_update(kind="adam")),
            ),
        ),
        control=moves(1, "Adam's"),
        note="Clipping gradients is worth more than with Adam.",
        data={"adamomentum": path[0, :60, 0], "adam": path[1, :60, 0], "limits": late},
    )


def draw_startup(ax: Axes, data: Data) -> None:
    """Draw the first updates against a constant gradient, and the longest one left by linear warm-up."""
    for name in ("adamomentum", "adam"):
        lengths = np.asarray(data[name])
        ax.plot(np.arange(1, lengths.size + 1), lengths, color=COLOURS[name], label=LABELS[name])
    order = np.argsort(data["warmup"])
    ax.plot(
        np.asarray(data["warmup"])[order],
        np.asarray(data["peak"])[order],
        "o:",
        color=INK,
        markersize=4,
        linewidth=1,
        label="longest step after a linear warm-up this long",
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    plain_ticks(ax.xaxis, [1, 2, 5, 10, 20, 50, 100])
    plain_ticks(ax.yaxis, [1, 1.5, 2, 3, 5, 10])
    ax.set_xlabel("step")
    ax.set_ylabel("update, lr")
    ax.set_title("The first steps, constant gradient")
    ax.legend(loc="upper right")


def draw_outlier(ax: Axes, data: Data) -> None:
    """Draw the way travelled after one huge gradient."""
    for name, limit in zip(("adamomentum", "adam"), data["limits"], strict=True):
        way = np.asarray(data[name])
        ax.plot(np.arange(way.size), way, color=COLOURS[name], label=LABELS[name])
        ax.axhline(limit, color=COLOURS[name], linewidth=1, linestyle=DASHED)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("steps after the gradient")
    ax.set_ylabel("moved, lr")
    ax.set_title("What one huge gradient does")
    ax.legend(loc="center right")


DRAWINGS = {
    "start-up": Drawing(draw_startup, "Betas (0.9, 0.999), no warm-up but where the dots say so."),
    "outlier": Drawing(draw_outlier, "Betas (0.9, 0.999). Dashed: the way in all, late in training."),
}
