"""The command line: ``adamomentum compare``."""

from __future__ import annotations

import sys

STUDY_EXTRA = {
    "jinja2", "matplotlib", "pandas", "PIL", "platformdirs", "pydantic", "rich", "scipy", "torch", "typer",
}  # fmt: skip


def main() -> None:
    """Runs the command line; the entry point of the ``adamomentum`` script."""
    if sys.argv[1:2] == ["--version"]:  # must work without any extra
        from adamomentum import __version__

        print(f"adamomentum {__version__}")
        return
    try:
        from adamomentum.study.cli import app

        app(prog_name="adamomentum")
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)  # what a shell reports for a program ended by Ctrl-C
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in STUDY_EXTRA:
            raise
        sys.exit(f'adamomentum needs {error.name} for this: pip install "adamomentum[study]"')


if __name__ == "__main__":
    main()
