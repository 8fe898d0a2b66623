"""The command ``adamomentum theory``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adamomentum.cores import available_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from adamomentum.theory.claims import Claim, Profile

MOST_WORKERS = 8


def theory(
    full: Annotated[
        bool, typer.Option("--full", help="Better statistics, and the sharpness of a network's minima.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the page, the figures and all numbers.")] = Path(
        "adamomentum-theory"
    ),
    only: Annotated[str, typer.Option(metavar="NAME[,NAME...]", help="These experiments alone.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of all random numbers.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Experiments at a time. Default: one a core.", show_default=False)
    ] = None,
) -> None:
    """What the paper claims about the dynamics and convergence of AdaMomentum, and what computation says about it.

    Takes about two minutes. The exit status is 1 if a statement that this library's documentation relies on is not
    borne out.
    """
    from rich.console import Console
    from rich.progress import Progress

    from adamomentum.theory import page
    from adamomentum.theory.catalogue import experiments
    from adamomentum.theory.run import run_all

    known = list(experiments())
    names = [name.strip() for name in only.split(",") if name.strip()] or known
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(
            f"no experiment is called {', '.join(unknown)}; there are {', '.join(known)}", param_hint="--only"
        )
    console = Console()
    profile: Profile = "full" if full else "quick"
    found: dict[str, list[Claim]] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("experiments", total=len(names))
        for name, made in run_all(names, profile, seed, min(workers or available_cores(), MOST_WORKERS)):
            found[name] = made
            progress.advance(task)
    claims = [claim for name in names for claim in found[name]]
    _table(console, claims)
    path = page.write(claims, profile, seed, shlex.join(["adamomentum", *sys.argv[1:]]), out)
    console.print(f"{path}: evidence, controls and figures", soft_wrap=True, highlight=False)
    faults = [claim for claim in claims if claim.fault]
    for claim in faults:
        console.print(f"This library relies on it, and it is {claim.verdict}: {claim.title}", soft_wrap=True)
    if faults:
        raise typer.Exit(1)


def _table(console: Console, claims: Sequence[Claim]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for heading in ("claim", "verdict", "control"):
        table.add_column(heading, overflow="fold")
    for claim in claims:
        table.add_row(claim.title, claim.verdict, "holds" if claim.control.holds else "fails, as it must")
    console.print(table)
