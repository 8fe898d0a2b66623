"""Parameter groups: no weight decay where it does harm, and learning rates that fall towards the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

from torch import Tensor, nn

# _NormBase reaches every BatchNorm, SyncBatchNorm and InstanceNorm, lazy ones included.
_NO_DECAY_MODULES = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.Embedding,
    nn.EmbeddingBag,
)
# The weights of these are matrices whatever their shape: Linear(64, 1).weight has one dimension above 1.
_DECAY_MODULES = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
_NO_DECAY_WORDS = {"bias", "emb", "embed", "embedding", "embeddings", "pos"}
_NO_DECAY_LAST_WORDS = {"token", "tokens"}  # cls_token, but not token_mixing
# Attributes under which torch.compile, activation checkpointing and FSDP1 keep the module they wrap.
WRAPPED = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}

# Patterns for the names of parameters, or a predicate.
Selector = str | Collection[str] | Callable[[str, nn.Parameter], bool]


def param_groups(
    model: nn.Module,
    weight_decay: float = 0.01,
    lr: float | Tensor | None = None,
    layer_decay: float | None = None,
    *,
    no_decay: Selector = (),
    decay: Selector = (),
    blocks: str | Collection[str] | None = None,
    layer_of: Callable[[str], int] | None = None,
) -> list[dict[str, Any]]:
    """Split a model's parameters into groups for any ``torch.optim`` optimizer.

    Two groups, ``"decay"`` and ``"no_decay"`` (weight decay 0), or with ``layer_decay`` up to two per layer.
    A group without parameters is left out. The first rule that applies to a parameter decides:

    1. ``no_decay`` and ``decay``, the caller's word.
    2. It belongs to a norm (``torch.nn``'s batch, instance, group, layer and RMS norms), an ``Embedding`` or
       ``EmbeddingBag``, subclasses included: no decay.
    3. Its own name has the word bias, emb, embed, embedding(s) or pos, or ends with token(s), as
       ``in_proj_bias``, ``pos_embed`` and ``cls_token`` do: no decay.
    4. Weights of ``torch.nn``'s linear, bilinear, convolution, recurrent and attention modules: decay.
    5. In any other module, a scalar or a vector, also one shaped for broadcasting, such as (C, 1, 1): no
       decay. This is where hand-written norms, LayerScale and PReLU land.
    6. The rest: decay.

    A parametrized tensor counts as what it replaces, so both parts of a weight-normalized ``Linear.weight``
    decay: its magnitude *is* the norm of the weight. A parameter shared by several modules appears once,
    under the name ``model.named_parameters()`` gives it; it is not decayed if one of its uses says so (an
    output projection tied to an embedding is not), and takes the layer nearest the input. Parameters with
    ``requires_grad=False`` are left out.

    Learning rates are set in the groups, so a scheduler that scales each group's own rate keeps the ratios.
    One that is given absolute rates has to be given them per group:
    ``OneCycleLR(optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], ...)``.

    Args:
        model: The model, bare or inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel``,
            activation checkpointing or FSDP2. (FSDP1 flattens parameters: under its ``use_orig_params=True``
            rule 5 takes every parameter for a vector, without it the call fails.)
        weight_decay: Decay of the groups that have any, >= 0.
        lr: Learning rate, >= 0, for every group. By default groups hold none, and take the optimizer's.
        layer_decay: Factor in (0, 1] on the learning rate for each layer away from the output, as used to
            fine-tune pretrained transformers (0.65 to 0.9): a group's rate is
            ``lr * layer_decay ** (top - layer)``. Needs ``lr``.
        no_decay: Parameters that must not decay: shell-style patterns, each matched against the whole name
            ("*" also crosses dots), or a predicate ``(name, parameter) -> bool``. A shared parameter is
            matched by any of its names.
        decay: Parameters that must decay, in the same form.
        blocks: Names of the containers that hold the layers, in order from input to output, e.g.
            ``("encoder.layers", "decoder.layers")``. By default the model's one outermost ``ModuleList`` or
            ``Sequential`` of two or more modules of a single class, if it holds half of the parameters. Its L
            modules that hold parameters are the layers 1 to L. The rest goes by the order of registration: what
            comes before them is layer 0 (a parameter that the model itself owns always does), what comes after
            them layer L + 1, and what lies between two containers joins the layer before it.
        layer_of: Maps a parameter's name to its layer, an integer >= 0 counted from the input, in place of
            ``blocks``.

    Returns:
        Groups with the keys ``params`` (list of parameters), ``param_names`` (their names without wrappers'
        prefixes, kept in ``state_dict()``), ``name`` (``"decay"``, ``"layer_3_no_decay"``, ...),
        ``weight_decay`` and, where ``lr`` is given, ``lr``. Every trainable parameter is in exactly one.

    Raises:
        TypeError: ``model`` is not a module, or an argument is of the wrong type.
        ValueError: A value is out of range, a pattern or container name matches nothing, ``decay`` and
            ``no_decay`` claim the same parameter, the layers can't be found, no parameter is trainable, or a
            parameter has no shape of its own (lazy, or flattened by FSDP1).

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> for group in param_groups(model, weight_decay=0.1):
        ...     print(group["name"], group["weight_decay"], group["param_names"])
        decay 0.1 ['0.weight', '2.weight']
        no_decay 0.0 ['0.bias', '1.weight', '1.bias', '2.bias']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    _check_number("weight_decay", weight_decay)
    if lr is not None:
        _check_number("lr", lr.item() if isinstance(lr, Tensor) and lr.numel() == 1 else lr)
    if layer_decay is not None:
        _check_number("layer_decay", layer_decay)
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay!r}")
        if lr is None:
            raise ValueError("layer_decay scales a learning rate: pass lr too")
    elif blocks is not None or layer_of is not None:
        raise ValueError("blocks and layer_of place parameters in layers: pass layer_decay too")
    if blocks is not None and layer_of is not None:
        raise ValueError("pass blocks or layer_of, not both")

    modules = list(_walk(model, ""))
    uses = _uses(modules)
    must_not, must = _matcher("no_decay", no_decay, uses), _matcher("decay", decay, uses)
    if layer_decay is not None:
        layers = _layers_by_name([use.name for use in uses], modules, blocks, layer_of)
        top = max(layers.values(), default=0)

    shared: dict[nn.Parameter, list[_Use]] = {}
    for use in uses:
        shared.setdefault(use.param, []).append(use)

    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for param, its_uses in shared.items():
        if not param.requires_grad:
            continue
        name = its_uses[0].name
        excluded, included = any(map(must_not, its_uses)), any(map(must, its_uses))
        if excluded and included:
            raise ValueError(f"decay and no_decay both claim {name!r}")
        decays = included or not (excluded or any(map(_spared, its_uses)))
        layer = min(layers[use.name] for use in its_uses) if layer_decay is not None else 0
        key = (layer, not decays)
        if key not in groups:
            kind = "decay" if decays else "no_decay"
            group = groups[key] = {
                "params": [],
                "param_names": [],
                "name": kind if layer_decay is None else f"layer_{layer}_{kind}",
                "weight_decay": float(weight_decay) if decays else 0.0,
            }
            if lr is not None:
                # A product also gives each group a tensor of its own where lr is one.
                group["lr"] = lr * (1.0 if layer_decay is None else layer_decay ** (top - layer))
        groups[key]["params"].append(param)
        groups[key]["param_names"].append(name)
    if not groups:
        raise ValueError("model has no parameter with requires_grad=True")
    return [groups[key] for key in sorted(groups)]


@dataclass(frozen=True)
class _Use:
    """One place where a parameter is used; a shared parameter has several."""

    name: str
    param: nn.Parameter
    module: nn.Module
    attribute: str


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Every module with its dotted prefix, as ``named_modules`` orders them, wrappers' names left out."""
    yield prefix, module
    parallel = isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
    for name, child in module._modules.items():
        if child is not None:
            transparent = name in WRAPPED or (parallel and name == "module")
            yield from _walk(child, prefix if transparent else f"{prefix}{name}.")


def _uses(modules: Iterable[tuple[str, nn.Module]]) -> list[_Use]:
    uses = []
    parametrized: dict[nn.Module, tuple[nn.Module, str]] = {}
    for prefix, module in modules:
        # Not is_parametrized(): a compiled wrapper would answer for the module inside.
        parametrizations = module._modules.get("parametrizations")
        if isinstance(parametrizations, nn.ModuleDict):
            parametrized |= {tensor: (module, name) for name, tensor in parametrizations.items()}
        for attribute, param in module.named_parameters(recurse=False, remove_duplicate=False):
            name = prefix + attribute
            if nn.parameter.is_lazy(param):
                raise ValueError(f"{name!r} has no shape yet: run a forward pass through the lazy modules first")
            if attribute == "_flat_param":
                raise ValueError(f"{name!r} joins parameters of all kinds: use FSDP2, or use_orig_params=True")
            uses.append(_Use(name, param, *parametrized.get(module, (module, attribute))))
    return uses


def _spared(use: _Use) -> bool:
    """Rules 2 to 6 for one use of a parameter: True is no decay."""
    words = use.attribute.split("_")
    if isinstance(use.module, _NO_DECAY_MODULES):
        return True
    if not _NO_DECAY_WORDS.isdisjoint(words) or words[-1] in _NO_DECAY_LAST_WORDS:
        return True
    return not isinstance(use.module, _DECAY_MODULES) and sum(size != 1 for size in use.param.shape) <= 1


def _matcher(argument: str, selector: Selector, uses: list[_Use]) -> Callable[[_Use], bool]:
    if callable(selector):
        predicate = selector
        return lambda use: predicate(use.name, use.param)
    patterns = _strings(argument, selector)
    for pattern in patterns:
        if not any(fnmatchcase(use.name, pattern) for use in uses):
            raise ValueError(f"{argument}: {pattern!r} matches no parameter; it is matched against whole names")
    return lambda use: any(fnmatchcase(use.name, pattern) for pattern in patterns)


def _layers_by_name(
    names: list[str],
    modules: list[tuple[str, nn.Module]],
    blocks: str | Collection[str] | None,
    layer_of: Callable[[str], int] | None,
) -> dict[str, int]:
    if layer_of is not None:
        layers = {}
        for name in names:
            layer = layer_of(name)
            if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0:
                raise ValueError(f"layer_of must return an integer >= 0, got {layer!r} for {name!r}")
            layers[name] = layer
        return layers

    layer_of_block: dict[str, int] = {}  # a block's prefix -> its layer
    for prefix, container in _containers(modules, blocks):
        for child, block in container._modules.items():
            if _has_parameters(block):
                layer_of_block[f"{prefix}{child}."] = len(layer_of_block) + 1
    last = len(layer_of_block)
    layers, reached = {}, 0
    for name in names:
        inside = next((layer for prefix, layer in layer_of_block.items() if name.startswith(prefix)), None)
        reached = max(reached, inside or 0)
        layers[name] = inside or (reached if reached < last else last + 1)
    return layers


def _containers(
    modules: list[tuple[str, nn.Module]], blocks: str | Collection[str] | None
) -> list[tuple[str, nn.Module]]:
    """Return the containers of the layers, from input to output."""
    if blocks is not None:
        by_prefix = dict(modules)  # the innermost of several wrappers comes last, and stays
        chosen = []
        for name in _strings("blocks", blocks):
            prefix = f"{name}." if name else ""
            if prefix not in by_prefix or not any(map(_has_parameters, by_prefix[prefix].children())):
                raise ValueError(f"blocks: {name!r} is no module of the model that holds layers")
            chosen.append((prefix, by_prefix[prefix]))
        return chosen

    containers: list[tuple[str, nn.Module]] = []
    inside: set[nn.Module] = set()  # what the containers hold, themselves included, under any name
    for prefix, module in modules:
        children = list(module.children())
        if (
            module not in inside
            and isinstance(module, nn.ModuleList | nn.Sequential)
            and len(children) >= 2
            and len({type(child) for child in children}) == 1
            and all(map(_has_parameters, children))
        ):
            containers.append((prefix, module))
            inside.update(module.modules())
    if len(containers) != 1:
        names = ", ".join(repr(prefix.removesuffix(".")) for prefix, _ in containers)
        problem = f"the layers may be in any of {names}" if containers else "found no list of equal modules"
        raise ValueError(
            f"layer_decay: {problem}; name the containers of the layers in blocks, "
            "in order from input to output, or pass layer_of"
        )
    prefix, container = containers[0]
    within = sum(1 for _ in container.parameters())
    if 2 * within < sum(1 for _ in modules[0][1].parameters()):
        raise ValueError(
            f"layer_decay: {prefix.removesuffix('.')!r}, the one list of equal modules, holds only {within} of the "
            "model's parameters; if it holds the layers name it in blocks, else name what does, or pass layer_of"
        )
    return containers


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and any(True for _ in module.parameters())


def _strings(argument: str, value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else list(value)
    for item in values:
        if not isinstance(item, str):
            raise TypeError(f"{argument} must be strings, got {item!r}")
    return values


def _check_number(argument: str, value: Any) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"{argument} must be finite and >= 0, got {value!r}")
