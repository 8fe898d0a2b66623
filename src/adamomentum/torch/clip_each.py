r"""Clipping of each gradient by its own norm, for those that are used before all are there.

With n the 2-norm of the gradient that one backward pass gives one parameter, the gradient is multiplied by
min(1, limit / n). The limit is fixed, or follows the norms (AdaGC, arXiv 2502.11034): with a their running average,

    limit = ratio * a,    a <- beta a + (1 - beta) min(n, limit)

so that it grows by no more than a factor of beta + (1 - beta) ratio from one gradient to the next, 1.001 by default.
While it warms up, a is the smallest norm so far, and there is no limit but a fixed one: the paper's is then one of the
norm of all gradients, which is not known here. Norms of 0, as of the first factor of an adapter whose second one is 0,
are left out, as a could never leave 0.

How far a step can move a parameter follows. Its momentum divided by 1 - beta1^t is an average of the gradients of all
steps, whose weights sum to 1, and so is Nesterov's: its norm is at most the largest limit. With d the smallest element
of what it is divided by, sqrt(v / (1 - beta2^t)) or as ``adjust_lr`` and ``rectify`` have it,

    ||step|| <= lr * limit / d

weight decay aside, whatever the gradient was. d does not fall below what is left of the v before: v_t >= beta2 v_(t-1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from adamomentum.torch import fused_cpu
from adamomentum.torch.bucket import BUCKET_ELEMENTS, Part
from adamomentum.torch.optimizer import Work
from adamomentum.torch.precision import local_part
from adamomentum.torch.rule import Scalar
from adamomentum.torch.sharded import is_dtensor
from adamomentum.torch.state import NORM, Row, norm_average

__all__ = ["AdaptiveClip", "check_clip", "clipped", "factors_of"]


@dataclass(frozen=True)
class AdaptiveClip:
    """A limit of a gradient's norm that follows its average, as the ``clip`` of ``release_gradients``.

    Each parameter has its own, as in AdaGC (arXiv 2502.11034): ``ratio`` times the running average of the norms of its
    gradients, clipped. The average is in the optimizer's state, ``grad_norm``, 16 bytes a parameter tensor, and is
    saved and loaded with it. Where norms vary by more than ``ratio`` allows, many gradients are clipped, and the
    average is below that of the norms.

    Attributes:
        ratio: the limit over the average, > 1.
        beta: decay rate of the average, in [0, 1).
        warmup: how many gradients of a parameter come before the first limit that follows them, >= 1; of each pass, not
            of each step. The average is then the smallest of their norms. Gradients of norm 0, infinity or NaN are
            not counted.
        max_norm: a fixed limit besides, > 0, from the first gradient on; infinity for none. With several passes a step
            it is divided by their number.

    Raises:
        TypeError: if one of them is no number, or ``warmup`` no integer.
        ValueError: if one is out of range.
    """

    ratio: float = 1.05
    beta: float = 0.98
    warmup: int = 100
    max_norm: float = math.inf

    def __post_init__(self) -> None:
        for name in ("ratio", "beta", "max_norm"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name} must be a number, got {value!r}")
        if not 1 < self.ratio < math.inf:
            raise ValueError(f"ratio must be > 1 and finite, got {self.ratio}: with less the limit would only fall")
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta must be in [0, 1), got {self.beta}")
        if isinstance(self.warmup, bool) or not isinstance(self.warmup, Integral):
            raise TypeError(f"warmup must be an integer, got {self.warmup!r}")
        if self.warmup < 1:
            raise ValueError(f"warmup must be >= 1, got {self.warmup}: the limit needs a norm to follow")
        _check_limit("max_norm", self.max_norm)


def check_clip(clip: Any) -> AdaptiveClip | float | None:
    """Return what gradients are to be clipped to; a number as a float.

    Raises:
        TypeError: if it is neither a number nor an :class:`AdaptiveClip` nor None.
        ValueError: if it is a number that is not > 0.
    """
    if clip is None or isinstance(clip, AdaptiveClip):
        return clip
    if isinstance(clip, bool) or not isinstance(clip, Real):
        raise TypeError(f"clip must be a number, an AdaptiveClip or None, got {clip!r}")
    _check_limit("clip", clip)
    return float(clip)


def _check_limit(name: str, value: Any) -> None:
    if not value > 0:
        raise ValueError(
            f"{name} must be > 0, got {value}: it is the largest norm of a gradient; leave {name} out not to clip"
        )


def factors_of(
    parts: list[Part], clip: AdaptiveClip | float, passes: int, state: Mapping[Tensor, dict[str, Tensor]]
) -> dict[int, Scalar]:
    """Return what gradients are to be multiplied by, and take their norms into the running averages.

    Args:
        parts: parameters with their gradients.
        clip: the limit.
        passes: backward passes a step, by which a fixed limit is divided.
        state: of each parameter; has the running averages.

    Returns:
        By the id of a parameter a float, on another device than the CPU a 0-dim tensor there.
    """
    factors: dict[int, Scalar] = {}
    by_device: dict[torch.device, tuple[list[Tensor], list[Tensor]]] = {}
    for _, params, grads in parts:
        for p, grad in zip(params, grads, strict=True):
            some = by_device.setdefault(p.device, ([], []))
            some[0].append(p)
            some[1].append(grad)
    for device, (params, grads) in by_device.items():
        norms = _norms(params, grads)
        if isinstance(clip, AdaptiveClip):
            for p in params:
                if NORM not in state[p]:
                    state[p][NORM] = norm_average(p)
            limits = _follow(norms, [state[p][NORM] for p in params], clip, passes)
        else:
            limits = torch.full_like(norms, clip / passes)
        values = torch.where(norms > limits, limits / norms, 1.0)
        factors.update(zip(map(id, params), values.tolist() if device.type == "cpu" else values.unbind(), strict=True))
    return factors


def _follow(norms: Tensor, averages: list[Tensor], clip: AdaptiveClip, passes: int) -> Tensor:
    """Return the limits of gradients with these norms, and take those into the averages, in place."""
    average, count = torch.stack(averages).unbind(1)
    warm = count < clip.warmup
    fixed = torch.full_like(norms, clip.max_norm / passes)
    limits = torch.where(warm, fixed, torch.minimum(clip.ratio * average, fixed))
    clipped = torch.minimum(norms, limits)
    smallest = torch.where(count == 0, clipped, torch.minimum(average, clipped))
    after = torch.where(warm, smallest, average.lerp(clipped, 1 - clip.beta))
    counts = (clipped > 0) & clipped.isfinite()
    rows = torch.stack([torch.where(counts, after, average), count + counts], 1)
    torch._foreach_copy_(averages, list(rows.unbind()))
    return limits


def _norms(params: list[Tensor], grads: list[Tensor]) -> Tensor:
    """Return the 2-norms of gradients on one device: of those of DTensors the norms of the whole."""
    wide = torch.float32 if params[0].device.type == "mps" else torch.float64
    sharded = [i for i, grad in enumerate(grads) if is_dtensor(grad)]
    if not sharded:
        return _norms_of_plain(params, grads).to(wide)
    norms = torch.zeros(len(grads), dtype=wide, device=params[0].device)
    whole = [i for i, grad in enumerate(grads) if not is_dtensor(grad)]
    if whole:
        norms[whole] = _norms_of_plain([params[i] for i in whole], [grads[i] for i in whole]).to(norms)
    # The same collectives in the same order on all processes, as bucket.py sees to.
    by_mesh: dict[Any, list[int]] = {}
    for i in sharded:
        grad: Any = grads[i]
        by_mesh.setdefault((grad.device_mesh, grad.placements), []).append(i)
    for (mesh, placements), some in by_mesh.items():
        if any(placement.is_partial() for placement in placements):
            for i in some:
                norms[i] = torch.linalg.vector_norm(grads[i]).full_tensor().to(norms)
            continue
        parts = [local_part(grads[i]) for i in some]
        squares = _norms_of_plain([params[i] for i in some], parts).to(norms) ** 2
        for dim, placement in enumerate(placements):
            if not placement.is_replicate():
                dist.all_reduce(squares, group=mesh.get_group(dim))
        norms[some] = squares.sqrt()
    return norms


def _norms_of_plain(params: list[Tensor], grads: list[Tensor]) -> Tensor:
    """Return the 2-norms of gradients that are plain tensors on one device."""
    if not params[0].is_cpu or fused_cpu.watched() or fused_cpu.why_not():
        return _norms_by_torch(grads)
    norms, rest = fused_cpu.norms(params, grads)
    if not rest:
        return torch.tensor(norms, dtype=torch.float64, device="cpu")
    left = set(map(id, rest))
    others, native = iter(_norms_by_torch(rest).tolist()), iter(norms)
    values = [next(others) if id(grad) in left else next(native) for grad in grads]
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _norms_by_torch(grads: list[Tensor]) -> Tensor:
    by_dtype: dict[torch.dtype, list[int]] = {}
    for i, grad in enumerate(grads):
        by_dtype.setdefault(grad.dtype, []).append(i)
    norms: list[Tensor] = [grads[0]] * len(grads)
    for dtype, some in by_dtype.items():
        wide = torch.promote_types(dtype, torch.float64 if grads[0].is_cpu else torch.float32)
        for i, norm in zip(some, torch._foreach_norm([grads[i] for i in some], 2, wide), strict=True):
            norms[i] = norm
    return torch.stack([norm.to(norms[0].dtype) for norm in norms])


def clipped(work: Work, factors: Mapping[int, Scalar]) -> list[Work]:
    """Return the same work on gradients that are multiplied by factors, which are read and not written.

    Args:
        work: as :meth:`AdaMomentum._prepare_some` gives it.
        factors: by the id of a parameter.

    Returns:
        Work for the rows of each factor.
    """
    if work.batch:
        params = work.batch.params
        whole = [*params[: len(params) - len(work.late)], *work.late]
        work.batch.scale([float(factors[id(p)]) for p in whole])
    together: list[Row] = []
    apart: dict[Any, tuple[Scalar, list[Row]]] = {}
    for p, grad, state in work.rows:
        factor = factors[id(p)]
        if not isinstance(factor, Tensor):
            apart.setdefault(factor, (factor, []))[1].append((p, grad, state))
        elif grad.numel() < BUCKET_ELEMENTS:  # to take all of them at once is worth copies
            wide = torch.promote_types(grad.dtype, torch.float32)
            together.append((p, grad.to(wide) * factor.to(wide), state))
        else:
            apart[id(p)] = factor, [(p, grad, state)]
    works = [
        work._replace(rows=rows, batch=None, rule=work.rule._replace(grad_factor=work.rule.grad_factor * factor))
        for factor, rows in apart.values()
    ]
    return [work._replace(rows=together), *works]
