"""Which kinds of device the commands can compute on."""

from __future__ import annotations

from collections.abc import Sequence

DEVICES = ("cpu", "cuda", "mps")


def why_not(device: str, kinds: Sequence[str] = DEVICES) -> str:
    """Returns why a kind of device cannot be used here, or an empty text if it can."""
    if device not in kinds:
        return f"unknown device {device!r}; allowed: {', '.join(kinds)}"
    if device == "cpu":
        return ""
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if here[device]:
        return ""
    allowed = ", ".join(["cpu", *(name for name in kinds[1:] if here[name])])
    return f"torch {torch.__version__} finds no {device} device here; allowed here: {allowed}"


def check_device(device: str, kinds: Sequence[str] = DEVICES) -> None:
    """Refuses a ``--device`` that cannot be used here."""
    import typer

    reason = why_not(device, kinds)
    if reason:
        raise typer.BadParameter(reason, param_hint="--device")
