"""The ways to train that are compared: what each stores of a parameter, and in which format.

Those of others are read off their sources, which are named; tests hold them to what was measured, where it was, as they
hold ours. Left out are step counts, and what an optimizer has once however many parameters there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MODES", "SOURCES", "Format", "Mode"]

# What release_gradients may hold at a time, in gradients: adamomentum/torch/release.py.
BUCKET = 2**20


@dataclass(frozen=True)
class Format:
    """How a tensor is stored.

    Attributes:
        name: what tables call it.
        bytes: an element's.
        block: elements that share a scale.
        scale: bytes of the scale.
        table: bytes of what each tensor has beside its elements.
        whole: blocks are never cut: a tensor that they do not divide is stored as a small one.
        least: a tensor of fewer elements is a small one.
        small: how small tensors are stored, where that is otherwise.
    """

    name: str
    bytes: float
    block: int = 1
    scale: int = 0
    table: int = 0
    whole: bool = False
    least: int = 0
    small: Format | None = None

    def bytes_of(self, numel: int) -> int:
        """Return the bytes of a tensor.

        Args:
            numel: its number of elements.
        """
        if self.small is not None and (numel < self.least or (self.whole and numel % self.block)):
            return self.small.bytes_of(numel)
        blocks = -(-numel // self.block)
        return math.ceil(numel * self.bytes) + blocks * self.scale + self.table


@dataclass(frozen=True)
class Mode:
    """An optimizer in one precision.

    Attributes:
        optimizer: its name.
        parameter: the format of parameters.
        moments: the formats of the first and of the second moment.
        rounding: how parameters are rounded.
        kept: the format of what rounding keeps of a parameter beside it; None if nothing.
        gradient: the format of gradients.
        bucket: gradients that may wait when they are released in backward, beside the one that is being made.
        passes: what summing gradients over several backward passes is without a buffer for them: "exact", "unbiased"
            or "no", which is not possible.
        options: for AdaMomentum, the options that choose the mode.
    """

    optimizer: str
    parameter: Format
    moments: tuple[Format, Format]
    rounding: str = "nearest"
    kept: Format | None = None
    gradient: Format = field(kw_only=True)
    bucket: int = 0
    passes: str = "no"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def moment_names(self) -> str:
        """The formats of the moments, in a few characters."""
        first, second = (moment.name for moment in self.moments)
        return first if first == second else f"{first}, {second}"


FLOAT32, BFLOAT16 = Format("float32", 4), Format("bfloat16", 2)
CODES = Format("8bit", 1, block=256, scale=1)

# What state_dtype may be, and the formats of the two moments.
STATE_DTYPES: dict[Any, tuple[Format, Format]] = {
    "float32": (FLOAT32, FLOAT32),
    ("float32", "8bit"): (FLOAT32, CODES),
    "bfloat16": (BFLOAT16, BFLOAT16),
    ("bfloat16", "8bit"): (BFLOAT16, CODES),
    "8bit": (CODES, CODES),
}
ROUNDINGS = {"stochastic": None, "kahan": BFLOAT16, "master": FLOAT32}


def _ours(parameter: Format, rounding: str) -> list[Mode]:
    return [
        Mode(
            "AdaMomentum",
            parameter,
            moments,
            rounding,
            ROUNDINGS.get(rounding),
            gradient=parameter,
            bucket=BUCKET,
            passes="exact" if moments[0] is FLOAT32 else "unbiased",
            options={"state_dtype": state_dtype, "rounding": rounding},
        )
        for state_dtype, moments in STATE_DTYPES.items()
    ]


# Where the formats of other libraries are from.
SOURCES = {
    "torch AdamW": "torch 2.13: moments in the parameter's dtype; where it steps float32 copies, their gradients "
    "are float32 too, made of those in bfloat16 one by one",
    "torchao": "torchao 0.18, torchao/optim/adam.py, subclass_*.py: a float32 scale a block; tensors below 4,096 "
    "elements and those that blocks do not divide stay in the parameter's dtype",
    "bitsandbytes": "bitsandbytes 0.50, bitsandbytes/optim/optimizer.py: a float32 scale a block; tensors below 4,096 "
    "elements stay in float32",
    "FlashAdamW": "flashoptim 0.1.3, flashoptim/optimizers.py and README: a float16 scale for 32 elements; 8 more bits "
    "a parameter with master_weight_bits=24, none with None",
}


def _in_blocks(name: str, size: float, block: int, table: int) -> Format:
    """Return a format of torchao: a float32 scale a block, and a table of what its codes stand for a tensor."""
    return Format(name, size, block, scale=4, table=table, whole=True, least=4096, small=BFLOAT16)


def _others(optimizer: str, moment: Format, rounding: str = "nearest", kept: Format | None = None) -> Mode:
    return Mode(optimizer, BFLOAT16, (moment, moment), rounding, kept, gradient=BFLOAT16)


BITSANDBYTES = Format("8bit", 1, 256, scale=4, least=4096, small=FLOAT32)
FLASH = Format("8bit", 1, 32, scale=2)

MODES: tuple[Mode, ...] = (
    *_ours(FLOAT32, "nearest"),
    *(mode for rounding in ROUNDINGS for mode in _ours(BFLOAT16, rounding)),
    Mode("torch AdamW", FLOAT32, (FLOAT32, FLOAT32), gradient=FLOAT32),
    Mode("torch AdamW", BFLOAT16, (FLOAT32, FLOAT32), "master", FLOAT32, gradient=FLOAT32),
    _others("torch AdamW", BFLOAT16),
    _others("torchao AdamW8bit", _in_blocks("8bit", 1, 256, 4 * 256), "stochastic"),
    _others("torchao AdamW4bit", _in_blocks("4bit", 0.5, 128, 4 * 16), "stochastic"),
    _others("torchao AdamWFp8", _in_blocks("fp8", 1, 256, 0), "stochastic"),
    _others("bitsandbytes AdamW8bit", BITSANDBYTES),
    _others("FlashAdamW", FLASH, "24 bits", Format("8bit", 1)),
    _others("FlashAdamW", FLASH),
)
