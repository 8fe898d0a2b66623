"""Exit times: the law for a frozen preconditioner, and Proposition 1 beside the optimizers.

Tested in tests/theory/test_experiments.py.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from adamomentum.page.figures import THIN
from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.escape import Exits, exit_times, frozen_exit_steps, sample_stable, stable_tail_constant
from adamomentum.theory.moments import adam_equivalent_lr
from adamomentum.theory.steppers import COLOURS, Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Nearer to 2 single jumps decide only after more steps than are made here.
ALPHAS = (1.6, 1.4, 1.2)
# Curvature and width of two basins of the same height.
BASINS = {"flat": (1.0, 1.0), "sharp": (25.0, 0.2)}
WALKERS = {"quick": (600, 200), "full": (4000, 1000)}
LIMIT = {"quick": 12_000, "full": 60_000}
# Proposition 1: the noises, and lr. Gaussian noise makes no jumps, and Adam would take millions of steps at lr 0.05.
TAILS = {"quick": (2.0, 1.5, 1.2), "full": (2.0, 1.8, 1.5, 1.2)}
LR = {2.0: 0.15}
USUAL_LR = 0.05


def run(profile: Profile, seed: int) -> list[Claim]:
    """Let walkers leave."""
    rng = np.random.default_rng([seed, 8])
    return [_frozen(profile, rng), _proposition_1(profile, rng)]


def leave(
    name: str,
    alpha: float,
    lr: float,
    basin: tuple[float, float],
    rng: np.random.Generator,
    *,
    walkers: int,
    limit: int,
    burn: int = 0,
    **options: float,
) -> Exits:
    """Return the exit times of an optimizer from a quadratic basin (curvature, width), in noise of scale 1."""
    curvature, width = basin
    return exit_times(
        lambda theta: Stepper(name, theta, lr=lr, **options),
        lambda theta: curvature * theta,
        width,
        partial(sample_stable, alpha, rng=rng),
        walkers=walkers,
        limit=limit,
        burn=burn,
    )


def _frozen(profile: Profile, rng: np.random.Generator) -> Claim:
    """Measure SGD without momentum, which is the frozen preconditioner, its lr in the place of lr / R."""
    from scipy.stats import expon, goodness_of_fit

    walkers, limit = WALKERS[profile][0], LIMIT[profile]
    # The basin brings back 0.3 of the distance in a step, so that it takes single jumps to get out.
    expected = np.array([500.0, 1000.0, 2000.0])
    slopes, ratios, p_values = {}, {}, {}
    for alpha in ALPHAS:
        lrs = (2 * stable_tail_constant(alpha) * expected) ** (-1 / alpha)
        exits = [
            leave("sgdm", alpha, lr, (0.3 / lr, 1.0), rng, walkers=walkers, limit=int(15 * steps), momentum=0.0)
            for lr, steps in zip(lrs, expected, strict=True)
        ]
        means = [each.mean for each in exits]
        ratios[alpha] = means[-1] / frozen_exit_steps(alpha, 1.0, lrs[-1], 1.0)
        slopes[alpha] = float(np.polyfit(np.log(lrs), np.log(means), 1)[0])
        p_values[alpha] = float(
            # The mean comes from the sample, which makes the classical p-values too large.
            goodness_of_fit(
                expon, exits[-1].times, known_params={"loc": 0}, statistic="ks", n_mc_samples=999, random_state=rng
            ).pvalue
        )
    # Two standard errors of a mean of exponential times, and of a slope over the factor by which the lrs differ.
    spread = 2 / math.sqrt(walkers)
    slope_spread = {a: spread * math.sqrt(2) / (math.log(expected[-1] / expected[0]) / a) for a in ALPHAS}

    def exponent(measured: dict[float, float], law: dict[float, float], whose: str) -> Check:
        shown = ", ".join(f"{measured[a]:.2f} ({law[a]:.2f})" for a in measured)
        return Check(
            f"{whose}: exit steps go like lr to the power of {shown} at alpha {', '.join(f'{a:g}' for a in measured)}; "
            "must be what is in brackets to 0.1 and two standard errors",
            all(abs(measured[a] - law[a]) < 0.1 + slope_spread.get(a, spread) for a in measured),
        )

    # The edge is 20 and 30 lr away, near to and within what one jump can make.
    rates = np.array([0.04, 0.0267])
    means = [
        leave("adam", 1.5, lr, (1.0, 0.8), rng, walkers=WALKERS[profile][1], limit=limit // 2, burn=1000).mean
        for lr in rates
    ]
    adam = {1.5: float(np.diff(np.log(means))[0] / np.diff(np.log(rates))[0])}
    return Claim(
        key="frozen-exit",
        title="With a frozen preconditioner the time in a basin in alpha-stable noise is exponential, with a mean of "
        "the order upsilon / m(Upsilon)",
        source="Theorem 2, supplement, after Zhou et al. 2020",
        printed=(exponent(slopes, {a: -1 / a for a in ALPHAS}, "as printed"),),
        corrected=(
            exponent(slopes, {a: -a for a in ALPHAS}, "upsilon^-alpha / m"),
            Check(
                "the mean over (R w / (lr sigma))^alpha / (2 C) is "
                + ", ".join(f"{ratios[a]:.2f}" for a in ALPHAS)
                + "; must be 1 to 15 % and two standard errors",
                all(abs(r - 1) < 0.15 + spread for r in ratios.values()),
            ),
            Check(
                "Kolmogorov and Smirnov's test of the exit times against the exponential law has the p-values "
                + ", ".join(f"{p_values[a]:.2f}" for a in ALPHAS)
                + "; must be above 0.003",
                all(p > 0.003 for p in p_values.values()),
            ),
        ),
        correction="the order is upsilon^-alpha / m: exit steps go like lr^-alpha, not lr^(-1/alpha).",
        control=exponent(adam, {1.5: -1.5}, "Adam itself"),
        relied_on=True,
        note="The basin's curvature is 0.3 / lr, so that what decides is one jump: in a fixed basin the law is reached "
        "only for smaller lr. The control shows that the theorem says nothing of Adam: jumps enter v, and one jump "
        "moves it by 31.8 lr at most, whatever its size. It is less true still the smaller lr is against the basin.",
        data={"alpha": ALPHAS, "slopes": slopes, "ratios": ratios, "adam": adam},
    )


def _proposition_1(profile: Profile, rng: np.random.Generator) -> Claim:
    walkers, limit = WALKERS[profile][1], LIMIT[profile]
    equal = adam_equivalent_lr(1.0)
    runs = {
        "Adam": ("adam", 1.0),
        "AdaMomentum": ("adamomentum", 1.0),
        f"Adam, {equal:.2f} lr": ("adam", equal),
        f"AdaMomentum, lr / {equal:.2f}": ("adamomentum", 1 / equal),
    }
    alphas = TAILS[profile]

    def times(name: str, factor: float, alpha: float, basin: str) -> Exits:
        lr = factor * LR.get(alpha, USUAL_LR)
        return leave(name, alpha, lr, BASINS[basin], rng, walkers=walkers, limit=limit, burn=2000, eps=1e-16)

    exits = {
        (alpha, basin, label): times(*run, alpha, basin)
        for alpha in alphas
        for basin in BASINS
        for label, run in runs.items()
    }

    # The control: the same with other noise.
    again = {(alpha, basin, "Adam again"): times("adam", 1.0, alpha, basin) for alpha in alphas for basin in BASINS}

    def compare(first: str, second: str) -> tuple[str, list[float]]:
        """Return the means of both, and by how many standard errors the logarithm of the first is above."""
        shown, above = [], []
        for alpha in alphas:
            for basin in BASINS:
                a, b = (exits | again)[alpha, basin, first], exits[alpha, basin, second]
                shown.append(f"{a.mean:.0f} and {b.mean:.0f} (alpha {alpha:g}, {basin})")
                above.append((math.log(a.mean) - math.log(b.mean)) / math.hypot(a.error, b.error))
        return ", ".join(shown), above

    def longer(first: str, second: str) -> Check:
        shown, above = compare(first, second)
        return Check(
            f"steps in the basin, {first} and {second}: {shown}; the first must be above the second by two standard "
            "errors each",
            all(a > 2 for a in above),
        )

    def shorter(first: str, second: str) -> Check:
        shown, above = compare(first, second)
        return Check(
            f"steps in the basin, {first} and {second}: {shown}; the first must be below by four standard errors each",
            all(a < -4 for a in above),
        )

    matched = list(runs)[2]
    ties = compare("AdaMomentum", matched)[0]
    return Claim(
        key="proposition-1",
        title="AdaMomentum stays longer in flat basins than Adam",
        source="Proposition 1, supplement",
        printed=(longer("AdaMomentum", "Adam"),),
        against=(shorter("AdaMomentum", "Adam"),),
        control=longer("Adam again", "Adam"),
        note="At equal lr AdaMomentum leaves sooner, flat basins too. What decides is how far it moves in noise: "
        f"beside Adam at {equal:.2f} lr, {ties}. The proof rests on Assumption 5, which no noise can meet, and "
        f"reverses an inequality. Alpha 2 is Gaussian noise, at lr {LR[2.0]:g}; the others are at lr {USUAL_LR:g}. The "
        "proof is about jumps, which Gaussian noise does not have; the statement is checked there too.",
        data={
            "alpha": alphas,
            "lr": [LR.get(alpha, USUAL_LR) for alpha in alphas],
            "basins": list(BASINS),
            "runs": list(runs),
            "means": [[[exits[a, b, r].mean for r in runs] for b in BASINS] for a in alphas],
            "exits": [[[exits[a, b, r].times.size for r in runs] for b in BASINS] for a in alphas],
        },
    )


def draw_frozen(ax: Axes, data: Data) -> None:
    """Draw the exponent of the exit time, measured and claimed."""
    alpha = np.asarray(data["alpha"])
    slopes = np.array([data["slopes"].get(a, data["slopes"].get(str(a))) for a in alpha.tolist()])
    fine = np.linspace(1.1, 1.9, 50)
    ax.plot(fine, -fine, color=COLOURS["adamomentum"], linewidth=1, label="-alpha")
    ax.plot(fine, -1 / fine, label="as printed: -1 / alpha", **THIN)
    ax.plot(alpha, slopes, "o", color=COLOURS["adamomentum"], label="frozen preconditioner")
    ax.plot([1.5], list(data["adam"].values()), "s", color=COLOURS["adam"], label="Adam itself")
    ax.set_xlabel("alpha of the noise")
    ax.set_ylabel("exponent of lr in the exit steps")
    ax.set_title("How exit steps depend on lr")
    ax.legend(loc="lower left")


def draw_exits(ax: Axes, data: Data) -> None:
    """Draw the mean exit steps of the four runs."""
    means = np.asarray(data["means"])
    alphas, basins, runs = data["alpha"], data["basins"], data["runs"]
    colours = {"Adam": COLOURS["adam"], "AdaMomentum": COLOURS["adamomentum"]}
    places = np.arange(len(alphas) * len(basins))
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        name = run.split(",")[0]
        heights, fill = means[:, :, i].ravel(), colours[name] if run == name else "none"
        ax.bar(places + (i - 1.5) * width, heights, 0.9 * width, label=run, facecolor=fill, edgecolor=colours[name])
    ax.set_yscale("log")
    ax.set_xticks(places, [f"alpha {a:g}\n{b}" for a in alphas for b in basins])
    ax.set_ylabel("mean steps in the basin")
    ax.set_title("Steps in the basin")
    ax.legend(loc="upper right", fontsize="small")


DRAWINGS = {
    "frozen-exit": Drawing(draw_frozen, "How exit steps depend on lr, measured (dots) and claimed (lines)."),
    "proposition-1": Drawing(
        draw_exits,
        "Quadratic basins of equal height in alpha-stable noise, lr 0.05; 2 is Gaussian, lr 0.15.",
        file="exits",
    ),
}
