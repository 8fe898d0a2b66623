"""One run at a time in a folder, where the system has locks; where it has none, a warning."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings

import pytest
from study.mini import MINI

from adamomentum.files import FolderError
from adamomentum.study import studyfile
from adamomentum.study.engine import Folder
from adamomentum.study.lock import locked
from adamomentum.study.store import StoreError, StoreWarning

fcntl = pytest.importorskip("fcntl")


def test_two_runs_in_one_folder_are_refused(tmp_path) -> None:
    folder = Folder(tmp_path / "a", studyfile.parse(MINI, "mini"))
    with folder.locked(), pytest.raises(StoreError, match="another process runs"), locked(folder.root):
        pass
    with folder.locked():
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL])
def test_a_file_system_without_locks_is_not_another_process(tmp_path, monkeypatch, code) -> None:
    def refuse(*_) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    inside = False
    with pytest.warns(StoreWarning, match=f"a cannot be locked .*{os.strerror(code)}"), locked(tmp_path / "a"):
        inside = True
    assert inside


def test_a_system_without_fcntl(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with (
        pytest.warns(StoreWarning, match="cannot be locked .this system has no fcntl.*trained twice"),
        locked(tmp_path),
    ):
        pass


def test_the_help_needs_no_fcntl() -> None:
    code = "import sys; sys.modules['fcntl'] = None; from adamomentum.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code, "compare", "--help"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "--optimizers" in result.stdout


def test_what_happens_inside_is_not_taken_for_a_lock(tmp_path) -> None:
    """An error of the run itself, even one that a held lock would have."""
    with warnings.catch_warnings(), pytest.raises(BlockingIOError, match="mine"):
        warnings.simplefilter("error")
        with locked(tmp_path):
            raise BlockingIOError(errno.EAGAIN, "mine")


def test_a_folder_that_cannot_be(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="file is a file; choose another --out"), locked(tmp_path / "file"):
        pass
