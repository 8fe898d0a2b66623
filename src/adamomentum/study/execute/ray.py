"""Trials on a Ray cluster, as core tasks: the plan is the engine's, the store is the resume state.

Tested in tests/study/test_execute.py.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

from adamomentum.study.execute.local import RunTrial
from adamomentum.study.spec import TrialSpec
from adamomentum.study.trial import TrialResult

OBJECT_STORE_BYTES = 100 * 2**20  # specs and results are small; the default takes a third of the memory
RETRIES = 2


class RayExecutor:
    """Runs trials on a Ray cluster; a context manager that lets go of it at the end.

    Args:
        argument: what each worker gets beside its spec; must be small, data is loaded where the trial runs.
        workers: trials at a time. Without an address also the number of CPUs of the local cluster that is started.
        run: what a worker does with a spec; must be importable there.
        address: of a running cluster, ``auto`` or ``ray://host:port``; None starts one on this machine.

    Raises:
        ModuleNotFoundError: if ray is not installed.
        ConnectionError: if there is no cluster at ``address``.
    """

    def __init__(self, argument: Any, workers: int, run: RunTrial, address: str | None = None) -> None:
        import ray

        if workers < 1:
            raise ValueError(f"workers must be >= 1, got {workers}")
        self._workers, self._argument, self._run = workers, argument, run
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:
            options |= {"num_cpus": workers, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        stop = signal.getsignal(signal.SIGTERM)
        ray.init(address=address, **options)
        if callable(stop):  # Ray puts its own there, which ends the driver without a word
            signal.signal(signal.SIGTERM, stop)

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster, or stop the local one; trials under way are lost."""
        import ray

        ray.shutdown()

    def run(self, specs: Iterable[TrialSpec]) -> Iterator[tuple[TrialSpec, TrialResult]]:
        """Yield each spec with its result, in the order in which they finish.

        A trial whose worker dies is started again elsewhere, up to twice.
        """
        import ray

        remote = ray.remote(_run_remote)
        argument = ray.put((self._run, self._argument))
        running: dict[Any, TrialSpec] = {}
        waiting = iter(specs)
        while True:
            # A bounded number in flight: Ray keeps every submitted task in memory.
            while len(running) < self._workers and (spec := next(waiting, None)) is not None:
                resources = {
                    "num_cpus": spec.num_threads * spec.processes,
                    "num_gpus": spec.processes if spec.device_kind == "cuda" else 0,
                }
                task = remote.options(max_retries=RETRIES, **resources).remote(spec.model_dump_json(), argument)
                running[task] = spec
            if not running:
                return
            finished, _ = ray.wait(list(running), num_returns=1)
            for task in finished:
                spec = running.pop(task)
                try:
                    result = TrialResult.model_validate_json(ray.get(task))
                except Exception:
                    # The worker died too often, or its answer is unusable.
                    result = TrialResult(status="error", error=traceback.format_exc())
                yield spec, result


def _run_remote(text: str, argument: tuple[RunTrial, Any]) -> str:
    run, rest = argument
    try:
        result = run(TrialSpec.model_validate_json(text), rest)
    except Exception:
        result = TrialResult(status="error", error=traceback.format_exc())
    return result.model_dump_json()
