"""What PyTorch asks of every optimizer, asked of AdaMomentum with the pieces that its wheel ships for that purpose."""

import io
import pickle
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain, cycle, product
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.lr_scheduler import CyclicLR, ExponentialLR, LinearLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_device_type import instantiate_device_type_tests, onlyCPU, onlyCUDA
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    TensorTracker,
    _get_optim_inputs_including_global_cliquey_kwargs,
    get_error_inputs_for_all_optims,
    optims,
)
from torch.testing._internal.common_utils import TestCase, parametrize

import adamomentum.torch.foreach
import adamomentum.torch.fused_cpu
from adamomentum.bench.memory import peak_bytes
from adamomentum.torch import AdaMomentum
from adamomentum.torch.foreach import CHUNK_ELEMENTS

INPUTS = {
    "default": {},
    "lr": {"lr": 1e-2},
    "lr 0": {"lr": 0.0},
    "betas": {"betas": (0.8, 0.9)},
    "beta1 0": {"betas": (0.0, 0.999)},
    "eps": {"eps": 1e-8},
    "decoupled decay": {"weight_decay": 0.1},
    "L2 decay": {"weight_decay": 0.1, "decoupled_weight_decay": False},
    "fixed decay": {"weight_decay": 1e-4, "fixed_decay": True},
    "amsgrad": {"amsgrad": True, "weight_decay": 0.1},
    "rectify": {"rectify": True},
    "full bias correction": {"full_bias_correction": True},
    "drop-in": {"adjust_lr": "match_rms_adamw", "weight_decay": 0.1},
    "drop-in of the momentum, Nesterov": {
        "adjust_lr": "match_rms_adamw",
        "second_moment": "momentum",
        "nesterov": True,
        "capturable": True,
    },
    "maximize": {"maximize": True},
    "maximize, L2 decay": {"maximize": True, "weight_decay": 0.1, "decoupled_weight_decay": False},
    "float64 state": {"state_dtype": torch.float64},
    # Unlike PyTorch's own optimizers, capturable is correct on every device.
    "capturable": {"capturable": True},
    "capturable, amsgrad, rectify": {"capturable": True, "amsgrad": True, "rectify": True, "weight_decay": 0.1},
    "all switches": {
        "amsgrad": True,
        "rectify": True,
        "full_bias_correction": True,
        "maximize": True,
        "weight_decay": 0.1,
        "decoupled_weight_decay": False,
    },
}
TENSOR_INPUTS = {
    "tensor lr": lambda device: {"lr": torch.tensor(1e-3)},
    "tensor betas": lambda device: {"betas": (torch.tensor(0.9), torch.tensor([0.999]))},
    "capturable, tensor lr and betas": lambda device: {
        "lr": torch.tensor(1e-3, device=device),
        "betas": (torch.tensor(0.9, device=device), torch.tensor(0.999, device=device)),
        "weight_decay": 0.1,
        "capturable": True,
    },
}


def optim_inputs(device: str, dtype: torch.dtype | None = None) -> list[OptimizerInput]:
    """Every option away from its default, alone and in company."""
    kwargs = {**deepcopy(INPUTS), **{desc: make(device) for desc, make in TENSOR_INPUTS.items()}}
    return [OptimizerInput(params=None, kwargs=kw, desc=desc) for desc, kw in kwargs.items()]


def error_inputs(device: str, dtype: torch.dtype) -> list[ErrorOptimizerInput]:
    """PyTorch's wrong inputs, and what only AdaMomentum can be given wrongly."""

    def at_construction(kwargs: dict, error: type[Exception], regex: str, params=None) -> ErrorOptimizerInput:
        params = [parameter(device, dtype)] if params is None else params
        return ErrorOptimizerInput(OptimizerInput(params, kwargs), error_type=error, error_regex=regex)

    def at_step(params: list[Tensor], kwargs: dict, error: type[Exception], regex: str) -> ErrorOptimizerInput:
        return ErrorOptimizerInput(
            OptimizerInput(params, kwargs),
            error_on=OptimizerErrorEnum.STEP_ERROR,
            error_type=error,
            error_regex=regex,
        )

    sparse = parameter(device, dtype)
    sparse.grad = torch.ones_like(sparse).to_sparse()
    resized = parameter(device, dtype)
    resized.grad = torch.ones_like(resized)
    resized.data = torch.zeros(3, device=device, dtype=dtype)
    leaf = parameter(device, dtype)
    leaf.grad = torch.ones_like(leaf)

    return [
        # torch warns of a parameter named twice in one group, "in future, this will cause an error": here it does,
        # since the paths would not agree on what such a step is.
        *(e for e in get_error_inputs_for_all_optims(device, dtype) if e.error_type is not UserWarning),
        at_construction({}, ValueError, "empty parameter list", params=[]),
        at_construction({}, TypeError, "floating-point or complex", params=[torch.zeros(2, dtype=torch.int64)]),
        at_construction({}, TypeError, "dense", params=[torch.zeros(2).to_sparse()]),
        at_construction({"lr": -1.0}, ValueError, "lr must be >= 0 and finite, got -1.0"),
        at_construction({"lr": float("nan")}, ValueError, "lr must be >= 0 and finite, got nan"),
        at_construction({"lr": torch.tensor(-1.0)}, ValueError, "lr must be >= 0 and finite, got -1.0"),
        at_construction({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
        at_construction({"betas": 0.9}, TypeError, "betas must be a pair"),
        at_construction({"betas": (0.9, 0.99, 0.999)}, TypeError, "betas must be a pair"),
        at_construction({"betas": (1.0, 0.999)}, ValueError, r"betas\[0\] must be in \[0, 1\), got 1.0"),
        at_construction({"betas": (0.9, -0.1)}, ValueError, r"betas\[1\] must be in \[0, 1\), got -0.1"),
        at_construction({"betas": (0.9, torch.ones(2))}, ValueError, r"Tensor betas\[1\] must be 1-element"),
        at_construction({"eps": -1e-8}, ValueError, "eps must be >= 0 and finite, got -1e-08"),
        at_construction({"eps": float("inf")}, ValueError, "eps must be >= 0 and finite, got inf"),
        at_construction({"weight_decay": -1}, ValueError, "weight_decay must be >= 0 and finite, got -1"),
        at_construction({"amsgrad": 2}, TypeError, "amsgrad must be True or False, got 2"),
        at_construction({"foreach": 2}, TypeError, "foreach must be True, False or None, got 2"),
        at_construction(
            {"fixed_decay": True, "decoupled_weight_decay": False}, ValueError, "needs decoupled_weight_decay=True"
        ),
        at_construction(
            {"fixed_decay": True, "weight_decay": 1.5}, ValueError, r"weight_decay must be in \[0, 1\] .* got 1.5"
        ),
        at_construction({"fused": True, "differentiable": True}, ValueError, "fused=True does not go"),
        at_construction({"foreach": True, "fused": True}, ValueError, "exclude each other"),
        at_construction({"foreach": True, "differentiable": True}, ValueError, "foreach=True does not go"),
        at_construction({"state_dtype": torch.float16}, ValueError, "state_dtype must be"),
        at_construction({"state_dtype": "float16"}, ValueError, "state_dtype must be"),
        at_construction({}, ValueError, "lr must be >= 0", params=[{"params": [parameter(device, dtype)], "lr": -1.0}]),
        at_step([sparse], {}, RuntimeError, "does not support sparse gradients"),
        at_step([resized], {}, ValueError, "must have the shape and device of its parameter"),
        at_step([leaf], {"differentiable": True}, RuntimeError, "differentiable=True .* leaf"),
    ]


INFO = OptimizerInfo(
    AdaMomentum,
    optim_inputs_func=optim_inputs,
    optim_error_inputs_func=error_inputs,
    scheduler_inputs=(
        [lambda opt: StepLR(opt, gamma=0.9, step_size=10)],
        [lambda opt: LinearLR(opt, start_factor=0.4, end_factor=0.8, total_iters=4)],
        [lambda opt: ExponentialLR(opt, gamma=0.99), lambda opt: ReduceLROnPlateau(opt)],
        # These two also cycle beta1.
        [lambda opt: OneCycleLR(opt, max_lr=1e-2, total_steps=21)],
        [lambda opt: CyclicLR(opt, base_lr=1e-3, max_lr=1e-2, step_size_up=5)],
    ),
    supported_impls=("foreach", "fused", "differentiable"),
    # What a state dict of another version may lack.
    not_og_supported_flags=("maximize", "foreach", "fused", "capturable", "differentiable", "state_dtype"),
    has_capturable_arg=True,
    supports_fused_on=("cpu",) if adamomentum.torch.fused_cpu.why_not() is None else (),
)
# Relative and absolute differences between two ways of computing the same step.
TOLERANCES = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-15},
    torch.complex128: {"rtol": 1e-12, "atol": 1e-15},
    torch.float32: {"rtol": 2e-6, "atol": 5e-8},
    torch.complex64: {"rtol": 2e-6, "atol": 5e-8},
    torch.bfloat16: {"rtol": 2**-7, "atol": 0},
    torch.float16: {"rtol": 2**-10, "atol": 0},
}


@contextmanager
def case(desc: str) -> Iterator[None]:
    """Name the input in what goes wrong with it."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"with {desc}") from error


def configs(device: str, *, skip: Iterable[str] = ()) -> Iterator[tuple[str, dict]]:
    """Every input on every path, as a description and keyword arguments."""
    for x in _get_optim_inputs_including_global_cliquey_kwargs(device, torch.float32, INFO, skip=tuple(skip)):
        yield x.desc, x.kwargs


def parameter(device: str, dtype: torch.dtype, *shape: int) -> Parameter:
    return Parameter(torch.randn(shape or (2, 3), device=device, dtype=dtype))


def odd_tensors(device: str, dtype: torch.dtype) -> list[Tensor]:
    """Parameters of all layouts: contiguous, 0-dim, empty, transposed, strided, channels-last, large."""
    base = [
        torch.randn(3, 4, device=device, dtype=dtype),
        torch.randn((), device=device, dtype=dtype),
        torch.randn(0, device=device, dtype=dtype),
        torch.randn(2, 0, 3, device=device, dtype=dtype),
        torch.randn(3, 5, device=device, dtype=dtype).t(),
        torch.randn(4, 6, device=device, dtype=dtype)[:, ::2],
        torch.randn(2, 3, 4, 5, device=device, dtype=dtype).to(memory_format=torch.channels_last),
        torch.randn(701, 5, device=device, dtype=dtype),
    ]
    return [t.requires_grad_() for t in base]


def copies(params: Iterable[Tensor]) -> list[Tensor]:
    """Leaves with the values, strides and gradients of ``params``."""
    result = []
    for p in params:
        copy = torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device=p.device)
        copy.copy_(p.detach())
        copy.requires_grad_(p.requires_grad)
        copy.grad = None if p.grad is None else p.grad.clone()
        result.append(copy)
    return result


def set_random_gradients(*lists: list[Tensor]) -> None:
    """Give the parameters of every list the same new gradients."""
    for params in zip(*lists, strict=True):
        grad = torch.randn_like(params[0])
        for p in params:
            p.grad = grad.to(p.device, copy=True)


def steppable(params: list[Tensor], kwargs: dict) -> list[Tensor]:
    """The parameters, or clones of them where the step has to be differentiable, with their gradients."""
    if not kwargs.get("differentiable"):
        return params
    clones = [p.clone() for p in params]
    for clone, p in zip(clones, params, strict=True):
        if clone.requires_grad:
            clone.retain_grad()  # or reading an empty .grad would warn
        clone.grad = p.grad
    return clones


class Regression:
    """Least squares with a weight and a bias, contiguous or not."""

    def __init__(self, device: str, dtype: torch.dtype = torch.float32, contiguous: bool = True) -> None:
        if contiguous:
            self.weight, self.bias = parameter(device, dtype, 10, 5), parameter(device, dtype, 10)
        else:
            self.weight = Parameter(torch.randn(10, 5, 2, device=device, dtype=dtype)[..., 0])
            self.bias = Parameter(torch.randn(10, 2, device=device, dtype=dtype)[..., 0])
        self.input = torch.randn(5, device=device, dtype=dtype)

    @property
    def params(self) -> list[Tensor]:
        return [self.weight, self.bias]

    def named(self, named: bool) -> list:
        return [("weight", self.weight), ("bias", self.bias)] if named else self.params

    def loss(self) -> Tensor:
        return (self.weight.mv(self.input) + self.bias).pow(2).sum()

    def closure(self) -> Tensor:
        for p in self.params:
            p.grad = None
        loss = self.loss()
        loss.backward()
        return loss


class TestGeneric(TestCase):
    # ---- inputs ----

    @onlyCPU
    @optims([INFO])
    def test_inputs_cover_every_option(self, device, dtype, optim_info):
        options = set(AdaMomentum([parameter(device, dtype)]).defaults)
        given = set().union(*(x.kwargs for x in optim_info.optim_inputs_func(device)))
        # Paths, which configs() adds, and what goes with the for-loop path alone: see test_rounding.py.
        self.assertEqual(options - given, {"foreach", "fused", "differentiable", "rounding"})

    @optims([INFO])
    def test_errors(self, device, dtype, optim_info):
        for error in optim_info.optim_error_inputs_func(device, dtype):
            params, kwargs = error.optimizer_error_input.params, error.optimizer_error_input.kwargs
            with case(error.error_regex):
                is_warning = issubclass(error.error_type, Warning)
                expect = self.assertWarnsRegex if is_warning else self.assertRaisesRegex
                if error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR:
                    with expect(error.error_type, error.error_regex):
                        AdaMomentum(params, **kwargs)
                else:
                    optimizer = AdaMomentum(params, **kwargs)
                    before = deepcopy(params[0].detach())
                    with expect(error.error_type, error.error_regex):
                        optimizer.step()
                    self.assertEqual(params[0].detach(), before, rtol=0, atol=0)
                    self.assertEqual(len(optimizer.state), 0)

    @optims([INFO])
    def test_can_be_printed(self, device, dtype, optim_info):
        for desc, kwargs in configs(device):
            with case(desc):
                text = repr(AdaMomentum([parameter(device, dtype)], **kwargs))
                self.assertTrue(text.startswith("AdaMomentum ("))
                for name in kwargs:
                    self.assertIn(name, text)

    # ---- the update ----

    @parametrize("contiguous", [True, False])
    @optims([INFO])
    def test_goes_in_the_right_direction(self, device, dtype, optim_info, contiguous):
        for desc, kwargs in configs(device, skip=["differentiable"]):
            self.check_direction(device, dtype, desc, kwargs, contiguous=contiguous)

    @optims([INFO])
    def test_goes_in_the_right_direction_with_schedulers(self, device, dtype, optim_info):
        # Each scheduler meets every path, and each input one of the schedulers.
        for i, (desc, kwargs) in enumerate(configs(device, skip=["differentiable"])):
            schedulers = optim_info.scheduler_inputs[i % len(optim_info.scheduler_inputs)]
            self.check_direction(device, dtype, desc, kwargs, schedulers)

    def check_direction(self, device, dtype, desc: str, kwargs: dict, schedulers: Iterable = (), contiguous=True):
        """The loss falls in 20 steps, or rises where it is maximized."""
        if desc.startswith("lr 0"):
            return  # goes nowhere, until a scheduler sets lr
        with case(desc), warnings.catch_warnings():
            warnings.simplefilter("error")  # PyTorch warns if step() was called out of order
            problem = Regression(device, dtype, contiguous)
            optimizer = AdaMomentum(problem.params, **kwargs)
            running = [make(optimizer) for make in schedulers]
            first = problem.loss().item()
            for _ in range(20):
                loss = problem.closure()
                optimizer.step()
                for scheduler in running:
                    scheduler.step(*([loss.item()] if isinstance(scheduler, ReduceLROnPlateau) else []))
            self.assertEqual(problem.loss().item() > first, kwargs.get("maximize", False))

    @parametrize("foreach", [True, False])
    @optims([INFO])
    def test_groups_equal_separate_optimizers(self, device, dtype, optim_info, foreach):
        inputs = [x.kwargs for x in optim_info.optim_inputs_func(device)]
        together = [parameter(device, dtype) for _ in inputs]
        apart = copies(together)
        optimizers = [
            AdaMomentum([p], foreach=foreach, **deepcopy(kwargs)) for p, kwargs in zip(apart, inputs, strict=True)
        ]
        # Every option is given, so that the constructor's values must not show through.
        groups = [
            {**other.defaults, **deepcopy(kwargs), "params": [p]}
            for p, other, kwargs in zip(together, optimizers, inputs, strict=True)
        ]
        optimizer = AdaMomentum(groups, lr=7.0, betas=(0.5, 0.5), eps=1.0, weight_decay=0.5)
        for _ in range(7):
            set_random_gradients(together, apart)
            optimizer.step()
            for other in optimizers:
                other.step()
        self.assertEqual(together, apart, rtol=0, atol=0)

    @optims([INFO])
    def test_parameters_count_their_own_steps(self, device, dtype, optim_info):
        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                together = [parameter(device, dtype) for _ in range(3)]
                apart = copies(together)
                optimizer = AdaMomentum(together, **deepcopy(kwargs))
                optimizers = [AdaMomentum([p], **deepcopy(kwargs)) for p in apart]
                for i in range(9):
                    set_random_gradients(together, apart)
                    for p, q, n in zip(together, apart, (1, 2, 3), strict=True):
                        if i % n:  # steps 9, 5 and 3 times
                            p.grad = q.grad = None
                    optimizer.step()
                    for other in optimizers:
                        other.step()
                self.assertEqual([optimizer.state[p]["step"].item() for p in together], [9, 5, 3])
                self.assertEqual(together, apart, rtol=0, atol=0)

    @optims([INFO])
    def test_group_of_lr_zero_stays(self, device, dtype, optim_info):
        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                moving, still = parameter(device, dtype), parameter(device, dtype)
                before = copies([moving, still])
                lr = kwargs.pop("lr", None) or 1e-3
                kwargs["lr"] = 0.0
                optimizer = AdaMomentum([{"params": [moving], "lr": lr}, {"params": [still]}], **kwargs)
                for _ in range(3):
                    set_random_gradients([moving], [still])
                    optimizer.step()
                self.assertNotEqual(moving, before[0])
                self.assertEqual(still, before[1], rtol=0, atol=0)

    @optims([INFO], dtypes=[torch.float64, torch.float32])
    def test_tensor_lr_and_betas(self, device, dtype, optim_info):
        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                kwargs |= {"lr": 0.125, "betas": (0.875, 0.96875)}  # the same in float32
                where = device if kwargs.get("capturable") else "cpu"
                tensors = {
                    "lr": torch.tensor(0.125, device=where),
                    "betas": (torch.tensor([0.875], device=where), torch.tensor(0.96875, device=where)),
                }
                # Only captured numbers are tensors, of the state's dtype, in the update itself.
                tolerance = {"rtol": 1e-5, "atol": 1e-6} if kwargs.get("capturable") else {"rtol": 0, "atol": 0}
                one = [parameter(device, dtype), parameter(device, dtype, 4)]
                two = copies(one)
                with_floats = AdaMomentum(one, **kwargs)
                with_tensors = AdaMomentum(two, **{**kwargs, **tensors})
                for lr in (0.125, 0.25, 0.0, 0.0625, 0.5, 0.125, 0.125):
                    with_floats.param_groups[0]["lr"] = lr
                    with_tensors.param_groups[0]["lr"].fill_(lr)
                    set_random_gradients(one, two)
                    with_floats.step()
                    with_tensors.step()
                    self.assertEqual(one, two, **tolerance)
                self.assertIs(with_tensors.param_groups[0]["lr"], tensors["lr"])

    @optims([INFO], dtypes=[torch.complex64, torch.complex128])
    def test_complex_equals_its_real_view(self, device, dtype, optim_info):
        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                z = parameter(device, dtype, 5, 5)
                x = torch.view_as_real(z.detach()).clone().requires_grad_()
                optimizers = [AdaMomentum([z], **kwargs), AdaMomentum([x], **kwargs)]
                for _ in range(7):
                    z.grad = torch.randn_like(z)
                    x.grad = torch.view_as_real(z.grad).clone()
                    for optimizer in optimizers:
                        optimizer.step()
                    self.assertEqual(torch.view_as_real(z.detach()), x.detach(), rtol=0, atol=0)
                for key, value in optimizers[1].state[x].items():
                    ours = optimizers[0].state[z][key]
                    self.assertEqual(torch.view_as_real(ours) if ours.is_complex() else ours, value, rtol=0, atol=0)

    @optims([INFO])
    def test_complex_equals_two_reals(self, device, dtype, optim_info):
        def rosenbrock(z: Tensor) -> Tensor:
            return ((1 - z[0]) ** 2 + 100 * (z[1] - z[0] ** 2) ** 2).abs()

        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                z = parameter(device, torch.complex64, 2)
                re, im = z.detach().real.clone().requires_grad_(), z.detach().imag.clone().requires_grad_()
                optimizers = [AdaMomentum([z], **kwargs), AdaMomentum([re, im], **kwargs)]
                tracker = TensorTracker(TOLERANCES[torch.float32])
                for _ in range(7):
                    for optimizer in optimizers:
                        optimizer.zero_grad()
                    rosenbrock(z).backward()
                    rosenbrock(torch.complex(re, im)).backward()
                    for whole, part in ((z.grad.real, re), (z.grad.imag, im)):
                        tracker.add(whole)
                        tracker.pop_check_set(part.grad, self, {"rtol": 1e-4, "atol": 1e-4})
                    for optimizer in optimizers:
                        optimizer.step()
                    for whole, part in ((z.real, re), (z.imag, im)):
                        tracker.add(whole)
                        tracker.pop_check_set(part, self)
                self.assertTrue(tracker.all_popped())

    def check_lockstep(self, lists: list[list[Tensor]], kwargs: list[dict], steps: int = 7) -> None:
        """Step two copies of the parameters and compare them and all states after every step."""
        optimizers = [AdaMomentum(params, **kw) for params, kw in zip(lists, kwargs, strict=True)]
        for i in range(steps):  # rectify takes its other branch from step 6
            set_random_gradients(*lists)
            for params in lists:
                if i == 2:
                    for p in params:
                        p.grad = None
                if i in (3, 4):  # these fall two steps behind the others
                    for p in params[::3]:
                        p.grad = None
            for optimizer in optimizers:
                optimizer.step()
            for p, q in zip(*lists, strict=True):
                ours, theirs = (opt.state[x] for opt, x in zip(optimizers, (p, q), strict=True))
                self.assertEqual(list(ours), list(theirs))
                for a, b in ((p, q), *((ours[key], theirs[key]) for key in ours)):
                    alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
                    # assertEqual takes ten times as long as the step.
                    if not alike or not torch.allclose(a, b, **TOLERANCES[a.dtype]):
                        self.assertEqual(b, a, **TOLERANCES[a.dtype])
                    with torch.no_grad():
                        b.copy_(a)

    @optims(
        [INFO],
        # One of each kind; the others are in the test after this one.
        dtypes=[torch.float32, torch.bfloat16, torch.complex64],
    )
    def test_foreach_matches_forloop(self, device, dtype, optim_info):
        # Small chunks, so that the last tensor is cut up and the others are gathered.
        with patch.dict(CHUNK_ELEMENTS, {"cpu": 1000, "default": 1000}):
            for x in optim_info.optim_inputs_func(device):
                with case(x.desc):
                    params = odd_tensors(device, dtype)
                    paths = [{**x.kwargs, "foreach": foreach} for foreach in (False, True)]
                    self.check_lockstep([params, copies(params)], deepcopy(paths))

    @optims([INFO])
    def test_foreach_matches_forloop_on_mixed_dtypes_and_devices(self, device, dtype, optim_info):
        dtypes = list(TOLERANCES)
        devices = ["cpu"] if device == "cpu" else ["cpu", device]
        for x in optim_info.optim_inputs_func("cpu"):
            if x.kwargs.get("capturable") and len(devices) > 1:
                continue  # its lr is on one device
            with case(x.desc):
                params = [torch.randn(2, 3, dtype=t, device=d).requires_grad_() for d in devices for t in dtypes]
                # One of each kind in turn, so that they have to be sorted.
                params = [*params, *copies(params)]
                paths = [{**x.kwargs, "foreach": foreach} for foreach in (False, True)]
                self.check_lockstep([params, copies(params)], deepcopy(paths))

    @optims([INFO])
    def test_foreach_matches_forloop_on_many_tensors(self, device, dtype, optim_info):
        params = [parameter(device, dtype, 1 + i % 7) for i in range(300)]
        paths = [{"foreach": foreach, "amsgrad": True, "weight_decay": 0.1} for foreach in (False, True)]
        self.check_lockstep([params, copies(params)], paths, steps=3)

    @optims([INFO], dtypes=[torch.float64, torch.bfloat16, torch.complex64])
    def test_differentiable_matches_forloop(self, device, dtype, optim_info):
        for x in optim_info.optim_inputs_func(device):
            with case(x.desc):
                leaves = odd_tensors(device, dtype)
                ours = copies(leaves)
                clones = [p.clone() for p in leaves]
                with_graph = AdaMomentum(clones, differentiable=True, **deepcopy(x.kwargs))
                without = AdaMomentum(ours, foreach=False, **deepcopy(x.kwargs))
                scale = torch.ones((), device=device, requires_grad=True)
                for _ in range(7):
                    set_random_gradients(ours, clones)
                    for q in clones:
                        q.grad = (q.grad * scale).to(dtype)
                    with_graph.step()
                    without.step()
                    for p, q in zip(ours, clones, strict=True):
                        # Nothing is set back in between: that would be a step of its own for autograd.
                        tolerance = {k: 20 * v for k, v in TOLERANCES[dtype].items()}
                        self.assertEqual(q.detach(), p.detach(), **tolerance)
                # The way back goes through all steps, to the first parameters and to every gradient.
                torch.stack([q.abs().sum().double() for q in clones]).sum().backward()
                for leaf in (*leaves, scale):
                    self.assertTrue(leaf.grad.isfinite().all())

    @optims([INFO])
    def test_path_taken(self, device, dtype, optim_info):
        class Sub(Tensor):
            pass

        def path_of(p: Tensor, **kwargs) -> str:
            p.grad = torch.ones_like(p)
            foreach, fused = adamomentum.torch.foreach.foreach_update, adamomentum.torch.fused_cpu.run
            with (
                patch("adamomentum.torch.functional.foreach_update", side_effect=foreach) as foreach_spy,
                patch("adamomentum.torch.fused_cpu.run", side_effect=fused) as fused_spy,
            ):
                AdaMomentum([p], **kwargs).step()
            return "foreach" if foreach_spy.called else "fused" if fused_spy.called else "for-loop"

        plain, fastest = parameter(device, dtype), "foreach"
        if device == "cpu" and adamomentum.torch.fused_cpu.why_not() is None:
            fastest = "fused"
        self.assertEqual(path_of(plain), fastest)
        self.assertEqual(path_of(plain.detach()), fastest)
        self.assertEqual(path_of(plain, foreach=True), "foreach")
        self.assertEqual(path_of(plain, fused=False), "foreach")
        self.assertEqual(path_of(plain, foreach=False), "for-loop")
        self.assertEqual(path_of(plain.clone(), differentiable=True), "for-loop")
        self.assertEqual(path_of(plain.detach().as_subclass(Sub)), "for-loop")

    @optims([INFO], dtypes=[torch.float32, torch.bfloat16])
    def test_foreach_peak_memory(self, device, dtype, optim_info):
        limit, key = 2**14, "cpu" if torch.device(device).type == "cpu" else "default"
        # Chunks of one large tensor, and chunks gathered from many small ones; float32 states.
        shapes = [(16 * limit,), *[(limit // 8,)] * 64]
        total = 4 * sum(shape[0] for shape in shapes)
        for desc, kwargs in INPUTS.items():
            with case(desc):
                params = [parameter(device, dtype, *shape) for shape in shapes]
                for p in params:
                    p.grad = torch.randn_like(p)
                optimizer = AdaMomentum(params, foreach=True, **kwargs)
                optimizer.step()  # creates the state
                # A copy of the parameters where their dtype is not the state's; then the denominator or, earlier, the
                # gradients before and after a change: conversion, maximize, L2 decay.
                converted = dtype == torch.bfloat16 or "state_dtype" in kwargs
                l2 = not kwargs.get("decoupled_weight_decay", True)
                held = converted + max(1, min(2, converted + kwargs.get("maximize", False) + l2))
                held += kwargs.get("nesterov", False)  # the look-ahead momentum beside the denominator
                held *= 2 if "state_dtype" in kwargs else 1  # in float64
                held += 2 * kwargs.get("capturable", False)  # products and quotients by tensors are new tensors
                small_numbers = 512 * 40 * len(params) if kwargs.get("capturable") else 2**12
                with patch.dict(CHUNK_ELEMENTS, {key: limit}):
                    chunked = peak_bytes(optimizer.step, torch.device(device))
                with patch.dict(CHUNK_ELEMENTS, {key: 2**60}):
                    whole = peak_bytes(optimizer.step, torch.device(device))
                self.assertLessEqual(chunked, held * 4 * limit + small_numbers)
                # Otherwise the bound above would hold whatever the optimizer does.
                self.assertGreaterEqual(whole, total)

    # ---- no gradient, or none to speak of ----

    @optims([INFO])
    def test_nothing_happens_without_gradients(self, device, dtype, optim_info):
        for desc, kwargs in configs(device):
            with case(desc):
                params = [torch.randn(2, 3, device=device, dtype=dtype) for _ in range(2)]
                before = copies(params)
                optimizer = AdaMomentum(params, **kwargs)
                self.assertEqual(optimizer.step(lambda: 3.5), 3.5)
                self.assertEqual(params, before, rtol=0, atol=0)
                self.assertEqual(len(optimizer.state), 0)

    @optims([INFO])
    def test_zero_gradients(self, device, dtype, optim_info):
        for desc, kwargs in configs(device):
            with case(desc):
                p = parameter(device, dtype, 5, 1)
                p.grad = torch.zeros_like(p)
                before = p.detach().clone()
                [stepped] = steppable([p], kwargs)
                optimizer = AdaMomentum([stepped], **kwargs)
                for _ in range(3):
                    optimizer.step()
                decay = kwargs.get("weight_decay", 0)
                self.assertTrue(stepped.isfinite().all())
                if not decay:
                    self.assertEqual(stepped.detach(), before, rtol=0, atol=0)
                elif kwargs.get("decoupled_weight_decay", True):  # decay goes on without gradients, as in AdamW
                    lr = 1 if kwargs.get("fixed_decay") else float(kwargs.get("lr", 1e-3))
                    self.assertEqual(stepped.detach(), before * (1 - lr * decay) ** 3)
                else:  # L2 decay is a gradient, and pulls towards 0, or with maximize as Adam does away from it
                    moved = (stepped.detach() - before) * before.sign()
                    self.assertTrue((moved < 0).all() if not kwargs.get("maximize") else (moved != 0).all())

    @optims([INFO])
    def test_parameters_without_gradient_are_left_out(self, device, dtype, optim_info):
        for desc, kwargs in configs(device):
            with case(desc):
                params = steppable([parameter(device, dtype) for _ in range(3)], kwargs)
                before = [p.detach().clone() for p in params]
                optimizer = AdaMomentum(params, **kwargs)
                for _ in range(2):
                    params[1].grad = torch.randn_like(params[1])
                    optimizer.step()
                for i in (0, 2):
                    self.assertEqual(params[i].detach(), before[i], rtol=0, atol=0)
                    self.assertNotIn(params[i], optimizer.state)
                self.assertEqual(optimizer.state[params[1]]["step"].item(), 2)

    @optims([INFO], dtypes=[torch.float32, torch.bfloat16, torch.complex64])
    def test_gradients_are_never_written(self, device, dtype, optim_info):
        for desc, kwargs in configs(device):
            with case(desc):
                params = steppable([p.detach() for p in odd_tensors(device, dtype)], kwargs)
                optimizer = AdaMomentum(params, **kwargs)
                for _ in range(7):
                    set_random_gradients(params)
                    grads = [p.grad for p in params]
                    kept = [(g.clone(), g._version, g.data_ptr()) for g in grads]
                    optimizer.step()
                    for p, grad, (values, version, address) in zip(params, grads, kept, strict=True):
                        self.assertIs(p.grad, grad)
                        self.assertTrue(torch.equal(grad, values))
                        self.assertEqual((grad._version, grad.data_ptr()), (version, address))

    @optims([INFO])
    def test_closure(self, device, dtype, optim_info):
        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                problem = Regression(device, dtype)
                other = deepcopy(problem)
                optimizer, other_optimizer = AdaMomentum(problem.params, **kwargs), AdaMomentum(other.params, **kwargs)
                for _ in range(3):
                    with torch.no_grad():  # the closure turns gradients on for itself
                        loss = optimizer.step(problem.closure)
                    other_loss = other.closure()
                    self.assertIsNone(other_optimizer.step())
                    self.assertEqual(loss, other_loss, rtol=0, atol=0)
                self.assertEqual(problem.params, other.params, rtol=0, atol=0)

    # ---- state ----

    @optims([INFO])
    def test_state_is_not_empty_after_a_step(self, device, dtype, optim_info):
        for desc, kwargs in configs(device):
            with case(desc):
                params = [parameter(device, dtype)]
                set_random_gradients(params)
                [p] = steppable(params, kwargs)
                optimizer = AdaMomentum([p], **kwargs)
                optimizer.step()
                keys = ["step", "exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * kwargs.get("amsgrad", False)]
                self.assertEqual(list(optimizer.state[p]), keys)
                for key in keys[1:]:
                    self.assertEqual(optimizer.state[p][key].shape, p.shape)

    @optims([INFO], dtypes=[torch.float64, torch.float32])
    def test_default_dtype_changes_nothing(self, device, dtype, optim_info):
        # PyTorch's optimizers count steps in float32, in float64 if that is the default dtype. Here it is float64
        # always: float32 counts to 2^24 alone, and a checkpoint does not depend on a global setting.
        for default_dtype in (torch.float64, torch.float16):
            for desc, kwargs in configs(device, skip=["differentiable"]):
                with case(desc):
                    p = parameter(device, dtype)
                    [q] = copies([p])
                    grads = [torch.randn_like(p) for _ in range(7)]
                    one = AdaMomentum([p], **deepcopy(kwargs))
                    for p.grad in grads:
                        one.step()
                    before = torch.get_default_dtype()
                    torch.set_default_dtype(default_dtype)
                    try:
                        two = AdaMomentum([q], **deepcopy(kwargs))
                        for q.grad in grads:
                            two.step()
                    finally:
                        torch.set_default_dtype(before)
                    self.assertEqual(two.state[q]["step"].dtype, torch.float64)
                    self.assertEqual(p, q, rtol=0, atol=0)
                    self.assertEqual(one.state[p], two.state[q], rtol=0, atol=0)

    @optims([INFO])
    def test_training_resumes_from_a_state_dict(self, device, dtype, optim_info):
        def without_names(state_dict: dict) -> dict:
            groups = [{k: v for k, v in g.items() if k != "param_names"} for g in state_dict["param_groups"]]
            return {**state_dict, "param_groups": groups}

        # Names have nothing to do with the options: each input meets one combination.
        named = cycle(product((True, False), repeat=2))
        for (desc, kwargs), (first_named, second_named) in zip(
            configs(device, skip=["differentiable"]), named, strict=False
        ):
            with case(f"{desc}, names {first_named} and {second_named}"):
                problem = Regression(device, dtype)
                optimizer = AdaMomentum(problem.named(first_named), **deepcopy(kwargs))
                for _ in range(7):
                    optimizer.step(problem.closure)

                other = deepcopy(problem)
                other_optimizer = AdaMomentum(other.named(second_named), **deepcopy(kwargs))
                saved = deepcopy(optimizer.state_dict())
                before = deepcopy(saved)
                other_optimizer.load_state_dict(saved)
                names = [group.get("param_names") for group in other_optimizer.state_dict()["param_groups"]]
                self.assertEqual(names, [["weight", "bias"] if first_named or second_named else None])

                for _ in range(7):
                    optimizer.step(problem.closure)
                    other_optimizer.step(other.closure)
                self.assertEqual(problem.params, other.params, rtol=0, atol=0)
                self.assertEqual(saved, before, rtol=0, atol=0)  # what was loaded is a copy
                states = [without_names(opt.state_dict()) for opt in (optimizer, other_optimizer)]
                self.assertEqual(*states, rtol=0, atol=0)
                # A parameter that comes twice is numbered once.
                other_optimizer.param_groups.extend(other_optimizer.param_groups)
                self.assertEqual(
                    without_names(other_optimizer.state_dict())["param_groups"][-1], states[0]["param_groups"][-1]
                )

    @parametrize("weights_only", [True, False])
    @optims([INFO], dtypes=[torch.float32, torch.bfloat16, torch.complex64])
    def test_state_dict_survives_a_file(self, device, dtype, optim_info, weights_only):
        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                params = [parameter(device, dtype), parameter(device, dtype, 4)]
                optimizer = AdaMomentum([("a", params[0]), ("b", params[1])], **deepcopy(kwargs))
                for _ in range(3):
                    set_random_gradients(params)
                    optimizer.step()
                file = io.BytesIO()
                torch.save(optimizer.state_dict(), file)
                file.seek(0)
                loaded = torch.load(file, weights_only=weights_only)
                self.assertEqual(loaded, optimizer.state_dict(), rtol=0, atol=0)

                others = copies(params)
                other_optimizer = AdaMomentum(others)
                other_optimizer.load_state_dict(loaded)
                for _ in range(3):
                    set_random_gradients(params, others)
                    optimizer.step()
                    other_optimizer.step()
                self.assertEqual(params, others, rtol=0, atol=0)

    @optims([INFO])
    def test_older_state_dicts_load(self, device, dtype, optim_info):
        # An option that a state dict lacks did not exist when it was saved, so it takes its default. Only without
        # full_bias_correction, which no other optimizer has, it is refused: Adam's dicts fit in every key and would be
        # silently wrong in scale.
        defaults = AdaMomentum([parameter(device, dtype)]).defaults
        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                problem = Regression(device, dtype)
                optimizer = AdaMomentum(problem.params, **kwargs)
                for _ in range(3):
                    optimizer.step(problem.closure)
                old = deepcopy(optimizer.state_dict())
                for name in optim_info.not_og_supported_flags:
                    if old["param_groups"][0][name] == defaults[name]:
                        del old["param_groups"][0][name]
                other = deepcopy(problem)
                other_optimizer = AdaMomentum(other.params, **deepcopy(kwargs))
                other_optimizer.load_state_dict(old)
                for _ in range(3):
                    optimizer.step(problem.closure)
                    other_optimizer.step(other.closure)
                self.assertEqual(problem.params, other.params, rtol=0, atol=0)

                del old["param_groups"][0]["full_bias_correction"]
                with self.assertRaisesRegex(ValueError, "not written by AdaMomentum"):
                    other_optimizer.load_state_dict(old)

    @optims([INFO])
    def test_state_dict_without_state_starts_anew(self, device, dtype, optim_info):
        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                problem = Regression(device, dtype)
                other = deepcopy(problem)
                optimizer = AdaMomentum(problem.params, **deepcopy(kwargs))
                fresh = deepcopy(optimizer.state_dict())
                other_optimizer = AdaMomentum(other.params)
                before = copies(other.params)
                other_optimizer.step(other.closure)
                with torch.no_grad():
                    for p, value in zip(other.params, before, strict=True):
                        p.copy_(value)
                other_optimizer.load_state_dict(fresh)
                self.assertEqual(len(other_optimizer.state), 0)
                for _ in range(3):
                    optimizer.step(problem.closure)
                    other_optimizer.step(other.closure)
                self.assertEqual(problem.params, other.params, rtol=0, atol=0)

    @optims([INFO])
    def test_step_saved_as_a_number(self, device, dtype, optim_info):
        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                problem = Regression(device, dtype)
                optimizer = AdaMomentum(problem.params, **kwargs)
                for _ in range(3):
                    optimizer.step(problem.closure)
                expected = optimizer.state_dict()
                saved = deepcopy(expected)
                for state in saved["state"].values():
                    state["step"] = state["step"].item()
                optimizer.load_state_dict(saved)
                self.assertEqual(optimizer.state_dict(), expected, rtol=0, atol=0)
                optimizer.step(problem.closure)
                self.assertEqual(optimizer.state[problem.weight]["step"].item(), 4)

    @optims([INFO])
    def test_device_of_step(self, device, dtype, optim_info):
        for saved_capturable in (False, True):
            for loaded_capturable in (False, True):
                params = [parameter(device, dtype)]
                set_random_gradients(params)
                optimizer = AdaMomentum(params, capturable=saved_capturable)
                optimizer.step()
                where = device if saved_capturable else "cpu"
                self.assertEqual(optimizer.state[params[0]]["step"].device.type, torch.device(where).type)

                state_dict = deepcopy(optimizer.state_dict())
                state_dict["state"][0] = {k: v.cpu() for k, v in state_dict["state"][0].items()}  # map_location="cpu"
                state_dict["param_groups"][0]["capturable"] = loaded_capturable
                optimizer.load_state_dict(state_dict)
                where = device if loaded_capturable else "cpu"
                self.assertEqual(optimizer.state[params[0]]["step"].device.type, torch.device(where).type)
                self.assertEqual(optimizer.state[params[0]]["exp_avg"].device, params[0].device)
                optimizer.step()
                self.assertEqual(optimizer.state[params[0]]["step"].item(), 2)

    @onlyCUDA
    @optims([INFO])
    def test_state_moves_to_the_device_of_its_parameters(self, device, dtype, optim_info):
        for desc, kwargs in configs("cpu", skip=["differentiable"]):
            if kwargs.get("capturable"):
                continue  # its lr is on the CPU
            with case(desc):
                params = [parameter("cpu", dtype) for _ in range(2)]
                optimizer = AdaMomentum(params, **deepcopy(kwargs))
                for _ in range(3):
                    set_random_gradients(params)
                    optimizer.step()
                moved = [p.detach().to(device) for p in params]
                moved_optimizer = AdaMomentum(moved, **deepcopy(kwargs))
                state_dict = deepcopy(optimizer.state_dict())
                moved_optimizer.load_state_dict(state_dict)
                self.assertEqual(state_dict, optimizer.state_dict(), rtol=0, atol=0)
                for _ in range(5):
                    set_random_gradients(params, moved)
                    optimizer.step()
                    moved_optimizer.step()
                    for p, q in zip(params, moved, strict=True):
                        self.assertEqual(p.detach(), q.cpu(), rtol=1e-5, atol=1e-6)

    @parametrize("via", ["deepcopy", "pickle"])
    @optims([INFO])
    def test_copies_train_on_equally(self, device, dtype, optim_info, via):
        for desc, kwargs in configs(device, skip=["differentiable"]):
            with case(desc):
                params = [parameter(device, dtype), parameter(device, dtype, 4)]
                optimizer = AdaMomentum(params, **kwargs)
                for _ in range(3):
                    set_random_gradients(params)
                    optimizer.step()
                # Hooks are not part of a copy, and the parameters in it are its own.
                copy = deepcopy(optimizer) if via == "deepcopy" else pickle.loads(pickle.dumps(optimizer))

                def public(x):
                    return {name for name in vars(x) if not name.startswith("_")}

                self.assertEqual(public(copy), public(optimizer))
                others = copy.param_groups[0]["params"]
                self.assertFalse({id(p) for p in others} & {id(p) for p in params})
                self.assertEqual(copy.state_dict(), optimizer.state_dict(), rtol=0, atol=0)
                for _ in range(3):
                    set_random_gradients(params, others)
                    optimizer.step()
                    copy.step()
                self.assertEqual(params, others, rtol=0, atol=0)
                self.assertEqual(copy.state_dict(), optimizer.state_dict(), rtol=0, atol=0)

    # ---- hooks ----

    @optims([INFO])
    def test_step_hooks(self, device, dtype, optim_info):
        for desc, kwargs in configs(device):
            with case(desc):
                calls = []

                def count(optimizer) -> int:
                    return int(next(iter(optimizer.state.values()))["step"]) if optimizer.state else 0

                def hook(name):
                    return lambda optimizer, args, kwargs: calls.append((name, count(optimizer)))  # noqa: B023

                params = [parameter(device, dtype)]
                set_random_gradients(params)
                optimizer = AdaMomentum(steppable(params, kwargs), **kwargs)
                handles = [
                    register_optimizer_step_pre_hook(hook("global pre")),
                    register_optimizer_step_post_hook(hook("global post")),
                    optimizer.register_step_pre_hook(hook("first pre")),
                    optimizer.register_step_pre_hook(hook("second pre")),
                    optimizer.register_step_post_hook(hook("first post")),
                    optimizer.register_step_post_hook(hook("second post")),
                ]
                try:
                    optimizer.step()
                    befores = ["global pre", "first pre", "second pre"]
                    afters = ["first post", "second post", "global post"]
                    self.assertEqual(calls, [(name, 0) for name in befores] + [(name, 1) for name in afters])
                finally:
                    for handle in handles:
                        handle.remove()
                calls.clear()
                optimizer.step()
                self.assertEqual(calls, [])

    @optims([INFO])
    def test_a_step_hook_may_change_options(self, device, dtype, optim_info):
        p = parameter(device, dtype)
        p.grad = torch.ones_like(p)
        before = p.detach().clone()
        optimizer = AdaMomentum([p], full_bias_correction=True)
        optimizer.register_step_pre_hook(lambda opt, args, kwargs: opt.param_groups[0].update(lr=0.5))
        optimizer.step()
        self.assertEqual(p.detach(), before - 0.5)
        optimizer.register_step_pre_hook(lambda opt, args, kwargs: opt.param_groups[0].update(lr=float("nan")))
        with self.assertRaisesRegex(ValueError, "lr must be >= 0 and finite, got nan"):
            optimizer.step()
        self.assertEqual(p.detach(), before - 0.5)

    @optims([INFO])
    def test_state_dict_hooks(self, device, dtype, optim_info):
        for desc, kwargs in configs(device):
            with case(desc):
                calls = []
                optimizer = AdaMomentum([torch.rand(2, 3, device=device, dtype=dtype)], **kwargs)
                optimizer.register_state_dict_pre_hook(lambda opt: calls.append("pre"))  # noqa: B023
                optimizer.register_state_dict_pre_hook(lambda opt: calls.append("prepended pre"), prepend=True)  # noqa: B023

                def add(opt, state_dict):
                    calls.append("post")  # noqa: B023
                    state_dict["epoch"] = 3

                def replace(opt, state_dict):
                    calls.append("prepended post")  # noqa: B023
                    return {**state_dict, "replaced": True}

                optimizer.register_state_dict_post_hook(add)
                optimizer.register_state_dict_post_hook(replace, prepend=True)
                state_dict = optimizer.state_dict()
                self.assertEqual(calls, ["prepended pre", "pre", "prepended post", "post"])
                self.assertEqual(set(state_dict), {"state", "param_groups", "replaced", "epoch"})

    @optims([INFO])
    def test_load_state_dict_hooks(self, device, dtype, optim_info):
        for desc, kwargs in configs(device):
            with case(desc):
                calls = []
                optimizer = AdaMomentum([torch.rand(2, 3, device=device, dtype=dtype)], **kwargs)
                state_dict = optimizer.state_dict()

                def in_place(opt, loaded):
                    calls.append("in place")  # noqa: B023
                    loaded["param_groups"][0]["lr"] = 0.002

                def replacing(opt, loaded):
                    calls.append("replacing")  # noqa: B023
                    loaded = deepcopy(loaded)
                    loaded["param_groups"][0]["lr"] = 0.003
                    return loaded

                def after(opt):
                    calls.append(("after", opt.param_groups[0]["lr"]))  # noqa: B023

                optimizer.register_load_state_dict_pre_hook(in_place)
                optimizer.register_load_state_dict_post_hook(after)
                optimizer.load_state_dict(state_dict)
                self.assertEqual(calls, ["in place", ("after", 0.002)])

                calls.clear()
                handle = optimizer.register_load_state_dict_pre_hook(replacing)
                optimizer.load_state_dict(state_dict)
                self.assertEqual(calls, ["in place", "replacing", ("after", 0.003)])

                calls.clear()
                handle.remove()
                optimizer.register_load_state_dict_pre_hook(replacing, prepend=True)
                optimizer.load_state_dict(state_dict)
                self.assertEqual(calls, ["replacing", "in place", ("after", 0.002)])

                # What a hook leaves is checked like any state dict, and refused before anything changes.
                def spoiling(opt, loaded):
                    loaded["param_groups"][0]["lr"] = -1.0

                calls.clear()
                optimizer.register_load_state_dict_pre_hook(spoiling)
                with self.assertRaisesRegex(ValueError, "lr must be >= 0"):
                    optimizer.load_state_dict(deepcopy(state_dict))
                self.assertEqual(calls, ["replacing", "in place"])
                self.assertEqual(optimizer.param_groups[0]["lr"], 0.002)

    @optims([INFO])
    def test_subclass(self, device, dtype, optim_info):
        class Counting(AdaMomentum):
            steps = 0

            def step(self, closure=None):
                self.steps += 1
                return super().step(closure)

        problem = Regression(device, dtype)
        other = deepcopy(problem)
        ours, plain = Counting(problem.params, amsgrad=True), AdaMomentum(other.params, amsgrad=True)
        for _ in range(3):
            ours.step(problem.closure)
            plain.step(other.closure)
        self.assertEqual(ours.steps, 3)
        self.assertEqual(list(chain(*ours.state.values())), list(chain(*plain.state.values())))
        self.assertEqual(problem.params, other.params, rtol=0, atol=0)


instantiate_device_type_tests(TestGeneric, globals(), only_for=("cpu", "cuda"))
