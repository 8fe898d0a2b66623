"""The command ``adamomentum memory``, which needs nothing beyond the base install to count from a number.

Tested in tests/memory/test_memory_cli.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adamomentum.memory.modes import SOURCES, Mode
from adamomentum.memory.sizes import Sizes, sizes_of
from adamomentum.memory.training import Memory, largest_model, training_memory

__all__ = ["run"]

GB = 10**9
CAPACITIES = (16, 24, 48, 80, 141)
# Without a model: enough parameters that what is rounded up does not show.
MANY = 10**12
NAMES = ["optimizer", "parameters", "rounding", "moments"]
NOTES = """\
released: each gradient is freed in backward, as by adamomentum.torch.release_gradients, or by an optimizer a parameter.
K passes: gradients of several backward passes a step are summed without a buffer, exactly or unbiased; no: impossible.
{held}
1 GB is 10^9 bytes. Activations, step counts and temporary memory come on top."""
HELD = "Of released gradients the largest is counted, of {:,} elements, and by AdaMomentum a bucket of 2^20 that wait."
SHARED = "\nThose of {:,} shared elements are held until all uses are there and added, the largest then 3 times."
UNKNOWN = (
    "Of released gradients none is counted, by AdaMomentum a bucket of 2^20: a number tells nothing of the largest."
)


def run(arguments: Sequence[str]) -> None:
    """Print the bytes that training takes by mode, and the largest models that fit.

    Args:
        arguments: of the command line, after its name.
    """
    parser = argparse.ArgumentParser(
        prog="adamomentum memory",
        description="Bytes that training takes, by optimizer and precision, and the largest models that fit in "
        f"{', '.join(map(str, CAPACITIES))} GB, activations aside. Computed from formats, not measured.",
    )
    parser.add_argument(
        "model", nargs="?", help="a number of parameters, as 7B or 6.7e9, or a Hugging Face config.json or its folder"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, in bytes, to this file")
    options = parser.parse_args(arguments)
    try:
        sizes = None if options.model is None else sizes_of(options.model)
    except (ValueError, ModuleNotFoundError) as error:
        parser.error(str(error))
    memories = training_memory(MANY if sizes is None else sizes)
    largest = {memory.mode: _largest(memory.mode) for memory in memories}
    if options.json is not None:
        record = [_record(memory, largest[memory.mode], sizes) for memory in memories]
        try:
            options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            parser.error(f"--json: cannot write {options.json}: {error.strerror}")
    print(_text(memories, largest, sizes))


Largest = dict[int, tuple[int, int]]  # by capacity in GB: without release, with it


def _largest(mode: Mode) -> Largest:
    return {
        size: (largest_model(mode, size * GB, released=False), largest_model(mode, size * GB, released=True))
        for size in CAPACITIES
    }


def _record(memory: Memory, largest: Largest, sizes: Sizes | None) -> dict[str, Any]:
    parts = ("parameters", "gradients", "moments", "rounding", "total", "released")
    mode, values = memory.mode, {name: getattr(memory, name) for name in parts}
    return {
        **dict(zip(NAMES, _names(mode), strict=True)),
        "passes": mode.passes,
        "bytes_per_parameter": {name: value / memory.numel for name, value in values.items()},
        "bytes": None if sizes is None else values,
        "largest": {str(size): {"total": whole, "released": freed} for size, (whole, freed) in largest.items()},
    }


def _names(mode: Mode) -> list[str]:
    return [mode.optimizer, mode.parameter.name, mode.rounding, mode.moment_names]


def _text(memories: list[Memory], largest: dict[Mode, Largest], sizes: Sizes | None) -> str:
    title = "Bytes a parameter"
    if sizes is not None:
        frozen = f", and {sizes.fixed:,} bytes of frozen ones and buffers" if sizes.fixed else ""
        title = f"{sizes.numel:,} parameters are trained{frozen}\n\n{title} that is trained"
    counts = [
        [
            *_names(memory.mode),
            *(
                f"{value / memory.numel:.2f}"
                for value in (memory.parameters, memory.gradients, memory.moments, memory.rounding)
            ),
            *(f"{value / memory.numel:.2f}" for value in (memory.total, memory.released)),
            memory.mode.passes,
        ]
        for memory in memories
    ]
    header = [*NAMES, "parameter", "gradient", "moments", "rounding", "in all", "released", "K passes"]
    parts = [f"{title}\n\n{_aligned([header, *counts])}"]
    if sizes is not None:
        rows = [
            [
                *_names(m.mode),
                f"{m.total / GB:.2f}",
                f"{m.released / GB:.2f}",
                _smallest(m.total),
                _smallest(m.released),
            ]
            for m in memories
        ]
        header = [*NAMES, "GB in all", "released", "fits in", "released"]
        parts.append(f"This model\n\n{_aligned([header, *rows])}")
    rows = [
        [*_names(mode), *(f"{whole / 1e9:.2f} / {freed / 1e9:.2f}" for whole, freed in by_size.values())]
        for mode, by_size in largest.items()
    ]
    header = [*NAMES, *(f"{size} GB" for size in CAPACITIES)]
    parts.append(f"Largest model, billions of parameters: in all / released\n\n{_aligned([header, *rows])}")
    held = HELD.format(sizes.largest) if sizes is not None and sizes.largest else UNKNOWN
    if sizes is not None and sizes.shared:
        held += SHARED.format(sum(sizes.shared))
    parts.append(NOTES.format(held=held))
    parts.append("\n".join(f"{name}: {source}" for name, source in SOURCES.items()))
    return "\n\n".join(parts)


def _smallest(needed: int) -> str:
    return next((f"{size} GB" for size in CAPACITIES if needed <= size * GB), "none")


def _aligned(rows: list[list[str]]) -> str:
    """Return columns of text and, after them, of numbers; an optimizer is named where it begins."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines, last = [], ""
    for first, *cells in rows:
        words = ["" if first == last else first, *cells]
        lines.append(
            "  ".join(
                f"{word:<{width}}" if i < len(NAMES) else f"{word:>{width}}"
                for i, (word, width) in enumerate(zip(words, widths, strict=True))
            ).rstrip()
        )
        last = first
    return "\n".join(lines)
