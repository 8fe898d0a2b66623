"""AdaMomentum as a :class:`torch.optim.Optimizer`: options, validation, state and ``step``.

Tested in tests/torch/test_training.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from adamomentum.second_moment import AdjustLR, SecondMoment, looks_ahead
from adamomentum.torch import fused_cpu, fused_cuda
from adamomentum.torch.checks import (
    check_beta1,
    check_capture,
    check_gradients,
    check_max_norm,
    check_options,
    check_param,
    check_whole,
)
from adamomentum.torch.clipping import Clip, total_norm
from adamomentum.torch.decoding import portable
from adamomentum.torch.functional import Kernels, Path, check_kernels, choose_kernels, choose_loop, take_step
from adamomentum.torch.loading import checked_and_hidden
from adamomentum.torch.precision import StateDtype
from adamomentum.torch.rounding import Rounding
from adamomentum.torch.rule import Rule, Scalar
from adamomentum.torch.state import (
    NORM,
    OWN,
    PASSES,
    PASSES_BETA1,
    STEP,
    Row,
    by_passes,
    complete,
    laid_out_like,
    norm_average,
    pass_count,
    set_passes,
    step_count,
)

if TYPE_CHECKING:
    from adamomentum._native import Batch

__all__ = ["AdaMomentum"]


class Work(NamedTuple):
    """What the coming step of a group needs; the fields as :func:`~adamomentum.torch.functional.take_step` has them."""

    group: dict[str, Any]
    rows: list[Row]
    batch: Batch | None
    late: list[Tensor]  # the last parameters in the batch, which itself may have parts of them
    rule: Rule
    path: Path


class _Release(Protocol):
    """What the optimizer asks of the handle of ``release_gradients``, which explains it."""

    accumulation_steps: int
    clip: Any  # a table for the device has no factors of tensors in it

    @property
    def adapts(self) -> bool: ...
    def attach(self, group: dict[str, Any]) -> None: ...
    def follow(self) -> None: ...
    def finish(self) -> bool: ...
    def forget(self) -> None: ...
    def check_discardable(self) -> None: ...


class _Pending:
    """What other methods leave for the next step.

    In an object, which a wrapper that copies this optimizer's attributes, as Lightning's does, then shares.
    """

    clip: Clip | None = None  # of clip_grad_norm_
    release: _Release | None = None  # of release_gradients, while gradients are released
    unfinished: str | None = None  # of a backward pass that stopped half-way: what to say of it


class AdaMomentum(Optimizer):
    r"""The AdaMomentum optimizer: Adam whose second moment averages the square of the momentum.

    With :math:`\alpha` = ``lr``, :math:`\beta_1, \beta_2` = ``betas`` and :math:`\epsilon` = ``eps``, one step is

    .. math::
        \begin{aligned}
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, m_t^2 + \epsilon \\
        \theta_t &= \theta_{t-1} - \alpha\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)}}
        \end{aligned}

    (Algorithm 1 of arXiv 2106.11514). :math:`m` is the state ``exp_avg``. The state ``exp_avg_sq`` is :math:`v`
    without its eps, which is added when the root is taken: the same numbers for constant ``eps`` and ``beta2``,
    no underflow, and a change of ``eps`` takes effect at once.

    To come from AdamW, set ``adjust_lr="match_rms_adamw"`` and keep its lr, weight decay and schedule
    (``weight_decay`` is 0 by default here, AdamW's 0.01); not its eps, keep the default. Without that switch the steps
    are Algorithm 1's: in noise sqrt((1 + beta1) / (1 - beta1)) = 4.36 times as long as AdamW's at the same lr and the
    default betas, and the first one lr / (1 - beta1) long, ten times lr: then search a learning rate and warm up over
    50 to 100 steps.

    State per parameter: ``step`` (0-dim float64 tensor; on the CPU unless ``capturable``), ``exp_avg``,
    ``exp_avg_sq`` and, with ``amsgrad``, ``max_exp_avg_sq`` (the running maximum of v, eps included), shaped like
    the parameter. Gradients are read, never written. An error in ``step`` leaves all parameters as they were.

    Args:
        params: parameters, named parameters or parameter groups, as for any torch optimizer. Every option below
            can differ between groups. Floating-point and complex tensors; a complex one is two real ones.
        lr: learning rate, float or one-element tensor; may change every step.
        betas: decay rates of the two moments, floats or one-element tensors in [0, 1), in any sequence; may change
            every step.
        eps: added to the second moment at every step, in units of the gradient squared, where it accumulates: the
            denominator is at least sqrt(eps / (1 - beta2)), 3.2e-7 by default and 3.2e-3 for Adam's usual 1e-8. With 0
            a coordinate becomes NaN if its gradient has always been 0, as in Algorithm 1, and infinite if m^2
            underflows.
        weight_decay: strength of the weight decay; its meaning depends on the two switches after the next.
        amsgrad: divide by the running maximum of v. As eps is in it, lowering eps later has no effect.
        decoupled_weight_decay: multiply the parameters by ``1 - lr * weight_decay``, as AdamW does; if False,
            add ``weight_decay * parameter`` to the gradient (L2).
        fixed_decay: multiply them by ``1 - weight_decay`` instead, whatever the value of lr. A step of lr 0
            still leaves them alone.
        rectify: RAdam's variance rectification. While the variance is intractable (5 steps at the default
            beta2) the step is lr times the bias-corrected momentum, so it is as large as the gradient: do not use
            it with large gradients without warm-up.
        full_bias_correction: average the square of the bias-corrected momentum instead; the first step is then
            lr. Not in the paper.
        adjust_lr: "match_rms_adamw" divides v by its mean in white noise instead of by 1 - beta2^t, see
            :func:`adamomentum.reference.white_noise_mean`. The first step is then lr, and in noise all are as long as
            AdamW's at the same lr, betas and decay; in a constant gradient they are 0.27 lr at the default beta1, where
            AdamW's are lr. None: Algorithm 1. Not with ``full_bias_correction``, and not in the paper, as the next two.
        second_moment: what v averages the square of: "momentum", or "lookahead" for beta1 m + (1 - beta1) g, in which
            gradients that alternate in sign do not cancel, so that it brakes at high rates. None: "lookahead" with
            ``adjust_lr`` or ``nesterov``, else "momentum".
        nesterov: move by the look-ahead momentum over 1 - beta1^(t+1), the sum of its weights, instead of by m.
        maximize: maximize the objective.
        foreach: True or False to insist on or to exclude the foreach path; None, the default, takes the fastest
            correct one (:func:`~adamomentum.torch.functional.choose_path`).
        fused: the same for the native kernels, which None takes where they are installed, for parameters on a CPU.
            Tensors they cannot take go through the foreach or for-loop path, the others through the kernels. With
            True, ``GradScaler`` leaves unscaling to the step.
        capturable: keep ``step`` on the parameter's device and never wait for the device, so that ``step()`` can
            be captured in a CUDA graph; put tensor lr and betas on that device. Correct on any device, and slower
            where no graph is captured.
        differentiable: let autograd run through ``step()``.
        state_dtype: dtype of the moments when they are created, torch.float32 or torch.float64 (their complex
            counterparts for complex parameters) or its name. None: the parameter's dtype, but float32 for half
            precision. torch.bfloat16 (4 bytes a parameter for both) and "8bit" (2.01 bytes) round stochastically, see
            :mod:`adamomentum.torch.precision`; for real parameters without ``amsgrad``. With "8bit" the state also
            has ``exp_avg_scale`` and ``exp_avg_sq_scale``, of DTensors for what this process has. A pair of "float32",
            "bfloat16" and "8bit" is one for ``exp_avg`` and one for ``exp_avg_sq``: ("float32", "8bit") takes 5.0
            bytes. The groups hold names.
        rounding: how updated parameters in bfloat16 and float16 are rounded; wider ones are not. "nearest" loses
            updates below half the spacing, 2^-9 of a bfloat16 number. "stochastic" (bfloat16 alone), "kahan" and
            "master" do not, at 0, 2 and 4 bytes a parameter; the last two add the state ``compensation`` or
            ``master``, see :mod:`adamomentum.torch.rounding`. Without kernels such parameters take the for-loop path.

    Raises:
        ValueError: if an option is out of range or contradicts another one, or a parameter is named twice.
        TypeError: if an option has the wrong type, or a parameter cannot be updated: neither floating point nor
            complex, sparse, lazily conjugated or negated, or expanded.
        RuntimeError: if ``fused`` is True and there are no native kernels for the parameters.
    """

    _pending: _Pending

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = True,
        fixed_decay: bool = False,
        rectify: bool = False,
        full_bias_correction: bool = False,
        adjust_lr: AdjustLR | None = None,
        second_moment: SecondMoment | None = None,
        nesterov: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        state_dtype: StateDtype = None,
        rounding: Rounding = "nearest",
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "decoupled_weight_decay": decoupled_weight_decay,
            "fixed_decay": fixed_decay,
            "rectify": rectify,
            "full_bias_correction": full_bias_correction,
            "adjust_lr": adjust_lr,
            "second_moment": second_moment,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "differentiable": differentiable,
            "state_dtype": state_dtype,
            "rounding": rounding,
        }
        check_options(defaults)
        self._pending = _Pending()
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; options it does not name take the values given to the constructor.

        Args:
            param_group: a dict with ``params`` and any of the options.

        Raises:
            ValueError: if an option is out of range or contradicts another one, or a parameter is there already.
            TypeError: if an option has the wrong type, or a parameter cannot be updated.
        """
        super().add_param_group(param_group)
        params = self.param_groups[-1]["params"]
        try:
            check_options(self.param_groups[-1])
            if self.param_groups[-1]["fused"]:
                check_kernels(params)
            for p in params:
                check_param(p, self.param_groups[-1]["state_dtype"], self.param_groups[-1]["rounding"])
            if len(params) != len(set(params)):
                raise ValueError("params must not name a parameter twice in one group; remove the duplicates")
            if self._pending.release is not None:
                self._pending.release.attach(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Tells GradScaler to leave unscaling to the step, as torch's own optimizers do with ``fused=True``."""
        self._check_not_released(
            "GradScaler, which looks for infinities in whole gradients: backward() has moved parameters and moments by "
            "scaled ones; load model and optimizer again, and use bfloat16 without a scaler"
        )
        return all(group["fused"] for group in self.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, and forget what :meth:`clip_grad_norm_` left for the next step.

        Args:
            set_to_none: free the gradients instead of filling them with zeros.

        Raises:
            RuntimeError: under :func:`~adamomentum.torch.release_gradients`, if some are in the state by now and the
                handle is not paused.
        """
        if self._pending.release is not None:
            self._pending.release.check_discardable()
            self._pending.release.follow()
        self._pending.clip = None
        super().zero_grad(set_to_none)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def clip_grad_norm_(self, max_norm: float, *, error_if_nonfinite: bool = False) -> Tensor:
        """Clip the gradients of all groups by their total 2-norm, within the next step.

        Does what ``torch.nn.utils.clip_grad_norm_`` does but leaves the gradients as they are: the next
        :meth:`step` multiplies them by min(1, max_norm / (norm + 1e-6)) as it reads them. ``zero_grad`` cancels
        it. With a ``GradScaler``, call its ``unscale_`` first. On a CPU the native kernels compute the norm in
        one pass, in float64, in an order that does not depend on the number of threads.

        Args:
            max_norm: the largest norm, >= 0.
            error_if_nonfinite: raise if the norm is infinite or NaN. Without it, an infinite norm makes finite
                gradients 0 and infinite ones NaN, and a NaN norm makes all NaN, as in torch.

        Returns:
            The norm before clipping, a 0-dim tensor in float32 or wider.

        Raises:
            ValueError: if ``max_norm`` is negative or NaN.
            RuntimeError: if ``error_if_nonfinite`` and the norm is infinite or NaN, nothing is then clipped; or if
                gradients are released, so that their norm is not known before the update.
        """
        check_max_norm(max_norm)
        self._check_not_released("clip_grad_norm_, which needs all gradients at once: pass its clip to limit each")
        norm, grads = total_norm([p for group in self.param_groups for p in group["params"]])
        clip = self._pending.clip
        before: Scalar = 1.0
        if clip is not None:  # as if it had been done at once
            before = clip.factor_of(grads)
            norm = norm * before
        if error_if_nonfinite and not norm.isfinite():
            raise RuntimeError(
                f"the total norm of the gradients is {norm.item()}, so they cannot be clipped; skip this step, or pass "
                "error_if_nonfinite=False to go on"
            )
        factor = max_norm / ((norm.item() if norm.is_cpu else norm) + 1e-6)
        factor = factor.clamp(max=1.0) if isinstance(factor, Tensor) else 1.0 if factor > 1 else factor
        self._pending.clip = Clip(before * factor, grads)
        return norm

    def _gradients(self) -> list[Tensor]:
        return [grad for group in self.param_groups for p in group["params"] if (grad := p.grad) is not None]

    def _check_not_released(self, what: str) -> None:
        if self._pending.release is not None:
            raise RuntimeError(f"release_gradients does not go with {what}, or call remove() on its handle")

    def init_state(self) -> None:
        """Create the state of every parameter that requires a gradient and has none yet, before any step.

        Distributed checkpoints load in place, into state that must exist. ``step`` is 0 and no parameter moves.
        """
        for group in self.param_groups:
            for p in group["params"]:
                if p.requires_grad or p.grad is not None:
                    check_param(p, group["state_dtype"], group["rounding"])  # it may have been a lazy one
                    self._state_of(p, group)

    def _state_of(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the state of ``p``, created or completed where needed."""
        state: dict[str, Tensor] = self.state[p]
        complete(state, p, group)
        if not (group["capturable"] or group["differentiable"]):  # a graph keeps addresses, autograd the tensors
            state.update(laid_out_like(p, state))
        if self._pending.release is not None and self._pending.release.accumulation_steps > 1:
            state.setdefault(PASSES, pass_count())
        if self._pending.release is not None and self._pending.release.adapts:
            state.setdefault(NORM, norm_average(p))
        return state

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step for every parameter that has a gradient.

        Under :func:`~adamomentum.torch.release_gradients`, ``backward()`` has taken it already, unless it is one of
        the passes before the last.

        The very first step does no more than :meth:`init_state` if lr and all gradients are 0: that is how
        ``torch.distributed.checkpoint`` asks for the state.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            ValueError: if an option was set to an impossible value since the last step, or a gradient or the state
                does not fit its parameter.
            TypeError: if an option was set to a value of the wrong type.
            RuntimeError: if a gradient is sparse, ``fused`` was set without kernels, a leaf is to be updated
                differentiably, or a CUDA graph is captured without ``capturable``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._pending.release is None:
            check_whole(self._pending.unfinished)
        else:
            with torch.no_grad():
                if self._pending.release.finish():
                    return loss
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if found_inf is not None and not all(map(_obeys_found_inf, self.param_groups)):
            if found_inf.item():  # GradScaler's verdict: skip this step
                self._pending.clip = None
                return loss
            found_inf = None

        compiling = torch.compiler.is_compiling()
        prepared = self._prepare_untraced(grad_scale) if compiling else self._prepare(False, grad_scale)
        for work in prepared:
            take_work(work, found_inf)
        return loss

    def _prepare_some(self, parts: Iterable[tuple[dict[str, Any], list[Tensor], list[Tensor], int]]) -> list[Work]:
        """Check some parameters, and gather what their coming update needs.

        Args:
            parts: a group, of which the options have been checked; parameters of it; their gradients; the number of
                passes that these are the last of.
        """
        gathered = []
        for group, params, grads, passes in parts:
            kernels, rest, batch, _ = self._gather(group, params, compiling=False, grads=grads)
            gathered.append((group, kernels, rest, batch, False, 1.0, passes))
        prepared = [self._work(*each) for each in gathered]
        return [work for work in prepared if work is not None]

    def _prepare_state(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Check parameters of a group and their gradients, and make what their state lacks."""
        # What the native kernels take has its state.
        _, rest, _, _ = self._gather(group, params, compiling=False, grads=grads)
        for p, _ in rest:
            self._state_of(p, group)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _prepare_untraced(self, grad_scale: Tensor | None) -> list[Work]:
        return self._prepare(True, grad_scale)

    def _prepare(self, compiling: bool, grad_scale: Tensor | None) -> list[Work]:
        """Check everything, then gather for each group what the coming update needs."""
        gathered = []
        position = 0
        for group in self.param_groups:  # all checks come before the first change
            check_options(group, read_tensors=not (compiling or group["capturable"]))
            check_beta1(group)
            for params, passes in self._by_passes(group):
                kernels, rest, batch, position = self._gather(group, params, compiling, position)
                gathered.append((group, kernels, rest, batch, passes))
        clip = self._pending.clip
        factor: Scalar = 1.0
        if clip is not None:
            grads: list[Tensor] = []
            for _, _, rest, batch, _ in gathered:
                grads += [] if batch is None else batch.grads
                grads += [grad for _, grad in rest]
            factor = clip.factor_of(grads, or_raise=True)
        scale: Scalar = factor if grad_scale is None else factor / grad_scale
        if compiling and clip is not None:  # compiled code is specialized to floats
            scale = torch.as_tensor(scale, dtype=torch.float64)
        # Not before: after an error above the step can be taken again.
        self._pending.clip = None
        if self._pending.release is None and any(group.get(PASSES) for group in self.param_groups):
            set_passes(self, 0)  # what was accumulated under release before counts in this step
            for group in self.param_groups:
                group.pop(PASSES_BETA1, None)
        if not self.state and self._only_state_is_wanted():
            self.init_state()
            return []
        works = [
            self._work(group, kernels, rest, batch, compiling, scale, passes)
            for group, kernels, rest, batch, passes in gathered
        ]
        return [work for work in works if work is not None]

    def _by_passes(self, group: dict[str, Any]) -> list[tuple[list[Tensor], int]]:
        """Return the parameters of a group by how many backward passes they have gradients of, nearly always 1.

        More where a release was removed, or a state loaded without one, in the middle of a step. The look-ahead
        momentum takes the last gradient for all of them; Nesterov's, which cannot, was refused there.
        """
        if not group.get(PASSES) or group["nesterov"]:
            return [(group["params"], 1)]
        params = group["params"]
        divided = by_passes(self.state, params)
        return [([params[i] for i in places], passes) for passes, places in divided.items()]

    def _gather(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        compiling: bool,
        position: int = 0,
        grads: list[Tensor] | None = None,
    ) -> tuple[Kernels | None, list[tuple[Tensor, Tensor]], Batch | None, int]:
        """Check parameters of a group that have a gradient, and gather natively those that the kernels can take.

        Args:
            group: the group.
            params: those of its parameters that may have a gradient.
            compiling: whether the step is being compiled.
            position: how many parameters come before them, a hint at where their state lies.
            grads: their gradients, where these are not in ``p.grad``.

        Returns:
            The kernels that they are for, what was not gathered natively with its gradients, the batch of what was, and
            the position after ``params``.
        """
        params = params if isinstance(params, list) else list(params)  # someone put a tuple or ParameterList there
        kernels = None
        if not compiling:
            kernels = choose_kernels(
                params,
                foreach=group["foreach"],
                fused=group["fused"],
                differentiable=group["differentiable"],
            )
        batch, release = None, self._pending.release
        if kernels == "native":
            batch = fused_cpu.new_batch(group["rounding"])
        elif kernels == "triton" and not group["capturable"] and (release is None or release.clip is None):
            batch = fused_cuda.new_batch(group["rounding"], params[0])
        if batch is not None:  # checks what it takes
            own = self.state if isinstance(self.state, dict) else {}
            rest, position = batch.gather(params, own, group["amsgrad"], position, grads)
        elif grads is not None:
            rest = list(zip(params, grads, strict=True))
        else:
            rest = [(p, grad) for p in params if (grad := p.grad) is not None]
        check_gradients(rest, group, self.state)
        if group["fused"] and any(p.is_meta for p in (*params[:1], *(p for p, _ in rest))):
            raise RuntimeError(
                "fused=True cannot step parameters on the meta device, which have no values; call "
                "model.to_empty(device=...) and initialize them first, and build the optimizer then, unless "
                "torch.__future__.set_swap_module_params_on_conversion(True) keeps the parameters what they are"
            )
        check_capture(group)
        return kernels, rest, batch, position

    def _work(
        self,
        group: dict[str, Any],
        kernels: Kernels | None,
        rest: list[tuple[Tensor, Tensor]],
        batch: Batch | None,
        compiling: bool,
        scale: Scalar,
        passes: int = 1,
    ) -> Work | None:
        """Return what the coming step needs of what :meth:`_gather` gave; None if there is nothing to update."""
        rows, late = [], []
        for p, grad in rest:
            state = self._state_of(p, group)
            if batch is not None and fused_cpu.add(batch, p, grad, state, group["amsgrad"]):
                late.append(p)
            else:
                rows.append((p, grad, state))
        if not rows and not batch:
            return None
        path = kernels or choose_loop(
            [p for p, _, _ in rows],
            foreach=group["foreach"],
            differentiable=group["differentiable"],
            state_dtype=group["state_dtype"],
        )
        return Work(group, rows, batch, late, _rule_of(group, compiling, scale, passes), path)

    def _only_state_is_wanted(self) -> bool:
        """Whether lr and all gradients are 0, read only where that costs no wait in ordinary training."""
        for group in self.param_groups:
            lr = group["lr"]
            if (isinstance(lr, Tensor) and not lr.is_cpu) or lr != 0:
                return False
        grads = self._gradients()
        return bool(grads) and not any(grad.is_meta or grad.any() for grad in grads)

    def state_dict(self) -> dict[str, Any]:
        """Return options and state, as any torch optimizer does, for a checkpoint or another optimizer.

        Moments in 8 bits of DTensors come decoded, in bfloat16, which has them exactly: blocks of codes are of one
        process's part alone (:func:`adamomentum.torch.decoded`). Beside the codes of plain tensors an entry,
        ``exp_avg_blocks`` or ``exp_avg_sq_blocks``, says of which step and order of memory they are, so that codes
        that a loader did not load, or brought into another order, are noticed. All other tensors are those of the
        optimizer itself.

        Raises:
            RuntimeError: if a backward pass under gradient release stopped half-way: what there is is half a step.
        """
        check_whole(self._pending.unfinished)
        return portable(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state made by ``state_dict()``; moments keep the dtype they were saved with.

        Everything is checked before anything changes, and the loaded tensors are copies. Where both sides have the
        names of parameters, from ``named_parameters()``, the state goes to the parameter of the same name within its
        group; without names, or under new ones, to the one at the same place.

        Args:
            state_dict: what ``state_dict()`` returned, perhaps through a file.

        Raises:
            TypeError: if it is no dict.
            ValueError: if it was written by another optimizer, or does not fit this one's parameters.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict that state_dict() returned, got {type(state_dict).__name__}")
        # Registered now, it runs after the user's own hooks, which may still change the dict.
        handle = self.register_load_state_dict_pre_hook(partial(checked_and_hidden, _DEFAULTS))
        try:
            super().load_state_dict(dict(state_dict))
        finally:
            handle.remove()
        self._pending.clip = self._pending.unfinished = None
        if self._pending.release is not None:
            self._pending.release.forget()

    def __getstate__(self) -> dict[str, Any]:
        check_whole(self._pending.unfinished)
        state: dict[str, Any] = super().__getstate__()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_pending", _Pending())  # a copy has nothing pending
        for group in self.param_groups:
            for name, default in _DEFAULTS.items():
                group.setdefault(name, default)
        for entries in self.state.values():
            if isinstance(entries, dict) and OWN in entries:
                entries.update(entries[OWN].make())
                del entries[OWN]
            elif isinstance(entries, dict) and isinstance(step := entries.get(STEP), Tensor) and step.is_cpu:
                entries[STEP] = step_count(step.item(), "cpu")  # pickled by a version that counted in float32


def _obeys_found_inf(group: dict[str, Any]) -> bool:
    """Whether the CUDA kernel itself skips a step of this group whose gradients were infinite."""
    return bool(group["capturable"] and group["fused"] and group["params"] and group["params"][0].is_cuda)


def take_work(work: Work, found_inf: Tensor | None = None) -> None:
    """Take the step that was prepared of one group."""
    group = work.group
    with torch.set_grad_enabled(group["differentiable"]):
        take_step(
            work.rows,
            work.batch,
            work.rule,
            work.path,
            foreach=group["foreach"],
            fused=group["fused"],
            capturable=group["capturable"],
            found_inf=found_inf,
        )


def _rule_of(group: dict[str, Any], compiling: bool, scale: Scalar, passes: int) -> Rule:
    """Return the options of a group for the coming update, its gradients to be multiplied by ``scale``.

    ``passes`` is how many gradients there were, of which those in ``p.grad`` are the last.
    """
    lr, (beta1, beta2) = group["lr"], group["betas"]
    if compiling:  # compiled code is specialized to floats, and would be compiled anew when they change
        lr, beta1, beta2 = (
            x.to(torch.float64) if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64, device="cpu")
            for x in (lr, beta1, beta2)
        )
    return Rule(
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=float(group["eps"]),
        weight_decay=float(group["weight_decay"]),
        amsgrad=group["amsgrad"],
        decoupled_weight_decay=group["decoupled_weight_decay"],
        fixed_decay=group["fixed_decay"],
        rectify=group["rectify"],
        full_bias_correction=group["full_bias_correction"],
        grad_factor=-scale if group["maximize"] else scale,
        differentiable=group["differentiable"],
        rounding=group["rounding"],
        adjust_lr=group["adjust_lr"] is not None,
        lookahead=looks_ahead(group),
        nesterov=group["nesterov"],
        passes=passes,
    )


# What an option is where a state dict or pickle of an older version does not have it.
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(AdaMomentum).parameters.items()
    if parameter.default is not parameter.empty
}
