"""Gradients that oscillate: AdaMomentum gives them back the length that momentum takes away.

Tested in tests/theory/test_experiments.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from adamomentum.page.figures import plain_ticks
from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile
from adamomentum.theory.common import Array
from adamomentum.theory.moments import ema_gain, restoration_factor
from adamomentum.theory.responses import fresh, responses
from adamomentum.theory.steppers import COLOURS, LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BETA1S: dict[Profile, tuple[float, ...]] = {"quick": (0.9, 0.5), "full": (0.9, 0.5, 0.8, 0.95)}
STEPS: dict[Profile, int] = {"quick": 6000, "full": 20000}
MEASURED = 2000
# v ripples at twice the frequency, by (1 - beta2) / (2 omega), 1 % at the lowest. At pi it does not, and of its start
# (1 - beta2) beta2^t / a is left: 5e-5 after 6,000 steps.
TOLERANCE = 0.01
AT_PI = 1e-4


def update_rms(name: str, omega: Array, beta1: float, steps: int, **options: Any) -> Array:
    """Return the RMS over the last :data:`MEASURED` steps of an optimizer's update against oscillating gradients.

    Args:
        name: of the optimizer.
        omega: frequencies, shape (n,).
        beta1: decay rate of m; that of v is 0.999.
        steps: how many are made.
        options: of the optimizer, beside its betas.

    Returns:
        Shape (n,), in lr.
    """
    # A quarter of a period apart, the squares of the two add up to a constant; and neither is 0 at pi.
    phase = np.array([[0.25], [0.75]]) * np.pi
    gradients = (np.cos(omega * t + phase) for t in range(steps))
    total = np.zeros(omega.size)
    answers = responses([fresh(name, (2, omega.size), betas=(beta1, 0.999), **options)], gradients)
    for t, (update,) in enumerate(answers):
        if t >= steps - MEASURED:
            total += (update**2).mean(axis=0)
    return np.asarray(np.sqrt(total / MEASURED))


def run(profile: Profile, seed: int) -> list[Claim]:
    """Measure the RMS update of both optimizers at frequencies from 0.05 to pi. Nothing is random here."""
    omega = np.append(np.geomspace(0.05, 3.0, 24), np.pi)
    checks: list[Check] = []
    data: dict[str, Array] = {"omega": omega}
    controls: list[Check] = []
    for beta1 in BETA1S[profile]:
        ours, adams = (update_rms(name, omega, beta1, STEPS[profile]) for name in ("adamomentum", "adam"))
        one, gain = np.abs(ours - 1).max(), np.abs(adams / ema_gain(omega, beta1) - 1).max()
        factor, at_pi = restoration_factor(omega, beta1), ours[-1] / adams[-1]
        if beta1 == 0.9:
            data |= {"adamomentum": ours, "adam": adams, "gain": ema_gain(omega, beta1)}
            controls.append(_unit("Adam's", beta1, float(np.abs(adams - 1).max())))
        checks += [
            _unit("AdaMomentum's", beta1, float(one)),
            Check(
                f"beta1 {beta1}: Adam's update is |H| lr up to {100 * gain:.2f} %; must agree to {100 * TOLERANCE:g} %",
                bool(gain < TOLERANCE),
            ),
            Check(
                f"beta1 {beta1}: for gradients that alternate, AdaMomentum's update is {at_pi:.5f} times Adam's; must "
                f"be {factor[-1]:.5f}, up to {100 * AT_PI:g} %",
                bool(abs(at_pi / factor[-1] - 1) < AT_PI),
            ),
        ]
    claim = Claim(
        key="frequency",
        title="AdaMomentum's update is 1 lr at whatever frequency the gradient oscillates; Adam's is smaller by the "
        "gain |H| of the momentum, 19 times for gradients that alternate",
        source="this library",
        printed=tuple(checks),
        control=controls[0],
        relied_on=True,
        note="A gradient that changes sign at every step is what a learning rate too large for a narrow valley "
        "produces. Adam then moves 19 times less along it, AdaMomentum does not.",
        data=data,
    )
    return [claim]


def _unit(whose: str, beta1: float, deviation: float) -> Check:
    return Check(
        f"beta1 {beta1}: {whose} RMS update deviates from 1 lr by at most {100 * deviation:.2f} % at frequencies from "
        f"0.05 to pi; must be below {100 * TOLERANCE:g} %",
        deviation < TOLERANCE,
    )


def frequency_axes(ax: Axes) -> None:
    """Scale and name the axes of an update against the frequency of the gradient."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    plain_ticks(ax.yaxis, [0.05, 0.1, 0.2, 0.5, 1])
    plain_ticks(ax.xaxis, [0.05, 0.1, 0.3, 1, np.pi])
    ax.xaxis.set_major_formatter(lambda v, _: "π" if abs(v - np.pi) < 1e-9 else f"{v:g}")
    ax.set_xlabel("frequency of the gradient, radians a step")
    ax.set_ylabel("RMS update, lr")


def draw(ax: Axes, data: Data) -> None:
    """Draw the RMS update of both optimizers against the frequency of the gradient."""
    omega = np.asarray(data["omega"])
    for name in ("adamomentum", "adam"):
        ax.plot(omega, data[name], "o", color=COLOURS[name], label=LABELS[name], markersize=4)
    ax.plot(omega, data["gain"], color=COLOURS["adam"], linewidth=1, label="|H|")
    ax.axhline(1, color=COLOURS["adamomentum"], linewidth=1)
    frequency_axes(ax)
    ax.set_title("What momentum damps, AdaMomentum restores")
    ax.legend(loc="lower left")


DRAWINGS = {
    "frequency": Drawing(
        draw, "Dots: measured. The two lines are 1 and |H|, the gain of the momentum (betas 0.9, 0.999)."
    )
}
