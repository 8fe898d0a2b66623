"""Which kinds of device trials can train on."""

from __future__ import annotations

DEVICES = ("cpu", "cuda", "mps")


def why_not(device: str) -> str | None:
    """Why trials cannot train on a kind of device here, as a sentence; None if they can."""
    if device not in DEVICES:
        return f"unknown device {device!r}; allowed: {', '.join(DEVICES)}"
    if device == "cpu":
        return None
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if here[device]:
        return None
    allowed = ", ".join(["cpu", *(name for name, there in here.items() if there)])
    return f"torch {torch.__version__} finds no {device} device here; allowed here: {allowed}"
