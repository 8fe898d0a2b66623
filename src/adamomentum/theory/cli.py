"""The command ``adamomentum theory``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adamomentum.cores import available_cores
from adamomentum.terminal import INTERRUPTED, print_table, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from adamomentum.theory.claims import Claim, Failure, Profile

MOST_WORKERS = 8
# Exit statuses; the shell's usual 2 is for wrong options.
NOT_BORNE_OUT, FAILED = 1, 3


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
    """Compute what holds of the paper's claims about the dynamics and convergence of AdaMomentum.

    Takes about two minutes. The exit status is 1 if a statement that this library's documentation relies on is not
    borne out; else 3 if an experiment broke down, the others being reported all the same, or if not all was written.
    """
    from rich.console import Console
    from rich.progress import Progress

    from adamomentum.theory import experiments, page
    from adamomentum.theory.run import run_all

    known = experiments.by_name()
    wanted = {name.strip() for name in only.split(",") if name.strip()} or known.keys()
    unknown = sorted(wanted - known.keys())
    if unknown:
        raise typer.BadParameter(
            f"no experiment is called {', '.join(unknown)}; there are {', '.join(known)}", param_hint="--only"
        )
    try:
        page.check(out)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from None
    chosen = {name: experiment for name, experiment in known.items() if name in wanted}
    console = Console()
    profile: Profile = "full" if full else "quick"
    outcomes: dict[str, list[Claim] | Failure] = {}
    unwritten = False
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("experiments", total=len(chosen))
        try:
            for name, outcome in run_all(chosen, profile, seed, min(workers or available_cores(), MOST_WORKERS)):
                outcomes[name] = outcome
                progress.advance(task)
        except KeyboardInterrupt:
            say(progress.console, "Stopped: nothing was written.")
            raise typer.Exit(INTERRUPTED) from None
    in_order = [outcomes[name] for name in chosen]
    claims = [claim for outcome in in_order if isinstance(outcome, list) for claim in outcome]
    failures = [outcome for outcome in in_order if not isinstance(outcome, list)]
    _table(console, claims)
    try:
        path = page.write(claims, profile, seed, shlex.join(["adamomentum", *sys.argv[1:]]), out, failures)
        say(console, f"{path}: evidence, controls and figures")
    except OSError as error:  # the disk is full, for example
        say(console, f"Error: not all was written: {error}")
        unwritten = True
    for claim in claims:
        if claim.missing:
            say(console, f"Not computed: {claim.title}: {claim.missing}")
    for failure in failures:
        say(console, f"The experiment {failure.name} broke down:\n{failure.error}")
    faults = [claim for claim in claims if claim.fault]
    for claim in faults:
        say(console, f"This library relies on it, and it is {claim.verdict}: {claim.title}")
    if faults:
        raise typer.Exit(NOT_BORNE_OUT)
    if failures or unwritten:
        raise typer.Exit(FAILED)


def _table(console: Console, claims: Sequence[Claim]) -> None:
    def control(claim: Claim) -> str:
        return "not computed" if claim.missing else "holds" if claim.control.holds else "fails, as it must"

    rows = [(claim.title, claim.verdict, control(claim)) for claim in claims]
    print_table(console, "", ("claim", "verdict", "control"), rows)
