"""Gradient norms on a nonconvex objective beside the bound of Theorem 1."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adamomentum.page.figures import THIN
from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.nonconvex import Constants, gradnorm_bound, preconditioner_bounds, step_limit
from adamomentum.theory.steppers import COLOURS, Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# sum of 1 - cos(theta_i): L = 1; noise uniform in [-1, 1], so the gradient is at most 2 in size.
DIMENSIONS, NOISE, LARGEST = 20, 1.0, 2.0
STEPS = {"quick": (16384, 4096), "full": (262144, 32768)}
RUNS = {"quick": 16, "full": 64}
CONSTANT = (0.5, 0.1, 0.02)


def run(profile: Profile, seed: int) -> list[Claim]:
    """Run the optimizer on the objective."""
    rng = np.random.default_rng([seed, 7])
    return [_stationarity(profile, rng), _defaults()]


def constants(start: Array) -> Constants:
    """Return the constants from ``start`` (runs, coordinates) on, with an eps at which the bound says something."""
    beta2 = 0.999
    return Constants(
        smoothness=1.0,
        variance=DIMENSIONS * NOISE**2 / 3,
        largest=LARGEST,
        gap=float((1 - np.cos(start)).sum(axis=1).max()),
        first_gradient=float((np.sin(start) ** 2).sum(axis=1).max()),
        eps=(1 - beta2) * LARGEST**2,
        beta2=beta2,
    )


def squared_norms(
    c: Constants, start: Array, alpha: Array, one_minus_beta1: Array, rng: np.random.Generator, **options: Any
) -> Array:
    """Return |grad f(theta_t)|^2 for t = 1, ..., T, averaged over the runs.

    Args:
        c: eps and beta2.
        start: theta_1, a run a row.
        alpha: a_1, ..., a_T.
        one_minus_beta1: 1 - beta1_t, at least as many.
        rng: of the noise in the gradient, uniform up to :data:`NOISE`.
        options: of the optimizer, beside eps and betas.
    """
    stepper = Stepper("adamomentum", start, eps=c.eps, betas=(0.9, c.beta2), **options)
    norms = np.empty(alpha.size)
    for t, (a, one_minus) in enumerate(zip(alpha, one_minus_beta1, strict=False)):
        gradient = np.sin(stepper.theta)
        norms[t] = (gradient**2).sum() / len(start)
        beta1 = 1 - one_minus
        stepper.set(lr=a * (1 - beta1 ** (t + 1)), betas=(beta1, c.beta2))
        stepper.step(gradient + rng.uniform(-NOISE, NOISE, start.shape))
    return norms


def running_mean(values: Array) -> Array:
    """Return the mean of the first T values, for each T."""
    means: Array = np.cumsum(values) / np.arange(1, values.size + 1)
    return means


def _stationarity(profile: Profile, rng: np.random.Generator) -> Claim:
    steps, constant_steps = STEPS[profile]
    start = rng.uniform(-np.pi, np.pi, (RUNS[profile], DIMENSIONS))
    c = constants(start)
    t = np.arange(1, steps + 2)
    one_minus = 0.5 / np.sqrt(t)
    alpha = step_limit(c, 0.5) / np.sqrt(t[1:])
    means = running_mean(squared_norms(c, start, alpha, one_minus, rng))
    marks = np.unique(np.geomspace(4, steps, 40).astype(int))
    bounds = np.array([gradnorm_bound(c, alpha[:n], one_minus[: n + 1]).value for n in marks])
    ratios = means[marks - 1] / bounds
    late = marks >= steps // 16
    slope = float(np.polyfit(np.log(marks[late]), np.log(means[marks - 1][late]), 1)[0])
    bound_slope = float(np.polyfit(np.log(marks[late]), np.log(bounds[late]), 1)[0])
    last = gradnorm_bound(c, alpha, one_minus)

    def constant(one_minus_beta1: float, factor: float) -> tuple[float, float, bool]:
        """Return the mean and bound at constant beta1 and at the limit of the learning rate times a factor."""
        ones = np.full(constant_steps + 1, one_minus_beta1)
        rates = np.full(constant_steps, factor * step_limit(c, one_minus_beta1))
        mean = float(running_mean(squared_norms(c, start, rates, ones, rng))[-1])
        bound = gradnorm_bound(c, rates, ones)
        return mean, bound.value, bound.applicable

    floors = [constant(x, 1.0) for x in CONSTANT]
    too_fast = constant(0.1, 100.0)

    # The same problem in other units of theta: theta / 10 in place of theta.
    k = 10.0
    scaled = replace(
        c,
        smoothness=k**2 * c.smoothness,
        variance=k**2 * c.variance,
        largest=k * c.largest,
        first_gradient=k**2 * c.first_gradient,
        eps=k**2 * c.eps,
    )
    in_units = {
        printed: gradnorm_bound(scaled, alpha / k, one_minus, printed=printed).value
        / (k**2 * gradnorm_bound(c, alpha, one_minus, printed=printed).value)
        for printed in (True, False)
    }

    def units(printed: bool, name: str) -> Check:
        return Check(
            f"measured in other units of theta (a tenth), the {name} bound changes by the factor "
            f"{in_units[printed]:.3f}; must be 1",
            bool(abs(in_units[printed] - 1) < 1e-9),
        )

    def below(outcome: tuple[float, float, bool], how: str) -> Check:
        mean, bound, applicable = outcome
        return Check(
            f"{how}: the mean squared gradient norm is {mean:.3g}, {mean / bound:.2g} times the bound, which "
            f"{'applies' if applicable else 'does not apply'}; must be at most 1",
            mean <= bound,
        )

    low, high = preconditioner_bounds(c)
    return Claim(
        key="stationarity",
        title="On smooth nonconvex objectives the gradient vanishes like log T / sqrt(T) if beta1 tends to 1 and lr "
        "to 0",
        source="Theorem 1 and Corollary 1, supplement",
        printed=(units(True, "printed"),),
        corrected=(
            units(False, "corrected"),
            Check(
                f"with 1 - beta1 and lr like 1 / sqrt(t), over {steps} steps, the mean squared gradient norm is at "
                f"most {ratios.max():.2f} times the bound; must be at most 1",
                bool((ratios <= 1).all()) and last.applicable,
            ),
            Check(
                f"it falls like T^{slope:.2f}, the bound like T^{bound_slope:.2f}; must fall at least as fast",
                slope <= bound_slope + 0.02,
            ),
            *(
                below(outcome, f"constant beta1 = {1 - x:g} and lr, {constant_steps} steps")
                for x, outcome in zip(CONSTANT, floors, strict=True)
            ),
            Check(
                f"the bound applies in {sum(applies for *_, applies in floors)} of {len(floors)} of these, and not at "
                "100 times the lr; must be so in all",
                all(applies for *_, applies in floors) and not too_fast[2],
            ),
        ),
        correction="Q2 has L^2, not L, under the root, and half its size; m_t goes with v_t; the learning rate has a "
        "limit from the first step on; with bias correction it is lr / (1 - beta1^t).",
        control=below(too_fast, "constant beta1 = 0.9, lr 100 times its limit"),
        relied_on=True,
        note=f"Of the optimizer nothing is used but that 1 / sqrt(v) is between {low:.2f} and {high:.2f} here, which "
        "holds for Adam and others with the same numbers: the theorem is no reason to expect better optimization. At "
        "constant beta1 and lr the bound does not vanish: with lr at its limit it is in proportion to 1 - beta1.",
        data={
            "steps": marks,
            "mean": means[marks - 1],
            "bound": bounds,
            "constant": [
                {"one_minus_beta1": x, "mean": m, "bound": b} for x, (m, b, _) in zip(CONSTANT, floors, strict=True)
            ],
        },
    )


def _defaults() -> Claim:
    """Return whether the defaults meet the theorem's condition, for a problem of size 1."""
    size_1: dict[str, Any] = {"smoothness": 1.0, "variance": 1.0, "largest": 1.0, "gap": 1.0, "first_gradient": 1.0}
    lr, one_minus = 1e-3, 0.1
    limits = {eps: step_limit(Constants(eps=eps, **size_1), one_minus) for eps in (1e-16, 1e-4, 1.0)}

    def covers(eps: float) -> Check:
        return Check(
            f"L = G = 1, beta1 = 0.9, eps = {eps:g}: the theorem allows lr up to {limits[eps]:.1g}; must be {lr:g} "
            "or more",
            limits[eps] >= lr,
        )

    def excludes(eps: float) -> Check:
        return Check(
            f"at eps = {eps:g} the limit of lr is {limits[eps]:.1g}; must be less than the default, {lr:g}",
            limits[eps] < lr,
        )

    return Claim(
        key="stationarity-defaults",
        title="The nonconvex guarantee covers the optimizer as it is used",
        source="Theorem 1, supplement",
        printed=(covers(1e-16),),
        against=(excludes(1e-16),),
        control=excludes(1.0),
        note=f"eps would have to be large, as in SGD: at 1e-4 the limit is {limits[1e-4]:.1g}. And Corollary 1 needs "
        "beta1 to tend to 1, Corollary 2 needs it to tend to 0. What covers constant beta1 is the bound on the regret.",
        data={"lr": lr, "limits": [{"eps": eps, "lr": limit} for eps, limit in limits.items()]},
    )


def draw(ax: Axes, data: Data) -> None:
    """Draw the mean squared gradient norm and bound against the number of steps."""
    ax.plot(data["steps"], data["mean"], color=COLOURS["adamomentum"], label="AdaMomentum")
    ax.plot(data["steps"], data["bound"], label="bound", **THIN)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("steps")
    ax.set_ylabel("mean squared gradient norm so far")
    ax.set_title("Gradient norm and bound")
    ax.legend(loc="lower left")


DRAWINGS = {
    "stationarity": Drawing(
        draw,
        "Sum of 1 - cos in 20 dimensions with uniform noise; 1 - beta1 and lr like 1 / sqrt(t), at the theorem's "
        "limit.",
    )
}
