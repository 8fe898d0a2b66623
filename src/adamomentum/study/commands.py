"""``adamomentum study``: init, plan, run, trial, status, report, show, export, import, doctor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adamomentum.cores import available_cores
from adamomentum.devices import check_device
from adamomentum.study import archive, overview, own, stages, studyfile, tasks
from adamomentum.study.checkpoint import Checkpoints
from adamomentum.study.data.base import DataError
from adamomentum.study.engine import NO_DATA, Folder, check_optimizers, keep, registered_study
from adamomentum.study.estimate import duration, left
from adamomentum.study.running import (
    Failed,
    LogTo,
    default_workers,
    executor_of,
    run_and_report,
    setup_of,
    told,
    write_report,
)
from adamomentum.study.stages import ROLES, Plan
from adamomentum.study.store import Store, as_record, reason
from adamomentum.study.studyfile import Study
from adamomentum.study.trial import TrialResult
from adamomentum.study.work import run_planned, source_name
from adamomentum.terminal import print_table, say

PACKAGES = ("torch", "scipy", "pandas", "pyarrow", "pytorch-optimizer", "sacrebleu", "sentencepiece", "ray")

app = typer.Typer(
    name="study",
    help="Compare optimizers by a study file: plan, run, resume, report.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Source = Annotated[str, typer.Argument(metavar="STUDY", help="A study file, or the name of one that comes along.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the study. Default: adamomentum-study/NAME in the current folder.")
]
Smoke = Annotated[bool, typer.Option("--smoke", help="The smallest budget that runs everything.")]
Only = Annotated[str, typer.Option("--tasks", help="Comma-separated: these tasks of the study alone.")]
Device = Annotated[str, typer.Option(help="Kind of device the trials train on: cpu, cuda or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead, and nothing else.")]


def _folder(source: str, smoke: bool, only: str, out: Path | None) -> Folder:
    whole = studyfile.read(source)
    whole = whole.smoked() if smoke else whole
    names = tuple(name.strip() for name in only.split(",") if name.strip())
    root = out if out is not None else Path("adamomentum-study") / whole.name
    return Folder(root, whole.only(names) if names else whole, whole)


def _beside(source: str, study: Study) -> Path | None:
    """Return the folder of the study file if the study names classes of its own, and let Python find them there."""
    if not study.own_classes:
        return None  # nothing beside a file that needs no code of the user's is ever imported
    folder = Path(source).resolve().parent
    own.look_in(folder)
    return folder


@app.command()
def init(
    source: Annotated[str, typer.Argument(metavar="NAME", help="Which of the studies that come along.")] = "paper-mini",
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.toml"),
) -> None:
    """Write one of the library's study files, to be changed and run."""
    with told(Console(stderr=True)):
        texts = studyfile.built_in()
        if source not in texts:
            raise Failed(f"there is no study {source!r}; there are: {', '.join(texts)}")
        if path.exists():
            raise Failed(f"{path} exists already; choose another name")
        path.write_text(texts[source])
        say(Console(), f"{path} written; run it with: adamomentum study run {path}")


@app.command()
def plan(
    source: Source = "paper-mini",
    out: Out = None,
    smoke: Smoke = False,
    only: Only = "",
    data: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help="Your own copy of a data set.")] = None,
    device: Device = "cpu",
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at a time, for the estimate.")] = None,
    ids: Annotated[
        bool,
        typer.Option(
            "--ids",
            help="Print the trials that can be run now instead, one a line: id, task, role, optimizer. Reads the data "
            "(--data) if no run has done so here.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what would be run, and how long it would take, without running it."""
    console, errors = Console(), Console(stderr=True)
    with told(errors):
        folder = _folder(source, smoke, only, out)
        study = folder.study
        sources = _sources(source, study, data or [])
        if ids:
            _print_ids(folder, sources, device, as_json, errors)
            return
        known = folder.data()
        for entry in study.tasks:
            # Counting needs no data, so none is downloaded for it.
            known.setdefault(entry.name, NO_DATA)
        plan, results = folder.results(device, known)
        count = workers or available_cores()
        if as_json:
            _print_json(overview.of_plan(study, plan, results, count))
            return
        say(console, f"{study.name} ({study.hash}): {study.title}")
        console.print(_plan_table(study, plan, results))
        source_of = "finished trials" if results else "what the study declares"
        rest = left(study, plan, results)
        how = f" with {count} trials at a time, estimated from {source_of}"
        say(console, f"Left: {rest.text(count, how)}." if rest.trials else "Nothing left.")


def _print_json(content: Mapping[str, object]) -> None:
    print(json.dumps(content, indent=1, allow_nan=False))


def _print_ids(folder: Folder, sources: Mapping[str, Path], device: str, as_json: bool, errors: Console) -> None:
    """Print the trials that ``trial`` would run now; what is to be said besides goes to standard error."""
    _prepare_unknown(folder, sources, lambda text: say(errors, text))
    plan, results = folder.results(device)
    open_now = {key: t for key, t in plan.by_id.items() if key not in results}
    later = plan.open.total()
    if as_json:
        _print_json(overview.of_ids(open_now, later))
        return
    for key, t in open_now.items():
        say(Console(), f"{key} {t.task} {t.role} {t.optimizer}")
    if later:
        say(errors, f"{len(open_now)} trials can be run now, up to {later} more when those are finished")


def _prepare_unknown(folder: Folder, sources: Mapping[str, Path], say: Callable[[str], None]) -> None:
    """Look at the data of the tasks that no run has looked at here: the ids of their trials depend on it."""
    unknown = folder.unknown_data()
    if unknown:
        folder.prepare_data(sources, say, unknown)


def _plan_table(study: Study, plan: Plan, results: Mapping[str, TrialResult]) -> Table:
    # Only the user's own training is ever run once more.
    roles = [role for role in ROLES if role != "repeat" or any(t.role == role for t in plan.trials)]
    table = Table("task", *roles, "done", "left", title_justify="left")
    for row in overview.counts(study, plan, results):
        cells = (row["task"], *(str(row["roles"][role]) for role in roles), str(row["done"]), str(row["left"]))
        table.add_row(*map(Text, cells))
    if plan.open:
        waiting = overview.not_planned_yet(plan)
        table.add_row("not planned yet (at most)", *(str(waiting[role] or "") for role in roles), "", "")
    return table


def _sources(source: str, study: Study, values: list[str]) -> dict[str, Path]:
    """Return where the data of tasks lies: as ``values`` say, and scripts of the user's own beside the study file."""
    names = {source_name(t.family, t.params) for t in study.tasks if t.family != tasks.OWN} - {""}
    sources = {
        source_name(t.family, t.params): Path(source).resolve().parent for t in study.tasks if t.family == tasks.OWN
    }
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or name not in names:
            raise Failed(f"--data takes NAME=PATH with NAME one of {', '.join(sorted(names))}, got {value!r}")
        if not Path(path).exists():
            raise Failed(f"--data {name}: {path} does not exist")
        sources[name] = Path(path).resolve()
    return sources


@app.command()
def run(
    source: Source = "paper-mini",
    out: Out = None,
    smoke: Smoke = False,
    only: Only = "",
    executor: Annotated[str, typer.Option(help="Where trials run: local processes, or ray.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster, e.g. auto. Default: one is started here.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at a time. Default: one a core or GPU.")] = None,
    data: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help="Your own copy of a data set.")] = None,
    device: Device = "cpu",
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Time between two checkpoints of a trial that takes longer than this.")
    ] = 5.0,
    memory_gb: Annotated[
        float | None,
        typer.Option(min=0.5, help="Memory that the process of a trial may hold (Linux); one that wants more fails."),
    ] = None,
    log_to: LogTo = None,
) -> None:
    """Run what is not done yet, then write the report. The same command goes on after any interruption."""
    errors = Console(stderr=True)
    with told(errors):
        folder = _folder(source, smoke, only, out)
        study = folder.study
        sources = _sources(source, study, data or [])
        check_device(device)
        modules = _beside(source, study)
        memory = None if memory_gb is None else round(memory_gb * 2**30)
        setup = setup_of(folder, sources, checkpoint_seconds=60 * checkpoint_minutes, memory=memory, modules=modules)
        count = workers or default_workers(study, device)
        with folder.locked():
            say(Console(), f"{study.name} ({study.hash}) in {folder.root}")
            start = partial(executor_of, executor, setup, count, address, device)
            run_and_report(folder, setup, start, count, device, errors, log_to or ())


@app.command()
def report(
    source: Source = "paper-mini",
    out: Out = None,
    smoke: Smoke = False,
    only: Only = "",
    device: Device = "cpu",
    reference: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Compare this optimizer of the study with the others, in place of its reference, which becomes a "
            "control. Written beside the study's own report, into report-NAME.",
        ),
    ] = "",
) -> None:
    """Write the report from what is finished, and say what is missing."""
    with told(Console(stderr=True)):
        folder = _folder(source, smoke, only, out)
        if reference:
            folder = Folder(folder.root, folder.study.seen_from(reference), folder.whole)
            folder.report = folder.root / f"report-{reference}"
        _beside(source, folder.study)  # the report measures the memory of every optimizer
        write_report(folder, device, Console())


@app.command()
def status(
    source: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="A study file, the name of one that comes along, or the folder of a study or comparison.",
        ),
    ] = "paper-mini",
    out: Out = None,
    smoke: Smoke = False,
    only: Only = "",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Say what is finished, what runs and how far it is, what is left, what was chosen and what failed."""
    console = Console()
    with told(Console(stderr=True)):
        # A comparison has no study file, but its folder knows the study.
        record = Path(source) / "study.json"
        if record.is_file():
            if out is not None or smoke or only:
                raise Failed(f"{source} is the folder of a study: --out, --smoke and --tasks go with a study file")
            folder = Folder(record.parent, registered_study(record))
        else:
            folder = _folder(source, smoke, only, out)
        study = folder.study
        plan, results = folder.results(device)
        now = overview.of_status(folder, plan, results)
        if as_json:
            _print_json(now)
            return
        say(console, f"{study.name} ({study.hash}) in {folder.root}")
        console.print(_plan_table(study, plan, results))
        if plan.choices:
            table = Table("task", "optimizer", "chosen", "validation", "edge", title_justify="left")
            for (task, name), choice in plan.choices.items():
                setting = choice.setting or {}
                chosen = ", ".join(f"{key} {value:g}" for key, value in setting.items()) or "nothing could be trained"
                score = f"{choice.score:.4g}" if setting else "-"
                cells = (task, stages.label(study, name), chosen, score, ", ".join(choice.edges))
                table.add_row(*map(Text, cells))  # a label may hold brackets, which are markup in plain strings
            console.print(table)
        if now["running"]:
            print_table(console, "", RUNNING, [_running_cells(study, row) for row in now["running"]])
        for row in now["diverged"]:
            say(console, f"{row['trials']} diverged: {row['task']} {row['optimizer']}")
        for row in now["failed"]:
            say(console, f"Failed: {row['id']} {row['optimizer']}: {row['error']}")
        rest = left(study, plan, results)
        say(console, f"Left: {rest.text()}" if rest.trials else "Complete.")


RUNNING = ("running", "task", "optimizer", "role", "lr", "step", "loss", "validation", "left", "written")


def _running_cells(study: Study, row: Mapping[str, Any]) -> tuple[str, ...]:
    metric = study.task(row["task"]).reported.metric(row["metric"])
    return (
        row["id"],
        row["task"],
        stages.label(study, row["optimizer"]),
        row["role"],
        f"{row['lr']:g}",
        f"{row['step']}" if row["steps"] is None else f"{row['step']} of {row['steps']}",
        "-" if row["loss"] is None else f"{row['loss']:.4g}",
        "-" if row["validation"] is None else metric.text(row["validation"]),
        "-" if row["seconds_left"] is None else duration(row["seconds_left"]),
        f"{duration(row['seconds_silent'])} ago on {row['machine']}",
    )


@app.command()
def show(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Id of a trial, or its first digits.")],
    out: Annotated[Path, typer.Option(help="Folder of the study, or one above it.")] = Path("adamomentum-study"),
) -> None:
    """Print all that is kept of a trial: specification, result, learning curve, traceback."""
    with told(Console(stderr=True)):
        paths = sorted(path for path in out.glob("**/store/*/*.json") if path.stem.startswith(trial))
        if len(paths) != 1:
            names = ", ".join(path.stem for path in paths[:10])
            raise Failed(f"{len(paths)} trials in {out} begin with {trial!r}{': ' + names if paths else ''}")
        try:
            spec, result = Store.read(paths[0])
        except ValueError as error:
            raise Failed(f"{paths[0]} is not usable ({reason(error)}); the next run does the trial again") from None
        record = as_record(spec, result)
        text = record["result"].pop("error", "")
        Console().print_json(json.dumps(record))
        if text:
            say(Console(), text)


@app.command()
def trial(
    source: Source,
    trial_id: Annotated[str, typer.Argument(metavar="TRIAL", help="Id of a planned trial.")],
    out: Out = None,
    smoke: Smoke = False,
    data: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help="Your own copy of a data set.")] = None,
    device: Device = "cpu",
) -> None:
    """Run one trial here and keep its result; under torchrun, with all its processes, also on several machines."""
    from adamomentum.study.group import join

    with told(Console(stderr=True)):
        folder = _folder(source, smoke, "", out)
        sources = _sources(source, folder.study, data or [])
        check_device(device)
        modules = _beside(source, folder.study)
        first = int(os.environ.get("RANK", 0)) == 0
        _prepare_unknown(folder, sources, lambda text: None)
        plan, _ = folder.results(device)
        if trial_id not in plan.by_id:
            raise Failed(
                f"no trial {trial_id} can be planned now; `adamomentum study plan --ids` prints those that can"
            )
        spec = plan.by_id[trial_id].spec
        if folder.store.get(spec) is not None:
            if first:
                say(Console(), f"{trial_id} is finished already; `adamomentum study show {trial_id}` prints it")
            return
        check_optimizers(folder.study)
        if first:
            folder.register()
        if "RANK" in os.environ:
            join(spec)
        result = run_planned(spec, setup_of(folder, sources, modules=modules))
        if first:
            keep(folder.store, Checkpoints(folder.checkpoints), spec, result)
            say(Console(), f"{trial_id}: {result.status}, kept in {folder.root}")


@app.command()
def export(
    source: Source = "paper-mini",
    out: Out = None,
    smoke: Smoke = False,
    device: Device = "cpu",
    to: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("export"),
) -> None:
    """Write all finished trials as one file that `import` reads, and as Parquet tables."""
    from adamomentum.study.results import gather

    with told(Console(stderr=True)):
        folder = _folder(source, smoke, "", out)
        count = archive.write(folder, to, *folder.results(device))
        tables = gather(folder, device)
        tables.trials.to_parquet(to / "trials.parquet", index=False)
        tables.curves.to_parquet(to / "curves.parquet", index=False)
        say(Console(), f"{count} trials in {to}")


@app.command("import")
def import_(
    source: Source,
    exported: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `export` wrote.")],
    out: Out = None,
    smoke: Smoke = False,
) -> None:
    """Take up exported trials, to report on them or to go on from them."""
    with told(Console(stderr=True)):
        folder = _folder(source, smoke, "", out)
        with folder.locked():
            taken = archive.take_up(folder, exported)
        there = f" ({taken.present} were there)" if taken.present else ""
        say(Console(), f"{taken.new} trials taken up into {folder.root}{there}")
        own = folder.whole.name
        origin = (
            "" if taken.study == own else f" They are of the study {taken.study}, whose history was not taken over."
        )
        say(Console(), f"{own} plans {taken.planned} of the {taken.new + taken.present} as it is now.{origin}")


@app.command()
def doctor(
    source: Source = "paper-mini",
    data: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help="Your own copy of a data set.")] = None,
) -> None:
    """Say what a study needs and whether it is here: packages, devices, memory, disk, data."""
    import shutil

    import torch

    console = Console()
    with told(Console(stderr=True)):
        study = studyfile.read(source)
        sources = _sources(source, study, data or [])
        say(console, f"{study.name} ({study.hash}): {len(study.tasks)} tasks, {len(study.optimizers)} optimizers")
        for package in PACKAGES:
            try:
                say(console, f"{package} {version(package)}")
            except PackageNotFoundError:
                say(console, f"{package}: not installed")
        say(console, f"cores: {available_cores()}")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        say(console, f"memory: {memory:.0f} GiB")
        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        devices += ["Apple GPU (mps)"] if torch.backends.mps.is_available() else []
        say(console, f"devices beside the CPU: {', '.join(devices) or 'none'}")
        free = shutil.disk_usage(Path.cwd()).free / 2**30
        say(console, f"free disk here: {free:.0f} GiB")
        bad = 0
        for entry in study.tasks:
            from adamomentum.study.work import load

            try:
                say(console, f"{entry.name}: {load(entry.family, entry.params, sources).describe()}")
            except DataError as error:
                bad += 1
                say(console, f"{entry.name}: {error}")
        if bad:
            raise typer.Exit(1)
