"""The commands of the study."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from adamomentum.cores import available_cores
from adamomentum.study import registry
from adamomentum.study.compare import Outcome, run_comparison
from adamomentum.study.data.base import DataError
from adamomentum.study.data.images import ImageData, small_test_split
from adamomentum.study.data.mnist5k import mnist5k
from adamomentum.study.data.own_images import load
from adamomentum.study.devices import DEVICES, why_not
from adamomentum.study.execute.local import LocalExecutor
from adamomentum.study.lock import locked
from adamomentum.study.plan import Comparison
from adamomentum.study.spec import TaskSpec, TrialSpec
from adamomentum.study.store import Store, StoreError
from adamomentum.study.tasks import FAMILIES
from adamomentum.study.terminal import INTERRUPTED, plain_store_warnings, print_table
from adamomentum.study.terminal import say as _say
from adamomentum.study.trial import TrialResult
from adamomentum.study.tune import Choice

MAX_WORKERS = 8

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def _adamomentum(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """AdaMomentum: Adam whose second moment averages the square of the momentum."""


@app.command()
def compare(
    optimizers: Annotated[
        str, typer.Option(help="Comma-separated, out of: " + ", ".join(registry.OPTIMIZERS) + ".")
    ] = ",".join(registry.COMPARED),
    seeds: Annotated[int, typer.Option(min=1, help="Final runs of each optimizer.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images, in every run.")] = 8,
    lr: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]LR[,LR...]",
            help="Learning rates to try instead of the default grid, for all optimizers or for NAME; "
            "a single one is used as it is. May be given once for all and once for each NAME, which wins.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report and the finished trials.")] = Path(
        "adamomentum-report"
    ),
    device: Annotated[str, typer.Option(help="One of: " + ", ".join(DEVICES) + ".")] = "cpu",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your own images: a folder with one subfolder a class (if you like, below train, val and test), or "
            "an .npz with x and y, or x_train, y_train, x_test, y_test. Images with a side below 8 or above 64 pixels "
            "are resized to 32 x 32; transparent pixels are laid on white."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help=f"Trials at a time. Default: one a core, at most {MAX_WORKERS}; one on a GPU."),
    ] = None,
) -> None:
    """Train a small residual CNN with each optimizer at its own best learning rate, and compare.

    Without --data: MNIST-5k, 1,000 training images, about two minutes on two cores. Finished trials
    are kept in the output folder and never trained again.
    """
    names = _parse_optimizers(optimizers)
    grids = _parse_grids(lr or [], names)
    _check_device(device)
    console, errors = Console(), Console(stderr=True)
    started = time.perf_counter()
    try:
        with plain_store_warnings(errors), locked(out):
            store = Store(out / "store")
            images = load(data) if data is not None else mnist5k()
            _say(console, images.describe())
            family = FAMILIES["image-classification"]
            comparison = Comparison(
                task=TaskSpec(name=family.name, version=family.version, data_fingerprint=images.fingerprint),
                grids=grids,
                seeds=seeds,
                epochs=epochs,
                device_kind=device,
            )
            count = workers or (min(available_cores(), MAX_WORKERS) if device == "cpu" else 1)
            outcome = _run(comparison, store, images, count, console)
            _finish(outcome, images, out, console)
    except (DataError, StoreError, OSError) as error:
        _say(errors, f"Error: {error}")
        raise typer.Exit(1) from None
    except _Stopped as stopped:
        _say(errors, f"Stopped: {stopped}; the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
    except KeyboardInterrupt:
        _say(errors, f"Stopped: finished trials are kept in {out / 'store'}; the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
    _say(console, f"{time.perf_counter() - started:.0f} s in all")
    if outcome.failed:
        raise typer.Exit(1)


class _Stopped(Exception):
    """Ctrl-C during training; says what is kept."""


def _parse_optimizers(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    if not names:
        raise typer.BadParameter(f"none given; allowed: {', '.join(registry.OPTIMIZERS)}", param_hint="--optimizers")
    for name in names:
        try:
            registry.get(name)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--optimizers") from None
    return names


def _parse_grids(values: list[str], names: list[str]) -> dict[str, tuple[float, ...]]:
    """Returns each optimizer's grid: its default one, unless ``--lr`` says otherwise."""
    given: dict[str, tuple[float, ...]] = {}  # "" stands for all optimizers
    for value in values:
        before, equals, rates = value.rpartition("=")
        name = before.strip().lower()
        if equals and name not in names:
            raise typer.BadParameter(
                f"{value!r} names {before!r}, which is not compared; allowed: {', '.join(names)}",
                param_hint="--lr",
            )
        if name in given:
            raise typer.BadParameter(
                f"{value!r} is the second one for {name or 'all optimizers'}; join them as {before}{equals}LR,LR",
                param_hint="--lr",
            )
        try:
            given[name] = tuple(sorted({float(rate) for rate in rates.split(",")}))
            for each in [name] if equals else names:
                for rate in given[name]:
                    registry.get(each).spec(rate)
        except ValueError:
            raise typer.BadParameter(
                f"{value!r} is not [NAME=]LR[,LR...] with finite LR > 0, e.g. adamw=1e-3,3e-3",
                param_hint="--lr",
            ) from None
    return {name: given.get(name) or given.get("") or registry.get(name).lr_grid() for name in names}


def _check_device(device: str) -> None:
    reason = why_not(device)
    if reason:
        raise typer.BadParameter(reason, param_hint="--device")


def _run(comparison: Comparison, store: Store, images: ImageData, workers: int, console: Console) -> Outcome:
    """Runs the comparison under one progress bar an optimizer, or line by line where nobody watches."""
    counts = dict.fromkeys(comparison.grids, 0)
    for spec in comparison.tuning():
        counts[spec.optimizer.name] += 1
    total = sum(counts.values()) + comparison.seeds * len(counts)
    done = {"kept": 0, "trained": 0}
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[state]}"),
        console=console,
        disable=not console.is_terminal,
    )
    bars: dict[str, TaskID] = {
        name: progress.add_task(registry.get(name).label, total=count + comparison.seeds, state="waiting for workers")
        for name, count in counts.items()
    }
    chosen: dict[str, str] = {}

    def on_trial(spec: TrialSpec, result: TrialResult, kept: bool) -> None:
        done["kept" if kept else "trained"] += 1
        name = spec.optimizer.name
        accuracy = result.final.get("val_accuracy")
        score = result.status if accuracy is None else f"validation {100 * accuracy:.1f} %"
        state = f"tuning: lr {spec.optimizer.lr:g}" if spec.stage == "tune" else chosen[name]
        progress.update(bars[name], advance=1, state=f"{state}, {score}")
        if not (kept or console.is_terminal):
            place = f"{sum(done.values())}/{total}"
            _say(console, f"{time.strftime('%H:%M:%S')} {place} {registry.get(name).label} {state}, {score}")

    def on_choice(name: str, choice: Choice | None) -> None:
        chosen[name] = "no learning rate could be trained" if choice is None else f"lr {choice.lr:g}"
        progress.update(bars[name], state=chosen[name])

    try:
        with progress, LocalExecutor(images, min(workers, total)) as executor:
            outcome = run_comparison(comparison, store, executor, on_trial, on_choice)
    except KeyboardInterrupt:
        finished = sum(done.values())
        raise _Stopped(f"{finished} of {total} trials are finished and kept in {store.root}") from None
    _say(console, f"{done['trained']} trials trained, {done['kept']} taken from {store.root}")
    return outcome


def _finish(outcome: Outcome, images: ImageData, out: Path, console: Console) -> None:
    """Writes the report and prints its main table."""
    from adamomentum.study.report import html

    command = "adamomentum " + shlex.join(sys.argv[1:])
    test_images = len(images.y["test"])
    t = html.write(outcome, images.name, images.describe(), images.target_accuracy, out, command, test_images)
    seeds = outcome.comparison.seeds
    target = f" to {100 * t.target.accuracy:.4g} %" if t.target is not None else ""
    headings = ("optimizer", "lr", "test acc., %", "test loss", f"steps{target}", "ms/step")
    rows = html.summary_cells(t, seeds)
    cells = [(row.optimizer, row.lr, row.accuracy, row.loss, row.steps, row.ms) for row in rows]
    spread = f"mean ± 95 % interval over {seeds} seeds" if seeds > 1 else "one seed, no interval"
    print_table(console, f"{images.name}: {spread}", headings, cells)
    note = small_test_split(test_images)
    if note:
        _say(console, note)
    for row in rows:
        if row.note:
            _say(console, f"{row.optimizer}: {row.note}")
    reference = registry.get(t.reference).label
    for d in html.difference_rows(t):
        if d["metric"].startswith("test accuracy"):
            _say(console, f"{reference} - {d['baseline']}: {d['difference']} points ({d['interval']}): {d['verdict']}")
    for spec, result in outcome.failed:
        label = registry.get(spec.optimizer.name).label
        _say(console, f"Failed: {label}, lr {spec.optimizer.lr:g}: {html.last_line(result.error)}")
    _say(console, f"Report: {out / html.PAGE}")
