"""The command line: ``adamomentum compare``, ``study``, ``theory``, ``bench``, ``memory`` and ``doctor``."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    import typer

# What each command needs beyond the base install is in the extra of this name.
BENCH_EXTRA = {"rich", "torch", "typer"}
STUDY_EXTRA = {
    "jinja2", "matplotlib", "pandas", "PIL", "platformdirs", "pyarrow", "pydantic", "pytorch_optimizer", "rich",
    "sacrebleu", "scipy", "sentencepiece", "tomli", "torch", "typer",
}  # fmt: skip

# typer's: a shell sets it to ask what may come next.
COMPLETION = "_ADAMOMENTUM_COMPLETE"

# What can be said without typer and the modules of the commands.
HELP = """Usage: adamomentum COMMAND [OPTIONS]

Commands:
  doctor    which paths of the optimizer are available here, and why not where they are not
  memory    bytes that training takes by precision, and the largest models that fit
  bench     step time and memory beside other optimizers   pip install "adamomentum[bench]"
  compare   optimizers on your own training, or on images  pip install "adamomentum[study]"
  study     optimizers compared by a study file            pip install "adamomentum[study]"
  theory    the paper's claims, decided by computation     pip install "adamomentum[study]"

adamomentum --version prints the version."""


def main() -> None:
    """Run the command line; the entry point of the ``adamomentum`` script."""
    if sys.argv[1:2] == ["--version"]:  # must work without any extra
        from adamomentum import __version__

        print(f"adamomentum {__version__}")
        return
    bench = sys.argv[1:2] == ["bench"]
    stop_as_by_ctrl_c()
    try:
        if sys.argv[1:] == ["doctor"] or sys.argv[1:2] == ["memory"]:  # these must work without any extra, too
            (doctor if sys.argv[1] == "doctor" else memory)()
            sys.stdout.flush()
            return
        (_bench_app() if bench else _whole_app())(prog_name="adamomentum")
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)  # what a shell reports for a program ended by Ctrl-C
    except BrokenPipeError:
        # Who reads, as `head`, has read enough. Python would complain of what is left to be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra, needs = ("bench", BENCH_EXTRA) if bench else ("study", STUDY_EXTRA)
        if (error.name or "").partition(".")[0] not in needs:
            raise
        if COMPLETION in os.environ:  # what is printed would be taken for suggestions
            sys.exit(1)
        if sys.argv[1:] in ([], ["--help"]):
            print(HELP)
            return
        sys.exit(f'adamomentum needs {error.name} for this: pip install "adamomentum[{extra}]"')


def stop_as_by_ctrl_c() -> None:
    """Make SIGTERM, which batch systems and ``timeout`` send, and SIGHUP, of a terminal that closes, act as Ctrl-C.

    So that what is finished is kept, workers are stopped, and the reader is told. Signals that somebody ignores on
    purpose, as ``nohup`` does, stay ignored. Worker processes that are started later do not inherit this.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    # `timeout` sends it twice, to the command and to its group, and others SIGHUP behind it: what follows must not
    # disturb what the first set off. Not by SIG_IGN at once: Python complains about a signal that it has already
    # noted when its handler goes.
    _hear(_nothing)
    # In the end by SIG_IGN all the same: Python takes its own handlers away before it is gone, and the default kills.
    atexit.register(_hear, signal.SIG_IGN)
    raise KeyboardInterrupt


def _hear(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _whole_app() -> typer.Typer:
    """Return all commands."""
    import typer

    from adamomentum.bench.cli import bench
    from adamomentum.study import commands
    from adamomentum.study.compare import compare
    from adamomentum.theory.cli import theory

    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

    def callback(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
        """AdaMomentum: Adam whose second moment averages the square of the momentum."""

    app.callback()(callback)
    app.command()(compare)
    app.add_typer(commands.app)
    for command in (theory, bench, memory, doctor):
        app.command()(command)
    return app


def doctor() -> None:
    """Say which paths of the optimizer are available here, and why not where they are not."""
    from adamomentum.doctor import report

    print(report())


def memory() -> None:
    """Say how many bytes training takes by optimizer and precision, and the largest models that fit."""
    from adamomentum.memory.cli import run

    run(sys.argv[2:])


def _bench_app() -> typer.Typer:
    """Return ``bench`` alone, which does not need what the study needs."""
    import typer

    from adamomentum.bench.cli import bench

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(lambda: None)  # or typer would take the only command's name for its first argument
    app.command()(bench)
    return app


if __name__ == "__main__":
    main()
