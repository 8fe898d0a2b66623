"""The first steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamomentum.theory.claims import Check, Claim, Experiment, Profile
from adamomentum.theory.experiments.outliers import largest_update, outlier
from adamomentum.theory.experiments.responses import fresh, responses
from adamomentum.theory.guidance import warmup_steps
from adamomentum.theory.transients import startup_profile, warmup_peak

Array = NDArray[np.float64]

DEFAULT = (0.9, 0.999)
BETAS = (DEFAULT, (0.9, 0.98), (0.5, 0.999), (0.95, 0.9))
# Relative; each of these is an identity, so only rounding is left.
EXACT = 1e-9
PEAK = 1.1


def run(profile: Profile, seed: int) -> list[Claim]:
    """Run the optimizers on constant gradients, first gradients at all times, outliers and noise."""
    rng = np.random.default_rng([seed, 2])
    return [_startup(profile, rng), largest_update(profile, rng), outlier(profile, rng)]


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
    made = _profile(name, betas, steps)
    deviation = float(np.abs(made / expected[:, None] - 1).max())
    shown = ", ".join(f"{made[t, 3]:.2f}" for t in (0, 1, 2, 4, 19))
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


EXPERIMENTS = (Experiment("startup", run),)
