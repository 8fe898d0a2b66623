"""The Triton kernel behind :mod:`adamomentum.torch.fused_cuda`, which imports this file on first use.

One program updates :data:`CHUNK` elements of one tensor, as a tile whose rows are the blocks of the 8-bit format. The
formats of the moments and the random bits of their rounding are specified in :mod:`adamomentum.torch.precision`.

Tested in tests/torch/test_fused_cuda.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from adamomentum.torch.rounding import ROUNDINGS
from adamomentum.torch.scalars import ENTRY, MATRIX_COLUMNS

# Elements a program updates, a multiple of BLOCK; and its warps, one a block.
CHUNK = 2048
WARPS = 8

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# As in precision.py: a kernel sees the globals of its own file only.
_BLOCK = tl.constexpr(256)
# Elements that a program updates at a time where it needs a mask.
_PIECE = tl.constexpr(512)
_BY_POSITION = tl.constexpr(0xD1B54A33)
_BY_STEP_M = tl.constexpr(0xABC98389)
_BY_STEP_V = tl.constexpr(0x8CB92BA7)
_BY_STEP_THETA = tl.constexpr(0x9E3779B9)
_STOCHASTIC = tl.constexpr(ROUNDINGS.index("stochastic"))
_KAHAN = tl.constexpr(ROUNDINGS.index("kahan"))
_MASTER = tl.constexpr(ROUNDINGS.index("master"))

# The bits of a NaN in float32.
_NAN = tl.constexpr(0x7FC00000)

# Where in an entry of the table each of its numbers is.
_ENTRY = tl.constexpr(len(ENTRY))
_NUMEL = tl.constexpr(ENTRY.index("numel"))
_START = tl.constexpr(ENTRY.index("start"))
_ROW = tl.constexpr(ENTRY.index("row"))
_STEP = tl.constexpr(ENTRY.index("step"))
_POSITION = tl.constexpr(ENTRY.index("position"))
_PARAM = tl.constexpr(ENTRY.index("param"))
_GRAD = tl.constexpr(ENTRY.index("grad"))
_M = tl.constexpr(ENTRY.index("m"))
_V = tl.constexpr(ENTRY.index("v"))
_V_MAX = tl.constexpr(ENTRY.index("v_max"))
_M_SCALE = tl.constexpr(ENTRY.index("m_scale"))
_V_SCALE = tl.constexpr(ENTRY.index("v_scale"))
_KEPT = tl.constexpr(ENTRY.index("kept"))

# Where in its row of the numbers each is.
_NUMBERS = tl.constexpr(len(MATRIX_COLUMNS))
_M_WEIGHT = tl.constexpr(MATRIX_COLUMNS.index("m_weight"))
_V_DECAY = tl.constexpr(MATRIX_COLUMNS.index("v_decay"))
_V_WEIGHT = tl.constexpr(MATRIX_COLUMNS.index("v_weight"))
_EPS_SUM = tl.constexpr(MATRIX_COLUMNS.index("eps_sum"))
_SHRINK = tl.constexpr(MATRIX_COLUMNS.index("shrink"))
_FACTOR = tl.constexpr(MATRIX_COLUMNS.index("factor"))
_ADAPT = tl.constexpr(MATRIX_COLUMNS.index("adapt"))


# Numbers that are read one by one gain nothing from a variant of the kernel for aligned addresses.
@triton.jit(do_not_specialize_on_alignment=["table", "owners", "numbers", "grad_factor", "found_inf"])
def update_chunk(
    table,
    owners,
    numbers,
    grad_factor,
    l2,
    passes,
    momentum_floor,
    found_inf,
    PARAM: tl.constexpr,
    M_STATE: tl.constexpr,
    V_STATE: tl.constexpr,
    AMSGRAD: tl.constexpr,
    HAS_L2: tl.constexpr,
    LOOKAHEAD: tl.constexpr,
    NESTEROV: tl.constexpr,
    ROUNDING: tl.constexpr,
    STEP: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Update the chunk that the program's number stands for.

    Args:
        table: int64, an ENTRY a tensor. ``start`` is the number of the tensor's first chunk, ``row`` its row
            of ``numbers``, ``step`` its step count or, with STEP, the address of that,
            ``position`` where it begins in the whole that it is a part of.
        owners: int32, for each chunk its tensor's entry in the table plus 1.
        numbers: float32, see :func:`adamomentum.torch.fused_cuda.fused_cuda_update`.
        grad_factor: one float32.
        l2: a float.
        passes: a float, by which the gradient is multiplied in the look-ahead momentum.
        momentum_floor: a float, the share of the momentum that this counts as at least in the second moment.
        found_inf: one float32, or None.
        PARAM: dtype of parameters and gradients.
        M_STATE: dtype of the first moment; uint8 for the 8-bit format.
        V_STATE: the same of the second.
        AMSGRAD: whether there are maxima of the second moment.
        HAS_L2: whether l2 is not 0.
        LOOKAHEAD: whether the second moment averages the square of the look-ahead momentum.
        NESTEROV: whether the parameter moves by the look-ahead momentum.
        ROUNDING: how parameters are rounded, its place in ROUNDINGS.
        STEP: dtype of the step counts on the device, or None.
        CHUNK: elements a program.
    """
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    program = tl.program_id(0)
    tensor = tl.load(owners + program) - 1
    entry = table + tensor.to(tl.int64) * _ENTRY
    first = (program - tl.load(entry + _START)) * CHUNK
    numel = tl.load(entry + _NUMEL)

    addresses = tl.load(entry + _PARAM) | tl.load(entry + _GRAD) | tl.load(entry + _M) | tl.load(entry + _V)
    if AMSGRAD:
        addresses |= tl.load(entry + _V_MAX)
    if ROUNDING >= _KAHAN:
        addresses |= tl.load(entry + _KEPT)
    # Only without a mask, and from addresses known to be multiples of 16, are loads and stores 16 bytes wide.
    if (numel - first >= CHUNK) & (addresses % 16 == 0):
        _update_tile(
            entry, first, numel, numbers, grad_factor, l2, passes, momentum_floor,
            PARAM, M_STATE, V_STATE, AMSGRAD, HAS_L2, LOOKAHEAD, NESTEROV, ROUNDING, STEP, CHUNK, True,
        )  # fmt: skip
    else:  # in small pieces, so that it is not these, with their masks, that decide how many registers are needed
        for begin in range(first, tl.minimum(first + CHUNK, numel), _PIECE):
            _update_tile(
                entry, begin, numel, numbers, grad_factor, l2, passes, momentum_floor,
                PARAM, M_STATE, V_STATE, AMSGRAD, HAS_L2, LOOKAHEAD, NESTEROV, ROUNDING, STEP, _PIECE, False,
            )  # fmt: skip


@triton.jit
def _update_tile(
    entry,
    first,
    numel,
    numbers,
    grad_factor,
    l2,
    passes,
    momentum_floor,
    PARAM: tl.constexpr,
    M_STATE: tl.constexpr,
    V_STATE: tl.constexpr,
    AMSGRAD: tl.constexpr,
    HAS_L2: tl.constexpr,
    LOOKAHEAD: tl.constexpr,
    NESTEROV: tl.constexpr,
    ROUNDING: tl.constexpr,
    STEP: tl.constexpr,
    TILE: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Update the TILE elements from ``first`` on or, without WIDE, those of them below ``numel``."""
    ROWS: tl.constexpr = TILE // _BLOCK
    offsets = first + tl.arange(0, ROWS)[:, None] * _BLOCK + tl.arange(0, _BLOCK)[None, :]
    inside = offsets < numel

    n = numbers + tl.load(entry + _ROW) * _NUMBERS
    m_weight = tl.load(n + _M_WEIGHT)
    v_decay = tl.load(n + _V_DECAY)
    v_weight = tl.load(n + _V_WEIGHT)
    eps_sum = tl.load(n + _EPS_SUM)
    shrink = tl.load(n + _SHRINK)
    factor = tl.load(n + _FACTOR)
    adapt = tl.load(n + _ADAPT)

    param_at = _at(entry + _PARAM, offsets, PARAM, WIDE)
    m_at = _at(entry + _M, offsets, M_STATE, WIDE)
    v_at = _at(entry + _V, offsets, V_STATE, WIDE)
    theta = _load(param_at, inside, WIDE).to(tl.float32)
    if ROUNDING == _KAHAN:
        kept_at = _at(entry + _KEPT, offsets, PARAM, WIDE)
        lost = _load(kept_at, inside, WIDE).to(tl.float32)
        whole, inner = theta + lost, theta + lost * (1 - 2**-9)
        other = tl.where(_rounded_to(inner, PARAM).to(tl.float32) == theta, inner, theta)
        theta = tl.where(_rounded_to(whole, PARAM).to(tl.float32) == theta, whole, other)
    if ROUNDING == _MASTER:
        kept_at = _at(entry + _KEPT, offsets, tl.float32, WIDE)
        master = _load(kept_at, inside, WIDE)
        theta = tl.where(_rounded_to(master, PARAM).to(tl.float32) == theta, master, theta)
    g = _load(_at(entry + _GRAD, offsets, PARAM, WIDE), inside, WIDE).to(tl.float32)
    m = _load(m_at, inside, WIDE)
    v = _load(v_at, inside, WIDE)
    block = first // _BLOCK + tl.arange(0, ROWS)[:, None]
    has_block = block * _BLOCK < numel
    if M_STATE == tl.uint8:
        m_scale_at = tl.load(entry + _M_SCALE).to(tl.pointer_type(tl.uint8)) + block
        m = _decode_m(m, tl.load(m_scale_at, has_block, other=128))
    else:
        m = m.to(tl.float32)
    if V_STATE == tl.uint8:
        v_scale_at = tl.load(entry + _V_SCALE).to(tl.pointer_type(tl.uint8)) + block
        v = _decode_v(v, tl.load(v_scale_at, has_block, other=128))
    else:
        v = v.to(tl.float32)

    g *= tl.load(grad_factor)
    ahead = g * passes
    if HAS_L2:
        g += l2 * theta
        ahead += l2 * theta
    m += m_weight * (g - m)
    lookahead = m + m_weight * (ahead - m)
    averaged = m
    if LOOKAHEAD:
        floor = momentum_floor * tl.abs(m)
        averaged = tl.where(floor > tl.abs(lookahead), floor, lookahead)  # a NaN stays
    v = v * (1 - v_decay) + v_weight * averaged * averaged  # not v - v * v_decay: an infinite v stays infinite
    d = v + eps_sum
    if AMSGRAD:
        v_max_at = _at(entry + _V_MAX, offsets, tl.float32, WIDE)
        # As torch.maximum does, keep a NaN of either, so that it shows.
        d = tl.maximum(_load(v_max_at, inside, WIDE), d, propagate_nan=tl.PropagateNan.ALL)
        _store(v_max_at, d, inside, WIDE)
    direction = lookahead if NESTEROV else m
    if V_STATE == tl.float32:
        direction = tl.div_rn(direction, tl.where(adapt != 0, tl.sqrt_rn(d), 1.0))
    else:  # v is rounded to 2^-8 or coarser: a root good to 2^-22 in a third of the instructions
        direction *= tl.where(adapt != 0, tl.rsqrt(d), 1.0)
    theta = theta * shrink + factor * direction
    place = (tl.load(entry + _POSITION) * _BY_POSITION).to(tl.uint32)
    step = tl.load(entry + _STEP)
    if STEP is not None and (M_STATE != tl.float32 or V_STATE != tl.float32 or ROUNDING == _STOCHASTIC):
        step = tl.load(step.to(tl.pointer_type(STEP))).to(tl.int64)
    if ROUNDING == _STOCHASTIC:
        stored = _round_to_bfloat16(theta, _dither(offsets, place, step, _BY_STEP_THETA))
    else:
        stored = _rounded_to(theta, PARAM)
    _store(param_at, stored, inside, WIDE)
    if ROUNDING == _KAHAN:
        _store(kept_at, _rounded_to(theta - stored.to(tl.float32), PARAM), inside, WIDE)
    if ROUNDING == _MASTER:
        _store(kept_at, theta, inside, WIDE)

    if M_STATE == tl.float32:
        _store(m_at, m, inside, WIDE)
    elif M_STATE == tl.uint8:
        m_codes, m_scale = _encode_m(m, _dither(offsets, place, step, _BY_STEP_M), inside)
        _store(m_at, m_codes, inside, WIDE)
        tl.store(m_scale_at, m_scale, has_block)
    else:
        _store(m_at, _round_to_bfloat16(m, _dither(offsets, place, step, _BY_STEP_M)), inside, WIDE)
    if V_STATE == tl.float32:
        _store(v_at, v, inside, WIDE)
    elif V_STATE == tl.uint8:
        v_codes, v_scale = _encode_v(v, _dither(offsets, place, step, _BY_STEP_V), inside)
        _store(v_at, v_codes, inside, WIDE)
        tl.store(v_scale_at, v_scale, has_block)
    else:
        _store(v_at, _round_to_bfloat16(v, _dither(offsets, place, step, _BY_STEP_V)), inside, WIDE)


@triton.jit
def _at(cell, offsets, DTYPE: tl.constexpr, WIDE: tl.constexpr):
    """Where the elements are of the tensor whose address a cell of the table holds."""
    base = tl.load(cell).to(tl.pointer_type(DTYPE))
    if WIDE:
        base = tl.multiple_of(base, 16)
    return base + offsets


@triton.jit
def _load(at, inside, WIDE: tl.constexpr):
    if WIDE:
        return tl.load(at)
    else:
        return tl.load(at, inside, other=0)


@triton.jit
def _store(at, x, inside, WIDE: tl.constexpr):
    if WIDE:
        tl.store(at, x)
    else:
        tl.store(at, x, inside)


@triton.jit
def _rounded_to(x, DTYPE: tl.constexpr):
    """To nearest, ties to even. Triton's interpreter cuts off a bfloat16's bits instead: there in integers."""
    if _INTERPRETED and DTYPE == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
        return tl.where(x == x, rounded, x).to(tl.bfloat16)
    else:
        return x.to(DTYPE)


@triton.jit
def _dither(offsets, place, step, BY_STEP: tl.constexpr):
    """Make the random bits; ``place`` is what the first element's place in the whole adds to all, one number."""
    start = (step * BY_STEP).to(tl.uint32) + place
    return offsets.to(tl.uint32) * _BY_POSITION + start


@triton.jit
def _round_to_bfloat16(x, random):
    # An infinity stays one whatever is added to its lower half; a NaN might not.
    bits = tl.where(x == x, x.to(tl.int32, bitcast=True) + (random >> 16).to(tl.int32), _NAN)
    return (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _decode_m(codes, scale):
    exponent = scale.to(tl.int32)
    code = codes.to(tl.int32)
    low, unit = _binade(exponent, 14)
    # In the lowest binade y - base, above it y / 2: the smaller of the two, on both sides.
    y = (low + (code & 0x7F) * unit).to(tl.float32, bitcast=True)
    magnitude = tl.minimum(y - low.to(tl.float32, bitcast=True), y * 0.5).to(tl.int32, bitcast=True)
    return (magnitude | ((code & 0x80) << 24)).to(tl.float32, bitcast=True)


@triton.jit
def _decode_v(codes, scale):
    low, unit = _binade(scale.to(tl.int32), 31)
    return (low + codes.to(tl.int32) * unit).to(tl.float32, bitcast=True)


@triton.jit
def _binade(exponent, BELOW: tl.constexpr):
    """As bits, where the binade BELOW an exponent begins and what a code's unit adds: NaN and 0 in a spoiled block."""
    spoiled = exponent == 255
    return tl.where(spoiled, _NAN, (exponent - BELOW) << 23), tl.where(spoiled, 0, 1 << 20)


@triton.jit
def _encode_m(x, random, inside):
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    exponent = _block_exponent(magnitude, inside, 16)
    low = (exponent - 14) << 23
    # The larger of the two on both sides of the lowest binade's end.
    linear = (magnitude.to(tl.float32, bitcast=True) + low.to(tl.float32, bitcast=True)).to(tl.int32, bitcast=True)
    steps = tl.maximum(linear, magnitude + (1 << 23)) - low + (random >> 12).to(tl.int32)
    return ((steps >> 20) | ((bits >> 24) & 0x80)).to(tl.uint8), exponent.to(tl.uint8)


@triton.jit
def _encode_v(x, random, inside):
    bits = x.to(tl.int32, bitcast=True)  # never below 0
    exponent = _block_exponent(bits & 0x7FFFFFFF, inside, 32)
    low = (exponent - 31) << 23
    steps = tl.maximum(bits, low) - low + (random >> 12).to(tl.int32)
    return (steps >> 20).to(tl.uint8), exponent.to(tl.uint8)


@triton.jit
def _block_exponent(magnitude, inside, MINIMUM: tl.constexpr):
    largest = tl.max(tl.where(inside, magnitude, 0), axis=1, keep_dims=True)
    # Unsigned, since the bits of a NaN plus what rounding can add may pass 2^31.
    exponent = ((largest.to(tl.uint32) + 0xFFFFF) >> 23).to(tl.int32)
    return tl.minimum(tl.maximum(exponent, MINIMUM), 255)
