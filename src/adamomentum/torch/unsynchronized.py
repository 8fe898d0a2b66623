"""Backward passes whose gradients ``fully_shard`` keeps to itself, for a later one to reduce.

Tested in tests/torch/test_distributed.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

__all__ = ["watch"]


def watch(params: Iterable[Tensor], call: Callable[[], None]) -> list[RemovableHandle]:
    """Have ``call`` called at the start of each backward pass in which none of the parameters gets its gradient.

    That is so after ``set_requires_gradient_sync(False)`` or ``set_requires_all_reduce(False)``. No hook of such a
    parameter is called then, so the outputs of the modules that ``fully_shard`` was called with have them.

    Args:
        params: parameters; those that ``fully_shard`` has not made are left out.
        call: must not keep the modules, which keep it.

    Returns:
        The hooks on the outermost of those modules.
    """
    wanted = {p for p in params if hasattr(p, "placements")}
    sharded = (
        {module: groups for module, groups in _sharded_modules() if wanted & _parameters(groups)} if wanted else {}
    )
    inner = {part for module in sharded for part in module.modules() if part is not module}
    every = [group for groups in sharded.values() for group in groups]

    def at_start(grad: Tensor) -> None:
        if not any(_synchronizes(group) for group in every):
            call()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def after_forward(module: nn.Module, args: Any, output: Any) -> None:
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(at_start)  # type: ignore[no-untyped-call]

    # Before the hook of fully_shard, which an error in the later of the two would leave half-way.
    return [module.register_forward_hook(after_forward, prepend=True) for module in sharded if module not in inner]


def _sharded_modules() -> list[tuple[nn.Module, list[Any]]]:
    """Return the living modules that ``fully_shard`` was called with, with the groups their parameters are in."""
    from torch.distributed._composable_state import _module_state_mapping
    from torch.distributed.fsdp import FSDPModule

    sharded: list[tuple[nn.Module, list[Any]]] = []
    for module in list(_module_state_mapping):
        if isinstance(module, FSDPModule):
            state = module._get_fsdp_state()
            groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
            sharded.append((module, [group for group in groups if group is not None]))
    return sharded


def _parameters(groups: Iterable[Any]) -> set[Tensor]:
    return {fsdp_param.sharded_param for group in groups for fsdp_param in group.fsdp_params}


def _synchronizes(group: Any) -> bool:
    """Whether the gradients of a group come out of a pass reduced over all processes."""
    replicated = group.mesh_info.replicate_mesh_dim is not None
    return bool(group.reduce_grads and (group.all_reduce_grads or not replicated))
