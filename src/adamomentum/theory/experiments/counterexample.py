"""The stream of losses of Reddi et al. (ICLR 2018), on which Adam goes the wrong way, and AdaMomentum on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adamomentum.page.figures import DASHED
from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.experiments.regret import BETAS, LARGE, PERIOD, WIDTH, misleading
from adamomentum.theory.steppers import COLOURS, Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUNS = (
    ("Adam", "adam", False),
    ("Adam, amsgrad", "adam", True),
    ("AdaMomentum", "adamomentum", False),
    ("AdaMomentum, amsgrad", "adamomentum", True),
)


def path(name: str, amsgrad: bool, rounds: int) -> Array:
    """Return theta_t in [-1, 1], from +1, on the stream; lr 1 / sqrt(t)."""
    stepper = Stepper(name, np.ones(1), betas=BETAS, amsgrad=amsgrad, eps=1e-16)
    thetas = np.empty(rounds)
    for t, gradient in enumerate(misleading(rounds)):
        thetas[t] = stepper.theta[0]
        stepper.set(lr=1 / np.sqrt(t + 1))
        stepper.step(np.array([gradient]))
        np.clip(stepper.theta, -WIDTH / 2, WIDTH / 2, out=stepper.theta)
    return thetas


def critical(name: str, period: int, betas: tuple[float, float]) -> float:
    """Return the large gradient, in units of period - 1, below which the optimizer goes the wrong way.

    In the steady state at constant lr, where each period moves theta by the same distance. Found by stepping 400 values
    at once, geometrically spaced from 1 to 2, until v has forgotten its start.
    """
    ratios = np.geomspace(1.0005, 2.0, 400)
    stepper = Stepper(name, np.zeros(ratios.size), lr=1.0, betas=betas, eps=1e-16)
    forget = int(8 / (1 - betas[1]) / period) + 1
    for t in range(period * (forget + 1)):
        if t == period * forget:
            before = stepper.theta.copy()
        stepper.step(ratios * (period - 1) if t % period == 0 else -np.ones(ratios.size))
    right = stepper.theta - before < 0  # towards -1
    return float(ratios[right.argmax()]) if right.any() else float("inf")


def run(profile: Profile, seed: int) -> list[Claim]:
    """Run the four optimizers; nothing in it is random."""
    rounds = 6000 if profile == "quick" else 60000
    paths = {label: path(name, ams, rounds) for label, name, ams in RUNS}
    average = {label: float((misleading(rounds) * (theta + 1)).mean()) for label, theta in paths.items()}
    ends = {label: float(theta[-3 * PERIOD :].mean()) for label, theta in paths.items()}
    # What can be seen of 60,000 rounds, evenly on the logarithmic axis of the figure.
    marks = np.unique(np.geomspace(1, rounds, 400).astype(int)) - 1
    cases = ((101, (0.9, 0.999)), (101, (0.9, 0.99)), *(((1001, (0.9, 0.999)),) if profile == "full" else ()))
    limits = {case: (critical("adam", *case), critical("adamomentum", *case)) for case in cases}
    shown = ", ".join(
        f"every {period} rounds at betas {betas}: Adam {adam:.3f}, AdaMomentum {ours:.3f}"
        for (period, betas), (adam, ours) in limits.items()
    )

    def converges(label: str) -> Check:
        return Check(
            f"{label}: ends at {ends[label]:+.3f} with an average regret of {average[label]:.3f}; must be near -1, "
            "regret below 0.1",
            ends[label] < -0.9 and average[label] < 0.1,
        )

    claim = Claim(
        key="counterexample",
        title="AdaMomentum converges where Adam goes to the worst point, on the stream of Reddi et al.",
        source="Theorem 4, supplement, which promises it on every convex stream",
        printed=(converges("AdaMomentum"),),
        corrected=(converges("AdaMomentum, amsgrad"), converges("Adam, amsgrad")),
        relied_on=True,
        correction="with amsgrad=True; without it AdaMomentum goes to the worst point, as Adam does. At beta1 = 0 it "
        "is RMSprop, to which the theorem of Reddi et al. applies.",
        control=converges("Adam"),
        note=f"The gradient is C every P rounds and -1 else; here {LARGE:g} every {PERIOD}, betas {BETAS}. The "
        f"wrong way is taken for C / (P - 1) between 1 and a limit ({shown}): AdaMomentum's range is a little smaller, "
        "and it grows with P. amsgrad is for the guarantee, or for rare features.",
        data={
            "rounds": marks + 1,
            "paths": {label: theta[marks] for label, theta in paths.items()},
            "ends": ends,
            "average_regret": average,
            "critical": [{"period": p, "betas": b, "adam": a, "adamomentum": m} for (p, b), (a, m) in limits.items()],
        },
    )
    return [claim]


def draw(ax: Axes, data: Data) -> None:
    """Draw theta of the four runs."""
    styles = {"Adam": ("adam", "-"), "Adam, amsgrad": ("adam", DASHED)}
    styles |= {"AdaMomentum": ("adamomentum", "-"), "AdaMomentum, amsgrad": ("adamomentum", DASHED)}
    for label, theta in data["paths"].items():
        colour, line = styles[label]
        ax.plot(data["rounds"], theta, color=COLOURS[colour], linestyle=line, label=label)
    ax.set_xscale("log")
    ax.set_ylim(-1.1, 1.1)
    ax.set_xlabel("rounds")
    ax.set_ylabel("theta (the best is -1, the worst +1)")
    ax.set_title("Where the optimizers go")
    ax.legend(loc="center right")


DRAWINGS = {"counterexample": Drawing(draw, "The same stream, lr 1 / sqrt(t), from +1.")}
