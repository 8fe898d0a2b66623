"""The page of results: tables as markdown, below an introduction that says how they were made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import torch

from adamomentum.bench.bandwidth import FLOAT32_STEP_BYTES
from adamomentum.bench.measure import Measured, Settings
from adamomentum.bench.peers import REFERENCE
from adamomentum.bench.table import duration, ratio, significant
from adamomentum.bench.timing import quartiles
from adamomentum.files import markdown

__all__ = ["Results", "raw", "render", "tables"]

TITLES = {
    "large": "Models",
    "small": "Many small tensors",
    "clip": "Clipping to a total norm, then a step",
}
# Whose steps are put beside the physical limit; they move all of FLOAT32_STEP_BYTES.
LIMITED = (REFERENCE, "AdaMomentum (default)", "AdaMomentum fused")


@dataclass
class Results:
    """All that was measured in one run.

    Attributes:
        settings: how.
        command: the command line.
        date: of the run.
        machine: in a line.
        versions: by package.
        cache: bytes of the last-level cache; 0 if unknown.
        bandwidth: bytes a second, by number of threads and pattern; empty if not measured.
        streamed: bytes of each tensor it was measured on.
        measured: one entry a workload.
    """

    settings: Settings
    command: str
    date: str
    machine: str
    versions: dict[str, str]
    cache: int
    bandwidth: dict[int, dict[str, float]]
    streamed: int
    measured: list[Measured]


def render(results: Results) -> str:
    """Return the whole page."""
    settings = results.settings
    allocations = (
        f" All is repeated on {settings.allocations} fresh sets of tensors, over which medians and quartiles are taken."
        if settings.allocations > 1
        else ""
    )
    return Template((Path(__file__).parent / "page.md").read_text(encoding="utf-8")).substitute(
        command=results.command,
        date=results.date,
        machine=results.machine,
        versions=", ".join(f"{name} {version}" for name, version in results.versions.items()),
        rounds=settings.rounds,
        allocations=allocations,
        clock="; on the GPU, the time between two of its events" if settings.device.type == "cuda" else "",
        tables=tables(results),
    )


def tables(results: Results) -> str:
    """Return all tables, each below its heading."""
    parts = []
    for group, title in TITLES.items():
        members = [m for m in results.measured if m.workload.group == group]
        for threads in results.settings.threads if members else ():
            parts += [f"## {title}, {_where(threads, results.settings.device)}", _times(members, threads)]
        if members:
            parts += [note for note in (_separate(members), _missing(members)) if note]
    steps = [m for m in results.measured if m.workload.group != "clip"]
    if steps:
        parts += ["## Memory", *_memory(steps)]
    if results.bandwidth:
        parts += ["## The physical limit", *_limit(results)]
    return "\n\n".join(parts)


def raw(results: Results) -> dict[str, Any]:
    """Return all numbers, as what JSON can hold."""
    return {
        "command": results.command,
        "date": results.date,
        "machine": results.machine,
        "versions": results.versions,
        "device": results.settings.device.type,
        "rounds": results.settings.rounds,
        "allocations": results.settings.allocations,
        "last_level_cache_bytes": results.cache,
        "streamed_bytes": results.streamed,
        "bandwidth_bytes_per_s": results.bandwidth,
        "workloads": [
            {
                "key": m.workload.key,
                "parameters": m.workload.numel,
                "state_bytes_per_parameter": m.state,
                "peak_bytes_per_parameter": m.peak,
                "separate_memory": m.separate,
                "missing": m.missing,
                "times": {
                    threads: {name: {"seconds": t.seconds, "ratios": t.ratios} for name, t in times.items()}
                    for threads, times in m.times.items()
                },
            }
            for m in results.measured
        ],
    }


def _where(threads: int, device: torch.device) -> str:
    return "GPU" if device.type == "cuda" else f"{threads} thread{'s' * (threads > 1)}"


def _present(members: list[Measured]) -> list[str]:
    """Return who took part in any of these workloads."""
    return [name for name in members[0].names if any(name in m.state for m in members)]


def _times(members: list[Measured], threads: int) -> str:
    def cell(m: Measured, name: str) -> str:
        times = m.times[threads].get(name)
        if times is None:
            return "–"
        if name == m.names[0]:
            return f"1 ({duration(quartiles(times.seconds).median)})"
        return ratio(times.ratios)

    separate = {name for m in members for name in m.separate}
    return markdown(
        ["", *(m.workload.label for m in members)],
        [[name + " *" * (name in separate), *(cell(m, name) for m in members)] for name in _present(members)],
        numbers=True,
    )


def _separate(members: list[Measured]) -> str:
    return "\\* state in memory of its own." if any(m.separate for m in members) else ""


def _missing(members: list[Measured]) -> str:
    """Return who did not take part, and why."""
    lines = []
    for name in members[0].names:
        why: dict[str, list[str]] = {}
        for m in members:
            if name in m.missing:
                why.setdefault(m.missing[name], []).append(m.workload.key)
        for text, keys in why.items():
            where = "" if len(keys) == len(members) else f" ({', '.join(keys)})"
            lines.append(f"- {name}{where}: {text}")
    return "Not measured:\n\n" + "\n".join(lines) if lines else ""


def _memory(steps: list[Measured]) -> list[str]:
    def cell(m: Measured, name: str) -> str:
        return f"{significant(m.state[name])} + {significant(m.peak[name])}" if name in m.state else "–"

    return [
        "Bytes a parameter: what the state takes, its step counts included, + the most that one step holds on top of "
        "parameters, gradients and state.",
        markdown(
            ["", *(m.workload.label for m in steps)],
            [[name, *(cell(m, name) for m in steps)] for name in _present(steps)],
            numbers=True,
        ),
    ]


def _limit(results: Results) -> list[str]:
    """Return the measured steps beside the time that their memory traffic takes at the best streaming rate."""
    where: Callable[[int], str] = lambda threads: _where(threads, results.settings.device)
    patterns = next(iter(results.bandwidth.values()))
    streams = markdown(
        ["GB/s", *(f"`{name}`" for name in patterns)],
        [
            [where(threads), *(f"{rate / 1e9:.1f}" for rate in rates.values())]
            for threads, rates in results.bandwidth.items()
        ],
        numbers=True,
    )
    rows = []
    for m in results.measured:
        held = 16 * m.workload.numel
        if m.workload.group != "large":
            continue
        for threads, rates in results.bandwidth.items():
            limit = FLOAT32_STEP_BYTES * m.workload.numel / max(rates.values())
            row = [f"{m.workload.label}, {where(threads)}{' †' * (held < results.cache)}", duration(limit)]
            for name in LIMITED:
                times = m.times[threads].get(name)
                median = quartiles(times.seconds).median if times else 0.0
                row.append(f"{duration(median)} ({limit / median:.0%})" if median else "–")
            rows.append(row)
    intro = (
        f"Torch operations on two float32 tensors a and b of {results.streamed / 1e6:,.0f} MB each, the best of nine "
        "runs on three allocations. Counted are 4 bytes an element for each tensor read and for each written (copy_ "
        "and mul_ 8 in all, add_ and lerp_ 12), not what a processor reads only to overwrite it."
    )
    if not rows:
        return [intro, streams]
    return [
        intro,
        streams,
        f"A float32 step reads 16 and writes 12 bytes a parameter. Limit: {FLOAT32_STEP_BYTES} bytes a parameter at "
        "the fastest of these rates; in brackets, limit over measured time. A share above 100 % says that part of "
        "the tensors stayed in a cache, or that no operation above streams as well as the step.",
        markdown(["", "limit", *LIMITED], rows, numbers=True),
        *(
            [f"† its 16 bytes a parameter fit in the last-level cache ({results.cache / 2**20:.0f} MiB)."]
            if any("†" in row[0] for row in rows)
            else []
        ),
    ]
