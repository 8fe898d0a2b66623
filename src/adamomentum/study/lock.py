"""One process at a time in a folder."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adamomentum.files import make_folder
from adamomentum.study.store import StoreError, StoreWarning

# What a lock that another process holds is reported as; everything else means that there are no locks here.
HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which is made if need be, against a second run; the lock goes with the process.

    Where there are no locks (some network file systems, Windows) a warning says so, and the run goes on: files are
    written whole or not at all in any case, so that two runs cost time, not results.

    Raises:
        StoreError: if another process holds it.
        OSError: if the folder cannot be made or written to.
    """
    make_folder(folder)
    with (folder / ".lock").open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            _warn(folder, "this system has no fcntl")
        except OSError as error:
            if error.errno in HELD:
                raise StoreError(
                    f"another process runs a study or comparison in {folder}; wait for it or choose another --out"
                ) from None
            _warn(folder, f"its file system says: {error.strerror}")
        yield


def _warn(folder: Path, reason: str) -> None:
    warnings.warn(
        f"{folder} cannot be locked ({reason}); see to it that nothing else runs there, or trials are trained twice",
        StoreWarning,
        stacklevel=4,
    )
