"""``adamomentum compare``: a study of one task, built from options instead of a file.

On the user's own training function it is built in ``compare_own.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adamomentum.devices import DEVICES, check_device
from adamomentum.study import compare_own, registry, work
from adamomentum.study.data.images import ImageData, small_test_split
from adamomentum.study.drop_in import DROP_IN
from adamomentum.study.engine import Folder
from adamomentum.study.lock import locked
from adamomentum.study.running import LogTo, default_workers, executor_of, run_and_report, setup_of, told
from adamomentum.study.spec import Budget, Value
from adamomentum.study.studyfile import OptimizerEntry, Seeds, Study, TaskEntry, Tuning
from adamomentum.terminal import say

FAMILY = "image-classification"
TUNING_SEEDS = 2
MAX_CURVE_POINTS = 40
MAX_WORKERS = 8
EPOCHS = 8
OUT = Path("adamomentum-report")


def compare(
    train: Annotated[
        str | None, typer.Option(metavar="FILE.py:FUNCTION", help="Your own training function, called with a trial.")
    ] = None,
    optimizers: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, out of: "
            + ", ".join(registry.OPTIMIZERS)
            + ". Default: "
            + ",".join(registry.COMPARED)
            + "; with --train "
            + ",".join(compare_own.OPTIMIZERS)
            + "."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Final runs of each optimizer.")] = 5,
    lr: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]LR[,LR...]",
            help="Learning rates to try instead of the default ones, for all optimizers or for NAME; "
            "a single one is used as it is. May be given once for all and once for each NAME, which wins.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report and trials. Default: adamomentum-report, with --train a folder in it."),
    ] = None,
    device: Annotated[str, typer.Option(help="One of: " + ", ".join(DEVICES) + ".")] = "cpu",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help=f"Trials at a time. Default: one a core or GPU, at most {MAX_WORKERS}."),
    ] = None,
    executor: Annotated[str, typer.Option(help="Where trials run: local processes, or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster, e.g. auto.")] = None,
    log_to: LogTo = None,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --train: what is compared. Default: loss.")
    ] = None,
    higher: Annotated[
        bool | None, typer.Option("--higher/--lower", help="With --train: which way the metric is better.")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="With --train: learning rates tried for each optimizer. Default: 8; with --search 5."),
    ] = None,
    incumbent: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:lr=LR,...",
            help="With --train: the setting you have, e.g. adamw:lr=3e-4,weight_decay=0.1. It runs beside AdaMomentum "
            "in its place, at the same numbers; nothing is searched.",
        ),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="With --incumbent: learning rates around it are tried for both.")
    ] = False,
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="With --train: an argument of the function. Several times, too."),
    ] = None,
    watch: Annotated[
        list[Path] | None,
        typer.Option(help="With --train: a file or folder; a change in it makes new trials. Several times, too."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="With --train: processes that train a trial together, each on a GPU of its own."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Without --train: your own images: a folder with one subfolder a class (if you like, below train, val "
            "and test), or an .npz with x and y, or x_train, y_train, x_test, y_test. Images with a side below 8 or "
            "above 64 pixels are resized to 32 x 32; transparent pixels are laid on white, photographs turned as their "
            "EXIF data says."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Without --train: passes over the training images, in every run. Default: 8."),
    ] = None,
) -> None:
    r"""Compare optimizers fairly, on your own training function or on small images.

    \b
    With --train my_train.py:train the function trains as it always did, but for three lines:
        def train(trial):
            optimizer = trial.optimizer(model.parameters())   # instead of AdamW(...)
            ...
            trial.report(loss=validation_loss)                # where you evaluate
            return {"loss": test_loss}

    Learning rates are tuned for each optimizer on the same number of trials, by what is reported; then fresh seeds
    decide, by what is returned. See docs/own-model.md.

    Without --train: a small residual CNN on MNIST-5k, 1,000 training images, about two minutes on two cores.

    AdaMomentum runs once more in AdamW's place: adjust_lr="match_rms_adamw", at AdamW's learning rate, not searched.

    Finished trials are kept in the output folder and never trained again.
    """
    check_device(device)
    errors = Console(stderr=True)
    of_functions = {"--metric": metric, "--higher": higher, "--trials": trials, "--incumbent": incumbent,
                    "--search": search or None, "--arg": arg, "--watch": watch, "--processes": processes}  # fmt: skip
    if train is None:
        _refuse(of_functions, "goes with --train, your own training function")
        place = out or OUT
        names = _parse_optimizers(optimizers or ",".join(registry.COMPARED))
        given = _parse_grids(lr or [], names)
        grids = {name: given.get(name) or registry.get(name).lr_grid() for name in names}
        with told(errors), locked(place):
            params: dict[str, Value] = {} if data is None else {"data": "folder"}
            sources = {} if data is None else {"folder": data.resolve()}
            study = as_study(grids, seeds, epochs or EPOCHS, params, work.load(FAMILY, params, sources))
            folder = Folder(place, study)
            if (place / "store").is_dir() and not folder.history():
                again = "; its trials on own images are trained again" if data is not None else ""
                say(
                    errors,
                    f"Warning: {place} is of an earlier version: the report goes into {folder.report} now{again}",
                )
            _run(folder, sources, workers, executor, address, device, errors, log_to or ())
        return
    _refuse({"--data": data, "--epochs": epochs}, "is for the built-in images; with --train the function decides")
    try:
        where, params = compare_own.params_of(train, watch or [], arg or [])
        if incumbent is None:
            _refuse({"--search": search or None}, "goes with --incumbent, around whose setting it searches")
            names = _parse_optimizers(optimizers or ",".join(compare_own.OPTIMIZERS))
            entries = compare_own.tuned(names, _parse_grids(lr or [], names))
        else:
            _refuse({"--optimizers": optimizers, "--lr": lr}, "does not go with --incumbent, which says both")
            if not search:
                _refuse({"--trials": trials}, "with --incumbent needs --search: nothing is searched else")
            points = (trials or compare_own.POINTS) if search else 1
            entries = compare_own.Incumbent.of(incumbent).entries(points)
        study = compare_own.as_study(
            params,
            entries,
            compare_own.metric_of(metric or "loss", higher),
            trials or compare_own.TRIALS,
            seeds,
            processes or 1,
        )
    except compare_own.OptionError as error:
        raise typer.BadParameter(str(error), param_hint=error.option) from None
    place = out or OUT / study.tasks[0].name
    with told(errors), locked(place):
        sources = {str(params["train"]): where}
        _run(Folder(place, study), sources, workers, executor, address, device, errors, log_to or ())


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Refuse options that were given and do not go together with others."""
    for option, value in given.items():
        if value is not None and value != []:
            raise typer.BadParameter(why, param_hint=option)


def _run(
    folder: Folder,
    sources: Mapping[str, Path],
    workers: int | None,
    executor: str,
    address: str | None,
    device: str,
    errors: Console,
    log_to: Sequence[str],
) -> None:
    setup = setup_of(folder, sources)
    count = workers or min(default_workers(folder.study, device), MAX_WORKERS)
    start = partial(executor_of, executor, setup, count, address, device)
    run_and_report(folder, setup, start, count, device, errors, log_to)


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
    """Return the grids that ``--lr`` gives, by optimizer."""
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
    grids = {name: given.get(name) or given.get("") for name in names}
    return {name: grid for name, grid in grids.items() if grid}
