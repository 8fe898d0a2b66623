"""Wrong optimizers for the theory's experiments to find out, and a check of their figures."""

from __future__ import annotations

import json

from matplotlib.figure import Figure

from adamomentum import AdaMomentum
from adamomentum.theory import page, steppers


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


def assert_drawn(panels, found: dict) -> None:
    """Each panel can be drawn of its claim's data, also of data that went through JSON."""
    for panel in panels:
        data = found[panel.claim].data
        for form in (data, json.loads(json.dumps(page._plain(data), allow_nan=False))):
            ax = Figure().subplots()
            panel.draw(ax, form)
            assert ax.get_xlabel() or ax.get_ylabel()
            assert ax.get_title(loc="left") or ax.get_title()
