"""Runs the experiments side by side."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace

from adamomentum.theory.catalogue import experiments
from adamomentum.theory.claims import Claim, Profile


def run_experiment(name: str, profile: Profile, seed: int) -> list[Claim]:
    """Runs one experiment on one core and returns its claims.

    Raises:
        ValueError: if there is none of that name.
    """
    import torch

    known = experiments()
    if name not in known:
        raise ValueError(f"no experiment is called {name!r}; there are {', '.join(known)}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        claims = known[name].run(profile, seed)
        seconds = (time.process_time() - start) / max(1, len(claims))
    finally:
        torch.set_num_threads(threads)
    # They share their runs: so much each.
    return [replace(claim, seconds=seconds) for claim in claims]


def run_all(names: Sequence[str], profile: Profile, seed: int, workers: int) -> Iterator[tuple[str, list[Claim]]]:
    """Runs experiments in processes of their own and yields (name, claims) as they finish.

    The numbers depend on ``profile`` and ``seed`` alone, not on ``workers``.

    Args:
        names: which experiments.
        profile: ``quick`` or ``full``.
        seed: of all random numbers.
        workers: processes at a time.

    Raises:
        Exception: what an experiment raised; the others are cancelled.
    """
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run_experiment, name, profile, seed): name for name in names}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
