"""What the theory's experiments found, for readers and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from adamomentum.files import check_output, write_atomic
from adamomentum.page.figures import panel
from adamomentum.page.templates import template
from adamomentum.theory.catalogue import panels
from adamomentum.theory.claims import Claim, Failure, Profile

PAGE = "theory.html"
CLAIMS = "claims.json"
FIGURES = "figures"
SIZE = (6.4, 4.2)


def check(folder: Path) -> None:
    """Refuses, before anything is computed, a folder that :func:`write` could not write into.

    Raises:
        FolderError: if so; the message says why and what to do.
    """
    check_output(folder, (CLAIMS, PAGE), (FIGURES,))


def write(
    claims: Sequence[Claim],
    profile: Profile,
    seed: int,
    command: str,
    folder: Path,
    failures: Sequence[Failure] = (),
) -> Path:
    """Writes ``claims.json``, figures (SVG, PDF) and a page that needs nothing else.

    Args:
        claims: in the order of the page.
        profile: that they were computed with.
        seed: likewise.
        command: that made them.
        folder: where to.
        failures: experiments that broke down.

    Returns:
        The page's path.
    """
    # The numbers first: they took long, and a picture that fails must not cost them.
    record = {
        "profile": profile,
        "seed": seed,
        "command": command,
        "claims": [_record(claim) for claim in claims],
        "failures": [asdict(failure) for failure in failures],
    }
    write_atomic(folder / CLAIMS, (json.dumps(_plain(record), indent=1) + "\n").encode())
    known = {claim.key: claim for claim in claims}
    drawn: dict[str, list[tuple[str, str]]] = {}
    for p in panels():
        if p.claim in known and not known[p.claim].missing:
            svg = panel(p.draw, p.name, folder / FIGURES, known[p.claim].data, size=SIZE)
            if svg is not None:
                drawn.setdefault(p.claim, []).append((svg, p.caption))
    text = template(Path(__file__).parent, "theory.html.j2").render(
        claims=claims,
        failures=failures,
        drawn=drawn,
        profile=profile,
        seed=seed,
        command=command,
        written=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        seconds=sum(claim.seconds for claim in claims),
    )
    write_atomic(folder / PAGE, text.encode())
    return folder / PAGE


def _record(claim: Claim) -> dict[str, Any]:
    return {"verdict": claim.verdict, "fault": claim.fault, **asdict(claim)}


def _plain(value: Any) -> Any:
    """Returns ``value`` as JSON can hold it: arrays as lists, None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
