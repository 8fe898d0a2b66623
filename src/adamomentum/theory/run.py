"""Runs the experiments side by side."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace

from adamomentum.theory.claims import Claim, Experiment, Failure, Profile


def run_experiment(name: str, experiment: Experiment, profile: Profile, seed: int) -> list[Claim] | Failure:
    """Run one experiment on one core and return its claims, or what it raised."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        claims = experiment(profile, seed)
        seconds = (time.process_time() - start) / max(1, len(claims))
    except Exception:  # the others have taken long, and must not be lost
        return Failure(name, traceback.format_exc())
    finally:
        torch.set_num_threads(threads)
    # They share their runs: so much each.
    return [replace(claim, seconds=seconds) for claim in claims]


def run_all(
    chosen: Mapping[str, Experiment], profile: Profile, seed: int, workers: int
) -> Iterator[tuple[str, list[Claim] | Failure]]:
    """Run experiments in processes of their own and yield (name, claims or failure) as they finish.

    The numbers depend on ``profile`` and ``seed`` alone, not on ``workers``.

    Args:
        chosen: which experiments, by name.
        profile: ``quick`` or ``full``.
        seed: of all random numbers.
        workers: processes at a time.
    """
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run_experiment, name, run, profile, seed): name for name, run in chosen.items()}
        try:
            for future in as_completed(running):
                name, error = running[future], future.exception()
                if error is None:
                    yield name, future.result()
                else:  # the process died, of a lack of memory for example
                    yield name, Failure(name, "".join(traceback.format_exception(error)))
        except BaseException:
            # What is under way is lost in any case: nobody waits for it.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
