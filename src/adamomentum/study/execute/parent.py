"""Processes that do not outlive the one that started them.

Tested in tests/study/test_execute.py.
"""

from __future__ import annotations

import multiprocessing
import os
import threading


def exit_with_parent() -> None:
    """End this process as soon as the one that started it is gone, even if that was killed and could not say so."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
