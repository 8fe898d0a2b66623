from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from adamomentum.study import provenance


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_librarys_own_repository(tmp_path) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    commit = provenance._commit.__wrapped__
    package = tmp_path / "package"
    package.mkdir()
    for name in ("own.py", "other.py"):
        (package / name).write_text("a = 1\n")
    assert commit(package / "own.py") == ""  # in no repository
    git(tmp_path, "init")
    git(tmp_path, "add", "package/own.py")
    git(tmp_path, "commit", "-m", "one")
    head = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert commit(package / "own.py") == head
    assert commit(package / "other.py") == ""  # as a virtual environment inside somebody's repository
    (package / "own.py").write_text("a = 2\n")
    assert commit(package / "own.py") == f"{head}-dirty"
