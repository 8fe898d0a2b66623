r"""Moments in reduced precision: bfloat16, and 8-bit codes with an exponent a block; both rounded stochastically.

Each of the two moments is in a format of its own: the option ``state_dtype`` names one for both, or a pair.

Rounded to nearest, a bfloat16 second moment freezes: beta2 = 0.999 takes 0.1 % a step, less than half the spacing of
bfloat16 numbers. Rounded up or down at random, with the probability that keeps the mean, it follows on average.

The random numbers are a function of the element's position in memory and of the step count alone; in a shard that is
rows of a parameter, of the position in the whole (``adamomentum.torch.sharded``). So a run can be repeated, goes on
bit for bit from a checkpoint, and does not depend on the number of threads; there is no generator to save. For a fixed
element they are an additive recurrence t * alpha mod 1, whose sums stay within O(log t) of their mean: rounding errors
cancel over the steps rather than add up as a random walk. Where ``exp_avg`` is stored several times within a step, as
under accumulation (``fold.py``), all times but the last have an alpha of their own and the number of the time in the
place of a second t.

**8-bit.** Elements are taken in the order of memory, in blocks of 256 (``BLOCK``). A block stores one biased float32
exponent E, that of its largest element (rounded up where rounding could pass the largest code), and a byte for each
element, made of the leading bits of the float32 number relative to E:

* ``exp_avg``: sign, 4 bits of exponent, 3 of mantissa; the lowest binade counts linearly down to zero. With
  L = 2^(E-141), magnitudes are k L / 8 for k = 0..7 and (1 + f/8) L 2^e for f = 0..7, e = 0..14.
* ``exp_avg_sq``: 5 bits of exponent, 3 of mantissa, (1 + f/8) 2^(E-158+e): no zero, so that no denominator vanishes.
  What is below the lowest code is stored as the lowest, 2^-31 times the block's largest binade.

An infinity or NaN makes E = 255: the whole block then reads as NaN, so that a spoiled block shows instead of going on
with wrong numbers.

The native kernels store the same formats. This file is their readable specification, and the for-loop path.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor

__all__ = [
    "BLOCK",
    "TOP_CODE",
    "Format",
    "StateDtype",
    "block_count",
    "can_go_together",
    "decode_m",
    "decode_v",
    "dither",
    "empty_scales",
    "encode_m",
    "encode_v",
    "formats_of",
    "in_memory_order",
    "is_reduced",
    "local_part",
    "name_of",
    "pack",
    "reaches_beyond_zero",
    "round_to_bfloat16",
    "unpack",
]

# A format of one moment that goes with every other one.
Format = Literal["float32", "bfloat16", "8bit"]
# What the option state_dtype may be; of a pair, the first is for exp_avg and the second for exp_avg_sq.
StateDtype = torch.dtype | Format | Literal["float64"] | tuple[torch.dtype | Format, torch.dtype | Format] | None

# Elements that share an exponent: 2 + 2/256 bytes a parameter for both moments.
BLOCK = 256

# Multipliers of the position, and of the step count for m and for v: fractions of 2^32 that are powers of the root of
# x^4 = x + 1, whose multiples spread evenly in three dimensions. For parameters, of half precision themselves, that of
# the golden ratio.
_BY_POSITION, _BY_STEP = 0xD1B54A33, {"m": 0xABC98389, "v": 0x8CB92BA7, "theta": 0x9E3779B9}
# In passes before the last one of a step, for m: the root of 2, and by the number of the pass the golden ratio.
_BY_STEP_FOLD, _BY_PASS_FOLD = 0x6A09E667, 0x9E3779B9

# Exponents below these would make the constants of a block subnormal.
_MIN_E_M, _MIN_E_V = 16, 32
_POISONED = 255
# The least magnitude among the codes that the largest number of a block can have, if its exponent is above those.
TOP_CODE = {"m": 119, "v": 247}


def is_reduced(dtype: StateDtype) -> bool:
    """Whether an option ``state_dtype``, or a dtype that a moment is stored in, has one of reduced precision in it."""
    if isinstance(dtype, torch.dtype):
        return dtype in (torch.bfloat16, torch.uint8)  # uint8: the codes
    return any(name in ("bfloat16", "8bit") for name in formats_of(dtype))


def name_of(dtype: StateDtype) -> str | tuple[str, str] | None:
    """Return the option ``state_dtype`` as text, in the words of torch; a pair of the same as that one."""
    if isinstance(dtype, tuple):
        first, second = cast(tuple[str, str], tuple(map(name_of, dtype)))
        return first if first == second else (first, second)
    return str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype | str) else dtype


def formats_of(dtype: StateDtype) -> tuple[str | None, str | None]:
    """Return the formats of both moments, by name, that an option ``state_dtype`` stands for; None for the usual."""
    name = name_of(dtype)
    return name if isinstance(name, tuple) else (name, name)


def empty_scales(p: Tensor, moment: Literal["m", "v"]) -> Tensor:
    """Return the exponents of the blocks of ``p``'s moment, of what this process has of it, while that is zero."""
    fill = _MIN_E_M if moment == "m" else _MIN_E_V
    blocks = block_count(local_part(p).numel())
    return torch.full((blocks,), fill, dtype=torch.uint8, device=p.device)


def local_part(t: Tensor) -> Tensor:
    """Return what this process has of a DTensor; another tensor as it is."""
    local: Tensor = getattr(t, "_local_tensor", t)
    return local


def unpack(stored: Tensor, scale: Tensor | None, moment: Literal["m", "v"]) -> Tensor:
    """Return a float32 copy of a stored moment, shaped and laid out like it."""
    if stored.dtype != torch.uint8:
        return stored.float()
    assert scale is not None
    values = torch.empty_like(stored, dtype=torch.float32)
    codes = in_memory_order(stored, stored)
    in_memory_order(values, stored).copy_(decode_m(codes, scale) if moment == "m" else decode_v(codes, scale))
    return values


def pack(
    values: Tensor,
    stored: Tensor,
    scale: Tensor | None,
    moment: Literal["m", "v"],
    step: float | Tensor,
    first: int = 0,
    fold: int = 0,
) -> None:
    """Store a float32 moment, rounded stochastically.

    Args:
        values: the moment.
        stored: where it goes: bfloat16 or codes, of the same shape.
        scale: where the exponents of the codes go.
        moment: which one it is.
        step: the step count t after which it is stored.
        first: where they begin in the moment of the whole parameter. Blocks begin with them.
        fold: the number, from 1, of the pass before the last one of a step after which it is stored; 0 for the last.
    """
    values, stored = local_part(values), local_part(stored)
    x = in_memory_order(values, stored)
    random = dither(x.numel(), step, moment, x.device, first, fold)
    if scale is None:
        in_memory_order(stored, stored).copy_(round_to_bfloat16(x, random))
        return
    codes, exponents = encode_m(x, random) if moment == "m" else encode_v(x, random)
    in_memory_order(stored, stored).copy_(codes)
    scale.copy_(exponents)


def block_count(numel: int) -> int:
    """How many blocks ``numel`` elements take."""
    return -(-numel // BLOCK)


def dither(
    numel: int,
    step: float | Tensor,
    moment: Literal["m", "v", "theta"],
    device: torch.device,
    first: int = 0,
    fold: int = 0,
) -> Tensor:
    """Return the random bits of each element's rounding at one step: int32 numbers, uniform over all 32 bits.

    Args:
        numel: number of elements; the i-th result is for element ``first`` + i in memory.
        step: the step count t, from 1, after which the moment is stored.
        moment: whose rounding it is; "theta" is the parameter itself.
        device: where to make them.
        first: the position of the first element.
        fold: as :func:`pack` has it, for the first moment alone.
    """
    by_step = _BY_STEP_FOLD if fold else _BY_STEP[moment]
    t = step.to(device, torch.int64) if isinstance(step, Tensor) else int(step)
    start = _signed((t * by_step + (first * _BY_POSITION + fold * _BY_PASS_FOLD & 0xFFFFFFFF)) & 0xFFFFFFFF)
    # In 32 bits, where what overflows is cut off, as it should be.
    return torch.arange(numel, dtype=torch.int32, device=device).mul_(_signed(_BY_POSITION)).add_(start)


def _signed(bits: Any) -> Any:
    """Return what 32 bits, an unsigned number or a tensor of such, are as a signed one."""
    return bits - ((bits >> 31) << 32)


def in_memory_order(t: Tensor, like: Tensor) -> Tensor:
    """Return the elements of ``t`` in the order in which ``like``, a dense tensor of its shape, has them in memory.

    Returns:
        One dimension: a view of ``t`` where its layout allows that, as it always does for ``like`` itself.
    """
    strides = like.stride()
    order = sorted(range(t.dim()), key=lambda d: (-strides[d], d))
    return t.permute(order).reshape(-1)


def round_to_bfloat16(x: Tensor, random: Tensor) -> Tensor:
    """Round float32 numbers to bfloat16, up or down with the probability that keeps the mean.

    Args:
        x: float32, any shape.
        random: what :func:`dither` returned, of the same shape.

    Returns:
        bfloat16 numbers. Infinities and NaN stay what they are.
    """
    bits = x.view(torch.int32) + ((random >> 16) & 0xFFFF)
    rounded = (bits & ~0xFFFF).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x).bfloat16()


def encode_m(x: Tensor, random: Tensor) -> tuple[Tensor, Tensor]:
    """Code first moments.

    Args:
        x: float32, one dimension.
        random: what :func:`dither` returned.

    Returns:
        The codes, uint8 and as many, and the exponents of the blocks, uint8.
    """
    exponent, bits = _block_exponents(x, _MIN_E_M)
    low = (exponent - 14) << 23  # the bits of L
    magnitude = bits & 0x7FFFFFFF
    base = low.view(torch.float32)
    linear = (magnitude.view(torch.float32) + base).view(torch.int32) - low
    steps = torch.where(magnitude < low, linear, magnitude - low + (1 << 23))
    code = ((steps + ((random >> 12) & 0xFFFFF)) >> 20) | ((bits >> 24) & 0x80)
    return code.to(torch.uint8), exponent[::BLOCK].to(torch.uint8)


def decode_m(codes: Tensor, scales: Tensor) -> Tensor:
    """First moments, float32, from the codes and exponents of :func:`encode_m`."""
    exponent = _spread(scales, codes.numel())
    low = (exponent - 14) << 23
    code = codes.to(torch.int32)
    steps = (code & 0x7F) << 20
    linear = (low + steps).view(torch.float32) - low.view(torch.float32)
    magnitude = torch.where(steps < (1 << 23), linear, (low + steps - (1 << 23)).view(torch.float32))
    x = torch.where(code >= 0x80, -magnitude, magnitude)
    return x.masked_fill(exponent == _POISONED, torch.nan)


def encode_v(x: Tensor, random: Tensor) -> tuple[Tensor, Tensor]:
    """Code second moments: as :func:`encode_m`, for numbers >= 0."""
    exponent, bits = _block_exponents(x, _MIN_E_V)
    steps = (bits - ((exponent - 31) << 23)).clamp(min=0)
    code = (steps + ((random >> 12) & 0xFFFFF)) >> 20
    return code.to(torch.uint8), exponent[::BLOCK].to(torch.uint8)


def decode_v(codes: Tensor, scales: Tensor) -> Tensor:
    """Second moments, float32, from the codes and exponents of :func:`encode_v`."""
    exponent = _spread(scales, codes.numel())
    x = (((exponent - 31) << 23) + (codes.to(torch.int32) << 20)).view(torch.float32)
    return x.masked_fill(exponent == _POISONED, torch.nan)


def can_go_together(codes: Tensor, scales: Tensor, moment: Literal["m", "v"]) -> bool:
    """Whether codes and exponents can have come from one encoding: the largest number of a block is what it has E of.

    Args:
        codes: uint8, one dimension.
        scales: the exponents of their blocks, uint8.
        moment: which one they are of.
    """
    least, top = _MIN_E_M if moment == "m" else _MIN_E_V, TOP_CODE[moment]
    magnitude = codes & 0x7F if moment == "m" else codes
    padded = torch.nn.functional.pad(magnitude, (0, scales.numel() * BLOCK - codes.numel()))
    largest = padded.view(-1, BLOCK).amax(1)
    return bool(((largest >= top) | (scales <= least) | (scales == _POISONED)).all())


def reaches_beyond_zero(scales: Tensor, moment: Literal["m", "v"]) -> bool:
    """Whether exponents say of any block that it has numbers beyond those that count as 0."""
    return bool((scales > (_MIN_E_M if moment == "m" else _MIN_E_V)).any())


def _spread(scales: Tensor, numel: int) -> Tensor:
    """Return the exponent of each element's block, int32."""
    return scales.to(torch.int32).repeat_interleave(BLOCK)[:numel]


def _block_exponents(x: Tensor, minimum: int) -> tuple[Tensor, Tensor]:
    """Return the exponent of each element's block, and the elements' own bits, both int32."""
    bits = x.view(torch.int32)
    blocks = block_count(x.numel())
    padded = torch.nn.functional.pad(bits & 0x7FFFFFFF, (0, blocks * BLOCK - x.numel()))
    largest = padded.view(blocks, BLOCK).amax(1)
    # Rounding up by less than a code, 2^20, must not leave the block's highest binade.
    exponent = ((largest.to(torch.int64) + 0xFFFFF) >> 23).clamp(minimum, _POISONED).to(torch.int32)
    return _spread(exponent, x.numel()), bits
