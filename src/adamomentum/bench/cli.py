"""The command ``adamomentum bench``.

Tested in tests/bench/test_bench_cli.py.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from adamomentum.bench.workloads import WORKLOADS, choose
from adamomentum.cores import available_cores
from adamomentum.devices import check_device
from adamomentum.terminal import INTERRUPTED
from adamomentum.terminal import say as print_line

if TYPE_CHECKING:
    from adamomentum.bench.measure import Settings

DEVICES = ("cpu", "cuda")
QUICK_ROUNDS, QUICK_ELEMENTS = 3, 2**16


def bench(
    workload: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="May be repeated. Default: all, which are " + ", ".join(WORKLOADS) + "."),
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="May be repeated. Default: 1, and as many as there are cores.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="How often each optimizer is timed.")] = 15,
    allocations: Annotated[int, typer.Option(min=1, help="Repeat it all on so many fresh sets of tensors.")] = 1,
    device: Annotated[str, typer.Option(help="One of: " + ", ".join(DEVICES) + ".")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Write a page (markdown) to this file too.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny tensors, 3 rounds: tries the harness, measures nothing.")
    ] = False,
) -> None:
    """Measure time and memory of a step, as ratios to torch's fused AdamW on the very same tensors.

    Takes some minutes, and a machine that does nothing else. Peers that are not installed are left out and named.
    """
    try:
        workloads = choose(workload, quick)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--workload") from None
    _check_file("--out", out)
    _check_file("--json", json_file)
    settings = _settings(device, threads, QUICK_ROUNDS if quick else rounds, allocations, quick)

    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler would tell of each start and stop
    # torch is imported only now, so that --help is quick.
    from adamomentum.bench.page import raw, render, tables
    from adamomentum.bench.peers import Unavailable
    from adamomentum.bench.run import run

    errors = Console(stderr=True)
    say = partial(print_line, errors)
    command = "adamomentum " + shlex.join(sys.argv[1:])
    try:
        with redirect_stdout(sys.stderr):  # where the peers' own messages do not get between the tables
            results = run(workloads, settings, command, say, QUICK_ELEMENTS if quick else None)
        if out is not None:
            out.write_text(render(results) + "\n", encoding="utf-8")
        if json_file is not None:
            json_file.write_text(json.dumps(raw(results), indent=1) + "\n", encoding="utf-8")
    except (OSError, Unavailable) as error:
        say(f"Error: {error}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("Stopped: nothing was written.")
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(tables(results))
    for file in (out, json_file):
        if file is not None:
            say(f"Written: {file}")


def _check_file(option: str, file: Path | None) -> None:
    """Refuse before the measuring what could not be written after it."""
    if file is None:
        return
    if file.is_dir():
        raise typer.BadParameter(f"{file} is a folder; name a file in it", param_hint=option)
    if not file.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {file.parent}; create it first", param_hint=option)


def _settings(device: str, threads: list[int] | None, rounds: int, allocations: int, quick: bool) -> Settings:
    if device == "cuda" and threads:
        raise typer.BadParameter("threads are for --device cpu only; leave it out", param_hint="--threads")
    check_device(device, DEVICES)

    import torch

    from adamomentum.bench.measure import Settings

    for n in threads or []:
        if n > available_cores():
            raise typer.BadParameter(
                f"must be at most {available_cores()}, the cores there are, got {n}", param_hint="--threads"
            )
    default = [torch.get_num_threads()] if device == "cuda" else [1, available_cores()]
    return Settings(
        device=torch.device(device),
        threads=tuple(sorted(set(threads or default))),
        rounds=rounds,
        allocations=allocations,
        seconds=0.0 if quick else Settings.seconds,
    )
