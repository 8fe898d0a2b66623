"""What the theory's experiments say, for readers and for programs."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

from adamomentum.files import check_output, write_atomic
from adamomentum.page.figures import panel
from adamomentum.page.templates import template
from adamomentum.theory import experiments
from adamomentum.theory.claims import Check, Claim, Failure, Profile, Verdict

PAGE = "theory.html"
CLAIMS = "claims.json"
FIGURES = "figures"
SIZE = (6.4, 4.2)
# Of the numbers behind a claim: all that a figure or a page shows, in two thirds of the bytes of all 17.
DIGITS = 7


def check(folder: Path) -> None:
    """Refuse, before anything is computed, a folder that :func:`write` could not write into.

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
    """Write ``claims.json``, figures (SVG, PDF) and a page that shows them, which needs nothing but this folder.

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
    write_atomic(folder / CLAIMS, (_as_json(record) + "\n").encode())
    known = experiments.drawings()
    figures = {}
    for claim in claims:
        if claim.key in known and not claim.missing:
            drawing = known[claim.key]
            name = drawing.file or claim.key
            shown = panel(drawing.draw, name, folder / FIGURES, claim.data, size=SIZE, linked=True)
            figures[claim.key] = {"shown": shown, "caption": drawing.caption}
    text = template(Path(__file__).parent, "theory.html.j2").render(
        claims=claims,
        failures=failures,
        counts=count(claims),
        figures=figures,
        profile=profile,
        seed=seed,
        command=command,
        written=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        seconds=sum(claim.seconds for claim in claims),
    )
    write_atomic(folder / PAGE, text.encode())
    return folder / PAGE


def redraw(folder: Path) -> Path:
    """Write the figures and the page in ``folder`` anew from its ``claims.json``, without computing anything.

    Returns:
        The page's path.

    Raises:
        OSError: if there is no such file.
        ValueError: if the file is damaged.
    """
    path = folder / CLAIMS
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        claims = [_claim(each) for each in record["claims"]]
        failures = [Failure(**each) for each in record["failures"]]
        profile, seed, command = (record[key] for key in ("profile", "seed", "command"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); restore it, or compute it anew by "
            f"`adamomentum theory --out {folder}`"
        ) from None
    return write(claims, profile, seed, command, folder, failures)


def _claim(record: Mapping[str, Any]) -> Claim:
    """Return the claim of which ``_record`` made ``record``."""
    given = {field.name: record[field.name] for field in fields(Claim)}
    given["control"] = Check(**given["control"])
    for key in ("printed", "corrected", "against"):
        given[key] = tuple(Check(**check) for check in given[key])
    return Claim(**given)


def count(claims: Sequence[Claim]) -> dict[str, int]:
    """Return how many claims have each verdict, of those verdicts that occur."""
    counts = Counter(claim.verdict for claim in claims)
    return {verdict: counts[verdict] for verdict in get_args(Verdict) if counts[verdict]}


def _record(claim: Claim) -> dict[str, Any]:
    return {"verdict": claim.verdict, "fault": claim.fault, **asdict(claim)}


def _as_json(record: Mapping[str, Any]) -> str:
    """Return ``record`` as JSON, with a line for each list of numbers rather than for each number."""
    text = json.dumps(_plain(record), indent=1)
    return re.sub(r"\[\n[^\[\]{}\"]*\]", lambda m: "".join(m[0].split()), text)


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: arrays as lists, :data:`DIGITS` digits, None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
