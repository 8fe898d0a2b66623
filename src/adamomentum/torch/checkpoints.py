"""Start AdaMomentum from the optimizer state of a run that used Adam, AdamW or the authors' AdaM3."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from adamomentum.second_moment import adam_ratio, looks_ahead
from adamomentum.torch.checks import check_count
from adamomentum.torch.groups import WRAPPED
from adamomentum.torch.loading import by_identifier
from adamomentum.torch.optimizer import AdaMomentum
from adamomentum.torch.precision import is_reduced
from adamomentum.torch.scalars import as_real
from adamomentum.torch.state import EXP_AVG, EXP_AVG_SQ, MAX_EXP_AVG_SQ, STEP, state_dtype_for

__all__ = ["from_adam", "from_adam3"]


def from_adam(
    state_dict: Mapping[str, Any],
    optimizer: AdaMomentum,
    *,
    exp_avg_sq: Literal["keep", "scale"] | None = None,
) -> dict[str, Any]:
    """Convert the state of ``torch.optim.Adam`` or ``AdamW`` into one that ``optimizer`` can load.

    Steps and moments come from ``state_dict``; every option, lr and eps among them, stays ``optimizer``'s.
    The first moment means the same in both and carries over, exactly so if beta1 is equal. The second does
    not: Adam averages g^2 where AdaMomentum averages m^2. For one sequence of gradients and equal betas, with
    gamma = beta1 / sqrt(beta2) < 1,

        (1 - gamma) / (1 - beta1) <= sqrt(v_adam / v_adamomentum) <= (1 + gamma) / (1 - beta1),

    which is [0.9955, 19.0045] at (0.9, 0.999); white noise gives sqrt((1 + beta1) / (1 - beta1)) = 4.36. The
    difference fades with beta2's memory, and until then decides the size of the steps:

    * ``"keep"`` takes Adam's second moment as it is. No step after the import is more than 1.0045 times as
      long as AdaMomentum's own would have been, and it can be 19 times shorter. In white noise k steps after
      the import it is 1 / sqrt(1 + (4.36^2 - 1) beta2^k) times as long: 0.23 at once, 0.36 after 1000 steps,
      0.73 after 3000. Safe, and slow to start.
    * ``"scale"`` multiplies it by the ratio of the two in white noise at that step and with the optimizer's options
      (:func:`adamomentum.second_moment.adam_ratio`), which tends to (1 - beta1) / (1 + beta1) for Algorithm 1's.
      Steps have AdaMomentum's length at once where noise dominates, and up to 4.38 times that where it does not,
      from a run of a thousand steps on. With ``adjust_lr`` and Adam's lr the run goes on with steps of the length
      that Adam's had; without it, with lr divided by 4.36.

    With ``amsgrad`` choose ``"scale"``: the running maximum never falls, so what ``"keep"`` imports stays.
    There is no choice that drops the second moment: with the step count kept, the next step would be
    lr / sqrt(1 - beta2) = 31.6 lr in every coordinate. To start afresh, load nothing and warm up.

    If betas differ, the moments are rescaled so that they keep their bias-corrected values.

    Args:
        state_dict: What ``Adam.state_dict()`` or ``AdamW.state_dict()`` returned; it is not changed. Other
            optimizers that save the same two averages, such as ``RAdam``, work too.
        optimizer: The optimizer that will load the result; it is not changed.
        exp_avg_sq: ``"keep"`` or ``"scale"``. None, the default, is ``"scale"`` for parameters whose group has
            ``adjust_lr``, for which Adam's second moment and ours estimate the same, and ``"keep"`` for others.

    Returns:
        A dict for ``optimizer.load_state_dict()``. Parameters are matched by name if all groups of both sides
        have ``param_names`` (those of :func:`~adamomentum.torch.param_groups` and of named parameters
        do), otherwise by order, group by group. Moments are new tensors on the CPU, in the dtype that
        ``optimizer`` uses. A parameter without saved state gets none.

    Raises:
        TypeError: ``optimizer`` is not an ``AdaMomentum``, or ``state_dict`` not a mapping.
        ValueError: The state is not Adam's, incomplete or not finite, or does not fit the parameters.

    Example:
        >>> import torch
        >>> from adamomentum import AdaMomentum
        >>> model = torch.nn.Linear(2, 1)
        >>> adamw = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
        >>> model(torch.ones(2)).backward(); adamw.step()
        >>> optimizer = AdaMomentum(model.named_parameters(), lr=1e-3, adjust_lr="match_rms_adamw")
        >>> optimizer.load_state_dict(from_adam(adamw.state_dict(), optimizer))
    """
    if exp_avg_sq not in ("keep", "scale", None):
        raise ValueError(f"exp_avg_sq must be 'keep', 'scale' or None, got {exp_avg_sq!r}")

    def convert(entry: _Entry) -> dict[str, Tensor]:
        group, (beta1, beta2) = entry.group, entry.betas
        scale = entry.rebias[1]
        if entry.step and (exp_avg_sq or ("scale" if group["adjust_lr"] else "keep")) == "scale":
            scale *= adam_ratio(entry.step, beta1, beta2, lookahead=looks_ahead(group))
        v = entry.moment(EXP_AVG_SQ)
        moments = {EXP_AVG: entry.moment(EXP_AVG) * entry.rebias[0], EXP_AVG_SQ: v * scale}
        if group["amsgrad"]:
            maximum = entry.moment(MAX_EXP_AVG_SQ) if MAX_EXP_AVG_SQ in entry.saved else v
            # Adding the eps of now to a maximum of earlier steps bounds Algorithm 1's from above.
            moments[MAX_EXP_AVG_SQ] = maximum * scale + _eps_sum(group["eps"], beta2, entry.step)
        return moments

    return _converted(state_dict, optimizer, EXP_AVG_SQ, convert)


def from_adam3(state_dict: Mapping[str, Any], optimizer: AdaMomentum) -> dict[str, Any]:
    """Convert the state of the authors' ``AdaM3`` into one that ``optimizer`` can load.

    AdaM3 is the same algorithm, so the run goes on as it would have if ``optimizer`` has the same options.
    Set them all: AdaM3 does not save ``weight_decouple``, ``fixed_decay`` and ``rectify``, and the lr, betas,
    eps and weight decay that it does save are not taken over either.

    AdaM3 keeps in ``exp_avg_var`` the second moment plus the eps accumulated in it, which is
    eps (1 - beta2^t) / (1 - beta2) with the eps and beta2 of the saved group. That sum is subtracted here, in
    float64, because AdaMomentum adds it when it takes the root. What rounding took from the second moment
    beside the sum is lost: with float32 state about 1e-7 of the sum, 1e-12 for ``eps=1e-8``. This does not
    show while eps stays the same, as the sum is added again. An ``optimizer`` with a smaller eps takes steps of
    up to lr / sqrt(1 - beta2) = 31.6 lr where nothing was left. Half-precision AdaM3 state has lost part of eps
    itself and is only as good as that.

    With ``amsgrad``, ``max_exp_avg_var`` is taken over with the eps of the saved run in it. If betas differ,
    the moments are rescaled so that they keep their bias-corrected values.

    AdaBelief saves the same keys with another meaning; the two can't be told apart.

    Args:
        state_dict: What ``AdaM3.state_dict()`` returned; it is not changed.
        optimizer: The optimizer that will load the result; it is not changed.

    Returns:
        A dict for ``optimizer.load_state_dict()``, as :func:`from_adam` describes it.

    Raises:
        TypeError: ``optimizer`` is not an ``AdaMomentum``, or ``state_dict`` not a mapping.
        ValueError: The state is not AdaM3's, incomplete, not finite or complex, or does not fit the
            parameters.
    """

    def convert(entry: _Entry) -> dict[str, Tensor]:
        if entry.param.is_complex():
            raise ValueError(f"state_dict: {entry.where} is complex, which AdaM3 gets wrong: it can't be converted")
        if "eps" not in entry.saved_group:
            raise ValueError(f"state_dict: the parameter group of {entry.where} has no 'eps'")
        saved_beta2 = entry.saved_betas[1]
        m = entry.moment(EXP_AVG)
        v = entry.moment("exp_avg_var") - _eps_sum(float(entry.saved_group["eps"]), saved_beta2, entry.step)
        v = v.clamp(min=0) * entry.rebias[1]
        moments = {EXP_AVG: m * entry.rebias[0], EXP_AVG_SQ: v}
        if entry.group["amsgrad"]:
            if "max_exp_avg_var" in entry.saved:
                moments[MAX_EXP_AVG_SQ] = entry.moment("max_exp_avg_var") * entry.rebias[1]
            else:
                moments[MAX_EXP_AVG_SQ] = v + _eps_sum(entry.group["eps"], entry.betas[1], entry.step)
        return moments

    return _converted(state_dict, optimizer, "exp_avg_var", convert)


@dataclass(frozen=True)
class _Entry:
    """The saved state of one parameter, and where it is to go."""

    where: str
    saved: Mapping[str, Any]
    saved_group: Mapping[str, Any]
    param: Tensor
    group: Mapping[str, Any]

    @property
    def betas(self) -> tuple[float, float]:
        return _betas(self.group)

    @property
    def saved_betas(self) -> tuple[float, float]:
        return _betas(self.saved_group)

    @property
    def step(self) -> int:
        return int(check_count(f"state_dict: 'step' of {self.where}", self.saved[STEP]))

    @property
    def rebias(self) -> tuple[float, float]:
        """Factors that leave the bias-corrected moments as they are; 1 for equal betas."""
        t = self.step
        first, second = (
            (1 - new**t) / (1 - old**t) if t else 1.0 for new, old in zip(self.betas, self.saved_betas, strict=True)
        )
        return first, second

    def moment(self, key: str) -> Tensor:
        """Return a saved moment in float64 on the CPU, with the parts of a complex one in a last dimension."""
        value = self.saved[key]
        if not isinstance(value, Tensor):
            raise ValueError(f"state_dict: {key!r} of {self.where} must be a tensor, got {value!r}")
        if value.shape != self.param.shape or value.is_complex() != self.param.is_complex():
            raise ValueError(
                f"state_dict: {key!r} of {self.where} is {value.dtype} of shape {tuple(value.shape)}, "
                f"the parameter {self.param.dtype} of shape {tuple(self.param.shape)}"
            )
        value = as_real(value.detach()).to("cpu", torch.float64)
        if not torch.isfinite(value).all():
            raise ValueError(f"state_dict: {key!r} of {self.where} is not finite")
        return value


def _converted(
    state_dict: Mapping[str, Any],
    optimizer: AdaMomentum,
    second_moment_key: str,
    convert: Callable[[_Entry], dict[str, Tensor]],
) -> dict[str, Any]:
    """Match the saved state with the optimizer's parameters and convert it, one parameter after the other."""
    if not isinstance(optimizer, AdaMomentum):
        raise TypeError(f"optimizer must be an AdaMomentum, got {type(optimizer).__name__}")
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping, got {type(state_dict).__name__}")
    if not {"state", "param_groups"} <= state_dict.keys():
        raise ValueError(f"state_dict must be an optimizer's, with 'state' and 'param_groups', got {_some(state_dict)}")
    saved_state, saved_groups = state_dict["state"], state_dict["param_groups"]
    for i, group in enumerate(saved_groups):
        if "full_bias_correction" in group:
            raise ValueError("state_dict was written by AdaMomentum: load it as it is")
        if "betas" not in group:
            raise ValueError(f"state_dict: parameter group {i} has no 'betas'")
        if len(group.get("param_names", group["params"])) != len(group["params"]):
            raise ValueError(
                f"state_dict: parameter group {i} has {len(group['param_names'])} param_names "
                f"for {len(group['params'])} params"
            )
    if not saved_state:
        raise ValueError("state_dict holds no state: its optimizer had not taken a step")

    saved_state = by_identifier(saved_state, [i for group in saved_groups for i in group["params"]])
    result = optimizer.state_dict()
    new_ids = [i for group in result["param_groups"] for i in group["params"]]
    targets = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    names = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
    state = {}
    for position, (saved_id, saved_group) in enumerate(_matched(saved_groups, optimizer.param_groups)):
        if saved_id not in saved_state:
            continue
        param, group = targets[position]
        where = repr(names[position]) if names else f"parameter {position}"
        if group["maximize"] != saved_group.get("maximize", False):
            raise ValueError(f"maximize differs for {where}, which turns the first moment around")
        entry = _Entry(where, saved_state[saved_id], saved_group, param, group)
        _check_keys(entry, second_moment_key)
        # What is stored in reduced precision is rounded when it is loaded.
        wide = torch.float32 if is_reduced(group["state_dtype"]) else group["state_dtype"]
        state[new_ids[position]] = {
            STEP: torch.tensor(float(entry.step), dtype=torch.float32),
            **{
                key: (torch.view_as_complex(value) if param.is_complex() else value).to(
                    state_dtype_for(param, wide, key)
                )
                for key, value in convert(entry).items()
            },
        }
    return {**result, "state": state}


def _matched(
    saved_groups: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]
) -> list[tuple[Hashable, Mapping[str, Any]]]:
    """Return the saved id and saved group for each of the optimizer's parameters, in the order of its groups."""
    saved = [(i, group) for group in saved_groups for i in group["params"]]
    if all("param_names" in group for group in (*saved_groups, *groups)):
        by_name = dict(zip(_plain_names(saved_groups), saved, strict=True))
        names = _plain_names(groups)
        missing, unexpected = set(names) - by_name.keys(), by_name.keys() - set(names)
        if missing or unexpected:
            raise ValueError(
                "state_dict: names do not match the optimizer's parameters; "
                f"missing: {_some(missing)}; unexpected: {_some(unexpected)}"
            )
        return [by_name[name] for name in names]
    saved_sizes, sizes = ([len(g["params"]) for g in gs] for gs in (saved_groups, groups))
    if saved_sizes != sizes:
        raise ValueError(
            f"state_dict: its groups have {saved_sizes} parameters, the optimizer's {sizes}; other groups "
            "can only be matched by name, so both sides need param_names: build the optimizer with "
            "adamomentum.torch.groups.param_groups, and set those of the saved groups, as in "
            'state_dict["param_groups"][0]["param_names"] = [name for name, _ in model.named_parameters()]'
        )
    return saved


def _plain_names(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the groups' parameters without what torch.compile, DDP and others put into them."""
    names = [
        ".".join(part for part in name.split(".") if part not in WRAPPED)
        for group in groups
        for name in group["param_names"]
    ]
    ddp = all(name.startswith("module.") for name in names)
    return [name.removeprefix("module.") for name in names] if ddp else names


def _check_keys(entry: _Entry, second_moment: str) -> None:
    """Require the keys of the optimizer whose second moment has this name, and no others."""
    for key, owner, function in (
        (EXP_AVG_SQ, "Adam", "from_adam"),
        ("exp_avg_var", "AdaM3", "from_adam3"),
    ):
        if key in entry.saved and key != second_moment:
            raise ValueError(f"state_dict looks like the state of {owner}: use {function}")
    needed = {STEP, EXP_AVG, second_moment}
    if entry.saved_group.get("amsgrad"):
        needed.add(f"max_{second_moment}")
    missing, unknown = needed - entry.saved.keys(), entry.saved.keys() - needed - {f"max_{second_moment}"}
    if missing or unknown:
        raise ValueError(
            f"state_dict: the state of {entry.where} must have the keys {_some(needed)}; "
            f"missing: {_some(missing)}; unknown: {_some(unknown)}"
        )


def _eps_sum(eps: float, beta2: float, step: int) -> float:
    """Return what adding eps at each of ``step`` steps has added to a second moment."""
    return eps * (1 - beta2**step) / (1 - beta2)


def _betas(group: Mapping[str, Any]) -> tuple[float, float]:
    beta1, beta2 = map(float, group["betas"])
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ValueError(f"state_dict: betas must be in [0, 1), got {group['betas']!r}")
    return beta1, beta2


def _some(names: Iterable[Any]) -> str:
    listed = sorted(map(repr, names))
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "") or "none"
