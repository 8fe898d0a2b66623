"""Trials on this machine, in persistent worker processes of one thread each.

Tested in tests/study/test_execute.py.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext
from typing import Any

from adamomentum.study.execute.parent import exit_with_parent
from adamomentum.study.spec import TrialSpec
from adamomentum.study.trial import TrialResult, run_trial

RunTrial = Callable[[TrialSpec, Any], TrialResult]

_data: Any = None
_run: RunTrial = run_trial


def _start_worker(data: Any, run: RunTrial, gpus: Any) -> None:
    global _data, _run
    _data, _run = data, run
    if gpus is not None:
        # Before torch looks for devices: each worker sees one GPU, or its share, as its only ones.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()
    # The driver decides when to stop; a worker that dies of Ctrl-C itself would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent()


def _run_in_worker(spec: TrialSpec) -> TrialResult:
    try:
        return _run(spec, _data)
    except BaseException:
        # The trial's own code may leave by sys.exit or KeyboardInterrupt, which would end the driver as Ctrl-C does.
        return TrialResult(status="error", error=traceback.format_exc())


@contextlib.contextmanager
def _sigint_held() -> Iterator[None]:
    """Hold Ctrl-C back while a worker is started: a child inherits the mask and is born deaf to it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class LocalExecutor:
    """Runs trials in ``workers`` spawned processes; a context manager that stops them at the end.

    Args:
        data: the data set, sent to each worker once.
        workers: number of processes.
        run: what a worker does with a spec; must be importable from its module.
        gpus: CUDA devices to share out among the workers, by index; None: every worker sees all there are.
    """

    def __init__(self, data: Any, workers: int, run: RunTrial = run_trial, gpus: Sequence[int] | None = None) -> None:
        if workers < 1:
            raise ValueError(f"workers must be >= 1, got {workers}")
        if gpus is not None and len(gpus) < workers:
            raise ValueError(f"workers must be <= {len(gpus)}, the number of GPUs, got {workers}")
        self._workers = workers
        self._gpus = gpus
        self._arguments = (data, run)
        self._pool: ProcessPoolExecutor | None = None
        self._others = set(multiprocessing.active_children())

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers at once; a trial under way is lost."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for process in set(multiprocessing.active_children()) - self._others:
            process.terminate()
        # Ends at once: the pool's own thread sees the workers die and reaps them.
        pool.shutdown(wait=True, cancel_futures=True)

    def run(self, specs: Iterable[TrialSpec]) -> Iterator[tuple[TrialSpec, TrialResult]]:
        """Yield each spec with its result, in the order in which they finish.

        If a worker process dies, every trial that was under way is run again on its own, so that the one
        that kills its worker is found and recorded, and the others are not blamed for it.
        """
        waiting = iter(specs)
        suspects: deque[TrialSpec] = deque()
        running: dict[Future[TrialResult], TrialSpec] = {}
        while True:
            if suspects and not running:
                spec = suspects.popleft()
                running[self._submit(spec)] = spec
                alone = True
            else:
                alone = False
                while not suspects and len(running) < self._workers:
                    following = next(waiting, None)
                    if following is None:
                        break
                    running[self._submit(following)] = following
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            broken = False
            for future in done:
                spec = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    broken = True
                    if not alone:
                        suspects.append(spec)
                        continue
                    result = TrialResult(status="error", error=f"the worker process died: {error}")
                except Exception:
                    # E.g. a result that cannot be pickled.
                    result = TrialResult(status="error", error=traceback.format_exc())
                yield spec, result
            if broken:
                suspects.extend(running.values())
                running.clear()
                self.close()

    def _shared_gpus(self, context: SpawnContext) -> Any:
        """Return a queue from which each worker takes the list of its GPUs."""
        if self._gpus is None:
            return None
        queue = context.Queue()
        share = len(self._gpus) // self._workers
        for k in range(self._workers):
            queue.put(",".join(str(gpu) for gpu in self._gpus[k * share : (k + 1) * share]))
        return queue

    def _submit(self, spec: TrialSpec) -> Future[TrialResult]:
        with _sigint_held():
            if self._pool is None:
                # Spawned, not forked: torch's threads do not survive a fork.
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(
                    self._workers,
                    mp_context=context,
                    initializer=_start_worker,
                    initargs=(*self._arguments, self._shared_gpus(context)),
                )
            try:
                return self._pool.submit(_run_in_worker, spec)
            except BrokenProcessPool as error:
                # A worker died since the last result: for this trial the same as dying under it.
                dead: Future[TrialResult] = Future()
                dead.set_exception(error)
                return dead
