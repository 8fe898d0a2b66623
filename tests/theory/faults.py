"""Wrong optimizers for the theory's experiments to find out, a check of their figures, and experiments on demand."""

from __future__ import annotations

import json
import os
import time

from matplotlib.figure import Figure

from adamomentum import AdaMomentum
from adamomentum.theory import page, steppers
from adamomentum.theory.claims import Check, Claim, not_computed


def install(monkeypatch, faulty: type[AdaMomentum]) -> None:
    """The experiments step ``faulty`` where they would step AdaMomentum."""
    real = steppers._build
    monkeypatch.setattr(
        steppers, "_build", lambda name: (lambda p, **o: faulty(p, **o)) if name == "adamomentum" else real(name)
    )


def too_long(factor: float) -> type[AdaMomentum]:
    """Takes steps of ``factor`` times the learning rate."""

    class TooLong(AdaMomentum):
        def step(self, closure=None):
            (group,) = self.param_groups
            lr = group["lr"]
            group["lr"] = factor * lr
            super().step(closure)
            group["lr"] = lr

    return TooLong


class WithoutMaximum(AdaMomentum):
    """amsgrad is not done."""

    def step(self, closure=None):
        for state in self.state.values():
            if "max_exp_avg_sq" in state:
                state["max_exp_avg_sq"].zero_()
        return super().step(closure)


def assert_drawn(drawings: dict, claims: dict) -> None:
    """Each figure can be drawn of its claim's data, also of data that went through JSON."""
    for key, drawing in drawings.items():
        data = claims[key].data
        for form in (data, json.loads(json.dumps(page._plain(data), allow_nan=False))):
            ax = Figure().subplots()
            drawing.draw(ax, form)
            assert ax.get_xlabel() or ax.get_ylabel()
            assert ax.get_title(loc="left") or ax.get_title()


# Experiments for the command; here, since its other processes must be able to import them.


def _claim(key: str, holds: bool, relied_on: bool = True) -> list[Claim]:
    check = Check(f"a number of {key}; must be so", holds)
    return [Claim(key, f"Statement {key}.", "here", (check,), Check("the same of another", False), relied_on=relied_on)]


def good(profile, seed) -> list[Claim]:
    return _claim(f"good-{profile}-{seed}", True)


def false(profile, seed) -> list[Claim]:
    return _claim("false", False)


def paper_false(profile, seed) -> list[Claim]:
    return _claim("paper-false", False, relied_on=False)


def raises(profile, seed) -> list[Claim]:
    raise ZeroDivisionError("an experiment that breaks [down]")


def dies(profile, seed) -> list[Claim]:
    os._exit(9)


def sleeps(profile, seed) -> list[Claim]:
    time.sleep(600)
    return []


def offline(profile, seed) -> list[Claim]:
    return [not_computed("offline", "Statement offline.", "here", "no network today", relied_on=True)]


ON_DEMAND = {run.__name__: run for run in (good, false, paper_false, raises, dies, sleeps, offline)}
