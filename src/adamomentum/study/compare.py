"""``adamomentum compare``: a study of one task, built from options instead of a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adamomentum.devices import DEVICES, check_device
from adamomentum.study import registry, work
from adamomentum.study.data.images import ImageData, small_test_split
from adamomentum.study.engine import Folder
from adamomentum.study.lock import locked
from adamomentum.study.running import default_workers, local_executor, run_and_report, told
from adamomentum.study.spec import Budget, Value
from adamomentum.study.studyfile import Control, OptimizerEntry, Seeds, Study, TaskEntry, Tuning
from adamomentum.study.work import Setup
from adamomentum.terminal import say

FAMILY = "image-classification"
DROP_IN = Control(
    name="adamomentum-for-adamw",
    label="Drop-in",
    optimizer="adamomentum",
    setting_from="adamw",
    hyperparameters={"adjust_lr": "match_rms_adamw"},
    about="AdamW swapped for AdaMomentum with adjust_lr, in one line: its learning rate and weight decay stay.",
)
"""Shown wherever both are compared: what costs no search of its own."""

TUNING_SEEDS = 2
MAX_CURVE_POINTS = 40
MAX_WORKERS = 8


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
            "are resized to 32 x 32; transparent pixels are laid on white, photographs turned as their EXIF data says."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help=f"Trials at a time. Default: one a core or GPU, at most {MAX_WORKERS}."),
    ] = None,
) -> None:
    """Train a small residual CNN with each optimizer at its own best learning rate, and compare.

    AdaMomentum runs once more in AdamW's place: adjust_lr="match_rms_adamw", at AdamW's learning rate, not searched.

    Without --data: MNIST-5k, 1,000 training images, about two minutes on two cores. Finished trials
    are kept in the output folder and never trained again.
    """
    names = _parse_optimizers(optimizers)
    grids = _parse_grids(lr or [], names)
    check_device(device)
    errors = Console(stderr=True)
    with told(errors), locked(out):
        params: dict[str, Value] = {} if data is None else {"data": "folder"}
        sources = {} if data is None else {"folder": data.resolve()}
        study = as_study(grids, seeds, epochs, params, work.load(FAMILY, params, sources))
        folder = Folder(out, study)
        if (out / "store").is_dir() and not folder.history():
            again = "; its trials on own images are trained again" if data is not None else ""
            say(errors, f"Warning: {out} is of an earlier version: the report goes into {folder.report} now{again}")
        setup = Setup(sources, folder.checkpoints.resolve())
        count = workers or min(default_workers(study, device), MAX_WORKERS)
        run_and_report(folder, setup, partial(local_executor, setup, count, device), count, device, errors)


def as_study(
    grids: dict[str, tuple[float, ...]], seeds: int, epochs: int, params: dict[str, Value], images: ImageData
) -> Study:
    """Return the comparison of optimizers, each on its own grid of learning rates, on ``images``.

    Where AdaMomentum and AdamW are among them, final runs of the first at what was chosen for the second, too.
    """
    note = small_test_split(len(images.y["test"]))
    return Study(
        name="compare",
        title=f"Optimizers on {images.name}",
        reference="adamomentum" if "adamomentum" in grids else next(iter(grids)),
        optimizers={name: OptimizerEntry(grid=grid) for name, grid in grids.items()},
        tasks=(
            TaskEntry(
                name="images",
                title=images.name,
                family=FAMILY,
                params=params,
                budget=Budget(epochs=epochs, evaluations=min(2 * epochs, MAX_CURVE_POINTS)),
                target=images.target_accuracy,
                notes=(note,) if note else (),
            ),
        ),
        controls=(DROP_IN.model_copy(update={"seeds": seeds}),) if {"adamomentum", "adamw"} <= grids.keys() else (),
        # Choosing needs the end of training alone; a learning curve wants some points on the way.
        tuning=Tuning(seeds=TUNING_SEEDS, extension=0, evaluations=1),
        default=Seeds(seeds=0),
        final=Seeds(seeds=seeds),
    )


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
    """Return each optimizer's grid: its default one, unless ``--lr`` says otherwise."""
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
            for rate in given[name]:
                registry.get(names[0]).spec(rate)
        except ValueError:
            raise typer.BadParameter(
                f"{value!r} is not [NAME=]LR[,LR...] with finite LR > 0, e.g. adamw=1e-3,3e-3",
                param_hint="--lr",
            ) from None
    return {name: given.get(name) or given.get("") or registry.get(name).lr_grid() for name in names}
