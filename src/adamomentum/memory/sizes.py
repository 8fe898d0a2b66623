"""How many parameters a model has, in tensors of which sizes: from a number, a module, or a config file."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = ["Sizes", "sizes_of"]

# A number stands for tensors that blocks of any format divide.
BLOCKS = 256
SUFFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Sizes:
    """The parameters of a model.

    Attributes:
        trained: the number of elements of each tensor that is trained.
        largest: that of the largest, or 0 where it is not known.
        fixed: bytes of frozen parameters and of buffers.
        shared: of those trained, the ones that a module has in several places, as an embedding tied to its head.
    """

    trained: tuple[int, ...]
    largest: int
    fixed: int = 0
    shared: tuple[int, ...] = ()

    @property
    def numel(self) -> int:
        """The number of trained parameters."""
        return sum(self.trained)


def sizes_of(model: Module | float | str | Path) -> Sizes:
    """Return the sizes of a model.

    Args:
        model: a ``torch.nn.Module``, on any device, "meta" included, of which frozen parameters and buffers count with
            their own bytes, shared ones once, and sharded ones with the part of this process; a number of parameters,
            7e9, "7e9" or "7B"; or the path of a Hugging Face config.json or of its folder, whose model transformers
            makes on the "meta" device, where it takes no memory.

    Raises:
        ValueError: if it is none of these, has nothing to train, or is a config whose class transformers has not.
        ModuleNotFoundError: if a config is given and transformers is not installed.
    """
    if isinstance(model, Real) and not isinstance(model, bool):
        return _of_number(float(model), repr(model))
    if isinstance(model, str) and (
        written := re.fullmatch(r"\s*(-?[\d._,]+(?:e[+-]?\d+)?)\s*([KMBGT]?)\s*", model, re.I)
    ):
        digits, suffix = written.groups()
        try:
            number = float(digits.replace(",", "").replace("_", "")) * SUFFIXES[suffix.upper()]
        except ValueError:
            raise ValueError(f"{model!r} is no number of parameters; write it as in 7B or 6.7e9") from None
        return _of_number(number, repr(model))
    if isinstance(model, str | Path):
        return _of_module(_from_config(Path(model)))
    if not hasattr(model, "parameters"):
        raise ValueError(
            f"model must be a torch.nn.Module, a number of parameters or a config file, got {type(model).__name__}"
        )
    return _of_module(model)


def _of_number(number: float, written: str) -> Sizes:
    if not (math.isfinite(number) and number >= 1):
        raise ValueError(f"the number of parameters must be finite and at least 1, got {written}")
    whole = round(number) // BLOCKS * BLOCKS
    return Sizes(tuple(numel for numel in (whole, round(number) - whole) if numel), 0)


def _of_module(module: Any) -> Sizes:
    places = Counter(p for _, p in module.named_parameters(remove_duplicate=False))
    local = [(p.requires_grad, getattr(p, "_local_tensor", p), places[p]) for p in module.parameters()]
    trained = tuple(p.numel() for trains, p, _ in local if trains)
    if not trained:
        raise ValueError(f"{type(module).__name__} has no parameter that is trained; set requires_grad")
    fixed = [p for trains, p, _ in local if not trains] + list(module.buffers())
    shared = tuple(p.numel() for trains, p, count in local if trains and count > 1)
    return Sizes(trained, max(trained), sum(t.numel() * t.element_size() for t in fixed), shared)


def _from_config(path: Path) -> Any:
    """Make the model that a config file describes, without memory for its parameters."""
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} is neither a number of parameters, as 7B, nor a config file that is there")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        names = record.get("architectures") or []
    except (ValueError, AttributeError):
        raise ValueError(f"{path} is no Hugging Face config: it must hold one JSON object") from None
    if not names:
        raise ValueError(f'{path} names no class under "architectures"; add it, or give the number of parameters')
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"a config file is counted by {error.name}, which is not installed: run pip install {error.name}, or give "
            "the number of parameters, as 7B",
            name=error.name,
        ) from None
    kind = getattr(transformers, names[0], None)
    if kind is None:
        raise ValueError(
            f"transformers {transformers.__version__} has no {names[0]}, which {path} names; give the number of "
            "parameters"
        )
    config = kind.config_class.from_dict(record)
    with torch.device("meta"):
        return kind(config)
