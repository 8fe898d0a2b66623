"""Which kinds of device the commands can compute on.

Tested in tests/test_cli.py.
"""

from __future__ import annotations

from collections.abc import Sequence

DEVICES = ("cpu", "cuda", "mps")


def why_not(device: str, kinds: Sequence[str] = DEVICES) -> str | None:
    """Why commands cannot compute on a kind of device here, as a sentence; None if they can."""
    if device not in kinds:
        return f"unknown device {device!r}; allowed: {', '.join(kinds)}"
    if device == "cpu":
        return None
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if here[device]:
        return None
    allowed = ", ".join(["cpu", *(name for name in kinds[1:] if here[name])])
    return f"torch {torch.__version__} finds no {device} device here; allowed here: {allowed}"


def check_device(device: str, kinds: Sequence[str] = DEVICES) -> None:
    """Refuse a ``--device`` that cannot be used here.

    Raises:
        BadParameter: if it cannot.
    """
    import typer

    reason = why_not(device, kinds)
    if reason:
        raise typer.BadParameter(reason, param_hint="--device")
